"""Megatron's formats of 2021 against an independent forward pass in float64."""

import argparse
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import reference_megatron as reference
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny import VOCAB, tiny_examples

from helpers import checkpoints, probe, qkv
from helpers.config import InputError, Settings
from helpers.features import gather
from helpers.key_map import canonical
from helpers.prediction import Reader

SIZES = {"layers": 2, "hidden": 32, "heads": 4, "wide": 56, "words": 128}  # wide is not 4 x hidden
SETTINGS = Settings(max_length=48)
CONFIG = {"hidden-size": 32, "num-attention-heads": 4, "num-layers": 2, "max-seq-length": 64}


def write(
    folder, order="0", *, dtype=torch.float32, layout="two files", zipped=False, w=None, **how
):
    """A checkpoint folder (or a .nemo of NeMo 1.x) of random weights; returns its path."""
    w = w or reference.random_weights(**SIZES)
    folder.mkdir(parents=True)
    state = reference.megatron_state(w, order, **how)
    head = reference.head_state(w)
    state, head = reference.converted(state, dtype), reference.converted(head, dtype)
    new = {"_use_new_zipfile_serialization": zipped}
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if layout == "two files":
        torch.save(state, folder / "MegatronBERT.pt", **new)
        torch.save(head, folder / "TokenClassifier-EPOCH-2.pt", **new)
    elif layout == "nested":
        whole = {"model": reference.nested(state), "iteration": 7, "args": argparse.Namespace(a=1)}
        whole["optimizer"] = {"state": {"0": torch.zeros(3)}}
        torch.save(whole, folder / "model_optim_rng.pt", **new)
        torch.save({"model": head}, folder / "head.pt", **new)
    elif layout == "nemo 1":
        names = {f"bert_model.{k}": v for k, v in state.items()}
        names |= {f"classifier.{k}": v for k, v in head.items()}
        torch.save(names, folder / "model_weights.ckpt", **new)
        target = "nemo.collections.nlp.models.question_answering.qa_model.QAModel"
        (folder / "model_config.yaml").write_text(f"target: {target}\n")
        (folder / "vocab.txt").rename(folder / "0c1d_vocab.txt")
        (folder / "config.json").rename(folder / "0c1d_config.json")
        with tarfile.open(folder.with_suffix(".nemo"), "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, f"./{path.name}")
        return folder.with_suffix(".nemo")
    return folder


def load(path, order="", **settings):
    return checkpoints.load(path, replace(SETTINGS, qkv_order=order, **settings))


def compare(reader, w=None, tolerance=1e-5, **other):
    """The largest error of the loaded model's logits relative to their spread."""
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


@pytest.mark.parametrize("order", qkv.ORDERS)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"layout": "nested"},
        {"layout": "nemo 1", "stack": "encoder"},
        {"prefix": "bert_model.", "attention": "self_attention"},
        {"prefix": "module.bert_model.", "stack": "encoder", "attention": "self_attention"},
        {"zipped": True, "prefix": "model.module."},
    ],
    ids=str,
)
def test_every_layout_and_order_gives_the_reference_logits(tmp_path, order, how):
    reader = load(write(tmp_path / "m", order, **how), order)
    assert compare(reader) < 1e-5
    assert reader.model.config.feed_forward == 56 and not reader.fresh_head
    assert reader.origin["qkv"]["order"] == order and reader.origin["files"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_the_numbers_it_holds(tmp_path, dtype):
    w = reference.random_weights(**SIZES)
    rounded = _rounded(w, dtype)
    reader = load(write(tmp_path / "m", dtype=dtype, w=w), "0")
    assert compare(reader, rounded) < 1e-5 < compare(reader, w)


def _rounded(value, dtype):
    if isinstance(value, torch.Tensor):
        return value.to(dtype).double()
    if isinstance(value, dict):
        return {k: _rounded(v, dtype) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_rounded(v, dtype) for v in value)
    return value


def test_wrong_choices_change_the_logits(tmp_path):
    reader = load(write(tmp_path / "m", "0"), "0")
    assert compare(reader, epsilon=1e-12) > 1e-4
    assert compare(reader, gelu="tanh") > 1e-4
    for wrong in ("1.0", "2.0"):
        assert compare(load(tmp_path / "m", wrong)) > 0.05


@given(
    heads=st.integers(1, 5), size=st.integers(1, 6), order=st.sampled_from(qkv.ORDERS),
    bias=st.booleans(),
)  # fmt: skip
def test_reordering_has_an_inverse(heads, size, order, bias):
    rows = torch.arange(3.0 * heads * size)
    rows = rows if bias else rows[:, None] * torch.ones(2)
    assert torch.equal(qkv.to_ours(qkv.from_ours(rows, heads, order), heads, order), rows)
    assert torch.equal(qkv.from_ours(qkv.to_ours(rows, heads, order), heads, order), rows)


@pytest.mark.slow
@pytest.mark.parametrize("order", qkv.ORDERS)
def test_at_full_size(tmp_path, order):
    sizes = {"layers": 24, "hidden": 1024, "heads": 16, "wide": 4096, "words": 30592}
    w = reference.random_weights(**sizes, positions=512)
    for layer in w["layers"]:  # a random net this deep needs the small weights of a trained one
        for name, (weight, bias) in layer.items():
            layer[name] = (weight, bias) if "norm" in name else (weight * 0.2, bias * 0.2)
    folder = write(tmp_path / "m", order, w=w)
    (folder / "config.json").unlink()  # 16 heads of 64 follow from the width
    assert compare(load(folder, order), w) < 1e-5


# --- the probe -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ({"0": 0.9, "1.0": 0.1, "2.0": 0.2}, "0"),
        ({"0": 0.1, "1.0": 0.36, "2.0": 0.15}, "1.0"),
        ({"0": 0.34, "1.0": 0.0, "2.0": 0.0}, None),  # too low
        ({"0": 0.9, "1.0": 0.1, "2.0": 0.75}, None),  # too close
    ],
)
def test_the_rule(scores, best):
    assert probe.choose(scores, "answers") == best


