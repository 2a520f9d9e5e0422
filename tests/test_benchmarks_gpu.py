"""The GPU benchmark with tiny sizes on a CPU; stand-ins play the GPU and its attention kernel."""

import json
import shutil
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from kernel import varlen_attn

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import gpu
import gpu_check
import gpu_common
import gpu_data
import gpu_recipe
import gpu_speed

from helpers.config import Settings
from helpers.model import training
from helpers.model.compute import Compute
from helpers.model.encoder import EncoderConfig

ROOT = Path(__file__).parents[1]
TINY = ["--device", "cpu", "--layers", "1", "--hidden", "64", "--rows", "24", "--words", "400",
        "--tokens", "512"]  # fmt: skip
MODULES = (gpu, gpu_check, gpu_common, gpu_recipe, gpu_speed)
GPU_PATHS = gpu_common.PATHS["cuda"]


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, later):
        return 1e3 * (later.at - self.at)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """The script sets this variable, which other tests must not see."""
    monkeypatch.setenv("HELPERS_OFFLINE", "1")


@pytest.fixture
def fake_gpu(monkeypatch):
    """Let the script treat the CPU as a GPU; return what it asked of ``torch.cuda``."""
    asked = Counter()

    def note(name, result=None):
        def answer(*args):
            asked[(name, *(a for a in args if isinstance(a, str)))] += 1
            return result

        return answer

    properties = SimpleNamespace(name="Test GPU", major=9, minor=0, total_memory=8e10)
    answers = {"synchronize": None, "reset_peak_memory_stats": None, "memory_allocated": 10**9,
               "max_memory_allocated": 3 * 10**9, "get_device_capability": (9, 0),
               "set_sync_debug_mode": None, "get_device_properties": properties}  # fmt: skip
    for name, result in answers.items():
        monkeypatch.setattr(torch.cuda, name, note(name, result))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    for module in MODULES:
        monkeypatch.setattr(module, "is_cuda", lambda device: True)
    monkeypatch.setitem(gpu_common.PATHS, "cpu", GPU_PATHS)
    monkeypatch.setitem(training.LIGHTNING, "16", "bf16-mixed")  # Lightning has none for a CPU
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    return asked


@pytest.fixture
def quick(monkeypatch):
    """Make texts short and models small, and measure each method once."""
    short = {"snippet": (8, 0.5, 30), "abstract": (20, 0.3, 60)}
    monkeypatch.setattr(gpu_data, "_WORDS", short)
    original = gpu_check._check_model

    def smaller(run, name, config, lengths):
        return original(run, name, replace(config, layers=1, hidden=64, heads=1), (5, 17, 17))

    monkeypatch.setattr(gpu_check, "_check_model", smaller)
    monkeypatch.setattr(gpu_speed, "_ROUNDS", 1)
    monkeypatch.setattr(gpu_speed, "_ROUND_SECONDS", 0.0)
    monkeypatch.setattr(gpu_recipe, "_LEAST", 2)


def run(folder, parts, *more, seconds="60"):
    code = gpu.main([*TINY, "--parts", parts, "--seconds", seconds, "--output", str(folder), *more])
    found = json.loads((folder / "gpu.json").read_text())
    return code, found, (folder / "gpu.log").read_text()


def test_every_path_and_precision_is_compared_with_the_cpu(tmp_path, fake_gpu, quick):
    code, found, log = run(tmp_path, "check")
    rows = found["parts"]["check"]["rows"]
    assert code == 0 and found["failed"] == 0 and "FAIL" not in log
    assert {(r["attention"], r["precision"]) for r in rows} >= set(GPU_PATHS)
    assert all(r["errors"][name] <= r["tolerances"][name] for r in rows for name in r["errors"])
    half = [r for r in rows if r["precision"] == "bf16" and "gradients" in r["errors"]]
    assert all(r["errors"]["gradients"] > 1e-4 for r in half)  # something was really computed
    loops = [r for r in rows if "losses" in r]
    assert len(loops) == 6 and all(len(r["losses"]) == 4 for r in loops)
    assert found["facts"]["gpu"] == "Test GPU"


def test_a_wrong_kernel_fails(tmp_path, fake_gpu, quick, monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lambda q, k, v, *layout: v)
    code, found, log = run(tmp_path, "check")
    failed = [row for row in found["parts"]["check"]["rows"] if not row["passed"]]
    assert code == 1 and failed and "worst gradient" in log
    assert found["failed"] == log.count("FAIL") == len(failed)
    assert {row["attention"] for row in failed} == {"variable length"}


