"""Checkpoints on disk: load any supported format, save, and convert Megatron files once.

The formats are transformers folders (BERT, Megatron-BERT), the kit's own ``.nemo`` files and
Megatron files from 2021 (module ``megatron``). The module ``weights`` handles weight names, sizes
and weight files; ``row_order`` determines the order of Megatron's query-key-value rows.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from helpers.config import InputError, Settings
from helpers.data import spans
from helpers.fetch import registry
from helpers.fetch.download import check_disk, locked
from helpers.model import megatron, row_order
from helpers.model.compute import Compute, decide
from helpers.model.decoding import Reader
from helpers.model.encoder import GELU_NAMES, EncoderConfig, SpanModel
from helpers.model.texts import read_tokenizer, tokens_of
from helpers.model.weights import (
    HIDDEN_ACT,
    SIZES,
    assemble,
    canonical,
    canonical_transformers,
    make_config,
    read_config,
    read_weights,
    weight_names,
    write_safetensors,
)

MODEL_CARD = Path(__file__).with_name("model_card.md")
_SAVED = {"config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json",
          "model.safetensors", "README.md"}  # fmt: skip
_TYPES = {"bert": False, "megatron-bert": True}  # maps model_type to norm_first
# Options in config.json that change the logits, with the only value that we support for each.
_ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}


def load(path: str | Path, settings: Settings) -> Reader:
    """Load a checkpoint: a transformers folder (BERT, Megatron-BERT), a ``.nemo`` file from the kit
    or from NeMo 1.x, or a folder or archive with Megatron's ``.pt`` files.

    If the checkpoint has no span head, ``Reader.fresh_head`` is true, and ``settings.seed``
    determines the random weights of a new head. For converted weights, ``Reader.origin`` records
    the source and how the row order was found. Raise an ``InputError`` that names the file and the
    problem if the checkpoint cannot be loaded.
    """
    path = Path(path)
    compute = decide(settings)
    compute.prepare()
    if path.is_dir() and (path / "model.nemo").is_file() and not (path / "config.json").exists():
        raise InputError(f"{path}: fine_tune.py wrote this folder; specify {path / 'model.nemo'}")
    if megatron.is_megatron(path):
        reader = _load_megatron(path, settings, compute)
    elif path.is_dir():
        reader = _load_transformers(path, settings, compute)
    elif path.suffix == ".nemo":
        reader = _load_nemo(path, settings, compute)
    else:
        what = "not a checkpoint folder, checkpoint archive or .nemo file"
        raise InputError(f"{path}: {what if path.exists() else 'no such checkpoint'}")
    reader.model.eval()
    return reader


def _load_transformers(folder: Path, settings: Settings, compute: Compute) -> Reader:
    raw = read_config(folder / "config.json")
    config = _from_config(folder / "config.json", raw, settings.dropout)
    tokenizer = read_tokenizer(folder, config.vocab_size)
    origin = raw.get("origin") if isinstance(raw.get("origin"), dict) else {}
    with torch.device("meta"):
        model = SpanModel(config)
    # Create the reader before reading the weights because it checks ``max_length``.
    reader = Reader(
        model, tokens_of(tokenizer), settings, origin=origin, tokenizer=tokenizer, compute=compute
    )
    tensors = canonical(folder, read_weights(folder), canonical_transformers)
    names = {n.ours: [*map(canonical_transformers, n.transformers)] for n in weight_names(config)}
    hint = "; does config.json belong to these weights?"
    state = assemble(folder, tensors, names, model, hint)
    # ``decoding`` detects non-finite weights from the first logits. A check here would read the
    # whole file, which is only mapped into memory.
    _fill(model, state, settings.seed)
    model.to(compute.device)
    return replace(reader, fresh_head="head.weight" not in state)


def _load_megatron(path: Path, settings: Settings, compute: Compute) -> Reader:
    file = megatron.read(path, settings.dropout)
    with torch.device("meta"):
        model = SpanModel(file.config)
    names = {n.ours: [n.megatron] for n in weight_names(file.config)}
    state = assemble(path, file.weights, names, model)
    for name, value in state.items():
        if not torch.stack(value.aminmax()).isfinite().all():  # uses less memory than isfinite
            raise InputError(f"{path}: {name} contains non-finite values; fetch the file again")
    fresh = "head.weight" not in state
    reader = Reader(model.eval(), file.vocab, settings, fresh, compute=compute)
    _fill(model, state, settings.seed)
    model.to(compute.device)
    origin = {
        "path": path.name,
        "format": "Megatron",
        "files": megatron.hashes(path),
        "qkv": row_order.find_order(reader, path, file.version, file.lm_head),
        "gelu": {"form": file.config.gelu, "reason": file.gelu_reason},
    }
    return replace(reader, origin=origin)


def _fill(model: SpanModel, state: dict[str, torch.Tensor], seed: int) -> None:
    """Load weights into a model on the meta device; add a random span head if they lack one."""
    fresh_head = "head.weight" not in state
    model.load_state_dict(state, assign=True, strict=not fresh_head)
    if fresh_head:
        model.head.to_empty(device="cpu")
        model.new_head(seed)
    model.requires_grad_()  # assigned tensors do not require gradients


def _load_nemo(path: Path, settings: Settings, compute: Compute) -> Reader:
    from helpers.model import qa_model

    qa_model.quiet_nemo()
    model = qa_model.restore_nemo(path)
    return Reader(
        model.net.to(compute.device), tokens_of(model.tokenizer), settings,
        origin=model.origin, tokenizer=model.tokenizer, compute=compute,
    )  # fmt: skip


def save_nemo(reader: Reader, path: str | Path) -> Path:
    """Write a ``.nemo`` archive that ``load`` restores with identical logits; this imports NeMo."""
    from helpers.model import qa_model

    qa_model.quiet_nemo()
    return qa_model.save_nemo(reader.model, reader.tokenizer, path, reader.origin)


def save_transformers(reader: Reader, folder: str | Path, *, with_head: bool = True) -> Path:
    """Write a folder that ``AutoModelForQuestionAnswering`` loads with identical logits.

    The folder contains the weights, configuration, tokenizer and model card (README.md). It appears
    only when it is complete and then replaces any earlier version. Pass ``with_head=False`` to omit
    a span head that is still random. Raise ``InputError`` if an existing folder contains anything
    that this function does not write.
    """
    folder = Path(folder).resolve()
    check_replaceable(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_disk(folder.parent, sum(p.nbytes for p in reader.model.parameters()))
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".saving-") as temporary:
            partial = Path(temporary) / folder.name
            partial.mkdir()
            _write_folder(reader, partial, with_head)
            shutil.rmtree(folder, ignore_errors=True)
            partial.replace(folder)
    except OSError as error:
        why = f"cannot be written ({error.strerror or error})"
        raise InputError(f"{folder}: {why}; free some space or choose another folder") from None
    return folder


def check_replaceable(folder: Path) -> None:
    """Raise ``InputError`` if ``folder`` is a file or contains anything that we would not write."""
    if folder.is_dir():
        others = sorted({path.name for path in folder.iterdir()} - _SAVED)
        if others:
            raise InputError(
                f"{folder}: contains {others[0]}, which is not part of a saved model; "
                "move it elsewhere or choose another folder"
            )
    elif folder.exists():
        raise InputError(f"{folder}: this is a file; choose a folder")


def _write_folder(reader: Reader, folder: Path, with_head: bool) -> None:
    config, state = reader.model.config, reader.model.state_dict()
    described = _to_config(config) | {"origin": reader.origin}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    described = _tokenizer_config(reader)
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n")
    (folder / "vocab.txt").write_text("\n".join(reader.vocab) + "\n", encoding="utf-8")
    reader.tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "README.md").write_text(model_card(reader, with_head), encoding="utf-8")
    tensors = {}
    for names in weight_names(config):
        if with_head or not names.ours.startswith("head."):
            parts = state[names.ours].chunk(len(names.transformers))
            tensors |= zip(names.transformers, parts, strict=True)
    write_safetensors(folder / "model.safetensors", tensors)


def _tokenizer_config(reader: Reader) -> dict:
    """Return settings that make ``AutoTokenizer`` use tokenizer.json without any changes."""
    tokens, (cls, sep) = reader.vocab, reader.tokenizer.encode("").ids
    names = {"cls_token": tokens[cls], "sep_token": tokens[sep], "pad_token": "[PAD]",
             "unk_token": reader.tokenizer.model.unk_token, "mask_token": "[MASK]"}  # fmt: skip
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": reader.model.config.positions,
        **{name: token for name, token in names.items() if token in tokens},
    }


def _from_config(path: Path, raw: dict, dropout: float) -> EncoderConfig:
    raw = {"type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12} | raw
    kind, epsilon = raw.get("model_type"), raw["layer_norm_eps"]
    if not isinstance(kind, str) or kind not in _TYPES:
        what = "missing" if kind is None else repr(kind)
        raise InputError(f"{path}: model_type is {what}; expected {' or '.join(map(repr, _TYPES))}")
    for name, only in _ONLY.items():
        if raw.get(name, only) != only:
            raise InputError(f"{path}: {name} is {raw[name]!r}; only {only!r} is supported")
    if type(epsilon) is not float or not 0 < epsilon < 1:
        raise InputError(f"{path}: layer_norm_eps is {epsilon!r}; expected a number such as 1e-12")
    sizes = {size.field: raw.get(size.transformers) for size in SIZES}
    others = {"norm_first": _TYPES[kind], "epsilon": epsilon, "dropout": dropout}
    return make_config(path, sizes, raw["hidden_act"], **others)


def _to_config(config: EncoderConfig) -> dict:
    prefix = "MegatronBert" if config.norm_first else "Bert"
    return {
        "architectures": [f"{prefix}ForQuestionAnswering"],
        "model_type": "megatron-bert" if config.norm_first else "bert",
        **{size.transformers: getattr(config, size.field) for size in SIZES},
        "layer_norm_eps": config.epsilon,
        "hidden_act": HIDDEN_ACT[config.gelu],
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
    }


def prepare(path: str | Path, settings: Settings) -> Path:
    """Return the folder to load in place of Megatron files; return any other path unchanged.

    We convert Megatron files once; later loads map the result into memory. The name of the cached
    folder depends on the bytes of the files, ``settings.qkv_order`` and the conversion code, so a
    change to any of these creates a new folder. Raise ``InputError`` as ``load`` does.
    """
    path = Path(path)
    if not megatron.is_megatron(path):
        return path
    digests = sorted(megatron.hashes(path).values())
    source = f"{digests} {settings.qkv_order} {_code()}"
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    folder = registry.cache_folder() / "converted" / f"{path.stem}-{name}"
    if (folder / "config.json").is_file():
        return folder
    with locked(folder.parent, path.name):
        for stale in folder.parent.glob(".saving-*"):  # left by a process that was killed
            shutil.rmtree(stale, ignore_errors=True)
        if not (folder / "config.json").is_file():  # another process may have just created it
            reader = load(path, settings)
            save_transformers(reader, folder, with_head=not reader.fresh_head)
    return folder


def _code() -> str:
    """Return the SHA-256 hash of the conversion code and the data files that it reads."""
    sources = [*sorted(Path(__file__).parent.glob("*.py")), MODEL_CARD]
    sources += [Path(spans.__file__), Path(registry.__file__), row_order.QUESTIONS]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def model_card(reader: Reader, with_head: bool = True) -> str:
    """Return a model card that describes the weights and their source and shows how to use them."""
    origin = reader.origin
    kind = "Megatron-BERT" if reader.model.config.norm_first else "BERT"
    warning = "\n**This encoder has no span head: fine-tune it before you ask questions.**\n"
    source = []
    if tuned := origin.get("fine_tuned"):
        source += [
            f"The kit fine-tuned this model on {tuned['windows']} windows of text in "
            f"{tuned['steps']} steps (learning rate {tuned['learning_rate']:g}, "
            f"seed {tuned['seed']}).",
            "",
        ]
    if files := origin.get("files"):
        start = "Training started from weights" if tuned else "The weights were"
        source += [f"{start} read from `{origin['path']}` ({origin['format']} format):", ""]
        source += [f"- `{name}`, SHA-256 `{digest}`" for name, digest in files.items()]
        source += ["", *row_order.order_lines(origin["qkv"])]
        if gelu := origin.get("gelu"):
            source += ["", f"The kit used the {gelu['form']} form of GELU ({gelu['reason']})."]
    else:
        source += ["The source of the original weights is not recorded here. A run's "
                   "`manifest.json` names it and lists the hashes."]  # fmt: skip
    return MODEL_CARD.read_text(encoding="utf-8").format(
        tag=kind.lower(),
        kind=kind,
        facts="\n".join(model_table(reader, with_head)),
        warning="" if with_head else warning,
        source="\n".join(source),
    )


def model_table(reader: Reader, with_head: bool) -> list[str]:
    """Return the model's sizes and its form of GELU as a Markdown table."""
    counted = reader.model if with_head else reader.model.encoder
    facts = {**vars(reader.model.config), "vocabulary": len(reader.vocab)}
    del facts["dropout"]  # a training setting, not part of the checkpoint
    names = [name for name, form in GELU_NAMES.items() if form == facts["gelu"]]
    facts["gelu"] += f" (in a config.json, `hidden_act`: {' or '.join(names)})"
    facts["parameters"] = sum(p.numel() for p in counted.parameters())
    facts["span head"] = "included" if with_head else "missing"
    return row_order.markdown_table(("field", "value"), facts.items())
