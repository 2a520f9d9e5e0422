"""Shares, temperatures and curves: small cases that can be checked by hand."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.config import InputError
from helpers.scoring import confidence


@dataclass(frozen=True)
class Span:
    text: str
    start_logit: float
    end_logit: float = 0.0
    probability: float = 0.0


def spans(**sums):
    return [Span(text, value) for text, value in sums.items()]


def test_at_temperature_is_a_softmax_that_keeps_the_order():
    nbest = spans(a=math.log(9), b=math.log(1))
    shares = [c.probability for c in confidence.at_temperature(nbest)]
    assert shares == pytest.approx([0.9, 0.1])
    assert [c.probability for c in confidence.at_temperature(nbest, 2.0)] == pytest.approx(
        [0.75, 0.25]
    )
    # A part of a list is normalized anew, and huge logits do not overflow.
    assert [c.probability for c in confidence.at_temperature(nbest[:1])] == [1.0]
    huge = confidence.at_temperature(spans(a=9000.0, b=8000.0), 0.5)
    assert [c.probability for c in huge] == [1.0, 0.0]
    assert confidence.at_temperature([]) == []
    for bad in (0, -1, math.nan):
        with pytest.raises(InputError, match="greater than 0"):
            confidence.at_temperature(nbest, bad)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=9), st.floats(0.2, 10))
def test_shares_add_up_to_one_in_the_same_order(values, temperature):
    nbest = [Span(str(n), value) for n, value in enumerate(sorted(values, reverse=True))]
    shares = [c.probability for c in confidence.at_temperature(nbest, temperature)]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)


def test_fit_temperature_makes_the_shares_match_how_often_they_are_right():
    """All lists have shares 90/10; the first is right in 3 of 4. At temperature 2, it has 75%."""
    nbest = spans(a=math.log(9), b=0.0)
    found, used = confidence.fit_temperature([nbest] * 4, [["A"], ["a"], ["a"], ["b"]])
    assert (found, used) == (pytest.approx(2.0, abs=1e-3), 4)
    # A list without a gold answer says nothing about the temperature.
    again, used = confidence.fit_temperature([nbest] * 5, [["a"], ["a"], ["a"], ["b"], ["c"]])
    assert (again, used) == (pytest.approx(found), 4)
    assert confidence.fit_temperature([nbest, []], [["c"], ["a"]]) == (1.0, 0)
    assert confidence.fit_temperature([], []) == (1.0, 0)
    # Always right: as sharp as allowed.
    assert confidence.fit_temperature([nbest], [["a"]])[0] == pytest.approx(0.1, rel=0.01)


def test_first_answers_have_fractions_of_the_highest_possible_score():
    ranked = {"q1": [("Zinc", 1.5), ("iron", 0.5)], "q2": [("x", 0.8)], "q3": []}
    golds = {"q2": ["y"], "q1": ["zinc"], "q3": ["z"], "q4": ["z"]}
    found = confidence.first_answers(ranked, golds, {"q1": 3, "q2": 1}, "sum")
    assert list(found.index) == list(golds)
    assert found["answer"].tolist() == ["x", "Zinc", "", ""]
    assert found["confidence"].tolist() == [0.8, 0.5, 0.0, 0.0]
    assert found["right"].tolist() == [False, True, False, False]
    found = confidence.first_answers({"q1": [("Zinc", 0.9)]}, golds, {"q1": 3}, "max")
    assert found.loc["q1", "confidence"] == 0.9
    assert confidence.first_answers({}, {}, {}, "sum").empty


def test_reliability_groups_by_confidence():
    table = confidence.reliability([0.1, 0.15, 0.9, 1.0], [False, True, True, True], bins=5)
    assert table["questions"].tolist() == [2, 2]
    assert table[["low", "high"]].to_numpy().tolist() == [[0.0, 0.2], [0.8, 1.0]]
    assert table["confidence"].tolist() == pytest.approx([0.125, 0.95])
    assert table["right"].tolist() == [0.5, 1.0]
    assert (table["low_right"] <= table["right"]).all()
    assert (table["right"] <= table["high_right"]).all()
    assert confidence.calibration_error(table) == pytest.approx((0.375 * 2 + 0.05 * 2) / 4)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1), st.integers(1, 20))
def test_reliability_counts_every_answer_once(answers, bins):
    table = confidence.reliability(*zip(*answers, strict=True), bins=bins)
    assert table["questions"].sum() == len(answers)
    assert 0 <= confidence.calibration_error(table) <= 1


def test_risk_coverage_answers_equally_confident_questions_together():
    table = confidence.risk_coverage([0.5, 0.9, 0.5, 0.1], [True, True, False, False])
    assert table["threshold"].tolist() == [0.9, 0.5, 0.1]
    assert table["coverage"].tolist() == [0.25, 0.75, 1.0]
    assert table["risk"].tolist() == pytest.approx([0, 1 / 3, 0.5])


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1))
def test_risk_coverage_ends_with_all_questions(answers):
    table = confidence.risk_coverage(*zip(*answers, strict=True))
    last = table.iloc[-1]
    assert last["coverage"] == 1
    assert last["risk"] == pytest.approx(np.mean([not right for _, right in answers]))
