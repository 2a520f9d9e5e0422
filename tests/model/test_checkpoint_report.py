"""The report on a checkpoint: complete if the model loads, and useful if it does not."""

import json
import re
import subprocess
import sys
from pathlib import Path

import megatron_files as files
import pytest
import torch
from test_row_order import trained  # noqa: F401  a model that answers the questions of the row order
from tiny import tiny_folder, tiny_reader

from helpers.config import Settings
from helpers.io import write_json
from helpers.model import checkpoint_report, checkpoints, megatron, row_order
from helpers.model.encoder import GELUS
from helpers.model.weights import read_weights

ROOT = Path(__file__).parents[2]
SETTINGS = Settings()


@pytest.fixture
def known(trained, tmp_path):  # noqa: F811
    """A checkpoint in NVIDIA's format whose row order can be found, and its reader."""
    reader, _ = trained
    w = files.weights_of(reader.model)
    path = files.write(tmp_path / "m", "1.0", w=w, vocab=reader.vocab, dtype=torch.float16)
    return path, checkpoints.load(path, SETTINGS)


def test_layers_share_a_row_and_nothing_is_left_out(known):
    path, reader = known
    tensors, _ = megatron.stored(path)
    found = checkpoint_report.stored_weights(tensors)
    rows = {name: (dtype, shape) for name, dtype, shape in found}
    hidden = reader.model.config.hidden
    (qkv,) = [name for name in rows if name.endswith("query_key_value.weight")]
    assert ".{0-1}." in qkv and rows[qkv] == ("float16", str((3 * hidden, hidden)))
    stored = [m for p in path.glob("*.pt") for m in torch.load(p, weights_only=True)]
    numbers = [re.sub(r"\.\d+\.", ".{0-1}.", name) for name in stored]
    assert set(rows) == set(numbers)


def test_names_of_transformers_stay_as_they_are(tmp_path):
    rows = checkpoint_report.stored_weights(read_weights(tiny_folder(tmp_path / "t")))
    names = [name for name, _, _ in rows]
    assert "bert.encoder.layer.{0-1}.attention.output.LayerNorm.weight" in names
    assert len(names) == len(set(names))


def test_the_report_says_what_was_found(known, tmp_path):
    path, reader = known
    dev = tmp_path / "dev.json"
    example, answer = row_order.questions()[0]
    at = example.context.index(answer)
    question = {"id": "q1", "question": example.question}
    question["answers"] = [{"text": answer, "answer_start": at}]
    row = {"title": "", "paragraphs": [{"context": example.context, "qas": [question]}]}
    write_json(dev, {"version": "1.1", "data": [row]})
    output = tmp_path / "report.md"
    checkpoint_report.write_report("M", path, output, SETTINGS, str(dev))
    text = output.read_text()
    for digest in reader.origin["files"].values():
        assert digest in text
    assert "rows in order 1.0" in text
    for order, score in reader.origin["qkv"]["scores"].items():
        assert f"| {order} | {score:.4f} |" in text
    for count, score in reader.origin["qkv"]["heads"].items():
        assert f"| {count} | {score:.4f} |" in text
    assert all(re.search(rf"\| {gelu} \| 100\.00 \| 100\.00 \|", text) for gelu in GELUS)
    assert '"hidden-size"' in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("with_head", [True, False])
def test_the_model_is_described_as_the_files_have_it(tmp_path, with_head):
    made = tiny_reader()
    path = checkpoints.save_transformers(made, tmp_path / "t", with_head=with_head)
    output = tmp_path / "report.md"
    checkpoint_report.write_report("X", path, output, made.settings)
    text = output.read_text().partition("## Model as built by this kit")[2].partition("##")[0]
    part = made.model if with_head else made.model.encoder
    assert f"| parameters | {sum(p.numel() for p in part.parameters())} |" in text
    assert f"| span head | {'included' if with_head else 'missing'} |" in text
    assert "| gelu | erf (in a config.json, `hidden_act`: gelu or" in text
    assert "dropout" not in text


def test_each_gelu_is_tried_and_the_model_keeps_its_own(known):
    _, reader = known
    before = reader.model.config.gelu
    found = checkpoint_report.gelu_evidence(reader)
    erf, tanh = (found[gelu] for gelu in ("erf", "tanh"))
    assert erf["better_by"] == pytest.approx(tanh["loss"] - erf["loss"])
    assert erf["better_by"] == pytest.approx(-tanh["better_by"])
    assert 0 < abs(erf["better_by"]) < 0.1 and erf["error"] > 0  # close, but not the same
    assert reader.model.config.gelu == before
    assert found[before]["f1"] == row_order.answer_score(reader)


def test_a_file_that_does_not_load_is_still_reported(tmp_path):
    path = files.write(tmp_path / "untrained")
    output = tmp_path / "report.md"
    checkpoint_report.write_report("X", path, output, files.SETTINGS)
    text = output.read_text()
    assert "no order of the query-key-value rows stands out" in text
    assert "1.0: 0." in text  # with the scores of the three orders
    assert "query_key_value.weight" in text and "could not be loaded" in text
    assert str(tmp_path) not in text


def test_an_unknown_key_is_listed(tmp_path):
    path = files.write(tmp_path / "m")
    state = torch.load(path / "MegatronBERT.pt", weights_only=True)
    torch.save(state | {"rotary.freqs": torch.zeros(2)}, path / "MegatronBERT.pt")
    output = tmp_path / "report.md"
    checkpoint_report.write_report("X", path, output, SETTINGS)
    text = output.read_text()
    assert "`rotary.freqs` | float32 | (2,)" in text
    assert "unknown weight 'rotary.freqs'" in text


def test_megatrons_arguments_are_shown_without_paths(trained, tmp_path):  # noqa: F811
    reader, _ = trained
    args = {"bias_gelu_fusion": True, "openai_gelu": False, "num_attention_heads": 4,
            "tokenizer_type": "BertWordPieceLowerCase", "load": "/home/someone/m"}  # fmt: skip
    path = files.write(
        tmp_path / "m", w=files.weights_of(reader.model), vocab=reader.vocab, layout="nested",
        args=args,
    )  # fmt: skip
    output = tmp_path / "report.md"
    checkpoint_report.write_report("X", path, output, SETTINGS)
    text = output.read_text()
    for name in ("bias_gelu_fusion", "openai_gelu", "num_attention_heads", "tokenizer_type"):
        assert f"| `{name}` | `{args[name]}` |" in text
    assert "someone" not in text


def test_the_command_line_writes_it(known, tmp_path):
    path, _ = known
    output = tmp_path / "out" / "report.md"
    command = [sys.executable, ROOT / "data_scripts" / "download_checkpoint.py", path]
    done = subprocess.run([*command, "--report", output], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(output) in done.stdout and "rows in order 1.0" in output.read_text()
    wrong = subprocess.run([*command, "--squad-dev", "x.json"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "--report" in wrong.stderr


def test_a_settings_file_is_shown_as_it_is(known, tmp_path):
    path, _ = known
    settings = json.loads((path / "config.json").read_text())
    output = tmp_path / "report.md"
    checkpoint_report.write_report("X", path, output, SETTINGS)
    shown = re.search(r"```json\n(.*?)\n```", output.read_text(), re.S)[1]
    assert json.loads(shown) == settings
