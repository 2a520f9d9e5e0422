"""The figures of all notebooks, in their order: matplotlib, axes labeled with units.

Every function returns a figure and displays nothing, so a notebook can show it and the run folder
can keep it. Hatches, markers and line styles repeat what colors say, for print in black and white.
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
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.spines.right": False,
    "figure.dpi": 110,
    "font.size": 10,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


class PlainTextFigure(Figure):
    """A figure that never reads a label as a formula, even if the label has two dollar signs."""

    def draw(self, renderer) -> None:
        for text in self.findobj(Text):
            text.set_parse_math(False)
        with plt.rc_context({"text.parse_math": False}):  # for ticks that drawing creates
            super().draw(renderer)


def new_figure(width: float, height: float, *titles: str):
    """A figure (inches) in the kit's style with one panel per title, and its axes.

    The axes are a list if there are several titles.
    """
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            1, len(titles) or 1, figsize=(width, height), FigureClass=PlainTextFigure
        )
        plt.close(figure)  # otherwise a notebook would show it twice
        for panel, title in zip(np.atleast_1d(axes), titles, strict=False):
            panel.set_title(title)
    return figure, axes


def keep(figure, run: Run, name: str, made_by: str):
    """Save a figure into the run's folder, record it, and return it to be shown."""
    path = run.path(f"figures/{name}.png")
    figure.savefig(path, dpi=140)
    run.record(Path(path), made_by)
    return figure


def cut(text: str, length: int = 34) -> str:
    """A text as a label: on one line, and no longer than there is room for."""
    text = " ".join(str(text).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _legend_below(figure, axes, columns: int = 3) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


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
    """Weights of each part of a model in millions, one panel per model: name -> part -> count."""
    totals = {name: sum(parts.values()) for name, parts in models.items()}
    titles = [f"{name}: {total / 1e6:.1f} million" for name, total in totals.items()]
    figure, panels = new_figure(9, 2.6, *titles)
    for axes, (name, parts) in zip(np.atleast_1d(panels), models.items(), strict=True):
        shares = [count / totals[name] for count in parts.values()]
        bars = axes.barh(
            list(parts), [n / 1e6 for n in parts.values()], color=MIDDLE, edgecolor=DARK
        )
        labels = [f"{share:.0%}" if share > 0.01 else "< 1%" for share in shares]
        axes.bar_label(bars, labels, padding=4)
        axes.invert_yaxis()
        axes.set(xlabel="weights (millions)", xlim=(0, 1.2e-6 * max(parts.values())))
    return figure


ROW_ORDERS = {
    "0": "[part, head, number]", "1.0": "[head, number, part]", "2.0": "[head, part, number]"
}  # fmt: skip


def order_scores(found: dict):
    """``measure.row_orders`` as bars; the dashed line is what the best order must reach."""
    figure, axes = new_figure(7, 2.6, f"The three row orders; dark: {found['order']}")
    scores = found["scores"]
    labels = [f"{name}: {ROW_ORDERS[name]}" for name in scores]
    colors = [DARK if name == found["order"] else LIGHT for name in scores]
    bars = axes.barh(labels, scores.values(), color=colors, edgecolor=DARK)
    axes.bar_label(bars, fmt="%.2f", padding=4)
    if found["kind"] in NEEDED:
        axes.axvline(NEEDED[found["kind"]][0], color="black", linestyle="--", linewidth=1)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.1), xlabel=found["measure"], ylabel="order of the rows")
    return figure


