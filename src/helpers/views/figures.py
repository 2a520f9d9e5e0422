"""The figures of notebooks 00 and 01: the map, a model's parts, row orders, head, deep stacks.

The figures: matplotlib only, axes labeled with units, legible in black and white.

Every function returns a figure and draws nothing else, so a notebook shows it and the run folder
keeps it. Hatches and line styles carry what colours do.

The figures of the conversion: what each step leaves, how long texts are, what can be found.

Figures about results: what moves a score, what a protocol is worth, runs beside published rows.

Rules as in ``plots``: labeled axes with units, markers and hatches that survive black and white.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from helpers.model.row_order import NEEDED
from helpers.run.folder import Run
from helpers.scoring.metrics import MEASURES

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


ROW_ORDERS = {
    "0": "[part, head, number]", "1.0": "[head, number, part]", "2.0": "[head, part, number]"
}  # fmt: skip


def notebook_flow(steps: Sequence[tuple[str, str, str]]):
    """The notebooks from top to bottom, (name, what it does, files it hands on)."""
    figure, axes = new_figure(7.5, 0.25 + 0.95 * len(steps))
    for number, (name, does, writes) in enumerate(steps):
        y = -number
        axes.add_patch(plt.Rectangle((0, y - 0.28), 3.6, 0.56, facecolor=LIGHT, edgecolor=DARK))
        axes.text(0.12, y + 0.1, name, va="center", fontsize=10, weight="bold")
        axes.text(0.12, y - 0.13, does, va="center", fontsize=9)
        last = number == len(steps) - 1
        axes.annotate("", (1.8, y - (0.62 if last else 0.72)), (1.8, y - 0.28),
                      arrowprops={"arrowstyle": "-|>", "color": DARK})  # fmt: skip
        axes.text(1.95, y - 0.5, writes, va="center", fontsize=9, family="monospace")
    axes.set(xlim=(-0.05, 5.2), ylim=(-len(steps) + 0.25, 0.4))
    axes.set_axis_off()  # a drawing, not a measurement
    return figure


def part_bars(models: dict[str, dict[str, int]]):
    """Weights of each part of a model in millions, one panel a model: name -> part -> count."""
    figure, panels = new_figure(9, 2.6, columns=len(models))
    for axes, (name, parts) in zip(np.atleast_1d(panels), models.items(), strict=True):
        millions = [count / 1e6 for count in parts.values()]
        total = sum(millions)
        bars = axes.barh(list(parts), millions, color=MIDDLE, edgecolor=DARK)
        labels = [
            f"{100 * value / total:.0f}%" if value > 0.01 * total else "< 1%" for value in millions
        ]
        axes.bar_label(bars, labels, padding=4)
        axes.invert_yaxis()
        axes.set(xlabel="weights (millions)", xlim=(0, 1.2 * max(millions)))
        axes.set_title(f"{name}: {total:.1f} million", loc="left", fontsize=11)
    return figure


def order_scores(found: dict):
    """``internals.row_orders`` as bars; dashed: what the best must reach to be accepted."""
    figure, axes = new_figure(7, 2.6)
    names = list(found["scores"])
    labels = [f"{name}: {ROW_ORDERS[name]}" for name in names]
    colours = [DARK if name == found["order"] else LIGHT for name in names]
    bars = axes.barh(labels, found["scores"].values(), color=colours, edgecolor=DARK)
    axes.bar_label(bars, [f"{value:.2f}" for value in found["scores"].values()], padding=4)
    if found["kind"] in NEEDED:
        axes.axvline(NEEDED[found["kind"]][0], color="black", linestyle="--", linewidth=1)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.1), xlabel=found["measure"], ylabel="rows run over")
    axes.set_title(f"The three row orders; dark: {found['order']}", loc="left", fontsize=11)
    return figure


def span_logits(tokens: Sequence[tuple[str, float, float]], chosen: Sequence[int] = ()):
    """Start and end logit of every token, (token, start, end); ``chosen`` tokens are marked."""
    names, start, end = zip(*tokens, strict=True)
    figure, axes = new_figure(max(6.0, 0.27 * len(names) + 1), 3.6)
    at = np.arange(len(names))
    axes.bar(at - 0.2, start, 0.4, color=DARK, label="start")
    axes.bar(at + 0.2, end, 0.4, color="white", edgecolor=DARK, hatch="////", label="end")
    axes.axhline(0, color="black", linewidth=0.8)
    if len(chosen):
        axes.axvspan(min(chosen) - 0.5, max(chosen) + 0.5, color=ACCENT, alpha=0.25, zorder=0,
                     label="the answer chosen")  # fmt: skip
    axes.set_xticks(at, names, rotation=90, fontsize=9)
    axes.set(xlabel="token", ylabel="logit", xlim=(-0.7, len(names) - 0.3))
    axes.set_title("What the span head says of every token", loc="left", fontsize=11)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False)
    return figure


_STACKS = ((False, "post-LayerNorm", "o", DARK), (True, "pre-LayerNorm", "s", ACCENT))


def _mean_of(stacks, layers: int, norm_first: bool, what: str) -> np.ndarray:
    """Mean over seeds of a ``internals.Stack``'s values, one for each layer."""
    same = [s for s in stacks if s.layers == layers and s.norm_first == norm_first]
    return np.mean([getattr(s, what) for s in same], axis=0)


