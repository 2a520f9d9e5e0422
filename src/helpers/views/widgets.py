"""Widgets for asking the model questions, for browsing its errors, and for trying out windows.

Each function returns immediately and never waits for input. Its output includes plain HTML for
viewers without a running kernel, such as GitHub, an exported page or the report.
"""

from __future__ import annotations

import base64
import functools
import io
import uuid
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets
import pandas as pd
from IPython.display import display

from helpers.config import MERGES
from helpers.data.squad import Example
from helpers.model.decoding import rank_answers
from helpers.model.features import make_windows
from helpers.scoring.confidence import at_temperature
from helpers.scoring.metrics import hit_rank, question_values
from helpers.scoring.uncertainty import exact_interval
from helpers.views import evidence, figures, tables

_FIELD = {"layout": {"width": "98%"}, "style": {"description_width": "80px"}}


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


_SHORTEST = 24  # fewest tokens of the context per window that the slider offers
_EACH = 8  # tokens between two positions of a slider


def windows(reader, example: Example) -> View:
    """Return sliders for window length and step (``doc_stride``), and the map of one context.

    ``example`` needs one gold span. A saved notebook shows the map as first displayed.
    """
    asked = len(reader.tokenizer.encode(example.question).ids) + 1  # with [CLS] and two [SEP]
    shortest = -(-(asked + _SHORTEST) // _EACH) * _EACH
    look = {"step": _EACH, "continuous_update": False, **_FIELD}
    length = ipywidgets.IntSlider(
        shortest + 5 * _EACH, shortest, reader.model.config.positions,
        description="max_length", **look,
    )  # fmt: skip
    step = ipywidgets.IntSlider(4 * _EACH, _EACH, 256, description="step", **look)
    shown = ipywidgets.HTML()

    def draw(_=None):
        shown.value = _window_page(reader, example, length.value, step.value)

    length.observe(draw, "value")
    step.observe(draw, "value")
    draw()
    return View([length, step, shown], lambda: shown.value)


def _window_page(reader, example: Example, length: int, step: int) -> str:
    sizes = {"max_length": length, "step": step, "max_query": length}
    made = make_windows([example], reader.tokenizer, training=True, **sizes)
    tokens = int(made.token.max()) + 1
    counts = {
        "tokens in the context": tokens,
        "windows": len(made),
        "tokens that the model reads, including questions": len(made.ids),
        "times it reads each context token, on average": int((made.token >= 0).sum()) / tokens,
        "windows with the whole answer": int((made.start > 0).sum()),
    }
    file = io.BytesIO()
    answer, most = example.spans[0], len(made)
    figures.window_map(made, reader.vocab, answer, most).savefig(file, dpi=90)
    image = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    alt = f"{len(made)} windows of up to {length} tokens, which start every {step} tokens"
    table = tables.table([counts], digits=1).to_html()
    return f'{table}<img alt="{alt}" style="max-width: 100%" src="{image}">'


_SIZES = (1, 2, 3, 5, 10, 20)  # the n-best sizes in the static page


def decoding(
    df: pd.DataFrame, examples: Sequence[Example], candidates: Sequence[Sequence], shown: str
) -> View:
    """Return a slider for the size of the n-best lists and a menu for the merge method.

    A panel shows the ranked answers to the question with the id ``shown``, and how the scores on
    all questions in ``errors.table`` change. The lists are cut and their shares recomputed.
    """
    row = df[df["id"] == shown].iloc[0]
    most = max(map(len, candidates), default=1)

    @functools.cache
    def decoded(size: int, merge: str) -> tuple[dict, dict]:
        lists = [at_temperature(nbest[:size]) for nbest in candidates]
        ranked = rank_answers(examples, lists, merge=merge)
        answers = ([text for text, _ in ranked.get(name, ())] for name in df["id"])
        ranks = [hit_rank(*pair) for pair in zip(answers, df["synonyms"], strict=True)]
        values = question_values(ranks)
        return ranked, {name: 100 * sum(v) / max(len(v), 1) for name, v in values.items()}

    start = decoded(most, MERGES[0])[1]
    size = ipywidgets.IntSlider(most, 1, most, description="n-best", **_FIELD)
    merge = ipywidgets.Dropdown(options=MERGES, description="merge", **_FIELD)
    panel = ipywidgets.HTML()

    def show(_=None):
        ranked, scores = decoded(size.value, merge.value)
        changes = (f"{n} {v:.1f} ({v - start[n]:+.1f})" for n, v in scores.items())
        golds = " | ".join(map(tables.visible, row["synonyms"]))
        answers = tables.ranking_html(ranked.get(shown, ()), row["synonyms"])
        panel.value = (
            f"<div {tables.WRITTEN}><p>All {len(df)} questions, in percent (change in points): "
            f"<b>{', '.join(changes)}</b></p>"
            f"<p>{escape(row['question'])}<br>gold: {escape(golds)}</p>{answers}</div>"
        )

    def page() -> str:
        rows = [
            {"n-best": n, "merge": how, **decoded(n, how)[1]}
            for n in sorted({min(n, most) for n in _SIZES})
            for how in MERGES
        ]
        return panel.value + tables.table(rows, digits=1).to_html()

    for control in (size, merge):
        control.observe(show, "value")
    show()
    return View([size, merge, panel], page)


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
    """Return controls for the rounding and averaging behind the card, and a table of results."""
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
