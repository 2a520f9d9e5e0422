"""HTML tables and contexts with marked answers, for notebooks, the report and the widgets.

Strings are displayed as written. They are escaped and protected from MathJax, which would turn the
part between two dollar signs into a formula. Bold type, underlines and boxes convey the
meaning, so the tables are readable without color.
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from helpers.data.spans import gold_spans
from helpers.data.squad import Example, by_question
from helpers.scoring.metrics import lower

if TYPE_CHECKING:
    import pandas as pd

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
    """Return a context as HTML, with the answers marked as ``LEGEND`` explains.

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


LEGEND = (
    f'<p>How to read this: <b style="{_GOLD_STYLE}">bold, underlined</b> text is a gold answer, '
    f'<span style="{_BOX_STYLE}">boxed</span> text is the model\'s best span in this snippet, and '
    f'<span style="{_BOX_STYLE}"><b style="{_GOLD_STYLE}">their overlap</b></span> has both.</p>'
)


def case_html(
    row: Mapping, examples: Sequence[Example], candidates: Sequence[Sequence], most: int = 4
) -> str:
    """Return one row of ``errors.table`` as HTML, with the best span and probability per snippet.

    Identical snippets are shown once. If there are more than ``most`` snippets, those with a gold
    answer and those whose best span is the top answer come first, and the rest are only counted.
    """
    pairs = by_question(examples, candidates).get(row["id"], [])
    times = Counter(example.context for example, _ in pairs)
    best = {example.context: nbest[0] if nbest else None for example, nbest in pairs}
    gold = {context: gold_spans(context, row["synonyms"]) for context in best}
    answer = lower(row["answer"])

    def is_dull(context: str) -> bool:
        return not (gold[context] or (best[context] and lower(best[context].text) == answer))

    items = []
    for context in sorted(best, key=is_dull)[:most]:
        chance = f"{best[context].probability:.0%}" if best[context] else "no span"
        again = f" <i>(occurs {times[context]} times)</i>" if times[context] > 1 else ""
        text = f"<b>{chance}</b>&ensp;{highlight(context, gold[context], best[context])}"
        items.append(f'<li style="margin:4px 0">{text}{again}</li>')
    more = f"<i>and {len(best) - len(items)} more</i>" if len(best) > len(items) else ""
    synonyms = " | ".join(map(visible, row["synonyms"]))
    return (
        f'<div {WRITTEN} style="margin:0 0 14px;padding:6px 12px;border-left:3px solid #6f93b3">'
        f"<b>{escape(row['question'])}</b><br>"
        f"answer: <b>{escape(row['answer'] or '(none)')}</b>; gold: <b>{escape(synonyms)}</b><br>"
        f"{escape(row['batch'])}, score {row['score']:.2f}, cause: <i>{escape(row['cause'])}</i>"
        f'<ul style="margin:4px 0 0;line-height:1.7">{"".join(items) or "<li>no snippet</li>"}</ul>'
        f"{more}</div>"
    )


def cases_html(
    rows: pd.DataFrame, examples: Sequence[Example], candidates: Sequence[Sequence], most: int = 4
) -> str:
    """Return the legend, followed by ``case_html`` for each row."""
    cases = [case_html(row, examples, candidates, most) for row in rows.to_dict("records")]
    return LEGEND + ("".join(cases) or "<p>There are no such cases.</p>")


def nbest_html(nbest: Sequence, most: int = 5) -> str:
    """Return the first ``most`` candidates of an n-best list as a table with probability bars."""
    rows = [
        f'<tr><td style="text-align:left">{escape(c.text)}</td><td>{c.probability:.1%}</td>'
        f'<td style="width:210px;text-align:left"><div style="height:11px;background:#1f3b57;'
        f'width:{max(200 * c.probability, 1):.0f}px"></div></td></tr>'
        for c in nbest[:most]
    ]
    head = "<tr><th>answer</th><th>probability</th><th></th></tr>"
    return f"<table {WRITTEN}>{head}{''.join(rows)}</table>" if rows else "<p>No span found.</p>"


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
    """Return the first ``most`` rows as HTML, and the complete table on request, closed at first.

    The arguments are those of ``table``. A table with at most ``most`` rows is shown as a whole.
    """
    from IPython.display import HTML

    rows = rows.to_dict("records") if hasattr(rows, "to_dict") else list(rows)
    page = table(rows[:most], index, **options).to_html()
    if len(rows) > most:
        full = table(rows, index, **options).to_html()
        page += f"<details><summary>all {len(rows)} rows</summary>{full}</details>"
    return HTML(f"<div {WRITTEN}>{page}</div>")
