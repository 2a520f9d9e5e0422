"""The tables of notebook 05, on BioASQ-mini with a stand-in for the model."""

import json

import numpy as np
import pytest
from first_words import mini_run_of_first_words

from helpers.data.bioasq import read_questions
from helpers.run import scores
from helpers.run.compare import SharedRun
from helpers.scoring import claims
from helpers.views import evidence, measure


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return mini_run_of_first_words(tmp_path_factory.mktemp("tables"))


def test_systems_intervals_and_verdicts(run):
    systems = {"run": scores.read_batches(run), "untrained": scores.read_batches(run)}
    (own, same) = evidence.systems_compared(systems)
    assert own["system"] == "run" and "permutation p-value" not in own
    assert same["permutation p-value"] == "1.0000" and same["95% interval"] == "+0.0 to +0.0"
    strict, mrr, lenient = evidence.intervals(systems["run"])
    assert strict["score"] == own["SAcc"] and "not a proportion" in mrr["exact binomial"]
    assert " to " in lenient["exact binomial"]
    rows, agree = evidence.official_check(run)
    assert agree is None and "no jar" in rows[0]["official"]
    scores_of_another = {"batches": [], "model": "minilm", "context": "snippet"}
    card, *others = evidence.judge(claims.judge([scores_of_another]))
    assert card["claim"] == "card" and card["verdict"] == "not comparable"
    assert len(others) == 16


def test_published_figures_and_their_granularity():
    published = evidence.published_rows()
    assert [row["claim"] for row in published][:3] == ["card", "notebook-7b-4", "paper-345m"]
    assert len(published) == len(claims.CLAIMS) == 17
    assert published[0]["as printed"] == "SAcc 48, MRR 63.88, LAcc 53.87"
    assert published[0]["context"] == "abstract"
    corrected = {row["claim"]: row for row in evidence.corrections()}
    assert corrected["card"]["order kept"] == "NO"
    assert corrected["card"]["as corrected"] == "SAcc 48, MRR 53.87, LAcc 63.88"
    assert [key for key, row in corrected.items() if row["order kept"] == "NO"] == [
        "card", "card-biobert"]  # fmt: skip
    grain = {(row["claim"], row["measure"]): row for row in evidence.granularity()}
    assert grain["card", "LAcc"]["counts that fit"] == "none"
    assert grain["card", "LAcc"]["right answers needed"] == "103.49"
    assert grain["notebook-7b-4", "SAcc"]["counts that fit"] == "22"
    json.dumps([published, list(corrected.values())])


@pytest.mark.parametrize(
    ("averaging", "decimals", "fixed", "strict", "lenient", "figures"),
    [
        ("weighted", None, True, "–", "–", 13),
        ("weighted", 3, True, "–", "–", 90),
        ("weighted", 2, True, "78", "104", 783),
        ("weighted", 2, False, "78", "103 to 104", 801),
        ("macro", None, True, "69 to 85", "96 to 112", 801),
        ("macro", 3, True, "69 to 86", "96 to 112", 401),
        ("macro", 2, True, "69 to 87", "–", 41),
    ],
)
def test_which_rules_can_give_the_card(averaging, decimals, fixed, strict, lenient, figures):
    """The answer to stop 05.8."""
    first, second = evidence.averages(averaging, decimals, fixed)
    assert (first["figure"], second["figure"]) == ("SAcc 48.00", "LAcc 63.88")
    assert (first["right of 162"], second["right of 162"]) == (strict, lenient)
    assert [row["possible"] == "yes" for row in (first, second)] == [
        strict != "–", lenient != "–"]  # fmt: skip
    assert second["figures from 60.00 to 68.00 that are possible"] == f"{figures} of 801"
    if (averaging, decimals, fixed) == ("weighted", 2, True):
        assert first["distributions that give it"] == "77 of 20,660"
        assert second["distributions that give it"] == "68 of 18,857"


