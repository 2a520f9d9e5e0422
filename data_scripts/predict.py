r"""Answer a BioASQ test input (or a SQuAD file) with any checkpoint; rank answers for BioASQ.

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
    parser.add_argument("--output", required=True, help="file for the answers")
    parser.add_argument("--context", choices=CONTEXTS, default="snippet")
    parser.add_argument(
        "--abstracts",
        help="JSON {document: text}, for --context abstract; the rest comes from PubMed",
    )
    parser.add_argument(
        "--merge", choices=MERGES, default="sum", help="how to combine a question's contexts"
    )
    parser.add_argument("--nbest", help="also write each pair's n-best list as a line of JSON")
    parser.add_argument("--qkv-order", choices=QKV_ORDERS[1:], help="row order of a Megatron "
                        "checkpoint; by default we try all of them")  # fmt: skip
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
            nbest_file=args.nbest,
            **parameters,
        )
    except InputError as error:
        print(f"predict.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npredict.py: stopped; run it again to start over", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
