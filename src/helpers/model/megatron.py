"""Read the Megatron checkpoints that NVIDIA published in 2020-2021, without trusting them.

There are two layouts. One is a folder with ``config.json``, ``vocab.txt`` and ``.pt`` files: one
file for the encoder and one for the head, or one for both, under various names. The other is the
``.nemo`` archive of NeMo 1.x. Weight names may be flat or nested, with various wrappers and
spellings (``weights.canonical_megatron``). The weights have 16 or 32 bits, and the vocabulary may
be padded. The shapes of the weights determine all sizes except the number of heads. That number and
the form of GELU are in ``config.json``, in the arguments that Megatron-LM saves with its weights
or, for NVIDIA's 345M models, in ``registry``. We read pickles with ``weights_only=True``, so
no code in them runs.
"""

from __future__ import annotations

import argparse
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from helpers.config import InputError
from helpers.fetch.download import MEMBERS, Unsafe, is_archive, open_tar, unpack
from helpers.fetch.registry import MEGATRON_GELU, MEGATRON_GELU_REASON, MEGATRON_HEADS
from helpers.io import sha256
from helpers.model.encoder import EncoderConfig
from helpers.model.texts import check_vocab_size, read_vocab
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
    """The contents of a checkpoint, with query-key-value rows still in the order of the file."""

    config: EncoderConfig
    weights: dict[str, torch.Tensor]  # as stored, with names from ``canonical_megatron``
    vocab: list[str]
    version: str  # the row-order tag in the file, or "" if it has none
    gelu_reason: str  # why we chose ``config.gelu``
    lm_head: dict[str, torch.Tensor]  # the masked-language-model head from pre-training, if any


def is_megatron(path: Path) -> bool:
    """Return whether a path is a Megatron folder or archive, or a NeMo 1.x ``.nemo`` file."""
    if path.is_dir():
        others = any((path / name).exists() for name in WEIGHT_FILES)
        return not others and bool(_weight_files(path))
    return _is_nemo_1(path) if path.suffix == ".nemo" else is_archive(path)


def _is_nemo_1(path: Path) -> bool:
    """Return whether the configuration in an archive names an NVIDIA class."""
    try:
        with open_tar(path) as archive:
            for member in islice(archive, MEMBERS):
                if Path(member.name).name == "model_config.yaml" and member.isreg():
                    start = archive.extractfile(member).read(1 << 20)
                    return b"target: nemo.collections.nlp" in start
    except (tarfile.TarError, OSError, EOFError, Unsafe):
        pass  # the error is reported when the file is read
    return False


