"""The figures of notebook 02: the data, read back from what is drawn."""

import pytest
from tiny import FILLER, VOCAB, tiny_examples

from helpers.data.spans import Span
from helpers.data.squad import Example
from helpers.model.features import make_windows
from helpers.model.texts import make_tokenizer
from helpers.views import figures


def shades(axes):
    """[windows, tokens]: 0 outside the window, 1 inside it, 2 where it is the best window."""
    return axes.images[0].get_array()


@pytest.mark.parametrize("seed", range(4))
def test_window_map_gives_every_token_one_best_window(seed):
    example = max(tiny_examples(30, seed), key=lambda e: len(e.context))
    windows = make_windows([example], make_tokenizer(VOCAB), max_length=12, step=3, training=True)
    (axes,) = figures.window_map(windows, VOCAB, example.spans[0]).axes
    words = example.context.split()
    assert [label.get_text() for label in axes.get_xticklabels()] == words
    assert len(axes.get_yticklabels()) == len(windows) > 2
    assert (shades(axes) == 2).sum(0).tolist() == [1] * len(words)
    assert (shades(axes) > 0).sum(1).tolist() == (windows.lengths - 6).tolist()
    (dots, rows), *parts = [line.get_data() for line in axes.lines]
    assert not parts  # an answer of one token cannot be cut
    assert {words[dot] for dot in dots} == {example.spans[0].text}
    assert sorted(rows) == [row for row in range(len(windows)) if windows.start[row]]


def test_window_map_draws_the_windows_around_the_answer(tmp_path):
    words = [*FILLER * 40, "gene", "gak", *FILLER * 300]
    context = " ".join(words)
    start = context.index("gak")
    example = Example("q_001", "q", "which gene ?", context, (Span(start, start + 3, "gak"),))
    windows = make_windows([example], make_tokenizer(VOCAB), max_length=40, step=12, training=True)
    assert len(windows) > 250  # with all of them, the picture would be too large to save
    figure = figures.window_map(windows, VOCAB, example.spans[0])
    (axes,) = figure.axes
    assert len(axes.get_yticklabels()) == 12 and shades(axes).shape[1] < 200
    seen = [n for n in range(len(windows)) if windows.start[n]]
    numbers = [int(label.get_text().split()[1]) - 1 for label in axes.get_yticklabels()]
    assert set(seen) <= set(numbers)
    assert [line.get_ydata()[0] + numbers[0] for line in axes.lines] == seen
    figure.savefig(tmp_path / "f.png", dpi=50)


def test_a_map_of_many_tokens_numbers_them_and_stays_as_wide_as_a_page():
    words = [*FILLER * 20, "gak", "gene", "gak", *FILLER * 10]
    context, answer = " ".join(words), "gak gene gak"
    start = context.index(answer)
    span = Span(start, start + len(answer), answer)
    example = Example("q_001", "q", "which gene ?", context, (span,))
    windows = make_windows([example], make_tokenizer(VOCAB), max_length=40, step=5, training=True)
    figure = figures.window_map(windows, VOCAB, span, most=len(windows))
    (axes,) = figure.axes
    assert shades(axes).shape == (len(windows), len(words))
    ends = [words.index("gak"), words.index("gak") + 2]  # one line per window, not a dot per token
    whole = sum(windows.start > 0)
    assert [line.get_xdata().tolist() for line in axes.lines[:whole]] == [ends] * whole
    assert len(axes.lines) == whole > 0
    row_height = 72 * 5 / len(windows)  # points
    assert all(line.get_linewidth() < row_height for line in axes.lines)
    assert figure.get_figwidth() == 10 and "numbered from 0" in axes.get_xlabel()
    assert len(axes.get_yticklabels()) <= 20 < len(windows)


def test_coverage_bars_show_what_is_found_and_the_ceiling():
    rows = [
        {"batch": "b1", "questions": 4, "strict rule": 2, "ceiling": 3},
        {"batch": "b2", "questions": 0, "strict rule": 0, "ceiling": 0},
    ]
    (axes,) = figures.coverage_bars(rows).axes
    assert [bar.get_height() for bar in axes.patches] == [50, 0]
    (ceilings,) = axes.collections
    assert [segment[0][1] for segment in ceilings.get_segments()] == [75, 0]
    assert [text.get_text() for text in axes.texts] == ["75.0%\n3 of 4", "0.0%\n0 of 0"]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(labels) == ["extractive ceiling", "strict rule"]


def test_funnel_runs_from_top_to_bottom():
    left, right = figures.funnel([("all", 9), ("left", 4)], [("pairs", 1234)]).axes
    assert [bar.get_width() for bar in left.patches] == [9, 4] and left.yaxis_inverted()
    assert [text.get_text() for text in left.texts] == ["9", "4"]
    assert [text.get_text() for text in right.texts] == ["1,234"]


def test_distributions_are_in_percent_of_each_part():
    parts = {
        "train": {"words": [3, 3, 50], "contexts": [1, 1, 40]},
        "test": {"words": [9], "contexts": [2]},
    }
    left, right = figures.distributions(parts).axes
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["train: mean 19, longest 50", "test: mean 9, longest 9"]
    heights = [bar.get_height() for bar in right.patches]
    assert heights == pytest.approx([200 / 3, 100 / 3, 100]) and "15" in right.get_xlabel()


def test_length_histogram_counts_every_window_up_to_the_limit():
    (axes,) = figures.length_histogram([1, 7, 8, 64], 64).axes
    assert sum(bar.get_height() for bar in axes.patches) == 4
    assert {text.get_text() for text in axes.texts} == {"mean: 20", "padded: 64"}


@pytest.mark.parametrize("before", [2, 40])
def test_a_map_marks_the_part_of_an_answer_that_a_window_cuts(before):
    words = [*(FILLER * 9)[: before + 2], "gak", "gene", "gak", *(FILLER * 9)[:before]]
    context, answer = " ".join(words), "gak gene gak"
    start = context.index(answer)
    span = Span(start, start + len(answer), answer)
    example = Example("q_001", "q", "which gene ?", context, (span,))
    # Windows of before + 4 tokens that do not overlap: the first one ends inside the answer.
    size = {"max_length": before + 10, "step": 1000}
    windows = make_windows([example], make_tokenizer(VOCAB), training=True, **size)
    assert not (windows.start > 0).any()
    figure = figures.window_map(windows, VOCAB, span)
    (axes,) = figure.axes
    places = [
        (x, y)
        for line in axes.lines
        for x, y in zip(*(data.tolist() for data in line.get_data()), strict=True)
    ]
    first = before + 2
    assert set(places) == {(first, 0), (first + 1, 0), (first + 2, 1)}
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[-1] == "part of the answer"
