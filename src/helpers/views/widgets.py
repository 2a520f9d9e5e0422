"""Widgets for asking the model questions and for browsing its errors.

Each call returns immediately and never waits for input. Its output includes plain HTML for viewers
without a running kernel, such as GitHub, an exported page or the report.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets
import pandas as pd
from IPython.display import display

from helpers.data.squad import Example
from helpers.scoring import errors
from helpers.scoring.uncertainty import exact_interval
from helpers.views import evidence, figures, tables

_FIELD = {"layout": {"width": "98%"}, "style": {"description_width": "80px"}}
_LONGEST = 90  # maximum number of characters per question in the menu


class View:
    """A widget, and a static page that replaces it where widgets do not work.

    The output contains both. The widget includes a style that hides the page, so each viewer shows
    only one of the two.
    """

    def __init__(self, parts: Sequence[ipywidgets.Widget], page: Callable[[], str]):
        self._name = f"helpers-static-{uuid.uuid4().hex[:12]}"
        hide = ipywidgets.HTML(f"<style>.{self._name} {{ display: none }}</style>")
        self.widget = ipywidgets.VBox([*parts, hide])
        self._page = page

    def outputs(self) -> list[dict]:
        """Return two MIME bundles: the page in its current state, then the widget."""
        live = dict(self.widget._repr_mimebundle_() or {})
        page = f'<div class="{self._name}"><div {tables.WRITTEN}>{self._page()}</div></div>'
        return [
            {"text/html": page, "text/plain": "(an HTML page)"},
            {**live, "text/html": "<!-- the widget, in a running notebook -->"},
        ]

    def _ipython_display_(self) -> None:
        for bundle in self.outputs():
            display(bundle, raw=True)


def ask(reader, question: str = "", context: str = "") -> View:
    """Return two text fields and a button that shows the n-best list and the best span.

    If you specify a question and a context, the model answers immediately. It always answers, even
    if the context contains no answer.
    """
    asked = ipywidgets.Textarea(question, description="question", rows=2, **_FIELD)
    given = ipywidgets.Textarea(context, description="context", rows=6, **_FIELD)
    button = ipywidgets.Button(description="Answer", button_style="primary")
    shown = ipywidgets.HTML()

    def answer(_=None):
        shown.value = _answer(reader, asked.value.strip(), given.value)

    button.on_click(answer)
    answer()

    def page() -> str:
        return f"<p><b>{escape(asked.value.strip())}</b></p>{shown.value}"

    return View([asked, given, button, shown], page)


def _answer(reader, question: str, context: str) -> str:
    if not question or not context.strip():
        return "<p>Type a question and a context, then click the button.</p>"
    try:
        nbest = reader.answer(question, context)
    except ValueError as error:  # includes InputError; a stack trace would not help
        return f"<p>{escape(str(error))}</p>"
    marked = tables.highlight(context, [], nbest[0] if nbest else None)
    return f'{tables.nbest_html(nbest)}<p style="line-height:1.7">{marked}</p>'


def browse(
    df: pd.DataFrame, examples: Sequence[Example], candidates: Sequence[Sequence], most: int = 8
) -> View:
    """Return menus for causes and questions of ``errors.table``, with up to ``most`` snippets."""
    by_id = {row["id"]: row for row in df.to_dict("records")}
    present = df["cause"].value_counts() if len(df) else {}
    causes = [(f"{name} ({present[name]})", name) for name in errors.CAUSES if name in present]
    wrong = [name for _, name in causes if name != errors.RIGHT]
    first = wrong[0] if wrong else (causes[0][1] if causes else None)
    cause = ipywidgets.Dropdown(options=causes, value=first, description="cause", **_FIELD)
    question = ipywidgets.Dropdown(description="question", **_FIELD)
    shown = ipywidgets.HTML()

    def show(_=None):
        row = by_id.get(question.value)
        shown.value = (
            tables.LEGEND + tables.case_html(row, examples, candidates, most)
            if row
            else "<p>There are no questions to show.</p>"
        )

    def fill(_=None):
        rows = [row for row in by_id.values() if row["cause"] == cause.value]
        question.options = [(tables.cut(row["question"], _LONGEST), row["id"]) for row in rows]
        question.index = 0 if rows else None  # an empty menu does not select new options by itself
        show()

    cause.observe(fill, "value")
    question.observe(show, "value")
    fill()
    return View([cause, question, shown], lambda: shown.value)


def interval_by_n(share: float = 0.48) -> View:
    """Return sliders for a share of right answers and a number of questions, and the interval."""
    sizes = [25, 39, 81, 162, 324, 648, 1296, 2450, 5000, 10_000]
    wide = {"layout": {"width": "600px"}, "style": {"description_width": "130px"}}
    n = ipywidgets.SelectionSlider(
        options=[(f"{size:,}", size) for size in sizes], value=162, description="questions",
        continuous_update=False, **wide,
    )  # fmt: skip
    percent = ipywidgets.IntSlider(
        round(100 * share), 1, 99, description="right answers (%)", continuous_update=False, **wide
    )
    shown = ipywidgets.HTML()

    def show(_=None):
        right = round(percent.value / 100 * n.value)
        low, high = (100 * end for end in exact_interval(right, n.value))
        text = (
            f"{right:,} of {n.value:,} right: the 95% interval is {low:.1f}% to {high:.1f}%, "
            f"{high - low:.1f} points wide. One question is worth {100 / n.value:.2f} points."
        )
        image = tables.image_html(figures.interval_by_n(percent.value / 100, n.value), text)
        shown.value = f"<p>{text}</p>{image}"

    n.observe(show, "value")
    percent.observe(show, "value")
    show()
    return View([n, percent, shown], lambda: shown.value)


def detective() -> View:
    """Return controls for the rounding and averaging behind the card, and what they allow."""
    wide = {"layout": {"width": "600px"}, "style": {"description_width": "190px"}}
    decimals = ipywidgets.SelectionSlider(
        options=[("not rounded", 0), ("4 decimals", 4), ("3 decimals", 3), ("2 decimals", 2)],
        description="each batch's score is", **wide,
    )  # fmt: skip
    averaging = ipywidgets.ToggleButtons(
        options=[("by questions", "weighted"), ("equally", "macro")],
        description="batches are weighted",
        layout={"width": "600px"}, style={"description_width": "190px", "button_width": "130px"},
    )  # fmt: skip
    fixed = ipywidgets.Checkbox(
        True, description="fix batch 7B4 at 22 and 28 of 34", indent=False,
        layout={"margin": "0 0 0 195px"},
    )  # fmt: skip
    shown = ipywidgets.HTML()

    def show(_=None):
        rows = evidence.averages(averaging.value, decimals.value or None, fixed.value)
        shown.value = f"<div {tables.WRITTEN}>{tables.table(rows, 'figure').to_html()}</div>"

    for control in (decimals, averaging, fixed):
        control.observe(show, "value")
    show()

    def page() -> str:
        batches = "7B4 fixed" if fixed.value else "all batches free"
        rule = f"{decimals.label}, batches weighted {averaging.label}, {batches}"
        return f"<p>{escape(rule)}:</p>{shown.value}"

    return View([decimals, averaging, fixed, shown], page)
