"""The figures: matplotlib only, axes labelled with units, legible in black and white.

Every function returns a figure and draws nothing else, so a notebook shows it and the run folder
keeps it. Hatches and line styles carry what colours do.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

DARK, MIDDLE, LIGHT = "#1f3b57", "#6f93b3", "#d3dfe9"
ACCENT = "#b4541a"
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "figure.dpi": 110,
    "font.size": 10,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def new_figure(width: float = 7.0, height: float = 3.2, columns: int = 1):
    """A figure in the house style and its axes (a list when there are several columns)."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, columns, figsize=(width, height))
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
    left.set(xlabel="optimizer step", ylabel="loss (nats)", title="Training loss", ylim=(0, None))
    left.legend()
    right.plot(steps, rates, color=DARK)
    right.set(xlabel="optimizer step", ylabel="learning rate", title="Schedule", ylim=(0, None))
    right.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    return figure
