"""One of several processes that train or predict together, started by ``processes``."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from helpers.config import InputError, from_parameters
from helpers.model import checkpoints, processes, training
from helpers.model.decoding import compute_logits


def main(job: Path) -> None:
    """Do this process's share of the job in the folder ``job``."""
    facts = json.loads((job / "job.json").read_text(encoding="utf-8"))
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])  # set by the launcher
    threading.Thread(target=_end_with, args=(facts["parent"],), daemon=True).start()
    try:
        settings = from_parameters(**facts["settings"])
        reader = checkpoints.load(job / "start.nemo", settings)
        windows = processes.read_windows(job)
        if facts["task"] == "train":
            dev = processes.read_dev(job)
            before, _ = training.fit(reader, windows, Path(facts["folder"]), False, dev)
            processes.report(job, rank, before=before)
        else:
            low, high = (len(windows) * part // world for part in (rank, rank + 1))
            logits = compute_logits(reader.model, windows.part(low, high), compute=reader.compute)
            np.save(Path(facts["folder"]) / f"logits-{rank:04d}.npy", logits)
            processes.report(job, rank)
    except InputError as error:
        processes.report_error(job, error)
        sys.exit(2)


def _end_with(parent: int) -> None:
    """Exit as soon as the process that started the launcher has ended."""
    while psutil.pid_exists(parent):
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
