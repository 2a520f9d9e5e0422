"""Real-life transformers folders: our token ids and logits equal transformers'."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from helpers.config import InputError, Settings
from helpers.data.squad import Example
from helpers.fetch.download import unpack
from helpers.model import checkpoints
from helpers.model.encoder import GELU_NAMES
from helpers.model.features import gather
from helpers.model.texts import make_tokenizer

SETTINGS = Settings(max_length=64)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "which gene Gene tnf TNF α naive naïve cystic fib ##rosis ##s 中 文 中文 - , ? ( ) <s> </s>"
VOCAB = [*SPECIAL, *WORDS.split(), *(f"w{n}" for n in range(37))]  # 64 tokens
TEXTS = [
    ("Which gene?", "The TNF-α Gene in cystic Fibrosis, naïve (中文) w3"),
    ("which GENE?", "tnf naive [ENT] gene,cystic TNF-alpha fibs [MASK] Naïve [SEP] 中"),
]
KINDS = {
    "bert": (transformers.BertConfig, transformers.BertForQuestionAnswering),
    "megatron-bert": (
        transformers.MegatronBertConfig,
        transformers.MegatronBertForQuestionAnswering,
    ),
}


def model_of(kind="bert", **changed):
    """A tiny model of transformers' with random weights of a size that moves the logits."""
    config, cls = KINDS[kind]
    sizes = {
        "vocab_size": len(VOCAB), "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 56, "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(0)
    model = cls(config(**sizes | changed)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # LayerNorms start at 1 and 0
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model


def save(folder, model=None, tokenizer=None, **options):
    """What transformers 5 saves: config.json, model.safetensors, tokenizer.json and its options."""
    model = model or model_of()
    model.save_pretrained(folder)
    vocab = {token: number for number, token in enumerate(VOCAB)}
    tokenizer = tokenizer or transformers.BertTokenizer(vocab=vocab, **options)
    tokenizer.save_pretrained(folder)
    assert not (folder / "vocab.txt").exists()
    return folder


def old_style(folder, **options):
    """What transformers 4 and Google's scripts leave: vocab.txt and tokenizer_config.json."""
    save(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return folder


def reload(folder, change, name="config.json"):
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


def compare(folder, theirs=None, tokenizer=None):
    """Our ids and logits against transformers'; returns our reader and all its ids."""
    reader = checkpoints.load(folder, SETTINGS)
    if theirs is None:
        load = transformers.AutoModelForQuestionAnswering.from_pretrained
        theirs = load(folder, dtype=torch.float32).eval()
    tokenizer = tokenizer or transformers.AutoTokenizer.from_pretrained(folder)
    ids = []
    for number, (question, context) in enumerate(TEXTS):
        windows = reader.windows([Example(f"{number}_001", str(number), question, context, ())])
        batch = gather(windows, [0])
        wanted = tokenizer(question, context, return_tensors="pt")
        assert windows.ids.tolist() == wanted["input_ids"][0].tolist()
        with torch.inference_mode():
            out = theirs(**wanted)
            expected = torch.stack([out.start_logits[0], out.end_logits[0]], -1)
            torch.testing.assert_close(reader.model(batch), expected, atol=2e-5, rtol=2e-5)
        ids += windows.ids.tolist()
    return reader, ids


OPTIONS = [
    {},
    {"do_lower_case": False},
    {"strip_accents": False},
    {"do_lower_case": False, "strip_accents": True},
    {"tokenize_chinese_chars": False},
    {"cls_token": "<s>", "sep_token": "</s>"},
]


@pytest.mark.parametrize("how", [save, old_style], ids=["tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_tokenizer_options_are_read(tmp_path, how, options):
    if how is old_style:  # where nothing is stated, capitals are kept: see the test below
        options = {"do_lower_case": True} | options
    reader, ids = compare(how(tmp_path / "m", **options))
    if options not in ({}, {"do_lower_case": True}):
        assert ids != compare(save(tmp_path / "plain"))[1]
    for again in saved(reader, tmp_path):
        assert again.tokenizer.to_str() == reader.tokenizer.to_str()
    compare(tmp_path / "again")


def saved(reader, folder):
    """The reader after both formats that the kit writes."""
    checkpoints.save_transformers(reader, folder / "again")
    checkpoints.save_nemo(reader, folder / "again.nemo")
    for name in ("again", "again.nemo"):
        yield checkpoints.load(folder / name, SETTINGS)


def test_added_tokens(tmp_path):
    vocab = {token: number for number, token in enumerate(VOCAB[:-2])}
    tokenizer = transformers.BertTokenizer(vocab=vocab)
    assert tokenizer.add_tokens(["[ENT]", "tnf-alpha"]) == 2
    reader, ids = compare(save(tmp_path / "m", tokenizer=tokenizer))
    assert len(VOCAB) - 2 in ids and len(VOCAB) - 1 in ids
    assert reader.vocab[-2:] == ["[ENT]", "tnf-alpha"]
    for again in saved(reader, tmp_path):
        assert again.tokenizer.to_str() == reader.tokenizer.to_str()
    compare(tmp_path / "again")


def test_added_tokens_of_transformers_4(tmp_path):
    folder = old_style(tmp_path / "m", do_lower_case=True)
    (folder / "vocab.txt").write_text("\n".join(VOCAB[:-1]) + "\n", encoding="utf-8")
    (folder / "added_tokens.json").write_text(json.dumps({"[ENT]": len(VOCAB) - 1}))
    _, ids = compare(folder)
    assert len(VOCAB) - 1 in ids


def test_ids_that_are_not_in_use(tmp_path):
    vocab = {token: number for number, token in enumerate(VOCAB) if number not in (20, 60)}
    tokenizer = transformers.BertTokenizer(vocab=vocab)
    reader, _ = compare(save(tmp_path / "m", tokenizer=tokenizer))
    assert reader.vocab[20] == "" and reader.vocab[63] == VOCAB[63]
    for again in saved(reader, tmp_path):
        assert again.tokenizer.to_str() == reader.tokenizer.to_str()


def test_a_tokenizer_of_the_tokenizers_library_with_padding_and_truncation(tmp_path):
    folder = save(tmp_path / "m")
    tokenizer = make_tokenizer(VOCAB)
    tokenizer.enable_truncation(max_length=5)
    tokenizer.enable_padding(length=60)
    tokenizer.save(str(folder / "tokenizer.json"))
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]",
               "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]",
               "model_input_names": ["input_ids", "token_type_ids"]}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    compare(folder)


def test_capitals_are_kept_where_nothing_is_stated(tmp_path):
    """The one difference from transformers, which would lower-case BioBERT's first release."""
    folder = old_style(tmp_path / "m")
    vocab = [*SPECIAL, "Gene", "TNF", *(f"W{n}" for n in range(57))]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    cased = transformers.AutoTokenizer.from_pretrained(folder, do_lower_case=False)
    _, ids = compare(folder, tokenizer=cased)
    assert vocab.index("TNF") in ids
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    _, ids = compare(folder)
    assert vocab.index("TNF") not in ids


def test_one_capital_does_not_make_a_vocabulary_cased():
    vocab = [*SPECIAL, *(f"w{n}" for n in range(200)), "gene", "DNA"]
    assert make_tokenizer(vocab).encode("GENE", add_special_tokens=False).tokens == ["gene"]


# --- weights -------------------------------------------------------------------------------------


def renamed(change, **kept):
    def damage(folder):
        path = folder / "model.safetensors"
        state = {change(name): value for name, value in load_file(path).items()}
        save_file(state, path, metadata={"format": "pt"})

    return damage


def google(name):
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return name.replace("LayerNorm.bias", "LayerNorm.beta")


def as_bin(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_extras(folder):
    state = load_file(folder / "model.safetensors")
    state |= {"bert.pooler.dense.bias": torch.ones(32), "cls.predictions.bias": torch.ones(64)}
    state["bert.embeddings.position_ids"] = torch.arange(64)[None]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def optimizer_beside(folder):
    torch.save({"state": {}}, folder / "optimizer.pt")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "damage",
    [
        renamed(google),
        renamed(lambda name: f"module.{name}"),
        renamed(lambda name: f"model.{name}"),
        renamed(lambda name: f"_orig_mod.module.{google(name)}"),
        renamed(lambda name: name.removeprefix("bert.")),
        as_bin,
        with_extras,
        optimizer_beside,
    ],
    ids=["gamma", "module", "model", "compiled", "bare", "bin", "extras", "optimizer"],
)
def test_weights_are_found_under_any_name(tmp_path, kind, damage):
    model = model_of(kind)
    folder = save(tmp_path / "m", model)
    damage(folder)
    reader, _ = compare(folder, model)
    assert not reader.fresh_head


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_weights_in_parts(tmp_path, kind, form):
    model = model_of(kind)
    folder = save(tmp_path / "m", model)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    if form == "bin":
        place = {}
        for path in sorted(folder.glob("model-*.safetensors")):
            part = path.with_suffix(".bin").name
            torch.save(load_file(path), folder / part)
            place |= dict.fromkeys(load_file(path), part)
            path.unlink()
        (folder / "model.safetensors.index.json").unlink()
        index = {"metadata": {}, "weight_map": place}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert len(list(folder.glob(f"*-of-*.{form}"))) > 2
    optimizer_beside(folder)  # Megatron's files are .pt, too
    compare(folder, model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_the_numbers_they_hold(tmp_path, dtype):
    model = model_of().to(dtype)
    folder = save(tmp_path / "m", model)
    assert {v.dtype for v in load_file(folder / "model.safetensors").values()} == {dtype}
    compare(folder, model.float())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GELU_NAMES)
def test_gelu_is_the_one_of_the_config_file(tmp_path, kind, name):
    folder = save(tmp_path / "m", model_of(kind, hidden_act=name))
    reader, _ = compare(folder)
    for again in saved(reader, tmp_path):
        assert again.model.config.gelu == reader.model.config.gelu == GELU_NAMES[name]
    compare(tmp_path / "again")


def test_the_two_forms_of_gelu_give_different_logits(tmp_path):
    readers = [
        checkpoints.load(save(tmp_path / act, model_of(hidden_act=act)), SETTINGS)
        for act in ("gelu", "gelu_new")
    ]
    windows = readers[0].windows([Example("0_001", "0", *TEXTS[0], ())])
    with torch.inference_mode():
        erf, tanh = (reader.model(gather(windows, [0])) for reader in readers)
    assert 1e-5 < (erf - tanh).abs().max() < 0.1


def test_what_was_saved_before_gelu_was_a_field_is_erf(tmp_path):
    """A config.json without hidden_act, and a .nemo file with BERT's vocabulary as a text file."""
    import tarfile

    from omegaconf import OmegaConf

    folder = save(tmp_path / "m")
    reload(folder, lambda config: config.pop("hidden_act"))
    reader, _ = compare(folder)
    assert reader.model.config.gelu == "erf"
    checkpoints.save_nemo(reader, tmp_path / "new.nemo")
    unpack(tmp_path / "new.nemo", tmp_path / "parts")
    config = OmegaConf.load(tmp_path / "parts" / "model_config.yaml")
    next((tmp_path / "parts").glob("*tokenizer.json")).unlink()
    del config.encoder.gelu, config.tokenizer_file
    config.vocab_file = "nemo:vocab.txt"
    OmegaConf.save(config, tmp_path / "parts" / "model_config.yaml")
    (tmp_path / "parts" / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    with tarfile.open(tmp_path / "old.nemo", "w") as archive:
        archive.add(tmp_path / "parts", arcname=".")
    old = checkpoints.load(tmp_path / "old.nemo", SETTINGS)
    assert old.model.config == reader.model.config and list(old.vocab) == VOCAB
    assert torch.equal(old.model.encoder.words.weight, reader.model.encoder.words.weight)


# --- what is refused -----------------------------------------------------------------------------


def config(**changed):
    return lambda folder: reload(folder, lambda data: data.update(changed))


def without(name):
    return lambda folder: reload(folder, lambda data: data.pop(name))


def weights(change):
    def damage(folder):
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return damage


def vocabulary(change):
    def damage(folder):
        tokens = change(list(VOCAB))
        (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")

    return damage


def only_vocabulary(change):
    def damage(folder):
        vocabulary(change)(folder)
        (folder / "tokenizer.json").unlink()

    return damage


def int8(state):
    name = "bert.encoder.layer.0.output.dense.weight"
    state[name] = (state[name] * 50).to(torch.int8)


def twice(state):
    state["bert.bert.embeddings.LayerNorm.bias"] = torch.zeros(32)


def uneven(state):
    """Wrong shapes of query and key whose rows still add up."""
    for part, rows in (("query", 40), ("key", 24)):
        state[f"bert.encoder.layer.0.attention.self.{part}.weight"] = torch.ones(rows, 32)


def three_labels(state):
    state |= {"qa_outputs.weight": torch.ones(3, 32), "qa_outputs.bias": torch.ones(3)}


def of_roberta(folder):
    from tokenizers import Tokenizer, models, processors

    ids = {token: number for number, token in enumerate(VOCAB)}
    tokenizer = Tokenizer(models.BPE(ids, [], unk_token="[UNK]"))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))


def a_part_lost(folder):
    (folder / "model.safetensors").unlink()
    model_of().save_pretrained(folder, max_shard_size="20KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def a_weight_lost(folder):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"weight_map": {"a": "part.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def an_index(text):
    def damage(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(text)

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without("model_type"), "config.json: model_type is missing; expected 'bert' or 'mega"),
        (config(model_type="roberta"), "model_type is 'roberta'; expected"),
        (config(model_type="distilbert"), "model_type is 'distilbert'; expected"),
        (config(model_type=["bert"]), "model_type is .'bert'.; expected"),
        (without("num_attention_heads"), "num_attention_heads is missing"),
        (without("hidden_size"), "hidden_size is missing"),
        (config(type_vocab_size=1), "type_vocab_size is 1; expected an integer from 2 to"),
        (config(hidden_act="relu"), "hidden_act is 'relu'; expected gelu, "),
        (config(hidden_act="quick_gelu"), "hidden_act is 'quick_gelu'"),
        (config(hidden_act={"a": 1}), "hidden_act is {'a': 1}"),
        (config(position_embedding_type="relative_key"), "'relative_key'; only 'absolute'"),
        (config(is_decoder=True), "is_decoder is True; only False"),
        (config(layer_norm_eps="tiny"), "layer_norm_eps is 'tiny'"),
        (weights(int8), r"layer\.0\.output\.dense\.weight is int8; expected float16.*quantized"),
        (weights(twice), r"'bert\.(bert\.)?embeddings\.LayerNorm\.bias' is stored twice"),
        (weights(three_labels), r"'qa_outputs\.weight' has shape \(3, 32\), not \(2, 32\)"),
        (weights(lambda s: s.pop("qa_outputs.bias")), "missing weight 'qa_outputs.bias'"),
        (weights(uneven), r"self\.query\.weight' has shape \(40, 32\), not \(32, 32\)"),
        (a_part_lost, r"model-00002-of-.*no such file, but the folder's index lists it"),
        (a_weight_lost, r"lacks 'a', which model\.safetensors\.index\.json assigns to"),
        (an_index("{}"), "index.json: not a valid weight index"),
        (an_index('{"weight_map": {"a": "../b.bin"}}'), "'../b.bin' is not a plain name"),
        (
            vocabulary(lambda v: [*v[:8], "other", *v[9:]]),
            "'other' has id 8 in",
        ),
        (
            only_vocabulary(lambda v: [*v, "more"]),
            "has 65 tokens, but the model embeds 64; it belongs",
        ),
        (only_vocabulary(lambda v: v[:50] + v[60:]), "fits"),
        (lambda f: save(f, model_of(vocab_size=100)), "has 64 tokens, but the model embeds 100"),
        (only_vocabulary(lambda v: [*(t for t in v if t != "[SEP]"), "x"]), r"lacks \[SEP\]"),
        (of_roberta, "tokenizer.json: a BPE tokenizer; expected BERT's WordPiece"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json: not a BERT tokenizer"),
        (lambda f: (f / "tokenizer_config.json").write_text("["), "not a BERT tokenizer"),
        (lambda f: (f / "tokenizer.json").unlink(), "neither tokenizer.json nor vocab.txt"),
    ],
)
def test_one_line_names_what_does_not_fit(tmp_path, damage, said):
    folder = save(tmp_path / "m")
    damage(folder)
    if said == "fits":  # 54 tokens and rows padded to a multiple of 64, as Megatron does
        compare(folder)
        return
    with pytest.raises(InputError, match=said) as error:
        checkpoints.load(folder, SETTINGS)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_model_of_another_task_gets_a_random_span_head(tmp_path):
    config = model_of().config
    torch.manual_seed(1)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "m")
    save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "tokenizer.json", tmp_path / "m")
    reader = checkpoints.load(tmp_path / "m", SETTINGS)
    assert reader.fresh_head and reader.model.head.weight.std() > 0


def test_windows_longer_than_the_positions_are_refused(tmp_path):
    folder = save(tmp_path / "m")
    with pytest.raises(InputError, match="max_length: 65 is more than the 64 positions") as error:
        checkpoints.load(folder, Settings(max_length=65))
    assert "set max_length=64 or less" in str(error.value)
    (folder / "model.safetensors").unlink()  # before the weights are even looked for
    with pytest.raises(InputError, match="max_length: 384 is more than the 64 positions"):
        checkpoints.load(folder, Settings())
