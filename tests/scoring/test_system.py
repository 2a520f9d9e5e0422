"""Any system's answer files: the protocol of the kit's own runs, the report and the command."""

import json
import runpy
from pathlib import Path

import pytest

from helpers.config import InputError
from helpers.data.bioasq import read_questions, write_answers
from helpers.data.mini import DATA
from helpers.run import compare
from helpers.scoring import metrics
from helpers.scoring.system import read_system
from helpers.views import figures

SCRIPT = Path(__file__).parents[2] / "data_scripts" / "score_system.py"
GOLDS = [DATA / f"mini{n}_golden.json" for n in (1, 2)]
TESTS = [DATA / f"BioASQ-mini-PhaseB-testset{n}.json" for n in (1, 2)]


def questions(gold):
    return read_questions(gold, answers="required")


@pytest.fixture
def files(tmp_path):
    """``files(answer)`` writes ``answer(question)`` for each question; None leaves it out."""

    def make(answer):
        paths = []
        for gold in GOLDS:
            answers = {q.id: answer(q) for q in questions(gold)}
            kept = {name: given for name, given in answers.items() if given is not None}
            paths.append(write_answers(tmp_path / gold.name, kept))
        return paths

    return make


def test_a_perfect_system_may_exceed_the_ceiling(files):
    found = read_system("all", GOLDS, files(lambda q: ["no", q.synonyms()[0]]), TESTS)
    scores = found.scores()
    assert [row["batch"] for row in scores["batches"]] == ["mini1", "mini2"]
    assert (scores["pooled"]["sacc"], scores["pooled"]["mrr"], scores["pooled"]["lacc"]) == (
        0, 0.5, 1)  # fmt: skip
    possible, n = (sum(column) for column in zip(*(b.ceiling for b in found.batches), strict=True))
    assert scores["pooled"]["ceiling"] == possible / n < 1
    assert sum(found.causes().values()) == n == len(found.errors)


def test_the_ceiling_is_that_of_the_texts_that_participants_received(files):
    paths = files(lambda q: ["no"])
    official, golden = (read_system("x", GOLDS, paths, tests) for tests in (TESTS, []))
    assert official.scores()["pooled"]["ceiling"] < golden.scores()["pooled"]["ceiling"]
    assert "an answer is in the texts" in "\n".join(official.lines())
    assert "an answer is in the golden files' snippets" in "\n".join(golden.lines())


def test_a_sentence_around_the_answer_is_a_boundary_error(files):
    found = read_system("talkative", GOLDS, files(lambda q: [f"It is {q.synonyms()[0]}."]), TESTS)
    assert found.scores()["pooled"]["lacc"] == 0
    assert any("boundary" in cause for cause in found.causes())


def test_the_row_stands_in_the_table_and_in_the_forest_plot(files):
    asked = [q.id for gold in GOLDS for q in questions(gold)]
    right = set(asked[::2])
    paths = files(lambda q: [q.synonyms()[0] if q.id in right else "no"])
    row = read_system("a | b", GOLDS, paths, TESTS).row("abstract", "the web")
    strict = row["measures"]["SAcc"]
    assert strict["mean"] == pytest.approx(len(right) / len(asked)) and row["n"] == len(asked)
    assert strict["low"] < strict["mean"] < strict["high"] and strict["sd"] is None
    line = compare.markdown([row], []).splitlines()[-1]
    assert line.startswith("| a &#124; b | full abstracts | the web | ")
    assert line.endswith(" | answer files from outside the kit |") and line.count("|") == 9
    (label,) = (t.get_text() for t in figures.forest([row], []).axes[0].get_yticklabels())
    assert label == "a | b: abstract"


def test_missing_answers_count_as_wrong_unless_they_are_dropped(files):
    first = questions(GOLDS[0])[0].id
    paths = files(lambda q: None if q.id == first else [q.synonyms()[0]])
    wrong, dropped = (read_system("x", GOLDS, paths, TESTS, m) for m in ("wrong", "dropped"))
    assert dropped.scores()["pooled"]["sacc"] == 1 > wrong.scores()["pooled"]["sacc"]
    assert any("no entry, so counted as wrong" in remark for remark in wrong.remarks)


def test_ranks_are_those_of_the_metrics(files):
    paths = files(lambda q: ["x", q.synonyms()[-1]])
    found = read_system("x", GOLDS, paths, TESTS)
    for batch, gold in zip(found.batches, GOLDS, strict=True):
        assert batch.ranks == dict.fromkeys((q.id for q in questions(gold)), 2)
        assert batch.score == metrics.score_batch(batch.name, batch.synonyms, {
            q.id: ["x", q.synonyms()[-1]] for q in questions(gold)})  # fmt: skip


def test_files_that_do_not_belong_together(files, save):
    paths = files(lambda q: ["x"])
    with pytest.raises(
        InputError, match="2 golden files but 1 test inputs; specify one test input"
    ):
        read_system("x", GOLDS, paths, TESTS[:1])
    with pytest.raises(InputError, match="shares no question with"):
        read_system("x", GOLDS, paths, TESTS[::-1])
    row = {"id": "q1_001", "question": "Q?", "answers": [{"text": "zinc", "answer_start": 0}]}
    squad = {"version": "1.1", "data": [{"title": "", "paragraphs": [
        {"context": "zinc", "qas": [row]}]}]}  # fmt: skip
    with pytest.raises(InputError, match="these are SQuAD files; specify BioASQ golden files"):
        read_system("x", [save("s.json", squad)], [save("a.json", {"q1_001": "zinc"})])


def test_the_command_prints_a_report_and_writes_the_row(files, tmp_path, capsys):
    main = runpy.run_path(str(SCRIPT))["main"]
    paths = files(lambda q: [q.synonyms()[0]])
    call = ["LLM", "--gold", *GOLDS, "--answers", *paths, "--tests", *TESTS]
    call = [*map(str, call), "--json", str(tmp_path / "o.json")]
    assert main(call) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[2].startswith("weighted    SAcc 100.00") and out[4].startswith("95% intervals")
    assert out[-1].startswith("| LLM | not stated | not stated | 100.0 [100.0, 100.0] | ")
    assert compare.read_row(tmp_path / "o.json")["name"] == "LLM"
    saved = json.loads((tmp_path / "o.json").read_text())
    assert saved["weighted"]["sacc"] == 1 and saved["schema_version"] == 1
    assert main([*call[:-1], str(GOLDS[0])]) == 2  # never overwrites an input
    assert capsys.readouterr().err.startswith("score_system.py: ")
