r"""Answer a BioASQ test input (or a SQuAD file) with any checkpoint, ranked the BioASQ way.

    python data_scripts/predict.py --checkpoint runs/latest/model/model.nemo \
        --input testset1.json --output answers.json --nbest nbest.jsonl
"""

import argparse
import sys

from helpers.config import CONTEXTS, MERGES, QKV_ORDERS, InputError, parse_override


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="a registry name, folder or .nemo")
    parser.add_argument("--input", required=True, help="BioASQ questions or a SQuAD file")
    parser.add_argument("--output", required=True, help="where the answers go")
    parser.add_argument("--context", choices=CONTEXTS, default="snippet")
    parser.add_argument(
        "--abstracts",
        help="JSON {document: text}, for --context abstract; PubMed is asked for the rest",
    )
    parser.add_argument("--merge", choices=MERGES, default="sum", help="over a question's contexts")
    parser.add_argument("--nbest", help="also write every pair's n-best, a JSON line each")
    parser.add_argument("--qkv-order", choices=QKV_ORDERS[1:], help="of a Megatron checkpoint's "
                        "rows; without it they are tried")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="name=value")
    args = parser.parse_args(argv)
    try:
        parameters = {"context": args.context, "merge": args.merge}
        parameters |= {"qkv_order": args.qkv_order} if args.qkv_order else {}
        parameters |= dict(parse_override(text) for text in args.set)
        from helpers.pipeline import predict_files

        predict_files(
            args.checkpoint,
            args.input,
            args.output,
            abstracts=args.abstracts,
            nbest=args.nbest,
            **parameters,
        )
    except InputError as error:
        print(f"predict.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npredict.py: stopped; the same command starts it again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
