"""Write BioASQ-mini, the kit's teaching data, from its facts and sentence patterns."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bioasq_mini import generate

from helpers.config import InputError
from helpers.data.mini import DATA


def main(arguments: list[str] | None = None) -> int:
    """Run the script. Return 1 if --check finds a difference, 2 for bad input, and 0 otherwise."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Scores on this teaching data are not comparable with any published result.",
    )
    parser.add_argument(
        "--to", type=Path, default=DATA, help="folder of the data (default: in the package)"
    )
    parser.add_argument(
        "--check", action="store_true", help="check the files in the folder instead of writing them"
    )
    options = parser.parse_args(arguments)
    try:
        if options.check:
            differences = generate.check(options.to)
            print("\n".join(differences) or f"{options.to}: all files match the generated data")
            return 1 if differences else 0
        for path in generate.make(options.to):
            print(path)
    except InputError as error:
        print(f"make_bioasq_mini.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nmake_bioasq_mini.py: stopped; run it again to start over", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
