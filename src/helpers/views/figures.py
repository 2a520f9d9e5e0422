"""The matplotlib figures of all notebooks, in the order of the notebooks.

Each function returns a figure without displaying it, so that a notebook can show it and save it in
the run folder. Hatches, markers and line styles carry the same information as the colors, so the
figures are also readable in black and white.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle, product

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from helpers.data.spans import Span
from helpers.model.row_order import NEEDED
from helpers.run.folder import Run
from helpers.scoring.claims import UNPUBLISHED
from helpers.scoring.errors import LATE
from helpers.scoring.metrics import MEASURES
from helpers.scoring.system import OUTSIDE, UNSTATED
from helpers.scoring.uncertainty import exact_interval
from helpers.views.alt import describe
from helpers.views.tables import cut

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
    """A figure with alternative text, in which two dollar signs never turn a label into a formula.

    Notebooks store the alternative text with the image (see ``alt.describe``).
    """

    def _repr_mimebundle_(self, **_) -> tuple[dict, dict]:  # IPython adds the image itself
        return {}, {"image/png": {"alt": describe(self)}}

    def draw(self, renderer) -> None:
        for text in self.findobj(Text):
            text.set_parse_math(False)
        with plt.rc_context({"text.parse_math": False}):  # for tick labels that draw() creates
            super().draw(renderer)


def new_figure(width: float, height: float, *titles: str, stacked: bool = False):
    """Return a figure in the kit's style (``width`` and ``height`` in inches) and its axes.

    The axes are an array with one element per title, or a single object if there is at most one
    title. They are side by side, or ``stacked`` with the same scales.
    """
    count = len(titles) or 1
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            *((count, 1) if stacked else (1, count)), sharex=stacked, sharey=stacked,
            figsize=(width, height), FigureClass=PlainTextFigure,
        )  # fmt: skip
        plt.close(figure)  # otherwise a notebook would show it twice
        for panel, title in zip(np.atleast_1d(axes), titles, strict=False):
            panel.set_title(title)
    return figure, axes


def keep(figure, run: Run, name: str, made_by: str):
    """Save a figure in the run folder, record it in the manifest, and return it for display."""
    path = run.path(f"figures/{name}.png")
    figure.savefig(path, dpi=140)
    run.record(path, made_by)
    return figure


def _legend(axes, columns: int = 3, place: str = "outside lower center", **look) -> None:
    """Draw a legend outside the axes, with one entry per label even if a label is repeated."""
    handles, labels = axes.get_legend_handles_labels()
    keys = dict(zip(labels, handles, strict=True))
    axes.figure.legend(keys.values(), keys, loc=place, ncols=columns, **look)


def _bars(axes, names: Sequence[str], values, texts: Sequence[str], **look) -> None:
    """Draw horizontal bars from top to bottom, with names on the left and labels at their ends."""
    places = range(len(names))
    bars = axes.barh(places, values, **{"color": MIDDLE, "edgecolor": DARK} | look)
    axes.bar_label(bars, texts, padding=4)
    axes.set_yticks(places, names)
    axes.invert_yaxis()


def _stacked_bars(axes, table, looks: Sequence[tuple[str, str]]) -> np.ndarray:
    """Draw each row of a data frame as a horizontal bar with one segment per column.

    ``looks`` gives the color and hatch of each column. Return the length of each bar, ``[rows]``.
    """
    left = np.zeros(len(table))
    for (name, sizes), (color, hatch) in zip(table.items(), cycle(looks), strict=False):
        axes.barh(range(len(table)), sizes, 0.7, left, color=color, hatch=hatch,
                  edgecolor="black", linewidth=0.8, label=str(name))  # fmt: skip
        left += sizes.to_numpy()
    axes.invert_yaxis()
    return left


def _ceilings(axes, percents: Sequence[float]) -> None:
    """Draw the extractive ceiling of each batch as a line across its bars."""
    at = np.arange(len(percents))
    axes.hlines(percents, at - 0.43, at + 0.43, color=ACCENT, linewidth=2,
                label="extractive ceiling")  # fmt: skip
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def notebook_flow(steps: Sequence[tuple[str, str, str]]):
    """Draw the notebooks from top to bottom. A step is (name, what it does, files it writes)."""
    figure, axes = new_figure(7.5, 0.95 * len(steps))
    arrow = {"arrowstyle": "-|>", "color": DARK}
    for number, (name, does, writes) in enumerate(steps):
        y = -number
        axes.add_patch(plt.Rectangle((0, y - 0.28), 3.6, 0.56, facecolor=LIGHT, edgecolor=DARK))
        axes.text(0.12, y + 0.1, name, va="center", fontsize=10, weight="bold")
        axes.text(0.12, y - 0.13, does, va="center", fontsize=9)
        end = y - 0.5 if number == len(steps) - 1 else y - 0.72  # the last one has a short arrow
        axes.annotate("", (1.8, end), (1.8, y - 0.28), arrowprops=arrow)
        axes.text(1.95, y - 0.5, writes, va="center", fontsize=9, family="monospace")
    axes.set(xlim=(-0.05, 5.2), ylim=(-len(steps) + 0.35, 0.4))
    axes.set_axis_off()  # a diagram needs no axes
    return figure


def part_bars(models: dict[str, dict[str, int]]):
    """Plot the weights per part in millions, with one panel per model (name -> part -> count)."""
    totals = {name: sum(parts.values()) for name, parts in models.items()}
    titles = [f"{name}: {total / 1e6:.1f} million" for name, total in totals.items()]
    figure, panels = new_figure(9, 2.6, *titles)
    for axes, (name, parts) in zip(np.atleast_1d(panels), models.items(), strict=True):
        shares = [count / totals[name] for count in parts.values()]
        labels = [f"{share:.0%}" if share > 0.01 else "< 1%" for share in shares]
        _bars(axes, list(parts), [count / 1e6 for count in parts.values()], labels)
        axes.set(xlabel="weights (millions)", xlim=(0, 1.2e-6 * max(parts.values())))
    return figure


ROW_ORDERS = {
    "0": "[part, head, number]", "1.0": "[head, number, part]", "2.0": "[head, part, number]"
}  # fmt: skip


def order_scores(found: dict):
    """Plot ``measure.row_orders`` as bars, with a dashed line at the score for a correct order."""
    figure, axes = new_figure(7, 2.6, f"Score for each row order (dark: order {found['order']})")
    scores = found["scores"]
    names = [f"{name}: {ROW_ORDERS[name]}" for name in scores]
    colors = [DARK if name == found["order"] else LIGHT for name in scores]
    _bars(axes, names, scores.values(), [f"{score:.2f}" for score in scores.values()], color=colors)
    if found["kind"] in NEEDED:
        axes.axvline(NEEDED[found["kind"]][0], color="black", linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1.1), xlabel=found["measure"], ylabel="row order")
    return figure


def span_logits(
    tokens: Sequence[tuple[str, float, float]],
    chosen: Sequence[int] = (),
    label: str = "chosen answer",
    trained: Sequence[tuple[str, float, float]] = (),
):
    """Plot the logits of (token, start, end) tuples; shade the tokens at the ``chosen`` indices.

    ``trained`` has the logits of the same tokens after training, which are drawn below on the same
    axes.
    """
    titles = ["The span head's logits for each token"]
    if trained:
        titles = [f"{titles[0]}, {when} training" for when in ("before", "after")]
    width = max(6.0, 0.27 * len(tokens) + 1)
    figure, panels = new_figure(width, 0.9 + 2.7 * len(titles), *titles, stacked=True)
    at = np.arange(len(tokens))
    for axes, rows in zip(np.atleast_1d(panels), filter(len, (tokens, trained)), strict=True):
        names, start, end = zip(*rows, strict=True)
        axes.bar(at - 0.2, start, 0.4, color=DARK, label="start")
        axes.bar(at + 0.2, end, 0.4, color="white", edgecolor=DARK, hatch="////", label="end")
        axes.axhline(0, color="black", linewidth=0.8)
        if len(chosen):
            axes.axvspan(min(chosen) - 0.5, max(chosen) + 0.5, color=ACCENT, alpha=0.25, zorder=0,
                         label=label)  # fmt: skip
        axes.set_xticks(at, names, rotation=90, fontsize=9)
        axes.set(xlabel="token", ylabel="logit", xlim=(-0.7, len(names) - 0.3))
    _legend(axes, place="outside upper right", frameon=False)
    return figure


_STACKS = ((False, "post-LayerNorm", "o", DARK), (True, "pre-LayerNorm", "s", ACCENT))


def depth_gradients(stacks):
    """Plot gradients in all layers of the deepest stacks and in the last layer of all stacks."""
    depths = sorted({s.layers for s in stacks})
    titles = f"All layers of a {depths[-1]}-layer stack", "Last layer in stacks of different depths"
    figure, (left, right) = new_figure(9, 3.3, *titles)

    def gradients(layers: int, norm_first: bool) -> np.ndarray:
        """Return the mean gradients over seeds, ``[layers]``."""
        same = [s for s in stacks if s.layers == layers and s.norm_first == norm_first]
        return np.mean([s.gradients for s in same], axis=0)

    for norm_first, name, marker, color in _STACKS:
        look = {"marker": marker, "color": color, "label": name}
        left.plot(range(1, depths[-1] + 1), gradients(depths[-1], norm_first), markersize=4, **look)
        last = [gradients(depth, norm_first)[-1] for depth in depths]
        right.plot(depths, last, **look)
        theory = [last[0] * (depths[0] / depth) ** (0.5 * norm_first) for depth in depths]
        right.plot(depths, theory, ":", color="black", linewidth=1.5,
                   label="theory (post: constant, pre: 1/√layers)")  # fmt: skip
    left.set(xlabel="layer (layer 1 reads the embeddings)")
    right.set(xlabel="number of layers in the stack", xscale="log")
    for axes in (left, right):
        axes.set(ylabel="norm of the gradient", ylim=(0, None))
    right.set_xticks(depths, [str(depth) for depth in depths])
    right.minorticks_off()
    _legend(right)
    return figure


def funnel(questions: Sequence[tuple[str, int]], pairs: Sequence[tuple[str, int]]):
    """Plot what remains after each (name, count) step: questions (left) and pairs (right)."""
    titles = "Training questions after each step", "Training pairs after each step"
    figure, axes = new_figure(10, 1.1 + 0.4 * max(len(questions), len(pairs)), *titles)
    units = "questions", "question-context pairs (rows)"
    for side, steps, unit in zip(axes, (questions, pairs), units, strict=True):
        names, counts = zip(*steps, strict=True)
        colors = [LIGHT] * (len(steps) - 1) + [DARK]
        _bars(side, names, counts, [f"{count:,}" for count in counts], color=colors)
        side.set(xlabel=unit, xlim=(0, 1.18 * max(*counts, 1)))
    return figure


_WIDEST = 0.99  # share of contexts on the axis; very long ones would compress the rest


def distributions(parts: Mapping[str, Mapping[str, Sequence[int]]]):
    """Plot words per context (left) and contexts per question (right), in percent of each part.

    ``parts`` maps each part to {"words": one number per context, "contexts": one number per
    question}. The first part has a solid line and plain bars. The second part has a dashed line
    and hatched bars.
    """
    titles = "Words per context", "Contexts per question"
    figure, (left, right) = new_figure(10, 3.3, *titles)
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
        at, counts = np.unique(np.minimum(part["contexts"], 15), return_counts=True)
        right.bar(at + 0.4 * number - 0.2, 100 * counts / counts.sum(), 0.38, color=fill,
                  hatch=hatch, edgecolor=DARK, label=name)  # fmt: skip
    left.set(xlabel="context length (words)", ylabel="contexts (%)", xlim=(0, top))
    left.set_ylim(0, 1.35 * left.get_ylim()[1])  # room for the legend
    left.legend(loc="upper right")
    more = " (15 means 15 or more)" if most > 15 else ""
    right.set(xlabel=f"contexts per question{more}", ylabel="questions (%)")
    right.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    right.legend()
    return figure


def coverage_bars(rows: Sequence[Mapping[str, int]]):
    """Plot the coverage of the strict rule and the ceiling, from ``measure.coverage`` rows."""
    figure, axes = new_figure(9, 3.8, "Questions with an answer in at least one context")
    scales = [100 / max(row["questions"], 1) for row in rows]
    found = [scale * row["strict rule"] for scale, row in zip(scales, rows, strict=True)]
    ceilings = [scale * row["ceiling"] for scale, row in zip(scales, rows, strict=True)]
    axes.bar(range(len(rows)), found, 0.7, color=MIDDLE, edgecolor=DARK, label="strict rule")
    for x, (row, ceiling) in enumerate(zip(rows, ceilings, strict=True)):
        axes.text(x, ceiling + 2, f"{ceiling:.1f}%\n{row['ceiling']} of {row['questions']}",
                  ha="center", fontsize=9)  # fmt: skip
    axes.set_xticks(range(len(rows)), [row["batch"] for row in rows])
    axes.set(xlabel="test batch (numbers: ceiling)", ylabel="questions (%)", ylim=(0, 118),
             yticks=range(0, 101, 20))  # fmt: skip
    _ceilings(axes, ceilings)
    return figure


_LABELED = 100  # maximum number of tokens in a window map that labels each token


def window_map(windows, vocab: Sequence[str], answer: Span, most: int = 12):
    """Show which tokens of one context each window contains, and the best window for each token.

    ``windows`` is the ``features.Windows`` of a single example with the gold span ``answer``, made
    with ``training=True``. ``vocab`` maps each id to its token. If there are more than ``most``
    windows, only those around the answer are drawn. The tokens of a long context are numbered, and
    a line marks the answer, because the dots of neighboring tokens would overlap.
    """
    low, high = windows.chars.T
    within = (windows.token >= 0) & (low < answer.end) & (high > answer.start)
    holder = int(np.searchsorted(windows.bounds, np.argmax(within), "right")) - 1
    first = max(0, min(holder - most // 2, len(windows) - most))
    bounds = windows.bounds[first : first + most + 1]
    tokens = np.arange(bounds[0], bounds[-1])[windows.token[bounds[0] : bounds[-1]] >= 0]
    row = np.searchsorted(bounds, tokens, "right") - 1
    column = windows.token[tokens] - windows.token[tokens].min()
    rows, columns = len(bounds) - 1, int(column.max()) + 1
    shades = np.zeros((rows, columns))
    shades[row, column] = 1 + windows.can_start[tokens]
    labeled = columns <= _LABELED
    width, height = (0.15 * columns + 1.6, 1.9) if labeled else (10, 1.5)
    figure, axes = new_figure(width, height + min(0.3 * rows, 5))
    axes.imshow(shades, ListedColormap(["white", LIGHT, DARK]), vmin=0, vmax=2, aspect="auto",
                interpolation="nearest")  # fmt: skip
    axes.hlines(np.arange(1, rows) - 0.5, -0.5, columns - 0.5, color="white", linewidth=2)
    whole = within[tokens] & (windows.start[first + row] > 0)
    cut = within[tokens] & ~whole
    if labeled:
        mark = {"marker": "o", "linestyle": "", "markersize": 6, "markeredgecolor": "white"}
        axes.plot(column[whole], row[whole], color=ACCENT, **mark)
        part = mark | {"color": "white", "markeredgecolor": ACCENT}
        if cut.any():
            axes.plot(column[cut], row[cut], **part)
        axes.vlines(np.arange(1, columns) - 0.5, -0.5, rows - 0.5, color="white", linewidth=0.4)
        names = dict(zip(column.tolist(), (vocab[n] for n in windows.ids[tokens]), strict=True))
        axes.set_xticks([*names], [*names.values()], rotation=90, fontsize=9)
    else:
        thick = min(5, 0.6 * 72 * min(0.3, 5 / rows))  # points: thinner than a row
        mark = {"linewidth": thick, "solid_capstyle": "round"}
        part = mark | {"color": "white"}
        for marked, inner, outer in ((whole, ACCENT, "white"), (cut, "white", ACCENT)):
            edge = [withStroke(linewidth=1.5 * thick, foreground=outer)]
            for at in np.unique(row[marked]):
                ends = column[marked & (row == at)][[0, -1]]
                axes.plot(ends, [at, at], color=inner, path_effects=edge, **mark)
        part["path_effects"] = edge
    shown = range(0, rows, 1 + rows // 20)
    axes.set_yticks(shown, [f"window {first + at + 1}" for at in shown])
    axes.set(xlabel="tokens of the context" + ("" if labeled else " (numbered from 0)"))
    axes.tick_params(length=0)
    keys = [
        plt.Rectangle((0, 0), 1, 1, color=LIGHT, label="in the window"),
        plt.Rectangle((0, 0), 1, 1, color=DARK, label="best window for this token"),
        plt.Line2D([], [], color=ACCENT, label="complete answer", **mark),
        plt.Line2D([], [], label="part of the answer", **part),
    ]
    figure.legend(
        handles=keys[: 4 if cut.any() else 3], loc="outside upper left", ncols=4, frameon=False
    )
    return figure


def length_histogram(lengths: Sequence[int], limit: int):
    """Plot a histogram of tokens per window, with lines at the mean and the padded length."""
    mean = np.mean(lengths)
    figure, axes = new_figure(7.5, 3.2, "Tokens per window")
    axes.hist(lengths, bins=range(0, limit + 9, 8), color=MIDDLE, edgecolor=DARK, linewidth=0.5)
    top = axes.get_ylim()[1]
    for at, style, label, side, gap in (
        (mean, "-", f"mean: {mean:.0f}", "left", 5),
        (limit, "--", f"padded: {limit}", "right", -5),
    ):
        axes.axvline(at, color=ACCENT, linestyle=style)
        axes.annotate(label, (at, top), (gap, -10), textcoords="offset points", ha=side)
    axes.set(xlabel="window length (tokens)", ylabel="number of windows", xlim=(0, limit + 8))
    return figure


def training_curve(
    history: Sequence[tuple[int, float, float, float]], dev: Sequence[Mapping] = (), untrained=None
):
    """Plot the loss of each step and of the dev questions, and the learning rate.

    Each running mean is drawn at the middle of its 20 steps. ``dev`` contains the rows of
    ``step.DevCurve``. ``untrained`` is the loss of a model that gives all tokens the same logits.
    """
    steps, losses, rates = (np.asarray(column) for column in list(zip(*history, strict=True))[:3])
    figure, (left, right) = new_figure(9, 3.4, "Loss", "Learning-rate schedule")
    left.plot(steps, losses, color=MIDDLE, linewidth=0.6, label="training, each step")
    width = min(20, len(losses))
    mean = np.convolve(losses, np.ones(width) / width, mode="valid")
    middle = steps[: len(mean)] + (width - 1) / 2
    left.plot(middle, mean, color=DARK, linewidth=2, label=f"training, mean of {width} steps")
    if dev:
        left.plot(*zip(*((row["step"], row["loss"]) for row in dev), strict=True), "o--",
                  color=ACCENT, markersize=4, label="dev questions")  # fmt: skip
    if untrained is not None:
        left.axhline(untrained, color="black", linestyle=":", label="equal logits: mean of ln n")
    left.set(xlabel="optimizer step", ylabel="loss (nats)", ylim=(0, None))
    power = math.floor(math.log10(max(rates.max(), 1e-300)))
    right.plot(steps, rates / 10.0**power, color=DARK)
    right.set(xlabel="optimizer step", ylabel=f"learning rate (1e{power})", ylim=(0, None))
    _legend(left, 4)
    return figure


def sweep_curves(curves, setting: str = "learning_rate", source: str = ""):
    """Plot the dev loss and the dev MRR of several runs, one line per value of a setting.

    ``curves`` is a data frame with the columns ``setting``, ``step``, ``dev_loss`` and ``dev_mrr``.
    ``source`` is a line above the panels that says where the curves come from.
    """
    looks = cycle((("-", "o", DARK), ("--", "s", ACCENT), (":", "^", "black"), ("-.", "D", MIDDLE)))
    titles = "Loss on the dev questions", "MRR on the dev questions"
    figure, panels = new_figure(9, 3.6, *titles)
    figure.suptitle(source, fontsize=10)
    for (value, rows), (style, marker, color) in zip(curves.groupby(setting), looks, strict=False):
        for axes, name, scale in zip(panels, ("dev_loss", "dev_mrr"), (1, 100), strict=True):
            axes.plot(rows["step"], scale * rows[name], style, marker=marker, color=color,
                      markersize=4, label=f"{setting} = {value:g}")  # fmt: skip
    panels[0].set(xlabel="optimizer step", ylabel="loss (nats)", ylim=(0, None))
    panels[1].set(xlabel="optimizer step", ylabel="MRR (%)", ylim=(0, 100))
    _legend(panels[0])
    return figure


def run_curves(curves: Sequence[tuple[str, Sequence[float], Sequence[Mapping]]], window: int = 20):
    """Plot the learning curves of several runs, given (configuration, losses, dev scores) per run.

    Runs that differ only in their seeds have the same color and line style. The loss is a running
    mean of ``window`` steps. If there are dev scores, a second panel shows the MRR.
    """
    looks = cycle(product((DARK, ACCENT, MIDDLE), ("-", "--", ":", "-.")))
    names = dict.fromkeys(name for name, *_ in curves)
    chosen = dict(zip(names, looks, strict=False))
    titles = ["Training loss"] + ["MRR on the dev questions"] * any(dev for *_, dev in curves)
    figure, panels = new_figure(4.5 * len(titles), 3.6, *titles)
    panels = np.atleast_1d(panels)
    labelled = set()
    for name, losses, dev in curves:
        color, style = chosen[name]
        look = {"linestyle": style, "color": color, "linewidth": 1.2}
        label = {} if name in labelled else {"label": cut(name, 40)}
        labelled.add(name)
        size = min(window, len(losses))
        means = np.convolve(losses, np.ones(size) / size, mode="valid")
        panels[0].plot(np.arange(len(means)) + (size + 1) / 2, means, **look, **label)
        if dev:
            panels[1].plot([d["step"] for d in dev], [100 * d["mrr"] for d in dev], **look)
    panels[0].set(xlabel="optimizer step", ylabel="loss (nats)", ylim=(0, None))
    if len(panels) > 1:
        panels[1].set(xlabel="optimizer step", ylabel="MRR (%)", ylim=(0, 100))
    _legend(panels[0])
    return figure


_FAILURE_LOOKS = (  # plain for right answers, otherwise darker or hatched
    ("#ffffff", ""), ("#ffffff", "xxx"), (LIGHT, ""), (LIGHT, "///"),
    (MIDDLE, ""), (MIDDLE, "\\\\\\"), (DARK, ""),
)  # fmt: skip


def failure_bars(summary):
    """Plot the share of each failure per batch as stacked bars, from ``errors.summary``."""
    batches = summary.drop(columns=["all", "percent", LATE])
    sizes = batches.sum()
    figure, axes = new_figure(9, 1.6 + 0.42 * len(sizes), "Outcomes of the questions")
    _stacked_bars(axes, (100 * batches / sizes).T, _FAILURE_LOOKS)
    axes.set_yticks(range(len(sizes)), [f"{name}\nn = {size}" for name, size in sizes.items()])
    axes.set(xlabel="questions (%)", ylabel="test batch", xlim=(0, 100))
    _legend(axes, 4, handlelength=2.6, handleheight=1.3)
    return figure


def _answer_labels(texts: Sequence[str]) -> list[str]:
    """Return the texts of answers in up to two lines each, so that long ones do not overlap."""
    lines = [textwrap.wrap(" ".join(text.split()), 40) for text in texts]
    return ["\n".join([*own[:1], cut(" ".join(own[1:]), 40)]).strip() for own in lines]


def softmax_bars(nbest, most: int = 8):
    """Plot the first ``most`` candidates of an n-best list: logit sums and shares of the list."""
    shown = list(nbest)[:most]
    titles = "The span head's logits", "After the softmax"
    figure, (left, right) = new_figure(9.5, 1.2 + 0.4 * len(shown), *titles)
    sums = [c.start_logit + c.end_logit for c in shown]
    _bars(left, _answer_labels([c.text for c in shown]), sums, [f"{value:.2f}" for value in sums])
    left.axvline(0, color="black", linewidth=0.8)
    left.set(xlabel="start logit + end logit (no unit)")
    left.margins(x=0.2)
    chances = [100 * c.probability for c in shown]
    _bars(right, [""] * len(shown), chances, [f"{value:.1f}" for value in chances], color=DARK)
    right.set(xlabel="share of the list (%)", xlim=(0, 112))
    return figure


_SNIPPET_LOOKS = ((DARK, ""), (LIGHT, "///"), (MIDDLE, ""), ("#ffffff", "..."))


def merge_bars(parts):
    """Plot each answer's shares as one stacked bar. ``parts``: ``[answers, snippets]``.

    The full length of the bar is the answer's score when merging by sum. The length of its longest
    segment is the score when merging by max.
    """
    title = "Share of each answer, by snippet"
    figure, axes = new_figure(9.5, 1.6 + 0.42 * len(parts), title)
    totals = _stacked_bars(axes, parts, _SNIPPET_LOOKS)
    for place, (total, peak) in enumerate(zip(totals, parts.max(axis=1), strict=True)):
        axes.text(total, place, f"  sum {total:.2f}, max {peak:.2f}", va="center", fontsize=9)
    axes.set_yticks(range(len(parts)), _answer_labels(parts.index))
    axes.set(xlabel="share of the list, summed over the snippets (no unit)",
             xlim=(0, 1.28 * totals.max(initial=0.1)))  # fmt: skip
    _legend(axes, 4)
    return figure


def reliability_diagrams(tables: Mapping):
    """Draw one panel per table of ``confidence.reliability``: fraction right against confidence.

    On the diagonal, answers are right as often as their confidence promises. The lines are exact
    95% intervals, and n is the number of answers.
    """
    figure, panels = new_figure(4.2 * len(tables), 3.9, *tables)
    for axes, table in zip(np.atleast_1d(panels), tables.values(), strict=True):
        axes.plot([0, 100], [0, 100], "--", color=MIDDLE, label="perfect calibration")
        x, y = 100 * table["confidence"], 100 * table["right"]
        spread = [y - 100 * table["low_right"], 100 * table["high_right"] - y]
        axes.errorbar(x, y, spread, fmt="o", color=DARK, capsize=3, label="answers (95% interval)")
        for place, count in zip(x, table["questions"], strict=True):
            axes.annotate(f"n={count}", (place, -12), ha="center", va="center", fontsize=9)
        axes.set(xlabel="confidence (%)", ylabel="right first answers (%)",
                 xlim=(-2, 102), ylim=(-18, 102))  # fmt: skip
    _legend(np.atleast_1d(panels)[0], 2)
    return figure


def risk_curves(curves: Mapping):
    """Plot the risk against the coverage for each table of ``confidence.risk_coverage``."""
    figure, axes = new_figure(7.5, 3.6, "Errors if only the most confident answers are given")
    looks = cycle((("-", DARK), ("--", ACCENT), (":", MIDDLE)))
    for (name, table), (style, color) in zip(curves.items(), looks, strict=False):
        axes.plot(100 * table["coverage"], 100 * table["risk"], style, color=color, linewidth=2,
                  drawstyle="steps-pre", label=name)  # fmt: skip
    overall = 100 * next(iter(curves.values()))["risk"].iloc[-1]
    axes.axhline(overall, color="black", linewidth=0.8)
    axes.annotate(f"all questions: {overall:.1f}%", (101, overall), (4, 0), va="center",
                  textcoords="offset points", fontsize=9)  # fmt: skip
    axes.set(xlabel="coverage: questions answered (%)", xlim=(0, 101), ylim=(0, None),
             ylabel="risk: answers that are wrong (%)")  # fmt: skip
    _legend(axes)
    return figure


def score_bars(scores: dict):
    """Plot each batch's strict accuracy, MRR and lenient accuracy, with the ceiling as a line."""
    rows = [*scores["batches"], scores["pooled"]]
    measures = (("sacc", "strict accuracy", DARK, ""), ("mrr", "MRR", MIDDLE, "//"),
                ("lacc", "lenient accuracy", LIGHT, ".."))  # fmt: skip
    figure, axes = new_figure(9, 3.6, "Scores by batch")
    at = np.arange(len(rows))
    for number, (name, label, color, hatch) in enumerate(measures):
        values = [100 * row[name] for row in rows]
        axes.bar(at + 0.26 * (number - 1), values, 0.24, color=color, edgecolor=DARK,
                 hatch=hatch, label=label)  # fmt: skip
    axes.set_xticks(at, [f"{row['batch']}\nn = {row['n']}" for row in rows])
    axes.set(ylabel="score (%)", xlabel="test batch", ylim=(0, 105))
    _ceilings(axes, [100 * row["ceiling"] for row in rows])
    return figure


