"""Megatron checkpoints of 2020–2021 as NVIDIA published them, read without trusting them.

Two layouts: a folder with ``.pt`` files (one with the encoder and one with the head, or both in
one; names vary), ``config.json`` and ``vocab.txt``; and the ``.nemo`` archive of NeMo 1.x. Names
may be flat or nested, wrapped and spelled in several ways (``names.canonical``), numbers of 16 or
32 bits, vocabularies padded. All sizes but the number of heads follow from the weights' shapes;
that number, like the form of GELU, stands in ``config.json``, in the arguments that Megatron-LM
saves with its weights, or, for NVIDIA's 345M, in ``registry``.
Pickles are read with ``weights_only=True``, which runs no code.
"""

from __future__ import annotations

import argparse
import difflib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from helpers.config import InputError
from helpers.fetch.download import unpack
from helpers.fetch.registry import MEGATRON_GELU, MEGATRON_GELU_REASON, MEGATRON_HEADS
from helpers.io import sha256
from helpers.model.encoder import GELU_NAMES, EncoderConfig
from helpers.model.features import check_vocab_size, read_vocab
from helpers.model.weights import (
    MEGATRON_HEAD,
    MEGATRON_QKV,
    WEIGHT_FILES,
    canonical,
    check_numbers,
    megatron_names,
    unreadable,
)

_RANK = re.compile(r"(?:mp|tp)_rank_\d+(?:_\w*\d+)?")  # folder or file of one tensor-parallel rank
_WEIGHTS = ("*.pt", "*.ckpt")
_LM_HEAD = re.compile(r"(.*\.)?lm_head\.(.+)")


@dataclass
class MegatronFile:
    """What a checkpoint holds. ``state`` maps our names to tensors as stored, query-key-value
    rows still in the file's order; ``lm_head`` is the masked-word head of pre-training, if any."""

    config: EncoderConfig
    state: dict[str, torch.Tensor]
    vocab: list[str]
    version: str  # the file's own tag of the row order, "" when it has none
    gelu_reason: str  # why ``config.gelu`` is what it is
    lm_head: dict[str, torch.Tensor] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # name -> SHA-256


def is_megatron(path: Path) -> bool:
    """Whether a folder holds ``.pt`` or ``.ckpt`` files, at any depth, and no other model."""
    if not path.is_dir() or any((path / name).exists() for name in WEIGHT_FILES):
        return False
    return bool(_weight_files(path))


def read(path: Path, dropout: float) -> MegatronFile:
    """Read a folder, a zip of one, or the ``.nemo`` file of NeMo 1.x.

    Raises ``InputError`` that names the file, and a key that is unknown, missing or misshapen
    with the nearest expected ones.
    """
    path = Path(path)
    with _folder(path) as folder:
        files = _weight_files(folder)
        if not files:
            raise InputError(
                f"{path}: holds no .pt or .ckpt file with weights; if it is an archive of another "
                "kind of checkpoint, unpack it and give the folder"
            )
        ranks = {m[0] for file in files if (m := _RANK.search(str(file.relative_to(folder))))}
        if len(ranks) > 1:
            raise _split(path, ", ".join(sorted(ranks)))
        vocabulary = _vocabulary(path, folder)
        raw: dict[str, torch.Tensor] = {}
        said: dict[str, Any] = {}
        for file in files:
            data = _load(path, file)
            tensors = _flatten(data)
            twice = sorted(raw.keys() & tensors.keys())
            if twice:
                raise InputError(f"{path}: {twice[0]!r} is in two files; keep one of them")
            raw |= tensors
            said |= _said(path, data)
        settings = _read_config(folder)
        for name in said.keys() & settings.keys():
            if said[name] != settings[name]:
                raise InputError(
                    f"{path}: {name} is {settings[name]} in its config file and {said[name]} in "
                    "the arguments saved with the weights; correct the config file"
                )
        return _assemble(path, raw, read_vocab(vocabulary), said | settings, dropout)


def stored(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of everything in the files of weights, named and shaped as stored there.

    Unknown names are no error here, but a file that cannot be read is an ``InputError``.
    """
    with _folder(path) as folder:
        for file in _weight_files(folder):
            yield from _flatten(_load(path, file)).items()


def arguments(path: Path) -> dict[str, Any]:
    """Megatron-LM's arguments as its files hold them; of the texts only those that are no paths."""
    with _folder(path) as folder:
        found = {}
        for file in _weight_files(folder):
            found |= _arguments(_load(path, file))
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, (bool, int, float))
        or (isinstance(value, str) and not re.search(r"[/\\|`\n]", value))
    }


def _arguments(data: Any) -> dict[str, Any]:
    saved = data.get("args") if isinstance(data, dict) else None
    return vars(saved) if isinstance(saved, argparse.Namespace) else {}