def test_an_old_gpu_is_only_asked_for_what_it_has(fake_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    old = gpu_common.Run(SimpleNamespace(), torch.device("cpu"))
    assert old.paths() == [("padded", "32"), ("padded", "16")] and old.fast() == "16"


def test_synchronizations_are_counted_with_their_places(tmp_path, fake_gpu, monkeypatch):
    """The stand-in for PyTorch warns as PyTorch does, at a copy of the logits and in the loop."""
    on = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: on.append(mode))
    original = training.gather

    def gather(*part):
        if on and on[-1] == "warn":
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)
        return original(*part)

    monkeypatch.setattr(training, "gather", gather)
    code, found, log = run(tmp_path, "sync")
    places = found["parts"]["sync"]["found"]
    assert code == 0 and places["a training step, with the copy of its batch"] == {}
    ((place, count),) = places["two steps of Lightning's loop"].items()
    assert "test_benchmarks_gpu.py" in place and "from helpers/model/training.py" in place
    assert count >= 1 and "/tmp" not in place and place in log
    assert on[-1] == "default" and on.count("warn") == 3


@pytest.mark.parametrize("on_gpu", [True, False])
def test_speed_and_memory_against_transformers(tmp_path, request, quick, on_gpu):
    if on_gpu:
        request.getfixturevalue("fake_gpu")
    code, found, log = run(tmp_path, "speed")
    part = found["parts"]["speed"]
    rows = part["rows"]
    assert code == 0 and part["complete"] and "PASS transformers' BERT with the same weights" in log
    kinds = {(r["mode"], r["context"]) for r in rows}
    assert kinds == {(m, c) for m in ("training", "prediction") for c in ("abstract", "snippet")}
    methods = {r["method"] for r in rows if r["mode"] == "training"}
    assert methods >= {"unpadded, bf16", "padded, bf16", "unpadded, bf16, checkpointing",
                       "transformers, bf16", "padded, 32"}  # fmt: skip
    assert ("padded, tf32" in methods) == on_gpu
    assert all((r["memory_gb"] is None) != on_gpu for r in rows)
    assert on_gpu == any(r.get("predicted_gb", 0) > 0 for r in rows)
    assert all(r["tokens_per_second"] > 0 and r["share_of_peak"] > 0 for r in rows)
    assert (tmp_path / "gpu.png").stat().st_size > 10_000


def test_a_method_without_memory_is_left_out_and_the_others_go_on(tmp_path, quick, monkeypatch):
    original = gpu_speed.step.take_step

    def fail(net, batch, optimizer, compute):
        if compute.precision == "32":
            raise RuntimeError("CUDA out of memory")
        return original(net, batch, optimizer, compute)

    monkeypatch.setattr(gpu_speed.step, "take_step", fail)
    code, found, log = run(tmp_path, "speed")
    methods = {r["method"] for r in found["parts"]["speed"]["rows"] if r["mode"] == "training"}
    assert code == 0 and "padded, 32: out of memory" in log
    assert "padded, 32" not in methods and "padded, bf16" in methods


def test_the_recipe_stops_in_time_and_says_what_is_extrapolated(tmp_path, fake_gpu, quick):
    code, found, log = run(tmp_path, "recipe", seconds="0")
    part = found["parts"]["recipe"]
    assert code == 0 and log.count("EXTRAPOLATED from 2 of") == 3
    first = part["training"][0]
    assert (first["precision"], first["dropout"], first["finished"]) == ("32", 0.1, False)
    assert first["steps"] == -(-part["windows"] // 12) * 5 and first["save_seconds"] > 0
    median = first["median_step_ms"] / 1e3
    expected = first["steps"] * median + 10 * first["save_seconds"]
    assert first["minutes"] == pytest.approx(expected / 60) and first["memory_gb"] == 3
    assert len(part["prediction"][0]["seconds"]) == 5


def test_a_recipe_with_enough_time_is_measured_to_the_end(tmp_path, quick):
    code, found, log = run(tmp_path, "recipe", seconds="600")
    rows = found["parts"]["recipe"]["training"]
    assert code == 0 and log.count("(measured)") == 3 and "EXTRAPOLATED" not in log
    assert all(r["measured_steps"] == r["steps"] == len(r["losses"]) for r in rows)
    assert all(r["memory_gb"] is None for r in rows)


def test_nemo_and_the_kit_without_it_give_the_same_losses(tmp_path):
    code, found, _ = run(tmp_path, "nemo")
    part = found["parts"]["nemo"]
    assert code == 0 and part["error"] == 0 and part["losses"]["NeMo"][0] > 1


def test_without_nemo_its_part_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_recipe.importlib.util, "find_spec", lambda name: None)
    code, found, log = run(tmp_path, "nemo")
    assert code == 0 and found["parts"]["nemo"]["skipped"] and "skipped" in log
    assert not (tmp_path / "gpu.png").exists()