def two_sources(found: Mapping, seeds: Sequence[int], runs: str = "this run"):
    """Plot how much each measure varies with the questions (upper line) and the seeds (lower line).

    ``found`` comes from ``uncertainty.sources``. The upper line is the 95% interval of the mean
    over seeds when questions are resampled. The lower line shows each seed's score and the mean ±
    one standard deviation.
    """
    title = f"Two sources of variation in a score: {runs}"
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
    _legend(axes)
    return figure


def interval_by_n(share: float, n: int):
    """Plot the exact 95% interval of a proportion for 10 to 10,000 questions; mark ``n``."""
    from scipy.stats import beta  # the import takes up to a second

    figure, axes = new_figure(7.5, 3, f"95% interval around {share:.0%} right answers")
    sizes = np.geomspace(10, 10_000, 60)
    right = share * sizes  # not rounded, so that the band is smooth; the formula is the same
    low, high = beta.ppf(0.025, right, sizes - right + 1), beta.ppf(0.975, right + 1, sizes - right)
    axes.fill_between(sizes, 100 * low, 100 * high, color=LIGHT, label="95% interval")
    axes.axhline(100 * share, color=DARK, linewidth=1)
    ends = [100 * end for end in exact_interval(round(share * n), n)]
    axes.plot([n, n], ends, color=ACCENT, linewidth=2.5, marker="_", markersize=11,
              label=f"n = {n:,}: {ends[0]:.1f} to {ends[1]:.1f}")  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([10, 100, 1000, 10_000], ["10", "100", "1,000", "10,000"])
    axes.set(xlabel="number of questions", ylabel="accuracy (%)", ylim=(0, 100))
    axes.legend(loc="upper right")
    return figure


