"""Alternative text for figures, for readers who cannot see the picture.

A figure function can write its own description with ``figure.set_label``. For all other figures,
``describe`` lists what is written in the figure: titles, axes, categories with their values, and
the legend.
"""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_MOST = 20  # categories to list; a screen reader should not have to read a whole vocabulary


def describe(figure: Figure) -> str:
    """Return one paragraph of plain text about a figure. It is never empty."""
    own = figure.get_label()
    title = figure.get_suptitle()
    legends = [legend for axes in [figure, *figure.axes] for legend in _legends(axes)]
    labels = [text.get_text() for legend in legends for text in legend.get_texts()]
    parts = [f"{title}." if title else "", *map(_describe_axes, figure.axes)]
    parts += [f"Legend: {_listed(labels)}."] if labels else []
    return own or " ".join(" ".join(filter(None, parts)).split()) or "A figure without any text."


def _legends(part: Figure | Axes) -> list:
    return part.legends if isinstance(part, Figure) else list(filter(None, [part.get_legend()]))


def _describe_axes(axes: Axes) -> str:
    if not axes.axison:  # a diagram
        return f"Diagram: {_listed(text.get_text() for text in axes.texts)}."
    titles = [axes.get_title(loc) for loc in ("left", "center", "right")]
    parts = [f"Chart: {title}." for title in titles if title] or ["Chart."]
    for name, axis in (("Horizontal", axes.xaxis), ("Vertical", axes.yaxis)):
        label = axis.get_label_text()
        categories = [t.get_text() for t in axis.get_ticklabels()] if _is_named(axis) else []
        if label or any(categories):
            named = _listed(categories) if any(categories) else ""
            parts.append(f"{name} axis: {': '.join(filter(None, [label, named]))}.")
    values = [text.get_text() for text in axes.texts if text.get_text().strip()]
    return " ".join([*parts, f"Written in the chart: {_listed(values)}." if values else ""])


def _is_named(axis) -> bool:
    """Return whether the ticks have names that the figure function chose, not just numbers."""
    return type(axis.get_major_formatter()).__name__ in ("FixedFormatter", "FuncFormatter")


def _listed(texts: Iterable[str]) -> str:
    shown = [" ".join(text.split()) for text in texts if text.strip()]
    more = f" and {len(shown) - _MOST} more" if len(shown) > _MOST else ""
    return ", ".join(shown[:_MOST]) + more
