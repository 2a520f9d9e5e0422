"""The parts "recipe" and "nemo" of the GPU benchmark."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import gpu_data
import torch
from gpu_common import TOLERANCES, Run, free, is_cuda, precision_of, synchronize, train
from lightning.pytorch import Callback

from helpers.config import from_parameters
from helpers.model import step, training
from helpers.model.decoding import Reader
from helpers.model.features import Windows

_LEAST = 6  # minimum number of steps, even if no time is left


class Clock(Callback):
    """A callback that records when each step ends on the device and stops training at a deadline.

    save: the file to which a checkpoint is saved at the deadline, to measure how long this takes.
    """

    def __init__(self, device: torch.device, deadline: float, save: Path | None = None):
        self.device, self.deadline, self.save = device, deadline, save
        self.ends: list = []
        self.save_seconds: float | None = None

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if is_cuda(self.device):
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.ends.append(event)
        else:
            self.ends.append(time.perf_counter())
        if time.monotonic() > self.deadline and len(self.ends) >= _LEAST:
            trainer.should_stop = True
            if self.save:
                synchronize(self.device)
                started = time.perf_counter()
                trainer.save_checkpoint(self.save)
                self.save_seconds = time.perf_counter() - started

    def step_seconds(self) -> list[float]:
        """Return the times between the ends of successive steps, including checkpoint saves."""
        synchronize(self.device)
        pairs = zip(self.ends, self.ends[1:], strict=False)
        if is_cuda(self.device):
            return [a.elapsed_time(b) / 1e3 for a, b in pairs]
        return [b - a for a, b in pairs]


def recipe(run: Run) -> dict:
    """Train with the settings of step B, and predict the five test batches."""
    data, notes = run.texts("abstract"), []
    if run.options.bioasq_dir:
        data, notes = gpu_data.real(run.options.bioasq_dir, run.options.vocab)
    run.say("\n".join([f"data: {data.name}, {data.context}s", *(f"note: {n}" for n in notes)]))
    fast, rows = run.fast(), []
    variants = [("32", 0.1), (fast, 0.1), (fast, 0.0)]
    until = time.monotonic() + 0.85 * max(0.0, run.left())
    windows, save = None, None
    for number, (precision, dropout) in enumerate(variants):
        reader = _reader(run, data, precision, dropout)
        windows = windows or reader.windows(data.train, training=True)
        share = max(0.0, until - time.monotonic()) / (len(variants) - number)
        rows.append(_training(run, reader, windows, share, save))
        save = rows[-1]["save_seconds"]
        del reader
        free(run.device)
    prediction = [_five_batches(run, data, precision) for precision in (fast, "32")]
    return {"data": data.name, "context": data.context, "notes": notes, "windows": len(windows),
            "tokens": len(windows.ids), "training": rows, "prediction": prediction}  # fmt: skip


def _reader(run: Run, data: gpu_data.Data, precision: str, dropout: float) -> Reader:
    settings = from_parameters("biomegatron", dropout=dropout, context=data.context)
    rows = max(len(data.vocab), run.config().vocab_size)
    net = gpu_data.random_model(run.config(vocab_size=rows), str(run.device))
    return data.reader(net, settings, run.compute(precision))


def _training(run: Run, reader: Reader, windows: Windows, seconds: float, save) -> dict:
    """Train until the recipe or the time ends; ``save``: seconds an earlier save took, or None."""
    if is_cuda(run.device):
        torch.cuda.reset_peak_memory_stats(run.device)
    with precision_of(reader.compute), tempfile.TemporaryDirectory() as folder:
        file = None if save else Path(folder) / "measured.ckpt"
        clock = Clock(run.device, time.monotonic() + seconds, file)
        recorder = train(reader, windows, [clock])
    times, done, total = clock.step_seconds(), len(clock.ends), recorder.steps
    middle, save = statistics.median(times), clock.save_seconds or save
    saves = step.SAVES
    if save and save > step.SLOW_SAVE:
        saves = min(saves, 2 + int(middle * total / (step.APART * save)))
    finished = done == total
    whole = sum(times) + middle if finished else middle * total + saves * (save or 0.0)
    compute, dropout = reader.compute, reader.settings.dropout
    row = {
        "precision": compute.precision, "dropout": dropout,
        "attention": compute.attention(dropout), "steps": total, "measured_steps": done,
        "finished": finished, "median_step_ms": 1e3 * middle, "save_seconds": save,
        "minutes": whole / 60, "losses": [row[1] for row in recorder.rows],
        "memory_gb": _peak_gb(run),
    }  # fmt: skip
    kind = "measured" if finished else f"EXTRAPOLATED from {done} of {total} steps"
    saved = f"up to {saves} checkpoints of {save:.1f} s each" if save else "checkpoints"
    memory = f", {row['memory_gb']:.1f} GB" if row["memory_gb"] else ""
    run.say(
        f"step B, {compute.precision}, dropout {dropout}, attention {row['attention']}: "
        f"{row['median_step_ms']:.1f} ms per step, {row['minutes']:.1f} minutes with {saved} "
        f"({kind}){memory}"
    )
    return row


def _peak_gb(run: Run) -> float | None:
    if not is_cuda(run.device):
        return None
    return torch.cuda.max_memory_allocated(run.device) / 1e9


def _five_batches(run: Run, data: gpu_data.Data, precision: str) -> dict:
    """Time the complete prediction of the test batches: windows, logits and n-best lists."""
    reader = _reader(run, data, precision, 0.0)
    if is_cuda(run.device):
        torch.cuda.reset_peak_memory_stats(run.device)
    seconds, pairs = [], 0
    with precision_of(reader.compute):
        reader.predict(data.tests[0][:4], progress=False)  # warm-up
        for batch in data.tests:
            started = time.perf_counter()
            pairs += len(reader.predict(batch, progress=False))  # ends with the logits on the CPU
            seconds.append(time.perf_counter() - started)
    row = {"precision": precision, "pairs": pairs, "seconds": seconds, "memory_gb": _peak_gb(run)}
    memory = f", {row['memory_gb']:.1f} GB" if row["memory_gb"] else ""
    run.say(
        f"prediction of {len(seconds)} test file(s), {pairs} pairs, {precision}: "
        f"{sum(seconds):.2f} s{memory}"
    )
    return row


def nemo(run: Run) -> dict:
    """Train with and without NeMo's model, and check that the losses are equal."""
    if importlib.util.find_spec("nemo") is None:
        run.say("skipped because NeMo is not installed")
        return {"skipped": "NeMo is not installed"}
    data, losses, seconds = run.texts("snippet"), {}, {}
    for name in ("without NeMo", "NeMo"):
        reader = _reader(run, data, run.fast(), 0.1)
        values = {"epochs": 1, "wandb_mode": "disabled", "learning_rate": 1e-5}
        reader.settings = replace(reader.settings, **values)
        examples = data.train[:96]
        with precision_of(reader.compute), tempfile.TemporaryDirectory() as folder:
            if name == "NeMo":
                path = Path(folder) / "run"
                rows = training.fine_tune(reader, examples, path, progress=False).history
            else:
                rows = train(reader, reader.windows(examples, training=True)).rows
        losses[name], seconds[name] = [row[1] for row in rows], rows[-1][3]
        del reader
        free(run.device)
    error = max(abs(a / b - 1) for a, b in zip(*losses.values(), strict=True))
    limit = 10 * TOLERANCES[run.fast()][1]
    text = f"NeMo's model and ours: losses differ by {error:.1e} (limit {limit:.0e})"
    passed = run.verdict(error <= limit, text)
    return {"losses": losses, "seconds": seconds, "error": error, "passed": passed}