def test_questions_hold_their_answers_once():
    items = probe.questions()
    assert len(items) >= 15
    for example, answer in items:
        assert example.context.count(answer) == 1 and example.question.endswith("?")


def test_an_untrained_model_is_refused_with_its_scores(tmp_path):
    with pytest.raises(InputError, match=r"no order .* stands out .*0: 0\.\d\d, 1\.0: .*qkv_order"):
        load(write(tmp_path / "m"))


def as_if_right(order, right=0.8, wrong=0.1):
    """A measure that answers well only while the model's rows are in the order they were made."""

    def measure(reader: Reader) -> float:
        return right if compare(reader) < 1e-5 else wrong

    return measure


@pytest.mark.parametrize("order", qkv.ORDERS)
def test_the_order_with_evidence_is_taken(tmp_path, order, monkeypatch):
    monkeypatch.setattr(probe, "answer_score", as_if_right(order))
    reader = load(write(tmp_path / "m", order))
    assert compare(reader) < 1e-5
    assert reader.origin["qkv"]["kind"] == "answers" and reader.origin["qkv"]["order"] == order
    again = checkpoints.load(
        checkpoints.save_transformers(reader, tmp_path / "out"), reader.settings
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert compare(again) < 1e-5 and f"read in order {order}" in card
    assert all(digest in card for digest in reader.origin["files"].values())


def tagged(folder, version, lm_head=None, head=False):
    w = reference.random_weights(**SIZES)
    folder.mkdir()
    state = reference.converted(reference.megatron_state(w, "2.0"), torch.float32)
    model = reference.nested(state)
    if lm_head:
        model["lm_head"] = lm_head
    torch.save({"model": model, "checkpoint_version": version}, folder / "model.pt")
    if head:
        torch.save(reference.converted(reference.head_state(w), torch.float32), folder / "h.pt")
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_without_a_head_the_tag_is_the_evidence(tmp_path):
    reader = load(tagged(tmp_path / "m", 2.0))
    assert reader.fresh_head and reader.origin["qkv"]["kind"] == "tag"
    with torch.no_grad():
        w = reference.random_weights(**SIZES)
        reader.model.head.weight.copy_(w["span"][0])
        reader.model.head.bias.copy_(w["span"][1])
    assert compare(reader) < 1e-5
    with pytest.raises(InputError, match="no span head, no masked-word head and no version tag"):
        load(tagged(tmp_path / "n", None))
    bare = checkpoints.save_transformers(reader, tmp_path / "out", with_head=False)
    assert checkpoints.load(bare, SETTINGS).fresh_head


def test_tag_and_probe_must_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "answer_score", as_if_right("2.0"))
    assert load(tagged(tmp_path / "a", 2.0, head=True)).origin["qkv"]["kind"] == "answers"
    with pytest.raises(InputError, match="tagged as version 0, but answers best as 2.0"):
        load(tagged(tmp_path / "b", 0, head=True))


def test_the_masked_word_head_is_evidence(tmp_path):
    lm_head = {
        "dense.weight": torch.eye(32), "dense.bias": torch.zeros(32),
        "layernorm.weight": torch.ones(32), "layernorm.bias": torch.zeros(32),
        "bias": torch.zeros(128),
    }  # fmt: skip
    flat = {f"lm_head.{name}": value for name, value in lm_head.items()}
    path = tagged(tmp_path / "m", None, lm_head=lm_head)
    with pytest.raises(InputError, match="masked words guessed"):  # a random net guesses nothing
        load(path)
    measure = probe._word_score(lm_head)
    reader = load(path, "2.0")
    reader = replace(reader, vocab=[*VOCAB, *"which gene mutated cystic fibrosis caused".split()])
    score = measure(reader)
    assert 0 <= score <= 1
    with torch.no_grad():  # a head that always says one word is right where that word was masked
        word = reader.vocab.index("gene")
        lm_head["bias"] += torch.nn.functional.one_hot(torch.tensor(word), 128) * 1e6
    assert probe._word_score(lm_head)(reader) > 0
    del flat["lm_head.bias"]
    with pytest.raises(InputError, match="'bias' is missing"):
        probe._word_score({"dense.weight": torch.eye(2), **{
            name: torch.zeros(2) for name in ("dense.bias", "layernorm.weight", "layernorm.bias")
        }})  # fmt: skip


