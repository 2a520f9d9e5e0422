"""The run folder: what is recorded is found again, and what is stale is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import __version__
from helpers.config import InputError, Settings, from_parameters
from helpers.data import mini
from helpers.io import hold
from helpers.run import folder
from helpers.run.folder import Run


@pytest.fixture
def run(tmp_path):
    """A run whose folder exists."""
    run = Run.open(from_parameters(run="one", runs_dir=str(tmp_path / "runs"), seed=7))
    run._save(run.manifest())
    return run


def write(run: Run, name: str, content: bytes = b"content\n") -> Path:
    path = run.path(name)
    path.write_bytes(content)
    return path


def reopened(run: Run, /, **changes) -> Run:
    return Run.open(dataclasses.replace(run.settings, **changes))


def test_header_says_what_ran_where(run):
    data = json.loads((run.folder / "manifest.json").read_text(encoding="utf-8"))
    assert data["schema_version"] == 1
    assert data["kit"]["version"] == __version__
    assert (data["profile"], data["settings"]["seed"]) == ("mini", 7)
    assert data["settings"] == dataclasses.asdict(run.settings)
    assert data["packages"]["numpy"] and data["python"].startswith("3.")
    assert data["hardware"]["cores"] >= 1 and data["hardware"]["cpu"]
    assert datetime.fromisoformat(data["created"]).tzinfo == UTC
    assert data["files"] == {} and data["notes"] == {}


def test_record_then_need(run):
    path = write(run, "squad/train.json", b'{"data": []}')
    assert run.record(path, "02_bioasq_to_squad", pairs=12) == path
    entry = run.manifest()["files"]["squad/train.json"]
    assert (entry["bytes"], entry["made_by"], entry["pairs"]) == (12, "02_bioasq_to_squad", 12)
    assert entry["sha256"] == "0e67a643c152d6568c10b21764bb128950c9a0ca8453025af8562206ddc36457"
    assert datetime.fromisoformat(entry["made_at"]).tzinfo == UTC
    assert run.need("squad/train.json", "02_bioasq_to_squad") == path


def test_files_and_notes_outlive_a_second_opening(run):
    run.record(write(run, "a.txt"), "01_x")
    run.note("environment", {"folder": "somewhere"})
    created = run.manifest()["created"]
    again = reopened(run, seed=8)
    assert again.need("a.txt", "01_x").read_bytes() == b"content\n"
    assert again.noted("environment", "01_x") == {"folder": "somewhere"}
    assert again.manifest()["settings"]["seed"] == 8
    assert again.manifest()["created"] == created


@pytest.mark.fault("two processes at once")
def test_two_openings_do_not_lose_each_others_entries(run):
    other = reopened(run)
    run.record(write(run, "a.txt"), "01_x")
    other.record(write(run, "b.txt"), "02_y")
    run.note("k", 1)
    assert sorted(other.manifest()["files"]) == ["a.txt", "b.txt"]
    assert other.noted("k", "01_x") == 1


def test_missing_input_names_the_notebook(run):
    with pytest.raises(InputError, match=r"scores\.json: is missing; run notebook 05_re.* first"):
        run.need("scores.json", "05_reproduce_metrics")
    with pytest.raises(InputError, match="has no entry 'checkpoint'; run notebook 01_d"):
        run.noted("checkpoint", "01_download_checkpoint")
    write(run, "scores.json")
    with pytest.raises(InputError, match="exists but is not recorded; run notebook 05_x first"):
        run.need("scores.json", "05_x")


@pytest.mark.fault("a file of a run that was changed")
@pytest.mark.parametrize("content", [b"contend\n", b"content", b""])
def test_changed_file_is_refused(run, content):
    path = write(run, "a.txt")
    run.record(path, "02_x")
    path.write_bytes(content)
    with pytest.raises(InputError, match="no longer matches its recorded SHA-256; run notebook 02"):
        run.need("a.txt", "02_x")
    run.record(path, "02_x")
    assert run.need("a.txt", "02_x") == path


def test_deleted_file_is_refused(run):
    run.record(write(run, "a.txt"), "02_x").unlink()
    with pytest.raises(InputError, match="recorded but no longer exists; run notebook 02_x again"):
        run.need("a.txt", "02_x")


@pytest.mark.parametrize(
    "change", [{"profile": "bioasq-cpu"}, {"context": "abstract"}, {"bioasq_dir": "/data"}]
)
def test_file_of_other_data_is_refused(run, change):
    run.begin("data")
    run.record(write(run, "a.txt"), "data")
    run.finish("data")
    ((name, value),) = change.items()
    with pytest.raises(InputError, match=f"was made with {name}=.*now it is '{value}'"):
        reopened(run, **change).need("a.txt", "02_x")
    assert reopened(run, merge="max", epochs=1).need("a.txt", "02_x").exists()


def test_a_stage_is_finished_only_by_who_began_it_and_read_what_it_needs(run):
    for stage in ("checkpoint", "data", "squad_step"):
        run.begin(stage)
        run.finish(stage, {"/x/weights": "ab"} if stage == "checkpoint" else None, fact=stage)
    assert run.noted("data", "02_x") == {"fact": "data"}
    record = run.manifest()["notes"]["squad_step"]
    assert record["settings"]["seed"] == 7
    assert record["inputs"] == {"checkpoint": run.manifest()["notes"]["checkpoint"]["sha256"]}
    words = "'model' was not run from start to end.*run notebook 03_fine_tune from its first cell"
    with pytest.raises(InputError, match=words):
        run.finish("model")
    again = reopened(run, epochs=9)  # as when only the first cells are run again
    again.begin("model")
    with pytest.raises(InputError, match=words):
        again.finish("model")
    for stage in ("checkpoint", "data", "squad_step"):
        again.noted(stage, "03_fine_tune")
    again.finish("model")
    assert run.manifest()["notes"]["model"]["settings"]["epochs"] == 9
    with pytest.raises(InputError, match="'model' was made with epochs=9, but now it is 3; run"):
        run.noted("model", "03_fine_tune")


def test_the_same_again_is_the_same_stage_and_other_bytes_are_another(run):
    def made(content):
        run.begin("data")
        run.record(write(run, "squad/train.json", content), "data")
        run.finish("data")
        return run.manifest()["notes"]["data"]["sha256"]

    assert made(b"one") == made(b"one") != made(b"two")


def test_folders_are_recorded_and_checked_file_by_file(run):
    write(run, "model/hf/config.json")
    write(run, "model/hf/deep/vocab.txt")
    write(run, "model/hf-other.txt")
    run.record(run.folder / "model/hf", "03_fine_tune", epoch=3)
    files = run.manifest()["files"]
    assert sorted(files) == ["model/hf/config.json", "model/hf/deep/vocab.txt"]
    assert all(entry["epoch"] == 3 for entry in files.values())
    assert run.need("model/hf", "03_fine_tune") == run.folder / "model/hf"
    with pytest.raises(InputError, match="not recorded"):
        run.need("model/hf-other.txt", "03_fine_tune")
    (run.folder / "model/hf/deep/vocab.txt").write_bytes(b"other")
    with pytest.raises(InputError, match=r"vocab\.txt: no longer matches"):
        run.need("model/hf", "03_fine_tune")
    (run.folder / "model/hf/deep/vocab.txt").unlink()
    run.record(run.folder / "model/hf", "03_fine_tune")
    assert run.need("model/hf", "03_fine_tune").is_dir()


def test_all_settings_that_differ_are_named_at_once(run):
    for stage in ("checkpoint", "data", "squad_step", "model"):
        run.begin(stage)
        run.finish(stage)
    with pytest.raises(InputError) as refused:
        reopened(run, context="abstract", epochs=9, seed=8).noted("model", "03_fine_tune")
    text = str(refused.value)
    for change in ("context='snippet', but now it is 'abstract'", "epochs=3, but now it is 9",
                   "seed=7, but now it is 8"):  # fmt: skip
        assert text.count(change) == 1  # the seed decides three stages
    assert "run notebook 02_bioasq_to_squad and those after it again" in text
    assert text.endswith("another name and start with notebook 00")


def test_a_run_that_is_not_there_lists_those_that_are(run):
    run.point_latest()
    reopened(run, run="two").note("k", 1)
    run.point_latest()
    words = r"there is no run 'tow' here yet \(found: one, two\); run notebook 00 first"
    with pytest.raises(InputError, match=words):
        reopened(run, run="tow").need("squad/train.json", "02_bioasq_to_squad")


def test_what_cannot_be_recorded(run, tmp_path):
    (tmp_path / "outside.txt").write_text("x")
    (run.folder / "empty").mkdir()
    for path, words in {
        tmp_path / "outside.txt": "outside the run folder",
        run.folder / "nothing.txt": "it is not a file in the run folder",
        run.folder / "empty": "contains no files",
        run.folder: "it is not a file in the run folder",
        run.folder / "manifest.json": "it is not a file in the run folder",
    }.items():
        with pytest.raises(InputError, match=words):
            run.record(path, "02_x")
    for name in ("../x.txt", "a/../../x.txt", str(tmp_path / "x.txt")):
        with pytest.raises(InputError, match="outside the run folder"):
            run.path(name)
    assert run.manifest()["files"] == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", r"manifest\.json"),
        ("[]", "is not a run manifest"),
        ('{"files": {}}', "has schema version None, but this kit reads version 1"),
        (
            '{"files": {}, "schema_version": 99}',
            "has schema version 99, but this kit reads version 1",
        ),
    ],
)
def test_manifest_that_is_not_ours(run, content, words):
    (run.folder / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=words):
        reopened(run)
    assert (run.folder / "manifest.json").read_text() == content


def test_opening_a_run_makes_no_folder(tmp_path):
    run = Run.open(from_parameters(run="one", runs_dir=str(tmp_path / "runs")))
    assert run.manifest()["profile"] == "mini"
    for refused in (
        lambda: run.need("squad/train.json", "02_bioasq_to_squad"),
        lambda: run.noted("checkpoint", "01_download_checkpoint"),
    ):
        with pytest.raises(InputError, match=r"run notebook 0\w+ first"):
            refused()
    assert list(tmp_path.iterdir()) == []
    run.note("k", 1)
    assert json.loads((run.folder / "manifest.json").read_text())["settings"]["run"] == "one"


def test_latest_leads_to_the_newest_finished_run(run):
    link = run.folder.parent / "latest"
    assert not link.is_symlink()  # the run is open, not finished
    run.point_latest()
    assert link.is_symlink() and link.resolve() == run.folder.resolve()
    assert not Path(link.readlink()).is_absolute()  # so that runs/ can be moved
    two = reopened(run, run="two")
    two.note("k", 1)
    assert link.resolve() == run.folder.resolve()
    two.point_latest()
    assert link.resolve() == two.folder.resolve()
    assert sorted(p.name for p in run.folder.parent.iterdir()) == ["latest", "one", "two"]


def test_a_finished_run_that_goes_on_is_latest_no_more(run):
    run.point_latest()
    reopened(run)
    assert sorted(p.name for p in run.folder.parent.iterdir()) == ["one"]


def test_latest_is_a_text_file_where_links_are_refused(run, monkeypatch):
    def refuse(*_, **__):
        raise OSError("not allowed")

    text = run.folder.parent / "latest.txt"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "symlink_to", refuse)
        run.point_latest()
        assert text.read_text() == "one\n"
        reopened(run)
        assert not text.exists()
        run.point_latest()
    run.point_latest()
    assert not text.exists()


def test_a_folder_named_latest_is_left_alone(tmp_path):
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "precious.txt").write_text("keep")
    Run.open(Settings(run="one", runs_dir=str(tmp_path))).point_latest()
    assert (tmp_path / "latest" / "precious.txt").read_text() == "keep"
    assert (tmp_path / "latest.txt").read_text() == "one\n"
    for name in ("latest", "latest.txt"):
        with pytest.raises(InputError, match="is reserved for the link"):
            Run.open(Settings(run=name, runs_dir=str(tmp_path)))


def test_runs_folder_in_the_way(tmp_path):
    (tmp_path / "runs").write_text("a file")
    settings = Settings(run="one", runs_dir=str(tmp_path / "runs"))
    with pytest.raises(InputError, match="runs/one/manifest.json: .*runs"):
        Run.open(settings)
    with pytest.raises(InputError, match="cannot create its folder"):
        Run(settings.run_dir, settings).path("a.txt")


def test_gpu_names_come_from_torch_only_if_it_is_loaded(run, monkeypatch):
    cuda = SimpleNamespace(device_count=lambda: 1, get_device_name=lambda i: f"GPU number {i}")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert reopened(run).manifest()["hardware"]["gpus"] == ["GPU number 0"]
    monkeypatch.delitem(sys.modules, "torch")
    assert reopened(run).manifest()["hardware"]["gpus"] == ["GPU number 0"]
    assert reopened(run, run="two").manifest()["hardware"]["gpus"] is None


def test_importing_stays_light():
    code = (
        "import sys, helpers.run.folder, helpers.fetch;"
        "print([m for m in ('torch', 'nemo', 'transformers', 'matplotlib', 'requests')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@settings(max_examples=25, deadline=None)
@given(content=st.binary(max_size=200), other=st.binary(max_size=200))
def test_need_accepts_exactly_the_recorded_bytes(tmp_path_factory, content, other):
    folder = tmp_path_factory.mktemp("runs")
    run = Run(folder / "one", Settings(run="one", runs_dir=str(folder)))
    run._save({"schema_version": 1, "files": {}})
    path = run.record(write(run, "x.bin", content), "02_x")
    path.write_bytes(other)
    if other == content:
        assert run.need("x.bin", "02_x") == path
    else:
        with pytest.raises(InputError, match="no longer matches"):
            run.need("x.bin", "02_x")


def test_a_run_is_found_from_folders_below_and_is_not_changed(run, monkeypatch):
    before = (run.folder / "manifest.json").read_bytes()
    below = run.folder.parents[1] / "notebooks" / "exercises"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    run.point_latest()
    settings = from_parameters(run="one", seed=7)  # runs_dir is the relative default
    found = Run.find(settings)
    assert found.folder == run.folder and found.settings.run_dir == run.folder
    assert dataclasses.replace(found.settings, runs_dir="runs") == settings
    assert (run.folder / "manifest.json").read_bytes() == before
    assert (run.folder.parent / "latest").is_symlink()
    with pytest.raises(InputError, match=r"no run 'two' in the folder 'runs'.*\(found: one\)"):
        Run.find(dataclasses.replace(settings, run="two"))


def test_a_found_run_keeps_the_precision_that_was_chosen_for_it(run):
    run.note("compute", {"precision": "bf16"})
    assert Run.find(dataclasses.replace(run.settings, precision="auto")).settings.precision == (
        "bf16"
    )
    assert Run.find(run.settings).settings.precision == "32"


@pytest.mark.fault("two processes at once")
def test_two_processes_that_change_the_manifest_at_once_lose_nothing(run, monkeypatch):
    read = Run.manifest

    def slowly(self):
        known = read(self)
        time.sleep(0.01)  # without the lock, the others would read the same manifest now
        return known

    monkeypatch.setattr(Run, "manifest", slowly)
    others = [Run(run.folder, run.settings) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda n=n, one=one: [one.note(f"{n}-{k}", k) for k in range(5)])
        for n, one in enumerate(others)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(run.manifest()["notes"]) == {f"{n}-{k}" for n in range(4) for k in range(5)}


@pytest.mark.fault("two processes at once")
def test_a_manifest_that_stays_locked_is_one_line(run, monkeypatch):
    monkeypatch.setattr(folder, "_PATIENCE", 0)
    with hold(run.folder / ".manifest.lock"), pytest.raises(InputError, match="another process"):
        run.note("key", 1)
    run.note("key", 1)


def test_files_of_bioasq_mini_are_found_in_a_moved_clone(run, tmp_path):
    """Their paths in the manifest are those of the clone in which the run was made."""
    own = tmp_path / "BioASQ-mini-PhaseB-testset1.json"
    own.write_text("{}")
    shipped = min(path.name for path in mini.DATA.glob("*.json"))
    golds = [f"/old/kit/src/helpers/mini_data/{shipped}", "/gone/7B1_golden.json"]
    run.begin("data")
    run.finish("data", golds=[*golds, str(own)], tests=[], batches=["a", "b", "c"])
    found = run.noted("data", "02_bioasq_to_squad")
    assert found["golds"] == [str(mini.DATA / shipped), "/gone/7B1_golden.json", str(own)]
    assert found["batches"] == ["a", "b", "c"]
