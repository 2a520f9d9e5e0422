"""What a workshop needs besides the notebooks: exercise notebooks, a website, an offline bundle."""
