"""The report of a run made by hand: which saved notebooks belong to it."""

import os
import time

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.config import from_parameters
from helpers.data.squad import Example
from helpers.model.decoding import Candidate, write_nbest
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


def test_the_example_is_the_worst_error_with_a_marked_snippet(run):
    context = "It is not IL-6 but TNF-alpha."
    nbest = [Candidate("not IL-6", 6, 14, 1.0, 1.0, 0.9)]
    rows = [
        {"id": f"q{n}", "batch": "b", "question": "Which?", "gold": "x", "synonyms": synonyms,
         "answer": "NA", "score": score, "rank": rank, "with_answer": found}
        for n, (synonyms, score, rank, found) in enumerate([
            ("zinc", 3.0, 0, 0), ("IL-6 | TNF-alpha ", 2.0, 0, 1), ("iron", 1.0, 0, 1),
            ("gold", 9.0, 1, 1),
        ])
    ]  # fmt: skip
    assert report._example(run) is None
    pd.DataFrame(rows).to_csv(run.folder / "errors.csv", index=False)
    examples = [Example("q1_001", "q1", "", "none"), Example("q1_002", "q1", "", context)]
    write_nbest(run.folder / "nbest" / "b.jsonl", examples, [[], nbest])
    found = report._example(run)
    assert (found["id"], found["answer"], found["golds"]) == ("q1", "NA", ["IL-6", "TNF-alpha "])
    assert found["pieces"] == [
        ("It is ", False, False), ("not ", False, True), ("IL-6", True, True),
        (" but ", False, False), ("TNF-alpha", True, False), (".", False, False),
    ]  # fmt: skip
    pd.DataFrame(rows[:1]).to_csv(run.folder / "errors.csv", index=False)
    assert report._example(run)["id"] == "q0"  # no error has its gold answer in a snippet
    pd.DataFrame(rows[3:]).to_csv(run.folder / "errors.csv", index=False)
    assert report._example(run) is None


PNG = "iVBORw0KGgo="


@pytest.fixture
def executed(tmp_path):
    """An executed notebook with links, a progress bar and two images."""
    text = (
        "# 01 · Title\n\n[on](02_b.ipynb#x) [docs](../docs/glossary.md#span) [web](https://e.org)"
    )
    image = {"data": {"image/png": PNG}, "output_type": "display_data"}
    outputs = [
        nbformat.from_dict({**image, "metadata": {"image/png": {"alt": 'bars <of> "x"'}}}),
        nbformat.from_dict({**image, "metadata": {}}),
    ]
    cells = [
        new_markdown_cell(text),
        new_code_cell("x", outputs=outputs, execution_count=1),
        new_code_cell("y", outputs=outputs[1:], execution_count=2, metadata={"alt": "from cell"}),
        new_markdown_cell("## What's new?"),
    ]
    path = tmp_path / "01_a.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_a_page_has_a_title_a_way_back_and_needs_no_network(executed):
    page = BeautifulSoup(report.render_notebook(executed, "A & B", "../index.html"), "html.parser")
    assert page.title.text == "A & B"
    assert page.nav.a["href"] == "../index.html"
    assert not page.select("script, link[href], [src^=http]")
    assert page.h2["id"] == "whats-new"
    assert report.notebook_title(executed) == "01 · Title"


def test_links_of_a_page_lead_to_pages_only(executed):
    def links(address=None):
        page = report.render_notebook(executed, "t", "i.html", address)
        return {a.text: a.get("href") for a in BeautifulSoup(page, "html.parser").select("main a")}

    kept = {"web": "https://e.org"}
    assert links() == {"on": "02_b.html#x", "docs": None, **kept}
    assert links(str.upper) == {"on": "02_B.IPYNB#X", "docs": "../DOCS/GLOSSARY.MD#SPAN", **kept}


def test_an_image_has_the_text_of_its_output_or_of_its_cell(executed):
    page = BeautifulSoup(report.render_notebook(executed, "t", "i.html"), "html.parser")
    first, second, third = page.select("img")
    assert first["alt"] == 'bars <of> "x"' and first["src"] == f"data:image/png;base64,{PNG}"
    assert second["alt"].startswith("No description")  # nbconvert's words
    assert third["alt"] == "from cell"
