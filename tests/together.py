"""Train a float64 model as one of several processes; a program for tests/model/test_processes.py.

torchrun --nproc-per-node N together.py FOLDER ACCUMULATE [seconds per step]
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from tiny import tiny_examples, tiny_reader

from helpers.model import features, step, training
from helpers.model.compute import Compute


def main(folder: Path, accumulate: int, pause: float = 0.0) -> None:
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    values = {"accumulate": accumulate, "devices": world, "epochs": 3, "learning_rate": 1e-3}
    reader = tiny_reader(1, **values)
    reader = replace(reader, model=reader.model.double(), compute=Compute(devices=world))
    windows = reader.windows(tiny_examples(21), training=True)  # 21 = 5 × 4 + 1
    step.round = lambda value, digits: value  # keep all digits of the losses
    training.gather = lambda *part: (time.sleep(pause), features.gather(*part))[1]
    folder.mkdir(exist_ok=True)
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    before, history = training.fit(reader, windows, folder, progress=False)
    if rank == 0:
        torch.save(reader.model.state_dict(), folder / "state.pt")
        (folder / "history.json").write_text(json.dumps([before, [row[1] for row in history]]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:]))
