"""Hand-made cases for every cause, and the table made of them."""

import subprocess
import sys

import pandas as pd
import pytest
from found import Found
from hypothesis import given
from hypothesis import strategies as st

from helpers.data import spans
from helpers.data.bioasq import Question
from helpers.data.squad import Example
from helpers.scoring import errors


def nbest(context, *texts):
    """An n-best of these texts at their first places, each twice as likely as the next."""
    total = sum(0.5**n for n in range(len(texts)))
    return [
        Found(t, context.index(t), context.index(t) + len(t), 0.5**n / total)
        for n, t in enumerate(texts)
    ]


SCURVY = "Scurvy comes from a lack of vitamin C, not of iron, zinc, copper, iodine or magnesium."


def case(golds, answers, *pairs):
    return errors.cause(golds, answers, [c for c, _ in pairs], [n for _, n in pairs])


def both(context, *texts):
    return context, nbest(context, *texts)


FIVE = ["iron", "zinc", "copper", "iodine", "magnesium"]


@pytest.mark.parametrize(
    ("golds", "answers", "pairs", "expected"),
    [
        (["Vitamin C"], ["vitamin c", "iron"], [both(SCURVY, "vitamin C")], errors.RIGHT),
        (["vitamin C"], ["iron", "vitamin C"], [both(SCURVY, "iron")], errors.LATE),
        # Five answers count, whatever else is handed in.
        (["vitamin C"], [*FIVE, "vitamin C"], [both(SCURVY, "vitamin C")], errors.OUTVOTED),
        # A gold with a blank at its edge is never matched by the evaluator.
        (["vitamin C "], ["vitamin C"], [both(SCURVY, "vitamin C")], errors.WRITING),
        (["TNF-alpha"], ["x", "the TNF-α"], [both("It is TNF-α.", "TNF-α")], errors.WRITING),
        (["ascorbate"], ["vitamin C"], [both(SCURVY, "vitamin C")], errors.NONE),
        (["ascorbate"], [], [], errors.NONE),
        ([], ["vitamin C"], [both(SCURVY, "vitamin C")], errors.NONE),
        # Only a part of a word: not an answer that can be extracted.
        (["cop"], ["iron"], [both(SCURVY, "iron")], errors.NONE),
        (["vitamin C"], ["lack of vitamin C"], [both(SCURVY, "vitamin C")], errors.BOUNDARY),
        (["vitamin C, not of iron"], ["vitamin C"], [both(SCURVY, "iron")], errors.BOUNDARY),
        (["of vitamin C"], ["vitamin C, not"], [both(SCURVY, "iron")], errors.BOUNDARY),
        (["vitamin C"], FIVE, [both(SCURVY, "iron"), both(SCURVY, "vitamin C", "iron")],
         errors.OUTVOTED),
        (["vitamin C"], FIVE, [both(SCURVY, "iron", "vitamin C")], errors.BELOW),
        (["vitamin C"], FIVE, [both(SCURVY, "iron", "zinc")], errors.NOT_FOUND),
        (["vitamin C"], [], [(SCURVY, [])], errors.NOT_FOUND),
    ],
)  # fmt: skip
def test_each_cause(golds, answers, pairs, expected):
    assert case(golds, answers, *pairs) == expected


def test_the_rules_are_tried_in_their_documented_order():
    # Right at rank 2, and the first answer is only another writing: the earlier rule counts.
    assert case(["vitamin C"], ["vitamin-C", "vitamin C"], both(SCURVY, "iron")) == errors.LATE
    # Another writing of a gold that no snippet holds: writing comes before "no snippet".
    text = "It is interleukin-6."
    pair = both(text, "interleukin-6")
    assert case(["interleukin 6"], ["interleukin-6"], pair) == errors.WRITING
    # Too long, and the gold was a snippet's best as well.
    pair = both(SCURVY, "vitamin C")
    assert case(["vitamin C"], ["of vitamin C"], pair) == errors.BOUNDARY
    assert list(errors.CAUSES) == [
        errors.RIGHT, errors.LATE, errors.WRITING, errors.NONE,
        errors.BOUNDARY, errors.OUTVOTED, errors.BELOW, errors.NOT_FOUND,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("TNF-α", "TNF alpha"),
        ("TNFα", "tnf-Alpha"),
        ("the mitochondria", "Mitochondria"),
        ("An enzyme", "enzymes"),
        ("Sjögren's syndrome", "Sjogren syndrome"),
        ("95 %", "95%"),
        ("Ca²⁺", "Ca2+"),
        ("λ phage", "lambda phage"),
        ("β-blockers", "beta blocker"),
        ("IL6", "IL-6"),
    ],
)
def test_plain_equates_writings(one, other):
    assert spans.plain(one) == spans.plain(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("vitamin A", "vitamin"),
        ("1.5", "15"),
        ("1-2", "12"),
        ("TNF-α", "TNF-β"),
        ("hypertension", "hypotension"),
        ("AIDS virus", "AIDS"),
    ],
)
def test_plain_keeps_meanings_apart(one, other):
    assert spans.plain(one) != spans.plain(other)


