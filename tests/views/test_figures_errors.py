"""The figures of notebook 04: the data, read back from what is drawn."""

from types import SimpleNamespace

import pandas as pd
import pytest

from helpers.scoring import errors
from helpers.views import figures


def test_cause_bars_add_up_to_100_percent_per_batch():
    causes = [*errors.CAUSES, errors.RIGHT]
    df = pd.DataFrame({"cause": causes, "batch": ["b1"] * 6 + ["b2"] * 3})
    figure = figures.cause_bars(errors.summary(df))
    bars = figure.axes[0].patches
    assert len(bars) == 2 * len(errors.CAUSES)
    assert max(bar.get_x() + bar.get_width() for bar in bars) == pytest.approx(100)
    looks = {(bar.get_facecolor(), bar.get_hatch()) for bar in bars}
    assert len(looks) == len(errors.CAUSES), "two causes look alike"
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["b1\nn = 6", "b2\nn = 3"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(errors.CAUSES)


def test_softmax_bars_show_sums_and_percent():
    nbest = [
        SimpleNamespace(text="x" * 50, start_logit=2.0, end_logit=1.5, probability=0.75),
        SimpleNamespace(text="zinc", start_logit=-1.0, end_logit=0.5, probability=0.25),
    ]
    figure = figures.softmax_bars(nbest)
    sums, chances = ([bar.get_width() for bar in axes.patches] for axes in figure.axes)
    assert sums == [3.5, -0.5] and chances == [75.0, 25.0]
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels[1] == "zinc" and len(labels[0]) < 50 and labels[0].endswith("…")
    assert len(figures.softmax_bars(nbest, most=1).axes[0].patches) == 1


def test_merge_bars_stack_the_snippets():
    parts = pd.DataFrame({"snippet 1": [0.5, 0.25], "snippet 2": [0.25, 0.0]}, index=["a", "b"])
    axes = figures.merge_bars(parts).axes[0]
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [
        (0.0, 0.5), (0.0, 0.25), (0.5, 0.25), (0.25, 0.0),
    ]  # fmt: skip
    assert "sum 0.75, max 0.50" in [text.get_text().strip() for text in axes.texts]
