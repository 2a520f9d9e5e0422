"""Score answers with the organizers' Java program and compare all scores with ours to 1e-9.

The script prints one line per batch with the program's score and ours for each measure. The program
first reads the unchanged files. If it crashes, the script repairs copies of the files, lists the
changes on standard error, and runs the program again. The exit status is 0 if all scores agree, 1
if any score differs, and 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys

from helpers.config import MISSING, InputError
from helpers.scoring.official import EDITION, FACTOID, compare_files


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jar", required=True, help="BioASQEvaluation.jar, with lib/ next to it")
    parser.add_argument("--gold", nargs="+", required=True, metavar="FILE", help="golden files")
    parser.add_argument(
        "--answers",
        nargs="+",
        required=True,
        metavar="FILE",
        help="one per golden file, in the same order",
    )
    parser.add_argument(
        "--edition", type=int, default=EDITION, help="edition of the rules (default: 5, as for 7b)"
    )
    parser.add_argument("--missing", choices=MISSING, default=MISSING[0], help="as in evaluate.py")
    args = parser.parse_args(argv)
    try:
        found = compare_files(
            args.jar, args.gold, args.answers, missing=args.missing, edition=args.edition
        )
    except InputError as error:
        print(f"official_evaluation.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nofficial_evaluation.py: stopped", file=sys.stderr)
        return 130
    for repair in (repair for batch in found for repair in batch.repairs):
        print(repair, file=sys.stderr)
    print(f"{'batch':<10}official score and our score for each measure")
    for batch in found:
        print(batch.line())
    agree = all(batch.agrees for batch in found)
    print(f"{len(found) * len(FACTOID)} scores, {'all agree' if agree else 'NOT all agree'}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
