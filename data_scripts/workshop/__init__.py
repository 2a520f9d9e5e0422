"""Workshop material in addition to the notebooks: exercises, a website, an offline bundle."""
