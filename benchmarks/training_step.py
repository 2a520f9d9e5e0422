"""Measure a training step, which consists of forward pass, loss, backward pass and optimizer.

    python benchmarks/training_step.py [--bioasq-dir DIR] [--output DIR]

All methods start from the same weights, use no dropout and get batches of 16 windows (or --batch
windows). Our method and "transformers at its best" get the same batches, which group windows
of similar length. Most users of transformers do not group by length, so we also measure random
batches. The batches for transformers are padded before the timing. All windows that are padded to
384 tokens cost the same, so run_qa gets only a quarter of the batches. With the size 24x1024,
batches of 16 windows need more than 24 GB of memory, so use a smaller --batch and fewer --pairs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import common
import peers
import torch

from helpers.config import InputError
from helpers.model.compute import bf16_instructions
from helpers.model.decoding import Reader
from helpers.model.features import Windows, gather, make_windows, training_batches
from helpers.model.step import logits_of, make_optimizer, span_loss

RATE = 1e-5  # does not affect the speed
RUN_QA = "run_qa: padding to 384, eager attention, unfused AdamW"
RUN_QA_5 = "run_qa with transformers 5: padding to 384, SDPA, fused AdamW"
RANDOM = "transformers, random batches: SDPA, padding per batch, fused AdamW"
BEST = "transformers at its best: SDPA, padding per batch, grouped by length, fused AdamW"
OURS, OURS_BF16 = "ours, float32", "ours, bf16 autocast"


class Peer:
    """transformers' model, trained as users train it."""

    def __init__(self, reader: Reader):
        self.model = peers.bert(reader).train()
        parameters = self.model.parameters()
        self.optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0, foreach=False)

    def steps(self, attention: str, fused: bool, batches: Sequence[dict]):
        self.optimizer.param_groups[0]["fused"] = fused  # a second optimizer would take 2.7 GB
        with peers.attention(self.model, attention):
            for batch in batches:
                loss = self.model(**batch).loss
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()


class Ours:
    """The package's own model, loss and optimizer."""

    def __init__(self, reader: Reader):
        self.model = reader.model.train()
        self.optimizer = make_optimizer(self.model.parameters(), RATE, 0.0)

    def loss(self, windows: Windows, rows: Sequence[int], precision: str = "32") -> torch.Tensor:
        batch = gather(windows, rows)
        with common.COMPUTE[precision].autocast():
            logits = logits_of(self.model, batch)
        return span_loss(logits, batch)

    def steps(self, windows: Windows, batches: Sequence[Sequence[int]], precision: str = "32"):
        for rows in batches:
            self.loss(windows, rows, precision).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def _gradient_norm(model: torch.nn.Module) -> float:
    """Return the norm of all gradients, and clear them."""
    norms = [p.grad.double().norm() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return torch.stack(norms).norm().item()


def compare(ours: Ours, peer: Peer, windows: Windows, batches: Sequence) -> list[str]:
    """Compare losses and gradients with those of transformers, for eager attention and SDPA.

    Raise ``InputError`` if a relative difference exceeds 1e-4.
    """
    worst = {"losses": 0.0, "norms of the gradients": 0.0}
    for rows in batches:
        loss = ours.loss(windows, rows)
        loss.backward()
        values = loss.item(), _gradient_norm(ours.model)
        for kind, length in (("eager", peers.MAX_LENGTH), ("sdpa", 0)):
            with peers.attention(peer.model, kind):
                inputs = peers.padded(windows, rows, length), peers.labels(windows, rows)
                theirs = peers.loss_without_padding(peer.model, *inputs)
                theirs.backward()
            others = theirs.item(), _gradient_norm(peer.model)
            for name, a, b in zip(worst, values, others, strict=True):
                worst[name] = max(worst[name], abs(a - b) / abs(a))
    found = ", ".join(f"{value:.1e} in the {name}" for name, value in worst.items())
    if not max(worst.values()) < 1e-4:
        raise InputError(f"our step and transformers' differ by {found}; nothing was timed")
    return [f"{len(batches)} batches, largest relative differences from transformers: {found} "
            "(padding masked in its loss)"]  # fmt: skip


def methods(
    ours: Ours, peer: Peer, windows: Windows, batches: list, size: int
) -> list[common.Method]:
    """Return all methods, after a warm-up step of each."""
    config, lengths = ours.model.config, windows.lengths
    quarter = batches[::4]

    def inputs(rows: Sequence[int], length: int) -> dict:
        return peers.padded(windows, rows, length) | peers.labels(windows, rows)

    mixed = common.random_batches(windows, size)
    long, short, unsorted = (
        [inputs(rows, n) for rows in chosen]
        for chosen, n in ((quarter, peers.MAX_LENGTH), (batches, 0), (mixed, 0))
    )
    runs: list[tuple[str, Callable, list, list, str]] = [
        (RUN_QA, lambda b: peer.steps("eager", False, b), quarter, long, "32"),
        (RUN_QA_5, lambda b: peer.steps("sdpa", True, b), quarter, long, "32"),
        (RANDOM, lambda b: peer.steps("sdpa", True, b), mixed, unsorted, "32"),
        (BEST, lambda b: peer.steps("sdpa", True, b), batches, short, "32"),
        (OURS, lambda b: ours.steps(windows, b), batches, batches, "32"),
    ]
    if bf16_instructions():
        bf16 = (OURS_BF16, lambda b: ours.steps(windows, b, "bf16"), batches, batches, "bf16")
        runs.append(bf16)
    made = []
    for name, run, rows, work, precision in runs:
        run(work[:1])
        flat = [row for batch in rows for row in batch]
        flops = 3 * common.forward_flops(config, lengths[flat])
        method = common.Method(name, lambda r=run, w=work: r(w), len(flat), flops, precision)
        made.append(method)
    return made


def run(parsed) -> None:
    data = common.read_data(parsed)
    reader = common.load_reader(parsed.size)
    examples = common.sample(data.train, parsed.pairs)
    windows = make_windows(examples, reader.tokenizer, training=any(e.spans for e in examples))
    batches = training_batches(windows.lengths, parsed.batch, seed=0, epoch=0)
    peer, ours = Peer(reader), Ours(reader)
    checks = compare(ours, peer, windows, batches[:2])
    rows = common.time_rounds(methods(ours, peer, windows, batches, parsed.batch), parsed.rounds)
    share = next(row["share"] for row in rows if row["name"] == OURS)
    notes = [common.about_padding(windows, batches, parsed.batch)]
    if not bf16_instructions():
        notes.append(common.NO_BF16)
    common.report(
        parsed, unit="window", data=data, rows=rows, checks=checks, notes=notes,
        figures={
            "speedup over run_qa": common.speedup(rows, RUN_QA, OURS),
            "speedup over run_qa with transformers 5": common.speedup(rows, RUN_QA_5, OURS),
            "speedup over transformers with random batches": common.speedup(rows, RANDOM, OURS),
            "speedup over transformers at its best": common.speedup(rows, BEST, OURS),
            "share of the matmul peak": share,
            "speedup of bf16 over float32": common.speedup(rows, OURS, OURS_BF16),
        },
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.options(__file__, __doc__, pairs=256, model=True, contexts=True)
    parser.add_argument("--batch", type=int, default=16, metavar="N",
                        help="windows per batch (default: 16)")  # fmt: skip
    return common.call(run, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
