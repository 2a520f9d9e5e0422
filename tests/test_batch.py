"""The batch runner: bad input and the spread over seeds. ``test_notebooks`` tests whole runs."""

import json
from contextlib import contextmanager
from dataclasses import replace

import nbformat
import papermill
import pytest
from here import Here
from papermill.exceptions import PapermillExecutionError
from tiny import finished, tiny_examples, tiny_reader

from helpers import batch, config
from helpers.config import InputError, from_parameters
from helpers.model.training import fine_tune
from helpers.run.folder import STAGES, Run
from helpers.sweeps import engine, notebooks
from helpers.views.cost import shipped_sweep


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--profile", "maxi"], "'maxi' is unknown"),
        (["--set", "epoch=1"], "epoch"),
        (["--set", "epochs=0"], "epochs must be at least 1"),
        (["--run", "a/b"], "plain folder name"),
        (["--run", "latest"], "latest"),
    ],
)
def test_bad_input_is_one_line_and_status_2(args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert batch.main(["run", *args]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_bioasq_files_is_told_at_once(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("nothing")
    args = ["run", "--profile", "bioasq-cpu", "--bioasq-dir", str(tmp_path / "data"),
            "--set", f"runs_dir={tmp_path / 'runs'}"]  # fmt: skip
    assert batch.main(args) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "golden" in error
    assert not (tmp_path / "runs").exists()


def test_a_profile_for_ones_own_files_needs_them(tmp_path, capsys):
    assert batch.main(["run", "--profile", "bioasq-cpu", "--set", f"runs_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "bioasq_dir" in error
    assert list(tmp_path.iterdir()) == []


def test_in_a_notebook_bad_input_is_one_line_and_no_stack(tmp_path):
    notebook = next(path for path in notebooks.notebooks() if path.stem.startswith("02"))
    given = {"profile": "bioasq-cpu", "bioasq_dir": str(tmp_path / "none"),
             "overrides": f"runs_dir={tmp_path}"}  # fmt: skip
    with pytest.raises(PapermillExecutionError):
        papermill.execute_notebook(
            str(notebook), str(tmp_path / "out.ipynb"), given, progress_bar=False
        )
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    outputs = [o for c in cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert outputs[0].ename == "InputError"
    assert len(outputs[0].traceback) == 1
    assert outputs[0].evalue in outputs[0].traceback[0]


def test_the_spread_is_mean_and_sample_standard_deviation():
    results = [
        {"seed": seed, "pooled": {"sacc": s, "mrr": 0.5, "lacc": 0.6, "pair_em": 0.4}}
        for seed, s in ((0, 0.25), (1, 0.27), (2, 0.29))
    ]
    lines = batch.spread(results).splitlines()
    assert lines[-2].split() == ["mean", "27.00", "50.00", "60.00", "40.00"]
    assert lines[-1].split() == ["std", "2.00", "0.00", "0.00", "0.00"]
    assert "std" not in batch.spread(results[:1])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run sweeps in this process; ``run`` replaces the notebooks and returns what it was given."""
    asked: list[tuple] = []

    @contextmanager
    def workers(*sizes):
        yield Here(), engine.Share(1), 1

    def use(write):
        def run(parameters, *, until):
            settings = from_parameters(**parameters)
            asked.append((settings.run, settings.learning_rate, until))
            settings.run_dir.mkdir(parents=True, exist_ok=True)
            write(settings)

        monkeypatch.setattr(notebooks, "run", run)
        return asked

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "workers", workers)
    monkeypatch.setattr(notebooks, "is_finished", lambda settings, until="": False)
    return use


def test_seeds_gives_verdicts_and_counts_a_seed_once(tmp_path, here, capsys):
    def write(settings):
        scores = {"sacc": 0.25, "mrr": 0.5, "lacc": 0.6, "pair_em": 0.4}
        data = {"profile": "mini", "seed": settings.seed, "pooled": scores, "weighted": scores}
        (settings.run_dir / "scores.json").write_text(json.dumps(data | {"batches": []}))

    asked = here(write)
    batch.seeds([0, 1, 0], {"profile": "mini"})
    assert {run for run, *_ in asked} == {"seed-0", "seed-1"}
    printed = capsys.readouterr().out
    assert "verdicts across seeds:\n- not comparable (different: profile, questions" in printed
    assert "card, card-biobert" in printed
    seeds = json.loads((tmp_path / "runs" / "mini-seeds" / "seeds.json").read_text())
    assert [found["seed"] for found in seeds] == [0, 1]
    assert "25.00 50.00 60.00" in (tmp_path / "runs/mini-seeds/index.html").read_text().replace(
        "</td><td>", " ")  # fmt: skip


def test_notebooks_get_what_they_declare():
    settings = from_parameters("mini", run="x", epochs=2, merge="max")
    given = notebooks._for_notebooks(settings, {"run": "x", "epochs": 2, "merge": "max"})
    assert given == {"profile": "mini", "run": "x", "bioasq_dir": "", "seed": 0,
                     "overrides": "epochs=2 merge=max"}  # fmt: skip


def test_until_stops_early_and_looks_at_no_answer(tmp_path, capsys):
    args = ["run", "--until", "00", "--set", f"runs_dir={tmp_path}"]
    assert batch.main(args) == 0
    assert "stopped after 00_start_here" in capsys.readouterr().out
    made = {p.name for p in (tmp_path / "mini").iterdir()}
    assert made == {"manifest.json", "notebooks", "figures"}


@pytest.mark.parametrize("command", [["table"], ["same", "runs/one"]])
def test_a_link_that_leads_nowhere_is_no_finished_run(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    assert batch.main([*command, "runs/latest"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "runs/latest: there is no finished run here yet" in error


@pytest.fixture
def scored(tmp_path):
    """A run whose stages are recorded to the last, with a dev score of its model."""
    settings = from_parameters("mini", run="r", runs_dir=str(tmp_path / "runs"))
    folder = Run.open(settings)
    finished(folder, **{stage: {} for stage in STAGES})
    path = folder.path("model/dev_scores.json")
    path.write_text('{"fine_tuned": {"sacc": 0.5}}')
    folder.record(path, "03_fine_tune")
    notebook = next(path for path in notebooks.notebooks() if path.stem == "03_fine_tune")
    folder.path(f"notebooks/{notebook.name}").write_text("executed")
    done = {"fingerprint": notebooks._fingerprint(notebook, settings), "seconds": 1}
    folder.note(notebooks.DONE, {notebook.stem: done})
    return folder


def test_dev_scores_are_those_of_the_model_of_these_settings(scored):
    assert notebooks._dev_scores(scored) == "sacc 0.5"
    for change in ({"context": "appended"}, {"epochs": 9}, {"merge": "max"}, {"run": "new"}):
        settings = replace(scored.settings, **change)
        assert "not trained yet" in notebooks._dev_scores(Run(settings.run_dir, settings)), change
    scored.begin("model")
    assert "not trained yet" in notebooks._dev_scores(scored)


def test_values_are_compared_by_the_dev_curves_of_a_sweep(tmp_path, here):
    """Notebook 03 is replaced by its training, with a tiny model."""

    def train(settings):
        reader = replace(tiny_reader(1), settings=replace(settings, max_length=48))
        folder = settings.run_dir / "training"
        fine_tune(reader, tiny_examples(8), folder, dev=tiny_examples(6), progress=False)

    asked = here(train)
    settings = from_parameters("mini", run="s", runs_dir="r", batch_size=4)
    table = batch.compare_values("learning_rate", [1e-3, 5e-3, 1e-3], settings)
    runs = [("learning_rate-0.001", 1e-3), ("learning_rate-0.005", 5e-3)]
    assert {(run, rate) for run, rate, _ in asked} == set(runs)
    assert {until for *_, until in asked} <= {"02", "03"}
    assert list(table["learning_rate"]) == [1e-3] * 7 + [5e-3] * 7
    assert list(table["step"]) == [0, 1, 2, 3, 4, 5, 6] * 2
    assert table["dev_loss"].iloc[13] < table["dev_loss"].iloc[6] < table["dev_loss"].iloc[0]
    assert (tmp_path / "r" / "s-learning_rate" / "index.html").stat().st_size > 20_000


@pytest.mark.parametrize(
    "change", [{"wandb_mode": "disabled"}, {"evaluate_every": 0.0}, {"dev_fraction": 0.0}]
)
def test_without_dev_curves_values_cannot_be_compared(change, here):
    asked = here(lambda settings: None)
    with pytest.raises(InputError, match="sweep: needs dev curves"):
        batch.compare_values("learning_rate", [1e-3], from_parameters("mini", **change))
    assert asked == []


@pytest.mark.long
def test_the_shipped_curves_are_those_of_this_sweep(tmp_path):
    """Rounding differs between processors, and training amplifies it, hence the tolerances."""
    settings = from_parameters("mini", run="mini", runs_dir=str(tmp_path))
    made = batch.compare_values("learning_rate", [6e-5, 2e-4, 6e-4], settings)
    shipped = shipped_sweep()
    assert list(made) == list(shipped)
    assert made[["learning_rate", "step"]].equals(shipped[["learning_rate", "step"]])
    last, expected = (curves.groupby("learning_rate").last() for curves in (made, shipped))
    assert list(last["dev_loss"].rank()) == list(expected["dev_loss"].rank())
    assert last["dev_mrr"].tolist() == pytest.approx(expected["dev_mrr"].tolist(), abs=0.1)


def test_the_terminal_shows_the_progress_bars_of_a_notebook_and_nothing_else(capsys):
    stream = notebooks._ProgressOnly()
    for text in ("a table\n", "\rtraining:  50%", "\rtraining: 100%\n", "done\n"):
        stream.write(text)
        stream.flush()
    assert capsys.readouterr() == ("", "\rtraining:  50%\rtraining: 100%\n")


def test_a_sweep_file_is_planned_refused_or_run(tmp_path, here, capsys):
    asked = here(lambda settings: None)
    (tmp_path / "s.yaml").write_text("grid: {seed: [0, 1]}")
    assert batch.main(["sweep", "s.yaml", "--dry-run"]) == 0
    assert "s: 2 runs in" in capsys.readouterr().out and asked == []
    (tmp_path / "bad.yaml").write_text("grid: {sed: [0, 1]}")
    assert batch.main(["sweep", "bad.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "did you mean 'seed'" in error and asked == []
    assert batch.main(["sweep", "s.yaml"]) == 0
    assert {run for run, *_ in asked} == {"seed-0", "seed-1"}
    assert (tmp_path / "runs" / "s" / "index.html").is_file()


def test_one_run_of_a_sweep_as_a_job_of_an_array(tmp_path, here, capsys):
    def fail(settings):
        if settings.seed == 9:
            raise InputError("no luck")

    asked = here(fail)
    (tmp_path / "s.yaml").write_text("until: 03\ngrid: {seed: [0, 5, 9]}")
    assert batch.main(["sweep", "s.yaml", "--only", "1"]) == 0
    assert [(run, until) for run, _, until in asked] == [("seed-5", "03")]
    for _ in range(2):  # it is not repeated without --retry
        assert batch.main(["sweep", "s.yaml", "--only", "2"]) == 2
        assert "no luck" in capsys.readouterr().err
    assert len(asked) == 2
    assert batch.main(["sweep", "s.yaml", "--only", "2", "--retry"]) == 2 and len(asked) == 3
    assert batch.main(["sweep", "s.yaml", "--only", "3"]) == 2
    assert "only: 3 is not a run of this sweep" in capsys.readouterr().err


def test_a_failed_run_is_named_and_the_page_is_written(tmp_path, here, capsys):
    def fail(settings):
        if settings.seed:
            raise InputError("no luck")

    here(fail)
    (tmp_path / "s.yaml").write_text("grid: {seed: [0, 1]}")
    assert batch.main(["sweep", "s.yaml"]) == 2
    said = capsys.readouterr()
    assert "s: 1 of 2 runs failed (seed-1); see failure.txt" in said.err
    assert "no luck" in (tmp_path / "runs" / "s" / "index.html").read_text()


def test_a_finished_run_is_not_replaced_without_a_line(scored):
    assert notebooks._replaced(scored) == ""
    other = Run(scored.folder, replace(scored.settings, merge="max", epochs=9, wandb_mode="online"))
    line = notebooks._replaced(other)
    assert line.count("\n") == 1 and "epochs=3 (now 9); merge='sum' (now 'max'). Continuing" in line
    scored.begin("data")  # its scores do not count any more
    assert notebooks._replaced(other) == ""


def test_the_line_comes_before_the_first_notebook(scored, capsys):
    args = ["run", "--run", "r", "--until", "00", "--set", "epochs=9"]
    assert batch.main([*args, "--set", f"runs_dir={scored.settings.runs_dir}"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("epochs=3 (now 9)") < printed.index("[1/1] 00_start_here")
    assert "dev: not trained yet with these settings" in printed


def test_a_notebook_saved_with_outputs_is_not_run_again(tmp_path):
    notebook, settings = notebooks.notebooks()[0], from_parameters()
    before = notebooks._fingerprint(notebook, settings)
    saved = nbformat.read(notebook, 4)
    for cell in (cell for cell in saved.cells if cell.cell_type == "code"):
        cell.execution_count, cell.outputs = 7, [nbformat.v4.new_output("stream", text="x")]
    nbformat.write(saved, tmp_path / "saved.ipynb")
    assert notebooks._fingerprint(tmp_path / "saved.ipynb", settings) == before
    saved.cells[-1].source += " "
    nbformat.write(saved, tmp_path / "saved.ipynb")
    assert notebooks._fingerprint(tmp_path / "saved.ipynb", settings) != before


def test_another_working_directory_keeps_a_run_in_one_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert batch.main(["run", "--until", "00", "--run", "away", "--set", "runs_dir=my runs"]) == 0
    made = {p.name for p in (tmp_path / "my runs" / "away").iterdir()}
    assert made == {"manifest.json", "notebooks", "figures"}
    assert not (config.ROOT / "my runs").exists()
