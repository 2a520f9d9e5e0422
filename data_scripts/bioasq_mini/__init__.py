"""The generator of BioASQ-mini: facts, sentence patterns, and the code that makes files of them."""
