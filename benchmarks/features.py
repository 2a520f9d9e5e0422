"""Measure the feature extraction, which turns questions and contexts into windows of tokens.

    python benchmarks/features.py [--bioasq-dir DIR] [--output DIR]

run_qa maps a function over a dataset on disk. We measure this and, to see what the dataset itself
costs, a direct call to the same function. Our time for prediction includes comparing the tokens
with the text, which later saves most of the work of turning tokens into text. All methods use the
same tokenizers library, which chooses the number of threads.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import common
import numpy as np
import peers

from helpers.config import InputError
from helpers.data.squad import Example, by_pair
from helpers.fetch.fetch import fetch
from helpers.model.decoding import Reader
from helpers.model.features import Windows, make_windows

MAP, CALL, OURS = "run_qa's function in datasets.map", "run_qa's function, called directly", "ours"
MAX_QUERY = 64  # tokens of a question; run_qa has no limit


def compare(windows: Windows, features: Mapping[str, list], pairs: Sequence[int]) -> str:
    """Compare the tokens, and the targets of training windows, with run_qa's features.

    ``pairs`` contains the index of the pair of each feature. We compare only pairs with one window,
    because we intentionally split longer contexts differently. Our windows start 128 tokens apart,
    as in NVIDIA's recipe, but run_qa's windows overlap by 128 tokens. Raise ``InputError`` if a
    pair differs.
    """
    count = np.bincount(windows.pair), np.bincount(pairs)
    asked = np.add.reduceat(windows.token_types == 0, windows.bounds[:-1]) - 2
    theirs = dict(zip(pairs, range(len(pairs)), strict=True))
    training = "start_positions" in features
    same = single = last = 0
    for window, pair in enumerate(windows.pair.tolist()):
        if count[0][pair] > 1 or count[1][pair] > 1 or asked[window] == MAX_QUERY:
            continue
        other = theirs[pair]
        ids = windows.ids[windows.bounds[window] : windows.bounds[window + 1]].tolist()
        equal = ids == features["input_ids"][other][: sum(features["attention_mask"][other])]
        if training:
            targets = features["start_positions"][other], features["end_positions"][other]
            # run_qa looks for the first token after the start of the answer. If the answer is the
            # last token, run_qa finds none and sets the start to the last position of the padding.
            wrong = targets[0] == peers.MAX_LENGTH - 1
            last += wrong
            equal &= targets[1] == windows.end[window]
            equal &= wrong or targets[0] == windows.start[window]
        single, same = single + 1, same + equal
    what = "training: the same tokens and targets" if training else "prediction: the same tokens"
    text = f"{what} for {same} of {single} pairs with one window ({len(count[0]) - single} skipped)"
    if last:
        text += f"; for {last} answers at the last token, run_qa sets the start to the padding"
    if same < single:
        raise InputError(f"{text}; nothing was timed")
    return text


def phase(
    examples: Sequence[Example], training: bool, reader: Reader, tokenizer, folder: Path
) -> tuple[list[common.Method], str]:
    """Return the methods of training or prediction, and the result of the comparison."""
    rows = peers.as_dataset_rows(examples)
    batches = [peers.columns(rows[i : i + 1000]) for i in range(0, len(rows), 1000)]
    make = peers.training_features if training else peers.prediction_features
    prepare: Callable = make(tokenizer)

    def direct(prepare: Callable) -> dict[str, list]:
        parts = [prepare(batch) for batch in batches]
        return {name: [value for part in parts for value in part[name]] for name in parts[0]}

    def ours() -> Windows:
        return make_windows(examples, reader.tokenizer, training=training)

    names = direct(peers.prediction_features(tokenizer))["example_id"]
    check = compare(ours(), direct(prepare), [int(name) for name in names])
    runs = {CALL: lambda: [prepare(batch) for batch in batches], OURS: ours}
    with suppress(ImportError):
        dataset = peers.saved_dataset(rows, folder)
        runs = {MAP: lambda: peers.mapped(dataset, prepare)} | runs
    kind = "training" if training else "prediction"
    return [common.Method(f"{kind}: {name}", run, len(rows)) for name, run in runs.items()], check


def run(parsed) -> None:
    data = common.read_data(parsed)
    reader = common.load_reader()
    tokenizer = peers.fast_tokenizer(fetch("minilm").folder)
    parts = {"prediction": common.sample(by_pair(data.train), parsed.pairs)}
    if any(example.spans for example in data.train):
        parts = {"training": common.sample(data.train, parsed.pairs)} | parts
    methods, checks = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for kind, examples in parts.items():
            folder = Path(scratch) / kind
            made, check = phase(examples, kind == "training", reader, tokenizer, folder)
            methods += made
            checks.append(check)
        for method in methods:  # warm-up
            method.run()
        rows = common.time_rounds(methods, parsed.rounds)
    figures = {
        f"speedup over {what}, {kind}": common.speedup(rows, f"{kind}: {slow}", f"{kind}: {OURS}")
        for kind in parts
        for what, slow in (("datasets.map", MAP), ("a direct call", CALL))
    }
    missing = not any(MAP in row["name"] for row in rows)
    common.report(parsed, unit="pair", data=data, rows=rows, figures=figures, checks=checks,
                  notes=[peers.NO_DATASETS] * missing)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.options(__file__, __doc__, rounds=15, pairs=3000)
    return common.call(run, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