def hashes(path: Path) -> dict[str, str]:
    """SHA-256 by name: of an archive, or of the files in a folder that a model is read from."""
    if path.is_file():
        return {path.name: sha256(path)}
    others = [*_find(path, "*vocab*.txt"), *_find(path, "*config.json")]
    return {p.relative_to(path).as_posix(): sha256(p) for p in (*_weight_files(path), *others)}


def _weight_files(folder: Path) -> list[Path]:
    return [path for pattern in _WEIGHTS for path in _find(folder, pattern)]


def _find(folder: Path, pattern: str) -> list[Path]:
    """Files by name, however deep, without hidden ones (macOS puts ``._name`` beside ``name``)."""
    found = (path for path in folder.rglob(pattern) if path.is_file())
    return sorted(
        path
        for path in found
        if not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
    )


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """The folder itself, or an archive unpacked for as long as it is read."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="nemo-") as folder:
        unpack(path, Path(folder) / "files")
        yield Path(folder) / "files"


def _load(path: Path, file: Path) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]):  # Megatron-LM's "args"
        try:
            # Only torch's newer, zipped format can be mapped; the older one is read.
            return torch.load(file, map_location="cpu", weights_only=True, mmap=_zipped(file))
        except Exception as error:  # pickle, zipfile and torch each raise their own
            raise InputError(f"{path}: {file.name}: {unreadable(error)}") from None


def _zipped(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _said(path: Path, data: Any) -> dict[str, Any]:
    """What a file says beside its weights: the tag of the row order, and Megatron-LM's arguments.

    Its ``ParallelMLP`` computes GELU by tanh when the bias is fused in or OpenAI's is asked for.
    """
    if not isinstance(data, dict):
        return {}
    said: dict[str, Any] = {}
    tag = data.get("checkpoint_version")
    if isinstance(tag, (int, float)):
        said["checkpoint_version"] = "0" if tag == 0 else str(float(tag))
    arguments = _arguments(data)
    for name in ("tensor_model_parallel_size", "model_parallel_size"):
        if arguments.get(name, 1) != 1:
            raise _split(path, f"it is one of {arguments[name]}")
    if "num_attention_heads" in arguments:
        said["num_attention_heads"] = arguments["num_attention_heads"]
    if "bias_gelu_fusion" in arguments:
        by_tanh = arguments["bias_gelu_fusion"] or arguments.get("openai_gelu", False)
        said["hidden_act"] = "gelu_new" if by_tanh else "gelu"
    return said


def _split(path: Path, which: str) -> InputError:
    return InputError(
        f"{path}: the weights are split over tensor-parallel ranks ({which}), which the kit does "
        "not merge; use Megatron-LM's tools/merge_mp_partitions.py (releases of 2021) or "
        "tools/checkpoint/convert.py (today) with target size 1, then give the result"
    )


def _flatten(data: Any) -> dict[str, torch.Tensor]:
    """Nested dictionaries as one, with dotted names."""
    if isinstance(data, dict):
        for inner in ("model", "state_dict", "module"):  # beside them: optimizer, random state
            if isinstance(data.get(inner), dict):
                data = data[inner]
    tensors: dict[str, torch.Tensor] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}" if name else str(key))

    walk(data, "")
    return tensors


def _assemble(path, raw, vocab, settings, dropout) -> MegatronFile:
    lm_head = {m[2]: value for key, value in raw.items() if (m := _LM_HEAD.fullmatch(key))}
    state: dict[str, torch.Tensor] = {}
    written: dict[str, str] = {}
    for key in list(raw):
        value, name = raw.pop(key), canonical(key)
        if not name:
            continue
        if name in state:
            raise InputError(f"{path}: {key!r} and {written[name]!r} are the same weight")
        state[name], written[name] = value, key
    config = _config(path, state, settings, dropout)
    names = megatron_names(config.layers)
    missing = [name for name in names if name not in state and not name.startswith(MEGATRON_HEAD)]
    unknown = [name for name in state if name not in names]
    if unknown:
        raise _strange(path, "unknown weight", written[unknown[0]], unknown[0], missing or names)
    if missing:
        raise _strange(path, "no weight", missing[0], missing[0], written.values())
    if (f"{MEGATRON_HEAD}.weight" in state) != (f"{MEGATRON_HEAD}.bias" in state):
        raise InputError(f"{path}: the head has a weight or a bias only; fetch it again")
    for name, value in state.items():
        expected = _shape(name, config)
        check_numbers(path, written[name], value)
        if tuple(value.shape) != expected:
            raise InputError(
                f"{path}: {written[name]!r} has shape {tuple(value.shape)}, expected {expected}"
            )
    check_vocab_size(path, len(vocab), config.vocab_size)
    return MegatronFile(
        config,
        {names[name]: state.pop(name) for name in list(state)},
        vocab,
        settings.get("checkpoint_version", ""),
        "stated with the weights" if "hidden_act" in settings else MEGATRON_GELU_REASON,
        lm_head,
        hashes(path),
    )


def _config(path: Path, state: dict, settings: dict, dropout: float) -> EncoderConfig:
    numbers = {
        int(m[1]) for name in state if (m := re.match(r"transformer\.layers\.(\d+)\.", name))
    }

    def size(name: str, axis: int) -> int:
        if name not in state or state[name].dim() <= axis:
            raise _strange(path, "no weight", name, name, state)
        return state[name].shape[axis]

    layers = max(numbers, default=-1) + 1
    absent = next((n for n in range(layers) if n not in numbers), None)
    if absent is not None:
        name = f"transformer.layers.{absent}.input_layernorm.weight"
        raise _strange(path, "no weight", name, name, state)
    hidden = size("embedding.word_embeddings.weight", 1)
    rows = size(f"transformer.layers.0.{MEGATRON_QKV}.weight", 0)
    if 0 < rows < 3 * hidden and 3 * hidden % rows == 0:
        raise _split(path, f"it is one of {3 * hidden // rows}")
    heads = settings.get("num_attention_heads", MEGATRON_HEADS.get((layers, hidden)))
    if heads is None:
        raise InputError(
            f"{path}: no config.json states num-attention-heads, and the weights' shapes do not "
            'show it; add the file with {"num-attention-heads": …}'
        )
    if type(heads) is not int or heads < 1:
        raise InputError(f"{path}: num-attention-heads is {heads!r}, expected a number above 0")
    config = EncoderConfig(
        vocab_size=size("embedding.word_embeddings.weight", 0),
        hidden=hidden,
        layers=layers,
        heads=heads,
        feed_forward=size("transformer.layers.0.mlp.dense_h_to_4h.weight", 0),
        positions=size("embedding.position_embeddings.weight", 0),
        token_types=size("embedding.tokentype_embeddings.weight", 0),
        dropout=dropout,
        gelu=_gelu(path, settings),
    )
    if hidden % config.heads:
        raise InputError(f"{path}: config.json's {config.heads} heads do not divide {hidden}")
    exact = {"hidden_size": hidden, "num_layers": layers, "num_hidden_layers": layers}
    padded = {"vocab_size": config.vocab_size, "max_seq_length": config.positions}
    for name, found in (exact | padded).items():
        said = settings.get(name, found)
        fits = said == found or (name in padded and isinstance(said, int) and 0 < said < found)
        if not fits:
            raise InputError(
                f"{path}: config.json says {name} {said}, the weights have {found}; "
                "they are of two models"
            )
    return config


def _gelu(path: Path, settings: dict) -> str:
    if "hidden_act" not in settings:
        return MEGATRON_GELU
    try:
        return GELU_NAMES[settings["hidden_act"]]
    except (KeyError, TypeError):
        raise InputError(
            f"{path}: hidden_act is {settings['hidden_act']!r}; known: {', '.join(GELU_NAMES)}"
        ) from None


def _shape(name: str, config: EncoderConfig) -> tuple[int, ...]:
    hidden, wide = config.hidden, config.feed_forward
    part, kind = name.rsplit(".", 1)
    rows = {
        "embedding.word_embeddings": config.vocab_size,
        "embedding.position_embeddings": config.positions,
        "embedding.tokentype_embeddings": config.token_types,
        MEGATRON_HEAD: 2,
    }.get(part)
    if rows is None:
        within = re.sub(r"^transformer\.layers\.\d+\.", "", part)
        rows = {MEGATRON_QKV: 3 * hidden, "mlp.dense_h_to_4h": wide}.get(within, hidden)
        if within.endswith("layernorm"):
            return (hidden,)
        if within == "mlp.dense_4h_to_h" and kind == "weight":
            return (hidden, wide)
    return (rows,) if kind == "bias" else (rows, hidden)


def _read_config(folder: Path) -> dict:
    """The model's settings, with underscores for the dashes of 2020; empty when there are none.

    They are in ``config.json``, which NeMo 1.x stores under a longer name, or in the part
    ``language_model.config`` of its ``model_config.yaml``.
    """
    path = next(iter(_find(folder, "*config.json") + _find(folder, "model_config.yaml")), None)
    if path is None:
        return {}
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML too
        if path.suffix == ".yaml":
            data = (data.get("language_model") or {}).get("config") or {}
        named = {name.replace("-", "_"): value for name, value in data.items()}
        return {name: value for name, value in named.items() if value is not None}
    except (ValueError, AttributeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{path}: not a model's settings ({why}); fetch it again") from None


def _vocabulary(path: Path, folder: Path) -> Path:
    found = _find(folder, "*vocab*.txt")
    if len({p.read_bytes() for p in found}) != 1:  # NeMo 1.x may hold it twice
        names = ", ".join(p.name for p in found) or "none"
        raise InputError(f"{path}: one vocabulary file *vocab*.txt is needed, found {names}")
    return found[0]


def _strange(path: Path, what: str, key: str, name: str, known) -> InputError:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return InputError(f"{path}: {what} {key!r}{hint}")
