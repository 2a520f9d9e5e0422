"""Megatron's formats of 2021 against an independent forward pass in float64."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference_megatron as reference
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from megatron_files import SETTINGS, SIZES, compare, load, write
from tiny import VOCAB, tiny_examples

from helpers.config import InputError, Settings
from helpers.fetch import registry
from helpers.model import checkpoints, row_order
from helpers.model.checkpoints import prepare
from helpers.model.features import gather
from helpers.model.weights import canonical_megatron


@pytest.mark.parametrize("order", row_order.ORDERS)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"layout": "nested"},
        {"layout": "zip"},
        {"layout": "nemo 1", "stack": "encoder"},
        {"layout": "nemo 1", "config": "yaml", "zipped": True},
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
    w = reference.random_weights(**SIZES)
    for name in ("words", "positions", "types"):  # small as in trained models, so epsilon shows
        w[name] = w[name] * 0.05
    reader = load(write(tmp_path / "m", "0", w=w), "0")
    assert compare(reader, w) < 1e-5
    assert compare(reader, w, epsilon=1e-12) > 1e-3
    assert compare(reader, w, gelu="erf") > 1e-4
    for wrong in ("1.0", "2.0"):
        assert compare(load(tmp_path / "m", wrong), w) > 0.05


@given(
    heads=st.integers(1, 5), size=st.integers(1, 6), order=st.sampled_from(row_order.ORDERS),
    bias=st.booleans(),
)  # fmt: skip
def test_reordering_has_an_inverse(heads, size, order, bias):
    rows = torch.arange(3.0 * heads * size)
    rows = rows if bias else rows[:, None] * torch.ones(2)
    assert torch.equal(
        row_order.to_ours(row_order.from_ours(rows, heads, order), heads, order), rows
    )
    assert torch.equal(
        row_order.from_ours(row_order.to_ours(rows, heads, order), heads, order), rows
    )


@pytest.mark.slow
def test_at_full_size(tmp_path):
    """One order is enough here: how rows move does not depend on the number of layers."""
    order = "0"
    sizes = {"layers": 24, "hidden": 1024, "heads": 16, "wide": 4096, "words": 30592}
    w = reference.random_weights(**sizes, positions=512)
    for layer in w["layers"]:  # a random net this deep needs the small weights of a trained one
        for name, (weight, bias) in layer.items():
            layer[name] = (weight, bias) if "norm" in name else (weight * 0.2, bias * 0.2)
    vocab = [*VOCAB, *(f"w{n}" for n in range(30522 - len(VOCAB)))]
    folder = write(tmp_path / "m", order, w=w, vocab=vocab)
    (folder / "config.json").unlink()  # 16 heads are known of this size
    assert compare(load(folder, order), w) < 1e-5


@pytest.mark.parametrize("order", row_order.ORDERS)
def test_a_converted_folder_needs_no_order(tmp_path, order):
    reader = load(write(tmp_path / "m", order), order)
    again = checkpoints.load(checkpoints.save_transformers(reader, tmp_path / "out"), SETTINGS)
    assert compare(again) < 1e-5
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"rows in order {order}" in card
    assert all(digest in card for digest in reader.origin["files"].values())


# --- what can be wrong with a file ---------------------------------------------------------------


def change(folder, file="MegatronBERT.pt", **changed):
    state = torch.load(folder / file, weights_only=True)
    for name, value in changed.items():
        key = next(k for k in state if k.endswith(name.replace("__", ".")))
        old = state.pop(key)
        if value is not None:
            state |= value(key, old)
    torch.save(state, folder / file)


def config_of(folder, **settings):
    whole = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(whole))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda f: change(f, input_layernorm__bias=None),
            r"missing weight .*input_layernorm\.bias",
        ),
        (
            lambda f: change(f, layers__1__mlp__dense_4h_to_h__bias=lambda k, v: {k + "es": v}),
            r"unknown weight .*dense_4h_to_h\.biases'; similar names: transformer\.layers\.1\.mlp",
        ),
        (
            lambda f: change(f, layers__0__attention__dense__weight=lambda k, v: {k: v[:5]}),
            r"has shape \(5, 32\), not \(32, 32\)",
        ),
        (
            lambda f: change(f, position_embeddings__weight=lambda k, v: {k: v.long()}),
            r"is int64",
        ),
        (
            lambda f: change(f, "TokenClassifier-EPOCH-2.pt", bias=None),
            "missing weight 'mlp.layer0.bias'",
        ),
        (lambda f: (f / "MegatronBERT.pt").write_bytes(b"\x80junk"), "cannot be read as plain"),
        (lambda f: torch.save({"a": print}, f / "MegatronBERT.pt"), "cannot be read as plain"),
        (
            lambda f: torch.save({}, f / "MegatronBERT.pt"),
            "missing weight 'embedding.word_embeddings",
        ),
        (lambda f: (f / "copy.pt").write_bytes((f / "MegatronBERT.pt").read_bytes()), "two files"),
        (lambda f: (f / "vocab.txt").unlink(), "one vocabulary file"),
        (lambda f: (f / "vocab.txt").write_text("\n".join(VOCAB * 3)), "the model embeds 128"),
        (lambda f: config_of(f, hidden_size=64), "hidden_size is 64 in config.json but"),
        (
            lambda f: (f / "config.json").write_text('{"num-attention-heads": 5}'),
            "divisible by 5 heads",
        ),
        (lambda f: (f / "config.json").write_text("["), "not a valid model configuration"),
    ],
)
def test_one_line_that_names_what_is_wrong(tmp_path, damage, said):
    folder = write(tmp_path / "m", zipped=True)
    damage(folder)
    with pytest.raises(InputError, match=said) as error:
        load(folder, "0")
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vocab-size": 999}, "vocab_size is 999 in config.json but 128 in"),
        ({"max-seq-length": 128}, "max_seq_length is 128 in config.json but 64 in"),
        ({"num_hidden_layers": 9}, "num_hidden_layers is 9 in config.json but 2 in"),
        ({"num-attention-heads": "4"}, "num_attention_heads is '4'; expected an integer from 1"),
        ({"num-attention-heads": 0}, "num_attention_heads is 0; expected an integer from 1"),
    ],
)
def test_a_config_of_another_model(tmp_path, settings, said):
    folder = write(tmp_path / "m")
    config_of(folder, **settings)
    with pytest.raises(InputError, match=said):
        load(folder, "0")


def test_a_smaller_vocabulary_than_rows_is_padding(tmp_path):
    folder = write(tmp_path / "m")
    settings = {"num-attention-heads": 4, "vocab-size": len(VOCAB), "max-seq-length": 64}
    (folder / "config.json").write_text(json.dumps(settings))
    assert compare(load(folder, "0")) < 1e-5


@pytest.mark.fault("absurd sizes in a configuration")
def test_an_impossible_layer_number_is_refused_at_once(tmp_path):
    folder = write(tmp_path / "m", zipped=True)
    far = "language_model.transformer.layers.3000000.input_layernorm.weight"
    state = torch.load(folder / "MegatronBERT.pt", weights_only=True) | {far: torch.ones(32)}
    torch.save(state, folder / "MegatronBERT.pt")
    with pytest.raises(
        InputError, match=r"missing weight 'transformer\.layers\.2\.input_layernorm"
    ):
        load(folder, "0")


@pytest.mark.fault("weights that are not finite")
def test_weights_that_are_not_finite_are_refused_in_any_order(tmp_path):
    w = reference.random_weights(**SIZES)
    w["final"][0][3] = float("nan")
    folder = write(tmp_path / "m", w=w)
    with pytest.raises(InputError, match=r"encoder\.norm\.weight contains non-finite"):
        load(folder, "0")


@pytest.mark.fault("checkpoints that contain code")
def test_code_in_a_pickle_is_refused_without_advice_to_run_it(tmp_path):
    folder = write(tmp_path / "m")
    torch.save(torch.nn.Linear(2, 2), folder / "MegatronBERT.pt")
    with pytest.raises(InputError, match="contains objects or code") as error:
        load(folder, "0")
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)


@pytest.mark.parametrize("inner", ["BioMegatron", "release/mp_rank_00"])
def test_files_in_subfolders_are_found(tmp_path, inner):
    write(tmp_path / "m" / inner)
    (tmp_path / "m" / inner / "._MegatronBERT.pt").write_bytes(b"a shadow of macOS")
    assert compare(load(tmp_path / "m", "0")) < 1e-5


def test_an_archive_made_on_a_mac(tmp_path):
    path = write(tmp_path / "m", layout="zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._vocab.txt", b"a shadow")
    assert compare(load(path, "0")) < 1e-5


def split_in_two(folder, rank_of):
    """Megatron-LM's two tensor-parallel ranks: each file has half of the rows or columns."""
    state = torch.load(folder / "MegatronBERT.pt", weights_only=True)
    (folder / "MegatronBERT.pt").unlink()
    for rank in range(2):
        part = {}
        for name, value in state.items():
            columns = name.endswith(("attention.dense.weight", "4h_to_h.weight"))
            rows = any(
                f"{word}." in name for word in ("query_key_value", "h_to_4h", "word_embeddings")
            )
            split = value.chunk(2, 1 if columns else 0)[rank] if rows or columns else value
            part[name] = split.clone()
        file = folder / rank_of.format(rank)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(part, file)