def span_logits(tokens: Sequence[tuple[str, float, float]], chosen: Sequence[int] = ()):
    """Start and end logit of every token, (token, start, end); ``chosen`` tokens are marked."""
    names, start, end = zip(*tokens, strict=True)
    figure, axes = new_figure(
        max(6.0, 0.27 * len(names) + 1), 3.6, "What the span head says of every token"
    )
    at = np.arange(len(names))
    axes.bar(at - 0.2, start, 0.4, color=DARK, label="start")
    axes.bar(at + 0.2, end, 0.4, color="white", edgecolor=DARK, hatch="////", label="end")
    axes.axhline(0, color="black", linewidth=0.8)
    if len(chosen):
        axes.axvspan(min(chosen) - 0.5, max(chosen) + 0.5, color=ACCENT, alpha=0.25, zorder=0,
                     label="the answer chosen")  # fmt: skip
    axes.set_xticks(at, names, rotation=90, fontsize=9)
    axes.set(xlabel="token", ylabel="logit", xlim=(-0.7, len(names) - 0.3))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False)
    return figure


_STACKS = ((False, "post-LayerNorm", "o", DARK), (True, "pre-LayerNorm", "s", ACCENT))


def depth_gradients(stacks):
    """Gradients in ``measure.Stack`` rows: layer by layer, and in the last layer of each stack."""
    depths = sorted({s.layers for s in stacks})
    titles = f"Every layer of a stack of {depths[-1]}", "The last layer, by depth of the stack"
    figure, (left, right) = new_figure(9, 3.3, *titles)

    def gradients(layers: int, norm_first: bool) -> np.ndarray:  # mean over seeds, one per layer
        same = [s for s in stacks if s.layers == layers and s.norm_first == norm_first]
        return np.mean([s.gradients for s in same], axis=0)

    for norm_first, name, marker, color in _STACKS:
        look = {"marker": marker, "color": color, "label": name}
        left.plot(range(1, depths[-1] + 1), gradients(depths[-1], norm_first), markersize=4, **look)
        last = [gradients(depth, norm_first)[-1] for depth in depths]
        right.plot(depths, last, **look)
        theory = [last[0] * (depths[0] / depth) ** (0.5 * norm_first) for depth in depths]
        label = None if norm_first else "theory: constant, 1/√layers"
        right.plot(depths, theory, ":", color="black", linewidth=1.5, label=label)
    left.set(xlabel="layer (1 reads the embeddings)")
    right.set(xlabel="layers in the stack", xscale="log")
    for axes in (left, right):
        axes.set(ylabel="norm of the gradient", ylim=(0, None))
    right.set_xticks(depths, [str(depth) for depth in depths])
    right.minorticks_off()
    _legend_below(figure, right)
    return figure


_WIDEST = 0.99  # of the texts are inside the picture; a few very long ones would squeeze it


def funnel(questions: Sequence[tuple[str, int]], pairs: Sequence[tuple[str, int]]):
    """What remains after each step, as (name, count): questions on the left, pairs on the right."""
    titles = "Training questions after each step", "Training pairs after each step"
    figure, axes = new_figure(10, 1.1 + 0.4 * max(len(questions), len(pairs)), *titles)
    units = "questions", "question-context pairs, or rows"
    for side, steps, unit in zip(axes, (questions, pairs), units, strict=True):
        names, counts = zip(*steps, strict=True)
        bars = side.barh(names, counts, color=[LIGHT] * (len(steps) - 1) + [DARK], edgecolor=DARK)
        side.bar_label(bars, [f"{count:,}" for count in counts], padding=4)
        side.invert_yaxis()
        side.set(xlabel=unit, xlim=(0, 1.18 * max(*counts, 1)))
    return figure


def distributions(parts: Mapping[str, Mapping[str, Sequence[int]]]):
    """Words a context (left) and contexts a question (right), in percent of each part.

    ``parts``: part -> {"words": one number a context, "contexts": one a question}; the first is
    drawn with a solid line and plain bars, the second dashed and hatched.
    """
    figure, (left, right) = new_figure(10, 3.3, "How long the contexts are", "How many there are")
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
    left.set_ylim(0, 1.35 * left.get_ylim()[1])  # room for the key
    left.legend(loc="upper right")
    right.set(xlabel="contexts of a question" + (" (15: or more)" if most > 15 else ""),
              ylabel="questions (%)")  # fmt: skip
    right.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    right.legend()
    return figure


