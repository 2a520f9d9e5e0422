"""What notebook 02 measures: the question that all notebooks follow, and defects of golds."""

from itertools import chain

import pytest

from helpers.data.bioasq import Question, Snippet
from helpers.data.layout import TestBatch
from helpers.data.squad import Example
from helpers.model.decoding import Candidate
from helpers.views import measure


def test_the_followed_question_has_its_answer_in_several_snippets():
    def batch(name, *snippets):
        golds = (("TNF", "cachexin"),)
        question = Question(name * 24, "Which gene?", "factoid", exact_answer=golds)
        rows = [Example(f"{i}", question.id, "", text) for i, text in enumerate(snippets)]
        return TestBatch(name, tuple(rows), (question,))

    short = batch("a", "TNF", "no")
    long = batch("b", "TNF rises in sepsis.", "cachexin is old.", "nothing here")
    name, question, examples = measure.followed_question([short, long])
    assert (name, question.id, len(examples)) == ("b", "b" * 24, 3)
    assert measure.followed_question([short])[0] == "a"


def test_the_merged_question_has_an_answer_with_shares_from_several_snippets():
    def lists(name, *snippets):
        own = [Example(f"{name}_{n}", name, f"{name}?", "") for n in range(len(snippets))]
        return own, [[Candidate(t, 0, 1, 0.0, 0.0, p) for t, p in s.items()] for s in snippets]

    alone = lists("alone", {"x": 1.0}, {"y": 0.9})
    agreed = lists("agreed", {"x": 0.9, "y": 0.1}, {"X": 0.9, "y": 0.1})
    outvoted = lists("outvoted", {"x": 0.6, "y": 0.4}, {"X": 0.6}, {"z": 0.9})
    many = lists("many", *[{"x": 0.6}] * 5, {"z": 0.9})  # more snippets than the figure can show

    def chosen(*questions):
        return measure.merged_question(*(list(chain(*c)) for c in zip(*questions, strict=True)))

    question, votes = chosen(alone, many, outvoted, agreed)
    assert question == "outvoted?"
    assert votes.index.tolist() == ["x", "z", "y"]
    assert votes.loc["x"].tolist() == [0.6, 0.6, 0.0]
    assert chosen(alone, agreed, many)[0] == "agreed?"
    assert chosen(alone, lists("empty", {}))[0] == "alone?"
    assert chosen(lists("empty", {}))[1].empty


@pytest.mark.parametrize(
    ("golds", "text", "expected"),
    [
        (("TNF", "TNF "), "TNF rises.", {"spaces": "TNF "}),
        (("adrenal  medulla",), "The adrenal medulla.", {"spaces": "adrenal  medulla"}),
        (("TNF-alpha",), "High TNF-α levels.", {"a synonym is missing": "TNF-α"}),
        (("TNF-alpha", "TNF"), "High TNF-α levels.", {}),
        (("insulin",), "Glucagon only.", {}),
        (("SMO",), "The notes on vismodegib.", {}),  # the letters are there, but not the word
        (("beta cell",), "(β-cells) are lost.", {"a synonym is missing": "β-cells"}),
        ((" It is a known fact that this gene is TNF.",), "The gene is TNF.",
         {"spaces": " It is a known fact that this gene is TNF.",
          "a sentence": " It is a known fact that this gene is TNF."}),
        (("one two three four five six seven eight nine",), "", {}),
        (("It is TNF.", "TNF"), "TNF", {"a sentence": "It is TNF."}),
        (("1 2 3 4 5 6 7 8 9 10",), "", {"a sentence": "1 2 3 4 5 6 7 8 9 10"}),
    ],
)  # fmt: skip
def test_a_defect_of_a_gold_is_named_with_its_evidence(golds, text, expected):
    snippets = (Snippet("Nothing here.", "d"), Snippet(text, "d"))
    question = Question("1" * 24, "Which?", "factoid", snippets=snippets, exact_answer=(golds,))
    rows = measure.gold_defects([question])
    assert {row["defect"]: row["evidence"] for row in rows} == expected
    assert all(row["golds"] == golds and row["question"] == "Which?" for row in rows)


def test_the_snippets_that_participants_did_not_receive_raise_the_ceiling():
    snippets = (Snippet("nothing"), Snippet("TNF rises"))
    asked = Question("q1", "Which?", "factoid", snippets, (), (("TNF",),))
    given = (Example("q1_001", "q1", "Which?", "nothing"),)
    table = measure.snippet_effect([TestBatch("a", given, (asked,))])
    assert table.loc["all"].tolist() == [1, 1, 2, 0, 1, 1]
    assert table.loc["% of questions"].tolist() == ["100.0", "", "", "0.0", "100.0", "100.0"]
