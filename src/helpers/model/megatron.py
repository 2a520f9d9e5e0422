"""Megatron checkpoints of 2020-2021 as NVIDIA published them, read without trusting them.

There are two layouts: a folder with ``.pt`` files (one with the encoder and one with the head, or
both in one; names vary), ``config.json`` and ``vocab.txt``; and the ``.nemo`` archive of NeMo 1.x.
Names may be flat or nested, wrapped and spelled in several ways (``weights.canonical_megatron``);
numbers have 16 or 32 bits; vocabularies may be padded. All sizes but the number of heads follow
from the weights' shapes. That number and the form of GELU are in ``config.json``, in the arguments
that Megatron-LM saves with its weights or, for NVIDIA's 345M, in ``registry``.
Pickles are read with ``weights_only=True``, which runs no code.
"""

from __future__ import annotations

import argparse
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from helpers.config import InputError
from helpers.fetch.download import is_archive, unpack
from helpers.fetch.registry import MEGATRON_GELU, MEGATRON_GELU_REASON, MEGATRON_HEADS
from helpers.io import sha256
from helpers.model.encoder import EncoderConfig
from helpers.model.features import check_vocab_size, read_vocab
from helpers.model.weights import (
    HIDDEN_ACT,
    SIZES,
    WEIGHT_FILES,
    bad_name,
    canonical,
    canonical_megatron,
    make_config,
    read_config,
    read_file,
)

_RANK = re.compile(r"(?:mp|tp)_rank_\d+(?:_\w*\d+)?")  # folder or file of one tensor-parallel rank
_LM_HEAD = re.compile(r"(.*\.)?lm_head\.(.+)")


@dataclass
class MegatronFile:
    """What a checkpoint holds; its query-key-value rows are still in the file's order."""

    config: EncoderConfig
    weights: dict[str, torch.Tensor]  # as stored, by ``canonical_megatron``
    vocab: list[str]
    version: str  # the file's own tag of the row order, "" when it has none
    gelu_reason: str  # why ``config.gelu`` is what it is
    lm_head: dict[str, torch.Tensor]  # the masked-word head of pre-training, if any


def is_megatron(path: Path) -> bool:
    """Whether a path holds Megatron's files: a folder or archive, or a ``.nemo`` of NeMo 1.x."""
    if path.is_dir():
        others = any((path / name).exists() for name in WEIGHT_FILES)
        return not others and bool(_weight_files(path))
    return _is_nemo_1(path) if path.suffix == ".nemo" else is_archive(path)