def depth_gradients(stacks):
    """Gradients of ``internals.Stack`` rows: layer by layer, and each stack's last layer."""
    depths = sorted({s.layers for s in stacks})
    figure, (left, right) = new_figure(9, 3.3, columns=2)
    for norm_first, name, marker, color in _STACKS:
        deepest = _mean_of(stacks, depths[-1], norm_first, "gradients")
        left.plot(range(1, depths[-1] + 1), deepest, marker=marker, color=color, markersize=4,
                  label=name)  # fmt: skip
        last = [_mean_of(stacks, depth, norm_first, "gradients")[-1] for depth in depths]
        right.plot(depths, last, marker=marker, color=color, label=name)
        slope = [last[0] * (1 if not norm_first else (depths[0] / d) ** 0.5) for d in depths]
        right.plot(depths, slope, ":", color="black", linewidth=1.5,
                   label=None if norm_first else "theory: constant, 1/√layers")  # fmt: skip
    left.set(xlabel="layer (1 reads the embeddings)", ylabel="norm of the gradient", ylim=(0, None))
    left.set_title(f"Every layer of a stack of {depths[-1]}", loc="left", fontsize=11)
    right.set(xlabel="layers in the stack", ylabel="norm of the gradient", xscale="log",
              ylim=(0, None))  # fmt: skip
    right.set_xticks(depths, [str(depth) for depth in depths])
    right.minorticks_off()
    right.set_title("The last layer, by depth of the stack", loc="left", fontsize=11)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  frameon=False)  # fmt: skip
    return figure


def depth_likeness(stacks):
    """How alike the tokens of a window become, layer by layer, in the deepest stack."""
    layers = max(s.layers for s in stacks)
    figure, axes = new_figure(7, 3)
    for norm_first, name, marker, color in _STACKS:
        values = _mean_of(stacks, layers, norm_first, "likeness")
        axes.plot(range(1, layers + 1), values, marker=marker, color=color, markersize=4,
                  label=name)  # fmt: skip
    axes.set(xlabel="layer (1 reads the embeddings)", ylabel="mean cosine of two tokens")
    axes.set(ylim=(0, 1.05))
    axes.set_title(f"How alike tokens are in a random stack of {layers}", loc="left", fontsize=11)
    axes.legend(loc="lower right", frameon=False)
    return figure


_WIDEST = 0.99  # of the texts are inside the picture; a few very long ones would squeeze it


def keep(figure, run: Run, name: str, made_by: str):
    """Save a figure into the run's folder, record it, and return it to be shown."""
    path = run.path(f"figures/{name}.png")
    figure.savefig(path, dpi=140)
    run.record(Path(path), made_by)
    return figure


def funnel(questions: Sequence[tuple[str, int]], pairs: Sequence[tuple[str, int]]):
    """What each step leaves, (name, count) first to last: questions left, pairs right."""
    figure, axes = new_figure(10, 1.1 + 0.4 * max(len(questions), len(pairs)), columns=2)
    for side, steps, what in zip(axes, (questions, pairs), ("questions", "pairs"), strict=True):
        names, counts = zip(*steps, strict=True)
        bars = side.barh(names, counts, color=[LIGHT] * (len(steps) - 1) + [DARK], edgecolor=DARK)
        side.bar_label(bars, [f"{count:,}" for count in counts], padding=4)
        side.invert_yaxis()
        side.set_xlabel("questions" if what == "questions" else "question-context pairs, or rows")
        side.set_title(f"Training {what} after each step", loc="left", fontsize=11)
        side.set_xlim(0, 1.18 * max(*counts, 1))
    return figure


