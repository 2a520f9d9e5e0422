"""The NeMo model: our encoder and span head with NeMo's loss, schedule and ``.nemo`` archive.

It also holds what Lightning's trainer gets from us: ``Recorder`` and ``PlainCheckpoints``.
NVIDIA's own question-answering classes ended with NeMo 2.4.1 (and rejected Megatron-BERT before
that), so we build on what NeMo 3 still provides: ``ModelPT``, ``SpanningLoss`` and
``WarmupAnnealing``. NeMo takes seconds to import, so only ``training`` and ``checkpoints`` import
this module, and only when they need it.
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

_HEADER = ("step", "loss", "learning_rate", "seconds")  # of history.csv
_OLD_NAME = "helpers.qa_model.ExtractiveQAModel"  # the target in .nemo files of earlier versions
_SAVES = 10  # resumable checkpoints per run

# NVIDIA's telemetry prints, at import, that it sends nothing.
logging.getLogger("nv_one_logger").setLevel(logging.ERROR)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # hundreds of lines about optional parts of NeMo
    from nemo.collections.common.losses import SpanningLoss
    from nemo.core.classes import ModelPT
    from nemo.core.optim.lr_scheduler import WarmupAnnealing
    from nemo.utils import logging as nemo_logging


class ExtractiveQAModel(ModelPT):
    """Start and end logits per token, trained with the mean of the two cross-entropies.

    ``cfg`` holds ``encoder`` (the fields of ``EncoderConfig``), ``tokenizer_file`` (written by the
    tokenizers library; older archives have ``vocab_file``, one token per line), ``origin`` (of the
    weights: a JSON object as text, missing in old files) and, for training, ``optim`` (``lr``,
    ``weight_decay``, ``warmup_steps``, ``max_steps``) and ``seed``.
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

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits ``[total_tokens, 2]``, float32."""
        return self.net(batch).float()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """One step. Its dropout depends on seed and step only, so a resumed run repeats it."""
        torch.manual_seed(self.cfg.seed * 1_000_003 + self.global_step)
        loss = self.span_loss(self(batch), batch)
        # Windows, not tokens, weigh the mean; Lightning cannot count them in an unpadded batch.
        self.log("train_loss", loss, batch_size=len(batch.lengths))
        return loss

    def span_loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean of start and end cross-entropy over each window's own tokens.

        NeMo's loss wants padded rows. Padding them with minus infinity takes the padding out of
        the softmax; the loss of transformers' QA models leaves it in and so depends on it.
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
        """Lightning cannot move our batch, which is not a tensor."""
        return batch.to(device)

    def setup_training_data(self, train_data_config=None):
        """NeMo requires this method; ``training`` gives its batches to the trainer."""

    def setup_validation_data(self, val_data_config=None):
        """NeMo requires this method; ``decoding`` computes the dev scores after training."""

    @classmethod
    def list_available_models(cls) -> list:
        """NeMo requires this method; ``helpers.fetch`` downloads pretrained checkpoints."""
        return []


class LossNotFinite(InputError):
    """The loss is infinite or not a number, so the weights are useless."""


class Recorder(Callback):
    """Writes history.csv and the checkpoint, and shows a bar with the loss and the time left.

    rows: (step, loss, learning rate, seconds so far) per step; before: steps of earlier calls.
    """

    def __init__(self, history: Path, checkpoint: Path, steps: int, progress: bool):
        self.history, self.checkpoint = history, checkpoint
        self.steps, self.progress = steps, progress
        self.before = steps  # Lightning calls no hook if no step is left
        self.rows = _read_history(history) if history.exists() else []
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
        write_text(self.history, "".join(map(_csv_line, [_HEADER, *self.rows])))
        self.file = self.history.open("a", buffering=1)
        # Plain tqdm: the automatic one freezes at 0% in a notebook saved by papermill.
        self.bar = tqdm(
            total=self.steps, initial=done, desc="training", unit="step",
            disable=not self.progress or trainer.global_rank > 0, mininterval=2,
        )  # fmt: skip

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        step, loss = trainer.global_step, float(outputs["loss"])
        if not math.isfinite(loss):
            raise LossNotFinite(
                f"training: the loss is {loss} at step {step}; "
                f"set a lower learning_rate than {module.cfg.optim.lr}"
            )
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        row = (step, round(loss, 6), rate, round(time.monotonic() - self.started, 3))
        self.file.write(_csv_line(row))
        self.rows.append(row)
        recent = [row[1] for row in self.rows[-20:]]
        self.bar.set_postfix(loss=f"{sum(recent) / len(recent):.2f}", refresh=False)
        self.bar.update()
        if step % max(1, self.steps // _SAVES) == 0 or step == self.steps:
            trainer.save_checkpoint(self.checkpoint)

    def close(self):
        """Close the bar and the file; Lightning calls no hook that fits an interrupted run."""
        for opened in (self.bar, self.file):
            if opened is not None:
                opened.close()


def _csv_line(row: tuple) -> str:
    return ",".join(map(str, row)) + "\n"


def _read_history(path: Path) -> list[tuple[int, float, float, float]]:
    """The rows of a ``history.csv``, without an incomplete last line, which a full disk leaves."""
    try:
        header, *lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        if header != ",".join(_HEADER):
            raise ValueError
        rows = (line.split(",") for line in lines)
        return [(int(a), float(b), float(c), float(d)) for a, b, c, d in rows]
    except ValueError:
        raise InputError(f"{path}: damaged; delete {path.parent} and train anew") from None


class PlainCheckpoints(TorchCheckpointIO):
    """Resumable checkpoints that are written whole or not at all, and read without running code."""

    def save_checkpoint(self, checkpoint: dict, path, storage_options=None) -> None:
        """Write tensors, numbers and text; NeMo's settings object would be code to read."""
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        plain = {k: v for k, v in checkpoint.items() if not k.startswith(("hparams", "hyper_"))}
        try:
            torch.save(plain, part)
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError for both
            part.unlink(missing_ok=True)
            why = getattr(error, "strerror", None) or "is the disk full?"
            raise InputError(
                f"{path}: cannot be written ({why}); make room and start again in the same way"
            ) from error

    def load_checkpoint(self, path, map_location=None) -> dict:
        """Read what ``save_checkpoint`` wrote. Raises ``InputError``; no code in it is run."""
        try:
            if zipfile.ZipFile(path).testzip():  # torch does not compare the checksums
                raise ValueError("wrong checksum")
            found = torch.load(path, map_location="cpu", weights_only=True)
            if {"state_dict", "optimizer_states", "loops"} <= set(found):
                return found
            raise ValueError("not a checkpoint of a training")
        except Exception as error:  # zipfile, pickle and torch each raise their own
            raise InputError(
                f"{path}: damaged, or it holds objects, which could run code (none was run); "
                "delete it, and training begins again"
            ) from error


