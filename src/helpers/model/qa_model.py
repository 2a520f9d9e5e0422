"""The NeMo model: our encoder and span head with NeMo's loss, schedule and ``.nemo`` archive.

With it come the two parts that Lightning's trainer takes from us: what it records, and how it
keeps a checkpoint. NVIDIA's own question-answering classes ended with NeMo 2.4.1 (and rejected
Megatron-BERT before that), so the model stands on what NeMo 3 still gives: ``ModelPT``,
``SpanningLoss`` and ``WarmupAnnealing``. NeMo takes seconds to import, so only ``training`` and
``checkpoints`` import this module, and only when they need it.
"""

from __future__ import annotations

import csv
import io
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

_HEADER = ("step", "loss", "learning_rate", "seconds")  # of history.csv
_BEFORE_THE_MOVE = "helpers.qa_model.ExtractiveQAModel"  # in files of the flat package
_SAVES = 10  # resumable checkpoints in the course of a run

# NVIDIA's telemetry announces, at import, that it sends nothing.
logging.getLogger("nv_one_logger").setLevel(logging.ERROR)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # hundreds of lines about optional parts of NeMo
    from nemo.collections.common.losses import SpanningLoss
    from nemo.core.classes import ModelPT
    from nemo.core.optim.lr_scheduler import WarmupAnnealing
    from nemo.utils import logging as nemo_logging


