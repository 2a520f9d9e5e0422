"""Checkpoints in the formats of 2021, written from plain weights by ``reference_megatron``."""

import argparse
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import reference_megatron as reference
import torch
from tiny import VOCAB, tiny_examples

from helpers.config import Settings
from helpers.model import checkpoints
from helpers.model.features import gather

SIZES = {"layers": 2, "hidden": 32, "heads": 4, "wide": 56, "words": 128}  # wide is not 4 x hidden
SETTINGS = Settings(max_length=48)


def write(
    folder, order="0", *, dtype=torch.float32, layout="two files", zipped=False, w=None,
    vocab=VOCAB, config="json", version=None, lm_head=None, head=True, args=None, **spelling,
):  # fmt: skip
    """Write a checkpoint folder (or a .nemo of NeMo 1.x) with given or random weights."""
    w = w or reference.random_weights(**SIZES)
    folder.mkdir(parents=True)
    state = reference.converted(reference.megatron_state(w, order, **spelling), dtype)
    span = reference.converted(reference.head_state(w), dtype)
    new = {"_use_new_zipfile_serialization": zipped}
    hidden, heads, layers = w["words"].shape[1], w["heads"], len(w["layers"])
    settings = {"hidden-size": hidden, "num-attention-heads": heads, "num-layers": layers}
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({**settings, "max-seq-length": 64}))
    if layout in ("two files", "zip"):
        torch.save(state, folder / "MegatronBERT.pt", **new)
        if head:
            torch.save(span, folder / "TokenClassifier-EPOCH-2.pt", **new)
        if layout == "zip":
            return Path(shutil.make_archive(str(folder), "zip", folder))
    elif layout == "nested":  # as Megatron-LM saved it in training
        model = reference.nested(state)
        if lm_head:
            model["lm_head"] = lm_head
        whole = {"model": model, "iteration": 7, "args": argparse.Namespace(**args or {"a": 1})}
        whole |= {"optimizer": {"state": {"0": torch.zeros(3)}}, "checkpoint_version": version}
        torch.save(whole, folder / "model_optim_rng.pt", **new)
        if head:
            torch.save({"model": span}, folder / "head.pt", **new)
    elif layout == "nemo 1":
        names = {f"bert_model.{k}": v for k, v in state.items()}
        names |= {f"classifier.{k}": v for k, v in span.items()}
        torch.save(names, folder / "model_weights.ckpt", **new)
        return _nemo_1(folder, config, settings)
    return folder


def _nemo_1(folder, config, settings):
    text = "target: nemo.collections.nlp.models.question_answering.qa_model.QAModel\n"
    (folder / "vocab.txt").rename(folder / "0c1d_vocab.txt")
    (folder / "config.json").rename(folder / "0c1d_config.json")
    if config == "yaml":
        (folder / "0c1d_config.json").unlink()
        inside = {name.replace("-", "_"): value for name, value in settings.items()}
        text += f"language_model:\n  config: {json.dumps(inside)}\n"
    (folder / "model_config.yaml").write_text(text)
    with tarfile.open(folder.with_suffix(".nemo"), "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, f"./{path.name}")
    return folder.with_suffix(".nemo")


def load(path, order="", **settings):
    """Load with the tests' settings; without an order, ``row_order`` decides."""
    return checkpoints.load(path, replace(SETTINGS, qkv_order=order, **settings))


def compare(reader, w=None, **other):
    """The largest error of the loaded model's logits relative to their size."""
    w = w or reference.random_weights(**SIZES)
    windows = reader.windows(tiny_examples(4))
    worst = 0.0
    for row in range(len(windows)):
        batch = gather(windows, [row])
        wanted = reference.span_logits(w, batch.ids, batch.token_types, **other)
        with torch.inference_mode():
            found = reader.model(batch).double()
        worst = max(worst, float((found - wanted).abs().max() / wanted.abs().max()))
    return worst


def weights_of(model) -> dict:
    """The weights of a ``SpanModel`` by the plain names of ``reference_megatron``, float64."""

    def both(part):
        return part.weight.detach().double(), part.bias.detach().double()

    encoder = model.encoder
    w = {
        "heads": model.config.heads,
        "words": encoder.words.weight.detach().double(),
        "positions": encoder.positions.weight.detach().double(),
        "types": encoder.token_types.weight.detach().double(),
        "final": both(encoder.norm),
        "span": both(model.head),
        "layers": [],
    }
    for layer in encoder.layers:
        thirds = [value.chunk(3) for value in both(layer.attention.qkv)]
        parts = dict(zip("qkv", zip(*thirds, strict=True), strict=True))
        parts |= {"out": both(layer.attention.out), "up": both(layer.up), "down": both(layer.down)}
        parts |= {"norm1": both(layer.attention_norm), "norm2": both(layer.mlp_norm)}
        w["layers"].append(parts)
    return w