def build(net: SpanModel, tokenizer: Tokenizer, folder: Path, *, optim=None, seed=0, origin=None):
    """Wrap a span model as a NeMo model that shares its weights.

    NeMo keeps the tokenizer as a file, so we write it to ``folder/tokenizer.json`` first.
    """
    file = Path(folder) / "tokenizer.json"
    tokenizer.save(str(file))
    # OmegaConf would read "${" in a file's name as a reference, so we escape the dollar sign.
    text = json.dumps(origin or {}).replace("$", "\\u0024")
    cfg = {"encoder": asdict(net.config), "tokenizer_file": str(file), "seed": seed, "origin": text}
    if optim:
        cfg["optim"] = optim
    with torch.device("meta"):  # no second set of random weights
        model = ExtractiveQAModel(OmegaConf.create(cfg))
    model.net = net
    return model


def save_nemo(net: SpanModel, tokenizer: Tokenizer, path: str | Path, origin=None) -> Path:
    """Write a ``.nemo`` archive, which gets its name only when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".nemo-") as folder:
        partial = Path(folder) / path.name
        build(net, tokenizer, Path(folder), origin=origin).save_to(str(partial))
        partial.replace(path)
    return path


def restore_nemo(path: str | Path) -> ExtractiveQAModel:
    """Restore a ``.nemo`` file of ours. Raises ``InputError`` for that of another class.

    NeMo 3 refuses targets outside ``nemo.*`` because a target is code to run. We check that the
    target is this class, and only then drop it and let the class restore itself.
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
    if target not in (ours, _OLD_NAME):
        raise InputError(f"{path}: holds a {target}, not a {ours}; convert it to a folder first")
    del cfg.target
    try:
        return ExtractiveQAModel.restore_from(
            str(path), override_config_path=cfg, map_location="cpu"
        )
    except Exception as error:  # whatever tarfile, torch or our own checks raise
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"{path}: damaged inside, make or fetch it again ({why})") from error


def quiet_nemo() -> None:
    """Let NeMo log errors only; its other messages would fill a notebook."""
    nemo_logging.setLevel(nemo_logging.ERROR)
