"""Training with and without looser matches: the altered golds, and the comparison itself."""

import json
import runpy
from pathlib import Path

import pytest
from tiny import tiny_examples, tiny_reader

from helpers import survey
from helpers.bioasq import Question, Snippet, read_questions
from helpers.mini_text import DATA
from helpers.trial import FIXED, VARIANTS, blunted, compare_training, recovered

SCRIPT = Path(__file__).parents[1] / "data_scripts" / "compare_rungs.py"


def tiny_questions(count):
    """Each question of one snippet whose gold is a gene of the tiny vocabulary."""
    return [
        Question(
            f"{n:024x}",
            f"{e.question} {n}",
            "factoid",
            (Snippet(e.context),),
            exact_answer=((e.spans[0].text,),),
        )
        for n, e in enumerate(tiny_examples(count))
    ]


def test_half_of_the_golds_are_altered_and_rungs_win_most_back():
    questions = read_questions(DATA / "BioASQ-training-mini.json")
    altered = blunted(questions, 0)
    changed = [a != b for a, b in zip(questions, altered, strict=True)]
    assert sum(changed) == len(questions) // 2 and altered == blunted(questions, 0)
    assert blunted(questions, 1) != altered
    for one, two in zip(questions, altered, strict=True):
        assert (one.id, one.body, one.snippets) == (two.id, two.body, two.snippets)
    total, strict, loose = recovered(questions, 0)
    assert total == 450 and strict < 0.55 * total and loose > 0.85 * total


def test_both_variants_are_scored_on_the_same_questions():
    questions = tiny_questions(40)
    settings = tiny_reader(epochs=1, seed=1).settings
    rows = compare_training(lambda: tiny_reader(1, epochs=1), questions, settings, blunt=True)
    assert [row["matches"] for row in rows] == list(VARIANTS)
    strict, loose = rows
    assert strict["dev questions"] == loose["dev questions"] == 8
    assert strict["by a rung"] == 0 < loose["by a rung"] == loose["pairs"] - strict["pairs"]
    assert all(0 <= row["sacc"] <= row["mrr"] <= row["lacc"] <= 1 for row in rows)


def test_the_shipped_measurements_are_what_the_notebook_shows():
    data = json.loads((Path(survey.__file__).parent / "rung_trials.json").read_text("utf-8"))
    rows = survey.trials()
    assert [(row["data"], row["matches"]) for row in rows] == [
        (name, variant) for name in data for variant in VARIANTS
    ]
    for row in rows:
        runs = [r for r in data[row["data"]]["rows"] if r["matches"] == row["matches"]]
        assert row["seeds"] == len(runs) >= 1
        assert row["sacc"] == pytest.approx(
            100 * sum(r["sacc"] for r in runs) / len(runs), abs=0.06
        )
    assert all("compare_rungs.py" in trial["command"] for trial in data.values())


def test_bad_input_to_the_command_is_one_line(tmp_path, capsys):
    main = runpy.run_path(str(SCRIPT))["main"]
    out = tmp_path / "o.json"
    ignored = [["--set", f"{name}=1"] for name in FIXED]
    for extra in (["--bioasq-dir", str(tmp_path / "none")], ["--set", "epochs=x"], *ignored):
        assert main(["--output", str(out), *extra]) == 2
        assert capsys.readouterr().err.count("\n") == 1 and not out.exists()


def test_the_training_file_is_never_the_output(tmp_path, capsys):
    for path in DATA.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    train = tmp_path / "BioASQ-training-mini.json"
    before = train.read_bytes()
    main = runpy.run_path(str(SCRIPT))["main"]
    assert main(["--bioasq-dir", str(tmp_path), "--output", str(train)]) == 2
    error = capsys.readouterr().err
    assert "would be overwritten" in error and error.count("\n") == 1
    assert train.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "work", "arguments"),
    [
        ("compare_rungs", "helpers.trial.compare_files", ["--output", "o.json"]),
        ("bioasq_to_squad", "convert_files", ["t.json", "--output", "o.json"]),
        ("make_bioasq_mini", "helpers.mini.make", ["--to", "folder"]),
    ],
)
def test_a_key_that_stops_a_command_gives_one_line(monkeypatch, capsys, name, work, arguments):
    def stop(*_, **__):
        raise KeyboardInterrupt

    main = runpy.run_path(str(SCRIPT.with_name(f"{name}.py")))["main"]
    if "." in work:
        monkeypatch.setattr(work, stop)
    else:
        monkeypatch.setitem(main.__globals__, work, stop)
    assert main(arguments) == 130
    assert capsys.readouterr().err.startswith(f"\n{name}.py: stopped")
