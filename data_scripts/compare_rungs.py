r"""Train with and without looser matches on the same questions, and compare the dev scores.

python data_scripts/compare_rungs.py --seeds 0 1 2 --output rungs.json
python data_scripts/compare_rungs.py --bioasq-dir DIR --seeds 0 1 2 --output rungs7b.json
"""

import argparse
import sys

from helpers.bioasq import read_questions, write_json
from helpers.config import InputError, from_parameters, parse_override
from helpers.layout import find_files
from helpers.mini_text import DATA


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
        train = DATA / "BioASQ-training-mini.json"
        if args.bioasq_dir:
            files = find_files(args.bioasq_dir)
            train = files.train
            if files.train_is_squad:
                raise InputError(
                    f"{train}: holds only what somebody's rule has found; the organisers' own "
                    "training file is needed to compare rules"
                )
        questions = read_questions(train, answers="required")
        from helpers.pipeline import load_reader
        from helpers.trial import compare_training

        rows = []
        for seed in args.seeds:
            settings = from_parameters(**{"wandb_mode": "disabled", **parameters, "seed": seed})
            rows += compare_training(
                lambda settings=settings: load_reader(args.checkpoint, settings),
                questions, settings, blunt=not args.bioasq_dir,
            )  # fmt: skip
            write_json(args.output, rows)
    except InputError as error:
        print(f"compare_rungs.py: {error}", file=sys.stderr)
        return 2
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
