"""The report of a run made by hand: which saved notebooks belong to it."""

import os
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from helpers.config import from_parameters
from helpers.run import report
from helpers.run.folder import Run

NAME = "03_fine_tune"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run to which notebook 03 has given a file, and a clone that holds this notebook only."""
    monkeypatch.setattr(report, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    run = Run.open(from_parameters(run="lab", runs_dir=str(tmp_path / "runs"), epochs=4))
    path = run.path("model/dev_scores.json")
    path.write_text("{}")
    run.record(path, NAME)
    return run


def save(made, /, *, count=1, seconds=60, **parameters):
    """Save the notebook in the clone, so many seconds after its last file was made."""
    given = {"profile": "mini", "run": "lab", "bioasq_dir": "", "seed": 0} | parameters
    given.setdefault("overrides", f"runs_dir={made.settings.runs_dir} epochs=4")
    lines = "\n".join(f"{name} = {value!r}  # why" for name, value in given.items())
    cells = [
        new_code_cell(lines, metadata={"tags": ["parameters"]}, execution_count=1),
        new_code_cell("print(2)", execution_count=count),
        new_code_cell(" \n"),  # JupyterLab gives an empty cell no number
    ]
    cells[1].outputs = [new_output("stream", text="this run's output\n")]
    path = report.ROOT / "notebooks" / f"{NAME}.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    os.utime(path, (time.time() + seconds,) * 2)


def test_a_notebook_saved_after_it_ran_is_kept(run):
    save(run)
    assert report.keep_notebooks(run) == []
    kept = run.folder / "notebooks" / f"{NAME}.ipynb"
    assert "this run's output" in kept.read_text()


@pytest.mark.parametrize("tag", ["stop", "lesson", "exercise"])
def test_participants_may_leave_out_practice(run, tag):
    save(run)
    path = report.ROOT / "notebooks" / f"{NAME}.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells.append(new_code_cell("1 / 0", metadata={"tags": [tag]}))
    nbformat.write(notebook, path)
    os.utime(path, (time.time() + 60,) * 2)
    assert report.keep_notebooks(run) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": -60},
        {"count": None},
        {"run": "another"},
        {"seed": 1},
        {"overrides": ""},
        {"overrides": "epoch=4"},
    ],
)
def test_what_another_run_may_have_printed_is_left_out(run, changes):
    save(run, **changes)
    assert report.keep_notebooks(run) == [NAME]
    assert not (run.folder / "notebooks" / f"{NAME}.ipynb").exists()


def test_a_notebook_that_never_ran_for_this_run_is_left_out(run):
    save(run)
    made = run.manifest()
    run._save({**made, "files": {}})
    assert report.keep_notebooks(run) == [NAME]


def test_a_notebook_that_the_batch_executed_stays(run):
    save(run, count=None)
    kept = run.path(f"notebooks/{NAME}.ipynb")
    kept.write_text("executed")
    assert report.keep_notebooks(run) == []
    assert kept.read_text() == "executed"
    os.utime(kept, (time.time() - 60,) * 2)  # and the files were made again since
    assert report.keep_notebooks(run) == [NAME]
    nbformat.write(new_notebook(), kept)
    (listed,) = report._notebooks(run, run.manifest())
    assert not listed["outdated"]
    os.utime(kept, (time.time() - 60,) * 2)
    (listed,) = report._notebooks(run, run.manifest())
    assert listed["outdated"]


@pytest.mark.parametrize(("name", "shown"), [("mini", False), ("7B", True)])
def test_the_forest_plot_says_whether_it_shows_this_run(run, name, shown):
    run.path("figures/forest.png").write_bytes(b"png")
    sizes = enumerate((39, 25, 29, 34, 35), 1)  # BioASQ-mini's batches have the sizes of 7b
    ((_, caption),) = report._figures(run, {f"{name}{number}": n for number, n in sizes})
    assert "(hollow markers)" in caption and ("not shown" in caption) != shown


def test_a_notebook_that_cannot_be_read_is_left_out(run):
    save(run)
    path = report.ROOT / "notebooks" / f"{NAME}.ipynb"
    text = path.read_text()
    path.write_text(f"<<<<<<<{text}")
    assert report.keep_notebooks(run) == [NAME]