def coverage_bars(rows: Sequence[Mapping[str, int]]):
    """What the strict rule finds in each batch, and the ceiling; ``rows``: ``dataset.coverage``."""
    figure, axes = new_figure(9, 3.8, "Questions with an answer in some text")
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
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
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
    figure, axes = new_figure(7.5, 3.2, "What the model has to read")
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
    return figure


def training_curve(history: Sequence[tuple[int, float, float, float]]):
    """Loss of every step, its running mean over 20 steps, and the learning rate below it."""
    steps, losses, rates = (np.asarray(column) for column in list(zip(*history, strict=True))[:3])
    figure, (left, right) = new_figure(9, 3, "Training loss", "Schedule")
    left.plot(steps, losses, color=MIDDLE, linewidth=0.6, label="each step")
    width = min(20, len(losses))
    mean = np.convolve(losses, np.ones(width) / width, mode="valid")
    left.plot(steps[width - 1 :], mean, color=DARK, linewidth=2, label=f"mean of {width}")
    left.set(xlabel="optimizer step", ylabel="loss (nats)", ylim=(0, None))
    left.legend()
    right.plot(steps, rates, color=DARK)
    right.set(xlabel="optimizer step", ylabel="learning rate", ylim=(0, None))
    right.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
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
    figure, axes = new_figure(9, 1.6 + 0.42 * len(names), "What became of the questions")
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
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4,
                  handlelength=2.6, handleheight=1.3)  # fmt: skip
    return figure


def softmax_bars(nbest, most: int = 8):
    """The first candidates of one n-best: sums of logits on the left, probabilities right."""
    shown = list(nbest)[:most]
    places = range(len(shown))
    figure, (left, right) = new_figure(
        9, 1.2 + 0.32 * len(shown), "What the span head says", "After the softmax"
    )
    sums = [c.start_logit + c.end_logit for c in shown]
    bars = left.barh(places, sums, color=MIDDLE, edgecolor="black", linewidth=0.6)
    left.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    left.axvline(0, color="black", linewidth=0.8)
    left.set_yticks(places, [cut(c.text) for c in shown])
    left.set(xlabel="start logit + end logit (no unit)")
    left.margins(x=0.18)
    chances = [100 * c.probability for c in shown]
    bars = right.barh(places, chances, color=DARK, edgecolor="black", linewidth=0.6)
    right.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
    right.set_yticks(places, [""] * len(shown))
    right.set(xlabel="probability (%)", xlim=(0, 112))
    left.invert_yaxis()
    right.invert_yaxis()
    return figure


def merge_bars(parts):
    """Each answer's probability in each snippet, stacked; ``parts``: answer × snippet, 0 to 1.

    A whole bar is the score of merging by sum, its longest piece that of merging by max.
    """
    figure, axes = new_figure(
        9, 1.6 + 0.42 * len(parts), "One question's answers, snippet by snippet"
    )
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
    axes.invert_yaxis()
    _legend_below(figure, axes, 4)
    return figure