class ExtractiveQAModel(ModelPT):
    """Start and end logits per token, trained with the mean of the two cross-entropies.

    ``cfg`` holds ``encoder`` (the fields of ``EncoderConfig``), ``tokenizer_file`` (saved by the
    tokenizers library; older archives have ``vocab_file``, one token per line), ``origin`` (of the
    weights: a JSON object as text, missing in old files) and, for training, ``optim`` (``lr``,
    ``weight_decay``, ``warmup_steps``, ``max_steps``) and ``seed``.
    """

    def __init__(self, cfg: DictConfig, trainer=None):
        super().__init__(cfg=cfg, trainer=trainer)
        # NeMo unpacks an archive into a folder that is gone afterwards, so the file is read now.
        if cfg.get("tokenizer_file"):
            file = self.register_artifact("tokenizer_file", cfg.tokenizer_file)
            self.tokenizer = Tokenizer.from_file(file)
        else:
            vocab = read_vocab(self.register_artifact("vocab_file", cfg.vocab_file))
            self.tokenizer = make_tokenizer(vocab)
        self.net = SpanModel(EncoderConfig(**cfg.encoder))
        self.loss = SpanningLoss()
        self.origin = dict(json.loads(cfg.get("origin", "{}")))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits ``[total_tokens, 2]``, float32."""
        return self.net(batch).float()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """One step. Dropout follows from (seed, step): a resumed run repeats an undisturbed one."""
        torch.manual_seed(self.cfg.seed * 1_000_003 + self.global_step)
        loss = self.span_loss(self(batch), batch)
        # Windows, not tokens, weigh the mean; Lightning cannot count them in an unpadded batch.
        self.log("train_loss", loss, batch_size=len(batch.lengths))
        return loss

    def span_loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean of start and end cross-entropy over each window's own tokens.

        The rows are padded with minus infinity, which takes padding out of the softmax; the loss
        of transformers' QA models leaves it in and so depends on the padding.
        """
        padded = pad(logits, batch.lengths, float("-inf"))
        loss, _, _ = self.loss(
            logits=padded, start_positions=batch.start.clone(), end_positions=batch.end.clone()
        )
        return loss

    def configure_optimizers(self):
        """Fused AdamW (3.8 times faster here than the default) and NeMo's linear schedule."""
        optim = self.cfg.optim
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, eps=1e-8, fused=True
        )
        schedule = WarmupAnnealing(
            optimizer, max_steps=optim.max_steps, warmup_steps=optim.warmup_steps
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def transfer_batch_to_device(self, batch: Batch, device, dataloader_idx: int) -> Batch:
        """Our batch is no tensor, so Lightning is told how to move it."""
        return batch.to(device)

    # The data come as batches from helpers.model.training; NeMo asks for these two all the same.
    def setup_training_data(self, train_data_config=None):
        """Nothing to set up: ``fine_tune`` hands the trainer its batches."""

    def setup_validation_data(self, val_data_config=None):
        """Nothing to set up: dev scores come from ``helpers.model.decoding`` after training."""

    @classmethod
    def list_available_models(cls) -> list:
        """No pretrained models under this class; checkpoints come through ``helpers.fetch``."""
        return []


class Recorder(Callback):
    """Writes history.csv and the checkpoint, and shows a bar with loss and time left."""

    def __init__(self, history: Path, checkpoint: Path, steps: int, progress: bool):
        self.history, self.checkpoint = history, checkpoint
        self.steps, self.progress = steps, progress
        self.every = max(1, steps // _SAVES)
        self.before = steps  # Lightning starts no training when all of them were taken
        self.rows = read_history(history) if history.exists() else []
        self.lost = False  # the loss is not a finite number any more
        self.file = self.bar = None

    def on_train_start(self, trainer, module):
        done = self.before = trainer.global_step
        self.rows = self.rows[:done]
        if [row[0] for row in self.rows] != list(range(1, done + 1)):
            raise InputError(
                f"{self.history}: damaged, it lacks steps before {done}, the checkpoint's; "
                f"delete {self.history.parent} and train anew"
            )
        self.started = time.monotonic() - (self.rows[-1][3] if self.rows else 0.0)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([_HEADER, *self.rows])
        write_text(self.history, text.getvalue())
        self.file = self.history.open("a", buffering=1, newline="")
        # Plain tqdm: the automatic one freezes at 0% in a notebook saved by papermill.
        self.bar = tqdm(
            total=self.steps, initial=done, desc="training", unit="step",
            disable=not self.progress or trainer.global_rank > 0, mininterval=2,
        )  # fmt: skip

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        loss, seconds = float(outputs["loss"]), time.monotonic() - self.started
        step = trainer.global_step
        if not math.isfinite(loss):
            self.lost = True
            raise InputError(
                f"training: the loss is {loss} at step {step}; "
                f"set a lower learning_rate than {trainer.lightning_module.cfg.optim.lr}"
            )
        row = (step, round(loss, 6), rate, round(seconds, 3))
        csv.writer(self.file, lineterminator="\n").writerow(row)
        self.rows.append(row)
        recent = [row[1] for row in self.rows[-20:]]
        self.bar.set_postfix(loss=f"{sum(recent) / len(recent):.2f}", refresh=False)
        self.bar.update()
        if step % self.every == 0 or step == self.steps:
            trainer.save_checkpoint(self.checkpoint)

    def close(self):
        """Lightning calls no hook for that when a training is stopped."""
        for opened in (self.bar, self.file):
            if opened is not None:
                opened.close()


def read_history(path: str | Path) -> list[tuple[int, float, float, float]]:
    """The rows of a ``history.csv``: step, loss, learning rate, seconds so far.

    A last line without its end is left out: the disk was full. Raises ``InputError``.
    """
    path = Path(path)
    try:
        header, *lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        if header != ",".join(_HEADER):
            raise ValueError
        return [(int(a), float(b), float(c), float(d)) for a, b, c, d in csv.reader(lines)]
    except (ValueError, csv.Error):
        raise InputError(f"{path}: damaged; delete {path.parent} and train anew") from None


class PlainCheckpoints(TorchCheckpointIO):
    """Resumable checkpoints that appear whole or not at all, and are read without running code."""

    def save_checkpoint(self, checkpoint: dict, path, storage_options=None) -> None:
        """Write tensors, numbers and text; NeMo's settings object would be code to read."""
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        plain = {k: v for k, v in checkpoint.items() if not k.startswith(("hparams", "hyper_"))}
        try:
            torch.save(plain, part)
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # torch's writer says RuntimeError for both
            part.unlink(missing_ok=True)
            why = getattr(error, "strerror", None) or "is the disk full?"
            raise InputError(
                f"{path}: cannot be written ({why}); make room and start again in the same way"
            ) from error

    def load_checkpoint(self, path, map_location=None) -> dict:
        """Read what ``save_checkpoint`` wrote. Raises ``InputError``; nothing in it is executed."""
        try:
            if zipfile.ZipFile(path).testzip():  # torch does not compare the checksums
                raise ValueError("checksum")
            found = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(found, dict) and {"state_dict", "optimizer_states", "loops"} <= set(
                found
            ):
                return found
        except Exception as error:  # zipfile, pickle and torch each raise their own
            cause = error
        else:
            cause = None
        raise InputError(
            f"{path}: damaged, or it holds objects, which could run code (none was run); "
            "delete it, and training begins again"
        ) from cause


def build(net: SpanModel, tokenizer: Tokenizer, folder: Path, *, optim=None, seed=0, origin=None):
    """Wrap a span model as a NeMo model; the weights are shared, not copied.

    NeMo keeps the tokenizer as a file, so it is written to ``folder/tokenizer.json`` first.
    """
    file = Path(folder) / "tokenizer.json"
    tokenizer.save(str(file))
    # Without a dollar sign, since OmegaConf would take a file's name with "${" for a reference.
    text = json.dumps(origin or {}).replace("$", "\\u0024")
    cfg = {"encoder": asdict(net.config), "tokenizer_file": str(file), "seed": seed, "origin": text}
    if optim:
        cfg["optim"] = optim
    with torch.device("meta"):  # no second set of random weights
        model = ExtractiveQAModel(OmegaConf.create(cfg))
    model.net = net
    return model


def save_nemo(net: SpanModel, tokenizer: Tokenizer, path: str | Path, origin=None) -> Path:
    """Write a ``.nemo`` archive under its final name only when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".nemo-") as folder:
        partial = Path(folder) / path.name
        build(net, tokenizer, Path(folder), origin=origin).save_to(str(partial))
        partial.replace(path)
    return path


def restore_nemo(path: str | Path) -> ExtractiveQAModel:
    """Restore our own ``.nemo``. Raises ``InputError`` when the archive is another class's.

    NeMo 3 refuses targets outside ``nemo.*`` because a target is code to run. We read the target
    first, insist that it is this class, and only then drop it and restore by the class itself.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        cfg = ExtractiveQAModel.restore_from(str(path), return_config=True)
    except Exception as error:  # NeMo raises whatever tarfile, yaml or its own checks raise
        raise InputError(f"{path}: not a readable .nemo archive ({error})") from error
    ours = f"{ExtractiveQAModel.__module__}.{ExtractiveQAModel.__qualname__}"
    target = cfg.get("target")
    if target not in (ours, _BEFORE_THE_MOVE):
        raise InputError(f"{path}: holds a {target}, not a {ours}; convert it to a folder first")
    del cfg.target
    try:
        return ExtractiveQAModel.restore_from(
            str(path), override_config_path=cfg, map_location="cpu"
        )
    except Exception as error:  # whatever tarfile, torch or the model's own checks raise
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"{path}: damaged inside, make or fetch it again ({why})") from error


def quiet_nemo() -> None:
    """Keep NeMo's log to errors; its information lines bury a notebook."""
    nemo_logging.setLevel(nemo_logging.ERROR)
