"""Fetch a checkpoint by name, verify it, and say where it lies."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from helpers.config import QKV_ORDERS, InputError
from helpers.fetch.fetch import fetch
from helpers.fetch.registry import REGISTRY


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="HELPERS_CACHE moves the cache, HELPERS_LOCK the file with the hashes recorded at "
        "the first fetch; HF_ENDPOINT, NGC_ENDPOINT and SQUAD_ENDPOINT name mirrors; NGC_API_KEY "
        "is a key for NGC; HELPERS_OFFLINE=1 forbids every network connection.",
    )
    parser.add_argument(
        "name",
        help=f"one of: {', '.join(REGISTRY)}; a hub name "
        "(organization/model[@revision]); or a folder, .nemo file or archive",
    )
    parser.add_argument("--source", help="your own copy: a folder, a file, or an archive")
    parser.add_argument("--to", help="folder for the files (default: the cache)")
    parser.add_argument("--convert", metavar="DIR", help="also write a transformers folder there")
    parser.add_argument(
        "--qkv-order", choices=QKV_ORDERS[1:],
        help="of a Megatron checkpoint's rows, for --convert; without it they are tried",
    )  # fmt: skip
    parser.add_argument(
        "--report", metavar="FILE.md", help="write what the files hold, to share with others"
    )
    parser.add_argument(
        "--squad-dev", default="", metavar="FILE", help="for --report: measure EM and F1 on it"
    )
    options = parser.parse_args(argv)
    if options.qkv_order and not (options.convert or options.report):
        parser.error("--qkv-order goes with --convert or --report")
    if options.squad_dev and not options.report:
        parser.error("--squad-dev goes with --report")
    try:
        if options.convert:  # torch takes a second, and a wrong folder is told before any download
            from helpers.model.checkpoints import check_replaceable
            from helpers.pipeline import convert_checkpoint

            check_replaceable(Path(options.convert))
        checkpoint = fetch(options.name, source=options.source, to=options.to)
        print(f"{checkpoint.name}: {checkpoint.folder} (from: {checkpoint.origin})")
        for name, digest in checkpoint.files.items():
            print(f"  {digest}  {name}")
        print(f"  license: {checkpoint.license}")
        if options.report:
            from helpers.config import from_parameters
            from helpers.model.checkpoint_report import write_report

            settings = from_parameters(qkv_order=options.qkv_order)
            print(write_report(
                checkpoint.name, checkpoint.folder, options.report, settings, options.squad_dev
            ))  # fmt: skip
        if options.convert:
            convert_checkpoint(checkpoint.folder, options.convert, options.qkv_order or "")
    except InputError as error:
        print(f"download_checkpoint.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\ndownload_checkpoint.py: stopped; the same command goes on where it was",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
