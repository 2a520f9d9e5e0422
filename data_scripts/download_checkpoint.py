"""Fetch a checkpoint by name, verify it, and print its location."""

import argparse
import sys
from pathlib import Path

from helpers.config import QKV_ORDERS, InputError, from_parameters
from helpers.fetch.fetch import fetch
from helpers.fetch.registry import REGISTRY

VARIABLES = """HELPERS_CACHE is the cache folder. HELPERS_LOCK is the file with the hashes recorded
at the first fetch. HF_ENDPOINT, NGC_ENDPOINT and SQUAD_ENDPOINT are the URLs of mirrors.
NGC_API_KEY is a key for NGC. HELPERS_OFFLINE=1 forbids all network connections."""


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=VARIABLES)
    add = parser.add_argument
    add("name", help=f"one of {', '.join(REGISTRY)}, organization/model[@revision], or a path")
    add("--source", help="your own copy: a folder, an archive, or a single file such as model.nemo")
    add("--to", help="output folder (default: the cache)")
    add("--convert", metavar="DIR", help="also write a transformers folder to DIR")
    add("--qkv-order", choices=QKV_ORDERS[1:], default="",
        help="row order of a Megatron checkpoint (default: try each order)")  # fmt: skip
    add("--report", metavar="FILE.md", help="write a shareable report about the files")
    add("--squad-dev", default="", metavar="FILE", help="with --report: EM and F1 on FILE")
    options = parser.parse_args(argv)
    if options.qkv_order and not (options.convert or options.report):
        parser.error("--qkv-order requires --convert or --report")
    if options.squad_dev and not options.report:
        parser.error("--squad-dev requires --report")
    try:
        if options.convert:  # refuse a wrong folder early; importing torch takes a second
            from helpers import pipeline
            from helpers.model.checkpoints import check_replaceable

            check_replaceable(Path(options.convert))
        found = fetch(options.name, source=options.source, to=options.to)
        print(f"{found.name}: {found.folder} (from: {found.origin})")
        files = (f"  {digest}  {name}" for name, digest in found.files.items())
        print(*files, f"  license: {found.license}", sep="\n")
        if options.report:
            from helpers.model.checkpoint_report import write_report

            name, settings = found.name, from_parameters(qkv_order=options.qkv_order)
            print(write_report(name, found.folder, options.report, settings, options.squad_dev))
        if options.convert:
            pipeline.convert_checkpoint(found.folder, options.convert, options.qkv_order)
    except InputError as error:
        print(f"download_checkpoint.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ndownload_checkpoint.py: stopped; run it again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
