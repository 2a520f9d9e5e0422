"""One training step, and what Lightning's trainer needs to repeat it, all without NeMo.

A step consists of the loss (``span_loss``), the optimizer and the linear schedule. ``SpanTraining``
adds the methods that Lightning calls. ``qa_model.ExtractiveQAModel`` combines it with NeMo's model
class, and ``SpanModule`` is its counterpart without NeMo. ``Recorder`` logs the losses and the dev
scores (``DevCurve``) and saves checkpoints, which ``PlainCheckpoints`` writes. Lightning takes
several seconds to import, so ``training`` and ``checkpoints`` import this module only when they
need it.
"""

from __future__ import annotations

import json
import math
import os
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from helpers.config import InputError
from helpers.io import progress_stream, write_json, write_text
from helpers.model.compute import Compute
from helpers.model.encoder import SpanModel, pad
from helpers.model.features import Batch

_HEADER = ("step", "loss", "learning_rate", "seconds")  # columns of history.csv
DEV_SCORES = ("loss", "sacc", "mrr", "lacc", "pair_em")  # see ``decoding.dev_scores``
_FLUSH = 50  # number of steps whose losses are read together on a GPU
SAVES = 10  # maximum number of resumable checkpoints per run
# On a GPU, training may take only minutes, and saving a checkpoint several seconds. If saving takes
# over SLOW_SAVE seconds, we wait at least APART times as long before we save the next checkpoint.
APART, SLOW_SAVE = 10, 1.0


def logits_of(net: SpanModel, batch: Batch) -> torch.Tensor:
    """Return the logits ``[total_tokens, 2]``, in float32 or a higher precision."""
    logits = net(batch)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def span_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the mean of the start and end cross-entropies over each window's own tokens.

    This is NeMo's ``SpanningLoss`` on padded rows. Filling the padding with minus infinity excludes
    it from the softmax. The loss of the QA models in transformers includes the padding, so it
    depends on the amount of padding.
    """
    start, end = pad(logits, batch, float("-inf")).unbind(-1)  # [windows, longest] each
    return (F.cross_entropy(start, batch.start) + F.cross_entropy(end, batch.end)) / 2


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.AdamW:
    """Return fused AdamW, which is 3.8 times as fast as the default version on our CPU."""
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, eps=1e-8, fused=True)


class LinearSchedule(LRScheduler):
    """A learning rate that rises linearly during the warm-up and then falls linearly to 0.

    It matches NeMo's ``WarmupAnnealing`` and can load the saved state of that class.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, warmup_steps: int, max_steps: int):
        self.warmup_steps, self.max_steps = warmup_steps, max_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        step, warmup = self.last_epoch, self.warmup_steps
        if step <= warmup and warmup > 0:
            share = (step + 1) / (warmup + 1)
        else:
            share = max(0.0, 1 - (step - warmup) / (self.max_steps - warmup))
        return [rate * share for rate in self.base_lrs]


