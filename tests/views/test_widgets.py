"""The widgets without a browser: what they show, and what a saved page contains."""

import re

import pandas as pd
import pytest
from found import Found

from helpers.config import InputError
from helpers.data.squad import Example
from helpers.scoring import errors
from helpers.views import tables, widgets


class Parrot:
    """Answers with the context's first word; refuses a question without a question mark."""

    def answer(self, question, context):
        if "?" not in question:
            raise InputError("no question mark in <question>")
        word = context.split()[0]
        return [Found(word, context.index(word), context.index(word) + len(word), 0.9)]


def saved(view):
    return view.outputs()[0]["text/html"]


def test_ask_answers_at_once_and_on_the_button():
    view = widgets.ask(Parrot(), "Which <one>?", "Zinc is & stays.")
    asked, given, button, shown, _ = view.widget.children
    assert "Zinc</span> is &amp; stays." in shown.value and "90.0%" in shown.value
    assert "&lt;one&gt;" in saved(view) and shown.value in saved(view)
    given.value = "Iron and more"
    button.click()
    assert "Iron</span> and more" in shown.value and "Iron" in saved(view)
    asked.value = "no mark"
    button.click()
    assert "no question mark in &lt;question&gt;" in shown.value


def test_static_pages_are_protected_from_mathjax(cases):
    for view in (widgets.ask(Parrot(), "Is it $5 or $6?", "$7 <script>"), widgets.browse(*cases)):
        assert re.match(rf'<div class="[\w-]+"><div {tables.WRITTEN}>', saved(view))
        assert "<script>" not in saved(view)


def test_ask_without_text_says_what_to_do():
    view = widgets.ask(Parrot())
    assert "Type a question" in saved(view)
    view = widgets.ask(Parrot(), "Why?", " \n")
    assert "Type a question" in saved(view)


@pytest.fixture
def cases():
    def row(number, cause):
        return {
            "id": f"q{number}", "batch": "b", "question": f"Q{number} <?> " + "long " * 30,
            "gold": "zinc", "synonyms": ("zinc",), "answer": "iron", "score": 1.0, "rank": 0,
            "cause": cause,
        }  # fmt: skip

    df = pd.DataFrame([row(1, errors.RIGHT), row(2, errors.NONE), row(3, errors.NONE)])
    contexts = ("Right zinc.", "Iron and no more.", "Other iron.")
    examples = [Example(f"q{n}_001", f"q{n}", "", text) for n, text in enumerate(contexts, 1)]
    return df, examples, [[], [Found("Iron", 0, 4, 0.5)], []]


def test_browse_starts_with_an_error_and_follows_the_menus(cases):
    view = widgets.browse(*cases)
    cause, question, shown, _ = view.widget.children
    assert cause.value == errors.NONE
    assert [label for label, _ in cause.options] == ["right (1)", "no snippet holds it (2)"]
    assert [name for _, name in question.options] == ["q2", "q3"]
    assert all(len(label) <= 90 for label, _ in question.options)
    assert "Iron</span> and no more" in saved(view)
    question.value = "q3"
    assert "Other iron" in saved(view) and "no more" not in saved(view)
    cause.value = errors.RIGHT
    assert "zinc</b>." in shown.value and tables.LEGEND in shown.value


def test_browse_without_errors_or_without_questions(cases):
    df, examples, found = cases
    assert "Right" in saved(widgets.browse(df[:1], examples, found))
    assert "no questions" in saved(widgets.browse(df[:0], examples, found))


def test_the_widget_hides_only_its_own_static_page(cases):
    one, two = widgets.browse(*cases), widgets.browse(*cases)
    name = re.search('class="([^"]+)"', saved(one))[1]
    assert f".{name} {{ display: none }}" in one.widget.children[-1].value
    assert name not in two.widget.children[-1].value
    assert "text/plain" in one.outputs()[1]


def test_displaying_shows_page_and_widget(cases, monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", lambda bundle, raw: shown.append(bundle))
    widgets.browse(*cases)._ipython_display_()
    assert len(shown) == 2 and "Iron" in shown[0]["text/html"]


def test_the_interval_follows_both_sliders():
    view = widgets.interval_by_n()
    n, percent, shown, _ = view.widget.children
    assert "78 of 162 right: the 95% interval is 40.2% to 56.1%, 15.9 points wide" in shown.value
    n.value = 648
    assert "311 of 648 right" in shown.value and "7.8 points wide" in shown.value
    percent.value = 50
    assert "324 of 648 right" in saved(view)
    (text,) = re.findall('alt="([^"]+)"', saved(view))
    assert text.startswith("324 of 648 right") and "data:image/png;base64," in saved(view)


def test_the_detective_finds_the_rule():
    view = widgets.detective()
    decimals, averaging, fixed, shown, _ = view.widget.children
    assert "yes" not in shown.value and decimals.label == "not rounded"
    decimals.value = 2
    assert shown.value.count(">yes<") == 2 and "77 of 20,660" in shown.value
    averaging.value = "macro"
    assert shown.value.count(">yes<") == 1
    fixed.value = False
    assert "2 decimals, batches weighted equally, all batches free:" in saved(view)
