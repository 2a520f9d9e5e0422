"""Checkpoints on disk, in and out: transformers folders, ``.nemo``, Megatron's files of 2021.

Names are in ``key_map``, Megatron's formats in ``megatron``, the order of its rows in ``probe``.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from pathlib import Path

import torch

from helpers import megatron, model_card, probe
from helpers.config import InputError, Settings
from helpers.download import check_disk
from helpers.encoder import EncoderConfig, SpanModel
from helpers.features import is_cased, read_vocab
from helpers.key_map import bare, transformers_names
from helpers.prediction import Reader
from helpers.unpack import is_archive
from helpers.weights import join, read_safetensors, write_safetensors

_BIN = "pytorch_model.bin"
_IGNORED = ("pooler.", "embeddings.position_ids", "cls.")  # not used by a span head
_SAVED = {"config.json", "vocab.txt", "tokenizer_config.json", "model.safetensors", "README.md"}
_TYPES = {"bert": False, "megatron-bert": True}  # model_type -> norm_first


def load(path: str | Path, settings: Settings) -> Reader:
    """Read a checkpoint: a transformers folder (BERT, Megatron-BERT), a ``.nemo`` file of ours or
    of NeMo 1.x, or a folder or archive with Megatron's ``.pt`` files.

    A checkpoint without a span head gets a random one that follows from ``settings.seed``, and
    the reader says so in ``fresh_head``. Megatron's files leave the order of their rows open:
    ``settings.qkv_order`` names it, else ``helpers.probe`` decides, and ``Reader.origin`` says
    what was found. Raises ``InputError`` naming the file and what it lacks.
    """
    path = Path(path)
    if path.is_dir() and (path / "model.nemo").is_file() and not (path / "config.json").exists():
        raise InputError(f"{path}: a folder of fine_tune.py; give {path / 'model.nemo'}")
    if is_foreign(path):
        reader = _load_megatron(path, settings)
    elif path.is_dir():
        reader = _load_transformers(path, settings)
    elif path.suffix == ".nemo":
        reader = _load_nemo(path, settings)
    elif path.exists():
        raise InputError(f"{path}: neither a folder or archive with a checkpoint nor a .nemo file")
    else:
        raise InputError(f"{path}: no such checkpoint")
    reader.model.eval()
    return reader


def is_foreign(path: Path) -> bool:
    """Whether a path holds Megatron's files: a folder or archive, or a ``.nemo`` of NeMo 1.x."""
    if path.is_file():
        return _is_nemo_1(path) if path.suffix == ".nemo" else is_archive(path)
    return megatron.is_megatron(path)


def save_transformers(reader: Reader, folder: str | Path, *, with_head: bool = True) -> Path:
    """Write a folder that ``transformers.AutoModelForQuestionAnswering`` loads to equal logits.

    Beside weights, configuration and tokenizer it holds a model card (README.md). The folder
    appears under its name only when it is complete, and replaces an older one. ``with_head=False``
    leaves out a random head, so that it is known for one when the folder is loaded again. Raises
    ``InputError`` when the folder holds anything that this function does not write.
    """
    folder = Path(folder).resolve()
    check_replaceable(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_disk(folder.parent, sum(p.nbytes for p in reader.model.parameters()))
        _write_folder(reader, folder, with_head)
    except OSError as error:
        why = error.strerror or error
        raise InputError(
            f"{folder}: cannot be written ({why}); make room or go elsewhere"
        ) from None
    return folder


def _write_folder(reader: Reader, folder: Path, with_head: bool) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".saving-") as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        config = reader.model.config
        described = {**_to_config(config), "origin": reader.origin}
        (partial / "config.json").write_text(json.dumps(described, indent=2) + "\n")
        (partial / "vocab.txt").write_text("\n".join(reader.vocab) + "\n", encoding="utf-8")
        tokenizer = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": not is_cased(reader.vocab),
        }
        (partial / "tokenizer_config.json").write_text(json.dumps(tokenizer) + "\n")
        (partial / "README.md").write_text(model_card.text(reader, with_head), encoding="utf-8")
        state = reader.model.state_dict()
        tensors = {}
        for ours, theirs, rows in transformers_names(config):
            if not with_head and ours.startswith("head."):
                continue
            tensors[theirs] = state[ours] if rows is None else state[ours].chunk(3)[rows]
        write_safetensors(partial / "model.safetensors", tensors)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)


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
    return qa_model.save_nemo(reader.model, reader.vocab, path, reader.origin)


def _load_nemo(path: Path, settings: Settings) -> Reader:
    from helpers import qa_model

    qa_model.quiet_nemo()
    model = qa_model.restore_nemo(path)
    return Reader(model.net, model.vocab, settings, origin=model.origin)


