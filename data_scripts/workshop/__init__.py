"""What a workshop needs besides the notebooks: exercise notebooks and an nbgrader course."""
