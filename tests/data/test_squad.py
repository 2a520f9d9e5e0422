"""SQuAD files in and out."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.config import InputError
from helpers.data.bioasq import Remarks, is_squad, read_json
from helpers.data.spans import Span, find_spans
from helpers.data.squad import (
    Drop,
    Example,
    by_occurrence,
    by_pair,
    question_texts,
    read_squad,
    write_drops,
    write_ids,
    write_squad,
)
from helpers.io import write_json

ID = "0000000000000000000000a1"


def example(row, context, *synonyms, question_id=ID):
    spans = tuple(find_spans(context, synonyms))
    return Example(f"{question_id}_{row:03d}", question_id, "Which?", context, spans)


def rows_of(path):
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [row for article in data for part in article["paragraphs"] for row in part["qas"]]


def squad(*rows, context="α p53 b", **more):
    return {"data": [{"paragraphs": [{"context": context, "qas": list(rows)}], **more}]}


def row(name, *answers, **more):
    listed = [{"text": text, "answer_start": start} for start, text in answers]
    return {"id": name, "question": "Which?", "answers": listed, **more}


def test_rows_by_pair_and_by_occurrence(tmp_path):
    examples = [example(2, "p53 p53 α", "p53"), example(5, "none"), example(6, "a P53", "p53")]
    pairs = rows_of(write_squad(tmp_path / "pair.json", examples))
    assert [(row["id"][-4:], len(row["answers"])) for row in pairs] == [
        ("_002", 2), ("_005", 0), ("_006", 1),
    ]  # fmt: skip
    assert "is_impossible" not in pairs[0]
    path = write_squad(tmp_path / "rows.json", by_occurrence(examples), version="2.0")
    assert [(row["id"][-4:], row["answers"], row["is_impossible"]) for row in rows_of(path)] == [
        ("_001", [{"text": "p53", "answer_start": 0}], False),
        ("_002", [{"text": "p53", "answer_start": 4}], False),
        ("_003", [], True),
        ("_004", [{"text": "P53", "answer_start": 2}], False),
    ]
    assert read_squad(path) == [
        Example(f"{ID}_00{n}", ID, "Which?", context, spans, impossible=not spans)
        for n, (context, spans) in enumerate(
            [
                ("p53 p53 α", (Span(0, 3, "p53"),)),
                ("p53 p53 α", (Span(4, 7, "p53"),)),
                ("none", ()),
                ("a P53", (Span(2, 5, "P53"),)),
            ],
            1,
        )
    ]


def test_more_than_999_rows_stay_unique(tmp_path):
    rows = by_occurrence([example(1, "a " * 1001, "a")])
    assert [rows[0].id[-5:], rows[-1].id[-5:]] == ["1_001", "_1001"]
    assert read_squad(write_squad(tmp_path / "many.json", rows))[-1].question_id == ID


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contexts=st.lists(st.text('ab (αİ\n\\"', min_size=1).filter(str.strip), min_size=1))
def test_writing_and_reading_gives_the_same_examples(tmp_path, contexts):
    examples = [example(n, context, "a", "b (") for n, context in enumerate(contexts)]
    read = read_squad(write_squad(tmp_path / "f.json", examples))
    assert [(e.id, e.question_id, e.context, e.spans) for e in read] == [
        (e.id, e.question_id, e.context, e.spans) for e in examples
    ]


def test_reads_the_shapes_in_use(save):
    bare = {"id": f"{ID}_001", "question": "Which?"}
    v1 = row("57", (2, "p53"), (0, "α"), (2, "p53"))
    v2 = row("58_01", is_impossible=True, plausible_answers=[{"text": "b", "answer_start": 6}])
    null = {**bare, "id": "x_y_0123", "answers": None}
    read = read_squad(save("f.json", squad(bare, v1, v2, null, title="T")))
    assert [e.question_id for e in read] == [ID, "57", "58_01", "x_y"]
    assert [[span.text for span in e.spans] for e in read] == [[], ["α", "p53"], [], []]
    # An article's title is no document.
    assert read[0].document == "" and read[0].context == "α p53 b"


def test_numbered_rows_that_ask_different_things_are_questions_of_their_own(save):
    rows = [{**row(f"train_000{n}", (2, "p53")), "question": f"Which {n}?"} for n in (1, 2)]
    same = [row("dev_0001", (2, "p53")), row("dev_0002", (0, "α"))]
    read = read_squad(save("f.json", squad(*rows, *same)))
    assert [e.question_id for e in read] == ["train_0001", "train_0002", "dev", "dev"]
    # Their answers are not put together, and the leak check sees every wording.
    assert [len(pair.spans) for pair in by_pair(read)] == [1, 1, 2]
    assert question_texts(read) == {
        "train_0001": "Which 1?", "train_0002": "Which 2?", "dev": "Which?"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"questions": []}, "not a SQuAD file"),
        ([], "not a SQuAD file"),
        ({"data": []}, "contains no questions"),
        ({"data": [{}]}, "article 1: field 'paragraphs' is not a list"),
        ({"data": ["x"]}, "article 1 is not an object"),
        ({"data": [{"paragraphs": [7]}]}, "article 1, paragraph 1 is not an object"),
        ({"data": [{"paragraphs": [{"qas": {}}]}]}, "paragraph 1: field 'qas' is not a list"),
        ({"data": [{"paragraphs": [{"qas": [row("q1")]}]}]}, "'q1': field 'context'"),
        (squad(row("q1"), {"id": "q2"}), "question 'q2': field 'question'"),
        (squad(row("q1"), 7), "article 1, paragraph 1, row 2 is not an object"),
        (squad({"question": "?"}), "article 1, paragraph 1, row 1: field 'id'"),
        (squad({"id": "q1", "question": "?", "answers": ["p53"]}), "'q1': field 'answers'"),
        (squad({"id": "q1", "question": "?", "answers": "p53"}), "'q1': field 'answers'"),
        (
            squad({"id": "q1", "question": "?", "answers": {"text": ["p53"], "answer_start": []}}),
            "'q1': field 'answers' is an object without lists 'text'",
        ),
        (squad({"id": "q1", "question": "?", "answers": {"p53": 2}}), "of equal length"),
        (squad({"id": "q1", "question": "?", "answers": {"text": "p53"}}), "'answer_start' of"),
        (squad(row("q1", (2, "p53"), is_impossible=True)), "'q1': field 'is_impossible' is true"),
        (squad(row("q1", is_impossible="yes")), "'q1': field 'is_impossible' is neither"),
        (squad(row("q1", (1, " "))), "'q1': answer ' ' has no text"),
        (squad({"id": "q1", "question": "?", "answers": [{"answer_start": 2}]}), "field 'text'"),
        (squad(row("q1", ("2", "p53"))), "'q1': field 'answer_start' of answer 'p53'"),
        (squad(row("q1"), row("q1")), "'q1': id occurs twice"),
        (
            squad(row("q1", (0, "p53"))),
            "not at character 0 of its context (it first occurs at character 2)",
        ),
        (squad(row("q1", (3, "53"), (4, "53"))), "'q1': answer '53' is not at character 4"),
        (squad(row("q1", (2, "P53"))), "'q1': answer 'P53'"),
        (squad(row("q1", (-1, "b"))), "'q1': answer 'b' is not at character -1"),
        (squad(row("q1", (0, ""))), "'q1': answer ''"),
        (squad(row("q1"), context=" "), "'q1': field 'context'"),
        (squad(row(7.5)), "7.5: field 'id'"),
        (squad(row(True)), "True: field 'id'"),
        (squad(row(7), row("7")), "'7': id occurs twice"),
        ([{"context": "p53", "qas": [row("q1", (2, "x"))]}], "'q1': answer 'x'"),
        ([{"context": "p53", "question": "?"}], "row 1: field 'id'"),
        ([{"context": "p53", "qas": 7}], "paragraph 1: field 'qas' is not a list"),
        (squad({**row("q1"), "question": ""}), "'q1': field 'question'"),
    ],
)
def test_bad_squad_files(save, data, words):
    with pytest.raises(InputError) as caught:
        read_squad(save("bad.json", data))
    assert words in str(caught.value) and "bad.json" in str(caught.value)
    assert "\n" not in str(caught.value)


CASES = Path(__file__).parents[1] / "cases" / "squad"


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("number_ids", {"262": "TP53", "276": "BRCA1"}),
        ("list_of_rows", {"1": "TP53"}),
    ],
)
def test_files_of_other_tools_are_read(name, answers):
    read = read_squad(CASES / f"{name}.json")
    assert {row.id: row.spans[0].text for row in read} == answers
    assert all(row.context[s.start : s.end] == s.text for row in read for s in row.spans)


def test_space_around_an_answer_is_no_part_of_it():
    remarks = Remarks()
    read = read_squad(CASES / "trailing_space_in_gold.json", remarks)
    assert [row.spans[0].text for row in read][:3] == ["CFTR", "SMN1", "BRCA1"]
    assert all(row.context[s.start : s.end] == s.text for row in read for s in row.spans)
    (remark,) = remarks.lines("f")
    assert "an answer has leading or trailing whitespace, which is removed: 8 questions" in remark


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("impossible_but_answered", "'q1': field 'is_impossible' is true"),
        ("onlyspace_answer", "'q1': answer ' ' has no text"),
        ("utf16", "is in UTF-16, not UTF-8; convert it with iconv -f UTF-16 -t"),
        ("cp1252", "“TP53” gene – here\",' looks right, the file is in Windows-1252, so convert"),
    ],
)
def test_what_is_ambiguous_is_refused_with_its_place(name, words):
    with pytest.raises(InputError) as caught:
        read_squad(CASES / f"{name}.json")
    assert words in str(caught.value) and f"{name}.json: " in str(caught.value)


def test_a_row_without_an_answer_that_is_said_to_have_one_is_listed(save):
    remarks = Remarks()
    rows = [row("q1", is_impossible=False), row("q2", is_impossible=True), row("q3")]
    assert not any(e.spans for e in read_squad(save("f.json", squad(*rows)), remarks))
    (remark,) = remarks.lines("f")
    assert "'is_impossible' is false, but there is no answer: 1 question ('q1')" in remark


@pytest.mark.parametrize(
    ("text", "start", "place"),
    [
        ("p53", 2, 2), (" p53", 1, 2), ("p53 ", 2, 2), (" p53\n", 2, 2), ("p53", 1, 2),
        ("\xa0p53", 2, 2), ("α p53", 0, 0), ("p53", 8, 9),
    ],
)  # fmt: skip
def test_an_answers_place_may_be_off_by_space(save, text, start, place):
    remarks = Remarks()
    path = save("f.json", squad(row("q1", (start, text)), context="α p53 b  p53"))
    (span,) = read_squad(path, remarks)[0].spans
    assert (span.start, span.text) == (place, text.strip())
    assert bool(remarks.found) == (text != text.strip() or start != place)


def flat(name, **answers):
    return {"id": name, "title": "T", "context": "α p53 b", "question": f"{name}?", **answers}


COLUMNS = {"answers": {"text": ["p53", "b"], "answer_start": [2, 6]}}
LISTED = {"answers": [{"text": "p53", "answer_start": 2}, {"text": "b", "answer_start": 6}]}


@pytest.mark.parametrize(
    "data",
    [
        [flat("1", **COLUMNS), flat("2", answers={"text": [], "answer_start": []})],
        {"data": [flat("1", **LISTED), flat("2")]},
        [{"context": "α p53 b", "qas": [flat("1", **COLUMNS), flat("2", is_impossible=True)]}],
        squad(flat("1", **COLUMNS), flat("2"))["data"],
        "\n".join(json.dumps(row) for row in (flat("1", **LISTED), flat("2"))).encode(),
    ],
)
def test_every_shape_gives_the_same_rows(save, data):
    path = save("f.json", data)
    assert is_squad(read_json(path))
    assert [(row.id, row.context, [s.text for s in row.spans]) for row in read_squad(path)] == [
        ("1", "α p53 b", ["p53", "b"]), ("2", "α p53 b", []),
    ]  # fmt: skip


def test_one_json_line_is_one_row(save):
    answer = {"text": "p53", "answer_start": 2}
    (row,) = read_squad(save("f.json", flat("1", answers=answer)))
    assert row.spans == (Span(2, 5, "p53"),)


def test_id_map_and_drop_report_are_json_lines(tmp_path):
    one = Example("q_001", "q", "Which?", "α p53", (Span(2, 5, "p53"),), 0, "https://example.org/d")
    lines = write_ids(tmp_path / "ids.jsonl", [one, one]).read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[1]) == {
        "id": "q_001", "question_id": "q", "snippet": 0,
        "document": "https://example.org/d", "spans": [[2, 5]],
    }  # fmt: skip
    path = write_drops(tmp_path / "drops.jsonl", [Drop("q", "Which α?", "no snippets")])
    assert path.read_text(encoding="utf-8") == (
        '{"question_id": "q", "question": "Which α?", "reason": "no snippets", "detail": "", '
        '"nearest": "", "snippet": -1, "likeness": 0.0}\n'
    )


@pytest.mark.parametrize("version", ["1.1", "2.0"])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_layout_is_that_of_every_other_json_file(tmp_path, version, count):
    """The same bytes as ``write_json`` gives, quotes, line breaks and other scripts included."""
    rows = [
        Example("q_001", "q", 'Which "α"?', "α p53\n\u2028 x", (Span(2, 5, "p53"),)),
        Example("q_002", "q", "?", "α p53\n\u2028 x", (Span(0, 1, "α"), Span(2, 5, "p53"))),
        Example("q_003", "q", "W\\?", "none", ()),
        Example("r_001", "r", "W?", "none", ()),
        Example("r_002", "r", "W?", "😀 none", (Span(0, 1, "😀"),)),
    ][:count]
    path = write_squad(tmp_path / "a.json", rows, version=version)
    data = json.loads(path.read_text(encoding="utf-8"))
    assert path.read_bytes() == write_json(tmp_path / "b.json", data).read_bytes()
    paragraphs = data["data"][0]["paragraphs"]
    assert [len(p["qas"]) for p in paragraphs] == [2, 1, 1, 1][: len(paragraphs)] or count == 1
    assert data["version"] == version
    found = [qa for p in paragraphs for qa in p["qas"]]
    assert [[a["text"] for a in qa["answers"]] for qa in found] == [
        [s.text for s in row.spans] for row in rows
    ]
    assert all(("is_impossible" in qa) == (version == "2.0") for qa in found)
