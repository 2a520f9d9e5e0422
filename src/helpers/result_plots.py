"""Figures about results: what moves a score, what a protocol is worth, runs beside published rows.

Rules as in ``plots``: labelled axes with units, markers and hatches that survive black and white.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from helpers.plots import ACCENT, DARK, LIGHT, MIDDLE, new_figure

_MARKS = {"SAcc": "o", "MRR": "D", "LAcc": "s"}


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
    axes.invert_yaxis()
    axes.set(xlabel="score (%)")
    axes.grid(axis="x", color=LIGHT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title("Two things that move a score", loc="left", fontsize=11)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def forest(ours: Sequence[Mapping], theirs: Sequence[Mapping], measure: str = "SAcc"):
    """Rows of ``compare`` from top to bottom: ours filled with intervals, published ones hollow.

    A published row has an interval only where its figure can be a share of its questions. A thin
    line separates the two; grey bands tell the contexts apart.
    """
    rows = [*ours, *theirs]
    figure, axes = new_figure(9.5, 1.2 + 0.36 * len(rows))
    for place, row in enumerate(rows):
        value = row["measures"][measure]
        mine = place < len(ours)
        if value["low"] is not None:
            axes.plot(
                [100 * value["low"], 100 * value["high"]],
                [place, place],
                color=DARK if mine else MIDDLE,
                linewidth=2 if mine else 1.2,
                linestyle="-" if mine else ":",
            )
        for one in value.get("by_seed", ()):
            axes.plot(100 * one, place, "|", color=ACCENT, markersize=10, markeredgewidth=1.5)
        axes.plot(
            100 * value["mean"],
            place,
            _MARKS[measure],
            markersize=7,
            color=DARK,
            markerfacecolor=DARK if mine else "white",
        )
        axes.annotate(
            f"{100 * value['mean']:.1f}",
            (1.01, place),
            va="center",
            fontsize=9,
            xycoords=("axes fraction", "data"),
        )
    axes.axhline(len(ours) - 0.5, color="black", linewidth=0.6)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.grid(axis="x", color=LIGHT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set(xlabel=f"{measure} (%)")
    axes.set_title(
        f"{measure}: runs of this kit (filled) and published rows (hollow)", loc="left", fontsize=11
    )
    return figure


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
    context = "context unpublished" if row["context"] == "unpublished" else row["context"]
    made = {"untrained": ", untrained", "squad-only": ", SQuAD step only"}
    extra = made.get(row.get("system", ""), "")
    if "system" in row and not extra:
        extra = f" ({row['profile']})" if row["system"] == "run" else f", {row['system']}"
    elif "no SQuAD" not in row["name"] and "SQuAD" in row["training"] and "system" not in row:
        extra = " after SQuAD" if "SQuAD" not in row["name"] else ""
    return f"{row['name']}{extra}, {context}"
