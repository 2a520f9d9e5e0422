"""What we save, we and transformers load to equal logits; what is damaged is refused."""

import json
import tarfile
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import VOCAB, tiny_examples, tiny_folder, tiny_reader

from helpers.config import InputError, Settings
from helpers.fetch.download import unpack
from helpers.model import checkpoints
from helpers.model.decoding import compute_logits
from helpers.model.features import gather

SETTINGS = Settings(max_length=48)


def logits_of(reader):
    return torch.from_numpy(compute_logits(reader.model, reader.windows(tiny_examples(9))))


@pytest.mark.parametrize("seed", [0, 1], ids=["bert", "megatron-bert"])
def test_both_formats_return_the_same_logits(tmp_path, seed):
    reader = tiny_reader(seed)
    expected = logits_of(reader)
    checkpoints.save_transformers(reader, tmp_path / "transformers")
    checkpoints.save_nemo(reader, tmp_path / "model.nemo")
    for path in ("transformers", "model.nemo"):
        again = checkpoints.load(tmp_path / path, reader.settings)
        assert not again.fresh_head
        assert list(again.vocab) == VOCAB
        torch.testing.assert_close(logits_of(again), expected, atol=0, rtol=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.nemo", "transformers"]


@pytest.mark.parametrize("seed", [0, 1], ids=["bert", "megatron-bert"])
def test_transformers_loads_our_folder_to_equal_logits(tmp_path, seed):
    folder = tiny_folder(tmp_path / "m", seed)
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    ours = checkpoints.load(folder, tiny_reader(seed).settings)
    windows = ours.windows(tiny_examples(1))
    batch = gather(windows, [0])
    with torch.inference_mode():
        out = theirs(input_ids=batch.ids[None], token_type_ids=batch.token_types[None])
        expected = torch.stack([out.start_logits[0], out.end_logits[0]], -1)
        torch.testing.assert_close(ours.model(batch), expected, atol=1e-5, rtol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = tiny_examples(1)[0]
    assert tokenizer(text.question, text.context)["input_ids"] == windows.ids.tolist()


def test_an_encoder_without_a_head_gets_a_random_one_that_is_marked(tmp_path):
    folder = tiny_folder(tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    bare = {k.removeprefix("bert."): v for k, v in state.items() if not k.startswith("qa_")}
    bare["pooler.dense.weight"] = torch.zeros(32, 32)
    save_file(bare, folder / "model.safetensors")
    first, again = (checkpoints.load(folder, replace(SETTINGS, seed=4)) for _ in range(2))
    other = checkpoints.load(folder, replace(SETTINGS, seed=5))
    assert first.fresh_head
    assert torch.equal(first.model.head.weight, again.model.head.weight)
    assert not torch.equal(first.model.head.weight, other.model.head.weight)


def break_config(**change):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **change}))

    return damage


def break_weights(change):
    def damage(folder):
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return damage


def as_bin(data):
    def damage(folder):
        (folder / "model.safetensors").unlink()
        torch.save(data, folder / "pytorch_model.bin")

    return damage


@pytest.mark.fault("damaged model folders, with lying headers among them")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
        (
            lambda f: (f / "config.json").write_text("{"),
            "config.json: not a valid model configuration",
        ),
        (
            lambda f: (f / "config.json").write_text("[]"),
            "config.json: not a valid model configuration",
        ),
        (
            lambda f: [(f / n).unlink() for n in ("vocab.txt", "tokenizer.json")],
            "neither tokenizer.json nor vocab.txt",
        ),
        (
            lambda f: (f / "vocab.txt").open("a").write("more\n"),
            "but None in tokenizer",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "neither model.safetensors nor"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"<html>"),
            "cannot be read as plain weights",
        ),
        (break_config(model_type="gpt2"), "model_type is 'gpt2'; expected 'bert' or"),
        (break_config(hidden_act="relu"), "relu"),
        (
            break_config(intermediate_size=65),
            r"has shape \(64, 32\), not \(65, 32\); does config",
        ),
        (
            break_config(num_hidden_layers=3),
            r"missing weight 'encoder\.layer\.2.*does config\.json belong",
        ),
        (break_config(num_hidden_layers=1), r"unknown weight 'encoder\.layer\.1"),
        (break_config(num_attention_heads=5), "heads"),
        (break_config(num_attention_heads=0), "num_attention_heads is 0"),
        (break_config(vocab_size="128"), "vocab_size is '128'"),
        (as_bin([1, 2]), "contains something other than named weights"),
        (as_bin({"a": torch.ones(2, dtype=torch.long)}), "a is int64; expected float16"),
        (as_bin(torch.nn.Linear(2, 2)), "contains objects or code"),
        (break_weights(lambda s: s.update(extra=torch.zeros(1))), "unknown weight 'extra'"),
    ],
)
def test_a_damaged_folder_is_refused_with_what_is_wrong(tmp_path, damage, message):
    folder = tiny_folder(tmp_path / "m")
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        checkpoints.load(folder, SETTINGS)
    assert "\n" not in str(error.value)


