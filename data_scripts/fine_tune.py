r"""Fine-tune a checkpoint on a SQuAD file, as in the usage example of the model card.

    python data_scripts/fine_tune.py --checkpoint minilm --train train.json --dev dev.json \
        --output model --set learning_rate=1e-4 --set epochs=3
"""

import argparse
import sys

from helpers.config import PROFILES, QKV_ORDERS, InputError, parse_override


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="a registry name or a path")
    parser.add_argument("--train", required=True, help="SQuAD file with answers")
    parser.add_argument("--dev", help="held-out SQuAD file to score during training")
    parser.add_argument("--against", nargs="+", default=[], metavar="TEST",
                        help="test inputs or golden files; refuse a --train file that contains "
                        "their questions, unless --set allow_leak=true")  # fmt: skip
    parser.add_argument("--output", required=True, help="folder for model.nemo and transformers/")
    names = ", ".join(PROFILES)
    parser.add_argument("--profile", default="mini",
                        help=f"profile for all other settings: {names}")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--qkv-order", choices=QKV_ORDERS[1:], help="row order of a Megatron "
                        "checkpoint (default: try each order)")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="name=value")
    parser.add_argument("--resume", action="store_true", help="continue a stopped training run")
    args = parser.parse_args(argv)
    try:
        parameters = {"profile": args.profile, "seed": args.seed}
        parameters |= {"qkv_order": args.qkv_order} if args.qkv_order else {}
        parameters |= dict(parse_override(text) for text in args.set)
        from helpers.pipeline import fine_tune_files

        fine_tune_files(
            args.checkpoint,
            args.train,
            args.output,
            dev=args.dev,
            against=args.against,
            resume=args.resume,
            **parameters,
        )
    except InputError as error:
        print(f"fine_tune.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nfine_tune.py: stopped; add --resume to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