def switches(found: Sequence):
    """Plot the change in strict accuracy for each ``effects.Effect``, in percentage points."""
    own = next(100 * e.score.sacc for e in found if e.own)
    shown = [e for e in found if e.score is not None and not e.own]
    changes = [100 * e.score.sacc - own for e in shown]
    title = "Effect of each protocol choice on strict accuracy"
    figure, axes = new_figure(9, 1.2 + 0.34 * len(shown), title)
    names, texts = [f"{e.switch}: {e.setting}" for e in shown], [f"{c:+.1f}" for c in changes]
    _bars(axes, names, changes, texts, hatch=["///" if c < 0 else "" for c in changes])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.margins(x=0.15)
    axes.set(xlabel=f"change in strict accuracy (points) from this run's {own:.1f}%")
    return figure


_GAP = 0.6  # rows of space for the line between our rows and the published ones


def forest(ours: Sequence[Mapping], theirs: Sequence[Mapping]):
    """Plot the rows of ``compare``: filled markers for our runs, hollow ones for published rows.

    There is one panel per measure. Our rows show the interval over questions and one tick per seed.
    A published row has an interval only if exactly one count of correct answers rounds to the
    printed score. A baseline that several profiles share has one row.
    """
    systems = list(map(_system, ours))
    ours = [row for n, row in enumerate(ours) if _system(row) not in systems[:n]]
    rows = [*ours, *theirs]
    places = np.arange(len(rows)) + _GAP * (np.arange(len(rows)) >= len(ours))
    figure, panels = new_figure(12.5, 1.3 + 0.36 * len(rows), *[""] * len(MEASURES))
    for measure, axes in zip(MEASURES, panels, strict=True):
        axes.grid(axis="x", color=LIGHT, linewidth=0.8)
        axes.set_axisbelow(True)
        for number, (place, row) in enumerate(zip(places, rows, strict=True)):
            _forest_row(axes, place, row["measures"][measure], mine=number < len(ours))
        if theirs:  # a thin line between our rows and the published ones
            axes.axhline(len(ours) - 0.45, color="black", linewidth=0.6)
        labels = [_label(row) for row in rows] if axes is panels[0] else [""] * len(rows)
        axes.set_yticks(places, labels, fontsize=10)
        axes.set(xlabel=f"{measure} (%)", ylim=(places.max(initial=0) + 0.6, -0.8))
        axes.margins(x=0.12)
    hollow = " and published rows (hollow)" if theirs else ""
    figure.suptitle(f"Runs of this kit (filled){hollow}", fontsize=11)
    return figure


