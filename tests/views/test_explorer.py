"""The explorer's page: what it contains, what it refuses, and that no text becomes HTML."""

import base64
import gzip
import html
import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import ASTRAL, HOSTILE, one_question, small_run

from helpers.config import InputError
from helpers.data.bioasq import write_answers
from helpers.views import explorer


@pytest.fixture
def run(tmp_path):
    return small_run(tmp_path / "runs" / "one")


def data_of(page):
    packed = re.search(r'<script id="data"[^>]*>([^<]*)</script>', page)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_a_question_has_golds_answers_snippets_and_labels(run):
    found = data_of(explorer.page(run))
    assert (found["run"], found["other"], found["merge"]) == ("one", None, "sum")
    assert found["axes"] == list(explorer.AXES.values())
    first, second, third = found["questions"]
    assert [q["id"] for q in found["questions"]] == ["q1", "q2", "q3"]
    assert first["golds"] == ["TNF-α ", "tumor  necrosis factor"]
    assert (first["rank"], second["rank"], third["rank"]) == (2, 0, 0)
    assert first["labels"] == ["in a snippet", "lost in the vote"]
    assert [(a["text"], a["right"]) for a in first["answers"]] == [
        ("IL-6", False), ("tumor  necrosis factor", True), ("elsewhere", False),
    ]  # fmt: skip
    assert third["answers"] == [] and third["snippets"] == []


def test_votes_add_up_over_the_snippets_and_repeats_count(run):
    first = data_of(explorer.page(run))["questions"][0]
    assert [(s["text"][:4], s["times"]) for s in first["snippets"]] == [("IL-6", 2), (ASTRAL, 1)]
    votes = {a["text"]: (a["score"], a["parts"]) for a in first["answers"]}
    assert votes["IL-6"][0] == pytest.approx(1.5)  # 0.75 twice, in two copies of one snippet
    assert votes["IL-6"][1] == [[0, 1.5]]
    assert votes["elsewhere"] == (None, [])  # no span has this text
    merged = small_run(run.parent / "two", merge="max")
    first = data_of(explorer.page(merged))["questions"][0]
    assert first["answers"][0]["score"] == pytest.approx(0.75)


def test_offsets_count_characters_and_golds_inside_words_are_marked_as_such(run):
    first, second, _ = data_of(explorer.page(run))["questions"]
    text = first["snippets"][1]
    assert [text["text"][low:high] for low, high in text["golds"]] == ["TNF-α"]
    low, high, chance, *_ = text["spans"].split()
    assert (text["text"][int(low) : int(high)], chance) == ("TNF-α", "0.6")
    assert not text["inside"]
    (low, high), *_ = second["snippets"][0]["golds"]
    assert second["snippets"][0]["inside"]
    assert second["snippets"][0]["text"][low:high] == "ascorbic"


def test_spans_without_a_visible_bar_are_left_out(run):
    first = data_of(explorer.page(run))["questions"][0]
    assert first["snippets"][0]["spans"] == "0 4 0.75 8 14 0.2496"


def test_two_runs_are_compared_by_question_and_snippet(run):
    other = small_run(run.parent / "two", swapped=True)
    found = data_of(explorer.page(run, other))
    first = found["questions"][0]
    assert found["other"] == "two"
    assert (first["rank"], first["other"]["rank"]) == (2, 1)
    assert first["other"]["labels"] == ["in a snippet", "(it is right)"]
    assert first["snippets"][1]["other"] == ["TNF-α", 0.6]


def test_a_folder_of_answers_can_be_compared_too(run):
    write_answers(run / "baselines" / "lexical" / "b1.json", {"q1": ["tnf-α "]})
    found = data_of(explorer.page(run, run / "baselines" / "lexical"))
    first, second, _ = found["questions"]
    assert first["other"] == {
        "rank": 1,
        "labels": [],
        "answers": [{"text": "tnf-α ", "right": True, "score": None, "parts": []}],
    }
    assert second["other"]["rank"] == 0  # a question without an answer counts as wrong
    with pytest.raises(InputError, match=r"squad: has no answers for b1"):
        explorer.page(run, run / "squad")


def test_a_run_without_axes_has_no_labels(run):
    table = pd.read_csv(run / "errors.csv", dtype=str, keep_default_na=False)
    table.drop(columns="failure").to_csv(run / "errors.csv", index=False)
    found = data_of(explorer.page(run))
    assert found["axes"] == ["where the gold answer is"]
    assert found["questions"][0]["labels"] == ["in a snippet"]
    (run / "errors.csv").unlink()
    found = data_of(explorer.page(run))
    assert found["axes"] == [] and found["questions"][0]["labels"] == []


def test_a_table_of_other_answers_is_refused(run):
    table = pd.read_csv(run / "errors.csv", dtype=str, keep_default_na=False)
    table.loc[0, "answer"] = "IL-7"
    table.to_csv(run / "errors.csv", index=False)
    with pytest.raises(InputError, match=r"errors\.csv: does not belong.*q1.*04_error_analysis"):
        explorer.page(run)


def test_a_folder_that_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="has no manifest.json"):
        explorer.page(tmp_path)
    (run / "manifest.json").write_text('{"notes": {}, "settings": {}}')
    with pytest.raises(InputError, match="run notebooks 00 to 04"):
        explorer.page(run)


def test_equal_runs_write_equal_pages(run):
    path = explorer.write(run)
    assert path == run / "explorer.html"
    assert path.read_text() == explorer.page(run)


def test_the_panel_frames_the_same_page(run, monkeypatch):
    shown = explorer.panel(run).data
    assert 'sandbox="allow-scripts allow-popups"' in shown  # the frame cannot reach the notebook
    document = html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1])
    assert document == explorer.page(run)
    assert "$" not in re.sub(r'srcdoc="[^"]*"', "", shown)
    monkeypatch.setattr(explorer, "_LARGEST_PANEL", 1000)
    shown = explorer.panel(run).data
    assert "<iframe" not in shown and "explorer.html" in shown


class Tags(HTMLParser):
    """The start tags of a page with their attributes."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, sorted(attrs)))


TEXT = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=8), max_size=6).map("".join)


@pytest.mark.fault("HTML, formulas or invisible characters in texts")
@settings(max_examples=40)
@given(TEXT, TEXT)
def test_no_text_of_a_run_becomes_html(text, name):
    found = one_question(text) | {"run": name, "other": name}
    page = explorer.render(found)
    assert data_of(page) == json.loads(json.dumps(found))
    assert Tags(page).found == Tags(explorer.render(one_question("") | {"other": ""})).found
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)


@pytest.mark.fault("HTML, formulas or invisible characters in texts")
def test_an_unpaired_surrogate_does_not_stop_the_page():
    assert data_of(explorer.render(one_question("a\ud800b")))["questions"][0]["id"] == "a\ud800b"
