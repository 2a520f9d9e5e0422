"""Checkpoints on disk, in and out: transformers folders, ``.nemo``, Megatron's files of 2021.

Names of weights are in ``names``, Megatron's formats in ``megatron``, its row order in
``row_order``.

Megatron's files as a transformers folder, converted once and kept beside the fetched files.

Finding the row order takes a moment and old pickles have to be read whole; the folder that comes
out is mapped into memory at once and needs no evidence any more.

The model card (README.md) of a checkpoint that the kit writes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from helpers.config import InputError, Settings
from helpers.data import spans
from helpers.fetch import registry
from helpers.fetch.download import check_disk, is_archive, locked
from helpers.model import megatron, row_order
from helpers.model.decoding import Reader
from helpers.model.encoder import GELU_NAMES, EncoderConfig, SpanModel
from helpers.model.features import read_tokenizer, tokens_of
from helpers.model.weights import (
    bare,
    check_numbers,
    join,
    read_weights,
    transformers_names,
    write_safetensors,
)

_SAVED = {"config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json",
          "model.safetensors", "README.md"}  # fmt: skip
_TYPES = {"bert": False, "megatron-bert": True}  # model_type -> norm_first
_SIZES = {  # in config.json: in EncoderConfig
    "vocab_size": "vocab_size", "hidden_size": "hidden", "num_hidden_layers": "layers",
    "num_attention_heads": "heads", "intermediate_size": "feed_forward",
    "max_position_embeddings": "positions", "type_vocab_size": "token_types",
}  # fmt: skip
# Switches of config.json that change the logits, and the one value that this encoder computes.
_ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}


def load(path: str | Path, settings: Settings) -> Reader:
    """Read a checkpoint: a transformers folder (BERT, Megatron-BERT), a ``.nemo`` file of ours or
    of NeMo 1.x, or a folder or archive with Megatron's ``.pt`` files.

    A checkpoint without a span head gets a random one that follows from ``settings.seed``, and
    the reader says so in ``fresh_head``. Megatron's files leave the order of their rows open:
    ``settings.qkv_order`` names it, else ``row_order`` decides, and ``Reader.origin`` says what was
    found. Raises ``InputError`` naming the file and what it lacks.
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
        reader.tokenizer.save(str(partial / "tokenizer.json"))
        described = json.dumps(_tokenizer_config(reader), indent=2)
        (partial / "tokenizer_config.json").write_text(described + "\n")
        (partial / "README.md").write_text(model_card(reader, with_head), encoding="utf-8")
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
    from helpers.model import qa_model

    qa_model.quiet_nemo()
    return qa_model.save_nemo(reader.model, reader.tokenizer, path, reader.origin)


def _load_nemo(path: Path, settings: Settings) -> Reader:
    from helpers.model import qa_model

    qa_model.quiet_nemo()
    model = qa_model.restore_nemo(path)
    return Reader(
        model.net, tokens_of(model.tokenizer), settings,
        origin=model.origin, tokenizer=model.tokenizer,
    )  # fmt: skip


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
    reader = Reader(model, read.vocab, settings, fresh_head=not has_head)
    # One by one, so that the old numbers are freed as the new ones come.
    ours = {}
    for name in list(read.state):
        ours[name] = read.state.pop(name).to(torch.float32)
        if not ours[name].isfinite().all():
            raise InputError(f"{path}: {name} holds numbers that are not finite; fetch it again")
    _fill(model, ours, settings.seed, fresh_head=not has_head)
    if settings.qkv_order:
        row_order.reorder(model, "0", settings.qkv_order)
        found = row_order.Evidence(settings.qkv_order, "given")
    else:
        model.eval()
        found = row_order.find_order(
            reader, path, has_head=has_head, version=read.version, lm_head=read.lm_head
        )
    reader.origin.update(path=path.name, format="Megatron", files=read.files, qkv=found.as_dict())
    reader.origin["gelu"] = {"form": read.config.gelu, "reason": read.gelu_reason}
    return reader


