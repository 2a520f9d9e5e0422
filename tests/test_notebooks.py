"""Run all six notebooks through papermill with the profile ``mini`` and check their files."""

import hashlib
import json
import re

import nbformat
import pytest

from helpers import batch, config
from helpers.config import from_parameters
from helpers.data.bioasq import read_answers, read_questions
from helpers.data.mini import DATA
from helpers.run import folder

NOTEBOOKS = batch.notebooks()
PARAMETERS = ["profile", "run", "bioasq_dir", "seed", "overrides"]


def code_cells(path):
    return [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_keeps_the_house_rules(path):
    cells = nbformat.read(path, 4).cells
    code = code_cells(path)
    lengths = sorted(len(c.source.splitlines()) for c in code)
    assert 25 <= len(cells) <= 45
    assert len(code) <= 20
    assert lengths[len(lengths) // 2] <= 6
    assert lengths[-1] <= 25
    assert not any(re.search(r"^\s*(def|class) ", c.source, re.M) for c in code)
    assert not any(c.outputs or c.execution_count for c in code)
    assert cells[0].source.startswith(f"# {path.stem[:2]} · ")
    tagged = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    names = [line.split(" =")[0] for line in tagged[0].source.splitlines()]
    assert len(tagged) == 1
    assert names == PARAMETERS
    assert all("  # " in line for line in tagged[0].source.splitlines())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_list_of_the_scores_has_them_in_one_order(path):
    """SAcc, MRR, LAcc: as every table prints them."""
    for cell in nbformat.read(path, 4).cells:
        items = re.findall(r"^- .*\b(SAcc|MRR|LAcc)\b", cell.source, re.M)
        assert items == sorted(items, key=["SAcc", "MRR", "LAcc"].index), cell.id


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
    """At least half of the pairs are exact, and SAcc is at least 20 points above each baseline."""
    scores = json.loads((mini_run / "scores.json").read_text())
    pooled, baselines = scores["pooled"], scores["baselines"]
    assert pooled["pair_em"] >= 0.5
    assert pooled["sacc"] >= baselines["lexical"]["sacc"] + 0.2
    assert pooled["sacc"] >= baselines["untrained"]["sacc"] + 0.2


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
        assert (mini_run / link).is_file(), link


@pytest.mark.notebooks
def test_a_second_call_keeps_what_is_done(mini_run, capsys):
    before = (mini_run / "scores.json").stat().st_mtime_ns
    manifest = (mini_run / "manifest.json").read_bytes()
    batch.run({"profile": "mini", "run": "ci", "runs_dir": str(mini_run.parent)})
    assert capsys.readouterr().out.count("kept") == len(NOTEBOOKS)
    assert (mini_run / "scores.json").stat().st_mtime_ns == before
    # Nothing ran, so the record of what made the run stays, and the run still counts as finished.
    assert (mini_run / "manifest.json").read_bytes() == manifest
    assert (mini_run.parent / "latest").resolve() == mini_run.resolve()


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