def test_compiled_layers_are_compared_with_eager_ones(tmp_path, quick, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda f, dynamic: compiled.append(f) or f)
    code, found, _ = run(tmp_path, "compile")
    methods = [row["method"] for row in found["parts"]["compile"]["rows"]]
    assert code == 0 and len(compiled) == 1
    assert methods == ["unpadded, bf16, eager"] * 2 + ["unpadded, bf16, compiled"] * 2
    _, found, log = run(tmp_path, "compile", seconds="5")
    assert "no time left to compile" in log and len(compiled) == 1


def test_a_part_that_breaks_is_recorded_and_the_next_one_runs(tmp_path, monkeypatch):
    def broken(run):
        raise RuntimeError("an illegal memory access")

    monkeypatch.setitem(gpu.PARTS, "check", (broken, 1))
    monkeypatch.setitem(gpu.PARTS, "sync", (lambda run: {"seen": run.left() > 0}, 1))
    code, found, log = run(tmp_path, "check,sync")
    assert code == 1 and "Traceback" in log
    assert found["parts"]["check"]["error"] == "RuntimeError: an illegal memory access"
    assert found["parts"]["sync"]["seen"]


@pytest.mark.parametrize("abstracts", [True, False])
def test_files_of_the_user_are_read_with_their_abstracts_if_there_are_any(tmp_path, abstracts):
    from helpers.data.mini import DATA

    for path in DATA.iterdir():
        if abstracts or "abstract" not in path.name:
            shutil.copy(path, tmp_path)
    data, notes = gpu_data.real(str(tmp_path))
    assert data.context == ("abstract" if abstracts else "snippet") and len(data.tests) > 1
    assert any("no training file with abstracts" in note for note in notes) != abstracts
    assert "was trained on the training texts" in notes[-1]
    config = EncoderConfig(vocab_size=len(data.vocab), hidden=64, layers=1, heads=1)
    reader = data.reader(gpu_data.random_model(config, "cpu"), Settings(), Compute())
    windows = reader.windows(data.train, training=True)
    assert len(windows) and (windows.ids != data.vocab.index("[UNK]")).mean() > 0.99
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(data.vocab) + "\n")
    again, notes = gpu_data.real(str(tmp_path), vocab)
    assert again.vocab == data.vocab and "was trained" not in " ".join(notes)


@pytest.mark.parametrize(("context", "mean"), [("snippet", 73), ("abstract", 336)])
def test_synthetic_texts_have_the_stated_lengths(context, mean):
    data = gpu_data.synthetic(context, rows=600)
    config = EncoderConfig(vocab_size=len(data.vocab), hidden=64, layers=1, heads=1)
    reader = data.reader(gpu_data.random_model(config, "cpu"), Settings(), Compute())
    windows = reader.windows(data.train, training=True)
    assert windows.lengths.mean() == pytest.approx(mean, rel=0.07)
    assert len(data.tests) == 5 and len(windows) >= 600
    for example in data.train[:20]:
        (span,) = example.spans
        assert example.context[span.start : span.end] == span.text
    assert (windows.end >= windows.start).all() and (windows.start > 0).mean() > 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "a"], "--parts: 'a' is not one of check, sync"),
        (["--hidden", "100"], "--hidden: 100 is not a multiple of 64"),
        (["--device", "cuda"], "--device: PyTorch finds no CUDA GPU"),
    ],
)
def test_mistakes_in_the_command_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu.main([*TINY, *arguments])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_it_runs_without_nemo_and_the_kit_s_other_packages(tmp_path):
    """It needs only torch, transformers, tokenizers, safetensors, Lightning and their packages."""
    hidden = ["nemo", "wandb", "psutil", "requests"]
    code = f"""
import sys
import lightning, transformers  # they adapt to what is installed
sys.modules.update(dict.fromkeys({hidden}))  # None: not installed
sys.path.append({str(ROOT / "benchmarks")!r})
import gpu
sys.exit(gpu.main({
        [*TINY, "--parts", "sync,recipe,nemo", "--seconds", "1", "--output", str(tmp_path)]
    }))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert parts["nemo"]["skipped"] and len(parts["recipe"]["training"]) == 3
