"""The widgets without a browser: what they show, and what a saved page contains."""

import re

from found import Found

from helpers.config import InputError
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


def test_the_static_page_is_protected_from_mathjax():
    view = widgets.ask(Parrot(), "Is it $5 or $6?", "$7 <script>")
    assert re.match(rf'<div class="[\w-]+"><div {tables.WRITTEN}>', saved(view))
    assert "<script>" not in saved(view)


def test_ask_without_text_says_what_to_do():
    view = widgets.ask(Parrot())
    assert "Type a question" in saved(view)
    view = widgets.ask(Parrot(), "Why?", " \n")
    assert "Type a question" in saved(view)


def test_the_widget_hides_only_its_own_static_page():
    one, two = widgets.ask(Parrot()), widgets.ask(Parrot())
    name = re.search('class="([^"]+)"', saved(one))[1]
    assert f".{name} {{ display: none }}" in one.widget.children[-1].value
    assert name not in two.widget.children[-1].value
    assert "text/plain" in one.outputs()[1]


def test_displaying_shows_page_and_widget(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", lambda bundle, raw: shown.append(bundle))
    widgets.ask(Parrot(), "Which?", "Iron.")._ipython_display_()
    assert len(shown) == 2 and "Iron" in shown[0]["text/html"]