@pytest.mark.parametrize(
    "name",
    ["mp_rank_0{}/model_optim_rng.pt", "tp_rank_0{}_pp_rank_000.pt", "iter_7/mp_rank_0{}_000/m.pt"],
)
def test_tensor_parallel_ranks_are_refused_together_and_alone(tmp_path, name):
    folder = write(tmp_path / "m")
    split_in_two(folder, name)
    with pytest.raises(InputError, match=r"split over tensor-parallel ranks \(.p_rank_00") as error:
        load(folder, "0")
    assert "tools/checkpoint/convert.py" in str(error.value) and "\n" not in str(error.value)
    (folder / name.format(1)).unlink()
    with pytest.raises(InputError, match=r"ranks \(this is one of 2\)"):
        load(folder, "0")


@pytest.mark.parametrize("name", ["tensor_model_parallel_size", "model_parallel_size"])
def test_one_rank_is_refused_by_its_arguments(tmp_path, name):
    folder = write(tmp_path / "m", layout="nested", args={name: 4})
    with pytest.raises(InputError, match=r"ranks \(this is one of 4\)"):
        load(folder, "0")


def test_a_head_count_that_nothing_states_is_asked_for(tmp_path):
    """A wrong one fits the same shapes, and with a given order nothing would show the mistake."""
    folder = write(tmp_path / "m")
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json states num-attention-heads"):
        load(folder, "0")
    (folder / "config.json").write_text('{"num-layers": 2}')
    with pytest.raises(InputError, match=r'add a config\.json with \{"num-attention-heads": …\}'):
        load(folder, "0")
    (folder / "config.json").write_text('{"num-attention-heads": 4}')
    assert compare(load(folder, "0")) < 1e-5