def _fill(model: SpanModel, state: dict, seed: int, fresh_head: bool) -> None:
    """Put float32 weights into a model on the meta device, and a random head where there is none.

    Whether they are finite numbers shows in the first logits (``decoding``): to look here would
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
    with torch.device("meta"):
        model = SpanModel(config)
    tokenizer = read_tokenizer(folder, config.vocab_size)
    origin = _read_config(folder / "config.json").get("origin")
    origin = origin if isinstance(origin, dict) else {}
    reader = Reader(model, tokens_of(tokenizer), settings, False, origin, tokenizer)
    state = _bare_weights(folder)
    fresh_head = "qa_outputs.weight" not in state and "qa_outputs.bias" not in state
    shapes = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    parts: dict[str, list[torch.Tensor]] = {}
    for name, theirs, _ in transformers_names(config):  # a matrix's three parts come in a row
        theirs = bare(theirs)
        if theirs.startswith("qa_outputs") and fresh_head:
            continue
        if theirs not in state:
            raise InputError(f"{folder}: the weights lack {theirs!r}; is config.json another's?")
        parts.setdefault(name, []).append(state.pop(theirs).to(torch.float32))
    if state:
        raise InputError(f"{folder}: unexpected weights {', '.join(sorted(state)[:5])}")
    for name, values in parts.items():
        rows, *columns = shapes[name]
        wanted = (rows // len(values), *columns)
        for value in values:
            if tuple(value.shape) != wanted:
                says = "a span head has" if name.startswith("head.") else "config.json says"
                raise InputError(
                    f"{folder}: {name} has shape {tuple(value.shape)}, {says} {wanted}"
                )
    ours = {name: join(values) for name, values in parts.items()}
    _fill(model, ours, settings.seed, fresh_head)
    return replace(reader, fresh_head=fresh_head)


def _bare_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The folder's weights that a span model uses, by names without wrappers."""
    state: dict[str, torch.Tensor] = {}
    for written, value in read_weights(folder).items():
        name = bare(written)
        if name in state:
            raise InputError(f"{folder}: {written!r} is there twice, with and without a wrapper")
        if name:
            check_numbers(folder, written, value)
            state[name] = value
    return state


def _tokenizer_config(reader: Reader) -> dict:
    """Settings under which ``AutoTokenizer`` takes tokenizer.json as it is, whatever is in it."""
    tokens, (cls, sep) = reader.vocab, reader.tokenizer.encode("").ids
    names = {"cls_token": tokens[cls], "sep_token": tokens[sep], "pad_token": "[PAD]",
             "unk_token": reader.tokenizer.model.unk_token, "mask_token": "[MASK]"}  # fmt: skip
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": reader.model.config.positions,
        **{name: token for name, token in names.items() if token in tokens},
    }


def _from_config(path: Path, dropout: float) -> EncoderConfig:
    raw = _read_config(path)
    kind, act = raw.get("model_type"), raw.get("hidden_act", "gelu")
    if not isinstance(kind, str) or kind not in _TYPES:
        what = "model_type is missing" if kind is None else f"model_type is {kind!r}"
        raise InputError(f"{path}: {what}, expected {' or '.join(map(repr, _TYPES))}")
    if not isinstance(act, str) or act not in GELU_NAMES:
        raise InputError(f"{path}: hidden_act is {act!r}; known: {', '.join(GELU_NAMES)}")
    for name, only in _ONLY.items():
        if raw.get(name, only) != only:
            raise InputError(f"{path}: {name} is {raw[name]!r}; only {only!r} is supported")
    sizes = {theirs: raw.get(theirs) for theirs in _SIZES}
    sizes["type_vocab_size"] = raw.get("type_vocab_size", 2)
    for name, value in sizes.items():
        least = 2 if name == "type_vocab_size" else 1  # for the question and for its context
        if type(value) is not int or value < least:
            what = "missing" if value is None else repr(value)
            raise InputError(f"{path}: {name} is {what}, expected a number of {least} or more")
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise InputError(
            f"{path}: {sizes['num_attention_heads']} heads do not divide "
            f"hidden_size {sizes['hidden_size']}"
        )
    epsilon = raw.get("layer_norm_eps", 1e-12)
    if type(epsilon) is not float or not 0 < epsilon < 1:
        raise InputError(f"{path}: layer_norm_eps is {epsilon!r}, expected a number such as 1e-12")
    return EncoderConfig(
        norm_first=_TYPES[kind],
        epsilon=epsilon,
        dropout=dropout,
        gelu=GELU_NAMES[act],
        **{_SIZES[name]: value for name, value in sizes.items()},
    )


def _read_config(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"{path}: no such file; a transformers folder has one")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not a model's config.json ({error})") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: not a model's config.json, which is an object")
    return raw


def _to_config(config: EncoderConfig) -> dict:
    prefix = "MegatronBert" if config.norm_first else "Bert"
    return {
        "architectures": [f"{prefix}ForQuestionAnswering"],
        "model_type": "megatron-bert" if config.norm_first else "bert",
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        "layer_norm_eps": config.epsilon,
        "hidden_act": "gelu" if config.gelu == "erf" else "gelu_new",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
    }


def prepare(path: str | Path, settings: Settings) -> Path:
    """The folder to load instead of a checkpoint of Megatron's; any other path comes back as it is.

    The folder lies in the cache, under a name that follows from the checkpoint's bytes, from
    ``settings.qkv_order`` and from the code that converts, so another file or order, or a newer
    version of the kit, makes a new folder. Raises ``InputError`` as ``checkpoints.load`` does.
    """
    path = Path(path)
    if not is_foreign(path):
        return path
    hashes = megatron.hashes(path)
    told = f"{sorted(hashes.values())} {settings.qkv_order} {_code()}"
    name = hashlib.sha256(told.encode()).hexdigest()[:16]
    folder = registry.cache_folder() / "converted" / f"{path.stem}-{name}"
    if (folder / "config.json").is_file():
        return folder
    with locked(folder.parent, path.name):
        for stale in folder.parent.glob(".saving-*"):  # of a process that was killed
            shutil.rmtree(stale, ignore_errors=True)
        if not (folder / "config.json").is_file():  # another process may have made it meanwhile
            reader = load(path, settings)
            save_transformers(reader, folder, with_head=not reader.fresh_head)
    return folder