def distributions(parts: Mapping[str, Mapping[str, Sequence[int]]]):
    """Words a context (left) and contexts a question (right), in percent of each part.

    ``parts``: part -> {"words": one number a context, "contexts": one a question}; the first is
    drawn with a solid line and plain bars, the second dashed and hatched.
    """
    figure, (left, right) = new_figure(10, 3.3, columns=2)
    every = [n for part in parts.values() for n in part["words"]]
    top = int(np.quantile(every, _WIDEST)) + 1
    bins = np.arange(0, top + 10, max(1, round(top / 30)))
    most = max(n for part in parts.values() for n in part["contexts"])
    looks = (("-", DARK, MIDDLE, ""), ("--", ACCENT, "#ffffff", "///"))
    for number, ((name, part), look) in enumerate(zip(parts.items(), looks, strict=False)):
        style, line, fill, hatch = look
        words = np.asarray(part["words"])
        share, edges = np.histogram(words, bins)
        label = f"{name}: mean {words.mean():.0f}, longest {words.max()}"
        left.stairs(100 * share / len(words), edges, color=line, linestyle=style, linewidth=1.6,
                    label=label)  # fmt: skip
        counts = Counter(min(n, 15) for n in part["contexts"])
        at = np.asarray(sorted(counts)) + 0.4 * number - 0.2
        heights = [100 * counts[n] / len(part["contexts"]) for n in sorted(counts)]
        right.bar(at, heights, 0.38, color=fill, hatch=hatch, edgecolor=DARK, label=name)
    left.set(xlabel="length of a context (words)", ylabel="contexts (%)", xlim=(0, top))
    left.set_title("How long the contexts are", loc="left", fontsize=11)
    left.set_ylim(0, 1.35 * left.get_ylim()[1])  # room for the key
    left.legend(loc="upper right")
    right.set(xlabel="contexts of a question" + (" (15: or more)" if most > 15 else ""),
              ylabel="questions (%)")  # fmt: skip
    right.set_title("How many there are", loc="left", fontsize=11)
    right.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    right.legend()
    return figure


