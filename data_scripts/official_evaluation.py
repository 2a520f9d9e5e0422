"""Score answers with the organizers' Java program and compare every figure with ours to 1e-9.

Standard output gets one line per batch with the program's figure and ours for each measure. The
program reads the files unchanged. Only if it stops, it reads copies in which we change what stopped
it; standard error lists these changes. The exit status is 0 if all figures agree, 1 if one differs,
2 for bad input.
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
        help="one per gold file, in the same order",
    )
    parser.add_argument(
        "--edition", type=int, default=EDITION, help="rules to use; 5 (default) is that of 7b"
    )
    parser.add_argument("--missing", choices=MISSING, default=MISSING[0], help="as for evaluate.py")
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
    print(f"{'batch':<10}each measure: official, ours")
    for batch in found:
        print(batch.line())
    agree = all(batch.agrees for batch in found)
    print(f"{len(found) * len(FACTOID)} figures, {'all agree' if agree else 'NOT all agree'}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