def _code() -> str:
    """SHA-256 of the code that decides what a conversion holds: this room, and what it reads."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    sources += [Path(spans.__file__), Path(registry.__file__), row_order.QUESTIONS]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


_USE = (
    "```python",
    "import torch",
    "from transformers import AutoModelForQuestionAnswering, AutoTokenizer",
    "",
    'folder = "THIS FOLDER"',
    "tokenizer = AutoTokenizer.from_pretrained(folder)",
    "model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()",
    'question = "Which enzyme is missing in phenylketonuria?"',
    'context = "Phenylketonuria reflects a shortage of phenylalanine hydroxylase."',
    'inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)',
    'offsets = inputs.pop("offset_mapping")[0].tolist()',
    "outside = torch.tensor([part != 1 for part in inputs.sequence_ids()])",
    "with torch.inference_mode():",
    "    logits = model(**inputs)",
    'start, end = (x[0].masked_fill(outside, -float("inf")) for x in logits[:2])',
    "first = int(start.argmax())",
    "last = first + int(end[first : first + 30].argmax())",
    "print(context[offsets[first][0] : offsets[last][1]])",
    "```",
    "",
    "```text",
    "phenylalanine hydroxylase",
    "```",
    "",
)


def model_card(reader: Reader, with_head: bool = True) -> str:
    """What the weights are, where they come from, and how to use them; front matter as the hub's.

    ``Reader.origin`` gives the source with hashes, and the query-key-value order with its scores.
    """
    config, origin = reader.model.config, reader.origin
    kind = "Megatron-BERT" if config.norm_first else "BERT"
    million = sum(p.numel() for p in reader.model.parameters()) / 1e6
    lines = [
        "---",
        "language: en",
        "library_name: transformers",
        "pipeline_tag: question-answering",
        "license: other",
        "license_name: that-of-the-source-weights",
        f"tags: [{kind.lower()}, extractive-question-answering, biomedical]",
        "---",
        "",
        f"# {kind} for extractive question answering, {million:.0f} million parameters",
        "",
        f"{config.layers} layers of {config.hidden}, {config.heads} heads, feed-forward "
        f"{config.feed_forward}, LayerNorm epsilon {config.epsilon:g}, GELU by {config.gelu}. "
        "Written by the BioMegatron BioASQ kit.",
        "",
        *(_USE if with_head else ()),
        "## Source",
        "",
    ]
    if tuned := origin.get("fine_tuned"):
        lines += [
            f"Fine-tuned by the kit: {tuned['windows']} windows of text, {tuned['steps']} steps, "
            f"learning rate {tuned['learning_rate']:g}, seed {tuned['seed']}.",
            "",
        ]
    if origin.get("files"):
        began = "It began with weights" if tuned else "Weights"
        lines += [f"{began} read from `{origin['path']}` ({origin['format']} format):", ""]
        lines += [f"- `{name}`, SHA-256 `{digest}`" for name, digest in origin["files"].items()]
        lines += ["", *_about_order(origin["qkv"])]
        if gelu := origin.get("gelu"):
            lines += [f"GELU was taken to be the {gelu['form']} form ({gelu['reason']})."]
    else:
        lines += ["Of the weights it began with nothing was recorded here; a run's `manifest.json` "
                  "names them with their hashes."]  # fmt: skip
    if not with_head:
        lines += ["", "**An encoder without a span head: fine-tune it before asking questions.**"]
    lines += [
        "",
        "## License",
        "",
        "The terms of the source weights hold for these too. NVIDIA's checkpoints come under the "
        "terms on their NGC page; all-MiniLM-L6-v2 is Apache-2.0. Data used to fine-tune may add "
        "its own (BioASQ: see bioasq.org).",
    ]
    return "\n".join(lines) + "\n"


def _about_order(qkv: dict) -> list[str]:
    lines = [
        f"Query-key-value rows were read in order {qkv['order']}, decided by {qkv['measure']}."
    ]
    if qkv["scores"]:
        shown = ", ".join(f"{order}: {score:.3f}" for order, score in qkv["scores"].items())
        lines.append(f"Scores of the three orders: {shown}.")
    if heads := qkv.get("heads"):
        shown = ", ".join(f"{count}: {score:.3f}" for count, score in heads.items())
        lines.append(f"Scores of the numbers of heads tried in this order: {shown}.")
    return lines