def _forest_row(axes, place: int, value: Mapping, mine: bool) -> None:
    mean = 100 * value["mean"]
    if value["low"] is not None:
        look = {"color": DARK, "linewidth": 2} if mine else {"color": MIDDLE, "linestyle": ":"}
        axes.plot([100 * value["low"], 100 * value["high"]], [place, place], **look)
    for score in value.get("by_seed", ()):
        axes.plot(100 * score, place, "|", color=ACCENT, markersize=9, markeredgewidth=1.3)
    face = DARK if mine else "white"
    axes.plot(mean, place, "o", markersize=5, color=DARK, markerfacecolor=face)
    axes.annotate(f"{mean:.1f}", (mean, place), (0, 7), textcoords="offset points", ha="center",
                  fontsize=9, bbox={"color": "white", "pad": 0.3})  # fmt: skip


def _system(row: Mapping) -> tuple:
    """Return the values that the rows of one system in several profiles share."""
    return row["name"], row["system"], row["context"], row["training"], str(row["measures"])


def _label(row: Mapping) -> str:
    if "system" not in row:  # published
        extra = " after SQuAD" if "then" in row["training"] and "SQuAD" not in row["name"] else ""
    else:
        kinds = {"untrained": ", untrained", "squad-only": ", SQuAD step only", "lexical": "",
                 OUTSIDE: ""}  # fmt: skip
        extra = kinds.get(row["system"], f" ({row['profile']})")
    own = "this run, " if row.get("own") else ""
    context = "?" if row["context"] in (UNPUBLISHED, UNSTATED) else row["context"]
    return f"{own}{cut(row['name'], 60)}{extra}: {context}"
