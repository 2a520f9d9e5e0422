"""What the files of a checkpoint hold: names of weights, sizes in config.json, and numbers.

Sources of the names: transformers' ``modeling_bert`` and ``modeling_megatron_bert``; Megatron-LM's
``model/language_model.py`` and ``model/transformer.py`` of 2020-2021. NeMo 1.x wraps the latter as
``bert_model`` and adds a ``classifier``.
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
from helpers.model.encoder import GELU_NAMES, EncoderConfig, SpanModel

# --- Names of weights ----------------------------------------------------------------------------
# Each part of the model: our name, Megatron's, and BERT's in transformers, which splits query, key
# and value. Megatron's matrix of the three has its rows in one of several orders: see row_order.
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
_MEGATRON_BERT = {  # where transformers' Megatron-BERT has other names than its BERT
    "embeddings.LayerNorm": "encoder.ln",
    "attention.output.LayerNorm": "attention.ln",
    "output.LayerNorm": "ln",
}
# Wrappers around the encoder in the files of the time, in any combination.
_WRAPPERS = re.compile(
    r"^(model\.|module\.|bert_model\.|bert\.|encoder_model\.|language_model\.|_orig_mod\.)+"
)
# Parts of pre-training, of other tasks and of the wrappers, and buffers: no span model uses them.
_UNUSED_MEGATRON = re.compile(
    r"(.*\.)?(pooler|lm_head|binary_head|word_embeddings_for_head|position_ids)(\..*)?"
)
_UNUSED_TRANSFORMERS = (
    "pooler.", "cls.", "classifier.", "embeddings.position_ids", "embeddings.token_type_ids",
)  # fmt: skip


class Names(NamedTuple):
    """One weight's names: ours, Megatron's, transformers' (three for a query-key-value matrix)."""

    ours: str
    megatron: str
    transformers: tuple[str, ...]


