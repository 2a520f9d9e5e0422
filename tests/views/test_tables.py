"""Highlighting never changes a text, and tables display texts as written."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from found import Found
from hypothesis import given
from hypothesis import strategies as st

from helpers.data.spans import Span
from helpers.views import figures, tables


def test_highlight_marks_gold_and_box_and_escapes():
    context = "a <b> & vitamin C"
    page = tables.highlight(context, [Span(8, 17, "vitamin C")], Found("& vitamin", 6, 15, 1.0))
    assert "a &lt;b&gt; " in page
    assert page.count("<span") == 1 and page.startswith(f"<bdi {tables.WRITTEN} ")
    box = page.split("<span")[1].split("</span>")[0]
    assert re.sub("<.*?>", "", box.split(">", 1)[1]) == "&amp; vitamin"
    assert len(re.findall("<b ", page)) == 2  # inside and outside the box
    assert "<span" not in tables.highlight(context, [])


@given(st.text(max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40))))
def test_highlight_never_changes_the_text(text, cuts):
    spans = [Span(min(a, b, len(text)), min(max(a, b), len(text)), "") for a, b in cuts]
    page = tables.highlight(text, spans[1:], spans[0] if spans else None)
    assert unescape(re.sub(r"</?(?:b|bdi|span)\b[^>]*>", "", page)) == text
    assert page.count("<b ") == page.count("</b>")


def test_nbest_bars_escape_and_show_percent():
    page = tables.nbest_html([Found("<i>", 0, 3, 0.75), Found("b", 4, 5, 0.25)], most=1)
    assert "&lt;i&gt;" in page and "75.0%" in page and "25.0%" not in page
    assert "not a confidence" in page
    assert "No span" in tables.nbest_html([])


def test_odd_spaces_in_a_gold_answer_are_visible():
    assert tables.visible(" a  b c ") == "␣a ␣b c␣"


@given(st.text(" ab"))
def test_visible_keeps_length_and_can_be_undone(text):
    shown = tables.visible(text)
    assert len(shown) == len(text) and shown.replace("␣", " ") == text
    assert shown == shown.strip() and "  " not in shown


@pytest.mark.fault("HTML, formulas or invisible characters in texts")
def test_a_table_escapes_and_takes_any_index():
    page = tables.table(
        pd.DataFrame({"<a>": ["<b>", "c"], "n": [1.234, 2]}, index=[5, 5])
    ).to_html()
    assert "&lt;a&gt;" in page and "&lt;b&gt;" in page and "<b>" not in page and "1.23<" in page


PRICES = (
    (Path(__file__).parents[1] / "cases" / "notebooks" / "dollar_signs.txt").read_text().strip()
)
ODD = PRICES + r" \(x\) $$7$$ \[y\] \begin{z}1\end{z} \$ <script>alert(1)</script> &amp;"


class Unprotected(HTMLParser):
    """Collects the texts of a page that MathJax would read, and every text."""

    def __init__(self, page):
        super().__init__()
        self.stack, self.read, self.all = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in ("br", "hr", "img"):
            classes = (dict(attrs).get("class") or "").split()
            inside = bool(self.stack) and self.stack[-1]
            self.stack.append(inside or {"mathjax_ignore", "tex2jax_ignore"} <= set(classes))
        assert tag != "script"

    def handle_endtag(self, tag):
        self.stack.pop()

    def handle_data(self, data):
        self.all.append(data)
        if not (self.stack and self.stack[-1]):
            self.read.append(data)


def odd_pages():
    context = f"{ODD} zinc"
    found = Found(ODD, 0, len(ODD), 0.5)
    frame = pd.DataFrame({ODD: [ODD]}, index=pd.Index([ODD], name=ODD))
    several = frame.set_axis(pd.MultiIndex.from_tuples([(ODD, ODD)], names=[ODD, ODD]))
    tables.as_written()
    return {
        "highlight": tables.highlight(context, [Span(3, 9, "")], found),
        "nbest": tables.nbest_html([found]),
        "text_table": tables.table(frame).to_html(),
        "several levels": tables.table(several).to_html(),
        "any style": pd.DataFrame({"text": [ODD]}).style.to_html(),
        "any table": frame._repr_html_(),
    }


@pytest.mark.fault("HTML, formulas or invisible characters in texts")
@pytest.mark.parametrize("name", odd_pages())
def test_no_text_is_read_as_a_formula_or_as_html(name):
    with pd.option_context("display.max_colwidth", 500):
        page = Unprotected(odd_pages()[name])
    assert ODD in page.all or ODD in "".join(page.all)
    assert not any("$" in text or "\\" in text for text in page.read)


def test_tables_are_protected_without_the_options():
    with pd.option_context("display.html.use_mathjax", True, "styler.html.mathjax", True):
        page = Unprotected(tables.table(pd.DataFrame({ODD: [ODD]})).to_html())
    assert page.all.count(ODD) == 2 and "$" not in "".join(page.read)


def test_a_folded_table_shows_the_first_rows_and_all_on_request():
    rows = [{"name": f"row {n}", "price": f"${n} <b>"} for n in range(5)]
    page = tables.folded(rows, "name").data
    before, after = page.split("<details>")
    assert before.count(">row ") == 3 and after.count(">row ") == 5
    assert "<summary>all 5 rows</summary>" in after
    assert "<b>" not in page and before.startswith(f"<div {tables.WRITTEN}>")
    for tag in re.findall("<table[^>]*>", page):
        assert "mathjax_ignore" in tag
    assert "details" not in tables.folded(rows[:3], "name").data
    assert tables.folded(pd.DataFrame(rows), "name", most=1).data.count(">row ") == 6


def test_an_image_has_a_text_for_readers():
    figure, _ = figures.new_figure(2, 1, "t")
    page = tables.image_html(figure, 'a "b" & c')
    assert page.startswith('<img alt="a &quot;b&quot; &amp; c" src="data:image/png;base64,iVBOR')


def test_the_name_of_the_index_is_in_the_header():
    page = tables.table([{"seeds": 1, "margin": 4.2}], "seeds").to_html()
    (head,) = re.findall("<thead>(.*?)</thead>", page, re.S)
    assert head.count("<tr>") == 1 and head.index("seeds") < head.index("margin")
    assert re.search(r"<th[^>]*>1</th>", page)
    two = tables.table([{"a": 1, "b": 2, "c": 3}], ["a", "b"]).to_html()
    assert "a</th>" in two and "b</th>" in two
