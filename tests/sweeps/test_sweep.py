"""Runs of a sweep: order, what is taken over, failures, and what the terminal says."""

from concurrent.futures import Future
from contextlib import contextmanager

import pytest
from here import Here

from helpers.config import InputError, from_parameters
from helpers.run.folder import STAGES, Run
from helpers.sweeps import engine, notebooks, plan, sweep

SHARE = engine.Share(threads=1)


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Replace the notebooks by records of them; return what was executed as (run, until)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "check", lambda given: (from_parameters(**given), given))
    calls = []

    def run(parameters, *, until):
        settings = from_parameters(**parameters)
        calls.append((settings.run, until))
        if settings.seed == 13:
            raise InputError("this seed brings no luck")
        if settings.seed == 14:
            raise ZeroDivisionError("nor does this one")
        folder = Run(settings.run_dir, settings)
        folder.path("notebooks/x").write_text("")
        done = {f"{n:02d}": {"fingerprint": "", "seconds": 60} for n in range(int(until or 5) + 1)}
        folder.note(notebooks.DONE, done)
        print(f"output of {settings.run}")

    def is_finished(settings, until=""):
        return until.zfill(2) in notebooks.seconds(settings) if until else (
            "05" in notebooks.seconds(settings))  # fmt: skip

    def take_over(source, target, until):
        calls.append((target.folder.name, f"takes {source.folder.name}"))
        target.path("notebooks/x").write_text("")
        target.note(notebooks.DONE, {n: {"fingerprint": "", "seconds": 60} for n in ("00", "02")})

    for function in (run, is_finished, take_over):
        monkeypatch.setattr(notebooks, function.__name__, function)
    return calls


def go(fields, **options):
    lines = []
    planned = plan.make_sweep({"name": "s", **fields})
    outcomes = sweep.run_sweep(planned, Here(), SHARE, 1, say=lines.append, **options)
    return {outcome.label: outcome for outcome in outcomes}, lines


def test_the_first_run_converts_and_the_others_take_over(executed):
    found, lines = go({"settings": {"dev_fraction": 0.0}, "grid": {"seed": [0, 1]}})
    assert executed == [
        ("seed-0", "02"), ("seed-1", "takes seed-0"), ("seed-1", ""), ("seed-0", "")
    ]  # fmt: skip
    assert {outcome.state for outcome in found.values()} == {"finished"}
    assert found["seed-1"].seconds == 360
    text = "\n".join(lines)
    assert "s: 2 runs, 0 of them done earlier; 1 at a time" in text
    assert "seed-1: takes over the conversion of seed-0" in text
    assert "seed-0: finished; 2 of 2 done, 0 failed" in text


@pytest.mark.fault("a run of a sweep that fails")
def test_a_failed_run_does_not_stop_the_others_and_is_repeated_on_request(executed, tmp_path):
    grid = {"grid": {"seed": [13, 0, 14]}}
    found, lines = go(grid)
    assert [outcome.state for outcome in found.values()] == ["failed", "finished", "failed"]
    assert found["seed-13"].reason == "this seed brings no luck"
    assert found["seed-14"].reason == "ZeroDivisionError: nor does this one"
    failure = tmp_path / "runs" / "s" / "seed-13" / "failure.txt"
    assert failure.read_text() == "this seed brings no luck\n"
    assert any("seed-13: failed (this seed brings no luck); " in line for line in lines)
    executed.clear()
    again, _ = go(grid)
    assert executed == []
    assert [(o.state, o.reason) for o in again.values()] == [
        ("failed", "this seed brings no luck"), ("finished", ""),
        ("failed", "ZeroDivisionError: nor does this one")]  # fmt: skip
    go(grid, retry=True)
    assert [label for label, _ in executed] == ["seed-13", "seed-14"]


def test_if_the_first_run_fails_the_others_convert_themselves(executed):
    fields = {"settings": {"dev_fraction": 0.0}, "grid": {"seed": [13, 0, 1]}}
    found, _ = go(fields)
    assert [outcome.state for outcome in found.values()] == ["failed", "finished", "finished"]
    assert ("seed-0", "") in executed and not any("takes" in what for _, what in executed)