def weight_names(config: EncoderConfig) -> Iterator[Names]:
    """The names of all weights, in the order in which the kit writes them.

    A layer's query, key and value follow each other, so that ``read_safetensors`` can map them as
    one matrix.
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
    """A stored name as ``Names.megatron``; "" for a part that a span model does not use.

    ``module.language_model.encoder.layers.0.self_attention.dense.weight`` becomes
    ``transformer.layers.0.attention.dense.weight``.
    """
    if _UNUSED_MEGATRON.fullmatch(name):
        return ""
    name = _WRAPPERS.sub("", name).removeprefix("classifier.")
    return re.sub(r"^encoder\.", "transformer.", name).replace(".self_attention.", ".attention.")


def canonical_transformers(name: str) -> str:
    """A stored name without wrappers and in today's spelling; "" for a part that is not used.

    ``module.bert.embeddings.LayerNorm.gamma`` becomes ``embeddings.LayerNorm.weight``.
    """
    name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", _WRAPPERS.sub("", name)))
    return "" if name.startswith(_UNUSED_TRANSFORMERS) else name


def canonical(
    path: Path, raw: dict[str, torch.Tensor], rename: Callable[[str], str]
) -> dict[str, torch.Tensor]:
    """The weights that a span model uses, by canonical name; ``raw`` is emptied.

    Raises ``InputError`` for weights stored twice or quantized (integers need a scale we lack).
    """
    tensors = {}
    for key in list(raw):
        value, name = raw.pop(key), rename(key)
        if not name:
            continue
        if name in tensors:
            raise InputError(f"{path}: {key!r} is there twice, with and without a wrapper")
        if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            kind = str(value.dtype).removeprefix("torch.")
            raise InputError(
                f"{path}: {key} is {kind}, expected float16, bfloat16 or float32; if the model is "
                "quantized, get the one it was made from"
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
    """Float32 weights for ``model`` by our names; the span head may be missing.

    ``names`` lists the canonical names of each weight's parts. ``tensors`` is emptied one by one to
    save memory. Raises ``InputError`` with the ``hint`` for unknown, missing or misshapen weights.
    """
    head = [*names["head.weight"], *names["head.bias"]]
    if not any(part in tensors for part in head):
        names = {name: parts for name, parts in names.items() if not name.startswith("head.")}
    wanted = {part for parts in names.values() for part in parts}
    missing = sorted(wanted - tensors.keys())
    if unknown := sorted(tensors.keys() - wanted):
        raise bad_name(path, "unknown weight", unknown[0], missing or wanted, hint)
    if missing:
        raise bad_name(path, "no weight", missing[0], tensors, hint)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    ours = {}
    for name, parts in names.items():
        rows, *columns = shapes[name]
        expected = (rows // len(parts), *columns)
        for part in parts:
            if (found := tuple(tensors[part].shape)) != expected:
                raise InputError(f"{path}: {part!r} has shape {found}, expected {expected}{hint}")
        ours[name] = join([tensors.pop(part).to(torch.float32) for part in parts])
    return ours


def bad_name(path: Path, what: str, name: str, known: Iterable[str], hint: str = "") -> InputError:
    """An error about a weight, with the nearest of the ``known`` names."""
    near = difflib.get_close_matches(name, list(known), cutoff=0.5)
    nearest = f"; nearest: {', '.join(near)}" if near else ""
    return InputError(f"{path}: {what} {name!r}{nearest}{hint}")


# --- Sizes and GELU in config.json ---------------------------------------------------------------
class Size(NamedTuple):
    """A size of ``EncoderConfig``, and where each format states or shows it."""

    field: str
    transformers: str  # in config.json
    megatron: tuple[str, ...] = ()  # in Megatron's config.json
    weight: str = ""  # Megatron's weight whose shape shows it
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
HIDDEN_ACT = {"erf": "gelu", "tanh": "gelu_new"}  # what the kit writes for a form of GELU


def read_config(path: Path, shown: str = "") -> dict:
    """The settings in a JSON or YAML file; ``InputError`` names it as ``shown`` (default: path)."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; a transformers folder has one")
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if not isinstance(data, dict):
            raise ValueError("not an object")
    except (ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise InputError(
            f"{shown or path}: not a model's settings ({why}); fetch it again"
        ) from None
    return data


def make_config(path: Path, sizes: Mapping[str, Any], hidden_act: Any, **others) -> EncoderConfig:
    """An encoder's configuration from sizes by our names and GELU by transformers' name.

    Raises ``InputError`` that names the field as transformers does. ``others`` are trusted.
    """
    for size in SIZES:
        value = sizes[size.field]
        least = 2 if size.field == "token_types" else 1  # one for the question, one for the context
        if type(value) is not int or value < least:
            what = "missing" if value is None else repr(value)
            raise InputError(
                f"{path}: {size.transformers} is {what}, expected a number of {least} or more"
            )
    if sizes["hidden"] % sizes["heads"]:
        raise InputError(
            f"{path}: {sizes['heads']} heads do not divide hidden_size {sizes['hidden']}; correct "
            "num_attention_heads in config.json"
        )
    if not isinstance(hidden_act, str) or hidden_act not in GELU_NAMES:
        raise InputError(f"{path}: hidden_act is {hidden_act!r}; known: {', '.join(GELU_NAMES)}")
    return EncoderConfig(**sizes, gelu=GELU_NAMES[hidden_act], **others)


# --- Files of weights ----------------------------------------------------------------------------
# Where transformers looks for weights, in its order; an index names the files of several parts.
WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a transformers folder by their names there, in one file or in several.

    Raises ``InputError`` that names the file.
    """
    first = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if first is None:
        raise InputError(
            f"{folder}: neither {WEIGHT_FILES[0]} nor {WEIGHT_FILES[2]} in this folder"
        )
    state = {}
    for file, names in _parts(folder / first).items():
        path = folder / file
        if not path.is_file():
            raise InputError(f"{path}: no such file, but the folder's index names it; fetch it")
        part = read_file(path)
        if not isinstance(part, dict) or not all(map(torch.is_tensor, part.values())):
            raise InputError(f"{path}: holds something other than named weights; fetch it again")
        if absent := sorted(names - part.keys()):
            raise InputError(f"{path}: lacks {absent[0]!r}, which {first} places there")
        state |= {name: part[name] for name in names or part}
    return state


def _parts(first: Path) -> dict[str, set[str]]:
    """File -> names of its weights (none: all in it), by transformers' index of several parts."""
    if first.suffix != ".json":
        return {first.name: set()}
    parts: dict[str, set[str]] = {}
    try:
        for name, file in json.loads(first.read_text(encoding="utf-8"))["weight_map"].items():
            if Path(file).name != file or not file.endswith((".safetensors", ".bin")):
                raise ValueError(f"{file!r} is not a plain name of a file with weights")
            parts.setdefault(file, set()).add(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{first}: not an index of weights ({why}); fetch it again") from None
    return parts


def read_file(path: Path, shown: str = "") -> Any:
    """What a file of weights holds, mapped into memory if its format allows; no code is run.

    Raises ``InputError`` that names the file as ``shown`` (default: its path).
    """
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # Megatron-LM's "args"
            mapped = zipfile.is_zipfile(path)  # torch's older format can only be read whole
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # safetensors, zipfile, pickle and torch each raise their own
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        why = f" ({first[:120]}); fetch it again"
        # Torch's own message would advise to run the code.
        if "nsupported" in str(error) or "weights_only" in str(error).lower():
            why = ": it holds objects or code, or is damaged; refused"
        raise InputError(f"{shown or path}: cannot be read as plain weights{why}") from None


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """A file's tensors in its order; if all are float32, the file is mapped into memory as one.

    The library maps each tensor by itself; ``join`` needs neighbors in one storage. Writing to a
    mapped tensor never changes the file. Raises ``safetensors.SafetensorError`` and ``OSError``.
    """
    with safe_open(path, "pt") as file:  # the library checks the header: names, shapes, places
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
    """Write tensors as float32 in their given order, in the safetensors format.

    The library would sort them by name, which puts a layer's query, key and value apart. Format:
    8 bytes of header length, a JSON header with each tensor's place, the numbers
    (github.com/huggingface/safetensors, README, "Format").
    """
    header: dict = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, tensor in tensors.items():
        end = place + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers start at a multiple of 8
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            out.write(tensor.detach().to("cpu", torch.float32).contiguous().numpy().data)


def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack equally large parts: a view if they are adjacent in memory, else a copy."""
    first, size = parts[0], parts[0].numel()
    for n, part in enumerate(parts):
        same_file = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        in_line = part.storage_offset() == first.storage_offset() + n * size
        if not (part.is_contiguous() and same_file and in_line):
            return torch.cat(list(parts))
    rows = len(first) * len(parts)
    return first.as_strided((rows, *first.shape[1:]), first.stride(), first.storage_offset())
