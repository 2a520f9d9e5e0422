"""The held-out part: whole questions, each answer type in its share, the same for a seed."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from helpers.bioasq import Question, Snippet
from helpers.config import InputError
from helpers.spans import Span
from helpers.split import TYPES, answer_type, split_dev, type_counts
from helpers.squad import Example, convert


def question(*texts, name):
    return Question(name, "Which?", "factoid", tuple(map(Snippet, texts)), (), (("p53",),))


def examples_of(**counts):
    """So many questions of each type, two examples each."""
    answers = {"number": "95 %", "symbol": "BRCA1", "word": "insulin", "phrase": "heart failure"}
    return [
        Example(f"{kind}{n}_{row}", f"{kind}{n}", "Which?", text, (Span(0, len(text), text),))
        for kind, count in counts.items()
        for n in range(count)
        for row in range(2)
        for text in [answers[kind]]
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
    assert answer_type(answer) == kind and kind in TYPES


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


def test_a_question_without_a_span_has_no_type():
    assert type_counts([Example("a_001", "a", "?", "t")]) == {"none": 1}