# --- what can be wrong with a file ---------------------------------------------------------------


def change(folder, file="MegatronBERT.pt", **changed):
    state = torch.load(folder / file, weights_only=True)
    for name, value in changed.items():
        key = next(k for k in state if k.endswith(name.replace("__", ".")))
        old = state.pop(key)
        if value is not None:
            state |= value(key, old)
    torch.save(state, folder / file)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: change(f, input_layernorm__bias=None), r"no weight .*input_layernorm\.bias"),
        (
            lambda f: change(f, layers__1__mlp__dense_4h_to_h__bias=lambda k, v: {k + "es": v}),
            r"unknown weight .*dense_4h_to_h\.biases'; nearest: transformer\.layers\.1\.mlp\.dense_4h",
        ),
        (
            lambda f: change(f, layers__0__attention__dense__weight=lambda k, v: {k: v[:5]}),
            r"\(5, 32\), expected floats \(32, 32\)",
        ),
        (
            lambda f: change(f, position_embeddings__weight=lambda k, v: {k: v.long()}),
            r"is int64",
        ),
        (lambda f: change(f, "TokenClassifier-EPOCH-2.pt", bias=None), "a weight or a bias only"),
        (lambda f: (f / "MegatronBERT.pt").write_bytes(b"\x80junk"), "cannot be read as plain"),
        (lambda f: torch.save({"a": print}, f / "MegatronBERT.pt"), "cannot be read as plain"),
        (lambda f: torch.save({}, f / "MegatronBERT.pt"), "no weight 'embedding.word_embeddings"),
        (lambda f: (f / "copy.pt").write_bytes((f / "MegatronBERT.pt").read_bytes()), "two files"),
        (lambda f: (f / "vocab.txt").unlink(), "one vocabulary file"),
        (lambda f: (f / "vocab.txt").write_text("\n".join(VOCAB * 3)), "the model embeds 128"),
        (lambda f: (f / "config.json").write_text('{"hidden-size": 64}'), "hidden_size 64, the"),
        (lambda f: (f / "config.json").write_text('{"num-attention-heads": 5}'), "5 heads do not"),
        (lambda f: (f / "config.json").write_text("["), "not a model's config.json"),
    ],
)
def test_one_line_that_names_what_is_wrong(tmp_path, damage, said):
    folder = write(tmp_path / "m", zipped=True)
    damage(folder)
    with pytest.raises(InputError, match=said) as error:
        load(folder, "0")
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_parts_of_pretraining_are_left_aside(tmp_path):
    folder = write(tmp_path / "m", zipped=True)
    extra = {"language_model.pooler.dense.weight": torch.ones(2), "binary_head.bias": torch.ones(2)}
    state = torch.load(folder / "MegatronBERT.pt", weights_only=True) | extra
    torch.save(state, folder / "MegatronBERT.pt")
    assert compare(load(folder, "0")) < 1e-5


def test_names_in_one_spelling():
    name = "module.language_model.encoder.layers.0.self_attention.dense.weight"
    assert canonical(name) == "transformer.layers.0.attention.dense.weight"
    assert canonical("bert_model.language_model.transformer.final_layernorm.bias") == (
        "transformer.final_layernorm.bias"
    )
    assert canonical("classifier.mlp.layer0.bias") == "mlp.layer0.bias"
    assert canonical("model.language_model.pooler.dense.weight") == ""


def test_transformers_gets_the_same_logits_from_what_we_write(tmp_path):
    w = reference.random_weights(**SIZES)
    reader = load(write(tmp_path / "m", "1.0"), "1.0")
    folder = checkpoints.save_transformers(reader, tmp_path / "out")
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    batch = gather(reader.windows(tiny_examples(1)), [0])
    with torch.inference_mode():
        out = theirs(input_ids=batch.ids[None], token_type_ids=batch.token_types[None])
    found = torch.stack([out.start_logits[0], out.end_logits[0]], -1).numpy()
    wanted = reference.span_logits(w, batch.ids, batch.token_types).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_saved_weights_are_mapped_not_copied(tmp_path):
    reader = load(write(tmp_path / "m"), "0")
    folder = checkpoints.save_transformers(reader, tmp_path / "out")
    again = checkpoints.load(folder, SETTINGS)
    places = {p.untyped_storage().data_ptr() for p in again.model.parameters()}
    assert len(places) == 1  # the file, once; query, key and value included
