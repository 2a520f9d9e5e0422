"""Score any system's BioASQ answer files by the same protocol as the kit's own runs.

The script prints the scores, the extractive ceiling, 95% intervals over questions, the number of
questions per kind of error, and a row in the format of the table in docs/results.md. With --json,
it also writes a file that "python -m helpers.batch table" accepts along with run folders.
"""

from __future__ import annotations

import argparse
import sys

from helpers.config import MISSING, InputError
from helpers.io import check_outputs, write_json
from helpers.run.compare import markdown
from helpers.scoring.system import UNSTATED, read_system


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    several = {"nargs": "+", "metavar": "FILE"}
    parser.add_argument("name", help="the system's name in the table")
    parser.add_argument("--gold", required=True, help="golden files", **several)
    same = "one per golden file, in the same order"
    parser.add_argument("--answers", required=True, help=f"answer files, {same}", **several)
    parser.add_argument(
        "--tests", default=[], help=f"test inputs, {same}; for the ceiling", **several
    )
    parser.add_argument("--missing", choices=MISSING, default=MISSING[0], help="as in evaluate.py")
    parser.add_argument("--context", default=UNSTATED, help="which texts the system read")
    parser.add_argument("--training", default=UNSTATED, help="what the system was trained on")
    parser.add_argument("--json", metavar="OUT.json", help="also write the scores and the row")
    args = parser.parse_args(argv)
    try:
        check_outputs([args.json], [*args.gold, *args.answers, *args.tests])
        found = read_system(args.name, args.gold, args.answers, args.tests, args.missing)
        row = found.row(args.context, args.training)
        if args.json:
            write_json(args.json, found.scores() | {"row": row})
    except InputError as error:
        print(f"score_system.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nscore_system.py: stopped", file=sys.stderr)
        return 130
    print(*found.remarks, sep="\n", end="\n" * bool(found.remarks), file=sys.stderr)
    print(*found.lines(), "", markdown([row], []), sep="\n", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
