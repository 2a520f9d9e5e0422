"""The NeMo model and its archive: our encoder and span head, trained by ``step``.

NeMo 2.4.1 was the last release with NVIDIA's own question-answering classes, which had already
stopped accepting Megatron-BERT. We therefore build on what NeMo 3 still provides: ``ModelPT`` with
its ``.nemo`` archive. The loss and the schedule in ``step`` match NeMo's ``SpanningLoss`` and
``WarmupAnnealing``. NeMo takes several seconds to import, so the modules that use this one import
it only when they need it.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from tokenizers import Tokenizer

from helpers.config import InputError
from helpers.fetch.download import unpack
from helpers.model.encoder import EncoderConfig, SpanModel
from helpers.model.step import SpanTraining
from helpers.model.texts import make_tokenizer, read_vocab
from helpers.model.weights import HIDDEN_ACT, SIZES, make_config

_OLD_NAME = "helpers.qa_model.ExtractiveQAModel"  # target in .nemo files from earlier kit versions

# On import, NVIDIA's telemetry library prints a message saying that it sends nothing.
logging.getLogger("nv_one_logger").setLevel(logging.ERROR)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # hides hundreds of lines about optional parts of NeMo
    from nemo.core.classes import ModelPT
    from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
    from nemo.utils import logging as nemo_logging


class ExtractiveQAModel(SpanTraining, ModelPT):
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
        self.origin = dict(json.loads(cfg.get("origin", "{}")))
        self.part_losses: list[torch.Tensor] = []  # see ``SpanTraining``

    def setup_training_data(self, train_data_config=None):
        """Do nothing; NeMo requires this method, but ``training`` passes batches to the trainer."""

    def setup_validation_data(self, val_data_config=None):
        """Do nothing; NeMo requires this method, but ``decoding`` computes the dev scores later."""

    @classmethod
    def list_available_models(cls) -> list:
        """Return no models; NeMo requires this method, but ``helpers.fetch`` gets checkpoints."""
        return []


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
    """Restore a ``.nemo`` file that the kit wrote; raise ``InputError`` if it names another class.

    NeMo 3 rejects targets outside ``nemo.*`` because a target names code to run. We check that the
    target is this class, and only then remove it and let the class restore itself.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with tempfile.TemporaryDirectory(prefix="nemo-") as temporary:
        folder = Path(temporary) / "files"
        unpack(path, folder)  # NeMo itself would follow links and write files of any size
        return _restore(path, folder)


def _restore(path: Path, folder: Path) -> ExtractiveQAModel:
    connector = SaveRestoreConnector()
    connector.model_extracted_dir = str(folder)
    restore = partial(ExtractiveQAModel.restore_from, str(path), save_restore_connector=connector)
    try:
        cfg = restore(return_config=True)
    except Exception as error:  # NeMo passes on errors from yaml and its own checks
        raise InputError(f"{path}: not a readable .nemo archive ({error})") from error
    ours = f"{ExtractiveQAModel.__module__}.{ExtractiveQAModel.__qualname__}"
    target = cfg.get("target")
    if target not in (ours, _OLD_NAME):
        raise InputError(f"{path}: contains {target}, not {ours}; convert it to a folder first")
    del cfg.target
    _check_sizes(path, cfg, folder)
    try:
        return restore(override_config_path=cfg, map_location="cpu")
    except Exception as error:  # from tarfile, torch or our own checks
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"{path}: corrupted file ({why}); create or fetch it again") from error


def _check_sizes(path: Path, cfg: DictConfig, folder: Path) -> None:
    """Raise ``InputError`` before a configuration with absurd sizes fills the memory."""
    found = OmegaConf.to_container(cfg).get("encoder")
    found = asdict(EncoderConfig()) | (found if isinstance(found, dict) else {})
    sizes = {size.field: found[size.field] for size in SIZES}
    with torch.device("meta"):
        model = SpanModel(make_config(path, sizes, HIDDEN_ACT.get(str(found["gelu"]))))
    weights = sum(weight.numel() for weight in model.parameters())
    stored = sum(file.stat().st_size for file in folder.rglob("*"))
    if stored < weights:  # at least one byte per weight
        raise InputError(
            f"{path}: its configuration describes {weights:,} weights, but the file has only "
            f"{stored:,} bytes; create or fetch it again"
        )


def quiet_nemo() -> None:
    """Make NeMo log only errors, because its other messages would fill a notebook."""
    nemo_logging.setLevel(nemo_logging.ERROR)
