"""The BioMegatron BioASQ kit: from BioASQ files to a scored extractive QA model.

Importing the package is cheap on purpose: no torch, no NeMo, no side effect. Each module imports
only from the modules above it in the README's map.
"""

__version__ = "0.1.0"
