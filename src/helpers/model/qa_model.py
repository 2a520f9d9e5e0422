"""The NeMo model: our encoder and span head with NeMo's loss, schedule and ``.nemo`` archive.

This module also defines what we pass to Lightning's trainer: ``Recorder`` and ``PlainCheckpoints``.
NeMo 2.4.1 was the last release with NVIDIA's own question-answering classes, which had already
stopped accepting Megatron-BERT. We therefore build on what NeMo 3 still provides: ``ModelPT``,
``SpanningLoss`` and ``WarmupAnnealing``. NeMo takes several seconds to import, so only ``training``
and ``checkpoints`` import this module, and only when they need it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import time
import warnings
import zipfile
from dataclasses import asdict
from pathlib import Path

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback
from omegaconf import DictConfig, OmegaConf
from tokenizers import Tokenizer
from tqdm import tqdm

from helpers.config import InputError
from helpers.io import write_text
from helpers.model.encoder import EncoderConfig, SpanModel, pad
from helpers.model.features import Batch, make_tokenizer, read_vocab

_HEADER = ("step", "loss", "learning_rate", "seconds")  # columns of history.csv
_OLD_NAME = "helpers.qa_model.ExtractiveQAModel"  # target in .nemo files from earlier kit versions
_FLUSH = 50  # steps whose losses are read together on a GPU
_SAVES = 10  # resumable checkpoints per run

# On import, NVIDIA's telemetry library prints a message that it sends nothing.
logging.getLogger("nv_one_logger").setLevel(logging.ERROR)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # hides hundreds of lines about optional parts of NeMo
    from nemo.collections.common.losses import SpanningLoss
    from nemo.core.classes import ModelPT
    from nemo.core.optim.lr_scheduler import WarmupAnnealing
    from nemo.utils import logging as nemo_logging


class ExtractiveQAModel(ModelPT):
    """A model that predicts start and end logits, trained with the mean of the two cross-entropies.

    ``cfg`` contains ``encoder`` (the fields of ``EncoderConfig``), ``tokenizer_file`` (written by
    the tokenizers library; older archives have ``vocab_file`` with one token per line), ``origin``
    (a JSON string that describes the source of the weights; missing in old files) and, for
    training, ``optim`` (``lr``, ``weight_decay``, ``warmup_steps``, ``max_steps``) and ``seed``.
    """

    def __init__(self, cfg: DictConfig, trainer=None):
        super().__init__(cfg=cfg, trainer=trainer)
        # NeMo unpacks an archive into a temporary folder, so we read the file now.
        if cfg.get("tokenizer_file"):
            file = self.register_artifact("tokenizer_file", cfg.tokenizer_file)
            self.tokenizer = Tokenizer.from_file(file)
        else:
            vocab = read_vocab(self.register_artifact("vocab_file", cfg.vocab_file))
            self.tokenizer = make_tokenizer(vocab)
        self.net = SpanModel(EncoderConfig(**cfg.encoder))
        self.loss = SpanningLoss()
        self.origin = dict(json.loads(cfg.get("origin", "{}")))
        self.part_losses: list[torch.Tensor] = []  # of this process, since the last full batch

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the logits ``[total_tokens, 2]``; never in half precision."""
        logits = self.net(batch)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss of one part of a batch, scaled for Lightning.

        Lightning averages the gradients of all parts, over processes as well as over accumulated
        steps. We want the mean over the windows of the whole batch, so each part counts by its
        share of them. Dropout depends only on seed, step and part, so resuming reproduces it.
        """
        parts = self.trainer.accumulate_grad_batches
        part = self.trainer.global_rank * parts + batch_idx % parts
        torch.manual_seed(self.cfg.seed * 1_000_003 + self.global_step + (part << 40))
        loss = self.span_loss(self(batch), batch) * batch.share
        self.part_losses.append(loss.detach())
        return loss * (parts * self.trainer.world_size)

    def span_loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean of the start and end cross-entropies over each window's own tokens.

        NeMo's loss requires padded rows. Padding with minus infinity excludes the padding from the
        softmax. The loss in transformers' QA models includes the padding and so depends on it.
        """
        padded = pad(logits, batch, float("-inf"))
        loss, _, _ = self.loss(
            logits=padded, start_positions=batch.start.clone(), end_positions=batch.end.clone()
        )
        return loss

    def configure_optimizers(self):
        """Return fused AdamW (3.8 times as fast here as the default) and NeMo's linear schedule."""
        optim = self.cfg.optim
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, eps=1e-8, fused=True
        )
        schedule = WarmupAnnealing(
            optimizer, max_steps=optim.max_steps, warmup_steps=optim.warmup_steps
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def transfer_batch_to_device(self, batch: Batch, device, dataloader_idx: int) -> Batch:
        """Move the batch for Lightning, which cannot move a batch that is not a tensor."""
        return batch.to(device)

    def setup_training_data(self, train_data_config=None):
        """Do nothing; NeMo requires this method, but ``training`` passes batches to the trainer."""

    def setup_validation_data(self, val_data_config=None):
        """Do nothing; NeMo requires this method, but ``decoding`` computes the dev scores later."""

    @classmethod
    def list_available_models(cls) -> list:
        """Return no models; NeMo requires this method, but ``helpers.fetch`` gets checkpoints."""
        return []


class LossNotFinite(InputError):
    """An error for an infinite or NaN loss, which makes the weights useless."""


class Recorder(Callback):
    """A callback that writes history.csv and the checkpoint and shows the loss in a progress bar.

    rows: (step, loss, learning rate, elapsed seconds) per step.
    before: number of steps that earlier calls took.

    On a GPU, the losses of up to ``_FLUSH`` steps stay on the device before we read them together,
    because reading a number waits for all the work before it.
    """

    def __init__(self, history: Path, checkpoint: Path, steps: int, progress: bool):
        self.history, self.checkpoint = history, checkpoint
        self.steps, self.progress = steps, progress
        self.before = steps  # Lightning calls no hook if no steps are left
        self.rows = read_history(history) if history.exists() else []
        self.unread: list[tuple[int, torch.Tensor, float, float]] = []  # rows with a loss tensor
        self.file = self.bar = None

    def on_train_start(self, trainer, module):
        done = self.before = trainer.global_step
        self.rows = self.rows[:done]
        if [row[0] for row in self.rows] != list(range(1, done + 1)):
            raise InputError(
                f"{self.history}: damaged (it lacks steps before the checkpoint at step {done}); "
                f"delete {self.history.parent} and train from scratch"
            )
        # When we saved, Lightning had not yet counted the last part of the batch as completed. It
        # would finish the next batch one part too early.
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
        )  # fmt: skip

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step, loss = trainer.global_step, torch.stack(module.part_losses).sum()
        module.part_losses.clear()
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.unread.append((step, loss, rate, time.monotonic() - self.started))
        saves = step % max(1, self.steps // _SAVES) == 0 or step == self.steps
        if saves or step % self.every == 0:
            self._read(trainer, module)
        if saves:
            trainer.save_checkpoint(self.checkpoint)

    def _read(self, trainer, module) -> None:
        """Add up the losses of all processes and write them; the steps are the same in all."""
        losses = torch.stack([loss for _, loss, _, _ in self.unread])
        if trainer.world_size > 1:
            torch.distributed.all_reduce(losses)
        for (step, _, rate, seconds), loss in zip(self.unread, losses.tolist(), strict=True):
            if not math.isfinite(loss):
                raise LossNotFinite(
                    f"training: the loss is {loss} at step {step}; "
                    f"set learning_rate below {module.cfg.optim.lr}"
                )
            row = (step, round(loss, 6), rate, round(seconds, 3))
            self.rows.append(row)
            if self.file:
                self.file.write(_csv_line(row))
            if trainer.logger:
                trainer.logger.log_metrics({"train_loss": loss, "learning_rate": rate}, step - 1)
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
                f"{path}: cannot be written ({why}); free some disk space and repeat the same call"
            ) from error

    def load_checkpoint(self, path, map_location=None) -> dict:
        """Read a checkpoint without running code in it; raise ``InputError`` if it is damaged."""
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


