"""All figures: labeled axes, texts drawn as written, and nothing displayed as a side effect."""

import html
import inspect
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from tiny import VOCAB, tiny_examples

from helpers.model.features import make_windows
from helpers.model.texts import make_tokenizer
from helpers.scoring import confidence, errors
from helpers.views import figures
from helpers.views.measure import PARTS, Stack

STACKS = [
    Stack(n, first, seed, tuple(0.1 * (k + 1 + seed) for k in range(n)))
    for n in (2, 4)
    for first in (False, True)
    for seed in (0, 1)
]
LOGITS = [("[CLS]", 0.1, -0.2), ("insulin", 1.5, 0.3), ("##s", -0.4, 1.1)]
HISTORY = [(n, 5.0 - n / 20, 1e-4) for n in range(1, 61)]
DEV = [{"step": 0, "loss": 4.5}, {"step": 60, "loss": 2.5}]
DEV_MRR = [{"step": 0, "mrr": 0.1}, {"step": 60, "mrr": 0.5}]
CURVES = pd.DataFrame(
    {"learning_rate": [1e-4, 1e-4, 3e-5, 3e-5], "step": [0, 60] * 2,
     "dev_loss": [4.0, 1.0, 4.0, 2.0], "dev_mrr": [0.1, 0.8, 0.1, 0.5]}
)  # fmt: skip
ROW = {"batch": "mini1", "n": 4, "sacc": 0.25, "mrr": 0.4, "lacc": 0.5, "ceiling": 0.75}
FIGURES = {
    "training_curve": lambda: figures.training_curve([(1, 3.0, 1e-4), (2, 2.0, 5e-5)]),
    "training_curve with dev": lambda: figures.training_curve(HISTORY, DEV, 4.0),
    "sweep_curves": lambda: figures.sweep_curves(CURVES),
    "run_curves": lambda: figures.run_curves(
        [("a", [3.0, 2.0, 1.0], DEV_MRR), ("a", [2.0], []), ("b", [3.0, 1.0], DEV_MRR)]
    ),
    "run_curves without dev": lambda: figures.run_curves([("a", [3.0, 2.0], [])]),
    "funnel": lambda: figures.funnel([("read", 10), ("kept", 7)], [("all", 3)]),
    "distributions": lambda: figures.distributions(
        {"train": {"words": [3, 9], "contexts": [1, 20]}, "test": {"words": [5], "contexts": [2]}}
    ),
    "length_histogram": lambda: figures.length_histogram([20, 30, 70], 384),
    "coverage_bars": lambda: figures.coverage_bars(
        [{"batch": "b", "questions": 4, "strict rule": 2, "ceiling": 2}]
    ),
    "score_bars": lambda: figures.score_bars(
        {"batches": [ROW], "pooled": {**ROW, "batch": "pooled"}}
    ),
    "part_bars": lambda: figures.part_bars({"a": dict.fromkeys(PARTS, 10), "b": {"x": 1}}),
    "part_bars of one": lambda: figures.part_bars({"a": dict.fromkeys(PARTS, 10)}),
    "span_logits": lambda: figures.span_logits(LOGITS, [1, 2]),
    "span_logits twice": lambda: figures.span_logits(LOGITS, [1, 2], "gold", LOGITS[::-1]),
    "depth_gradients": lambda: figures.depth_gradients(STACKS),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_labeled_axes_and_can_be_saved(name, tmp_path):
    figure = FIGURES[name]()
    assert figure.axes
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel() or _names_on_y(axes)
        assert axes.get_title() or axes.get_title(loc="left")
    figure.savefig(tmp_path / "figure.png", dpi=50)
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert not plt.get_fignums()  # otherwise, the notebook would show it twice


def _names_on_y(axes) -> bool:
    """Horizontal bars have a name each instead of one label for the axis."""
    return any(any(c.isalpha() for c in label.get_text()) for label in axes.get_yticklabels())


def test_the_flow_names_every_notebook_and_file():
    figure = figures.notebook_flow([("00 start", "checks", "a.json"), ("01 go", "goes", "b.json")])
    words = {text.get_text() for text in figure.axes[0].texts}
    assert {"00 start", "checks", "a.json", "01 go", "goes", "b.json"} <= words


def test_parts_are_drawn_in_millions_with_their_shares():
    figure = figures.part_bars({"model": {"a": 3_000_000, "b": 1_000_000, "c": 10}})
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [3.0, 1.0, 1e-5]
    assert [text.get_text() for text in axes.texts] == ["75%", "25%", "< 1%"]
    assert "4.0 million" in axes.get_title(loc="left")


def test_logits_are_drawn_token_by_token():
    axes = figures.span_logits(LOGITS).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.1, 1.5, -0.4, -0.2, 0.3, 1.1]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["[CLS]", "insulin", "##s"]


