"""The widgets without a browser: what they show, and what a saved page contains."""

import base64
import re
from dataclasses import replace

import pandas as pd
import pytest
from found import Found
from tiny import tiny_examples, tiny_reader

from helpers.config import InputError
from helpers.data.squad import Example
from helpers.model.decoding import Candidate
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


@pytest.fixture
def lists():
    """Three snippets of one question: by sum, "iron" wins in long lists, by max "zinc <b>"."""
    logits = [[("iron", 1.0), ("zinc <b>", 0.9)], [("iron", 0.9)], [("zinc <b>", 9.0), ("x", 0.0)]]
    examples = [Example(f"q1_00{n}", "q1", "", "") for n in range(3)]
    found = [[Candidate(text, 0, 0, v, 0.0, 0.0) for text, v in nbest] for nbest in logits]
    golds = [("zinc <b>", "Zn  "), ("never",)]
    df = pd.DataFrame({"id": ["q1", "q2"], "question": ["Which $5 or $6?", ""], "synonyms": golds})
    return df, examples, found


def test_decoding_shows_the_answers_and_the_change_of_the_scores(lists):
    view = widgets.decoding(*lists, "q1")
    size, merge, panel, _ = view.widget.children
    assert (size.value, size.max, merge.value) == (2, 2, "sum")
    assert "SAcc 0.0 (+0.0), MRR 25.0 (+0.0), LAcc 50.0 (+0.0)" in panel.value
    assert (
        panel.value.index("iron") < panel.value.index("zinc &lt;b&gt; ✓") and "Zn␣␣" in panel.value
    )
    size.value = 1  # each snippet has one vote: 2 for iron
    assert "<td>2.00</td>" in panel.value and "SAcc 0.0 (+0.0)" in panel.value
    size.value, merge.value = 2, "max"
    assert "SAcc 0.0" in panel.value and "<td>1.00</td>" in panel.value
    static = saved(view)
    assert re.search(r"Which \$5", static) and tables.WRITTEN in static
    assert len(re.findall("<td[^>]*>(?:sum|max)</td>", static)) == 4  # sizes 1 and 2


def test_decoding_prefers_the_confident_snippet_by_max(lists):
    df, examples, found = lists
    found[1] = [*found[1], Candidate("y", 0, 0, 0.8, 0.0, 0.0)]
    view = widgets.decoding(df, examples, found, "q1")
    _, merge, panel, _ = view.widget.children
    before = panel.value
    merge.value = "max"
    assert "SAcc 50.0" in panel.value and panel.value != before
    assert panel.value.index("zinc &lt;b&gt; ✓") < panel.value.index("iron")


def test_windows_are_cut_again_when_a_slider_moves():
    parts = tiny_examples(6)
    context = " ".join(example.context for example in parts)
    example = replace(parts[0], context=context)  # its span is in the first part
    view = widgets.windows(tiny_reader(), example)
    length, step, shown, _ = view.widget.children
    count = len(context.split())
    for length.value, step.value in ((64, 8), (40, 8), (40, 256)):
        room = min(length.value, 64) - 3 - 3  # question, [CLS] and two [SEP]
        cuts = 1 + max(0, -((room - count) // min(step.value, room)))
        cells = [int(float(n)) for n in re.findall(r"<td[^>]*>([\d.]+)</td>", shown.value)]
        assert cells[:2] == [count, cuts]
        assert f'alt="{cuts} windows of up to {length.value} tokens' in saved(view)
    image = re.search('base64,([^"]+)', shown.value)[1]
    assert base64.b64decode(image).startswith(b"\x89PNG")
    assert re.search("<table [^>]*tex2jax_ignore mathjax_ignore", shown.value)


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
