"""The BioMegatron BioASQ kit: from BioASQ files to a scored extractive QA model.

Importing the package is cheap on purpose: no torch, no NeMo, no side effect. Each module imports
only from its own folder and from those below it in README's table of rooms.
"""

__version__ = "0.1.0"
