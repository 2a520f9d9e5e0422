"""The figures: matplotlib only, axes labeled with units, legible in black and white.

Every function returns a figure and draws nothing else, so a notebook shows it and the run folder
keeps it. Hatches and line styles carry what colours do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

DARK, MIDDLE, LIGHT = "#1f3b57", "#6f93b3", "#d3dfe9"
ACCENT = "#b4541a"
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 110,
    "font.size": 10,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


class AsWritten(Figure):
    """A figure that never reads a text as a formula: two dollar signs in a label are money.

    Matplotlib would typeset what stands between them, or stop at a backslash there.
    """

    def draw(self, renderer) -> None:
        for text in self.findobj(Text):
            text.set_parse_math(False)
        with plt.rc_context({"text.parse_math": False}):  # for ticks that are made on the way
            super().draw(renderer)


def new_figure(width: float = 7.0, height: float = 3.2, columns: int = 1):
    """A figure in the house style and its axes (a list when there are several columns)."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, columns, figsize=(width, height), FigureClass=AsWritten)
        plt.close(figure)  # shown by the notebook's last line, once, and not a second time
    return figure, axes


def training_curve(history: Sequence[tuple[int, float, float, float]]):
    """Loss of every step, its running mean over 20 steps, and the learning rate below it."""
    steps, losses, rates = (np.asarray(column) for column in list(zip(*history, strict=True))[:3])
    figure, (left, right) = new_figure(9, 3, columns=2)
    left.plot(steps, losses, color=MIDDLE, linewidth=0.6, label="each step")
    width = min(20, len(losses))
    mean = np.convolve(losses, np.ones(width) / width, mode="valid")
    left.plot(steps[width - 1 :], mean, color=DARK, linewidth=2, label=f"mean of {width}")
    left.set(xlabel="optimizer step", ylabel="loss (nats)", ylim=(0, None))
    left.set_title("Training loss", loc="left", fontsize=11)
    left.legend()
    right.plot(steps, rates, color=DARK)
    right.set(xlabel="optimizer step", ylabel="learning rate", ylim=(0, None))
    right.set_title("Schedule", loc="left", fontsize=11)
    right.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    return figure


