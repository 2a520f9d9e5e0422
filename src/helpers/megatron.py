"""Megatron checkpoints of 2020–2021 as NVIDIA published them, read without trusting them.

Two layouts: a folder with ``.pt`` files (one with the encoder and one with the head, or both in
one; names vary), ``config.json`` and ``vocab.txt``; and the ``.nemo`` archive of NeMo 1.x. Names
may be flat or nested, wrapped and spelt in several ways (``key_map.canonical``), numbers of 16 or
32 bits, vocabularies padded. All sizes but the number of heads follow from the weights' shapes.
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
from helpers.encoder import EncoderConfig
from helpers.features import read_vocab
from helpers.files import sha256
from helpers.key_map import MEGATRON_HEAD, MEGATRON_QKV, canonical, megatron_names
from helpers.unpack import unpack

HEAD_SIZE = 64  # dimensions a head in every BERT and Megatron-BERT of the time
_WEIGHTS = ("*.pt", "*.ckpt")
_LM_HEAD = re.compile(r"(.*\.)?lm_head\.(.+)")
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32)


@dataclass
class MegatronFile:
    """What a checkpoint holds. ``state`` maps our names to tensors as stored, query-key-value
    rows still in the file's order; ``lm_head`` is the masked-word head of pre-training, if any."""

    config: EncoderConfig
    state: dict[str, torch.Tensor]
    vocab: list[str]
    version: str  # the file's own tag of the row order, "" when it has none
    lm_head: dict[str, torch.Tensor] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # name -> SHA-256


def is_megatron(path: Path) -> bool:
    """Whether a folder holds ``.pt`` or ``.ckpt`` files, at any depth, and no other model."""
    others = ("model.safetensors", "pytorch_model.bin")
    if not path.is_dir() or any((path / name).exists() for name in others):
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
        vocabulary = _vocabulary(path, folder)
        raw: dict[str, torch.Tensor] = {}
        version = ""
        for file in files:
            tensors, tag = _flatten(_load(path, file))
            twice = sorted(raw.keys() & tensors.keys())
            if twice:
                raise InputError(f"{path}: {twice[0]!r} is in two files; keep one of them")
            raw |= tensors
            version = version or tag
        vocab = read_vocab(vocabulary)
        return _assemble(path, raw, vocab, version, _read_config(folder), dropout)


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


def unreadable(error: Exception) -> str:
    """What is wrong with a file of weights, in our words: torch's advise to run its code."""
    if "nsupported" in str(error) or "weights_only" in str(error).lower():
        return "cannot be read as plain weights: it holds objects or code, or is damaged; refused"
    why = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"cannot be read as plain weights ({why[:120]}); fetch it again"


def _zipped(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _flatten(data: Any) -> tuple[dict[str, torch.Tensor], str]:
    """Nested dictionaries as one, with dotted names; and the tag of the row order."""
    version = ""
    if isinstance(data, dict):
        tag = data.get("checkpoint_version")
        version = str(float(tag)) if isinstance(tag, (int, float)) else ""
        version = "0" if version == "0.0" else version
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
    return tensors, version


def _assemble(path, raw, vocab, version, settings, dropout) -> MegatronFile:
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
        if tuple(value.shape) != expected or value.dtype not in _NUMBERS:
            raise InputError(
                f"{path}: {written[name]!r} is {str(value.dtype).removeprefix('torch.')} "
                f"{tuple(value.shape)}, expected float16, bfloat16 or float32 {expected}"
            )
    if len(vocab) > config.vocab_size:
        raise InputError(
            f"{path}: the vocabulary has {len(vocab)} tokens, the model embeds {config.vocab_size}"
        )
    return MegatronFile(
        config,
        {names[name]: state.pop(name) for name in list(state)},
        vocab,
        version,
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
    heads = settings.get("num_attention_heads", max(1, hidden // HEAD_SIZE))
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
        return {name.replace("-", "_"): value for name, value in data.items()}
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
