"""What a teacher needs besides the notebooks: a website and a bundle for rooms without network."""
