"""The reason for each lost question, and the nearest miss in its texts."""

import pytest

from helpers.data.bioasq import Question, Snippet
from helpers.data.convert import convert, nearest
from helpers.data.squad import Example


@pytest.mark.parametrize(
    ("gold", "texts", "expected"),
    [
        ("TNF-alpha", ["none", "anti-TNF-α drugs"], ("anti-TNF-α", 1)),
        ("IL 2", ["il-2s", "of IL2 ."], ("IL2", 1)),
        ("tumour factor", ["A tumor factor, here."], ("tumor factor", 0)),
        ("interleukin", ["of interleukins and", "x"], ("interleukins", 0)),
        ("adalimumab", ["x y", "the infliximab, of"], ("infliximab", 1)),
        ("a longer answer", ["longer"], ("longer", 0)),  # than the text
        ("Epstein-Barr virus", ["an Epstein Barr virus cell"], ("Epstein Barr virus", 0)),
        ("zzz", ["abc def"], ("", -1)),
        ("zzz", [], ("", -1)),
    ],
)  # fmt: skip
def test_nearest(gold, texts, expected):
    pairs = [Example("q_001", "q", "?", text, snippet=n) for n, text in enumerate(texts)]
    text, snippet, likeness = nearest([gold], pairs)
    assert (text, snippet) == expected
    assert (0 < likeness <= 1) == bool(text)


def test_the_drop_report_has_it():
    snippets = (Snippet("no"), Snippet("of TNF-α here"))
    one = Question("q", "Which?", "factoid", snippets, (), (("TNF alpha",),))
    _, (drop,) = convert([one])
    assert (drop.reason, drop.nearest, drop.snippet) == ("answer in no context", "TNF-α", 1)
    _, (drop,) = convert([Question("q", "Which?", "factoid", snippets, (), (("NF",),))])
    assert (drop.reason, drop.detail) == ("answer only inside a word", "nf: of TNF-α here")
    assert (drop.nearest, drop.snippet) == ("TNF-α", 1)
    _, (drop,) = convert([Question("q", "Which?", "factoid", (), (), (("NF",),))])
    assert (drop.reason, drop.nearest, drop.likeness) == ("no snippets", "", 0.0)
