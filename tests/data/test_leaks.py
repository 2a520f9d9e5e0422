"""Test questions in training files: three signs, and no false alarm on questions of one pattern."""

import pytest
from bioasq_mini.generate import files

from helpers.config import InputError
from helpers.data.leaks import (
    find_leaks,
    most_alike,
    read_tests,
    refuse_leaks,
    summary,
)

TESTS = {
    "t1": "Which gene is mutated in cystic fibrosis?",
    "t2": "What is the inheritance of type 1 diabetes?",
    "t3": "Which drugs block the protein PD-1?",
    "t4": "Which gene is co-expressed with BRCA1?",
    "t5": "What does the factor 1-2 do?",
}
OTHERS = {f"o{n}": f"Which enzyme breaks down substance number {n}?" for n in range(30)}


@pytest.mark.parametrize(
    ("question_id", "text", "test_id", "how"),
    [
        ("t1", "Quite another wording", "t1", "same id"),
        ("a", "which GENE is  mutated in cystic fibrosis", "t1", "same wording"),
        ("a", "Which gene is co‑expressed with BRCA1 ?!", "t4", "same wording"),
        ("a", "What gene is mutated in the cystic fibrosis ?", "t1", "near-equal wording"),
        ("a", "Which drug blocks protein PD-1?", "t3", "near-equal wording"),
        ("a", "Which drug blocks the protein PD1?", "t3", "near-equal wording"),
        ("a", "Which genes are coexpressed with BRCA1?", "t4", "near-equal wording"),
    ],
)
def test_signs(question_id, text, test_id, how):
    (leak,) = find_leaks({**OTHERS, question_id: text}, TESTS)
    assert (leak.question_id, leak.test_id, leak.how) == (question_id, test_id, how)
    assert leak.question == text and leak.test_question == TESTS[test_id]


@pytest.mark.parametrize(
    "text",
    [
        "Which gene is mutated in Huntington disease?",
        "What is the inheritance of type 2 diabetes?",
        "Which drugs block the protein PD-L1?",
        "What does the factor 12 do?",
        "Why?",
        "",
    ],
)
def test_no_false_alarm(text):
    assert find_leaks({**OTHERS, "a": text}, TESTS) == []


def test_no_false_alarm_in_bioasq_mini(save):
    made = files()
    names = [name for name in made if "golden" in name or "training" in name]
    paths = {name: save(name, made[name]) for name in names}
    train = read_tests([paths.pop("BioASQ-training-mini.json")])
    tests = read_tests(paths.values())
    assert len(tests) == 162 and find_leaks(train, tests) == []
    pairs = most_alike(train, tests, 3)
    assert [pair.likeness for pair in pairs] == sorted((p.likeness for p in pairs), reverse=True)
    assert 0.5 < pairs[0].likeness < 0.8
    assert len(find_leaks({**train, **tests}, tests)) == 162


def test_the_refusal_is_one_line():
    assert refuse_leaks("train.json", []) == []
    leaks = find_leaks({"t1": TESTS["t1"], "a": TESTS["t3"]}, TESTS)
    with pytest.raises(InputError, match="train.json: .*2 questions.*allow_leak=true") as caught:
        refuse_leaks("train.json", leaks)
    assert "\n" not in str(caught.value)
    assert "1 by same id, 1 by same wording; the first: 'Which gene" in summary(leaks)


def test_near_equal_wordings_are_remarked_on_and_not_refused():
    alike = {**OTHERS, "a": "Which drug blocks protein PD-1?"}
    leaks = find_leaks(alike, TESTS)
    (remark,) = refuse_leaks("train.json", leaks)
    assert "possibly also test questions: 1 question ('a'): 1 by near-equal wording" in remark
    with pytest.raises(InputError, match=r"1 question \('t1'\): 1 by same id; "):
        refuse_leaks("train.json", find_leaks({**alike, "t1": "?"}, TESTS))
    told = refuse_leaks("train.json", find_leaks({**alike, "t1": "?"}, TESTS), allow=True)
    assert len(told) == 2 and "allowed by allow_leak" in told[0] and "possibly" in told[1]