def test_a_sweep_that_stops_at_a_notebook_does_not_go_further(executed):
    go({"until": "01", "grid": {"seed": [0, 1]}})
    assert executed == [("seed-0", "01"), ("seed-1", "01")]


def test_the_output_of_a_run_is_in_its_folder(executed, tmp_path, capsys):
    go({"grid": {"seed": [0]}})
    log = tmp_path / "runs" / "s" / "seed-0" / "log.txt"
    assert log.read_text() == "output of seed-0\n"
    assert capsys.readouterr().out == ""


def test_an_engine_that_gives_up_is_a_failed_run(executed, monkeypatch):
    class Broken(Here):
        def submit(self, *args):
            future = Future()
            future.set_exception(RuntimeError("four workers died"))
            return future

    planned = plan.make_sweep({"name": "s"})
    (outcome,) = sweep.run_sweep(planned, Broken(), SHARE, 1, say=lambda line: None)
    assert (outcome.state, outcome.reason) == ("failed", "RuntimeError: four workers died")


def test_without_held_out_questions_the_conversion_does_not_depend_on_the_seed(tmp_path):
    settings = from_parameters("mini", dev_fraction=0.0, seed=1, runs_dir=str(tmp_path))
    first = Run(settings.run_dir, settings)
    first.begin("data")
    first.finish("data", facts=1)
    other = Run(settings.run_dir, from_parameters("mini", dev_fraction=0.0, seed=2))
    assert other.noted("data", STAGES["data"].notebook) == {"facts": 1}
    split = Run(settings.run_dir, from_parameters("mini", seed=1))
    with pytest.raises(InputError, match="dev_fraction"):
        split.noted("data", STAGES["data"].notebook)


def test_a_copy_has_the_files_and_records_of_the_notebooks_and_nothing_else(tmp_path):
    one, two = (from_parameters("mini", run=n, runs_dir=str(tmp_path)) for n in ("one", "two"))
    source, target = Run(one.run_dir, one), Run(two.run_dir, two)
    for stage, name in (("data", "squad/train.json"), ("squad_step", "model/later.bin")):
        source.begin(stage)
        source.path(name).write_text("content")
        source.record(source.folder / name, stage)
    source._hashes["checkpoint"] = "0"
    source.finish("data")
    target.take_over(source, [STAGES["data"].notebook])
    manifest = target.manifest()
    assert list(manifest["files"]) == ["squad/train.json"] and list(manifest["notes"]) == ["data"]
    assert target.need("squad/train.json", "02").read_text() == "content"
    assert manifest["settings"]["run"] == "two"


@pytest.mark.fault("a worker that uses too much memory")
def test_a_run_that_uses_too_much_memory_is_named(executed, monkeypatch, tmp_path):
    class Small(engine.Share):
        @contextmanager
        def bounded(self):
            yield ["used 9.0 GB of memory"]

    monkeypatch.chdir(tmp_path)
    parameters = {"profile": "mini", "run": "r", "seed": 14}  # its kernel dies
    reason = sweep.execute(parameters, "", "s", str(tmp_path / "log.txt"), Small(1))
    assert reason == "used 9.0 GB of memory"


def test_a_squad_step_is_copied_once_and_completely(executed, tmp_path):
    fixed = {"squad_epochs": 1, "squad_file": "squad-train"}
    one, two = plan.make_sweep({"name": "s", "settings": fixed, "grid": {"epochs": [1, 2]}}).runs
    assert not two.take_over(one, plan.SQUAD_STEP)
    (one.folder / "training_squad").mkdir(parents=True)
    (one.folder / "training_squad" / "last.ckpt").write_text("weights")
    (two.folder / ".training_squad.part").mkdir(parents=True)
    (two.folder / ".training_squad.part" / "old").write_text("from an interrupted copy")
    assert two.take_over(one, plan.SQUAD_STEP)
    assert [p.name for p in (two.folder / "training_squad").iterdir()] == ["last.ckpt"]
    assert not two.take_over(one, plan.SQUAD_STEP)
    assert [p.name for p in two.folder.iterdir()] == ["training_squad"]
