"""The nearest miss of a lost question, and the rung that would accept it."""

import pytest

from helpers.bioasq import Question, Snippet
from helpers.contexts import Context
from helpers.misses import nearest
from helpers.squad import convert


@pytest.mark.parametrize(
    ("gold", "texts", "expected"),
    [
        ("TNF-alpha", ["none", "anti-TNF-α drugs"], ("TNF-α", 1, "greek")),
        ("IL 2", ["il-2s", "IL-2"], ("IL-2", 1, "hyphen")),
        ("tumour factor", ["A tumor factor, here."], ("tumor factor", 0, "")),
        ("interleukin", ["of interleukins and", "x"], ("interleukins", 0, "plural")),
        ("adalimumab", ["x y", "the infliximab, of"], ("infliximab", 1, "")),
        ("zzz", ["abc def"], ("", -1, "")),
        ("zzz", [], ("", -1, "")),
    ],
)  # fmt: skip
def test_nearest(gold, texts, expected):
    contexts = [Context(text, n) for n, text in enumerate(texts)]
    text, snippet, rung, likeness = nearest([gold], contexts)
    assert (text, snippet, rung) == expected
    assert (0 < likeness <= 1) == bool(text)


def test_the_drop_report_has_it():
    snippets = (Snippet("no"), Snippet("of TNF-α here"))
    one = Question("q", "Which?", "factoid", snippets, (), (("TNF alpha",),))
    _, (drop,) = convert([one])
    assert (drop.reason, drop.nearest, drop.snippet, drop.rung) == (
        "answer in no context", "TNF-α", 1, "hyphen",
    )  # fmt: skip
    _, (drop,) = convert([Question("q", "Which?", "factoid", snippets, (), (("NF",),))])
    assert (drop.reason, drop.detail) == ("answer only inside a word", "of TNF-α here")
    assert (drop.nearest, drop.snippet, drop.rung) == ("TNF-α", 1, "")
    _, (drop,) = convert([Question("q", "Which?", "factoid", (), (), (("NF",),))])
    assert (drop.reason, drop.nearest, drop.likeness) == ("no snippets", "", 0.0)