def test_logits_before_and_after_training_have_the_same_scale():
    after = [(name, 10 * start, 10 * end) for name, start, end in LOGITS]
    above, below = figures.span_logits(LOGITS, [1], "gold answer", after).axes
    assert above.get_ylim() == below.get_ylim() and above.get_ylim()[1] > 15
    assert "before training" in above.get_title(loc="left")
    assert [bar.get_height() for bar in below.patches[:3]] == [1, 15, -4]


def test_the_running_mean_of_the_loss_goes_through_its_points():
    """A straight line of losses is its own running mean, if each mean is drawn at its middle."""
    axes = figures.training_curve(HISTORY, DEV, 4.0).axes[0]
    each, mean, dev, untrained = axes.get_lines()
    np.testing.assert_allclose(mean.get_ydata(), 5 - mean.get_xdata() / 20)
    assert (mean.get_xdata()[0], mean.get_xdata()[-1]) == (10.5, 50.5)
    assert list(each.get_xdata()) == list(range(1, 61))
    assert dev.get_xydata().tolist() == [[0, 4.5], [60, 2.5]]
    assert untrained.get_ydata() == [4.0, 4.0]
    short = figures.training_curve(HISTORY[:3]).axes[0].get_lines()[1]
    assert short.get_xydata().tolist() == [[2, pytest.approx(4.9)]]


def test_a_sweep_has_a_line_per_value_in_both_panels():
    left, right = figures.sweep_curves(CURVES).axes
    assert [line.get_label() for line in left.get_lines()] == [
        "learning_rate = 3e-05", "learning_rate = 0.0001"]  # fmt: skip
    assert [line.get_ydata().tolist() for line in right.get_lines()] == [[10, 50], [10, 80]]


def test_depth_curves_are_means_over_seeds():
    left, right = figures.depth_gradients(STACKS).axes
    post = left.get_lines()[0].get_ydata()
    np.testing.assert_allclose(post, [0.15, 0.25, 0.35, 0.45])
    lasts = right.get_lines()[0].get_ydata()
    np.testing.assert_allclose(lasts, [0.25, 0.45])
    theory_before = right.get_lines()[3].get_ydata()
    np.testing.assert_allclose(theory_before, [0.25, 0.25 / 2**0.5])


ODD = r"US$5 \foo $6 <b> שלום"  # money, not a formula; matplotlib's parser fails at \foo
(EXAMPLE,) = tiny_examples(1)
WINDOWS = make_windows([EXAMPLE], make_tokenizer(VOCAB), max_length=12, training=True)
FOUND = [SimpleNamespace(text=ODD, start_logit=2.0, end_logit=1.0, probability=0.7)]
MEASURE = {"mean": 0.5, "low": 0.4, "high": 0.6}
SPREAD = SimpleNamespace(
    question_low=0.3, question_high=0.5, mean=0.4, seed_sd=0.1, seeds=(0.3, 0.5)
)  # fmt: skip
COMPARED = {
    "name": ODD, "context": "snippet", "profile": "mini", "system": "run", "training": "",
    "measures": dict.fromkeys(("SAcc", "MRR", "LAcc"), MEASURE),
}  # fmt: skip
EFFECTS = [
    SimpleNamespace(switch="s", setting=ODD, own=own, score=SimpleNamespace(sacc=0.4))
    for own in (True, False)
]
# Every text from files, settings or users is odd here. None: the figure shows no such text.
WITH_ODD_TEXTS = {
    "training_curve": None,
    "sweep_curves": lambda: figures.sweep_curves(CURVES, source=ODD),
    "run_curves": lambda: figures.run_curves([(ODD, [3.0, 2.0], DEV_MRR)]),
    "window_map": lambda: figures.window_map(WINDOWS, [ODD] * len(VOCAB), EXAMPLE.spans[0]),
    "length_histogram": None,
    "score_bars": lambda: figures.score_bars({"batches": [{**ROW, "batch": ODD}], "pooled": ROW}),
    "failure_bars": lambda: figures.failure_bars(
        errors.summary(pd.DataFrame({"failure": [""], "rank": [1], "batch": [ODD]}))
    ),
    "reliability_diagrams": lambda: figures.reliability_diagrams(
        {ODD: confidence.reliability([0.5], [True])}
    ),
    "risk_curves": lambda: figures.risk_curves({ODD: confidence.risk_coverage([0.5], [True])}),
    "softmax_bars": lambda: figures.softmax_bars(FOUND),
    "merge_bars": lambda: figures.merge_bars(pd.DataFrame({ODD: [0.5]}, index=[ODD])),
    "funnel": lambda: figures.funnel([(ODD, 10)], [(ODD, 3)]),
    "distributions": lambda: figures.distributions(
        {ODD: {"words": [3, 9], "contexts": [1, 20]}}
    ),
    "coverage_bars": lambda: figures.coverage_bars(
        [{"batch": ODD, "questions": 4, "strict rule": 2, "ceiling": 2}]
    ),
    "notebook_flow": lambda: figures.notebook_flow([(ODD, ODD, ODD)]),
    "part_bars": lambda: figures.part_bars({ODD: {ODD: 1}}),
    "order_scores": lambda: figures.order_scores(
        {"scores": {"0": 0.5}, "order": "0", "kind": "shown", "measure": ODD}
    ),
    "span_logits": lambda: figures.span_logits([(ODD, 0.1, 0.2)]),
    "depth_gradients": None,
    "two_sources": lambda: figures.two_sources({ODD: SPREAD}, [0, 1], ODD),
    "interval_by_n": None,
    "forest": lambda: figures.forest([COMPARED], [COMPARED]),
    "switches": lambda: figures.switches(EFFECTS),
}  # fmt: skip


