"""scores.json and the report from a hand-made run folder of two batches."""

import html
import json
import re

import nbformat
import pytest
from tiny import finished

from helpers.config import InputError, from_parameters
from helpers.data.bioasq import write_answers
from helpers.data.squad import Example, write_squad
from helpers.io import write_json
from helpers.model.decoding import Candidate, write_nbest
from helpers.run import report, scores
from helpers.run.folder import Run

SECONDS = {"train": 1.0, "predict": 2.0, "total": 3.0}
# question id: (synonyms, contexts, ranked answers)
BATCHES = {
    "B1": {
        "a" * 24: (["CFTR"], ["the CFTR gene", "mutated CFTR"], ["cftr", "HBB"]),
        "b" * 24: (["TNF-α", "TNF-alpha "], ["here TNF-alpha is"], ["IL-6", "tnf-alpha "]),
    },
    "B2": {
        "c" * 24: (["zinc"], ["iron only"], ["iron"]),
        "d" * 24: (["insulin"], ["insulin-like", "an insulin shot"], []),
        "e" * 24: (["HBB"], ["HBB"], ["x", "HBB"]),
    },
}


@pytest.fixture
def run(tmp_path):
    runs_dir, own = str(tmp_path / "runs"), str(tmp_path)
    folder = Run.open(from_parameters(run="r", runs_dir=runs_dir, bioasq_dir=own))
    golds, facts = [], {"batches": list(BATCHES), "enriched": False}
    finished(folder, checkpoint={"parameters": 5}, squad_step={})
    for stage in ("data", "answers", "baselines"):
        folder.begin(stage)
    for name, questions in BATCHES.items():
        items, examples, found = [], [], []
        for q, (synonyms, contexts, ranked) in questions.items():
            items.append({"id": q, "type": "factoid", "body": "what?", "exact_answer": [synonyms]})
            for n, context in enumerate(contexts):
                examples.append(Example(f"{q}_{n + 1:03d}", q, "what?", context, (), n, ""))
                best = next((a for a in ranked if a in context), "")
                at = context.find(best)
                found.append([Candidate(best, at, at + len(best), 1.0, 1.0, 1.0)] if best else [])
        golds.append(str(write_json(tmp_path / f"{name}_golden.json", {"questions": items})))
        folder.record(write_squad(folder.path(f"squad/{name}.json"), examples), "data")
        given = {q: ranked for q, (_, _, ranked) in questions.items()}
        for stage, where in (("answers", "answers"), ("baselines", "baselines/untrained")):
            folder.record(write_answers(folder.path(f"{where}/{name}.json"), given), stage)
        path = write_nbest(folder.path(f"nbest/{name}.jsonl"), examples, found)
        folder.record(path, "answers")
    folder.finish("data", golds=golds, **facts)
    finished(folder, model={"train_pairs": 7, "seconds": 1.0})
    folder.finish("answers", seconds=2.0)
    folder.finish("baselines")
    return folder


