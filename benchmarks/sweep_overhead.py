"""Compare the time of a sweep with the time that papermill needs for its notebooks.

    python benchmarks/sweep_overhead.py [--runs 8] [--until 05] [--output DIR]

The sweep executes the profile mini, one run at a time and each run with another seed, so that no
run takes over results from another one. papermill records the time of each notebook, with the start
of its kernel. We subtract their sum from the time of the whole sweep. What remains is the start of
the workers, the checks before and after each notebook, the pages, and everything else outside
papermill. Both times are of the same notebooks, so a changing load of the machine distorts the
difference less than it would distort the difference of two separate executions.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import common

from helpers import batch
from helpers.data.bioasq import read_json
from helpers.sweeps import notebooks, plan


def measure(runs: int, until: str, folder: Path) -> tuple[float, float]:
    """Execute a sweep in ``folder``; return papermill's seconds and those of the whole sweep."""
    data = {"name": "sweep", "until": until, "grid": {"seed": list(range(runs))}}
    planned = plan.make_sweep(data, str(folder))
    started = time.perf_counter()
    batch.sweep(planned, jobs=1)
    whole = time.perf_counter() - started
    executed = [path for run in planned.runs for path in run.folder.glob("notebooks/*.ipynb")]
    inside = [read_json(path)["metadata"]["papermill"]["duration"] for path in executed]
    return sum(inside), whole


def run(parsed) -> None:
    rows = [{"name": name, "work": parsed.runs, "precision": "32", "seconds": []}
            for name in ("papermill", "sweep")]  # fmt: skip
    for _ in range(parsed.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            for row, seconds in zip(
                rows, measure(parsed.runs, parsed.until, Path(scratch)), strict=True
            ):
                row["seconds"].append(seconds)
    factor = [s / p for p, s in zip(rows[0]["seconds"], rows[1]["seconds"], strict=True)]
    notes = [f"{parsed.runs} runs of the notebooks up to {parsed.until}, one at a time"]
    common.report(parsed, unit="run", data="BioASQ-mini, snippets", rows=rows,
                  figures={"time relative to papermill alone": factor}, notes=notes)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.options(__file__, __doc__, rounds=1, bioasq_dir=False)
    parser.add_argument("--runs", type=int, default=8, metavar="N", help="runs (default: 8)")
    numbers = [path.stem[:2] for path in notebooks.notebooks()]
    parser.add_argument("--until", default=numbers[-1], choices=numbers,
                        help="the last notebook (default: 05)")  # fmt: skip
    return common.call(run, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
