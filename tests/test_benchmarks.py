"""Every benchmark runs with tiny sizes; both sides agree; JSON files, plots and page are whole."""

import importlib.util
import json
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.model.compute import bf16_instructions
from helpers.model.decoding import Candidate
from helpers.model.features import make_windows

FOLDER = Path(__file__).parents[1] / "benchmarks"
TINY = ["--size", "1x64", "--rounds", "2", "--bioasq-dir", ""]


@pytest.fixture(scope="module", autouse=True)
def folder():
    """Python puts a script's own folder first in its path."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def load(name):
    """A benchmark as a module, under a name that no package has."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def quick(monkeypatch, folder):
    """Make the measurement of the matmul peak short."""
    import common

    peak = common.matmul_peak
    monkeypatch.setattr(common, "matmul_peak", lambda kind: peak(kind, seconds=0.02))
    return common


def run(name, output, *words):
    """Run a benchmark. A process that it starts for one part of its work runs in this process."""
    module = load(name)

    def in_this_process(command, **_):
        if command[1] != str(FOLDER / f"{name}.py"):
            return subprocess.run(command, **_)
        with redirect_stdout(StringIO()) as printed:
            assert not module.main(command[2:])
        return SimpleNamespace(stdout=printed.getvalue())

    if hasattr(module, "subprocess"):
        pipe = {"PIPE": subprocess.PIPE, "run": in_this_process}
        module.subprocess = SimpleNamespace(**pipe)
    assert module.main([*words, "--output", str(output)]) == 0
    (path,) = output.glob(f"{name}*.json")
    assert path.with_suffix(".png").stat().st_size > 5000
    return json.loads(path.read_text())


def names(found, rounds=2):
    for row in found["rows"]:
        assert len(row["seconds"]) == rounds and min(row["seconds"]) > 0 and row["work"] > 0
    return [row["name"] for row in found["rows"]]


def test_papermill_alone_executes_the_notebooks_of_the_sweep(tmp_path, monkeypatch):
    module, executed = load("sweep_overhead"), []

    def execute(path, output, given, **rest):
        executed.append((Path(path).stem[:2], given["seed"]))

    monkeypatch.setattr(module.papermill, "execute_notebook", execute)
    module.bare(SimpleNamespace(runs=2, until="01"), tmp_path)
    assert executed == [("00", 0), ("01", 0), ("00", 1), ("01", 1)]


@pytest.mark.parametrize("name", ["training_step", "prediction"])
def test_ours_and_transformers_agree_and_are_timed(name, quick, tmp_path):
    found = run(name, tmp_path, *TINY, "--pairs", "20")
    rows = names(found)
    assert [row.split(":")[0] for row in rows] == [
        "run_qa", "run_qa with transformers 5", "transformers, random batches",
        "transformers at its best", "ours, float32",
        *["ours, bf16 autocast"] * bool(bf16_instructions()),
    ]  # fmt: skip
    assert "difference" in found["checks"][0]
    assert all(0 < share < 2 for row in found["rows"] for share in row["share"])
    assert [f["floor"] for f in found["figures"]] == [None] * (5 + bool(bf16_instructions()))
    assert found["command"] == f"python benchmarks/{name}.py --rounds 2 --pairs 20 --size 1x64"


