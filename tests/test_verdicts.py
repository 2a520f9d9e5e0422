"""Verdicts on published rows: the rule, and every way in which a run is not comparable."""

import json

import pytest

from helpers import claims
from helpers.claims import CLAIMS, get
from helpers.uncertainty import exact_interval
from helpers.verdicts import RULE, run_intervals, verdict

SIZES = claims.TEST_7B


def run(strict, lenient, **settings):
    """A run's ``scores.json`` on the 7b batches: the hits go to the batches in turn."""
    rows, model = [], "BioMegatron345mUncasedSQuADv1"
    for name, n in SIZES.items():
        row = {"batch": name, "n": n, "counted": n, "questions": claims.QUESTIONS_7B[name]}
        for field, left in (("hits_strict", strict), ("hits_lenient", lenient)):
            row[field] = round(left * n / 162)
        rows.append(row)
    defaults = {"model": model, "context": "abstract", "train_pairs": 4231, "batches": rows,
                "epochs": 5, "parameters": 334_166_018}  # fmt: skip
    return {**defaults, **settings}


def judged(claim, scores):
    """The verdict with the counts' own intervals, and one for MRR that holds every claim's."""
    rows = [row for row in scores["batches"] if row["batch"] in claim.batches]
    n = sum(row["n"] for row in rows)
    wide = {"MRR": (0.0, 1.0)}
    for measure, hits in (("SAcc", "hits_strict"), ("LAcc", "hits_lenient")):
        wide[measure] = exact_interval(sum(row.get(hits, 0) for row in rows), n) if n else (0, 1)
    return verdict(claim, scores, wide)


def test_comparable_run_inside_the_interval_is_reproduced():
    result = judged(get("card"), run(78, 103))
    assert result.outcome == "reproduced"
    for figure in ("SAcc 48.00 against", "LAcc 63.88 against", "MRR 53.87 against"):
        assert figure in result.sentence


def test_a_figure_without_an_interval_leaves_the_claim_open():
    wide = {"SAcc": (0.4, 0.6), "LAcc": (0.5, 0.7)}
    result = verdict(get("card"), run(78, 103), wide)
    assert result.outcome == "not comparable" and "MRR has no interval" in result.sentence


def test_comparable_run_outside_is_not_reproduced():
    result = judged(get("card"), run(50, 103))
    assert result.outcome == "not reproduced"
    assert "SAcc 48.00 against" in result.sentence
    assert "LAcc" not in result.sentence


def test_given_intervals_are_used():
    wide = {"SAcc": (0.4, 0.5), "LAcc": (0.6, 0.7), "MRR": (0.5, 0.6)}
    assert verdict(get("card"), run(0, 0), wide).outcome == "reproduced"
    result = verdict(get("card"), run(78, 103), {**wide, "MRR": (0.55, 0.6)})
    assert result.outcome == "not reproduced"
    assert result.sentence == "Outside the run's 95% interval: MRR 53.87 against 55.00 to 60.00."
    # .48 is printed with two digits: anything from .475 to .485 may be behind it
    close = {**wide, "SAcc": (0.484, 0.5)}
    assert verdict(get("notebook"), run(0, 0), close).outcome == "reproduced"
    assert verdict(get("card"), run(0, 0), {**wide, "SAcc": (0.486, 0.5)}).outcome != "reproduced"


def test_one_batch_can_be_read_off_a_run_on_all():
    scores = run(78, 103)
    scores["batches"][3].update(hits_strict=22, hits_lenient=28)
    assert judged(get("notebook-7b-4"), scores).outcome == "reproduced"
    scores["batches"][3].update(hits_strict=10, hits_lenient=28)
    assert judged(get("notebook-7b-4"), scores).outcome == "not reproduced"
    scores["batches"] = scores["batches"][3:4]
    assert judged(get("notebook-7b-4"), scores).outcome == "not reproduced"
    assert judged(get("card"), scores).outcome == "not comparable"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"context": "snippet"}, "other context (the run's is snippet, the claim's abstract)"),
        ({"context": ""}, "other context (the run's is not named"),
        ({"model": "minilm"}, "other model (the run's is minilm, the claim's BioMegatron 345M"),
        ({"model": None}, "other model"),
        ({"enriched": True}, "golden files, which hold extra snippets"),
        ({"train_pairs": 0}, "skips the BioASQ step"),
        ({"train_pairs": None}, "skips the BioASQ step"),
        ({"profile": "mini"}, "profile mini is teaching data"),
        ({"allow_leak": True}, "allowed to train on test questions"),
        ({"rungs": "all"}, "matched by the rungs all"),
        ({"epochs": 30}, "took 30 epochs, the claim 5 on BioASQ"),
        ({"parameters": 22_566_146}, "has 22,566,146 weights"),
        ({"parameters": None}, "has 0 weights"),
        ({"model": "biomegatron"}, "other model"),  # any folder may be called so
        (
            {"batches": [{**row, "questions": "0" * 16} for row in run(0, 0)["batches"]]},
            "the batches hold other questions",
        ),
        ({"batches": [{"batch": "mini1", "n": 32}]}, "other data (the run has mini1, 32 questions"),
        ({"batches": run(0, 0)["batches"][:4]}, "other data"),
        ({"batches": [{"batch": b, "n": n + 1} for b, n in SIZES.items()]}, "other data"),
        ({"batches": [*run(0, 0)["batches"], {"batch": "7B6", "n": 9}]}, "other data"),
        (
            {"batches": [{**row, "counted": row["n"] - 1} for row in run(0, 0)["batches"]]},
            "other protocol (the run drops missing questions",
        ),
    ],
)
def test_not_comparable(change, why):
    result = verdict(get("card"), run(78, 103, **change))
    assert result.outcome == "not comparable"
    assert why in result.sentence


