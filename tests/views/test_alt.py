"""Figures describe themselves for readers who cannot see them."""

from helpers.views import alt, figures


def test_the_text_names_what_is_written_in_the_figure():
    figure, (left, right) = figures.new_figure(6, 2, "Loss", "Rate")
    figure.suptitle("A run")
    left.plot([1, 2], [3, 2], label="each step")
    left.set(xlabel="step", ylabel="loss (nats)")
    left.legend()
    right.annotate("here", (0, 0))
    assert alt.describe(figure) == (
        "A run. Chart: Loss. Horizontal axis: step. Vertical axis: loss (nats). Chart: Rate. "
        "Written in the chart: here. Legend: each step."
    )


def test_the_text_gives_categories_and_values_but_no_tick_numbers():
    row = {"batch": "mini1", "questions": 10, "strict rule": 8, "ceiling": 9}
    text = alt.describe(figures.coverage_bars([row]))
    assert "Horizontal axis: test batch (numbers: ceiling): mini1." in text
    assert "Written in the chart: 90.0% 9 of 10." in text
    assert "Vertical axis: questions (%)." in text
    assert "Legend: extractive ceiling, strict rule." in text


def test_a_diagram_is_read_out():
    text = alt.describe(figures.notebook_flow([("00_start", "checks", "map.png")]))
    assert text == "Diagram: 00_start, checks, map.png."


def test_a_long_list_is_cut():
    tokens = [(f"t{n}", 0.1, 0.2) for n in range(30)]
    text = alt.describe(figures.span_logits(tokens))
    assert "t19 and 10 more" in text and "t20" not in text


def test_a_description_of_the_figure_s_own_comes_first():
    figure, _ = figures.new_figure(3, 2, "A title")
    figure.set_label("Two lines that cross.")
    assert alt.describe(figure) == "Two lines that cross."
    assert alt.describe(figures.new_figure(3, 2)[0]) == "Chart."


def test_ipython_stores_the_text_with_the_image():
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.core.pylabtools import select_figure_formats

    figure, _ = figures.new_figure(3, 2, "A title")
    shell = InteractiveShell()
    select_figure_formats(shell, {"png"})  # as in a notebook
    data, metadata = shell.display_formatter.format(figure)
    assert "image/png" in data
    assert metadata["image/png"] == {"alt": alt.describe(figure)}