def test_a_model_with_other_weights_is_not_timed(quick, tmp_path, monkeypatch, capsys):
    import peers

    original = peers.bert

    def changed(reader):
        model = original(reader)
        with torch.no_grad():
            model.qa_outputs.weight[0, 0] += 0.5
        return model

    monkeypatch.setattr(peers, "bert", changed)
    for name in ("training_step", "prediction"):
        assert load(name).main([*TINY, "--pairs", "8", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("nothing was timed") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("installed", [True, False])
def test_features_and_nbest_agree_with_run_qa(installed, quick, tmp_path, monkeypatch):
    if not installed:
        monkeypatch.setitem(sys.modules, "datasets", None)  # importing it fails
    words = ["--rounds", "2", "--bioasq-dir", "", "--pairs", "24"]
    features = run("features", tmp_path, *words)
    assert "the same tokens and targets for 24 of 24 pairs" in features["checks"][0]
    assert "the same tokens for 24 of 24 pairs" in features["checks"][1]
    nbest = run("nbest", tmp_path, *words, "--size", "1x64")
    assert "24 of 24 pairs have the same best span" in nbest["checks"][0]
    assert len(names(features)) == 4 + 2 * installed
    assert names(nbest) == ["run_qa, datasets"] * installed + ["run_qa, plain lists", "ours"]
    for found in (features, nbest):
        assert any("not installed" in note for note in found["notes"]) != installed


def test_different_features_and_spans_are_found(folder):
    import common

    features, nbest = load("features"), load("nbest")
    data = common.read_data(common.options("features.py", "").parse_args(["--bioasq-dir", ""]))
    examples, tokenizer = data.train[:5], common.load_reader().tokenizer
    windows = make_windows(examples, tokenizer, training=True)
    parts = np.split(windows.ids, windows.bounds[1:-1])
    theirs = {
        "input_ids": [[*ids, 0] for ids in parts],
        "attention_mask": [[1] * len(ids) + [0] for ids in parts],
        "start_positions": windows.start.tolist(),
        "end_positions": windows.end.tolist(),
    }
    assert "5 of 5" in features.compare(windows, theirs, range(5))
    theirs["end_positions"][2] += 1
    with pytest.raises(common.InputError, match="4 of 5"):
        features.compare(windows, theirs, range(5))
    mine = [[Candidate("TNF", 0, 3, 1.0, 2.0, 1.0)]]
    with pytest.raises(common.InputError, match="0 of 1"):
        nbest.compare(
            mine, {"0": [{"text": "TNF", "start_logit": 1.0, "end_logit": 1.5}]}, examples[:1]
        )


def test_run_qa_marks_the_answer_of_each_window(folder):
    """Our version of run_qa's functions, on cases worked out by hand."""
    import peers

    offsets = [(0, 0), (0, 4), (0, 0), (0, 3), (4, 8), (9, 12), (0, 0), (0, 0)]
    sequence = [None, 0, None, 1, 1, 1, None, None]
    assert peers._answer_tokens(offsets, sequence, 4, 8, 0) == (4, 4)
    assert peers._answer_tokens(offsets, sequence, 0, 8, 0) == (3, 4)
    assert peers._answer_tokens(offsets, sequence, 9, 15, 0) == (0, 0)  # cut off
    assert peers._answer_tokens(offsets, sequence, 9, 12, 0) == (7, 5)  # run_qa's slip
    rows = [{"id": "a", "context": "one two three"}]
    marks = [None, (0, 3), (4, 7), (8, 13), None]
    start = np.array([[9.0, 1.0, 3.0, 0.0, 5.0]])
    end = np.array([[9.0, 0.0, 1.0, 2.0, 5.0]])
    found = peers.postprocess(rows, [{"example_id": "a", "offset_mapping": marks}], (start, end), 3)
    only = {"start_logit": 3.0, "end_logit": 2.0, "text": "two three", "probability": 1.0}
    assert found == {"a": [only]}


def test_work_grows_and_the_page_shows_everything(quick, tmp_path, capsys):
    found = run("cost_growth", tmp_path, "--size", "1x64", "--most", "100", "--bioasq-dir", "")
    assert [(row["work"], len(row["seconds"])) for row in found["rows"]] == [(10, 1), (100, 1)]
    assert all(row["memory_gib"] > 0 for row in found["rows"])
    found = run("conversion_speed", tmp_path, "--rounds", "1", "--most", "3", "--megabytes", "1",
                "--bioasq-dir", "")  # fmt: skip
    assert found["rows"][-1]["work"] > 1000 and found["rows"][-1]["memory_gib"] > 0.01
    page = tmp_path / "page.md"
    assert quick.main(["--table", str(tmp_path), "--to", str(page)]) == 0
    text = page.read_text()
    assert text.index("## conversion_speed") < text.index("## cost_growth-1x64")
    assert text.count("| 100 windows |") == 1 and str(tmp_path) not in text
    assert "](cost_growth-1x64.png)" in text
    assert quick.main(["--table", str(tmp_path / "none")]) == 2
    assert "run a benchmark with --output" in capsys.readouterr().err


def test_all_methods_load_the_same_weights(tmp_path):
    found = run("load_checkpoint", tmp_path, "--size", "1x64", "--rounds", "1")
    assert len(names(found, rounds=1)) == 4
    assert all(row["memory_gib"] >= 0 for row in found["rows"])


def test_floors_apply_to_minilm_on_7b_snippets_only(quick, capsys):
    parser = quick.options("prediction.py", "", pairs=1, model=True)
    rows = [{"name": "ours", "work": 2, "precision": "32", "seconds": [1.0, 2.0]}]
    data = quick.Data("BioASQ 7b", "snippet", (), ())
    figures = {"speedup over run_qa": [9.0, 11.0, 13.0], "share of the matmul peak": [0.5]}

    def report(*words):
        def body(parsed):
            result.update(
                quick.report(parsed, unit="window", data=data, rows=rows, figures=figures)
            )

        result = {}
        assert quick.call(body, parser, list(words)) == 0
        return [figure["reached"] for figure in result["figures"]]

    level = torch.backends.cpu.get_cpu_capability()
    known = level in ("AVX512", "AVX2")
    assert report() == ([True, False] if known else [None, None])
    printed = capsys.readouterr().out
    if level == "AVX512":
        assert "floor 10.0, measured 11.0: reached" in printed
        assert "floor 80%, measured 50%: NOT reached" in printed
    assert report("--size", "1x64") == [None, None]
    assert "no floors" in capsys.readouterr().out


def test_operations_are_those_that_pytorch_counts(quick):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from helpers.model.encoder import EncoderConfig, SpanModel
    from helpers.model.features import Batch

    config = EncoderConfig(vocab_size=9, hidden=8, layers=2, heads=2, feed_forward=24, positions=9)
    lengths = (5, 5)
    zeros = torch.zeros(10, dtype=torch.long)
    batch = Batch.pack(zeros, zeros, torch.arange(5).repeat(2), lengths, zeros[:2], zeros[:2])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        SpanModel(config)(batch)
    assert quick.forward_flops(config, np.array(lengths)) == counter.get_total_flops()
