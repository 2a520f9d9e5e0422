"""Run all six notebooks through papermill with the profile ``mini`` and check their files."""

import hashlib
import itertools
import json
import os
import re

import nbformat
import numpy as np
import papermill
import pytest
import reference_mini

from helpers import config
from helpers.config import from_parameters
from helpers.data.bioasq import read_answers, read_questions
from helpers.data.mini import DATA
from helpers.run import folder
from helpers.sweeps import notebooks

NOTEBOOKS = notebooks.notebooks()
PARAMETERS = ["profile", "run", "bioasq_dir", "seed", "overrides"]


def tags(cell):
    return cell.metadata.get("tags", [])


def code_cells(path):
    return [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_keeps_the_house_rules(path):
    practice = {"lesson", "stop", "exercise"}  # cells that participants complete or change
    cells = [c for c in nbformat.read(path, 4).cells if not practice & set(tags(c))]
    code = [c for c in cells if c.cell_type == "code"]
    lengths = sorted(len(c.source.splitlines()) for c in code)
    assert 25 <= len(cells) <= 45
    assert len(code) <= 20
    assert lengths[len(lengths) // 2] <= 6
    assert lengths[-1] <= 25
    assert not any(re.search(r"^\s*(def|class) ", c.source, re.M) for c in code)
    assert not any(c.outputs or c.execution_count for c in code_cells(path))
    assert all(len(c.source.splitlines()) <= 25 for c in code_cells(path))
    assert cells[0].source.startswith(f"# {path.stem[:2]} · ")
    tagged = [c for c in code if "parameters" in tags(c)]
    names = [line.split(" =")[0] for line in tagged[0].source.splitlines()]
    assert len(tagged) == 1
    assert names == PARAMETERS
    assert all("  # " in line for line in tagged[0].source.splitlines())


COLLAPSED = r"<details><summary>{}</summary>\n\n(.*?\S.*?)\n\n</details>"
KINDS = "Predict|Run|Change one value|Explain"


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda p: p.stem)
def test_a_notebook_has_stops_and_exercises(path):
    """Four stops or more with a collapsed answer; three exercises with hints and a solution."""
    cells = nbformat.read(path, 4).cells
    number = path.stem[:2]
    stops = [c.source for c in cells if "stop" in tags(c) and c.cell_type == "markdown"]
    titles = [re.match(rf"\*\*Stop {number}\.(\d+) · ({KINDS})\.\*\* ", s) for s in stops]
    assert all(titles) and [int(t[1]) for t in titles] == list(range(1, len(stops) + 1))
    assert len(stops) >= 4
    for stop in stops:
        assert len(re.findall(COLLAPSED.format("Answer"), stop, re.S)) == 1, stop
    practice = [c for c in cells if "exercise" in tags(c)]
    heads = [i for i, c in enumerate(practice) if c.source.startswith("### Exercise ")]
    assert re.search("^## Exercises$", practice[0].source, re.M) and len(heads) == 3
    for n, (low, high) in enumerate(itertools.pairwise([*heads, len(practice)]), 1):
        statement, *code, measured = practice[low:high]
        title = rf"### Exercise {number}\.{n} · .+ \(about \d+ minutes\)\n"
        assert re.match(title, statement.source), statement.id
        hints = [re.findall(COLLAPSED.format(f"Hint {k}"), statement.source, re.S) for k in (1, 2)]
        assert all(len(hint) == 1 for hint in hints), statement.id
        *_, solution, check = code  # a cell that prepares the exercise may come first
        assert solution.metadata.get("jupyter") == {"source_hidden": True}, solution.id
        lines = [line.strip() for line in solution.source.splitlines()]
        assert lines.index("### BEGIN SOLUTION") < lines.index("### END SOLUTION")
        assert "assert " in check.source or "lessons.check_" in check.source, check.id
        assert re.search(COLLAPSED.format("What we measured"), measured.source, re.S), measured.id


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_list_of_the_scores_has_them_in_one_order(path):
    """SAcc, MRR, LAcc: as every table prints them."""
    for cell in nbformat.read(path, 4).cells:
        items = re.findall(r"^- .*\b(SAcc|MRR|LAcc)\b", cell.source, re.M)
        assert items == sorted(items, key=["SAcc", "MRR", "LAcc"].index), cell.id


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_papermill_reads_all_parameters(path):
    """It cannot read a line whose comment contains quotation marks, and then misses it."""
    found = papermill.inspect_notebook(str(path))
    assert list(found) == [*notebooks._PARAMETERS, "overrides"]


def test_what_the_official_program_makes_of_a_question_without_an_entry():
    (text,) = (c.source for c in nbformat.read(NOTEBOOKS[5], 4).cells if c.id == "official-how")
    said = "edition 5 of the program (the edition for 7b) leaves the question out of the mean"
    assert said in " ".join(text.split())


@pytest.mark.notebooks
def test_every_notebook_ran_to_its_end(mini_run):
    assert [p.name for p in NOTEBOOKS] == sorted(
        p.name for p in (mini_run / "notebooks").glob("*.ipynb")
    )
    for path in (mini_run / "notebooks").glob("*.ipynb"):
        code = code_cells(path)
        assert all(c.execution_count for c in code if c.source)
        assert not any(o.output_type == "error" for c in code for o in c.outputs)


@pytest.mark.notebooks
def test_the_exercises_were_shown_and_not_executed(mini_run):
    solutions = 0
    for path in NOTEBOOKS:
        executed = mini_run / "notebooks" / path.name
        nbformat.validate(nbformat.read(executed, 4))
        done = {cell.id: cell for cell in nbformat.read(executed, 4).cells}
        for cell in nbformat.read(path, 4).cells:
            if "exercise" in tags(cell):
                assert done[cell.id].cell_type == "markdown", cell.id
                assert cell.source in done[cell.id].source
                solutions += "<summary>Solution (not executed)" in done[cell.id].source
    assert solutions == 15


@pytest.mark.notebooks
def test_no_table_is_read_by_mathjax(mini_run):
    """Otherwise, Jupyter shows the text between two prices as a formula."""
    tables = 0
    for path in (mini_run / "notebooks").glob("*.ipynb"):
        for output in (o for c in code_cells(path) for o in c.outputs):
            page = output.get("data", {}).get("text/html", "")
            for tag in re.findall(r"<table[^>]*>", page):
                tables += 1
                assert "mathjax_ignore" in tag or "mathjax_ignore" in page[: page.index(tag)], tag
    assert tables > 50


@pytest.mark.notebooks
def test_the_run_folder_is_what_the_readme_promises(mini_run):
    kinds = ("squad/{}.json", "squad/{}.ids.jsonl", "answers/{}.json", "nbest/{}.jsonl")
    expected = [kind.format(f"mini{i}") for i in range(1, 6) for kind in kinds]
    expected += ["manifest.json", "index.html", "scores.json", "squad/train.json",
                 "squad/drops.jsonl", "model/model.nemo",
                 "model/transformers/config.json"]  # fmt: skip
    assert [name for name in expected if not (mini_run / name).is_file()] == []
    assert (mini_run.parent / "latest").resolve() == mini_run.resolve()
    manifest = json.loads((mini_run / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        data = (mini_run / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"], name


@pytest.mark.notebooks
def test_it_learns_to_read(mini_run):
    """SAcc is at least 15 points above each baseline, and LAcc leaves errors to analyze."""
    scores = json.loads((mini_run / "scores.json").read_text())
    pooled, baselines = scores["pooled"], scores["baselines"]
    assert pooled["pair_em"] >= 0.4
    assert pooled["sacc"] >= baselines["lexical"]["sacc"] + 0.15
    assert pooled["sacc"] >= baselines["untrained"]["sacc"] + 0.15
    assert 0.05 <= pooled["ceiling"] - pooled["lacc"] <= 0.2


@pytest.mark.fault("a package that changes the numbers")
@pytest.mark.notebooks
def test_windows_logits_and_scores_are_those_of_the_pinned_packages(mini_run):
    """A package that changes the results must not do so unnoticed.

    Processors round differently, so the logits may differ a little. In training, such differences
    grow, and 0.04 is six of the 162 questions.
    """
    pinned, found = json.loads(reference_mini.FILE.read_text()), reference_mini.measure(mini_run)
    changed = {
        name: (version, found["packages"][name])
        for name, version in pinned["packages"].items()
        if found["packages"][name].partition("+")[0] != version.partition("+")[0]
    }
    assert found["windows"] == pinned["windows"], changed
    for name, values in pinned["logits"].items():
        np.testing.assert_allclose(found["logits"][name], values, atol=2e-3, err_msg=str(changed))
    assert found["scores"] == pytest.approx(pinned["scores"], abs=0.04), changed
    assert found["scores"]["ceiling"] == pinned["scores"]["ceiling"], changed


@pytest.mark.notebooks
def test_scores_json_keeps_its_contract(mini_run):
    scores = json.loads((mini_run / "scores.json").read_text())
    assert scores["schema_version"] == 1
    assert scores["profile"] == "mini"
    assert [row["batch"] for row in scores["batches"]] == [f"mini{i}" for i in range(1, 6)]
    for row in [*scores["batches"], scores["pooled"]]:
        assert row["sacc"] <= row["mrr"] <= row["lacc"] <= row["ceiling"]
        assert row["hits_strict"] == round(row["sacc"] * row["counted"])
        assert row["hits_lenient"] == round(row["lacc"] * row["counted"])
    assert scores["weighted"]["mrr"] == pytest.approx(scores["pooled"]["mrr"])
    assert set(scores["seconds"]) == {"train", "predict", "total"}
    assert all(value > 0 for value in scores["seconds"].values())
    assert scores["enriched"] is False


@pytest.mark.notebooks
def test_answers_are_what_the_organizers_read(mini_run):
    for number in range(1, 6):
        asked = read_questions(DATA / f"BioASQ-mini-PhaseB-testset{number}.json")
        answers, remarks = read_answers(mini_run / "answers" / f"mini{number}.json")
        assert remarks == []
        assert set(answers) == {q.id for q in asked}
        assert all(len(ranking) <= 5 for ranking in answers.values())


@pytest.mark.notebooks
def test_the_report_stands_alone(mini_run):
    page = (mini_run / "index.html").read_text()
    assert "<b>LAcc</b>: the proportion of questions with a right answer at any rank" in page
    assert "teaching data" in page
    assert not re.search(r'(src|href)="https?://', page)
    assert page.count("data:image/png;base64,") >= 3
    for link in re.findall(r'href="([^"]+)"', page):
        assert (mini_run / link.partition("#")[0]).is_file(), link


@pytest.mark.notebooks
def test_a_second_call_keeps_what_is_done(mini_run, capsys):
    before = (mini_run / "scores.json").stat().st_mtime_ns
    manifest = (mini_run / "manifest.json").read_bytes()
    notebooks.run({"profile": "mini", "run": "ci", "runs_dir": str(mini_run.parent)})
    assert capsys.readouterr().out.count("kept") == len(NOTEBOOKS)
    assert (mini_run / "scores.json").stat().st_mtime_ns == before
    # Nothing ran, so the record of what made the run stays, and the run still counts as finished.
    assert (mini_run / "manifest.json").read_bytes() == manifest
    assert (mini_run.parent / "latest").resolve() == mini_run.resolve()


@pytest.mark.fault("a clock that is set back")
@pytest.mark.notebooks
def test_a_clock_that_was_set_back_changes_nothing(mini_run, capsys):
    """All files of the run then come from the future."""
    files = {path: path.stat() for path in mini_run.rglob("*") if path.is_file()}
    try:
        for path, stat in files.items():
            os.utime(path, (stat.st_atime + 86_400, stat.st_mtime + 86_400))
        notebooks.run({"profile": "mini", "run": "ci", "runs_dir": str(mini_run.parent)})
        assert capsys.readouterr().out.count("kept") == len(NOTEBOOKS)
        assert (mini_run.parent / "latest").resolve() == mini_run.resolve()
    finally:
        for path, stat in files.items():
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.fault("a file of a run that was changed")
@pytest.mark.notebooks
def test_a_changed_file_is_noticed_by_the_next_notebook(mini_run):
    settings = from_parameters("mini", run="ci", runs_dir=str(mini_run.parent))
    path = mini_run / "squad" / "mini1.json"
    kept = path.read_bytes()
    try:
        path.write_bytes(kept + b" ")
        with pytest.raises(config.InputError, match="02_bioasq_to_squad"):
            folder.Run.open(settings).need("squad/mini1.json", "02_bioasq_to_squad")
    finally:
        path.write_bytes(kept)
