"""The contents of a checkpoint's files: weight names, sizes in config.json, and the weights.

The names come from ``modeling_bert`` and ``modeling_megatron_bert`` in transformers, and from
``model/language_model.py`` and ``model/transformer.py`` in Megatron-LM (2020-2021). NeMo 1.x wraps
the Megatron-LM model as ``bert_model`` and adds a ``classifier``.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors import safe_open

from helpers.config import InputError
from helpers.io import out_of_memory
from helpers.model.encoder import GELU_NAMES, EncoderConfig, SpanModel

# --- Weight names --------------------------------------------------------------------------------
# Each tuple contains our name for a part of the model, Megatron's name and the name in
# transformers' BERT, which splits query, key and value. See row_order for the row order of
# Megatron's combined matrix.
_EMBEDDINGS = (
    ("words", "embedding.word_embeddings", "embeddings.word_embeddings"),
    ("positions", "embedding.position_embeddings", "embeddings.position_embeddings"),
    ("token_types", "embedding.tokentype_embeddings", "embeddings.token_type_embeddings"),
)
_NORM = (("norm", "transformer.final_layernorm", "embeddings.LayerNorm"),)
_QKV = (
    ("attention.qkv", "attention.query_key_value",
     "attention.self.query", "attention.self.key", "attention.self.value"),
)  # fmt: skip
_LAYER = (
    ("attention.out", "attention.dense", "attention.output.dense"),
    ("attention_norm", "input_layernorm", "attention.output.LayerNorm"),
    ("up", "mlp.dense_h_to_4h", "intermediate.dense"),
    ("down", "mlp.dense_4h_to_h", "output.dense"),
    ("mlp_norm", "post_attention_layernorm", "output.LayerNorm"),
)
_HEAD = (("head", "mlp.layer0", "qa_outputs"),)
_MEGATRON_BERT = {  # names in transformers' BERT -> names in its Megatron-BERT
    "embeddings.LayerNorm": "encoder.ln",
    "attention.output.LayerNorm": "attention.ln",
    "output.LayerNorm": "ln",
}
# Prefixes from wrappers around the encoder in files from 2020-2021, in any combination.
_WRAPPERS = re.compile(
    r"^(model\.|module\.|bert_model\.|bert\.|encoder_model\.|language_model\.|_orig_mod\.)+"
)
# Buffers and parts for pre-training, other tasks or wrappers that no span model uses.
_UNUSED_MEGATRON = re.compile(
    r"(.*\.)?(pooler|lm_head|binary_head|word_embeddings_for_head|position_ids)(\..*)?"
)
_UNUSED_TRANSFORMERS = (
    "pooler.", "cls.", "classifier.", "embeddings.position_ids", "embeddings.token_type_ids",
)  # fmt: skip


class Names(NamedTuple):
    """A weight's names in the kit, Megatron and transformers (three for query, key and value)."""

    ours: str
    megatron: str
    transformers: tuple[str, ...]


def weight_names(config: EncoderConfig) -> Iterator[Names]:
    """Yield the names of all weights in the order in which the kit writes them.

    A layer's query, key and value are adjacent, so that ``read_safetensors`` can map them as one
    matrix.
    """
    renamed = _MEGATRON_BERT if config.norm_first else {}

    def names(parts, before=("", "", ""), kinds=("weight", "bias")) -> Iterator[Names]:
        for kind in kinds:
            for ours, megatron, *theirs in parts:
                yield Names(
                    f"{before[0]}{ours}.{kind}",
                    f"{before[1]}{megatron}.{kind}",
                    tuple(f"{before[2]}{renamed.get(name, name)}.{kind}" for name in theirs),
                )

    yield from names(_EMBEDDINGS, ("encoder.", "", "bert."), kinds=("weight",))
    yield from names(_NORM, ("encoder.", "", "bert."))
    for n in range(config.layers):
        layer = (f"encoder.layers.{n}.", f"transformer.layers.{n}.", f"bert.encoder.layer.{n}.")
        yield from names(_QKV, layer)
        yield from names(_LAYER, layer)
    yield from names(_HEAD)


def canonical_megatron(name: str) -> str:
    """Convert a stored name to ``Names.megatron``; return "" if a span model does not use it.

    ``module.language_model.encoder.layers.0.self_attention.dense.weight`` becomes
    ``transformer.layers.0.attention.dense.weight``.
    """
    if _UNUSED_MEGATRON.fullmatch(name):
        return ""
    name = _WRAPPERS.sub("", name).removeprefix("classifier.")
    return re.sub(r"^encoder\.", "transformer.", name).replace(".self_attention.", ".attention.")


def canonical_transformers(name: str) -> str:
    """Remove wrappers and old spellings from a stored name; return "" for an unused part.

    ``module.bert.embeddings.LayerNorm.gamma`` becomes ``embeddings.LayerNorm.weight``.
    """
    name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", _WRAPPERS.sub("", name)))
    return "" if name.startswith(_UNUSED_TRANSFORMERS) else name