@given(st.text())
def test_plain_ignores_case_and_is_stable(text):
    assert spans.plain(text.casefold()) == spans.plain(text)
    assert " ".join(spans.words(text)) == " ".join(spans.words(f"  {text}. "))


QUESTION = Question("q1", "What does scurvy lack?", "factoid", exact_answer=(("vitamin C ",),))


@pytest.fixture
def frame():
    second = Question("q2", "Without snippets?", "factoid", exact_answer=(("a", "b"), ("c",)))
    examples = [
        Example("q1_001", "q1", "", SCURVY),
        Example("q1_002", "q1", "", SCURVY),
        Example("q1_003", "q1", "", "Iron & zinc do not help."),
    ]
    found = [
        nbest(SCURVY, "iron"),
        nbest(SCURVY, "iron", "zinc"),
        nbest(examples[2].context, "Iron"),
    ]
    ranked = {"q1": [("iron", 1.5), ("zinc", 0.5)], "elsewhere": [("x", 1.0)]}
    return errors.table([QUESTION, second], examples, found, ranked, "mini1"), examples, found


def test_table_has_a_row_per_question(frame):
    df = frame[0]
    assert list(df.columns) == [
        "id", "batch", "question", "gold", "synonyms", "answer", "score", "rank", "snippets",
        "with_answer", "opinions", "cause",
    ]  # fmt: skip
    first, second = df.to_dict("records")
    assert (first["batch"], first["gold"], first["answer"]) == ("mini1", "vitamin C ", "iron")
    assert (first["snippets"], first["with_answer"], first["opinions"]) == (3, 2, 1)
    assert (first["score"], first["rank"], first["cause"]) == (1.5, 0, errors.NOT_FOUND)
    assert second["synonyms"] == ("a", "b", "c")
    assert (second["answer"], second["score"], second["snippets"]) == ("", 0.0, 0)
    assert second["cause"] == errors.NONE


def test_table_wants_an_nbest_for_each_example(frame):
    with pytest.raises(ValueError):
        errors.table([QUESTION], frame[1], frame[2][:2], {})


def test_summary_counts_every_question_once(frame):
    df = pd.concat([frame[0], frame[0].assign(batch="mini2")])
    counts = errors.summary(df)
    assert list(counts.index) == list(errors.CAUSES)
    assert list(counts.columns) == ["mini1", "mini2", "all", "percent"]
    assert counts["all"].sum() == len(df) == counts[["mini1", "mini2"]].to_numpy().sum()
    assert counts.loc[errors.NONE, "percent"] == 50.0
    assert counts.loc[errors.RIGHT, "all"] == 0


def test_worst_have_no_right_answer_then_high_scores():
    df = pd.DataFrame(
        {
            "rank": [1, 0, 2, 0, 0, 3],
            "with_answer": [1, 0, 1, 3, 1, 1],
            "score": [9.0, 8.0, 6.0, 2.0, 3.0, 7.0],
        }
    )
    assert list(errors.worst(df).index) == [4, 3, 5, 2]
    assert list(errors.worst(df, 2, answerable=False).index) == [1, 4]
    assert list(errors.worst(df).columns) == list(df.columns)
    assert errors.worst(df.iloc[:1]).empty


def test_telling_prefers_few_snippets_that_disagree():
    columns = {"with_answer": [0, 1, 2, 1], "opinions": [9, 3, 4, 2], "snippets": [2, 5, 4, 2]}
    df = pd.DataFrame({"id": list("abcd"), **columns})
    assert errors.telling(df)["id"] == "c"
    assert errors.telling(df[:1])["id"] == "a"


def test_save_writes_synonyms_readably(frame, tmp_path):
    path = errors.save(frame[0], tmp_path / "errors.csv")
    assert list(pd.read_csv(path)["synonyms"]) == ["vitamin C ", "a | b | c"]


def test_errors_imports_neither_torch_nor_matplotlib():
    heavy = "{'torch', 'matplotlib', 'nemo'}"
    code = f"import sys, helpers.scoring.errors; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
