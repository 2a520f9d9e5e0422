"""Figures about results: what moves a score, what a protocol is worth, runs beside published rows.

Rules as in ``plots``: labeled axes with units, markers and hatches that survive black and white.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from helpers.scoring.uncertainty import MEASURES
from helpers.views.figures.plots import ACCENT, DARK, LIGHT, MIDDLE, cut, new_figure


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