def test_scores_count_what_the_files_say(run):
    result = scores.score_run(run, SECONDS, scores.read_systems(run))
    first, second = result["batches"]
    assert (first["n"], first["hits_strict"], first["hits_lenient"]) == (2, 1, 2)
    assert first["mrr"] == pytest.approx(0.75)
    assert (second["n"], second["hits_strict"], second["hits_lenient"]) == (3, 0, 1)
    # zinc stands in no context; "insulin" is a substring of one and a word of the other
    assert (first["hits_ceiling"], second["hits_ceiling"]) == (2, 2)
    # pairs with an answer: two CFTR, TNF-alpha, one insulin (a hyphen ends a word: two), HBB
    assert (first["pairs"], second["pairs"]) == (3, 3)
    assert second["pair_em"] == pytest.approx(1 / 3)
    assert result["pooled"]["sacc"] == pytest.approx(1 / 5)
    assert result["weighted"]["mrr"] == pytest.approx(result["pooled"]["mrr"])
    assert result["macro"]["sacc"] == pytest.approx((1 / 2 + 0) / 2)
    assert result["macro"]["ceiling"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["baselines"]["untrained"]["hits_strict"] == 1
    assert result["train_pairs"] == 7


def test_the_terminal_table_shows_every_row_with_its_counts(run):
    result = scores.score_run(run, {}, scores.read_systems(run))
    lines = scores.score_text(result).splitlines()
    assert [line.split()[0] for line in lines] == [
        "batch", "B1", "B2", "weighted", "macro", "untrained",
    ]  # fmt: skip
    assert "50.00 (1)" in lines[1]
    assert "100.00 (2)" in lines[1]


def test_a_golden_file_of_other_questions_is_named(run, tmp_path):
    item = {"id": "f" * 24, "type": "factoid", "body": "what?", "exact_answer": [["x"]]}
    write_json(tmp_path / "B1_golden.json", {"questions": [item]})
    with pytest.raises(InputError, match="B1_golden.json.*a{24}"):
        scores.read_batches(run)


def test_a_missing_answer_file_names_the_notebook(run):
    (run.folder / "answers" / "B2.json").unlink()
    with pytest.raises(InputError, match="04_error_analysis"):
        scores.read_batches(run)


def test_the_report_shows_scores_and_escapes_what_it_shows(run):
    systems = scores.read_systems(run)
    result = scores.score_run(run, SECONDS, systems)
    scores.write_scores(run, result | {"model": "<b>x</b>", "profile": "bioasq-cpu"}, systems)
    page = report.write_report(run).read_text()
    assert "20.00 (1)" in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<b>x</b>" not in page
    assert json.loads((run.folder / "scores.json").read_text())["schema_version"] == 1


def _odd(value):
    """The same data with an odd text for every text."""
    if isinstance(value, dict):
        return {name: _odd(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_odd(entry) for entry in value]
    return f'<i>"{value}' if isinstance(value, str) else value


@pytest.mark.fault("HTML, formulas or invisible characters in texts")
def test_no_text_of_a_run_gets_into_the_report_as_html(run):
    result = scores.score_run(run, SECONDS, scores.read_systems(run))
    odd = _odd(result) | {"model": "<i>m", "context": "<i>c"}
    scores.write_scores(run, odd, scores.read_systems(run))
    cells = [nbformat.v4.new_markdown_cell("# <i>title"), nbformat.v4.new_code_cell("")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    path = run.path('notebooks/05 "<i>x.ipynb')
    nbformat.write(notebook, path)
    run.note("notebooks_done", {path.stem: {"seconds": 3}})
    page = report.write_report(run).read_text()
    assert "<i>" not in page and "&lt;i&gt;title" in page and "&lt;i&gt;m" in page
    (link,) = re.findall(r'href="([^"]+)"', page)
    assert (run.folder / html.unescape(link)).is_file()


def test_the_report_shows_verdicts_and_links_the_explorer_to_an_error(run):
    result = scores.score_run(run, SECONDS, scores.read_systems(run))
    scores.write_scores(run, result, scores.read_systems(run))
    page = report.write_report(run).read_text()
    assert "<li>not comparable (different: " in page and "explorer" not in page
    columns = "id,batch,question,gold,synonyms,answer,score,rank,with_answer,failure\n"
    row = "a b#1,B9,Is it <i>?,zinc ,zinc  | Zn,iron,1.5,0,1,other <i>type\n"
    run.path("errors.csv").write_text(columns + row)
    run.path("nbest/B9.jsonl").write_text("")
    run.path("explorer.html").write_text("")
    page = report.write_report(run).read_text()
    assert "Is it &lt;i&gt;?" in page and "other &lt;i&gt;type" in page and "<i>" not in page
    assert "zinc </span> with an extra space" in page and "Zn</span> </td>" in page
    assert re.findall(r'href="([^"]+)"', page) == ["explorer.html", "explorer.html#id=a%20b%231"]


def test_the_report_says_when_golden_snippets_were_read(run):
    result = scores.score_run(run, SECONDS, scores.read_systems(run))
    assert "enriched" not in scores.score_text(result)
    assert "not the official task" in scores.score_text(result | {"enriched": True})
    scores.write_scores(run, result | {"enriched": True}, scores.read_systems(run))
    assert "not the official task" in report.write_report(run).read_text()


def test_a_bar_that_came_in_pieces_is_one_line(run):
    result = scores.score_run(run, SECONDS, scores.read_systems(run))
    scores.write_scores(run, result, scores.read_systems(run))
    pieces = ["a\n\rbar 1", "\rbar 2", "\rbar 3\n"]
    outputs = [nbformat.v4.new_output("stream", name="stderr", text=text) for text in pieces]
    outputs.append(nbformat.v4.new_output("stream", name="stdout", text="done\n"))
    cell = nbformat.v4.new_code_cell("", outputs=outputs)
    path = run.path("notebooks/03_fine_tune.ipynb")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    report.write_report(run)
    shown = re.findall(r"<pre>([^<]*)</pre>", path.with_suffix(".html").read_text())
    assert [text.split() for text in shown[-2:]] == [["a", "bar", "3"], ["done"]]
