"""The held-out part: whole questions, each answer type in its share, the same for a seed."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.config import InputError
from helpers.data.bioasq import Question, Snippet, read_questions
from helpers.data.convert import convert
from helpers.data.leaks import ANSWER_TYPES, answer_type, normalize, split_dev, type_counts
from helpers.data.spans import Span
from helpers.data.squad import Example


def question(*texts, name):
    return Question(name, f"Which {name}?", "factoid", tuple(map(Snippet, texts)), (), (("p53",),))


def examples_of(**counts):
    """So many questions of each type, two examples each."""
    answers = {"number": "95 %", "symbol": "BRCA1", "word": "insulin", "phrase": "heart failure"}
    return [
        Example(
            f"{kind}{n}_{row}",
            f"{kind}{n}",
            f"Which {kind} {n}?",
            text,
            (Span(0, len(text), text),),
        )
        for kind, count in counts.items()
        for n in range(count)
        for row in range(2)
        for name, text in [(f"{kind}{n}", answers[kind])]
    ]


def test_dev_split_is_by_question_and_independent_of_order():
    examples, _ = convert([question("p53 a", "p53 b", name=f"q{n}") for n in range(40)])
    train, dev = split_dev(examples, 0.25, seed=3)
    assert len(dev) == 20 and len(train) == 60
    assert not {e.question_id for e in train} & {e.question_id for e in dev}
    assert sorted(train + dev, key=examples.index) == examples
    backwards = split_dev(examples[::-1], 0.25, seed=3)
    assert backwards == (train[::-1], dev[::-1])
    assert split_dev(examples, 0.25, seed=4)[1] != dev
    assert split_dev(examples, 0, seed=3) == (examples, [])
    assert [len(part) for part in split_dev(examples, 0.001, seed=3)] == [78, 2]
    assert [len(part) for part in split_dev(examples, 0.999, seed=3)] == [2, 78]
    for fraction in (-0.1, 1, float("nan")):
        with pytest.raises(InputError, match="dev fraction"):
            split_dev(examples, fraction, seed=3)
    with pytest.raises(InputError, match="cannot be split"):
        split_dev(examples[:2], 0.5, seed=3)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("95 %", "number"), (" 14 days", "number"), ("> 5", "number"), ("BRCA1", "symbol"),
        ("mTOR", "symbol"), ("TNF-α", "symbol"), ("p53", "symbol"), ("Insulin", "word"),
        ("heart failure", "phrase"), ("", "none"),
    ],
)  # fmt: skip
def test_answer_types(answer, kind):
    assert answer_type(answer) == kind and kind in ANSWER_TYPES


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_each_type_gives_its_share(seed, fraction):
    counts = {"number": 20, "symbol": 60, "word": 41, "phrase": 9}
    rows = examples_of(**counts)
    random.Random(seed).shuffle(rows)
    train, dev = split_dev(rows, fraction, seed)
    held = type_counts(dev)
    assert held.total() == round(fraction * 130)
    assert all(abs(held[kind] - fraction * n) <= 1 for kind, n in counts.items()), held
    assert type_counts(train) + held == Counter(counts)
    other = split_dev([replace(row) for row in sorted(rows, key=str)], fraction, seed)[1]
    assert {row.question_id for row in other} == {row.question_id for row in dev}


WORDINGS = ("Which gene?", "which GENE", "Which  drug ?", "Which drug?", "Type I?", "Type II?",
            "Crohn’s?", "Crohn's ?", "TNF‑α?", "TNF-α?", "e\u0301?", "é?")  # fmt: skip


@given(
    asked=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(WORDINGS)), min_size=2),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_neither_a_wording_nor_a_question_is_on_both_sides(asked, fraction, seed):
    """Rows of one question may be worded differently, so whole chains belong together."""
    rows = [Example(f"{n}", f"q{name}", text, "p53") for n, (name, text) in enumerate(asked)]
    try:
        train, dev = split_dev(rows, fraction, seed)
    except InputError as error:
        assert "cannot be split" in str(error)
        return
    assert train and dev and sorted(train + dev, key=rows.index) == rows
    assert not {normalize(row.question) for row in train} & {normalize(row.question) for row in dev}
    assert not {row.question_id for row in train} & {row.question_id for row in dev}


@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=30),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_the_held_out_share_is_as_near_as_wordings_allow(sizes, fraction, seed):
    rows = [
        Example(f"{n}-{k}", f"{n}-{k}", f"Which {n}?", "p53")
        for n, size in enumerate(sizes)
        for k in range(size)
    ]
    _, dev = split_dev(rows, fraction, seed)
    wanted = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
    assert abs(len(dev) - wanted) < max(sizes)


@pytest.mark.parametrize("seed", range(3))
def test_twins_of_one_wording_stay_on_one_side(seed):
    path = Path(__file__).parents[1] / "cases" / "golds" / "twins_same_wording.json"
    questions = read_questions(path)
    wordings = {normalize(q.body) for q in questions}
    assert len(questions) == 2 * len(wordings)
    train, dev = split_dev(convert(questions)[0], 0.3, seed)
    train, dev = ({row.question for row in part} for part in (train, dev))
    assert train and dev and not train & dev and len(train | dev) == len(wordings)


def test_questions_of_one_wording_cannot_be_split():
    rows = [Example(f"{n}", f"{n}", "Which?", "p53") for n in range(4)]
    with pytest.raises(InputError, match="4 questions with the same text cannot be split"):
        split_dev(rows, 0.5, 0)


def test_a_question_without_a_span_has_no_type():
    assert type_counts([Example("a_001", "a", "?", "t")]) == {"none": 1}
