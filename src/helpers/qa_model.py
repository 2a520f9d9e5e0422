"""The NeMo model: our encoder and span head with NeMo's loss, schedule and ``.nemo`` archive.

NVIDIA's own question-answering classes ended with NeMo 2.4.1 (and rejected Megatron-BERT before
that), so this one stands on what NeMo 3 still gives: ``ModelPT``, ``SpanningLoss`` and
``WarmupAnnealing``. NeMo takes seconds to import, so only ``training`` and ``checkpoints`` import
this module, and only when they need it.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from tokenizers import Tokenizer

from helpers.config import InputError
from helpers.encoder import EncoderConfig, SpanModel, pad
from helpers.features import Batch, make_tokenizer, read_vocab

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
    tokenizers library; older archives have ``vocab_file``, one token per line) and, for training,
    ``optim`` (``lr``, ``weight_decay``, ``warmup_steps``, ``max_steps``) and ``seed``.
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

    # The data come as batches from helpers.training; NeMo asks for these two all the same.
    def setup_training_data(self, train_data_config=None):
        """Nothing to set up: ``fine_tune`` hands the trainer its batches."""

    def setup_validation_data(self, val_data_config=None):
        """Nothing to set up: dev scores come from ``helpers.prediction`` after training."""

    @classmethod
    def list_available_models(cls) -> list:
        """No pretrained models under this class; checkpoints come through ``helpers.fetch``."""
        return []


def build(net: SpanModel, tokenizer: Tokenizer, folder: Path, optim=None, seed: int = 0):
    """Wrap a span model as a NeMo model; the weights are shared, not copied.

    NeMo keeps the tokenizer as a file, so it is written to ``folder/tokenizer.json`` first.
    """
    file = Path(folder) / "tokenizer.json"
    tokenizer.save(str(file))
    cfg = {"encoder": asdict(net.config), "tokenizer_file": str(file), "seed": seed}
    if optim:
        cfg["optim"] = optim
    with torch.device("meta"):  # no second set of random weights
        model = ExtractiveQAModel(OmegaConf.create(cfg))
    model.net = net
    return model


def save_nemo(net: SpanModel, tokenizer: Tokenizer, path: str | Path) -> Path:
    """Write a ``.nemo`` archive under its final name only when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".nemo-") as folder:
        partial = Path(folder) / path.name
        build(net, tokenizer, Path(folder)).save_to(str(partial))
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
    if target != ours:
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
