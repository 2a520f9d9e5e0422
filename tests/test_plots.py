"""Figures: axes with labels, the data drawn, nothing shown behind the notebook's back."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from helpers import conversion_plots, model_plots, plots
from helpers.lessons import PARTS, Stack

STACKS = [
    Stack(n, first, seed, tuple(0.1 * (k + 1 + seed) for k in range(n)), tuple([0.5] * n))
    for n in (2, 4)
    for first in (False, True)
    for seed in (0, 1)
]
LOGITS = [("[CLS]", 0.1, -0.2), ("insulin", 1.5, 0.3), ("##s", -0.4, 1.1)]
ROW = {"batch": "mini1", "n": 4, "sacc": 0.25, "mrr": 0.4, "lacc": 0.5, "ceiling": 0.75}
FIGURES = {
    "training_curve": lambda: plots.training_curve([(1, 3.0, 1e-4), (2, 2.0, 5e-5)]),
    "funnel": lambda: conversion_plots.funnel([("read", 10), ("kept", 7)], [("all", 3)]),
    "distributions": lambda: conversion_plots.distributions(
        {"train": {"words": [3, 9], "contexts": [1, 20]}, "test": {"words": [5], "contexts": [2]}}
    ),
    "length_histogram": lambda: plots.length_histogram([20, 30, 70], 384),
    "rung_bars": lambda: conversion_plots.rung_bars(
        [{"batch": "b", "questions": 4, "strict rule": 2, "greek": 3, "ceiling": 2}],
        ["strict rule", "greek"],
    ),
    "score_bars": lambda: plots.score_bars(
        {"batches": [ROW], "pooled": {**ROW, "batch": "pooled"}}
    ),
    "part_bars": lambda: model_plots.part_bars({"a": dict.fromkeys(PARTS, 10), "b": {"x": 1}}),
    "part_bars of one": lambda: model_plots.part_bars({"a": dict.fromkeys(PARTS, 10)}),
    "span_logits": lambda: model_plots.span_logits(LOGITS, [1, 2]),
    "depth_gradients": lambda: model_plots.depth_gradients(STACKS),
    "depth_likeness": lambda: model_plots.depth_likeness(STACKS),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_labelled_axes_and_can_be_saved(name, tmp_path):
    figure = FIGURES[name]()
    assert figure.axes
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel() or _names_on_y(axes)
        assert axes.get_title() or axes.get_title(loc="left")
    figure.savefig(tmp_path / "figure.png", dpi=50)
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert not plt.get_fignums()  # else the notebook would show it twice


def _names_on_y(axes) -> bool:
    """Horizontal bars are labelled by what each stands for instead of by one label."""
    return any(any(c.isalpha() for c in label.get_text()) for label in axes.get_yticklabels())


def test_the_flow_names_every_notebook_and_file():
    figure = model_plots.notebook_flow(
        [("00 start", "checks", "a.json"), ("01 go", "goes", "b.json")]
    )
    words = {text.get_text() for text in figure.axes[0].texts}
    assert {"00 start", "checks", "a.json", "01 go", "goes", "b.json"} <= words


def test_parts_are_drawn_in_millions_with_their_shares():
    figure = model_plots.part_bars({"model": {"a": 3_000_000, "b": 1_000_000, "c": 10}})
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [3.0, 1.0, 1e-5]
    assert [text.get_text() for text in axes.texts] == ["75%", "25%", "< 1%"]
    assert "4.0 million" in axes.get_title(loc="left")


def test_logits_are_drawn_token_by_token():
    axes = model_plots.span_logits(LOGITS).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.1, 1.5, -0.4, -0.2, 0.3, 1.1]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["[CLS]", "insulin", "##s"]


def test_depth_curves_are_means_over_seeds():
    left, right = model_plots.depth_gradients(STACKS).axes
    post = left.get_lines()[0].get_ydata()
    np.testing.assert_allclose(post, [0.15, 0.25, 0.35, 0.45])
    lasts = right.get_lines()[0].get_ydata()
    np.testing.assert_allclose(lasts, [0.25, 0.45])
    theory_before = right.get_lines()[3].get_ydata()
    np.testing.assert_allclose(theory_before, [0.25, 0.25 / 2**0.5])
