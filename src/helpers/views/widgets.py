"""A widget for asking the model questions.

The call returns immediately and never waits for input. Its output includes plain HTML for viewers
without a running kernel, such as GitHub, an exported page or the report.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets
from IPython.display import display

from helpers.views import tables

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
