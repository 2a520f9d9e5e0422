"""Score answer files against gold files by SAcc, MRR and LAcc (SQuAD files: by EM and F1).

The script prints one line per batch and one with the weighted scores. It lists all repairs and
ignored entries on standard error. It scores BioASQ files as the organizers' program does
(edition 5). If a file would crash that program, this script either repairs it or refuses it.
"""

from __future__ import annotations

import argparse
import sys

from helpers.config import MISSING, InputError
from helpers.io import check_outputs, write_json
from helpers.scoring.evaluate import evaluate_files


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--gold", nargs="+", required=True, metavar="FILE", help="BioASQ golden or SQuAD files"
    )
    parser.add_argument(
        "--answers",
        nargs="+",
        required=True,
        metavar="FILE",
        help="one per gold file, in the same order; for SQuAD: JSON {row id: answer}",
    )
    parser.add_argument("--json", metavar="OUT.json", help="also write the scores (0 to 1)")
    parser.add_argument(
        "--missing",
        choices=MISSING,
        default=MISSING[0],
        help="count questions without an entry as wrong (default), or drop them from the mean, as "
        "BioASQ's evaluators did until 2020",
    )
    args = parser.parse_args(argv)
    try:
        check_outputs([args.json], [*args.gold, *args.answers])
        evaluation = evaluate_files(args.gold, args.answers, args.missing)
        if args.json:
            write_json(args.json, evaluation.scores)
    except InputError as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nevaluate.py: stopped", file=sys.stderr)
        return 130
    for remark in evaluation.remarks:
        print(remark, file=sys.stderr)
    for line in evaluation.lines:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