def read(path: Path, dropout: float) -> MegatronFile:
    """Read a folder, a zip archive of a folder, or a ``.nemo`` file from NeMo 1.x.

    Raise an ``InputError`` that names the file and the problem if anything is missing or
    contradictory.
    """
    with _unpacked(path) as folder:
        files = _weight_files(folder)
        if not files:
            raise InputError(
                f"{path}: contains no .pt or .ckpt weight file; if it is an archive of a different "
                "kind of checkpoint, unpack it and specify the folder"
            )
        ranks = {m[0] for file in files if (m := _RANK.search(str(file.relative_to(folder))))}
        if len(ranks) > 1:
            raise _split(path, ", ".join(sorted(ranks)))
        vocab = _read_vocab(path, folder)
        raw: dict[str, torch.Tensor] = {}
        stated: dict[str, Any] = {}
        for arguments, tensors in _contents(path, folder):
            if twice := sorted(raw.keys() & tensors.keys()):
                raise InputError(f"{path}: {twice[0]!r} is in two files; keep only one of them")
            raw |= tensors
            stated |= _stated(path, arguments)
        settings = _read_settings(path, folder)
    for name in stated.keys() & settings.keys():
        if stated[name] != settings[name]:
            raise InputError(
                f"{path}: {name} is {settings[name]} in the config file but {stated[name]} in "
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
    """Return all tensors by their names in the files, and Megatron-LM's arguments except paths.

    Unknown names are not an error here, but an unreadable file raises ``InputError``.
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
    """Return the SHA-256 hash of an archive, or of each model file in a folder, by file name."""
    if path.is_file():
        return {path.name: sha256(path)}
    files = [*_weight_files(path), *_find(path, "*vocab*.txt"), *_find(path, "*config.json")]
    return {file.relative_to(path).as_posix(): sha256(file) for file in files}


def _weight_files(folder: Path) -> list[Path]:
    return _find(folder, "*.pt") + _find(folder, "*.ckpt")


def _find(folder: Path, pattern: str) -> list[Path]:
    """Find files at any depth, except hidden files (macOS adds ``._name`` next to ``name``)."""
    hidden = (".", "__MACOSX")
    return sorted(
        path
        for path in folder.rglob(pattern)
        if path.is_file()
        and not any(part.startswith(hidden) for part in path.relative_to(folder).parts)
    )


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """Yield the folder itself, or a temporary folder with the unpacked archive."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="nemo-") as folder:
        unpack(path, Path(folder) / "files")
        yield Path(folder) / "files"


def _contents(path: Path, folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """For each file, yield Megatron-LM's arguments (with version tag) and the tensors by name."""
    for file in _weight_files(folder):
        data = read_file(file, f"{path}: {file.name}")
        data = data if isinstance(data, dict) else {}
        saved = data.get("args")
        arguments = dict(vars(saved)) if isinstance(saved, argparse.Namespace) else {}
        if "checkpoint_version" in data:
            arguments["checkpoint_version"] = data["checkpoint_version"]
        for inner in ("model", "state_dict", "module"):  # skip the optimizer and random states
            data = data[inner] if isinstance(data.get(inner), dict) else data
        yield arguments, dict(_flatten(data))


def _flatten(data: dict, before: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in data.items():
        if isinstance(value, torch.Tensor):
            yield f"{before}{key}", value
        elif isinstance(value, dict):
            yield from _flatten(value, f"{before}{key}.")


def _stated(path: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that describe the model: row-order tag, head count, GELU form.

    Megatron-LM's ``ParallelMLP`` uses the tanh form of GELU if bias fusion is enabled or if
    OpenAI's form is requested.
    """
    for name in ("tensor_model_parallel_size", "model_parallel_size"):
        if arguments.get(name, 1) != 1:
            raise _split(path, f"this is one of {arguments[name]}")
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
        f"{path}: the weights are split over tensor-parallel ranks ({which}), which the kit cannot "
        "merge; use Megatron-LM's tools/merge_mp_partitions.py (2021 releases) or "
        "tools/checkpoint/convert.py (current releases) with target size 1, and specify the result"
    )


def _config(path: Path, weights: dict, stated: dict, dropout: float) -> EncoderConfig:
    """Infer the sizes from the shapes of the weights; check them against the stated sizes."""

    def length(weight: str, axis: int) -> int:
        name = f"{weight}.weight"
        if name not in weights or weights[name].dim() <= axis:
            raise bad_name(path, "missing weight", name, weights)
        return weights[name].shape[axis]

    layers = {int(m[1]) for n in weights if (m := re.match(r"transformer\.layers\.(\d+)\.", n))}
    if gaps := set(range(len(layers))) - layers:
        gap = f"transformer.layers.{min(gaps)}.input_layernorm.weight"
        raise bad_name(path, "missing weight", gap, weights)
    sizes = {size.field: length(size.weight, size.axis) for size in SIZES if size.weight}
    rows = length("transformer.layers.0.attention.query_key_value", 0)
    if 0 < rows < 3 * sizes["hidden"] and 3 * sizes["hidden"] % rows == 0:
        raise _split(path, f"this is one of {3 * sizes['hidden'] // rows}")
    known = MEGATRON_HEADS.get((len(layers), sizes["hidden"]))
    sizes |= {"layers": len(layers), "heads": stated.get("num_attention_heads", known)}
    if sizes["heads"] is None:
        raise InputError(
            f"{path}: no config.json states num-attention-heads, and the shapes of the weights do "
            'not reveal it; add a config.json with {"num-attention-heads": …}'
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
                    f"{path}: {name} is {value} in config.json but {of_weights} in the weights; "
                    "they belong to different models"
                )
    return config


def _read_settings(path: Path, folder: Path) -> dict:
    """Read the model's settings, with the dashes used in 2020 replaced by underscores.

    They are in ``config.json``, which NeMo 1.x stores under a longer name, or in the section
    ``language_model.config`` of its ``model_config.yaml``. The result is empty if neither exists.
    """
    files = _find(folder, "*config.json") + _find(folder, "model_config.yaml")
    if not files:
        return {}
    shown = f"{path}: {files[0].name}"
    data = read_config(files[0], shown)
    for part in ("language_model", "config") if files[0].suffix == ".yaml" else ():
        data = data.get(part) or {}
        if not isinstance(data, dict):
            raise InputError(f"{shown}: {part} is not an object; fetch the file again")
    return {str(name).replace("-", "_"): value for name, value in data.items() if value is not None}


def _read_vocab(path: Path, folder: Path) -> list[str]:
    found = _find(folder, "*vocab*.txt")
    if len({file.read_bytes() for file in found}) != 1:  # NeMo 1.x may store it twice
        names = ", ".join(file.name for file in found) or "none"
        raise InputError(f"{path}: expected one vocabulary file *vocab*.txt but found {names}")
    return read_vocab(found[0])
