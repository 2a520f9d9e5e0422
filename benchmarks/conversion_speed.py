"""Measure the speed and scaling of the conversion to SQuAD, and its memory for a large file.

    python benchmarks/conversion_speed.py [--bioasq-dir DIR] [--most 100] [--megabytes 100]
        [--output DIR]

The input resembles the 7b training file: 779 factoid questions with nine snippets each. The
snippets come from BioASQ-mini and have 25 words on average (28 in 7b). With --bioasq-dir, the
script also converts the snippets of the real golden files. It uses one process and one thread, and
measures processor time. It measures inputs of at least 30 times the size of 7b only once.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import common

from helpers.data.bioasq import Question, read_questions
from helpers.data.convert import convert
from helpers.data.layout import find_files
from helpers.data.mini import DATA

FACTOIDS, SNIPPETS = 779, 9  # as in the 7b training file: about 7,000 pairs
SCRIPT = Path(__file__).parents[1] / "data_scripts" / "bioasq_to_squad.py"


def like_7b(times: int) -> list[Question]:
    """Make ``times`` × 779 questions, each with nine snippets and a unique id."""
    source = read_questions(DATA / "BioASQ-training-mini.json")
    snippets = cycle([s for question in source for s in question.snippets])
    return [
        replace(
            question,
            id=f"{number:024x}",
            snippets=(*question.snippets, *islice(snippets, SNIPPETS - len(question.snippets))),
        )
        for number, question in enumerate(islice(cycle(source), FACTOIDS * times))
    ]


def measure(name: str, questions: list[Question], rounds: int) -> dict:
    """Return a row with the processor seconds of each round; the work is the number of pairs."""
    pairs = sum(len(question.snippets) for question in questions)
    row = {"name": name, "work": pairs, "precision": "32", "seconds": []}
    for _ in range(rounds):
        started = time.process_time()
        convert(questions)
        row["seconds"].append(time.process_time() - started)
    return row


def large_file(folder: Path, megabytes: int) -> Path:
    """Write a training file of this size, with all question types and a unique id per question."""
    source = json.loads((DATA / "BioASQ-training-mini.json").read_bytes())["questions"]
    path, number = folder / "BioASQ-training7b.json", 0
    with path.open("w", encoding="utf-8") as out:
        out.write('{"questions": [\n')
        while out.tell() < megabytes * 1e6:
            for question in source:
                text = json.dumps({**question, "id": f"{number:024x}"}, indent=1)
                out.write(("" if number == 0 else ",\n") + text)
                number += 1
        out.write("\n]}\n")
    return path


def convert_file(megabytes: int) -> tuple[dict, str]:
    """Run the command on a large file; return a row with its wall time, and its output."""
    with tempfile.TemporaryDirectory() as folder:
        path = large_file(Path(folder), megabytes)
        output = path.with_name("out.json")
        command = [sys.executable, SCRIPT, path, "--output", output]
        command += ["--drops", output.with_suffix(".drops"), "--ids", output.with_suffix(".ids")]
        started = time.monotonic()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        rows = len(output.with_suffix(".ids").read_text(encoding="utf-8").splitlines())
        name = f"the command on a file of {path.stat().st_size / 1e6:.0f} MB, from start to exit"
    row = {"name": name, "work": rows, "precision": "32", "seconds": [seconds],
           "memory_gib": peak / 2**30}  # fmt: skip
    return row, f"the command: {done.stdout.split(';')[0].strip()}"


def run(parsed) -> None:
    rows, notes = [], []
    for times in (n for n in (1, 3, 10, 30, 100) if n <= parsed.most):
        rounds = parsed.rounds if times < 30 else 1
        rows.append(measure(f"{times} x 7b", like_7b(times), rounds))
    each = [min(row["seconds"]) / row["work"] for row in rows]
    if len(rows) > 1:
        notes.append(f"{rows[-1]['name']} takes {each[-1] / each[0]:.2f} times as long per pair as "
                     f"{rows[0]['name']}")  # fmt: skip
    if parsed.bioasq_dir:
        golds = find_files(parsed.bioasq_dir, need_train=False).golds
        questions = [question for path in golds for question in read_questions(path)]
        rows.append(measure("the real golden snippets", questions, parsed.rounds))
    if parsed.megabytes:
        row, printed = convert_file(parsed.megabytes)
        rows.append(row)
        notes.append(printed)
    common.report(parsed, unit="pair", data="as large as BioASQ 7b", rows=rows, figures={},
                  notes=notes, model="")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.options(__file__, __doc__)
    add = parser.add_argument
    add("--most", type=int, default=100, help="largest input, in multiples of 7b (default: 100)")
    add("--megabytes", type=int, default=100,
        help="size of the large file in MB, or 0 to skip it (default: 100)")  # fmt: skip
    return common.call(run, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
