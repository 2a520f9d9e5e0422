#!/usr/bin/env python
"""Convert BioASQ factoid questions to a SQuAD file, and report every dropped question.

The script treats a golden file as training data unless you specify --test.
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
    add("--context", choices=CONTEXTS, default="snippet", help="the text that the model reads")
    add("--abstracts", metavar="FILE",
        help="JSON {URL or PubMed id: text}; PubMed provides missing texts")  # fmt: skip
    add("--drops", metavar="DROPS.jsonl", help="also write the dropped questions, with reasons")
    add("--ids", metavar="IDS.jsonl", help="also write each row's question, snippet and offsets")
    add(
        "--dev-fraction",
        type=float,
        default=0.0,
        metavar="F",
        help="hold out this fraction of the questions and write them to OUT_dev.json",
    )
    add("--seed", type=int, default=0, metavar="N", help="random seed for the held-out questions")
    add("--squad-version", type=int, choices=(1, 2), default=1, help="1 for v1.1, 2 for v2.0")
    add("--test", action="store_true", help="keep every context, with or without an answer")
    add("--negatives", action="store_true", help="for v2.0: also write contexts without an answer")
    add("--against", nargs="+", default=[], metavar="TEST",
        help="refuse questions that are in a TEST file")  # fmt: skip
    add("--allow-leak", action="store_true", help="also convert questions that are in a TEST file")
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