def test_mini_compares_with_nothing_and_says_everything_that_differs():
    rows = [{"batch": f"mini{n}", "n": 32, "counted": 32} for n in range(1, 6)]
    mini = {"profile": "mini", "model": "minilm", "context": "snippet", "batches": rows}
    for claim in CLAIMS:
        assert verdict(claim, mini).outcome == "not comparable", claim.key
    sentence = verdict(get("card"), mini).sentence
    assert all(part in sentence for part in ("other data", "other model", "other context"))
    assert "\n" not in sentence


def test_rows_without_context_or_known_questions_compare_with_nothing():
    for claim in CLAIMS:
        if claim.key.startswith("paper") or claim.unusable:
            assert verdict(claim, run(78, 103)).outcome == "not comparable", claim.key
    assert "unknown" in verdict(get("notebook-7b-4-biobert"), run(78, 103)).sentence
    assert "which context" in verdict(get("paper-345m"), run(78, 103)).sentence


@pytest.mark.parametrize(
    "model",
    [
        "models/BioMegatron345mUncasedSQuADv1/",
        "C:\\models\\BioMegatron345m-uncased-SQuADv1.nemo",
    ],
)
def test_names_of_the_same_model(model):
    assert judged(get("card"), run(78, 103, model=model)).outcome == "reproduced"


def test_survives_json():
    scores = json.loads(json.dumps(run(78, 103)))
    assert judged(get("card"), scores) == judged(get("card"), run(78, 103))


def test_a_base_model_after_all_of_squad_is_the_published_checkpoint():
    step = {"train_questions": 87_599, "epochs": 2, "judged": {}}
    both = run(78, 103, model="BioMegatron345mUncased", squad_step=step)
    assert judged(get("card"), both).outcome == "reproduced"
    some = both | {"squad_step": {**step, "train_questions": 1190}}
    result = judged(get("card"), some)
    assert result.outcome == "not comparable"
    assert "BioMegatron345mUncased after 1190 SQuAD questions" in result.sentence
    assert verdict(get("card"), both | {"squad_step": {}}).outcome == "not comparable"


def test_merging_by_max_is_another_protocol():
    result = verdict(get("card"), run(78, 103, merge="max"))
    assert "merges by max, the claim's script adds up" in result.sentence


def test_the_squad_row_is_judged_on_all_of_squads_dev_set():
    judged = {"questions": 10_570, "em": 0.83, "f1": 0.9, "f1_interval": [0.896, 0.905]}
    step = {"train_questions": 87_599, "epochs": 10, "judged": judged}
    scores = run(0, 0, model="BioMegatron345mUncased", squad_step=step)
    result = verdict(get("paper-squad"), scores)
    assert result.outcome == "reproduced" and "F1 90.40 against 89.60 to 90.50" in result.sentence
    low = {**step, "judged": {**judged, "f1_interval": [0.88, 0.89]}}
    assert verdict(get("paper-squad"), scores | {"squad_step": low}).outcome == "not reproduced"
    short = {**step, "epochs": 2}
    assert "took 2 epochs" in verdict(get("paper-squad"), scores | {"squad_step": short}).sentence
    small = {**step, "judged": {**judged, "questions": 237}}
    assert "237 questions" in verdict(get("paper-squad"), scores | {"squad_step": small}).sentence
    assert "the run: none" in verdict(get("paper-squad"), run(0, 0)).sentence


def test_intervals_are_those_of_the_claims_questions():
    ranks = {name: {f"{name}{k}": k % 3 for k in range(n)} for name, n in SIZES.items()}
    everything = run_intervals(get("card"), ranks)
    one = run_intervals(get("notebook-7b-4"), ranks)
    strict = sum(rank == 1 for batch in ranks.values() for rank in batch.values()) / 162
    assert everything["SAcc"][0] < strict < everything["SAcc"][1]
    assert one["SAcc"][1] - one["SAcc"][0] > everything["SAcc"][1] - everything["SAcc"][0]
    assert everything["LAcc"][0] > everything["SAcc"][0]
    assert everything["SAcc"][0] < everything["MRR"][0] < everything["LAcc"][0]
    assert run_intervals(get("card"), {"mini1": {"q": 1}}) == {}
    assert run_intervals(get("paper-squad"), ranks) == {}


def test_the_rule_names_every_outcome():
    assert all(word in RULE for word in ("Not comparable", "reproduced", "not reproduced"))