def test_every_figure_is_tested_with_odd_texts():
    named = {
        name
        for name, function in inspect.getmembers(figures, inspect.isfunction)
        if function.__module__ == figures.__name__ and not name.startswith("_")
    }
    assert named - {"new_figure", "keep"} == set(WITH_ODD_TEXTS)


@pytest.mark.filterwarnings("ignore:Glyph")  # a glyph that the font lacks is not a failure
@pytest.mark.parametrize("name", [name for name, make in WITH_ODD_TEXTS.items() if make])
def test_labels_are_drawn_as_written(name, tmp_path):
    """An SVG keeps each text that is not a formula unchanged, so the test reads it back."""
    figure = WITH_ODD_TEXTS[name]()
    figure.savefig(tmp_path / "notebook.png", dpi=50, bbox_inches="tight")  # as a notebook does
    figure.savefig(tmp_path / "figure.png", dpi=50)
    with plt.rc_context({"svg.fonttype": "none"}):
        figure.savefig(tmp_path / "figure.svg")
    drawn = html.unescape((tmp_path / "figure.svg").read_text(encoding="utf-8"))
    assert ODD in drawn and not any(text.get_parse_math() for text in figure.findobj(plt.Text))


def test_the_users_own_figures_keep_their_formulas(tmp_path):
    figure = figures.softmax_bars(FOUND)
    figure.savefig(tmp_path / "ours.png", dpi=50)
    theirs, axes = plt.subplots()
    assert axes.set_title("$x^2$").get_parse_math()
    plt.close(theirs)


@pytest.mark.parametrize("text", ["", "\n", "a\nb\tc", "x" * 500, "$", r"\$", "_x", "\u202eabc"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_answer_can_be_a_label(text, tmp_path):
    found = [SimpleNamespace(text=text, start_logit=2.0, end_logit=1.0, probability=0.7)]
    for figure in (
        figures.softmax_bars(found),
        figures.merge_bars(pd.DataFrame({"snippet 1": [0.5]}, index=[text])),
    ):
        figure.savefig(tmp_path / "f.png", dpi=50)
        label = figure.axes[0].get_yticklabels()[0].get_text()
        lines = label.split("\n")
        assert len(lines) <= 2 and max(map(len, lines)) <= 40 and "\t" not in label
        assert "".join(label.split())[:75] == "".join(text.split())[:75]


def test_a_system_in_several_profiles_has_one_row_and_the_line_touches_no_label(tmp_path):
    row = COMPARED | {"system": "untrained", "name": "M"}
    own = row | {"own": True}
    other = row | {"profile": "bioasq-cpu"}
    worse = row | {"measures": dict.fromkeys(row["measures"], MEASURE | {"mean": 0.45})}
    figure = figures.forest([own, other, worse], [COMPARED])
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:2] == ["this run, M, untrained: snippet", "M, untrained: snippet"]
    assert len(labels) == 3
    figure.savefig(tmp_path / "f.png", dpi=100)
    for panel in figure.axes:
        (line,) = (line for line in panel.lines if list(line.get_xdata()) == [0, 1])
        height = panel.transData.transform((0, line.get_ydata()[0]))[1]
        boxes = [text.get_window_extent() for text in panel.texts]
        assert len(boxes) == 3 and not any(box.y0 - 3 < height < box.y1 + 3 for box in boxes)


def test_an_empty_nbest_can_be_drawn(tmp_path):
    figures.softmax_bars([]).savefig(tmp_path / "f.png", dpi=50)
    figures.merge_bars(pd.DataFrame({"snippet 1": []}, dtype=float)).savefig(tmp_path / "g.png")


def test_the_interval_is_marked_at_n():
    axes = figures.interval_by_n(0.48, 162).axes[0]
    mark = axes.lines[1]
    assert list(mark.get_xdata()) == [162, 162]
    assert mark.get_ydata() == pytest.approx([40.2, 56.1], abs=0.05)
    (band,) = axes.collections
    edges = band.get_paths()[0].vertices
    near = edges[abs(edges[:, 0] - 162) < 12][:, 1]
    assert near.min() == pytest.approx(40.2, abs=0.7) and near.max() == pytest.approx(56.1, abs=0.7)
