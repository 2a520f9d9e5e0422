"""Tables for notebook 03: the cost of training in time and memory, and the shipped sweep."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from helpers.config import Settings, from_parameters
from helpers.model import compute
from helpers.model.compute import Compute
from helpers.model.decoding import Reader
from helpers.model.encoder import EncoderConfig
from helpers.model.features import Batch, Windows, gather
from helpers.model.memory import Memory, forward_flops, gpu_path, training_memory

# Peak rates of dense matrix products in TFLOP/s for each precision, from NVIDIA's data sheets for
# the T4, the A100 (SXM) and the H100 (SXM).
GPUS = {
    "T4": {"32": 8.1, "16": 65.0},
    "A100": {"32": 19.5, "tf32": 156.0, "bf16": 312.0},
    "H100": {"32": 67.0, "tf32": 494.0, "bf16": 989.0},
}
_MOST_WORK = 1e12  # floating-point operations per measurement on a CPU, which take several seconds
SHARE = 0.4  # share of the peak that we assume for a GPU; large models rarely reach more
# The minimum time of a training step of the 345M model on a GPU, however few tokens it has:
# starting its 1,700 kernels takes this long. Measured on an H200 (docs/results/gpu).
_STEP_SECONDS = 0.05
RECIPE = (
    "context", "epochs", "batch_size", "learning_rate", "warmup_fraction", "weight_decay",
    "dropout", "precision", "max_length", "step", "max_query", "nbest", "max_answer",
)  # fmt: skip


def recipe(settings: Settings) -> list[dict]:
    """Compare a run's settings with step B of NVIDIA's recipe (profile ``biomegatron``)."""
    published = from_parameters("biomegatron")
    rows = [(name, str(getattr(published, name)), str(getattr(settings, name))) for name in RECIPE]
    return [
        {
            "setting": name,
            "NVIDIA": theirs,
            "this run": ours,
            "": "" if theirs == ours else "differs",
        }
        for name, theirs, ours in rows
    ]


def step_times(
    reader: Reader, windows: Windows, rows: Sequence[int], rounds: int = 2
) -> list[dict]:
    """Time forward and backward passes in several ways, without changing the model.

    ``windows`` are training windows, and ``rows`` selects some of them. We measure with and without
    padding to ``max_length`` in float32 and, if the hardware has bf16, without padding in bf16. The
    variants take turns, and the first turn is not counted. Times are medians. On a CPU, we use
    fewer windows if the model is large.
    """
    device, longest = torch.device(reader.compute.device), reader.settings.max_length
    if device.type == "cpu":
        work = 3 * forward_flops(reader.model.config, [longest])
        rows = rows[: max(1, int(_MOST_WORK / work))]
    exact = gather(windows, rows)
    ways = {("without padding", p): exact for p in _precisions(device)}
    ways[f"padded to {longest}", "32"] = _padded(exact, longest)
    taken: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way, batch in ways.items():
            taken[way].append(_seconds(reader, batch.to(device), way[1]))
    return [
        {
            "batch": how,
            "precision": precision,
            "tokens computed": sum(ways[how, precision].lengths),
            "seconds": statistics.median(seconds[1:]),
            "useful tokens per second": round(len(exact.ids) / statistics.median(seconds[1:])),
        }
        for (how, precision), seconds in taken.items()
    ]


def _precisions(device: torch.device) -> list[str]:
    if device.type == "cuda":
        return ["32", *["bf16"] * (torch.cuda.get_device_capability(device) >= (8, 0))]
    return ["32", *["bf16"] * (device.type == "cpu" and bool(compute.bf16_instructions()))]


def _padded(batch: Batch, longest: int) -> Batch:
    """Return the batch with padding treated as text, which costs as much as real padding."""

    def pad(values: torch.Tensor) -> torch.Tensor:
        parts = values.split(batch.lengths)
        return torch.cat([F.pad(part, (0, longest - len(part))) for part in parts])

    count = len(batch.lengths)
    positions = torch.arange(longest).repeat(count)
    return Batch.pack(
        pad(batch.ids),
        pad(batch.token_types),
        positions,
        (longest,) * count,
        batch.start,
        batch.end,
    )


def _seconds(reader: Reader, batch: Batch, precision: str) -> float:
    from helpers.model.step import logits_of, span_loss  # imports Lightning

    where = replace(reader.compute, precision=precision)
    _wait(where)
    started = time.perf_counter()
    with where.autocast():
        loss = span_loss(logits_of(reader.model, batch), batch)
    loss.backward()
    _wait(where)
    seconds = time.perf_counter() - started
    reader.model.zero_grad(set_to_none=True)
    return seconds


def _wait(where: Compute) -> None:
    if where.device.startswith("cuda"):
        torch.cuda.synchronize()


def prices(
    reader: Reader, lengths: np.ndarray, measured: Sequence[dict], large: EncoderConfig
) -> list[dict]:
    """Return the cost of training on windows of these ``lengths`` on different machines.

    ``measured`` is the result of ``step_times`` for the reader's model. For the ``large`` model, we
    compute all times as the floating-point operations of all epochs (three times ``forward_flops``)
    divided by the rate that we measured here, or by ``SHARE`` × a GPU's peak. On a GPU, each step
    takes at least ``_STEP_SECONDS``.
    """
    settings, small = reader.settings, reader.model.config
    batch = np.sort(lengths)[-settings.batch_size :]
    work = 3 * forward_flops(large, lengths) * settings.epochs
    ratio = forward_flops(large, lengths) / forward_flops(small, lengths)
    tokens = int(lengths.sum()) * settings.epochs
    least = _STEP_SECONDS * settings.epochs * math.ceil(len(lengths) / settings.batch_size)
    rows, others = [], []
    for row in measured:
        if row["batch"] == "without padding":
            taken, precision = tokens / row["useful tokens per second"], row["precision"]
            path = replace(reader.compute, precision=precision).attention(settings.dropout)
            memory = _memory(small, batch, settings, precision, path)
            rows.append(_price("this run's", "this machine", precision, taken, memory, "measured"))
            memory = _memory(large, batch, settings, precision, path)
            taken *= ratio
            others.append(_price("345M", "this machine", precision, taken, memory, "computed"))
    for gpu, peaks in GPUS.items():
        for precision, peak in peaks.items():
            taken = max(least, work / (SHARE * peak * 1e12))
            path = "padded" if gpu == "T4" else gpu_path(precision, settings.dropout)
            memory = _memory(large, batch, settings, precision, path)
            others.append(_price("345M", gpu, precision, taken, memory, "computed"))
    return rows + others


def _memory(config, batch, settings: Settings, precision: str, path: str) -> Memory:
    return training_memory(
        config, batch, precision=precision, dropout=settings.dropout,
        activation_checkpointing=settings.activation_checkpointing,
        accumulate=settings.accumulate, path=path,
    )  # fmt: skip


def _price(model, machine, precision, seconds, memory: Memory, source) -> dict:
    scale, unit = (3600, "h") if seconds >= 3600 else (60, "min") if seconds >= 60 else (1, "s")
    return {
        "model": model, "machine": machine, "precision": precision,
        "training time": f"{seconds / scale:.2g} {unit}", "memory": f"{memory.total / 1e9:.1f} GB",
        "time is": source,
    }  # fmt: skip


def shipped_sweep() -> pd.DataFrame:
    """Return the dev curves of three learning rates with the profile ``mini``, from a file.

    ``batch.compare_values("learning_rate", [6e-5, 2e-4, 6e-4], settings)`` returns such a table.
    """
    return pd.read_csv(Path(__file__).with_name("learning_rates.csv"))
