"""Training and prediction with several processes, one per device.

``run`` writes a job (model, settings and windows) into a folder, starts ``helpers.model.worker``
with PyTorch's launcher ``torch.distributed.run`` (torchrun), and waits. This works in scripts and
in notebooks, whose kernel keeps running even if the processes crash. If one of the processes is
killed, the launcher stops the others. All of them also stop if the process that called ``run``
ends.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np

from helpers.config import InputError
from helpers.data.spans import Span
from helpers.data.squad import Example
from helpers.io import write_json, write_text
from helpers.model.compute import Compute
from helpers.model.features import Windows

LOG = "processes.log"  # contains everything that the processes print
_ARRAYS = [field.name for field in fields(Windows) if field.name != "detokenizers"]


def run(
    task: str, reader, windows: Windows, folder: Path, show: Callable[[], None],
    dev: Sequence[Example] = (),
) -> list[dict]:  # fmt: skip
    """Run ``task`` ("train" or "predict") on all devices, and return the report of each process.

    ``reader`` is a ``decoding.Reader`` whose ``compute`` specifies the number of devices. We call
    ``show`` several times per second to update a progress bar. ``dev`` contains the held-out
    questions to evaluate on during training. Raise ``InputError`` if a process fails, with its
    message or, if it has none, with the path of the log.
    """
    from helpers.model import qa_model

    qa_model.quiet_nemo()
    compute: Compute = reader.compute
    settings = replace(
        reader.settings, device=compute.device.partition(":")[0], precision=compute.precision
    )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".job-") as name:
        job = Path(name)
        np.savez(job / "windows.npz", **{name: getattr(windows, name) for name in _ARRAYS})
        qa_model.save_nemo(reader.model, reader.tokenizer, job / "start.nemo", reader.origin)
        write_json(job / "dev.json", [asdict(example) for example in dev])
        facts = {"task": task, "settings": asdict(settings), "parent": os.getpid()}
        write_json(job / "job.json", facts | {"folder": str(folder.resolve())})
        code = _launch(job, folder / LOG, compute, show)
        if (job / "error.txt").exists():
            raise InputError((job / "error.txt").read_text(encoding="utf-8"))
        found = sorted(job.glob("result-*.json"))
        if code or len(found) != compute.devices:
            raise InputError(
                f"devices: one of the {compute.devices} processes stopped "
                f"({_reason(folder / LOG)}); see {(folder / LOG).resolve()}; "
                "resume the training to continue"
            )
        return [json.loads(path.read_text(encoding="utf-8")) for path in found]


def _launch(job: Path, log: Path, compute: Compute, show: Callable[[], None]) -> int:
    """Start the processes, wait for them, and return the launcher's exit status."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(compute.devices), "-m", "helpers.model.worker", str(job)]
    environment = dict(os.environ)
    if compute.device == "cpu":  # the launcher would give each process a single thread
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // compute.devices))
    with log.open("wb") as out:
        # Ctrl-C reaches only this process, which then stops the launcher cleanly.
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            while process.poll() is None:
                show()
                time.sleep(0.2)
        finally:
            process.terminate()
            process.wait()
    show()
    return process.returncode


def _reason(log: Path) -> str:
    """Return the first line of the log that reports an exception or a signal."""
    text = log.read_text(encoding="utf-8", errors="replace")
    found = re.search(
        r"^([\w.]+(Error|Exception|Type): .*)|Signal \d+ \(\w+\) received", text, re.M
    )
    return found[0][:200] if found else "without an error message"


def read_windows(job: Path) -> Windows:
    """Read the windows of a job, which have no detokenizers."""
    with np.load(job / "windows.npz") as arrays:
        return Windows(**{name: arrays[name] for name in _ARRAYS}, detokenizers=())


def read_dev(job: Path) -> list[Example]:
    """Read the held-out questions of a job."""
    rows = json.loads((job / "dev.json").read_text(encoding="utf-8"))
    return [Example(**{**row, "spans": tuple(Span(**s) for s in row["spans"])}) for row in rows]


def report(job: Path, rank: int, **facts) -> None:
    """Write the result of one process for ``run``."""
    write_json(job / f"result-{rank:04d}.json", facts)


def report_error(job: Path, error: InputError) -> None:
    """Write an error message for ``run``; all failing processes write the same message."""
    write_text(job / "error.txt", str(error))
