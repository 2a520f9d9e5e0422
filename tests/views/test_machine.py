"""The check of the machine: what it reports, and that it never fails itself."""

import shutil
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from helpers.config import from_parameters
from helpers.fetch.registry import REGISTRY
from helpers.views import machine

ROOT = Path(__file__).resolve().parents[2]
Version = namedtuple("Version", "major minor micro")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HELPERS_OFFLINE", raising=False)
    monkeypatch.setattr(machine, "_gpu", lambda settings: [])
    return tmp_path / "cache"


@pytest.fixture
def rows(tmp_path):
    """``rows(**parameters)`` returns the report as a dict: what -> row."""

    def look(**parameters):
        settings = from_parameters(runs_dir=str(tmp_path / "runs"), **parameters)
        found = machine.report(settings)
        assert len({row.what for row in found}) == len(found)
        return {row.what: row for row in found}

    return look


def test_every_row_is_filled_in_and_every_failure_has_a_remedy(rows):
    found = rows(bioasq_dir="/no/such/folder")
    for row in found.values():
        assert row.found and row.what
        assert row.ok or row.remedy
    assert not found["BioASQ folder"].ok


def test_the_check_writes_nothing(rows, tmp_path, own_cache):
    rows()
    assert not (tmp_path / "runs").exists() and not own_cache.exists()


def test_torch_and_nemo_are_not_imported():
    code = (
        "import sys; from helpers.views import machine; from helpers.config import Settings; "
        "machine.report(Settings()); "
        "print([m for m in ('torch', 'nemo', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "src"
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("version", "ok"), [((3, 10, 9), False), ((3, 11, 0), True), ((3, 13, 0), False)]
)
def test_python(version, ok, rows, monkeypatch):
    monkeypatch.setattr(machine.sys, "version_info", Version(*version))
    assert rows()["Python"].ok is ok


@pytest.mark.parametrize(
    ("found", "pin", "ok"),
    [
        ("2.13.0", "2.13.0", True),
        ("2.13.0+cpu", "2.13.0", True),
        ("2.13.1", "2.13.0", False),
        ("1.0", None, True),
        (None, "2.13.0", False),
        (None, None, False),
    ],
)
def test_a_package_against_its_pin(found, pin, ok, monkeypatch):
    def version(name):
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    row = machine._package("torch", pin)
    assert row.ok is ok
    assert bool(row.remedy) is not ok


def test_pins_are_read_among_other_lines(tmp_path):
    (tmp_path / "a.txt").write_text("# comment a==1\n\nNeMo_toolkit[common]==3.0.0  # why\nb>=2\n")
    (tmp_path / "b.txt").write_text("Torch==2.13.0 ; x \\\n    --hash=sha256:1==2")
    assert machine.read_pins(tmp_path) == {"nemo-toolkit": "3.0.0", "torch": "2.13.0"}
    assert machine.read_pins(tmp_path / "none") == {}


def test_the_locks_pin_every_package_that_is_checked():
    pins = machine.read_pins(ROOT / "locks")
    assert {machine._plain(name) for name in machine.PACKAGES} <= set(pins)


def test_a_full_disk(rows, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9, 9, 1000))
    found = rows()
    assert not found["disk for the run"].ok and not found["disk for the cache"].ok
    assert found["disk for the run"].found == "less than 0.1 GB free"


def test_a_large_model_needs_more_disk_and_memory(rows):
    small, large = rows(), rows(profile="biomegatron", bioasq_dir="none")
    assert (small["disk for the run"].needed, large["disk for the run"].needed) == (
        "1.0 GB",
        "12.0 GB",
    )
    assert small["memory"].needed.startswith("4.0 GB") and large["memory"].needed.startswith(
        "8.0 GB"
    )


