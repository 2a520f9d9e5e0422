"""Write a bundle from which the kit can be installed without a network connection."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from workshop import bundle

from helpers.config import InputError


def main(arguments: list[str] | None = None) -> int:
    """Run the script. Return 2 for bad input, 130 if stopped, and 0 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run", type=Path, default="runs/latest", metavar="DIR",
        help="folder of the finished run whose notebooks the bundle shows (default: runs/latest)",
    )  # fmt: skip
    parser.add_argument(
        "--to", type=Path, default="dist/bundle", metavar="DIR",
        help="output folder, which must be new or empty (default: dist/bundle)",
    )  # fmt: skip
    parser.add_argument(
        "--torch-index", default="", metavar="URL",
        help="package index with the build of torch to include (see docs/setup.md)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        print(bundle.make(options.to, options.run, options.torch_index))
    except InputError as error:
        print(f"make_bundle.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nmake_bundle.py: stopped; run it again to start over", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
