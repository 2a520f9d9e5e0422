"""The figures of notebooks 00 and 01: the map, a model's parts, row orders, head, deep stacks."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from helpers.model.row_order import NEEDED
from helpers.views.figures.plots import ACCENT, DARK, LIGHT, MIDDLE, new_figure

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