def test_a_path_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        checkpoints.load(tmp_path / "nothing", SETTINGS)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="not a checkpoint folder"):
        checkpoints.load(tmp_path / "a.txt", SETTINGS)
    (tmp_path / "a.nemo").write_text("x")
    with pytest.raises(InputError, match="the archive is damaged"):
        checkpoints.load(tmp_path / "a.nemo", SETTINGS)


@pytest.mark.fault("weights that are not finite")
def test_weights_that_are_not_finite_are_refused_in_both_formats(tmp_path):
    reader = tiny_reader()
    with torch.no_grad():
        reader.model.head.weight[0, 0] = float("nan")
    checkpoints.save_transformers(reader, tmp_path / "m")
    checkpoints.save_nemo(reader, tmp_path / "m.nemo")
    for name in ("m", "m.nemo"):
        damaged = checkpoints.load(tmp_path / name, reader.settings)
        with pytest.raises(InputError, match="head.weight contains non-finite values"):
            damaged.predict(tiny_examples(3), progress=False)


@pytest.mark.parametrize(
    ("target", "loads"),
    [("helpers.qa_model.ExtractiveQAModel", True), ("helpers.qa_model.Another", False)],
)
def test_a_nemo_file_of_the_flat_package_loads(tmp_path, target, loads):
    whole = checkpoints.save_nemo(tiny_reader(1), tmp_path / "new.nemo")
    unpack(whole, tmp_path / "parts")
    config = tmp_path / "parts" / "model_config.yaml"
    text = config.read_text()
    assert "target: helpers.model.qa_model.ExtractiveQAModel" in text
    config.write_text(text.replace("helpers.model.qa_model.ExtractiveQAModel", target))
    old = tmp_path / "old.nemo"
    with tarfile.open(old, "w") as archive:
        archive.add(tmp_path / "parts", ".")
    if loads:
        found = checkpoints.load(old, SETTINGS).model.state_dict()
        assert all(
            torch.equal(found[name], value)
            for name, value in tiny_reader(1).model.state_dict().items()
        )
    else:
        with pytest.raises(InputError, match="contains helpers.qa_model.Another"):
            checkpoints.load(old, SETTINGS)


@pytest.mark.fault("damaged .nemo files")
def test_a_nemo_file_damaged_inside_is_refused_in_one_line(tmp_path):
    whole = checkpoints.save_nemo(tiny_reader(), tmp_path / "m.nemo")
    unpack(whole, tmp_path / "parts")
    weights = next((tmp_path / "parts").rglob("*.ckpt"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    with tarfile.open(tmp_path / "cut.nemo", "w") as archive:
        archive.add(tmp_path / "parts", arcname=".")
    with pytest.raises(InputError, match="cut.nemo: corrupted file") as error:
        checkpoints.load(tmp_path / "cut.nemo", SETTINGS)
    assert "\n" not in str(error.value)


def test_a_vocabulary_that_is_not_utf8_is_named(tmp_path):
    folder = tiny_folder(tmp_path / "m")
    (folder / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(InputError, match="vocab.txt: not UTF-8"):
        checkpoints.load(folder, SETTINGS)