def _is_nemo_1(path: Path) -> bool:
    """Whether an archive is of NeMo 1.x: its configuration names a class of NVIDIA's."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if Path(member.name).name == "model_config.yaml" and member.isreg():
                    text = archive.extractfile(member).read(1 << 20).decode("utf-8", "replace")
                    return "target: nemo.collections.nlp" in text
    except (tarfile.TarError, OSError, EOFError):
        pass  # what is wrong with it is said where it is read
    return False


def _load_megatron(path: Path, settings: Settings) -> Reader:
    read = megatron.read(path, settings.dropout)
    has_head = "head.weight" in read.state
    with torch.device("meta"):
        model = SpanModel(read.config)
    # One by one, so that the old numbers are freed as the new ones come.
    ours = {}
    for name in list(read.state):
        ours[name] = read.state.pop(name).to(torch.float32)
        if not ours[name].isfinite().all():
            raise InputError(f"{path}: {name} holds numbers that are not finite; fetch it again")
    _fill(model, ours, settings.seed, fresh_head=not has_head)
    reader = Reader(model, read.vocab, settings, fresh_head=not has_head)
    if settings.qkv_order:
        probe.reorder(model, "0", settings.qkv_order)
        found = probe.Evidence(settings.qkv_order, "given")
    else:
        model.eval()
        found = probe.find_order(
            reader, path, has_head=has_head, version=read.version, lm_head=read.lm_head
        )
    reader.origin.update(path=path.name, format="Megatron", files=read.files, qkv=found.as_dict())
    return reader


def _fill(model: SpanModel, state: dict, seed: int, fresh_head: bool) -> None:
    """Put float32 weights into a model on the meta device, and a random head where there is none.

    Whether they are finite numbers shows in the first logits (``prediction``): to look here would
    read a file that is only mapped into memory.
    """
    if fresh_head:
        ours = model.state_dict()
        state |= {n: torch.empty(ours[n].shape) for n in ("head.weight", "head.bias")}
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():  # assigned tensors come without it
        parameter.requires_grad_()
    if fresh_head:
        model.new_head(seed)


def _load_transformers(folder: Path, settings: Settings) -> Reader:
    config = _from_config(folder / "config.json", settings.dropout)
    state = {bare(name): value for name, value in _read_weights(folder).items()}
    state = {k: v for k, v in state.items() if not k.startswith(_IGNORED)}
    with torch.device("meta"):
        model = SpanModel(config)
    shapes = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    fresh_head = "qa_outputs.weight" not in state
    ours: dict[str, torch.Tensor] = {}
    parts: dict[str, list[torch.Tensor]] = {}
    for name, theirs, rows in transformers_names(config):
        theirs = bare(theirs)
        if theirs.startswith("qa_outputs") and fresh_head:
            continue
        if theirs not in state:
            raise InputError(f"{folder}: the weights lack {theirs!r}; is config.json another's?")
        value = state.pop(theirs).to(torch.float32)
        if rows is None:
            ours[name] = value
        else:
            parts.setdefault(name, []).append(value)
    ours |= {name: join(values) for name, values in parts.items()}
    if state:
        raise InputError(f"{folder}: unexpected weights {', '.join(sorted(state)[:5])}")
    for name, value in ours.items():
        if tuple(value.shape) != shapes[name]:
            raise InputError(
                f"{folder}: {name} has shape {tuple(value.shape)}, config.json says {shapes[name]}"
            )
    _fill(model, ours, settings.seed, fresh_head)
    vocab = read_vocab(folder / "vocab.txt")
    if len(vocab) > config.vocab_size:
        raise InputError(
            f"{folder / 'vocab.txt'}: {len(vocab)} tokens, the model embeds {config.vocab_size}"
        )
    origin = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("origin")
    origin = origin if isinstance(origin, dict) else {}
    return Reader(model, vocab, settings, fresh_head, origin)


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    try:
        if (folder / "model.safetensors").is_file():
            return read_safetensors(folder / "model.safetensors")
        if (folder / _BIN).is_file():
            return _plain(torch.load(folder / _BIN, map_location="cpu", weights_only=True))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    except Exception as error:  # safetensors, zipfile and pickle each raise their own
        raise InputError(f"{folder}: {megatron.unreadable(error)}") from None
    raise InputError(f"{folder}: neither model.safetensors nor {_BIN} in this folder")


def _plain(data: object) -> dict[str, torch.Tensor]:
    if isinstance(data, dict) and all(
        isinstance(value, torch.Tensor) and value.is_floating_point()
        for key, value in data.items()
        if not str(key).endswith("position_ids")
    ):
        return data
    raise InputError(f"{_BIN} holds something else than named weights; fetch it again")


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
        sizes = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size",
                 "intermediate_size", "max_position_embeddings")  # fmt: skip
        for name in sizes:
            if not isinstance(raw[name], int) or raw[name] < 1:
                raise InputError(f"{path}: {name} is {raw[name]!r}, expected a number above 0")
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
            epsilon=float(raw.get("layer_norm_eps", 1e-12)),
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
