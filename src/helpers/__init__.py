"""The BioMegatron BioASQ kit: from BioASQ files to a scored extractive QA model.

Importing the package is fast, because it imports neither torch nor NeMo. Each module imports only
from its own folder and from folders below it in the README's table of rooms.
"""

import os

# Otherwise, huggingface_hub reports its use to the hub. The kit opens no unexpected connections.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