def test_a_gpu_that_the_settings_ask_for_must_be_there(monkeypatch):
    monkeypatch.undo()  # the real check, which the other tests replace
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (auto,) = machine._gpu(from_parameters())
    (asked,) = machine._gpu(from_parameters(device="cuda:1"))
    assert auto.ok and not asked.ok
    assert asked.needed == "device=cuda:1" and "set device=auto" in asked.remedy


def test_a_run_folder_that_is_not_writable(rows, monkeypatch, tmp_path):
    def refuse(dir):
        raise PermissionError(13, "denied", str(dir))

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    found = rows()
    assert not found["run folder"].ok and "HELPERS_CACHE" in found["cache"].remedy


def test_the_cache_is_searched_for_the_model(rows, own_cache, monkeypatch):
    assert rows()["model"].ok and "notebook 01" in rows()["model"].remedy
    monkeypatch.setenv("HELPERS_OFFLINE", "1")
    monkeypatch.setattr(machine, "_is_packaged", lambda entry: False)
    offline = rows()
    assert not offline["model"].ok and "HELPERS_OFFLINE" in offline["model"].remedy
    (own_cache / "minilm").mkdir(parents=True)
    for file in REGISTRY["minilm"].files:
        with open(own_cache / "minilm" / file.name, "wb") as stream:
            stream.truncate(file.bytes)
    found = rows()
    assert found["model"].ok and not found["model"].remedy
    assert found["disk for the cache"].needed == "nothing more"


def test_a_path_as_model(rows, tmp_path):
    assert rows(model=str(tmp_path))["model"].ok
    assert not rows(model=str(tmp_path / "none.nemo"))["model"].ok


@pytest.mark.parametrize("name", ["MiniLM", "dmis-lab/biobert-base-cased-v1.1-squad"])
def test_a_model_name_in_any_case_or_on_the_hub(rows, name):
    assert rows(model=name)["model"].ok


def test_the_kernel_is_reported_and_compared_with_the_clones_own(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    row = rows()["kernel"]
    assert row.found == sys.executable and row.ok and not row.remedy
    (tmp_path / ".venv").mkdir()
    assert str(tmp_path / ".venv") in rows()["kernel"].remedy
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert not rows()["kernel"].remedy


def test_data(rows, tmp_path, save):
    assert rows()["BioASQ-mini"].ok
    (tmp_path / "bioasq").mkdir()
    row = rows(bioasq_dir=str(tmp_path / "bioasq"))["BioASQ folder"]
    assert not row.ok and "7B1_golden.json" in row.remedy
    save("bioasq/training7b.json", {"questions": []})
    save("bioasq/7B1_golden.json", {"questions": []})
    row = rows(bioasq_dir=str(tmp_path / "bioasq"))["BioASQ folder"]
    assert row.ok and "more snippets" in row.remedy


def test_an_unusual_platform_gets_unknown_rows(rows, monkeypatch):
    monkeypatch.delattr(machine.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: (_ for _ in ()).throw(OSError("odd")))
    found = rows()
    assert found["CPU cores"].found == "unknown"
    assert found["disk"].ok and "odd" in found["disk"].found


def test_gpu_rows_come_from_nvidia_smi(monkeypatch):
    monkeypatch.undo()
    settings = from_parameters()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert next(machine._gpu(settings)).found == "none"
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/nvidia-smi")

    def answer(code, out):
        done = subprocess.CompletedProcess([], code, out, "")
        monkeypatch.setattr(subprocess, "run", lambda *args, **more: done)
        return next(machine._gpu(settings))

    assert answer(0, "Card A, 9 MiB\nCard B, 9 MiB\n").found == "Card A, 9 MiB; Card B, 9 MiB"
    assert answer(9, "No devices were found").found == "none"

    def hang(*args, **more):
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr(subprocess, "run", hang)
    row = next(machine._gpu(settings))
    assert row.ok and "unknown" in row.found


def test_the_map_names_the_notebooks_that_exist():
    there = {path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    assert there <= {step.notebook for step in machine.NOTEBOOKS}
