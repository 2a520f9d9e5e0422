"""What the profile ``mini`` computed when its packages were pinned: windows, logits and scores.

    python tests/reference_mini.py RUN_FOLDER

This writes tests/reference_mini.json from a finished run with seed 0 in float32. test_notebooks.py
compares its own run with the file. If a number moves, find out why before you write a new file.
"""

import hashlib
import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

from helpers.config import from_parameters
from helpers.data import squad
from helpers.fetch import fetch
from helpers.model import checkpoints
from helpers.model.decoding import compute_logits
from helpers.run.provenance import PACKAGES

FILE = Path(__file__).with_suffix(".json")
SHOWN = 8  # logits that the file lists; the others count in their means


def measure(run: Path) -> dict:
    """Return the training windows, the logits before training, and the scores of a run."""
    settings = from_parameters("mini", device="cpu", precision="32")
    reader = checkpoints.load(fetch.fetch(settings.model).folder, settings)
    windows = reader.windows(squad.read_squad(run / "squad" / "train.json"), training=True)
    digest = hashlib.sha256()
    for name in ("ids", "token_types", "positions", "bounds", "start", "end"):
        digest.update(np.ascontiguousarray(getattr(windows, name), "<i8").tobytes())
    logits = compute_logits(reader.model, windows).astype(np.float64)
    scores = json.loads((run / "scores.json").read_text())
    return {
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "windows": {"number": len(windows), "sha256": digest.hexdigest()},
        "logits": {
            "first": logits[:SHOWN].round(6).tolist(),
            "mean": logits.mean(0).round(6).tolist(),
            "deviation": logits.std(0).round(6).tolist(),
        },
        "scores": {name: scores["pooled"][name] for name in ("ceiling", "sacc", "lacc", "mrr")},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(measure(Path(sys.argv[1])), indent=1) + "\n")
