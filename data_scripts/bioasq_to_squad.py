#!/usr/bin/env python
"""Convert BioASQ factoid questions to a SQuAD file, with every dropped question and its reason."""

import argparse
import sys

from helpers.config import CONTEXTS, InputError
from helpers.file_conversion import convert_files


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="BioASQ JSON: training file, or with --test any")
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
    args = parser.parse_args(argv)
    try:
        summary = convert_files(
            args.files,
            args.output,
            context=args.context,
            abstracts=args.abstracts,
            drops=args.drops,
            ids=args.ids,
            dev_fraction=args.dev_fraction,
            seed=args.seed,
            version={1: "1.1", 2: "2.0"}[args.squad_version],
            test=args.test,
        )
    except InputError as error:
        print(f"bioasq_to_squad.py: {error}", file=sys.stderr)
        return 2
    print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
