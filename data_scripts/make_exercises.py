"""Write the exercise and solution notebooks from notebooks 01 to 05, or an nbgrader course."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from workshop import course, exercises

from helpers.config import InputError


def main(arguments: list[str] | None = None) -> int:
    """Run the script. Return 1 if --check finds a difference, 2 for bad input, and 0 otherwise."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="docs/nbgrader.md explains how to teach with the course.",
    )
    parser.add_argument(
        "--check", action="store_true", help="check the committed notebooks instead of writing them"
    )
    parser.add_argument(
        "--course", type=Path, metavar="FOLDER", help="write an nbgrader course to this new folder"
    )
    parser.add_argument(
        "--run", type=Path, default=Path("runs/lab"), metavar="FOLDER",
        help="with --course: the finished run that grading reads (default: runs/lab)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=int, default=180, metavar="SECONDS",
        help="with --course: grading stops a cell after this time (default: 180)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        if options.check:
            differences = exercises.check()
            print("\n".join(differences) or "all exercise notebooks match their sources")
            return 1 if differences else 0
        if options.course:
            written = course.make(options.course, options.run, options.timeout)
        else:
            written = exercises.make()
        print(*written, sep="\n")
    except InputError as error:
        print(f"make_exercises.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
