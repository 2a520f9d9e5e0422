"""The BioASQ-mini generator: facts, sentence patterns, and the code that writes the files."""
