"""The BioMegatron BioASQ kit: from BioASQ files to a scored extractive QA model.

Importing the package is cheap on purpose: no torch and no NeMo. Each module imports only from its
own folder and from those below it in README's table of rooms.
"""

import os

# Otherwise huggingface_hub reports its use to the hub. The kit opens no unexpected connection.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