def test_megatrons_own_arguments_state_heads_and_gelu(tmp_path):
    args = {"num_attention_heads": 4, "bias_gelu_fusion": False, "openai_gelu": False}
    folder = write(tmp_path / "m", layout="nested", args=args)
    (folder / "config.json").unlink()
    reader = load(folder, "0")
    assert compare(reader, gelu="erf") < 1e-5 < compare(reader)
    assert reader.origin["gelu"] == {"form": "erf", "reason": "stated with the weights"}
    (folder / "config.json").write_text('{"num-attention-heads": 8}')
    with pytest.raises(InputError, match="num_attention_heads is 8 in the config file but 4 in"):
        load(folder, "0")
    fused = write(tmp_path / "n", layout="nested", args=args | {"bias_gelu_fusion": True})
    assert compare(load(fused, "0")) < 1e-5


@pytest.mark.parametrize("form", ["erf", "tanh"])
def test_gelu_of_the_config_file_goes_before_the_registry(tmp_path, form):
    folder = write(tmp_path / "m")
    reader = load(folder, "0")
    assert reader.model.config.gelu == registry.MEGATRON_GELU
    assert reader.origin["gelu"]["reason"].startswith("inferred: ")
    config_of(folder, hidden_act={"erf": "gelu", "tanh": "gelu_new"}[form])
    reader = load(folder, "0")
    assert compare(reader, gelu=form) < 1e-5
    out = checkpoints.save_transformers(reader, tmp_path / "out")
    assert f"The kit used the {form} form of GELU (stated" in (out / "README.md").read_text()
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(out).eval()
    batch = gather(reader.windows(tiny_examples(1)), [0])
    with torch.inference_mode():
        found = theirs(input_ids=batch.ids[None], token_type_ids=batch.token_types[None])
        logits = torch.stack([found.start_logits[0], found.end_logits[0]], -1)
        torch.testing.assert_close(reader.model(batch), logits, rtol=1e-4, atol=1e-5)
    config_of(folder, hidden_act="relu")
    with pytest.raises(InputError, match="hidden_act is 'relu'; expected gelu"):
        load(folder, "0")


