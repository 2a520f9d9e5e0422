"""What the figures of notebook 02 show, read back from their artists."""

import pytest
from matplotlib.colors import to_rgba
from tiny import VOCAB, tiny_examples

from helpers import plots
from helpers.features import make_tokenizer, make_windows


@pytest.mark.parametrize("seed", range(4))
def test_window_map_gives_every_token_one_best_window(seed):
    example = max(tiny_examples(30, seed), key=lambda e: len(e.context))
    windows = make_windows([example], make_tokenizer(VOCAB), max_length=12, step=3, training=True)
    (axes,) = plots.window_map(windows, VOCAB).axes
    words = example.context.split()
    assert [label.get_text() for label in axes.get_xticklabels()] == words
    assert len(axes.get_yticklabels()) == len(windows) > 2
    best = [bar.get_x() for bar in axes.patches if bar.get_facecolor() == to_rgba(plots.DARK)]
    assert sorted(best) == list(range(len(words)))
    assert {words[int(line.get_xdata()[0])] for line in axes.lines} == {example.spans[0].text}


def test_ceiling_bars_say_k_of_n():
    (axes,) = plots.ceiling_bars(["b1", "b2"], [(3, 4), (0, 0)]).axes
    assert [text.get_text() for text in axes.texts] == ["75%\n3 of 4", "0%\n0 of 0"]
    assert axes.get_ylim() == (0, 100)


def test_funnel_runs_from_top_to_bottom():
    (axes,) = plots.funnel([("all", 9), ("left", 4)]).axes
    assert [bar.get_width() for bar in axes.patches] == [9, 4] and axes.yaxis_inverted()
    assert [text.get_text() for text in axes.texts] == ["9", "4"]


def test_length_histogram_counts_every_window_up_to_the_limit():
    (axes,) = plots.length_histogram([1, 7, 8, 64], 64).axes
    assert sum(bar.get_height() for bar in axes.patches) == 4
    assert {text.get_text() for text in axes.texts} == {"mean: 20", "padded: 64"}
