"""The figures of notebook 04: the data, read back from what is drawn."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from helpers.scoring import confidence, errors
from helpers.views import figures


def test_failure_bars_add_up_to_100_percent_per_batch():
    df = pd.DataFrame({"failure": [*errors.FAILURES, "", ""], "rank": 0})
    df = df.assign(batch=["b1"] * 5 + ["b2"] * 3)
    figure = figures.failure_bars(errors.summary(df))
    bars, kinds = figure.axes[0].patches, [errors.RIGHT, *errors.FAILURES]
    assert len(bars) == 2 * len(kinds)
    assert max(bar.get_x() + bar.get_width() for bar in bars) == pytest.approx(100)
    looks = {(bar.get_facecolor(), bar.get_hatch()) for bar in bars}
    assert len(looks) == len(kinds), "two failures look alike"
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["b1\nn = 5", "b2\nn = 3"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == kinds


def test_softmax_bars_show_sums_and_percent():
    nbest = [
        SimpleNamespace(text="x y" * 50, start_logit=2.0, end_logit=1.5, probability=0.75),
        SimpleNamespace(text="zinc", start_logit=-1.0, end_logit=0.5, probability=0.25),
    ]
    figure = figures.softmax_bars(nbest)
    sums, chances = ([bar.get_width() for bar in axes.patches] for axes in figure.axes)
    assert sums == [3.5, -0.5] and chances == [75.0, 25.0]
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels[1] == "zinc" and labels[0].endswith("…")
    assert [len(line) <= 40 for line in labels[0].split("\n")] == [True, True]
    assert len(figures.softmax_bars(nbest, most=1).axes[0].patches) == 1


def test_merge_bars_stack_the_snippets():
    parts = pd.DataFrame({"snippet 1": [0.5, 0.25], "snippet 2": [0.25, 0.0]}, index=["a", "b"])
    axes = figures.merge_bars(parts).axes[0]
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [
        (0.0, 0.5), (0.0, 0.25), (0.5, 0.25), (0.25, 0.0),
    ]  # fmt: skip
    assert "sum 0.75, max 0.50" in [text.get_text().strip() for text in axes.texts]


def test_reliability_diagrams_draw_percent_with_counts_and_the_diagonal():
    table = confidence.reliability([0.1, 0.1, 0.9], [False, True, True])
    figure = figures.reliability_diagrams({"before": table, "after": table})
    assert [axes.get_title("left") for axes in figure.axes] == ["before", "after"]
    axes = figure.axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[0, 0], [100, 100]]
    points = axes.containers[0].lines[0].get_xydata()
    assert points == pytest.approx(np.array([[10, 50], [90, 100]]))
    assert [text.get_text() for text in axes.texts] == ["n=2", "n=1"]


def test_risk_curves_end_at_the_risk_of_all_questions():
    curve = confidence.risk_coverage([0.9, 0.5, 0.1, 0.1], [True, False, True, False])
    axes = figures.risk_curves({"ours": curve, "other": curve[-1:]}).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[25, 0], [50, 50], [100, 50]]
    assert axes.texts[0].get_text() == "all questions: 50.0%"
    assert len({line.get_linestyle() for line in axes.lines[:2]}) == 2
