"""Checkpoints on disk, in and out: transformers folders and our own ``.nemo``.

One table of names serves both directions. Query, key and value are one matrix here (rows: all
queries, then keys, then values) and three in transformers.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from helpers.config import InputError, Settings
from helpers.encoder import EncoderConfig, SpanModel
from helpers.features import read_vocab
from helpers.prediction import Reader

# ours: (BERT's name, Megatron-BERT's name) in transformers' modeling_bert, modeling_megatron_bert
_WHOLE = {
    "words": ("embeddings.word_embeddings",) * 2,
    "positions": ("embeddings.position_embeddings",) * 2,
    "token_types": ("embeddings.token_type_embeddings",) * 2,
    "norm": ("embeddings.LayerNorm", "encoder.ln"),
}
_PER_LAYER = {
    "attention.out": ("attention.output.dense",) * 2,
    "attention_norm": ("attention.output.LayerNorm", "attention.ln"),
    "up": ("intermediate.dense",) * 2,
    "down": ("output.dense",) * 2,
    "mlp_norm": ("output.LayerNorm", "ln"),
}
_QKV = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))
_IGNORED = ("pooler.", "embeddings.position_ids", "cls.")  # not used by a span head
_SAVED = {"config.json", "vocab.txt", "tokenizer_config.json", "model.safetensors"}
_TYPES = {"bert": False, "megatron-bert": True}  # model_type -> norm_first


def load(path: str | Path, settings: Settings) -> Reader:
    """Read a checkpoint: a transformers folder (BERT, Megatron-BERT) or our ``.nemo`` file.

    A checkpoint without a span head gets a random one that follows from ``settings.seed``, and
    the reader says so in ``fresh_head``. Raises ``InputError`` naming the file and what it lacks.
    """
    path = Path(path)
    if path.is_dir() and (path / "model.nemo").is_file() and not (path / "config.json").exists():
        raise InputError(f"{path}: a folder of fine_tune.py; give {path / 'model.nemo'}")
    if path.is_dir():
        reader = _load_transformers(path, settings)
    elif path.suffix == ".nemo":
        reader = _load_nemo(path, settings)
    elif path.exists():
        raise InputError(f"{path}: neither a folder with config.json nor a .nemo file")
    else:
        raise InputError(f"{path}: no such checkpoint")
    for name, parameter in reader.model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(
                f"{path}: damaged weights, {name} holds numbers that are not finite; "
                "fetch or train it again"
            )
    reader.model.eval()
    return reader


def save_transformers(reader: Reader, folder: str | Path) -> Path:
    """Write a folder that ``transformers.AutoModelForQuestionAnswering`` loads to equal logits.

    The folder appears under its name only when it is complete. An older one is replaced; raises
    ``InputError`` when the folder holds anything that this function does not write.
    """
    folder = Path(folder)
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".saving-") as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        config = reader.model.config
        (partial / "config.json").write_text(json.dumps(_to_config(config), indent=2) + "\n")
        (partial / "vocab.txt").write_text("\n".join(reader.vocab) + "\n", encoding="utf-8")
        (partial / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "BertTokenizer", "do_lower_case": true}\n'
        )
        state = reader.model.state_dict()
        tensors = {}
        for ours, theirs, rows in _pairs(config):
            value = state[ours] if rows is None else state[ours].chunk(3)[rows]
            tensors[theirs] = value.detach().cpu().contiguous()
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    return folder


def check_replaceable(folder: Path) -> None:
    """Raise ``InputError`` unless ``folder`` is absent or holds only what we would write there."""
    if folder.is_dir():
        others = sorted({path.name for path in folder.iterdir()} - _SAVED)
        if others:
            raise InputError(
                f"{folder}: holds {others[0]}, which is not of a saved model; "
                "move it away or choose another folder"
            )
    elif folder.exists():
        raise InputError(f"{folder}: is a file; a folder has to go there")


def save_nemo(reader: Reader, path: str | Path) -> Path:
    """Write a ``.nemo`` archive that ``load`` restores to equal logits. Imports NeMo."""
    from helpers import qa_model

    qa_model.quiet_nemo()
    return qa_model.save_nemo(reader.model, reader.vocab, path)


def _load_nemo(path: Path, settings: Settings) -> Reader:
    from helpers import qa_model

    qa_model.quiet_nemo()
    model = qa_model.restore_nemo(path)
    return Reader(model.net, model.vocab, settings)


def _load_transformers(folder: Path, settings: Settings) -> Reader:
    config = _from_config(folder / "config.json", settings.dropout)
    state = {_bare(name): value for name, value in _read_weights(folder).items()}
    state = {k: v for k, v in state.items() if not k.startswith(_IGNORED)}
    with torch.device("meta"):
        model = SpanModel(config)
    shapes = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    fresh_head = "qa_outputs.weight" not in state
    ours: dict[str, torch.Tensor] = {}
    parts: dict[str, list[torch.Tensor]] = {}
    for name, theirs, rows in _pairs(config):
        theirs = _bare(theirs)
        if theirs.startswith("qa_outputs") and fresh_head:
            continue
        if theirs not in state:
            raise InputError(f"{folder}: the weights lack {theirs!r}; is config.json another's?")
        value = state.pop(theirs).to(torch.float32)
        if rows is None:
            ours[name] = value
        else:
            parts.setdefault(name, []).append(value)
    ours |= {name: torch.cat(values) for name, values in parts.items()}
    if state:
        raise InputError(f"{folder}: unexpected weights {', '.join(sorted(state)[:5])}")
    for name, value in ours.items():
        if tuple(value.shape) != shapes[name]:
            raise InputError(
                f"{folder}: {name} has shape {tuple(value.shape)}, config.json says {shapes[name]}"
            )
    if fresh_head:
        ours["head.weight"] = torch.empty(shapes["head.weight"])
        ours["head.bias"] = torch.empty(shapes["head.bias"])
    model.load_state_dict(ours, assign=True)
    for parameter in model.parameters():  # assigned tensors come without it
        parameter.requires_grad_()
    if fresh_head:
        model.new_head(settings.seed)
    vocab = read_vocab(folder / "vocab.txt")
    if len(vocab) > config.vocab_size:
        raise InputError(
            f"{folder / 'vocab.txt'}: {len(vocab)} tokens, the model embeds {config.vocab_size}"
        )
    return Reader(model, vocab, settings, fresh_head)


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    try:
        if (folder / "model.safetensors").is_file():
            return load_file(folder / "model.safetensors")
        if (folder / "pytorch_model.bin").is_file():
            return torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zipfile and pickle each raise their own
        raise InputError(
            f"{folder}: the weights cannot be read, fetch them again: {error}"
        ) from error
    raise InputError(f"{folder}: neither model.safetensors nor pytorch_model.bin in this folder")


def _from_config(path: Path, dropout: float) -> EncoderConfig:
    if not path.is_file():
        raise InputError(f"{path}: no such file; a transformers folder has one")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["model_type"] not in _TYPES:
            raise InputError(
                f"{path}: model_type {raw['model_type']!r} is not one of {', '.join(_TYPES)}"
            )
        if raw.get("hidden_act", "gelu") != "gelu":
            raise InputError(f"{path}: hidden_act {raw['hidden_act']!r}; only the exact gelu is")
        if raw["hidden_size"] % raw["num_attention_heads"]:
            raise InputError(
                f"{path}: {raw['num_attention_heads']} heads do not divide "
                f"hidden_size {raw['hidden_size']}"
            )
        return EncoderConfig(
            vocab_size=raw["vocab_size"],
            hidden=raw["hidden_size"],
            layers=raw["num_hidden_layers"],
            heads=raw["num_attention_heads"],
            feed_forward=raw["intermediate_size"],
            positions=raw["max_position_embeddings"],
            token_types=raw.get("type_vocab_size", 2),
            norm_first=_TYPES[raw["model_type"]],
            epsilon=raw.get("layer_norm_eps", 1e-12),
            dropout=dropout,
        )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a model's config.json ({error!r})") from error


def _to_config(config: EncoderConfig) -> dict:
    kind = "megatron-bert" if config.norm_first else "bert"
    prefix = "MegatronBert" if config.norm_first else "Bert"
    return {
        "architectures": [f"{prefix}ForQuestionAnswering"],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.feed_forward,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.token_types,
        "layer_norm_eps": config.epsilon,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
    }


def _pairs(config: EncoderConfig) -> Iterator[tuple[str, str, int | None]]:
    """(our name, transformers' name, third of the query-key-value matrix or None), all weights."""
    which = int(config.norm_first)
    for ours, theirs in _WHOLE.items():
        for kind in ("weight", "bias") if ours == "norm" else ("weight",):
            yield f"encoder.{ours}.{kind}", f"bert.{theirs[which]}.{kind}", None
    for n in range(config.layers):
        for kind in ("weight", "bias"):
            for rows, theirs in enumerate(_QKV):
                yield (
                    f"encoder.layers.{n}.attention.qkv.{kind}",
                    f"bert.encoder.layer.{n}.{theirs}.{kind}",
                    rows,
                )
            for ours, theirs in _PER_LAYER.items():
                yield (
                    f"encoder.layers.{n}.{ours}.{kind}",
                    f"bert.encoder.layer.{n}.{theirs[which]}.{kind}",
                    None,
                )
    for kind in ("weight", "bias"):
        yield f"head.{kind}", f"qa_outputs.{kind}", None


def _bare(name: str) -> str:
    """A name without the model's prefix: encoders are saved with and without ``bert.``."""
    return name.removeprefix("bert.")