def window_map(windows, vocab: Sequence[str], most: int = 12):
    """Which tokens of one context each window sees, and which window is best for which token.

    ``windows`` is a ``features.Windows`` of a single example with one gold span, made with
    ``training``; ``vocab`` gives the token of an id. Of more than ``most`` windows, those around
    the answer are drawn.
    """
    first = max(0, min(int(np.argmax(windows.start > 0)) - most // 2, len(windows) - most))
    bounds = windows.bounds[first : first + most + 1]
    rows = [slice(*pair) for pair in pairwise(bounds)]
    text = windows.chars[:, 1] > 0  # the question and the special tokens have no characters
    shown = text.copy()
    shown[: bounds[0]] = shown[bounds[-1] :] = False
    columns = {tuple(pair): 0 for pair in sorted(map(tuple, windows.chars[shown].tolist()))}
    columns = {pair: number for number, pair in enumerate(columns)}
    labels = [""] * len(columns)
    figure, axes = new_figure(0.15 * len(columns) + 1.6, 1.9 + 0.3 * len(rows))
    cells = []
    for row, where in enumerate(rows):
        for token in range(where.start, where.stop):
            if text[token]:
                column = columns[tuple(windows.chars[token].tolist())]
                place = token - where.start
                gold = 0 < windows.start[first + row] <= place <= windows.end[first + row]
                labels[column] = vocab[windows.ids[token]]
                cells.append((row, column, windows.can_start[token], gold))
    for row, column, best, gold in cells:
        shade = DARK if best else LIGHT
        axes.barh(row, 1, 0.8, column, color=shade, edgecolor="white", linewidth=0.4)
        if gold:
            axes.plot(column + 0.5, row, "o", color=ACCENT, markeredgecolor="white", markersize=6)
    axes.set_xticks(np.arange(len(labels)) + 0.5, labels, rotation=90, fontsize=9)
    axes.set_yticks(range(len(rows)), [f"window {first + row + 1}" for row in range(len(rows))])
    axes.set(xlim=(0, len(labels)), xlabel="tokens of the context", ylim=(len(rows) - 0.5, -0.5))
    axes.tick_params(length=0)
    keys = [
        plt.Rectangle((0, 0), 1, 1, color=LIGHT, label="seen"),
        plt.Rectangle((0, 0), 1, 1, color=DARK, label="best window for this token"),
        plt.Line2D([], [], marker="o", color=ACCENT, linestyle="", label="the answer, whole"),
    ]
    figure.legend(handles=keys, loc="outside upper left", ncols=3, frameon=False)
    return figure


def length_histogram(lengths: Sequence[int], limit: int):
    """Tokens per window, against windows that are all padded to ``limit`` tokens."""
    lengths = np.asarray(lengths)
    figure, axes = new_figure(7.5, 3.2)
    axes.hist(lengths, bins=range(0, limit + 9, 8), color=MIDDLE, edgecolor=DARK, linewidth=0.5)
    top = axes.get_ylim()[1]
    marks = [
        (lengths.mean(), "-", f"mean: {lengths.mean():.0f}"),
        (limit, "--", f"padded: {limit}"),
    ]
    for at, style, label in marks:
        axes.axvline(at, color=ACCENT, linestyle=style)
        side = {"ha": "right", "xytext": (-5, -10)} if at == limit else {"xytext": (5, -10)}
        axes.annotate(label, (at, top), textcoords="offset points", **side)
    axes.set(xlabel="length of a window (tokens)", ylabel="windows", xlim=(0, limit + 8))
    axes.set_title("What the model has to read", loc="left", fontsize=11)
    return figure


def score_bars(scores: dict):
    """Strict accuracy, MRR and lenient accuracy of every batch, with the ceiling as a line."""
    rows = [*scores["batches"], scores["pooled"]]
    measures = (("sacc", "strict accuracy", DARK, ""), ("mrr", "MRR", MIDDLE, "//"),
                ("lacc", "lenient accuracy", LIGHT, ".."))  # fmt: skip
    figure, axes = new_figure(9, 3.6)
    at = np.arange(len(rows))
    for number, (name, label, color, hatch) in enumerate(measures):
        values = [100 * row[name] for row in rows]
        axes.bar(at + 0.26 * (number - 1), values, 0.24, color=color, edgecolor=DARK,
                 hatch=hatch, label=label)  # fmt: skip
    for x, row in zip(at, rows, strict=True):
        axes.hlines(100 * row["ceiling"], x - 0.42, x + 0.42, color=ACCENT, linewidth=2,
                    label="extractive ceiling" if x == 0 else None)  # fmt: skip
    axes.set_xticks(at, [f"{row['batch']}\nn = {row['n']}" for row in rows])
    axes.set(ylabel="questions (%)", xlabel="test batch", ylim=(0, 105))
    axes.set_title("Scores by batch", loc="left", fontsize=11)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


_CAUSE_FILLS = (  # pale and plain where all is well, then darker or hatched: readable in gray
    ("#ffffff", ""), (LIGHT, ""), (LIGHT, "///"), ("#ffffff", "xxx"),
    (MIDDLE, ""), (MIDDLE, "\\\\\\"), (DARK, "..."), (DARK, ""),
)  # fmt: skip


def cause_bars(summary):
    """Questions by cause as stacked bars, one a batch; ``summary`` is ``errors.summary``'s."""
    names = [name for name in summary.columns if name not in ("all", "percent")]
    sizes = summary[names].sum()
    left = np.zeros(len(names))
    figure, axes = new_figure(9, 1.6 + 0.42 * len(names))
    for (cause, counts), (color, hatch) in zip(
        summary[names].iterrows(), _CAUSE_FILLS, strict=True
    ):
        share = (100 * counts / sizes).to_numpy()
        axes.barh(range(len(names)), share, left=left, color=color, hatch=hatch, height=0.72,
                  edgecolor="black", linewidth=0.8, label=cause)  # fmt: skip
        left += share
    axes.set_yticks(range(len(names)), [f"{name}\nn = {sizes[name]}" for name in names])
    axes.invert_yaxis()
    axes.set(xlabel="questions (%)", ylabel="test batch", xlim=(0, 100))
    axes.set_title("What became of the questions", loc="left", fontsize=11, pad=10)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4,
                  handlelength=2.6, handleheight=1.3)  # fmt: skip
    return figure


def softmax_bars(nbest, most: int = 8):
    """The first candidates of one n-best: sums of logits on the left, probabilities right."""
    shown = list(nbest)[:most]
    places = range(len(shown))
    figure, (left, right) = new_figure(9, 1.2 + 0.32 * len(shown), columns=2)
    sums = [c.start_logit + c.end_logit for c in shown]
    bars = left.barh(places, sums, color=MIDDLE, edgecolor="black", linewidth=0.6)
    left.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    left.axvline(0, color="black", linewidth=0.8)
    left.set_yticks(places, [cut(c.text) for c in shown])
    left.set(xlabel="start logit + end logit (no unit)")
    left.set_title("What the span head says", loc="left", fontsize=11)
    left.margins(x=0.18)
    chances = [100 * c.probability for c in shown]
    bars = right.barh(places, chances, color=DARK, edgecolor="black", linewidth=0.6)
    right.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
    right.set_yticks(places, [""] * len(shown))
    right.set(xlabel="probability (%)", xlim=(0, 112))
    right.set_title("After the softmax", loc="left", fontsize=11)
    left.invert_yaxis()
    right.invert_yaxis()
    return figure


def merge_bars(parts):
    """Each answer's probability in each snippet, stacked; ``parts``: answer × snippet, 0 to 1.

    A whole bar is the score of merging by sum, its longest piece that of merging by max.
    """
    figure, axes = new_figure(9, 1.6 + 0.42 * len(parts))
    looks = ((DARK, ""), (LIGHT, "///"), (MIDDLE, ""), ("#ffffff", "..."))
    left = np.zeros(len(parts))
    for number, (name, column) in enumerate(parts.items()):
        color, hatch = looks[number % len(looks)]
        axes.barh(range(len(parts)), column, left=left, color=color, hatch=hatch, height=0.7,
                  edgecolor="black", linewidth=0.8, label=str(name))  # fmt: skip
        left += column.to_numpy()
    longest = parts.max(axis=1).to_numpy()
    for place, (total, peak) in enumerate(zip(left, longest, strict=True)):
        axes.text(total, place, f"  sum {total:.2f}, max {peak:.2f}", va="center", fontsize=9)
    axes.set_yticks(range(len(parts)), [cut(text) for text in parts.index])
    axes.set(xlabel="probability, added up over the snippets (no unit)",
             xlim=(0, 1.28 * max(left.max(initial=0), 0.1)))  # fmt: skip
    axes.set_title("One question's answers, snippet by snippet", loc="left", fontsize=11)
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def cut(text: str, length: int = 34) -> str:
    """A text as a label: on one line, and no longer than there is room for."""
    text = " ".join(str(text).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"