def coverage_bars(rows: Sequence[Mapping[str, int]]):
    """What the strict rule finds in each batch, and the ceiling; ``rows``: ``dataset.coverage``."""
    figure, axes = new_figure(9, 3.8)
    for x, row in enumerate(rows):
        scale = 100 / max(row["questions"], 1)
        axes.bar(x, scale * row["strict rule"], 0.7, color=MIDDLE, edgecolor=DARK, linewidth=0.7,
                 label="strict rule" if x == 0 else None)  # fmt: skip
        ceiling = scale * row["ceiling"]
        axes.hlines(ceiling, x - 0.45, x + 0.45, color=ACCENT, linewidth=2.2,
                    label="extractive ceiling" if x == 0 else None)  # fmt: skip
        axes.text(x, 2, f"{ceiling:.1f}%\n{row['ceiling']} of {row['questions']}", ha="center",
                  fontsize=9, bbox={"color": "white", "pad": 1.5})  # fmt: skip
    axes.set_xticks(range(len(rows)), [row["batch"] for row in rows])
    axes.set(xlabel="test batch (in its bar: the ceiling)", ylabel="questions (%)", ylim=(0, 104))
    axes.set_title("Questions with an answer in some text", loc="left", fontsize=11)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def two_sources(found: Mapping, seeds: Sequence[int]):
    """Questions and seeds apart, for each measure; ``found`` is what ``uncertainty.sources`` gives.

    Above: the interval of the mean over seeds when questions are resampled. Below: each seed's
    score, with the mean and one standard deviation to both sides.
    """
    figure, axes = new_figure(9, 1.3 + 0.95 * len(found))
    for place, (_, s) in enumerate(found.items()):
        top, bottom = place - 0.17, place + 0.17
        axes.plot(
            [100 * s.question_low, 100 * s.question_high],
            [top, top],
            color=DARK,
            linewidth=3,
            solid_capstyle="butt",
            label="questions: 95% interval" if not place else None,
        )
        axes.plot(100 * s.mean, top, "|", color="white", markersize=9, markeredgewidth=2)
        if len(s.seeds) > 1:
            low, high = 100 * (s.mean - s.seed_sd), 100 * (s.mean + s.seed_sd)
            axes.plot(
                [low, high],
                [bottom, bottom],
                color=ACCENT,
                linewidth=1.5,
                linestyle="--",
                label="seeds: mean ± 1 standard deviation" if not place else None,
            )
        axes.plot(
            [100 * v for v in s.seeds],
            [bottom] * len(s.seeds),
            "o",
            color=ACCENT,
            markerfacecolor="white",
            markersize=6,
            label=f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
            if not place
            else None,
        )
    axes.set_yticks(range(len(found)), list(found))
    axes.set(xlabel="score (%)", ylim=(len(found) - 0.5, -0.5))
    axes.grid(axis="x", color=LIGHT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title("Two things that move a score", loc="left", fontsize=11)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def forest(ours: Sequence[Mapping], theirs: Sequence[Mapping]):
    """Rows of ``compare`` from top to bottom, one panel a measure: ours filled, published hollow.

    Ours have the interval over questions and one stroke a seed. A published row has an interval
    only where exactly one number of right answers prints as it. A thin line separates the two.
    """
    rows = [*ours, *theirs]
    figure, panels = new_figure(12.5, 1.2 + 0.34 * len(rows), columns=len(MEASURES))
    for measure, axes in zip(MEASURES, panels, strict=True):
        for place, row in enumerate(rows):
            _forest_row(axes, place, row["measures"][measure], mine=place < len(ours))
        if theirs:
            axes.axhline(len(ours) - 0.5, color="black", linewidth=0.6)
        labels = [_label(row) for row in rows] if axes is panels[0] else [""] * len(rows)
        axes.set_yticks(range(len(rows)), labels, fontsize=9)
        axes.set(xlabel=f"{measure} (%)", ylim=(len(rows) - 0.4, -0.6))
        axes.margins(x=0.12)
        axes.grid(axis="x", color=LIGHT, linewidth=0.8)
        axes.set_axisbelow(True)
    hollow = " and published rows (hollow)" if theirs else ""
    figure.suptitle(f"Runs of this kit (filled){hollow}", fontsize=11)
    return figure


def _forest_row(axes, place: int, value: Mapping, mine: bool) -> None:
    if value["low"] is not None:
        ends = [100 * value["low"], 100 * value["high"]]
        look = {"color": DARK, "linewidth": 2} if mine else {"color": MIDDLE, "linestyle": ":"}
        axes.plot(ends, [place, place], **look)
    for one in value.get("by_seed", ()):
        axes.plot(100 * one, place, "|", color=ACCENT, markersize=10, markeredgewidth=1.3)
    face = DARK if mine else "white"
    axes.plot(100 * value["mean"], place, "o", markersize=5, color=DARK, markerfacecolor=face)
    axes.annotate(
        f"{100 * value['mean']:.1f}",
        (100 * value["mean"], place),
        fontsize=8,
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
    )


def switches(found: Sequence):
    """How many points of strict accuracy each switch moves; ``found`` are ``protocols.Effect``."""
    own = next(100 * e.score.sacc for e in found if e.own)
    shown = [e for e in found if e.score is not None and not e.own]
    changes = np.array([100 * e.score.sacc - own for e in shown])
    figure, axes = new_figure(9, 1.2 + 0.34 * len(shown))
    bars = axes.barh(range(len(shown)), changes, color=MIDDLE, edgecolor="black", linewidth=0.6)
    for bar, change in zip(bars, changes, strict=True):
        bar.set_hatch("///" if change < 0 else "")
    axes.bar_label(bars, [f"{change:+.1f}" for change in changes], padding=3, fontsize=9)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [f"{e.switch}: {e.setting}" for e in shown], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel=f"change of strict accuracy (points), from {own:.1f}%")
    axes.set_title("What the fine print is worth", loc="left", fontsize=11)
    return figure


def _label(row: Mapping) -> str:
    made = {"untrained": ", untrained", "squad-only": ", SQuAD step only", "lexical": ""}
    if "system" in row:
        extra = made.get(row["system"], f" ({row['profile']})")
    else:
        extra = " after SQuAD" if "then" in row["training"] and "SQuAD" not in row["name"] else ""
    context = "?" if row["context"] == "unpublished" else row["context"]
    return f"{cut(row['name'], 60)}{extra}: {context}"
