"""Compare the speed of several workers and of one process in prediction on a folder of files.

    python benchmarks/predict_shards.py [--pairs 100000] [--jobs 2] [--output DIR]

We repeat the pairs of the test files, append a number to each context, and write them to files of
5,000 pairs each. The model is MiniLM with a random span head. The single process uses all cores.
The --jobs workers share them equally. Memory is that of the largest worker.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import common
import psutil
from cost_growth import examples_of

from helpers.config import from_parameters
from helpers.data.squad import Example
from helpers.model import checkpoints
from helpers.model.decoding import rank_answers
from helpers.sweeps import engine, shards

PER_FILE = 5000


def write_files(examples: Sequence[Example], folder: Path) -> None:
    folder.mkdir()
    for start in range(0, len(examples), PER_FILE):
        rows = [{"id": e.id, "question": e.question, "context": e.context}
                for e in examples[start : start + PER_FILE]]  # fmt: skip
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{start // PER_FILE:04d}.jsonl").write_text(lines, encoding="utf-8")


class Watch(threading.Thread):
    """Measure the memory of the largest worker until ``stop`` is set."""

    def __init__(self):
        super().__init__(daemon=True)
        self.stop, self.largest = threading.Event(), 0

    def run(self) -> None:
        while not self.stop.wait(0.5):
            for child in psutil.Process().children(recursive=True):
                try:
                    self.largest = max(self.largest, child.memory_info().rss)
                except psutil.Error:  # the process has just ended
                    continue


def run(parsed) -> None:
    reader = common.load_reader()
    pairs = common.read_data(parsed).test
    examples = [replace(e, question_id=e.id) for e in examples_of(pairs, parsed.pairs)]
    rows = [{"name": name, "work": parsed.pairs, "precision": "32", "seconds": []}
            for name in ("one process", f"{parsed.jobs} workers")]  # fmt: skip
    watch = Watch()
    watch.start()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = checkpoints.save_transformers(reader, folder / "model")
        write_files(examples, folder / "questions")
        for number in range(parsed.rounds):
            started = time.perf_counter()
            count = 0
            for start in range(0, len(examples), PER_FILE):
                part = examples[start : start + PER_FILE]
                count += len(rank_answers(part, reader.predict(part, progress=False)))
            rows[0]["seconds"].append(time.perf_counter() - started)
            started = time.perf_counter()
            with engine.workers(parsed.jobs, memory=1, jobs=parsed.jobs) as found:
                totals = shards.predict_shards(model, folder / "questions", folder / str(number),
                                               from_parameters("mini"), *found[:2])  # fmt: skip
            rows[1]["seconds"].append(time.perf_counter() - started)
            assert totals["questions"] == count == parsed.pairs
    watch.stop.set()
    speedup = common.speedup(rows, rows[0]["name"], rows[1]["name"])
    notes = [f"memory of the largest worker: {watch.largest / 2**30:.2f} GiB"]
    common.report(parsed, unit="pair", data=common.read_data(parsed), rows=rows,
                  figures={"speedup over one process": speedup}, notes=notes)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.options(__file__, __doc__, rounds=1, pairs=100_000)
    parser.add_argument("--jobs", type=int, default=2, metavar="N",
                        help="number of workers (default: 2)")  # fmt: skip
    return common.call(run, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