def _is_nemo_1(path: Path) -> bool:
    """Whether the configuration in an archive names a class of NVIDIA's."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if Path(member.name).name == "model_config.yaml" and member.isreg():
                    start = archive.extractfile(member).read(1 << 20)
                    return b"target: nemo.collections.nlp" in start
    except (tarfile.TarError, OSError, EOFError):
        pass  # whoever reads the file reports what is wrong with it
    return False


def read(path: Path, dropout: float) -> MegatronFile:
    """Read a folder, a zip of one, or the ``.nemo`` file of NeMo 1.x.

    Raises ``InputError`` that names the file and what is missing or contradictory in it.
    """
    with _unpacked(path) as folder:
        files = _weight_files(folder)
        if not files:
            raise InputError(
                f"{path}: holds no .pt or .ckpt file with weights; if it is an archive of another "
                "kind of checkpoint, unpack it and give the folder"
            )
        ranks = {m[0] for file in files if (m := _RANK.search(str(file.relative_to(folder))))}
        if len(ranks) > 1:
            raise _split(path, ", ".join(sorted(ranks)))
        vocab = _read_vocab(path, folder)
        raw: dict[str, torch.Tensor] = {}
        stated: dict[str, Any] = {}
        for arguments, tensors in _contents(path, folder):
            if twice := sorted(raw.keys() & tensors.keys()):
                raise InputError(f"{path}: {twice[0]!r} is in two files; keep one of them")
            raw |= tensors
            stated |= _stated(path, arguments)
        settings = _read_settings(path, folder)
    for name in stated.keys() & settings.keys():
        if stated[name] != settings[name]:
            raise InputError(
                f"{path}: {name} is {settings[name]} in its config file and {stated[name]} in "
                "the arguments saved with the weights; correct the config file"
            )
    stated |= settings
    lm_head = {m[2]: value for name, value in raw.items() if (m := _LM_HEAD.fullmatch(name))}
    weights = canonical(path, raw, canonical_megatron)
    config = _config(path, weights, stated, dropout)
    check_vocab_size(path, len(vocab), config.vocab_size)
    reason = "stated with the weights" if "hidden_act" in stated else MEGATRON_GELU_REASON
    return MegatronFile(
        config, weights, vocab, stated.get("checkpoint_version", ""), reason, lm_head
    )


def stored(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """All tensors by their names in the files, and Megatron-LM's arguments without any path.

    Unknown names are no error here, but a file that cannot be read is an ``InputError``.
    """
    tensors, arguments = {}, {}
    with _unpacked(path) as folder:
        for said, held in _contents(path, folder):
            tensors |= held
            arguments |= said
    return tensors, {
        name: value
        for name, value in arguments.items()
        if isinstance(value, (bool, int, float))
        or (isinstance(value, str) and not re.search(r"[/\\|`\n]", value))
    }


def hashes(path: Path) -> dict[str, str]:
    """SHA-256 by name: of an archive, or of the files in a folder that a model is read from."""
    if path.is_file():
        return {path.name: sha256(path)}
    files = [*_weight_files(path), *_find(path, "*vocab*.txt"), *_find(path, "*config.json")]
    return {file.relative_to(path).as_posix(): sha256(file) for file in files}


def _weight_files(folder: Path) -> list[Path]:
    return _find(folder, "*.pt") + _find(folder, "*.ckpt")


def _find(folder: Path, pattern: str) -> list[Path]:
    """Files by name, however deep, without hidden ones (macOS puts ``._name`` beside ``name``)."""
    hidden = (".", "__MACOSX")
    return sorted(
        path
        for path in folder.rglob(pattern)
        if path.is_file()
        and not any(part.startswith(hidden) for part in path.relative_to(folder).parts)
    )


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The folder itself, or an archive unpacked for as long as it is read."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="nemo-") as folder:
        unpack(path, Path(folder) / "files")
        yield Path(folder) / "files"


def _contents(path: Path, folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Of each file: Megatron-LM's arguments with the version tag, and tensors by dotted name."""
    for file in _weight_files(folder):
        data = read_file(file, f"{path}: {file.name}")
        data = data if isinstance(data, dict) else {}
        saved = data.get("args")
        arguments = dict(vars(saved)) if isinstance(saved, argparse.Namespace) else {}
        if "checkpoint_version" in data:
            arguments["checkpoint_version"] = data["checkpoint_version"]
        for inner in ("model", "state_dict", "module"):  # beside them: optimizer, random state
            data = data[inner] if isinstance(data.get(inner), dict) else data
        yield arguments, dict(_flatten(data))


