"""The generator of BioASQ-mini: facts, sentence patterns, and what makes files of them."""