def take_step(
    net: SpanModel, batch: Batch, optimizer: torch.optim.Optimizer, compute: Compute
) -> torch.Tensor:
    """Take one step without Lightning and return the loss, which stays on the device.

    The benchmarks measure this step. Float16 would need loss scaling, which Lightning adds in
    training.
    """
    with compute.autocast():
        loss = span_loss(logits_of(net, batch), batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


class SpanTraining:
    """Training methods of a span model, for a class derived from ``LightningModule``.

    net: the model.
    cfg: has ``seed`` and ``optim`` (``lr``, ``weight_decay``, ``warmup_steps``, ``max_steps``).
    part_losses: the losses of this process since the last full batch; initially empty.
    """

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the logits ``[total_tokens, 2]``, in float32 or a higher precision."""
        return logits_of(self.net, batch)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss of one part of a batch, scaled for Lightning.

        Lightning averages the gradients of all parts, over processes as well as over accumulated
        steps. We want the mean over all windows of the batch, so we weight each part by its share
        of the windows. The dropout masks depend only on the seed, the step and the part, so a
        resumed run reproduces them.
        """
        parts = self.trainer.accumulate_grad_batches
        part = self.trainer.global_rank * parts + batch_idx % parts
        torch.manual_seed(self.cfg.seed * 1_000_003 + self.global_step + (part << 40))
        loss = span_loss(self(batch), batch) * batch.share
        self.part_losses.append(loss.detach())
        return loss * (parts * self.trainer.world_size)

    def configure_optimizers(self):
        """Return the optimizer, and the schedule that Lightning calls after each step."""
        optim = self.cfg.optim
        optimizer = make_optimizer(self.parameters(), optim.lr, optim.weight_decay)
        schedule = LinearSchedule(
            optimizer, warmup_steps=optim.warmup_steps, max_steps=optim.max_steps
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def transfer_batch_to_device(self, batch: Batch, device, dataloader_idx: int) -> Batch:
        """Move the batch for Lightning, which cannot move a batch that is not a tensor."""
        return batch.to(device)


class SpanModule(SpanTraining, LightningModule):
    """A span model for Lightning's trainer that trains exactly like NeMo's model, without NeMo."""

    def __init__(self, net: SpanModel, optim: dict, seed: int):
        super().__init__()
        self.net = net
        self.cfg = SimpleNamespace(seed=seed, optim=SimpleNamespace(**optim))
        self.part_losses: list[torch.Tensor] = []


class DevCurve:
    """The dev scores during training, which are also written to a file.

    rows: dicts with ``step``, ``DEV_SCORES`` and the ``seconds`` that the evaluation took.
    steps: the steps after which to evaluate. The model before training is step 0.
    """

    def __init__(self, path: Path, steps: Iterable[int], scores: Callable[[], dict]):
        """``scores`` evaluates the current model; it must not change weights or random state."""
        self.path, self.steps, self.scores = path, frozenset(steps), scores
        self.rows = read_dev_history(path)

    def forget_after(self, step: int) -> None:
        """Drop the rows after ``step``, the step of a checkpoint; training repeats those steps."""
        self.rows = [row for row in self.rows if row["step"] <= step]

    def evaluate(self, step: int) -> dict:
        """Evaluate the model after ``step``, write all rows to the file, and return the new row."""
        started = time.monotonic()
        found = self.scores()
        scores = {name: round(found[name], 6) for name in DEV_SCORES}
        row = {"step": step, **scores, "seconds": round(time.monotonic() - started, 3)}
        self.rows.append(row)
        write_json(self.path, self.rows)
        return row


class LossNotFinite(InputError):
    """An infinite or NaN loss, which makes the weights useless; ``step`` counts from 1."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Recorder(Callback):
    """A callback that writes history.csv and the checkpoint and shows the loss in a progress bar.

    rows: (step, loss, learning rate, elapsed seconds) per step; the time excludes evaluations.
    before: number of steps that earlier calls took.
    dev: the dev scores to compute during training, if any.

    On a GPU, the losses of up to ``_FLUSH`` steps stay on the device until we read them together,
    because reading a number has to wait for all earlier work.
    """

    def __init__(
        self, history: Path, checkpoint: Path, steps: int, progress: bool,
        dev: DevCurve | None = None,
    ):  # fmt: skip
        self.history, self.checkpoint, self.dev = history, checkpoint, dev
        self.steps, self.progress = steps, progress
        self.before = steps  # Lightning calls no hook if no steps are left
        self.rows = read_history(history) if history.exists() else []
        self.unread: list[tuple[int, torch.Tensor, float, float]] = []  # loss is a tensor
        self.saved_at = self.save_seconds = 0.0
        self.file = self.bar = None

    def on_train_start(self, trainer, module):
        done = self.before = trainer.global_step
        self.rows = self.rows[:done]
        if [row[0] for row in self.rows] != list(range(1, done + 1)):
            raise InputError(
                f"{self.history}: damaged (it lacks steps before the checkpoint at step {done}); "
                f"delete {self.history.parent} and train from scratch"
            )
        # When we saved the checkpoint, Lightning had not yet counted the last part of the batch as
        # completed. Without this correction, it would finish the next batch one part too early.
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        progress.completed = done * trainer.accumulate_grad_batches
        self.started = time.monotonic() - (self.rows[-1][3] if self.rows else 0.0)
        self.every = 1 if module.device.type == "cpu" else _FLUSH
        if trainer.is_global_zero:
            write_text(self.history, "".join(map(_csv_line, [_HEADER, *self.rows])))
            self.file = self.history.open("a", buffering=1)
        # We use plain tqdm because tqdm.auto freezes at 0% in a notebook saved by papermill.
        self.bar = tqdm(
            total=self.steps, initial=done, desc="training", unit="step",
            disable=not self.progress or not trainer.is_global_zero, mininterval=2,
            file=progress_stream(),
        )  # fmt: skip
        if self.dev:
            self.dev.forget_after(done)
            if not done:
                self._evaluate(trainer, 0)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step, loss = trainer.global_step, torch.stack(module.part_losses).sum()
        module.part_losses.clear()
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.unread.append((step, loss, rate, time.monotonic() - self.started))
        saves = self._saves(trainer, step)
        evaluates = self.dev is not None and step in self.dev.steps
        if saves or evaluates or step % self.every == 0:
            self._read(trainer, module)
        if evaluates:
            self._evaluate(trainer, step)
        if saves:  # after the evaluation, so that a resumed run does not skip it
            started = time.monotonic()
            trainer.save_checkpoint(self.checkpoint)
            self.saved_at = time.monotonic()
            self.save_seconds = self.saved_at - started

    def _saves(self, trainer, step: int) -> bool:
        """Return whether to save a checkpoint now; all processes give the same answer."""
        if step == self.steps or step % max(1, self.steps // SAVES):
            return step == self.steps
        waited = time.monotonic() - self.saved_at
        soon = self.save_seconds > SLOW_SAVE and waited < APART * self.save_seconds
        return not trainer.strategy.broadcast(soon)

    def _evaluate(self, trainer, step: int) -> None:
        """Log the dev scores on the first process; the others wait for it in the next step."""
        if trainer.is_global_zero and step not in [row["step"] for row in self.dev.rows]:
            row = self.dev.evaluate(step)
            self.started += row["seconds"]  # the history contains only the time of training
            if trainer.logger:
                scores = {f"dev_{name}": row[name] for name in DEV_SCORES}
                trainer.logger.log_metrics(scores, step)

    def on_exception(self, trainer, module, exception):
        """After an error (such as too little memory), write the losses left on the device."""
        if self.unread and trainer.world_size == 1 and not isinstance(exception, LossNotFinite):
            self._read(trainer, module)

    def _read(self, trainer, module) -> None:
        """Write the sum of the losses of all processes, which have all taken the same steps."""
        losses = torch.stack([loss for _, loss, _, _ in self.unread])
        if trainer.world_size > 1:
            torch.distributed.all_reduce(losses)
        for (step, _, rate, seconds), loss in zip(self.unread, losses.tolist(), strict=True):
            if not math.isfinite(loss):
                raise LossNotFinite(
                    f"training: the loss is {loss} at step {step}; "
                    f"set learning_rate below {module.cfg.optim.lr}",
                    step,
                )
            row = (step, round(loss, 6), rate, round(seconds, 3))
            self.rows.append(row)
            if self.file:
                self.file.write(_csv_line(row))
            if trainer.logger:
                trainer.logger.log_metrics({"train_loss": loss, "learning_rate": rate}, step)
        recent = [row[1] for row in self.rows[-20:]]
        self.bar.set_postfix(loss=f"{sum(recent) / len(recent):.2f}", refresh=False)
        self.bar.update(len(self.unread))
        self.unread.clear()

    def close(self):
        """Close the bar and the file; Lightning has no suitable hook for an interrupted run."""
        for opened in (self.bar, self.file):
            if opened is not None:
                opened.close()


def _csv_line(row: tuple) -> str:
    return ",".join(map(str, row)) + "\n"


def read_history(path: Path) -> list[tuple[int, float, float, float]]:
    """Read the rows of ``history.csv``, except an incomplete last line left by a full disk."""
    try:
        header, *lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        if header != ",".join(_HEADER):
            raise ValueError
        rows = (line.split(",") for line in lines)
        return [(int(a), float(b), float(c), float(d)) for a, b, c, d in rows]
    except ValueError:
        raise InputError(f"{path}: damaged; delete {path.parent} and train from scratch") from None


def read_dev_history(path: Path) -> list[dict]:
    """Read the rows of a ``DevCurve``; return an empty list if the file does not exist."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        return [{name: row[name] for name in ("step", *DEV_SCORES, "seconds")} for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{path}: damaged; delete {path.parent} and train from scratch") from None


class PlainCheckpoints(TorchCheckpointIO):
    """Resumable checkpoints, written completely or not at all, and read without running code."""

    def save_checkpoint(self, checkpoint: dict, path, storage_options=None) -> None:
        """Write only tensors, numbers and strings; NeMo's settings object could run code."""
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        plain = {k: v for k, v in checkpoint.items() if not k.startswith(("hparams", "hyper_"))}
        try:
            torch.save(plain, part)
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # torch may raise RuntimeError for a full disk
            part.unlink(missing_ok=True)
            why = getattr(error, "strerror", None) or "is the disk full?"
            raise InputError(
                f"{path}: cannot be written ({why}); free some disk space and resume the training"
            ) from error

    def load_checkpoint(self, path, map_location=None, weights_only=True) -> dict:
        """Read a checkpoint without running code in it; raise ``InputError`` if it is damaged.

        We ignore Lightning's values of ``map_location`` and (from version 2.6) ``weights_only``.
        """
        try:
            if zipfile.ZipFile(path).testzip():  # torch does not verify the checksums
                raise ValueError("wrong checksum")
            found = torch.load(path, map_location="cpu", weights_only=True)
            if {"state_dict", "optimizer_states", "loops"} <= set(found):
                return found
            raise ValueError("not a training checkpoint")
        except Exception as error:  # zipfile, pickle and torch each raise different errors
            raise InputError(
                f"{path}: damaged, or it contains objects that could run code (none was run); "
                "delete it to train from scratch"
            ) from error
