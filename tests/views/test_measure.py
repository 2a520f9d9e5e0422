"""Choose the question that all notebooks follow."""

from helpers.data.bioasq import Question
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