def _flatten(data: dict, before: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in data.items():
        if isinstance(value, torch.Tensor):
            yield f"{before}{key}", value
        elif isinstance(value, dict):
            yield from _flatten(value, f"{before}{key}.")


def _stated(path: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the arguments say of the model: the row order's tag, the heads and the GELU.

    Megatron-LM's ``ParallelMLP`` computes GELU by tanh when the bias is fused in or when OpenAI's
    form is asked for.
    """
    for name in ("tensor_model_parallel_size", "model_parallel_size"):
        if arguments.get(name, 1) != 1:
            raise _split(path, f"it is one of {arguments[name]}")
    found = {}
    tag = arguments.get("checkpoint_version")
    if isinstance(tag, (int, float)):
        found["checkpoint_version"] = "0" if tag == 0 else str(float(tag))
    if "num_attention_heads" in arguments:
        found["num_attention_heads"] = arguments["num_attention_heads"]
    if "bias_gelu_fusion" in arguments:
        by_tanh = arguments["bias_gelu_fusion"] or arguments.get("openai_gelu", False)
        found["hidden_act"] = HIDDEN_ACT["tanh" if by_tanh else "erf"]
    return found


def _split(path: Path, which: str) -> InputError:
    return InputError(
        f"{path}: the weights are split over tensor-parallel ranks ({which}), which the kit does "
        "not merge; use Megatron-LM's tools/merge_mp_partitions.py (releases of 2021) or "
        "tools/checkpoint/convert.py (today) with target size 1, then give the result"
    )


def _config(path: Path, weights: dict, stated: dict, dropout: float) -> EncoderConfig:
    """The sizes that the weights' shapes show, checked against those that the files state."""

    def length(weight: str, axis: int) -> int:
        name = f"{weight}.weight"
        if name not in weights or weights[name].dim() <= axis:
            raise bad_name(path, "no weight", name, weights)
        return weights[name].shape[axis]

    layers = {int(m[1]) for n in weights if (m := re.match(r"transformer\.layers\.(\d+)\.", n))}
    if gaps := set(range(len(layers))) - layers:
        raise bad_name(
            path, "no weight", f"transformer.layers.{min(gaps)}.input_layernorm.weight", weights
        )
    sizes = {size.field: length(size.weight, size.axis) for size in SIZES if size.weight}
    rows = length("transformer.layers.0.attention.query_key_value", 0)
    if 0 < rows < 3 * sizes["hidden"] and 3 * sizes["hidden"] % rows == 0:
        raise _split(path, f"it is one of {3 * sizes['hidden'] // rows}")
    known = MEGATRON_HEADS.get((len(layers), sizes["hidden"]))
    sizes |= {"layers": len(layers), "heads": stated.get("num_attention_heads", known)}
    if sizes["heads"] is None:
        raise InputError(
            f"{path}: no config.json states num-attention-heads, and the weights' shapes do not "
            'show it; add the file with {"num-attention-heads": …}'
        )
    act = stated.get("hidden_act", HIDDEN_ACT[MEGATRON_GELU])
    config = make_config(path, sizes, act, dropout=dropout)
    for size in SIZES:
        of_weights = sizes[size.field]
        for name in size.megatron:
            value = stated.get(name, of_weights)
            padded = size.field in ("vocab_size", "positions") and isinstance(value, int)
            if value != of_weights and not (padded and 0 < value < of_weights):
                raise InputError(
                    f"{path}: config.json says {name} {value}, the weights have {of_weights}; "
                    "they belong to two different models"
                )
    return config


def _read_settings(path: Path, folder: Path) -> dict:
    """The model's settings, with underscores for the dashes of 2020; empty when there are none.

    They are in ``config.json``, which NeMo 1.x stores under a longer name, or in the part
    ``language_model.config`` of its ``model_config.yaml``.
    """
    files = _find(folder, "*config.json") + _find(folder, "model_config.yaml")
    if not files:
        return {}
    shown = f"{path}: {files[0].name}"
    data = read_config(files[0], shown)
    for part in ("language_model", "config") if files[0].suffix == ".yaml" else ():
        data = data.get(part) or {}
        if not isinstance(data, dict):
            raise InputError(f"{shown}: {part} is not an object; fetch it again")
    return {str(name).replace("-", "_"): value for name, value in data.items() if value is not None}


def _read_vocab(path: Path, folder: Path) -> list[str]:
    found = _find(folder, "*vocab*.txt")
    if len({file.read_bytes() for file in found}) != 1:  # NeMo 1.x may hold it twice
        names = ", ".join(file.name for file in found) or "none"
        raise InputError(f"{path}: one vocabulary file *vocab*.txt is needed, found {names}")
    return read_vocab(found[0])
