"""The figures of the conversion: what each step leaves, how long texts are, what can be found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from helpers.run.folder import Run
from helpers.views.figures.plots import ACCENT, DARK, LIGHT, MIDDLE, new_figure

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
