"""The BioMegatron BioASQ kit: from BioASQ files to a scored extractive QA model.

Importing the package is fast, because it imports neither torch nor NeMo. Each module imports only
modules in its own row or lower rows of the README's table of folders and modules.
"""

import os

# Without this, huggingface_hub sends usage data to the hub. The kit opens no unexpected
# connections.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
