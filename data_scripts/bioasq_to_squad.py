#!/usr/bin/env python
"""Convert BioASQ factoid questions to a SQuAD file, with every dropped question and its reason."""

import argparse
import sys

from helpers.config import CONTEXTS, InputError
from helpers.pipeline import convert_files


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        metavar="FILE",
        help="BioASQ or SQuAD; a golden file is training data unless --test is given",
    )
    add("--output", required=True, metavar="OUT.json", help="SQuAD file to write")
    add("--context", choices=CONTEXTS, default="snippet", help="what the model reads")
    add(
        "--abstracts",
        metavar="FILE",
        help="JSON {document address or PubMed id: text}; PubMed is asked for the rest",
    )
    add("--drops", metavar="DROPS.jsonl", help="write the dropped questions and their reasons")
    add("--ids", metavar="IDS.jsonl", help="write the id map: row -> question, snippet, offsets")
    add("--dev-fraction", type=float, default=0.0, metavar="F",
        help="hold out this part of the questions, written to OUT_dev.json")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="chooses the held-out questions")
    add("--squad-version", type=int, choices=(1, 2), default=1, help="v1.1 or v2.0")
    add("--test", action="store_true", help="keep every context, with or without an answer")
    add("--negatives", action="store_true", help="with --squad-version 2: contexts without answer")
    add("--against", nargs="+", default=[], metavar="TEST", help="refuse questions these files ask")
    add("--allow-leak", action="store_true", help="convert them all the same")
    options = vars(parser.parse_args(argv))
    options["version"] = {1: "1.1", 2: "2.0"}[options.pop("squad_version")]
    try:
        summary = convert_files(**options)
    except InputError as error:
        print(f"bioasq_to_squad.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbioasq_to_squad.py: stopped; the same command starts it again", file=sys.stderr)
        return 130
    print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
