"""Measure the search for the best spans, from logits to the 20 best answers for each pair.

    python benchmarks/nbest.py [--bioasq-dir DIR] [--output DIR]

All methods get the same logits, which come from MiniLM with a random span head. run_qa reads its
rows and features from datasets on disk. To see what the datasets cost, we also measure its search
with plain lists. run_qa's logits are arrays that are padded to 384 columns. The padding is -100, as
in transformers' trainer, so no method can choose a padded position. In every round, our
detokenizers must read their contexts again, because a prediction uses each of them only once.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from pathlib import Path

import common
import numpy as np
import peers

from helpers.config import InputError
from helpers.data.squad import Example
from helpers.fetch.fetch import fetch
from helpers.model.decoding import Candidate, compute_logits, nbest
from helpers.model.features import Windows, make_windows

DATASETS, LISTS, OURS = "run_qa, datasets", "run_qa, plain lists", "ours"


def padded_logits(windows: Windows, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return start and end logits ``[windows, 384]``, with -100 after the end of each window."""
    inside = np.arange(peers.MAX_LENGTH) < windows.lengths[:, None]
    both = np.full((2, *inside.shape), -100, np.float32)
    both[:, inside] = logits.T
    return both[0], both[1]


def compare(
    ours: Sequence[Sequence[Candidate]], theirs: Mapping[str, list[dict]], examples: Sequence
) -> str:
    """Compare the best spans; raise ``InputError`` if the best spans of a pair differ.

    Two spans are the same if their logits are equal. Their texts may still differ, because we trim
    answers as Google's code does. Lower ranks differ on purpose: we list 20 distinct texts, as
    Google's code does, but run_qa lists a text once per span.
    """
    spans = texts = 0
    for mine, other, example in zip(ours, theirs.values(), examples, strict=True):
        best = mine[0]
        logits = best.start_logit, best.end_logit
        spans += logits == (other[0]["start_logit"], other[0]["end_logit"])
        texts += example.context[best.start : best.end] == other[0]["text"]
    found = f"{spans} of {len(examples)} pairs have the same best span, and {texts} the same text"
    if spans < len(examples):
        raise InputError(f"{found}; nothing was timed")
    return found


def run(parsed) -> None:
    data = common.read_data(parsed)
    reader = common.load_reader(parsed.size)
    pairs = common.sample(data.test, parsed.pairs)
    windows = make_windows(pairs, reader.tokenizer)
    # run_qa splits long contexts differently, so we keep only the pairs with one window.
    single = np.flatnonzero(np.bincount(windows.pair) == 1)
    examples: list[Example] = [pairs[i] for i in single]
    windows = make_windows(examples, reader.tokenizer)
    logits = compute_logits(reader.model, windows)
    unread = iter([  # one for each round and one for the warm-up
        replace(windows, detokenizers=tuple(map(copy, windows.detokenizers)))
        for _ in range(parsed.rounds + 1)
    ])  # fmt: skip
    arrays = padded_logits(windows, logits)
    rows = peers.as_dataset_rows(examples)
    prepare = peers.prediction_features(peers.fast_tokenizer(fetch("minilm").folder))
    made = prepare(peers.columns(rows))
    features = [dict(zip(made, values, strict=True)) for values in zip(*made.values(), strict=True)]
    check = compare(nbest(windows, logits, examples), peers.postprocess(rows, features, arrays),
                    examples)  # fmt: skip
    runs = {
        LISTS: lambda: peers.postprocess(rows, features, arrays),
        OURS: lambda: nbest(next(unread), logits, examples),
    }
    with tempfile.TemporaryDirectory() as scratch:
        with suppress(ImportError):
            dataset = peers.saved_dataset(rows, Path(scratch) / "rows")
            disk = peers.mapped(dataset, prepare)
            runs = {DATASETS: lambda: peers.postprocess(dataset, disk, arrays)} | runs
        methods = [common.Method(name, run, len(examples)) for name, run in runs.items()]
        for method in methods:  # warm-up
            method.run()
        times = common.time_rounds(methods, parsed.rounds)
    left = len(pairs) - len(examples)
    notes = [f"{left} pairs with several windows are omitted"] * (left > 0)
    common.report(
        parsed, unit="pair", data=data, rows=times, checks=[check],
        notes=notes + [peers.NO_DATASETS] * (DATASETS not in runs),
        figures={
            "speedup over run_qa": common.speedup(times, DATASETS, OURS),
            "speedup over run_qa with plain lists": common.speedup(times, LISTS, OURS),
        },
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    return common.call(
        run, common.options(__file__, __doc__, rounds=15, pairs=512, model=True), argv
    )


if __name__ == "__main__":
    sys.exit(main())
