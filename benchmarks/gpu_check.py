"""The parts "check" and "sync" of the GPU benchmark: correctness and synchronization."""

from __future__ import annotations

import copy
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gpu_data
import numpy as np
import torch
from gpu_common import TOLERANCES, Run, attention, free, is_cuda, precision_of, synchronize, train
from lightning.pytorch import Callback

from helpers.config import from_parameters
from helpers.model import step
from helpers.model.compute import Compute
from helpers.model.decoding import compute_logits
from helpers.model.encoder import EncoderConfig, SpanModel
from helpers.model.features import Batch, Windows, gather

_FLOAT16_SCALE = 1024.0  # scales the loss in float16 so that small gradients do not become 0
_NAMES = ("logits", "loss", "gradients")


def check(run: Run) -> dict:
    """Compare logits, losses and gradients with those on the CPU in float32."""
    small = {"vocab_size": 1000, "hidden": 256, "layers": 4, "heads": 4, "feed_forward": 1024}
    megatron = EncoderConfig(**small, gelu="tanh")
    bert = EncoderConfig(**small | {"heads": 8}, norm_first=False, epsilon=1e-12)
    ragged = (5, 17, 64, 64, 130, 384)
    rows = _check_model(run, "Megatron-BERT 4 x 256", megatron, ragged)
    rows += _check_model(run, "BERT 4 x 256, 8 heads", bert, ragged)
    rows += _check_loop(run, megatron)
    large = run.config()
    name = f"Megatron-BERT {large.layers} x {large.hidden}"
    rows += _check_model(run, name, large, (23, 40, 71, 71))
    return {"rows": rows, "failed": sum(not row["passed"] for row in rows)}


def _gradients(net: SpanModel, batch: Batch, compute: Compute) -> list[torch.Tensor]:
    """Return the logits, the loss and all gradients of the kit's own step, without the update."""
    scale = _FLOAT16_SCALE if compute.precision == "16" else 1.0
    net.zero_grad()
    with compute.autocast():
        logits = step.logits_of(net, batch)
        loss = step.span_loss(logits, batch)
    (loss * scale).backward()
    return [logits.detach(), loss.detach(), *(p.grad / scale for p in net.parameters())]


def _check_model(run: Run, name: str, config: EncoderConfig, lengths: Sequence[int]) -> list[dict]:
    """Compare every attention path and precision with the CPU in float32."""
    net = gpu_data.random_model(config, "cpu").train()
    batch = gpu_data.random_batch(lengths, config.vocab_size)
    reference = [tensor.to(run.device) for tensor in _gradients(net, batch, Compute())]
    net.zero_grad()
    net = copy.deepcopy(net).to(run.device)
    moved, rows = batch.to(run.device), []
    cases = [(path, precision, path) for path, precision in run.paths()]
    for path, precision, shown in [*cases, (None, run.fast(), "activation checkpointing")]:
        net.encoder.recompute = path is None
        with precision_of(run.compute(precision)) as compute, attention(path):
            found = _gradients(net, moved, compute)
        row = {"model": name, "attention": shown, "precision": precision}
        rows.append(_judge(run, row | _errors(net, found, reference)))
        del found
    for precision in run.precisions():
        with precision_of(run.compute(precision)) as compute:
            found = torch.from_numpy(compute_logits(net, _as_windows(batch), compute=compute))
        row = {"model": name, "attention": f"prediction, {compute.attention()}"}
        error = _relative(found, reference[0].cpu())
        rows.append(_judge(run, row | {"precision": precision, "errors": {"logits": error}}))
    del net, moved, reference
    free(run.device)
    return rows


def _relative(found: torch.Tensor, reference: torch.Tensor) -> float:
    return float((found - reference).double().norm() / reference.double().norm())


def _errors(net: SpanModel, found: list[torch.Tensor], reference: list[torch.Tensor]) -> dict:
    """Return norm(difference) / norm(reference) for the logits, the loss and the gradients."""
    pairs = list(zip(found, reference, strict=True))
    wrong = torch.stack([(a - b).double().norm() for a, b in pairs])
    right = torch.stack([b.double().norm() for _, b in pairs])
    whole = right[2:].norm()
    # A gradient that is nearly 0 has no meaningful relative error.
    each = (wrong[2:] / torch.maximum(right[2:], 1e-3 * whole)).tolist()
    names = [name for name, _ in net.named_parameters()]
    worst = max(range(len(each)), key=each.__getitem__)
    errors = [wrong[0] / right[0], wrong[1] / right[1], wrong[2:].norm() / whole]
    return {
        "errors": dict(zip(_NAMES, map(float, errors), strict=True)),
        "largest_logit_difference": float((found[0] - reference[0]).abs().max()),
        "worst_gradient": [names[worst], each[worst]],
    }


def _judge(run: Run, row: dict, factor: float = 1.0) -> dict:
    """Compare the errors of a row with the tolerances of its precision, and print the row."""
    limits = dict(zip(_NAMES, TOLERANCES[row["precision"]], strict=True))
    row["tolerances"] = {name: factor * limits[name] for name in row["errors"]}
    row["passed"] = all(error <= row["tolerances"][name] for name, error in row["errors"].items())
    text = ", ".join(
        f"{name} {error:.1e} (limit {row['tolerances'][name]:.0e})"
        for name, error in row["errors"].items()
    )
    if "largest_logit_difference" in row:
        text += f", largest logit difference {row['largest_logit_difference']:.1e}"
    run.verdict(row["passed"], f"{row['model']}, {row['attention']}, {row['precision']}: {text}")
    if not row["passed"] and "worst_gradient" in row:
        run.say("     worst gradient: {} {:.1e}".format(*row["worst_gradient"]))
    return row