def test_integers_and_another_vocabulary_are_refused(tmp_path):
    folder = write(tmp_path / "m")
    change(folder, layers__1__mlp__dense_4h_to_h__weight=lambda k, v: {k: v.to(torch.int8)})
    with pytest.raises(InputError, match=r"dense_4h_to_h\.weight is int8; expected float16.*quant"):
        load(folder, "0")
    w = reference.random_weights(**SIZES | {"words": 100})
    with pytest.raises(InputError, match=r"has \d+ tokens, but the model embeds 100; it belongs"):
        load(write(tmp_path / "n", w=w), "0")


def test_too_long_windows_are_refused_before_the_conversion(tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoints, "_fill", None)  # converting would fail
    with pytest.raises(InputError, match="max_length: 384 is more than the 64 positions"):
        prepare(write(tmp_path / "m"), Settings(qkv_order="0"))


def test_a_change_of_code_converts_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_CACHE", str(tmp_path / "cache"))
    room = Path(checkpoints.__file__).parent
    copy = shutil.copytree(room, tmp_path / "model")
    monkeypatch.setattr(checkpoints, "__file__", str(copy / "prepare.py"))
    folder, settings = write(tmp_path / "m"), replace(SETTINGS, qkv_order="0")
    before = prepare(folder, settings)
    for path in (copy / "megatron.py", copy / "encoder.py"):
        path.write_bytes(path.read_bytes() + b"\n")
        after = prepare(folder, settings)
        assert after != before and (after / "config.json").is_file()
        assert prepare(folder, settings) == after
        before = after


def test_converted_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_CACHE", str(tmp_path / "cache"))
    folder = write(tmp_path / "m")
    settings = replace(SETTINGS, qkv_order="0", dropout=0.3)
    place = prepare(folder, settings)
    (place.parent / ".saving-dead").mkdir()
    reader = checkpoints.load(place, settings)
    assert compare(reader) < 1e-5 and reader.model.config.dropout == 0.3
    assert reader.origin["qkv"]["order"] == "0" and prepare(place, settings) == place
    monkeypatch.setattr(checkpoints, "save_transformers", None)  # a second conversion would fail
    assert prepare(folder, settings) == place
    before = (place / "model.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in reader.model.parameters():
            parameter += 1
    assert (place / "model.safetensors").read_bytes() == before


def test_parts_of_pretraining_are_ignored(tmp_path):
    folder = write(tmp_path / "m", zipped=True)
    extra = {"language_model.pooler.dense.weight": torch.ones(2), "binary_head.bias": torch.ones(2)}
    state = torch.load(folder / "MegatronBERT.pt", weights_only=True) | extra
    torch.save(state, folder / "MegatronBERT.pt")
    assert compare(load(folder, "0")) < 1e-5


def test_names_in_one_spelling():
    name = "module.language_model.encoder.layers.0.self_attention.dense.weight"
    assert canonical_megatron(name) == "transformer.layers.0.attention.dense.weight"
    assert canonical_megatron("bert_model.language_model.transformer.final_layernorm.bias") == (
        "transformer.final_layernorm.bias"
    )
    assert canonical_megatron("classifier.mlp.layer0.bias") == "mlp.layer0.bias"
    assert canonical_megatron("model.language_model.pooler.dense.weight") == ""


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
