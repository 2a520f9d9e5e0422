"""Compare the time of a sweep with that of the same notebooks executed by papermill alone.

    python benchmarks/sweep_overhead.py [--runs 8] [--until 05] [--output DIR]

Both execute the notebooks of the profile mini, one run at a time and each run with its own seed, so
that no run takes over results from another one. The time of the sweep includes the start of its
workers, the checks before and after each run, and its page.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import common
import papermill

from helpers import batch
from helpers.sweeps import notebooks, plan


def fields(parsed, folder: Path, name: str) -> plan.Sweep:
    """Return the sweep that both methods execute."""
    data = {"name": name, "until": parsed.until, "grid": {"seed": list(range(parsed.runs))}}
    return plan.make_sweep(data, str(folder))


def bare(parsed, folder: Path) -> None:
    """Execute the notebooks of all runs with papermill, each in a kernel of its own."""
    for run in fields(parsed, folder, "bare").runs:
        for path in notebooks.notebooks():
            if path.stem[:2] > parsed.until:
                break
            output = run.folder / "notebooks" / path.name
            output.parent.mkdir(parents=True, exist_ok=True)
            given = notebooks._for_notebooks(run.settings, run.parameters)
            with notebooks.own_kernel(output.with_name("kernel.log")) as arguments:
                papermill.execute_notebook(
                    str(path), str(output), given, cwd=str(Path.cwd()), kernel_name="python3",
                    progress_bar=False, **arguments,
                )  # fmt: skip


def run(parsed) -> None:
    rows = [{"name": name, "work": parsed.runs, "precision": "32", "seconds": []}
            for name in ("papermill", "sweep")]  # fmt: skip
    for number in range(parsed.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            methods = [
                lambda: bare(parsed, folder),  # noqa: B023
                lambda: batch.sweep(fields(parsed, folder, "sweep"), jobs=1),  # noqa: B023
            ]
            order = [0, 1] if number % 2 == 0 else [1, 0]
            for chosen in order:
                started = time.perf_counter()
                methods[chosen]()
                rows[chosen]["seconds"].append(time.perf_counter() - started)
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
