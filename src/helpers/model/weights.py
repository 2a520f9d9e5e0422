"""Weights that are mapped into memory instead of being read.

The safetensors library sorts what it writes by name, which puts a layer's query, key and value
apart, and gives each tensor a memory of its own. Written side by side and mapped as one, the three
can be used as one matrix straight from the file.

One table of weight names: ours, transformers' (BERT and Megatron-BERT), Megatron's, NeMo 1.x's.

Sources: transformers ``modeling_bert`` and ``modeling_megatron_bert``; Megatron-LM
``model/language_model.py`` and ``model/transformer.py`` of 2020–2021; NeMo 1.x wraps the latter as
``bert_model`` and adds a ``classifier``. Query, key and value are one matrix in ours and in
Megatron's (whose row order varies, see ``row_order``), three in transformers'.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from helpers.config import InputError
from helpers.model.encoder import EncoderConfig

# ours: (BERT, Megatron-BERT, Megatron)
_WHOLE = {
    "words": (*["embeddings.word_embeddings"] * 2, "embedding.word_embeddings"),
    "positions": (*["embeddings.position_embeddings"] * 2, "embedding.position_embeddings"),
    "token_types": (*["embeddings.token_type_embeddings"] * 2, "embedding.tokentype_embeddings"),
    "norm": ("embeddings.LayerNorm", "encoder.ln", "transformer.final_layernorm"),
}
_PER_LAYER = {
    "attention.out": (*["attention.output.dense"] * 2, "attention.dense"),
    "attention_norm": ("attention.output.LayerNorm", "attention.ln", "input_layernorm"),
    "up": (*["intermediate.dense"] * 2, "mlp.dense_h_to_4h"),
    "down": (*["output.dense"] * 2, "mlp.dense_4h_to_h"),
    "mlp_norm": ("output.LayerNorm", "ln", "post_attention_layernorm"),
}
_QKV = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))
MEGATRON_QKV = "attention.query_key_value"
MEGATRON_HEAD = "mlp.layer0"

# Wrappers around the encoder in the files of the time, outermost first, in any combination.
_WRAPPERS = ("model.", "module.", "bert_model.", "bert.", "encoder_model.", "language_model.")
# In transformers' files: parts of pre-training, of other tasks, and buffers.
_NO_SPAN_HEAD = (
    "pooler.", "cls.", "classifier.", "embeddings.position_ids", "embeddings.token_type_ids",
)  # fmt: skip
# Parts of pre-training and of the wrappers that a span head does not use.
_UNUSED = re.compile(
    r"(.*\.)?(pooler|lm_head|binary_head|word_embeddings_for_head|position_ids)(\..*)?"
)


def transformers_names(config: EncoderConfig) -> Iterator[tuple[str, str, int | None]]:
    """(our name, transformers' name, third of the query-key-value matrix or None), all weights."""
    which = int(config.norm_first)
    for ours, theirs in _WHOLE.items():
        for kind in ("weight", "bias") if ours == "norm" else ("weight",):
            yield f"encoder.{ours}.{kind}", f"bert.{theirs[which]}.{kind}", None
    for n in range(config.layers):
        # A kind's three parts follow each other, so that a file in this order can be mapped whole.
        for kind in ("weight", "bias"):
            for rows, theirs in enumerate(_QKV):
                yield (
                    f"encoder.layers.{n}.attention.qkv.{kind}",
                    f"bert.encoder.layer.{n}.{theirs}.{kind}",
                    rows,
                )
        for kind in ("weight", "bias"):
            for ours, theirs in _PER_LAYER.items():
                yield (
                    f"encoder.layers.{n}.{ours}.{kind}",
                    f"bert.encoder.layer.{n}.{theirs[which]}.{kind}",
                    None,
                )
    for kind in ("weight", "bias"):
        yield f"head.{kind}", f"qa_outputs.{kind}", None


def megatron_names(layers: int) -> dict[str, str]:
    """Megatron's name of every weight, in the one spelling of ``canonical``: to our name."""
    names = {}
    for ours, theirs in _WHOLE.items():
        for kind in ("weight", "bias") if ours == "norm" else ("weight",):
            names[f"{theirs[2]}.{kind}"] = f"encoder.{ours}.{kind}"
    for n in range(layers):
        within = {"attention.qkv": MEGATRON_QKV} | {o: t[2] for o, t in _PER_LAYER.items()}
        for ours, theirs in within.items():
            for kind in ("weight", "bias"):
                names[f"transformer.layers.{n}.{theirs}.{kind}"] = (
                    f"encoder.layers.{n}.{ours}.{kind}"
                )
    for kind in ("weight", "bias"):
        names[f"{MEGATRON_HEAD}.{kind}"] = f"head.{kind}"
    return names


def canonical(key: str) -> str:
    """A Megatron key without wrappers and in one spelling; "" for a part that is not used.

    ``module.language_model.encoder.layers.0.self_attention.dense.weight`` becomes
    ``transformer.layers.0.attention.dense.weight``, ``classifier.mlp.layer0.bias`` becomes
    ``mlp.layer0.bias``.
    """
    if _UNUSED.fullmatch(key):
        return ""
    bare = key
    while wrapper := next((w for w in _WRAPPERS if bare.startswith(w)), ""):
        bare = bare.removeprefix(wrapper)
    bare = re.sub(r"^classifier\.", "", bare)
    bare = re.sub(r"^encoder\.", "transformer.", bare)
    return bare.replace(".self_attention.", ".attention.")


def bare(name: str) -> str:
    """A transformers name without wrappers and in today's spelling; "" for a part not used.

    ``module.bert.embeddings.LayerNorm.gamma`` becomes ``embeddings.LayerNorm.weight``.
    """
    while wrapper := next((w for w in (*_WRAPPERS, "_orig_mod.") if name.startswith(w)), ""):
        name = name.removeprefix(wrapper)
    name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
    return "" if name.startswith(_NO_SPAN_HEAD) else name


# Where transformers looks for weights, in its order; an index names the files of several parts.
WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a transformers folder by their names there, in one file or in several.

    Raises ``InputError`` that names the file.
    """
    name = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if name is None:
        raise InputError(
            f"{folder}: neither {WEIGHT_FILES[0]} nor {WEIGHT_FILES[2]} in this folder"
        )
    if not name.endswith(".json"):
        return _read_file(folder / name)
    state = {}
    for file, names in _parts(folder / name).items():
        part = _read_file(folder / file)
        absent = sorted(names - part.keys())
        if absent:
            raise InputError(f"{folder / file}: lacks {absent[0]!r}, which {name} places there")
        state |= {name: part[name] for name in names}
    return state


def check_numbers(path: Path, name: str, value: torch.Tensor) -> None:
    """Raise ``InputError`` for quantized weights, whose integers mean nothing without a scale."""
    if value.dtype not in _NUMBERS:
        kind = str(value.dtype).removeprefix("torch.")
        raise InputError(
            f"{path}: {name} is {kind}, expected float16, bfloat16 or float32; if the model is "
            "quantized, get the one it was made from"
        )


def unreadable(error: Exception) -> str:
    """What is wrong with a file of weights, in our words: torch's advise to run its code."""
    if "nsupported" in str(error) or "weights_only" in str(error).lower():
        return "cannot be read as plain weights: it holds objects or code, or is damaged; refused"
    why = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"cannot be read as plain weights ({why[:120]}); fetch it again"


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file, but the folder's index names it; fetch it again")
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zipfile and pickle each raise their own
        raise InputError(f"{path}: {unreadable(error)}") from None
    if isinstance(state, dict) and all(isinstance(v, torch.Tensor) for v in state.values()):
        return state
    raise InputError(f"{path}: holds something else than named weights; fetch it again")


def _parts(index: Path) -> dict[str, set[str]]:
    """File name -> names of the weights in it, by transformers' index of a model in parts."""
    parts: dict[str, set[str]] = {}
    try:
        for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
            if Path(file).name != file or not file.endswith((".safetensors", ".bin")):
                raise ValueError(f"{file!r} is not a plain name of a file with weights")
            parts.setdefault(file, set()).add(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{index}: not an index of weights ({why}); fetch it again") from None
    return parts


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write float32 tensors in their given order, in the safetensors format.

    Format: 8 bytes of header length, a JSON header with each tensor's place, the numbers
    (github.com/huggingface/safetensors, README, "Format").
    """
    header: dict = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}, expected float32")
        end = place + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers start at a multiple of 8
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for tensor in tensors.values():
            out.write(tensor.detach().cpu().contiguous().numpy().data)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file; those of a file that is all float32 are mapped, not read.

    Mapped tensors can be written to, which changes memory only, never the file. Raises
    ``safetensors.SafetensorError`` and ``OSError``.
    """
    with safe_open(path, "pt") as file:  # the library checks the header: names, shapes, places
        names = file.keys()
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    start = 8 + size
    if start % 4 or any(header[name]["dtype"] != "F32" for name in names):
        return load_file(path)
    length = (path.stat().st_size - start) // 4
    numbers = torch.from_file(str(path), shared=False, size=start // 4 + length)[start // 4 :]
    tensors = {}
    for name in names:
        low, high = header[name]["data_offsets"]
        tensors[name] = numbers[low // 4 : high // 4].view(header[name]["shape"])
    return tensors


def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The parts one below the other: a view where they lie so in memory already, else a copy."""
    first = parts[0]
    start = first.data_ptr()
    for part in parts:
        if not part.is_contiguous() or part.data_ptr() != start or not _same_memory(first, part):
            return torch.cat(list(parts))
        start += part.nbytes
    rows = sum(len(part) for part in parts)
    return first.as_strided((rows, *first.shape[1:]), first.stride(), first.storage_offset())


def _same_memory(first: torch.Tensor, part: torch.Tensor) -> bool:
    return first.untyped_storage().data_ptr() == part.untyped_storage().data_ptr()