def canonical(
    path: Path, raw: dict[str, torch.Tensor], rename: Callable[[str], str]
) -> dict[str, torch.Tensor]:
    """Return the weights that a span model uses, by canonical name, and empty ``raw``.

    Raise ``InputError`` if a weight is stored twice or is quantized (its scale is missing).
    """
    tensors = {}
    for key in list(raw):
        value, name = raw.pop(key), rename(key)
        if not name:
            continue
        if name in tensors:
            raise InputError(f"{path}: {key!r} is stored twice, with and without a wrapper")
        if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            kind = str(value.dtype).removeprefix("torch.")
            raise InputError(
                f"{path}: {key} is {kind}; expected float16, bfloat16 or float32; if the model is "
                "quantized, use the original model"
            )
        tensors[name] = value
    return tensors


def assemble(
    path: Path,
    tensors: dict[str, torch.Tensor],
    names: Mapping[str, Sequence[str]],
    model: SpanModel,
    hint: str = "",
) -> dict[str, torch.Tensor]:
    """Return float32 weights for ``model`` by our names; the span head may be missing.

    ``names`` lists the canonical names of the parts of each weight. To save memory, we remove each
    tensor from ``tensors`` as we use it. Raise ``InputError`` with the ``hint`` if a weight is
    unknown, missing or of the wrong shape.
    """
    head = [*names["head.weight"], *names["head.bias"]]
    if not any(part in tensors for part in head):
        names = {name: parts for name, parts in names.items() if not name.startswith("head.")}
    wanted = {part for parts in names.values() for part in parts}
    missing = sorted(wanted - tensors.keys())
    if unknown := sorted(tensors.keys() - wanted):
        raise bad_name(path, "unknown weight", unknown[0], missing or wanted, hint)
    if missing:
        raise bad_name(path, "missing weight", missing[0], tensors, hint)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    ours = {}
    for name, parts in names.items():
        rows, *columns = shapes[name]
        expected = (rows // len(parts), *columns)
        for part in parts:
            if (found := tuple(tensors[part].shape)) != expected:
                raise InputError(f"{path}: {part!r} has shape {found}, not {expected}{hint}")
        ours[name] = join([tensors.pop(part).to(torch.float32) for part in parts])
    return ours


def bad_name(path: Path, what: str, name: str, known: Iterable[str], hint: str = "") -> InputError:
    """Return an error that names a weight and lists the most similar ``known`` names."""
    near = difflib.get_close_matches(name, list(known), cutoff=0.5)
    nearest = f"; similar names: {', '.join(near)}" if near else ""
    return InputError(f"{path}: {what} {name!r}{nearest}{hint}")


# --- Sizes and GELU in config.json ---------------------------------------------------------------
class Size(NamedTuple):
    """A size in ``EncoderConfig``, and where each format states or implies it."""

    field: str
    transformers: str  # its name in config.json
    megatron: tuple[str, ...] = ()  # its names in Megatron's config.json
    weight: str = ""  # the Megatron weight whose shape implies it
    axis: int = 0


SIZES = (
    Size("vocab_size", "vocab_size", ("vocab_size",), "embedding.word_embeddings"),
    Size("hidden", "hidden_size", ("hidden_size",), "embedding.word_embeddings", axis=1),
    Size("layers", "num_hidden_layers", ("num_layers", "num_hidden_layers")),
    Size("heads", "num_attention_heads", ("num_attention_heads",)),
    Size("feed_forward", "intermediate_size", (), "transformer.layers.0.mlp.dense_h_to_4h"),
    Size("positions", "max_position_embeddings", ("max_seq_length",),
         "embedding.position_embeddings"),
    Size("token_types", "type_vocab_size", (), "embedding.tokentype_embeddings"),
)  # fmt: skip
_LARGEST, _MOST_LAYERS = 10_000_000, 1_000  # far more than any model of this kind has
HIDDEN_ACT = {"erf": "gelu", "tanh": "gelu_new"}  # what the kit writes for each form of GELU


def read_config(path: Path, shown: str = "") -> dict:
    """Read a JSON or YAML settings file; ``shown`` replaces its path in error messages."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; a transformers folder needs one")
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if not isinstance(data, dict):
            raise ValueError("not an object")
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise InputError(
            f"{shown or path}: not a valid model configuration ({why}); fetch it again"
        ) from None
    return data


def make_config(path: Path, sizes: Mapping[str, Any], hidden_act: Any, **others) -> EncoderConfig:
    """Build a configuration from sizes (by our names) and a GELU (by transformers' name).

    If a size or the GELU is invalid, raise ``InputError`` with transformers' name for the field. We
    do not check ``others``.
    """
    for size in SIZES:
        value = sizes[size.field]
        least = 2 if size.field == "token_types" else 1  # one for the question, one for the context
        most = _MOST_LAYERS if size.field == "layers" else _LARGEST
        if type(value) is not int or not least <= value <= most:
            what = "missing" if value is None else repr(value)[:40]
            raise InputError(
                f"{path}: {size.transformers} is {what}; expected an integer from {least} to {most}"
            )
    if sizes["hidden"] % sizes["heads"]:
        raise InputError(
            f"{path}: hidden_size {sizes['hidden']} is not divisible by {sizes['heads']} heads; "
            "correct num_attention_heads in config.json"
        )
    if not isinstance(hidden_act, str) or hidden_act not in GELU_NAMES:
        raise InputError(f"{path}: hidden_act is {hidden_act!r}; expected {', '.join(GELU_NAMES)}")
    return EncoderConfig(**sizes, gelu=GELU_NAMES[hidden_act], **others)


# --- Weight files --------------------------------------------------------------------------------
# The names under which transformers looks for weights, in order; an index lists several shards.
WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a transformers folder, by stored name, from one file or several shards.

    Raise an ``InputError`` that names the file if any file is missing or invalid.
    """
    first = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if first is None:
        raise InputError(f"{folder}: contains neither {WEIGHT_FILES[0]} nor {WEIGHT_FILES[2]}")
    state = {}
    for file, names in _parts(folder / first).items():
        path = folder / file
        if not path.is_file():
            raise InputError(f"{path}: no such file, but the folder's index lists it; fetch it")
        part = read_file(path)
        if not isinstance(part, dict) or not all(map(torch.is_tensor, part.values())):
            raise InputError(f"{path}: contains something other than named weights; fetch it again")
        if absent := sorted(names - part.keys()):
            raise InputError(f"{path}: lacks {absent[0]!r}, which {first} assigns to this file")
        state |= {name: part[name] for name in names or part}
    return state


def _parts(first: Path) -> dict[str, set[str]]:
    """Map each file in a shard index to the names of its weights; an empty set means all."""
    if first.suffix != ".json":
        return {first.name: set()}
    parts: dict[str, set[str]] = {}
    try:
        for name, file in json.loads(first.read_text(encoding="utf-8"))["weight_map"].items():
            if Path(file).name != file or not file.endswith((".safetensors", ".bin")):
                raise ValueError(f"{file!r} is not a plain name of a weight file")
            parts.setdefault(file, set()).add(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{first}: not a valid weight index ({why}); fetch it again") from None
    return parts


def read_file(path: Path, shown: str = "") -> Any:
    """Read a weight file without running code; map it into memory if its format allows.

    If it is unreadable, raise ``InputError``; ``shown`` replaces the path in the message.
    """
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # for Megatron-LM's "args"
            mapped = zipfile.is_zipfile(path)  # torch's older format must be read in full
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # safetensors, zipfile, pickle and torch raise many errors
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        why = f" ({first[:120]}); fetch it again"
        if out_of_memory(error):
            why = " because the memory ran out; close other programs"
        # PyTorch's own message would advise the user to load the file in a way that runs code.
        if "nsupported" in str(error) or "weights_only" in str(error).lower():
            why = " because it contains objects or code, or is damaged"
        raise InputError(f"{shown or path}: cannot be read as plain weights{why}") from None


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors in file order; if all are float32, map the file into memory as one storage.

    The library maps each tensor separately, but ``join`` needs adjacent tensors in one storage.
    Writing to a mapped tensor never changes the file. Raise ``SafetensorError`` or ``OSError`` on
    failure.
    """
    with safe_open(path, "pt") as file:  # the library checks names, shapes and offsets
        found = {name: file.get_slice(name) for name in file.offset_keys()}
        length, rest = divmod(path.stat().st_size, 4)
        if rest or any(part.get_dtype() != "F32" for part in found.values()):
            return {name: file.get_tensor(name) for name in found}
        shapes = [part.get_shape() for part in found.values()]
    counts = [math.prod(shape) for shape in shapes]
    numbers = torch.from_file(str(path), shared=False, size=length)[length - sum(counts) :]
    views = (part.view(shape) for part, shape in zip(numbers.split(counts), shapes, strict=True))
    return dict(zip(found, views, strict=True))


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as float32 in the given order, in the safetensors format.

    The library would sort them by name and so separate a layer's query, key and value. The format
    consists of the header length (8 bytes), a JSON header with the offsets of each tensor, and the
    values (github.com/huggingface/safetensors, README, "Format").
    """
    header: dict = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, tensor in tensors.items():
        end = place + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the values start at a multiple of 8 bytes
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            out.write(tensor.detach().to("cpu", torch.float32).contiguous().numpy().data)


def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack parts of equal size; return a view if they are adjacent in memory, otherwise a copy."""
    first, size = parts[0], parts[0].numel()
    for n, part in enumerate(parts):
        same_file = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        in_line = part.storage_offset() == first.storage_offset() + n * size
        if not (part.is_contiguous() and same_file and in_line):
            return torch.cat(list(parts))
    rows = len(first) * len(parts)
    return first.as_strided((rows, *first.shape[1:]), first.stride(), first.storage_offset())
