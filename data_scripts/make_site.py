"""Write the executed notebooks of a finished run and the documentation as a static website."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from workshop import site

from helpers.config import InputError


def main(arguments: list[str] | None = None) -> int:
    """Run the script. Return 2 for bad input, 130 if stopped, and 0 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run", type=Path, default="runs/latest", metavar="DIR",
        help="folder of a finished run (default: runs/latest)",
    )  # fmt: skip
    parser.add_argument(
        "--to", type=Path, default="site", metavar="DIR",
        help="output folder (default: site); the script replaces an older website there",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        print(site.make(options.run, options.to))
    except InputError as error:
        print(f"make_site.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nmake_site.py: stopped; run it again to start over", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
