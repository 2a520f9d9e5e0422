"""Measure the forward passes of prediction, from windows to the logits of every token.

    python benchmarks/prediction.py [--bioasq-dir DIR] [--output DIR]

All methods use the same weights and the same windows. The times do not include the features or the
search for the best spans, which features.py and nbest.py measure. The batches for transformers are
padded before the timing. "transformers at its best" gets the windows in batches of 16, sorted by
length. Most users of transformers do not sort them, so we also measure random batches. All windows
that are padded to 384 tokens cost the same, so run_qa gets only a quarter of the windows, in
batches of eight.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import common
import numpy as np
import peers
import torch

from helpers.config import InputError
from helpers.data.squad import Example
from helpers.model.compute import bf16_instructions
from helpers.model.decoding import Reader, compute_logits, nbest
from helpers.model.features import Windows, make_windows, prediction_batches

RUN_QA = "run_qa: padding to 384, eager attention"
RUN_QA_5 = "run_qa with transformers 5: padding to 384, SDPA"
RANDOM = "transformers, random batches: SDPA, padding per batch"
BEST = "transformers at its best: SDPA, padding per batch, sorted by length"
OURS, OURS_BF16 = "ours, float32", "ours, bf16 autocast"
RUN_QA_BATCH = 8  # run_qa's default
BATCH = 16  # for transformers at its best; 8 and 32 took the same time within 6%


def predict(model, attention: str, batches: Sequence[dict]) -> list[np.ndarray]:
    """Return transformers' logits for each batch, without the padding."""
    with torch.inference_mode(), peers.attention(model, attention):
        return [peers.logits(model, batch).numpy() for batch in batches]


def ours(reader: Reader, windows: Windows, precision: str = "32") -> np.ndarray:
    return compute_logits(reader.model, windows, compute=common.COMPUTE[precision])


def _sorted_batches(lengths: np.ndarray) -> list[list[int]]:
    order = np.argsort(-lengths, kind="stable").tolist()
    return [order[low : low + BATCH] for low in range(0, len(order), BATCH)]


def _tops(windows: Windows, logits: np.ndarray, examples: Sequence[Example]) -> list[tuple]:
    found = nbest(windows, logits, examples)
    return [(best[0].start, best[0].end) if best else () for best in found]


def compare(reader: Reader, model, windows: Windows, examples: Sequence[Example]) -> list[str]:
    """Compare all logits and the best span of every pair with those of transformers.

    Raise ``InputError`` if a logit differs by more than 1e-3 or a best span differs.
    """
    mine, theirs = ours(reader, windows), np.empty((len(windows.ids), 2), np.float32)
    plan = prediction_batches(windows.lengths)
    found = predict(model, "sdpa", [peers.padded(windows, rows) for rows in plan])
    for rows, logits in zip(plan, found, strict=True):
        bounds = np.cumsum(windows.lengths[rows])[:-1]
        for row, own in zip(rows, np.split(logits, bounds), strict=True):
            theirs[windows.bounds[row] : windows.bounds[row + 1]] = own
    rows = plan[0][:RUN_QA_BATCH]  # the longest windows
    eager = predict(model, "eager", [peers.padded(windows, rows, peers.MAX_LENGTH)])[0]
    same = np.concatenate([mine[windows.bounds[r] : windows.bounds[r + 1]] for r in rows])
    apart = {"SDPA": np.abs(mine - theirs).max(), "eager": np.abs(same - eager).max()}
    tops = _tops(windows, mine, examples)
    equal = sum(a == b for a, b in zip(tops, _tops(windows, theirs, examples), strict=True))
    checks = [f"largest difference from transformers' logits: {apart['SDPA']:.1e} (SDPA, all "
              f"windows), {apart['eager']:.1e} (eager, {len(rows)} windows); the best span is the "
              f"same for {equal} of {len(examples)} pairs"]  # fmt: skip
    if not max(apart.values()) < 1e-3 or equal < len(examples):
        raise InputError(f"{checks[0]}; nothing was timed")
    if bf16_instructions():
        bf16 = ours(reader, windows, "bf16")
        equal = sum(a == b for a, b in zip(tops, _tops(windows, bf16, examples), strict=True))
        checks.append(f"bf16 and float32: largest difference in the logits "
                      f"{np.abs(mine - bf16).max():.1e}; the best span is the same for {equal} of "
                      f"{len(examples)} pairs (random span head)")  # fmt: skip
    return checks


def methods(reader: Reader, model, windows: Windows) -> list[common.Method]:
    """Return all methods, after a warm-up."""
    config, lengths = reader.model.config, windows.lengths
    plan, mixed = _sorted_batches(lengths), common.random_batches(windows, BATCH)
    some = np.random.default_rng(0).permutation(len(windows))[: -(-len(windows) // 4)]
    parts = [some[i : i + RUN_QA_BATCH].tolist() for i in range(0, len(some), RUN_QA_BATCH)]
    long = [peers.padded(windows, rows, peers.MAX_LENGTH) for rows in parts]
    short, unsorted = ([peers.padded(windows, rows) for rows in b] for b in (plan, mixed))
    made = []

    def add(name: str, run: Callable[[], object], rows: Sequence[int], precision: str = "32"):
        flops = common.forward_flops(config, lengths[rows])
        made.append(common.Method(name, run, len(rows), flops, precision))

    for kind in ("eager", "sdpa"):
        predict(model, kind, long[:1])
    predict(model, "sdpa", short[:1])
    everything = range(len(windows))
    add(RUN_QA, lambda: predict(model, "eager", long), some)
    add(RUN_QA_5, lambda: predict(model, "sdpa", long), some)
    add(RANDOM, lambda: predict(model, "sdpa", unsorted), everything)
    add(BEST, lambda: predict(model, "sdpa", short), everything)
    add(OURS, lambda: ours(reader, windows), everything)
    if bf16_instructions():
        add(OURS_BF16, lambda: ours(reader, windows, "bf16"), everything, "bf16")
    return made


def run(parsed) -> None:
    data = common.read_data(parsed)
    reader = common.load_reader(parsed.size)
    examples = common.sample(data.test, parsed.pairs)
    windows = make_windows(examples, reader.tokenizer)
    model = peers.bert(reader)
    checks = compare(reader, model, windows, examples)
    rows = common.time_rounds(methods(reader, model, windows), parsed.rounds)
    notes = [common.about_padding(windows, _sorted_batches(windows.lengths), BATCH)]
    if not bf16_instructions():
        notes.append(common.NO_BF16)
    common.report(
        parsed, unit="window", data=data, rows=rows, checks=checks, notes=notes,
        figures={
            "speedup over run_qa": common.speedup(rows, RUN_QA, OURS),
            "speedup over run_qa with transformers 5": common.speedup(rows, RUN_QA_5, OURS),
            "speedup over transformers with random batches": common.speedup(rows, RANDOM, OURS),
            "speedup over transformers at its best": common.speedup(rows, BEST, OURS),
            "share of the matmul peak": next(r["share"] for r in rows if r["name"] == OURS),
            "speedup of bf16 over float32": common.speedup(rows, OURS, OURS_BF16),
        },
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    return common.call(
        run, common.options(__file__, __doc__, rounds=5, pairs=512, model=True, contexts=True), argv
    )


if __name__ == "__main__":
    sys.exit(main())
