r"""Train with and without looser matches on the same questions, and compare the dev scores.

python data_scripts/compare_rungs.py --seeds 0 1 2 --output rungs.json
python data_scripts/compare_rungs.py --bioasq-dir DIR --seeds 0 1 2 --output rungs7b.json
"""

import argparse
import sys
from functools import partial

from helpers.config import InputError, parse_override


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="minilm", help="a name in the registry, or a path")
    parser.add_argument("--bioasq-dir", help="your files: their training questions are split")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="name=value")
    parser.add_argument("--output", required=True, metavar="OUT.json")
    args = parser.parse_args(argv)
    try:
        parameters = dict(parse_override(text) for text in args.set)
        from helpers.pipeline import load_reader
        from helpers.trial import compare_files

        load = partial(load_reader, args.checkpoint)
        rows = compare_files(load, args.bioasq_dir, args.seeds, args.output, **parameters)
    except InputError as error:
        print(f"compare_rungs.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ncompare_rungs.py: stopped; seeds that were done are in --output", file=sys.stderr)
        return 130
    for row in rows:
        print(
            ", ".join(
                f"{k} {v:.3f}" if k in ("sacc", "lacc", "mrr") else f"{k} {v}"
                for k, v in row.items()
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
