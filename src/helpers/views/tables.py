"""HTML tables and contexts with marked answers, for notebooks, the report and the widgets.

Strings are displayed as written. They are escaped and protected from MathJax, which would turn the
part between two dollar signs into a formula. Bold type, underlines and boxes convey the
meaning, so the tables are readable without color.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

from helpers.scoring.metrics import hit_rank

# These classes tell MathJax 3 (JupyterLab) and MathJax 2 (exported pages) to ignore an element.
WRITTEN = 'class="tex2jax_ignore mathjax_ignore"'
_GOLD_STYLE = "font-weight:bold;text-decoration:underline;text-decoration-thickness:2px"
_BOX_STYLE = "border:2px solid #b4541a;border-radius:3px;padding:0 2px"
_TEXT_STYLE = "white-space:pre-wrap;overflow-wrap:anywhere"  # keep line breaks, and wrap long words


def as_written() -> None:
    """Make pandas display strings as written from now on, not as HTML or formulas."""
    import pandas as pd

    pd.set_option("display.html.use_mathjax", False, "styler.html.mathjax", False)
    pd.set_option("styler.format.escape", "html")


def cut(text: str, length: int = 34) -> str:
    """Shorten a string to a one-line label of at most ``length`` characters."""
    text = " ".join(str(text).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def highlight(context: str, gold: Iterable, predicted=None) -> str:
    """Return a context as HTML: gold answers bold and underlined, and the prediction in a box.

    ``gold`` and ``predicted`` have ``start`` and ``end`` in characters. Spans may overlap or touch.
    """
    golden = [False] * len(context)
    for span in gold:
        golden[span.start : span.end] = [True] * len(golden[span.start : span.end])
    low, high = (predicted.start, predicted.end) if predicted else (0, 0)
    before, inside, after = (
        _bold(context[part], golden[part])
        for part in (slice(low), slice(low, high), slice(high, None))
    )
    box = f'<span style="{_BOX_STYLE}">{inside}</span>' if high > low else ""
    return f'<bdi {WRITTEN} style="{_TEXT_STYLE}">{before}{box}{after}</bdi>'


def _bold(text: str, golden: Sequence[bool]) -> str:
    pieces = []
    for is_gold, run in groupby(zip(golden, text, strict=True), key=lambda pair: pair[0]):
        piece = escape("".join(character for _, character in run))
        pieces.append(f'<b style="{_GOLD_STYLE}">{piece}</b>' if is_gold else piece)
    return "".join(pieces)


def nbest_html(nbest: Sequence, most: int = 5) -> str:
    """Return the first ``most`` candidates of an n-best list as a table with bars.

    The bars show shares of the list, which add up to 100% even if the context has no answer.
    """
    rows = [(c.text, f"{c.probability:.1%}", c.probability) for c in nbest[:most]]
    table = _bar_table("answer", "share of the list (not a confidence)", rows)
    return table if rows else "<p>No span found.</p>"


def ranking_html(ranked: Sequence[tuple[str, float]], golds: Sequence[str]) -> str:
    """Return (answer, score) pairs as a table with bars; a check mark follows a right answer."""
    top = max((score for _, score in ranked), default=1.0)
    rows = [
        (text + " ✓" * hit_rank([text], golds), f"{score:.2f}", score / max(top, 1e-9))
        for text, score in ranked
    ]
    return _bar_table("answer", "score", rows) if rows else "<p>No answer.</p>"


def _bar_table(name: str, number: str, rows: Iterable[tuple[str, str, float]]) -> str:
    """Return a table of (text, number, length of the bar from 0 to 1)."""
    body = "".join(
        f'<tr><td style="text-align:left">{escape(text)}</td><td>{value}</td>'
        f'<td style="width:210px;text-align:left"><div style="height:11px;background:#1f3b57;'
        f'width:{max(200 * length, 1):.0f}px"></div></td></tr>'
        for text, value, length in rows
    )
    return f"<table {WRITTEN}><tr><th>{name}</th><th>{number}</th><th></th></tr>{body}</table>"


def image_html(figure, text: str) -> str:
    """Return a matplotlib figure as an image within HTML; ``text`` describes it for readers."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}" style="max-width:100%">'


def visible(text: str) -> str:
    """Replace each leading, trailing and repeated space with "␣"."""
    return re.sub(r"^\s+|\s+$|(?<=\s)\s+", lambda spaces: "␣" * len(spaces[0]), text)


def table(rows, index: str | list[str] | None = None, columns=None, digits: int = 2):
    """Format records or a data frame in the kit's style: left-aligned, with strings as written.

    ``index`` names the columns that label the rows. Row numbers are hidden.
    """
    import pandas as pd

    df = pd.DataFrame(rows, columns=columns)
    numbered = index is None and df.index.name is None and pd.api.types.is_integer_dtype(df.index)
    # pandas escapes only strings, so strings in a list would be treated as HTML.
    df = df.map(lambda cell: cell if pd.api.types.is_scalar(cell) else str(cell))
    if index is not None:
        df = df.set_index(index)
    if df.index.nlevels == 1:  # the name of the index needs no row of its own
        df = df.rename_axis(index=None, columns=df.index.name or df.columns.name)
    style = df.style.format(precision=digits, thousands=",", escape="html")
    for axis in ("index", "columns"):
        style.format_index(escape="html", axis=axis).format_index_names(escape="html", axis=axis)
    look = "text-align: left; vertical-align: top; white-space: pre-wrap; padding: 3px 8px"
    style.set_table_attributes(WRITTEN).set_table_styles([{"selector": "th, td", "props": look}])
    return style.hide(axis="index") if numbered else style


def folded(rows, index: str | list[str] | None = None, most: int = 3, **options):
    """Return the first ``most`` rows as HTML, followed by the complete table, collapsed.

    The arguments are those of ``table``. A table with at most ``most`` rows is shown in full.
    """
    from IPython.display import HTML

    rows = rows.to_dict("records") if hasattr(rows, "to_dict") else list(rows)
    page = table(rows[:most], index, **options).to_html()
    if len(rows) > most:
        full = table(rows, index, **options).to_html()
        page += f"<details><summary>all {len(rows)} rows</summary>{full}</details>"
    return HTML(f"<div {WRITTEN}>{page}</div>")