def build(net: SpanModel, tokenizer: Tokenizer, folder: Path, *, optim=None, seed=0, origin=None):
    """Wrap a span model in a NeMo model that shares its weights.

    NeMo stores the tokenizer as a file, so we write it to ``folder/tokenizer.json`` first.
    """
    file = Path(folder) / "tokenizer.json"
    tokenizer.save(str(file))
    # OmegaConf would treat "${" in a file name as a reference, so we escape the dollar sign.
    text = json.dumps(origin or {}).replace("$", "\\u0024")
    cfg = {"encoder": asdict(net.config), "tokenizer_file": str(file), "seed": seed, "origin": text}
    if optim:
        cfg["optim"] = optim
    with torch.device("meta"):  # avoids a second set of random weights
        model = ExtractiveQAModel(OmegaConf.create(cfg))
    model.net = net
    return model


def save_nemo(net: SpanModel, tokenizer: Tokenizer, path: str | Path, origin=None) -> Path:
    """Write a ``.nemo`` archive, which appears under its final name only when complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".nemo-") as folder:
        partial = Path(folder) / path.name
        build(net, tokenizer, Path(folder), origin=origin).save_to(str(partial))
        partial.replace(path)
    return path


def restore_nemo(path: str | Path) -> ExtractiveQAModel:
    """Restore a ``.nemo`` file written by the kit; raise ``InputError`` for any other class.

    NeMo 3 rejects targets outside ``nemo.*`` because a target names code to run. We check that the
    target is this class, and only then remove it and let the class restore itself.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        cfg = ExtractiveQAModel.restore_from(str(path), return_config=True)
    except Exception as error:  # NeMo passes on errors from tarfile, yaml and its own checks
        raise InputError(f"{path}: not a readable .nemo archive ({error})") from error
    ours = f"{ExtractiveQAModel.__module__}.{ExtractiveQAModel.__qualname__}"
    target = cfg.get("target")
    if target not in (ours, _OLD_NAME):
        raise InputError(f"{path}: contains {target}, not {ours}; convert it to a folder first")
    del cfg.target
    try:
        return ExtractiveQAModel.restore_from(
            str(path), override_config_path=cfg, map_location="cpu"
        )
    except Exception as error:  # from tarfile, torch or our own checks
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"{path}: corrupted file ({why}); create or fetch it again") from error


def quiet_nemo() -> None:
    """Make NeMo log only errors, because its other messages would fill a notebook."""
    nemo_logging.setLevel(nemo_logging.ERROR)