def test_what_one_question_adds_sums_to_the_scores(run):
    batches = scores.read_batches(run)
    systems, total, n = {"run": batches}, np.zeros(3), sum(len(batch.ranks) for batch in batches)
    for batch in batches:
        for question in batch.golds:
            (row,) = evidence.question_effect(run, systems, batch.name, question)
            added = [float(row[f"{measure} (points)"]) for measure in ("SAcc", "MRR", "LAcc")]
            assert added == pytest.approx([100 / n * x for x in shares(batch.ranks[question.id])],
                                          abs=0.005)  # fmt: skip
            total += added
    pooled = [sum(getattr(b.score, m) * b.score.n for b in batches) / n for m in
              ("sacc", "mrr", "lacc")]  # fmt: skip
    assert total == pytest.approx([100 * share for share in pooled], abs=0.005 * n)


def shares(rank):
    return (rank == 1, 1 / rank if rank else 0, rank > 0)


def test_the_followed_question_has_its_answers_in_order(run):
    batches = scores.read_batches(run)
    name, question, _ = measure.followed_question(batches)
    (row,) = evidence.question_effect(run, {"run": batches}, name, question)
    assert row["answers in order"].count(" | ") == 4
    assert row["rank of the first right one"] in (1, 2, 3, 4, 5, "none")


def shared(profile, seed, right):
    ranks = {f"7B1-{n:02}": int(n < right) for n in range(39)}
    return SharedRun(profile, "run", seed, ranks, dict.fromkeys(ranks, "7B1"))


def test_the_squad_step_is_compared_over_seeds_and_seed_by_seed():
    real = {
        ("bioasq-cpu", "run"): [shared("bioasq-cpu", 0, 10), shared("bioasq-cpu", 1, 20)],
        ("squad-then-bioasq-cpu", "run"): [shared("squad", 0, 22), shared("squad", 1, 20)],
    }
    rows = evidence.squad_step(real)  # fmt: skip
    assert [(row["runs"], row["measure"]) for row in rows][:4] == [
        ("mean over seeds", "SAcc"), ("mean over seeds", "MRR"), ("mean over seeds", "LAcc"),
        ("seed 0", "SAcc")]  # fmt: skip
    assert [row["difference (points)"] for row in rows[::3]] == ["+15.4", "+30.8", "+0.0"]
    assert float(rows[3]["permutation p-value"]) < 0.01
    assert rows[6]["permutation p-value"] == "1.000"
    assert "lacks them" in evidence.squad_step({})[0]["runs"]


def test_margins():
    one, _, three, *_ = evidence.margins()
    assert (one["seeds"], one["margin (points)"]) == (1, "4.2")
    assert (three["seeds"], three["margin (points)"]) == (3, "3.5")
    rng = np.random.default_rng(0)
    for row, seeds in ((one, 1), (three, 3)):
        means = rng.normal(44, claims.SEED_SD, (seeds, 100_000)).mean(axis=0)
        share = (abs(means - 48) > claims.margin(162, seeds)).mean()
        shown = float(row['"not reproduced" if the true mean is 44%'].rstrip("%")) / 100
        assert shown == pytest.approx(share, abs=0.01)


def test_the_official_program_runs_if_a_jar_is_given(run, monkeypatch):
    asked = {}

    def fake(jar, golds, answers, **options):
        asked.update(jar=jar, golds=golds, answers=answers, **options)
        figures = {"SAcc": 0.5, "LAcc": 0.5, "MRR": 0.5}
        return [evidence.official.Comparison(n, figures, figures, ()) for n in options["names"]]

    monkeypatch.setattr(evidence.official, "compare_files", fake)
    rows, agree = evidence.official_check(run, "x.jar")
    assert [row["measure"] for row in rows[:3]] == ["SAcc", "MRR", "LAcc"]
    assert agree and len(rows) == 15 and asked["jar"] == "x.jar"
    assert len(read_questions(asked["golds"][0], answers="required")) > 0
    assert all(path.is_file() for path in asked["answers"])