def _as_windows(batch: Batch) -> Windows:
    """Convert a batch to windows for ``compute_logits``, which makes its own batches."""
    flat = {name: getattr(batch, name).numpy() for name in ("ids", "token_types", "positions")}
    token, window = (np.zeros(len(of), np.int64) for of in (batch.ids, batch.lengths))
    return Windows(
        **flat, chars=np.stack([token, token], 1), token=token, can_start=token == 0,
        literal=token == 0, unique=token == 0,
        bounds=batch.bounds.numpy().astype(np.int64), pair=window, start=window, end=window,
        detokenizers=(),
    )  # fmt: skip


def _check_loop(run: Run, config: EncoderConfig, steps: int = 4) -> list[dict]:
    """Compare the losses of a few steps of Lightning's loop with those on the CPU."""
    data, rows, reference = run.texts("snippet"), [], []
    config = replace(config, vocab_size=len(data.vocab))
    here = str(run.device)
    cases = [(here, precision, 1) for precision in run.precisions()]
    for device, precision, accumulate in [("cpu", "32", 1), *cases, (here, "32", 2)]:
        values = {"learning_rate": 1e-4, "batch_size": 6, "epochs": 1, "accumulate": accumulate}
        net = gpu_data.random_model(config, "cpu")
        reader = data.reader(net, from_parameters(**values), Compute(device, precision))
        windows = reader.windows(data.train, training=True).part(0, 6 * steps)
        with precision_of(reader.compute):
            losses = [row[1] for row in train(reader, windows).rows]
        reference = reference or losses
        error = max(abs(a / b - 1) for a, b in zip(losses, reference, strict=True))
        where = f"{device}, accumulate={accumulate}"
        row = {"model": "Lightning's loop, 4 x 256", "attention": where, "precision": precision,
               "losses": losses, "errors": {"loss": error}}  # fmt: skip
        rows.append(_judge(run, row, factor=10))  # errors accumulate over the steps
    return rows


# ---- sync: where does the CPU wait for the GPU?


@contextmanager
def waits(device: torch.device, places: Counter, at_once: bool = True) -> Iterator[None]:
    """Count synchronizations by place; with ``at_once=False``, a callback starts the counting."""

    def note(message, category, filename, lineno, file=None, line=None):
        if "called a synchronizing" in str(message):
            stack = traceback.extract_stack()[:-1]
            ours = [f for f in stack if "helpers" in Path(f.filename).parts]
            caller = ours[-1] if ours else stack[0]
            place = f"{short(filename)}:{lineno}, from {short(caller.filename)}:{caller.lineno}"
            places[place] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        if at_once:
            watch(device, True)
        try:
            yield
        finally:
            watch(device, False)


def watch(device: torch.device, on: bool) -> None:
    """Turn on or off PyTorch's warnings about places where the CPU waits for the GPU."""
    if is_cuda(device):
        torch.cuda.set_sync_debug_mode("warn" if on else "default")


def short(path: str) -> str:
    """Shorten a path so that it does not contain the folders of this machine."""
    parts = Path(path).parts
    for root in ("site-packages", "src"):
        if root in parts:
            return "/".join(parts[len(parts) - parts[::-1].index(root) :])
    return Path(path).name


class Watch(Callback):
    """A callback that looks for synchronizations from step ``first`` through step ``last``."""

    def __init__(self, device: torch.device, first: int, last: int):
        self.device, self.first, self.last = device, first, last

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == self.first:
            watch(self.device, True)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == self.last:
            watch(self.device, False)


def sync(run: Run) -> dict:
    """List the synchronizations in a step, in Lightning's loop and in a prediction."""
    data, found = run.texts("abstract"), {}
    config = run.config(vocab_size=len(data.vocab))
    net = gpu_data.random_model(replace(config, layers=min(4, config.layers)), str(run.device))
    settings = from_parameters(batch_size=6, epochs=1, learning_rate=1e-6)
    reader = data.reader(net, settings, run.compute(run.fast()))
    windows = reader.windows(data.train[:48], training=True).part(0, 24)
    batch = gather(windows, range(12))
    optimizer = step.make_optimizer(net.parameters(), 1e-6, 0.0)

    def take() -> None:
        net.train()
        step.take_step(net, batch.to(run.device), optimizer, reader.compute)

    def predict() -> None:
        compute_logits(net, windows, compute=reader.compute)

    for what, work in {"a training step, with the copy of its batch": take,
                       "a prediction, with the copy of its result": predict}.items():  # fmt: skip
        for _ in range(2):  # warm-up
            work()
        synchronize(run.device)
        places: Counter = Counter()
        with waits(run.device, places):
            work()
        found[what] = dict(places)
    places = Counter()
    later = Watch(run.device, 1, 2)
    train(reader, windows, [later], watch=lambda: waits(run.device, places, False), saves=False)
    found["two steps of Lightning's loop"] = dict(places)
    for what, where in found.items():
        run.say(f"{what}: {sum(where.values())} synchronizations")
        for place, count in where.items():
            run.say(f"    {count} × {place}")
    return {"precision": run.fast(), "found": found}
