#!/usr/bin/env python
"""Convert BioASQ factoid questions to a SQuAD file, and report every dropped question.

A golden file is training data unless --test is given.
"""

import argparse
import sys

from helpers.config import CONTEXTS, InputError
from helpers.pipeline import convert_files


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="BioASQ or SQuAD files")
    add("--output", required=True, metavar="OUT.json", help="SQuAD file to write")
    add("--context", choices=CONTEXTS, default="snippet", help="the text the model reads")
    add(
        "--abstracts", metavar="FILE", help="JSON {address or PubMed id: text}; PubMed has the rest"
    )
    add("--drops", metavar="DROPS.jsonl", help="write the dropped questions and their reasons")
    add("--ids", metavar="IDS.jsonl", help="write the id map: row -> question, snippet, offsets")
    add(
        "--dev-fraction",
        type=float,
        default=0.0,
        metavar="F",
        help="hold out this fraction of the questions and write it to OUT_dev.json",
    )
    add("--seed", type=int, default=0, metavar="N", help="random seed of the held-out questions")
    add("--squad-version", type=int, choices=(1, 2), default=1, help="v1.1 or v2.0")
    add("--test", action="store_true", help="keep every context, with or without an answer")
    add("--negatives", action="store_true", help="for v2.0: also write contexts without an answer")
    add("--against", nargs="+", default=[], metavar="TEST", help="refuse questions in these files")
    add("--allow-leak", action="store_true", help="convert these questions nevertheless")
    options = vars(parser.parse_args(argv))
    options["version"] = {1: "1.1", 2: "2.0"}[options.pop("squad_version")]
    try:
        print(convert_files(**options))
    except InputError as error:
        print(f"bioasq_to_squad.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbioasq_to_squad.py: stopped; run it again to start over", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