def score_bars(scores: dict):
    """Strict accuracy, MRR and lenient accuracy of every batch, with the ceiling as a line."""
    rows = [*scores["batches"], scores["pooled"]]
    measures = (("sacc", "strict accuracy", DARK, ""), ("mrr", "MRR", MIDDLE, "//"),
                ("lacc", "lenient accuracy", LIGHT, ".."))  # fmt: skip
    figure, axes = new_figure(9, 3.6, "Scores by batch")
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
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def two_sources(found: Mapping, seeds: Sequence[int]):
    """What moves each measure: the questions (above) and the seeds (below).

    ``found`` comes from ``uncertainty.sources``. Above: the interval of the mean over seeds when
    questions are resampled. Below: each seed's score, and the mean ± one standard deviation.
    """
    title = "Two things that move a score"
    figure, axes = new_figure(9, 1.3 + 0.95 * len(found), title)
    seed_names = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    for place, s in enumerate(found.values()):
        top, bottom = place - 0.17, place + 0.17
        interval = [100 * s.question_low, 100 * s.question_high]
        axes.plot(interval, [top, top], color=DARK, linewidth=3, solid_capstyle="butt",
                  label="questions: 95% interval")  # fmt: skip
        axes.plot(100 * s.mean, top, "|", color="white", markersize=9, markeredgewidth=2)
        if len(s.seeds) > 1:
            ends = [100 * (s.mean - s.seed_sd), 100 * (s.mean + s.seed_sd)]
            axes.plot(ends, [bottom, bottom], "--", color=ACCENT, linewidth=1.5,
                      label="seeds: mean ± 1 standard deviation")  # fmt: skip
        axes.plot([100 * score for score in s.seeds], [bottom] * len(s.seeds), "o", color=ACCENT,
                  markerfacecolor="white", markersize=6, label=seed_names)  # fmt: skip
    axes.set_yticks(range(len(found)), list(found))
    axes.set(xlabel="score (%)", ylim=(len(found) - 0.5, -0.5))
    axes.grid(axis="x", color=LIGHT, linewidth=0.8)
    axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    keys = dict(zip(labels, handles, strict=True))  # one key per kind, not one per measure
    figure.legend(keys.values(), keys, loc="outside lower center", ncols=3)
    return figure


def switches(found: Sequence):
    """How many points of strict accuracy each switch moves; ``found`` are ``protocols.Effect``."""
    own = next(100 * e.score.sacc for e in found if e.own)
    shown = [e for e in found if e.score is not None and not e.own]
    changes = np.array([100 * e.score.sacc - own for e in shown])
    figure, axes = new_figure(9, 1.2 + 0.34 * len(shown), "What the fine print is worth")
    bars = axes.barh(range(len(shown)), changes, color=MIDDLE, edgecolor="black", linewidth=0.6)
    for bar, change in zip(bars, changes, strict=True):
        bar.set_hatch("///" if change < 0 else "")
    axes.bar_label(bars, [f"{change:+.1f}" for change in changes], padding=3, fontsize=9)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [f"{e.switch}: {e.setting}" for e in shown], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel=f"change of strict accuracy (points), from {own:.1f}%")
    return figure


def forest(ours: Sequence[Mapping], theirs: Sequence[Mapping]):
    """Rows of ``compare`` from top to bottom, one panel a measure: ours filled, published hollow.

    Ours have the interval over questions and one stroke a seed. A published row has an interval
    only where exactly one number of right answers prints as it. A thin line separates the two.
    """
    rows = [*ours, *theirs]
    figure, panels = new_figure(12.5, 1.2 + 0.34 * len(rows), *[""] * len(MEASURES))
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
    mean = 100 * value["mean"]
    if value["low"] is not None:
        look = {"color": DARK, "linewidth": 2} if mine else {"color": MIDDLE, "linestyle": ":"}
        axes.plot([100 * value["low"], 100 * value["high"]], [place, place], **look)
    for score in value.get("by_seed", ()):
        axes.plot(100 * score, place, "|", color=ACCENT, markersize=10, markeredgewidth=1.3)
    face = DARK if mine else "white"
    axes.plot(mean, place, "o", markersize=5, color=DARK, markerfacecolor=face)
    axes.annotate(f"{mean:.1f}", (mean, place), (0, 6), textcoords="offset points", ha="center",
                  fontsize=8)  # fmt: skip


def _label(row: Mapping) -> str:
    made = {"untrained": ", untrained", "squad-only": ", SQuAD step only", "lexical": ""}
    if "system" in row:
        extra = made.get(row["system"], f" ({row['profile']})")
    else:
        extra = " after SQuAD" if "then" in row["training"] and "SQuAD" not in row["name"] else ""
    context = "?" if row["context"] == "unpublished" else row["context"]
    return f"{cut(row['name'], 60)}{extra}: {context}"
