"""What notebook 02 measures: the question that all notebooks follow, and defects of golds."""

import pytest

from helpers.data.bioasq import Question, Snippet
from helpers.data.layout import TestBatch
from helpers.data.squad import Example
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
