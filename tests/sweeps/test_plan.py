"""A sweep file: which runs it means, what is refused, what can be taken over, what it will cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.config import ROOT, InputError, from_parameters
from helpers.run.folder import Run
from helpers.sweeps import notebooks, plan


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "check", lambda given: (from_parameters(**given), given))
    return tmp_path


def labels(**fields):
    return [run.label for run in plan.make_sweep({"name": "s", **fields}).runs]


def test_a_grid_is_crossed_and_single_runs_are_added_once():
    grid = {"learning_rate": [6e-5, "2e-4"], "seed": [0, 1]}
    runs = [{"learning_rate": 2e-4, "seed": 1}, {"learning_rate": 6e-4, "seed": 0}]
    assert labels(grid=grid, runs=runs) == [
        "learning_rate-6e-05_seed-0", "learning_rate-6e-05_seed-1",
        "learning_rate-0.0002_seed-0", "learning_rate-0.0002_seed-1",
        "learning_rate-0.0006_seed-0",
    ]  # fmt: skip
    assert labels() == ["run"]
    assert labels(runs=[{"model": "a/b c.nemo"}]) == ["model-b-c.nemo"]


def test_a_file_is_read_with_its_name_as_the_default(place):
    path = place / "rates.yaml"
    path.write_text("until: 03\nsettings: {epochs: 2}\ngrid:\n  learning_rate: [6e-5, 1]\n")
    sweep = plan.read_sweep(path)
    assert (sweep.name, sweep.until, len(sweep.runs)) == ("rates", "03", 2)
    first = sweep.runs[0].settings
    assert (first.learning_rate, first.epochs, first.profile) == (6e-5, 2, "mini")
    assert sweep.runs[0].folder == place / "runs" / "rates" / "learning_rate-6e-05"
    assert sweep.folder == place / "runs" / "rates"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {learning_rat: [1]}", "did you mean 'learning_rate'"),
        ("grid: {epochs: [two]}", "'two' is not a whole number"),
        ("grid: {epochs: [0]}", "epochs must be at least 1"),
        ("grid: {epochs: 3}", "grid: epochs: must be a list"),
        ("grid: {epochs: []}", "grid: epochs: must be a list"),
        ("grid: [1]", "grid: must be a mapping, got [1]"),
        ("runs: [1]", "runs: each entry must be a mapping"),
        ("seeds: [0]", "'seeds' is not one of the fields name, profile"),
        ("profile: nano", "profile: 'nano' is unknown"),
        ("settings: {run: mine}", "run: the sweep chooses it"),
        ("grid: {runs_dir: [a, b]}", "runs_dir: must be the same for all runs; set it under"),
        ("until: 9", "until: '09' is not one of 00, 01"),
        ("name: a/b", "name: 'a/b' is not a plain folder name"),
        ("runs: [{model: a/x}, {model: b/x}]", "would both be in the folder model-x"),
        ("[1", "is not valid YAML"),
        ("just text", "must contain fields such as name"),
    ],
)
def test_what_cannot_work_is_refused_with_the_name_of_the_file(text, message, place):
    path = place / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        plan.read_sweep(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)
    assert "\n" not in str(error.value)
    assert [p.name for p in place.iterdir()] == ["bad.yaml"]


def test_the_example_in_the_docs_is_the_sweep_that_it_says(place):
    text = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    (place / "sweep.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    sweep = plan.read_sweep(place / "sweep.yaml")
    assert len(sweep.runs) == 12 and sweep.name == "rates-and-contexts"


def test_a_missing_file_is_one_line(place):
    with pytest.raises(InputError, match="no such file"):
        plan.read_sweep(place / "none.yaml")


@given(st.lists(st.sampled_from([6e-5, 1e-4, 2e-4, 1.0]), min_size=1, max_size=6),
       st.lists(st.integers(0, 5), min_size=1, max_size=6))  # fmt: skip
def test_every_combination_occurs_exactly_once(rates, seeds):
    sweep = plan.make_sweep({"name": "s", "grid": {"learning_rate": rates, "seed": seeds}})
    found = [(run.settings.learning_rate, run.settings.seed) for run in sweep.runs]
    assert len(found) == len(set(found)) and set(found) == {(r, s) for r in rates for s in seeds}


def test_equal_conversions_and_squad_steps_are_taken_over_from_the_first_run():
    grid = {"learning_rate": [1e-4, 2e-4], "seed": [0, 1]}
    held_out = plan.donors(plan.make_sweep({"name": "s", "grid": grid}))
    assert held_out == {  # another seed holds out other questions
        "learning_rate-0.0001_seed-0": [], "learning_rate-0.0001_seed-1": [],
        "learning_rate-0.0002_seed-0": [("learning_rate-0.0001_seed-0", "02")],
        "learning_rate-0.0002_seed-1": [("learning_rate-0.0001_seed-1", "02")],
    }  # fmt: skip
    fixed = {"dev_fraction": 0.0, "squad_epochs": 1, "squad_file": "squad-train"}
    all_of_it = plan.donors(plan.make_sweep({"name": "s", "grid": grid, "settings": fixed}))
    first = ("learning_rate-0.0001_seed-0", "02")
    assert all_of_it["learning_rate-0.0001_seed-1"] == [first]
    assert all_of_it["learning_rate-0.0002_seed-1"] == [
        first,
        ("learning_rate-0.0001_seed-1", "03"),
    ]


def test_the_estimate_is_that_of_finished_runs_with_the_same_profile():
    sweep = plan.make_sweep({"name": "s", "grid": {"seed": [0, 1]}, "settings": {"epochs": 6}})
    assert plan.estimate(sweep) == (None, 0.0)
    assert "time and disk space unknown" in plan.describe(sweep)
    settings = from_parameters("mini", run="before")  # three epochs
    folder = Run(settings.run_dir, settings)
    folder.path("a.bin").write_bytes(b"x" * 1000)
    folder.record(folder.folder / "a.bin", "by hand")
    done = {"02_bioasq_to_squad": 60, "03_fine_tune": 120, "05_reproduce_metrics": 60}
    folder.note(
        notebooks.DONE, {name: {"seconds": s, "fingerprint": ""} for name, s in done.items()}
    )
    assert plan.estimate(sweep) == (None, 0.0)  # not finished
    folder.note("scores", {})
    assert plan.estimate(sweep) == (6.0, 1000.0)
    assert "2 to run: about 12 minutes one after the other" in plan.describe(sweep)
    short = plan.make_sweep({"name": "s", "until": "02"})
    assert plan.estimate(short) == (1.0, 1000.0)
