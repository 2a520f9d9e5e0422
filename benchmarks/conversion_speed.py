"""Measure the speed and scaling of the conversion to SQuAD, and its memory for a large file.

    python benchmarks/conversion_speed.py [--bioasq-dir DIR] [--most 100] [--megabytes 100]

The input resembles the 7b training file: 779 factoid questions with nine snippets each. The
snippets come from BioASQ-mini and have 25 words on average (28 in 7b). With --bioasq-dir, the
script also converts the snippets of the real golden files. It uses one process and one thread. It
prints its measurements and makes no checks.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

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


def pairs_per_second(questions: list[Question], rounds: int = 3) -> tuple[int, float]:
    """Return the number of question-snippet pairs and the pairs per second in the fastest round."""
    pairs = sum(len(question.snippets) for question in questions)
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        convert(questions)
        best = min(best, time.process_time() - started)
    return pairs, pairs / best


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bioasq-dir",
        metavar="DIR",
        default=os.environ.get("BIOASQ_DIR", ""),
        help="also convert the golden files in this folder (default: $BIOASQ_DIR)",
    )
    parser.add_argument(
        "--most", type=int, default=100, help="largest input, in multiples of 7b (default: 100)"
    )
    parser.add_argument(
        "--megabytes",
        type=int,
        default=100,
        help="size of the large file in MB, or 0 to skip it (default: 100)",
    )
    args = parser.parse_args()

    pairs, rate = pairs_per_second(like_7b(1))
    print(f"7b-like, strict rule: {pairs} pairs, {rate:,.0f} pairs per second on one core")
    if args.bioasq_dir:
        golds = find_files(args.bioasq_dir, need_train=False).golds
        pairs, rate = pairs_per_second([q for path in golds for q in read_questions(path)])
        print(f"real golden snippets, strict rule: {pairs} pairs, {rate:,.0f} pairs per second")
    print("\ntimes 7b     pairs   seconds   pairs per second   seconds per pair, relative to row 1")
    first = 0.0
    for times in (n for n in (1, 3, 10, 30, 100) if n <= args.most):
        pairs, rate = pairs_per_second(like_7b(times), rounds=3 if times < 30 else 1)
        first = first or rate
        print(f"{times:>8} {pairs:>9} {pairs / rate:>9.2f} {rate:>18,.0f} {first / rate:>37.2f}")
    if args.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            path = large_file(Path(folder), args.megabytes)
            output = path.with_name("out.json")
            command = [sys.executable, SCRIPT, path, "--output", output]
            command += [
                "--drops",
                output.with_suffix(".drops"),
                "--ids",
                output.with_suffix(".ids"),
            ]
            started = time.monotonic()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds = time.monotonic() - started
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
            print(
                f"\nfile of {path.stat().st_size / 1e6:.0f} MB: {seconds:.1f} s from start to "
                f"exit, peak memory {peak / 2**30:.2f} GiB; {done.stdout.split(';')[0]}"
            )


if __name__ == "__main__":
    main()
