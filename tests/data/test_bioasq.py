"""Reading and writing BioASQ JSON, well-formed and otherwise."""

import json

import pytest

from helpers.config import InputError
from helpers.data.bioasq import (
    Question,
    Remarks,
    Snippet,
    read_answers,
    read_golds,
    read_json,
    read_questions,
    write_answers,
)
from helpers.io import write_json


def test_reads_every_field_and_keeps_golds_as_written(save, tiny):
    first, second = read_questions(save("train.json", tiny), answers="required")
    assert first.exact_answer == (("TNF-α ", "tumour  necrosis factor"), ("cachectin",))
    assert first.synonyms() == ("TNF-α ", "tumour  necrosis factor", "cachectin")
    assert first.snippets[0].offset_begin == 3 and first.snippets[0].begin_section == "abstract"
    assert first.snippets[1] == Snippet("It was approved in 1998.", "https://example.org/d/2")
    assert first.documents == ("https://example.org/d/1", "https://example.org/d/2")
    assert second.documents == () and second.exact_answer == (("ascorbic",),)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["a", "b"], (("a", "b"),)),
        ([["a", "b"]], (("a", "b"),)),
        ([["a"], ["b"]], (("a",), ("b",))),
        ("a", (("a",),)),
        ([[], [" a "]], ((" a ",),)),
        ([], ()),
    ],
)
def test_exact_answer_shapes(save, tiny, written, read):
    tiny["questions"][0]["exact_answer"] = written
    assert read_questions(save("f.json", tiny), answers="required")[0].exact_answer == read


def test_null_is_absent_and_other_types_are_kept_on_request(save, tiny):
    tiny["questions"][0].update(exact_answer=None, snippets=None, documents=None)
    path = save("f.json", tiny)
    assert read_questions(path)[0] == Question(
        "0000000000000000000000a1", "Which cytokine does infliximab block?", "factoid"
    )
    assert [question.type for question in read_questions(path, kind=None)][-1] == "yesno"
    assert [question.id[-2:] for question in read_questions(path, kind="yesno")] == ["a3"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("[['BRAF']]", (("BRAF",),)),
        ("['BRAF', \"B-Raf's\"]", (("BRAF", "B-Raf's"),)),
        ('["a"]', (("a",),)),
        (["['a']"], (("a",),)),
        (["['a', 'b']", "c"], (("a", "b", "c"),)),
        ("[['a'], ['b']]", (("a",), ("b",))),
        ("[11C]", (("[11C]",),)),  # no list: a text in brackets
        ("[1, 2]", (("[1, 2]",),)),
        ("[]", (("[]",),)),
    ],
)
def test_a_list_written_as_text_is_read_as_that_list(save, tiny, written, read):
    tiny["questions"][0]["exact_answer"] = written
    path, remarks = save("f.json", tiny), Remarks()
    assert read_questions(path, answers="required", remarks=remarks)[0].exact_answer == read
    said = any("a list written as a string" in line for line in remarks.lines(path))
    assert said == (read != ((written,),))


def test_a_list_as_text_without_commas_is_refused(save, tiny):
    tiny["questions"][0]["exact_answer"] = "['a' 'b']"
    with pytest.raises(InputError, match="a1': field 'exact_answer' .* without commas"):
        read_questions(save("f.json", tiny))


def test_nan_is_null_and_infinity_is_refused(save, tiny):
    tiny["questions"][0]["exact_answer"] = float("nan")
    path, remarks = save("f.json", tiny), Remarks()
    with pytest.raises(InputError, match="a1': field 'exact_answer' is missing, null or NaN"):
        read_questions(path, answers="required")
    assert len(read_questions(path, remarks=remarks)) == 2
    assert remarks.lines(path)[:1] == [f"{path}: NaN is not valid JSON; it is read as null"]
    tiny["questions"][0]["exact_answer"] = float("inf")
    with pytest.raises(InputError, match=r"f\.json: contains Infinity"):
        read_questions(save("f.json", tiny), answers="required")


def test_a_line_break_inside_a_text_and_a_repeated_key(save):
    path = save("a.json", b'{"questions": [{"id": "1", "body": "a\nb", "body": "c"}]}')
    assert read_json(path)["questions"][0]["body"] == "c"
    remarks = Remarks()
    read_json(path, remarks)
    (line,) = remarks.lines(path)
    assert line.endswith("key 'body' occurs twice in one object; the last one counts: "
                         "1 question ('1')")  # fmt: skip


def test_byte_order_mark_is_accepted(save, tiny):
    data = b"\xef\xbb\xbf" + json.dumps(tiny, ensure_ascii=False).encode()
    assert len(read_questions(save("bom.json", data))) == 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfe{", "not UTF-8"),
        (b"{'questions'", "not JSON (line 1, column 2"),
        (b"[" * 100_000, "nested too deeply"),
        ([], "not a BioASQ file"),
        ({"questions": {}}, "not a BioASQ file"),
        ({"version": "1.1", "data": []}, "a SQuAD file"),
        ({"questions": []}, "its list 'questions' is empty; give a file"),
        (b'{"questions": [' + b"7" * 5000 + b"]}", "a number with thousands of digits"),
        ({"questions": ["x"]}, "question 1 is not an object"),
    ],
)
def test_files_that_are_not_bioasq(save, data, words):
    path = save("bad.json", data)
    with pytest.raises(InputError) as caught:
        read_questions(path)
    assert words in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": None}, "question number 1: field 'id' is missing"),
        ({"id": 7}, "question 7: field 'id' is int"),
        ({"id": "0000000000000000000000a2"}, "0000000000000000000000a2': id occurs twice"),
        ({"id": "0000000000000000000000a3"}, "0000000000000000000000a3': id occurs twice"),
        ({"type": None}, "a1': field 'type' is missing"),
        ({"body": " "}, "a1': field 'body' is empty"),
        ({"snippets": {}}, "a1': field 'snippets' is dict"),
        ({"snippets": ["x"]}, "a1', snippet 0: is str"),
        ({"snippets": [{"text": "x"}, {"text": 3}]}, "a1', snippet 1: field 'text' is int"),
        ({"snippets": [{"text": "x", "offsetInBeginSection": "3.5"}]}, "'offsetInBeginSection'"),
        ({"snippets": [{"text": "x", "offsetInEndSection": True}]}, "'offsetInEndSection'"),
        ({"type": "essay"}, "a1': field 'type' is 'essay'"),
        ({"documents": [1]}, "a1': field 'documents'"),
        ({"exact_answer": {"a": 1}}, "a1': field 'exact_answer'"),
        ({"exact_answer": [["a", ["b"]]]}, "a1': field 'exact_answer'"),
        ({"exact_answer": True}, "a1': field 'exact_answer'"),
    ],
)
def test_bad_fields_name_question_and_field(save, tiny, change, words):
    tiny["questions"][0].update(change)
    with pytest.raises(InputError) as caught:
        read_questions(save("bad.json", tiny))
    assert words in str(caught.value) and "bad.json" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "remark", "read"),
    [
        ({"exact_answer": ["a", "b"]}, "flat list", {"exact_answer": (("a", "b"),)}),
        ({"exact_answer": "a"}, "is one string", {"exact_answer": (("a",),)}),
        ({"exact_answer": 5}, "is a number; it is read as the only", {"exact_answer": (("5",),)}),
        ({"exact_answer": ["a", ["b", "c"]]}, "mixes", {"exact_answer": (("a",), ("b", "c"))}),
        ({"exact_answer": [["a", 3]]}, "is a number", {"exact_answer": (("a", "3"),)}),
        ({"exact_answer": [["a", None]]}, "is null", {"exact_answer": (("a",),)}),
        ({"type": "Factoid "}, "nonstandard spelling", {"type": "factoid"}),
        ({"documents": "d"}, "is a string; it is", {"documents": ("d",)}),
        ({"snippets": [{"text": "x", "offsetInBeginSection": "3"}]}, "not stored as an integer",
         {"snippets": (Snippet("x", offset_begin=3),)}),
        ({"snippets": [{"text": "x", "offsetInEndSection": 3.0}]}, "not stored as an integer",
         {"snippets": (Snippet("x", offset_end=3),)}),
        ({"snippets": [{"text": "\n"}, {}]}, "has no text",
         {"snippets": (Snippet("\n"), Snippet(""))}),
        ({"snippets": [{"text": "xyz", "offsetInBeginSection": 0, "offsetInEndSection": 2}]},
         "its offsets; its text", {"snippets": (Snippet("xyz", offset_begin=0, offset_end=2),)}),
    ],
)  # fmt: skip
def test_repairs_are_listed_with_the_question(save, tiny, change, remark, read):
    tiny["questions"][0].update(change)
    path, remarks = save("old.json", tiny), Remarks()
    question = read_questions(path, remarks=remarks)[0]
    assert {name: getattr(question, name) for name in read} == read
    lines = [line for line in remarks.lines(path) if "a1'" in line]
    assert len(lines) == 1 and remark in lines[0] and lines[0].startswith(str(path))
    assert "\n" not in lines[0]


def test_a_question_that_stands_twice_and_a_bare_list(save, tiny):
    tiny["questions"].append(tiny["questions"][0])
    path, remarks = save("bare.json", tiny["questions"]), Remarks()
    assert [question.id[-2:] for question in read_questions(path, remarks=remarks)] == ["a1", "a2"]
    assert any("occurs twice" in line and "a1'" in line for line in remarks.lines(path))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_questions(tmp_path / "none.json")
    with pytest.raises(InputError, match="is a folder"):
        read_questions(tmp_path)


def test_answers_required_and_forbidden(save, tiny):
    with pytest.raises(InputError, match="a1': field 'exact_answer' marks a training"):
        read_questions(save("gold.json", tiny), answers="forbidden")
    del tiny["questions"][1]["exact_answer"]
    with pytest.raises(InputError, match=r"a2': field .* missing, null or NaN \(in 1 of 2\)"):
        read_questions(save("part.json", tiny), answers="required")
    del tiny["questions"][0]["exact_answer"]
    with pytest.raises(InputError, match="this is a test input"):
        read_questions(save("test.json", tiny), answers="required")
    assert len(read_questions(save("test.json", tiny), answers="forbidden")) == 2


def test_answers_round_trip_at_most_five(tmp_path):
    path = write_answers(tmp_path / "new" / "7B1.json", {"q1": list("abcdef"), "q2": []})
    assert json.loads(path.read_text(encoding="utf-8"))["questions"][1] == {
        "id": "q2", "type": "factoid", "exact_answer": [], "ideal_answer": "",
    }  # fmt: skip
    answers, remarks = read_answers(path)
    assert answers == {"q1": list("abcde"), "q2": []}
    assert len(remarks) == 1 and "'q2'" in remarks[0]


def test_answers_are_ranked_as_the_evaluator_ranks_them(save):
    entries = [
        {"id": "1", "exact_answer": [[], ["a", "x"], [""], ["a"]]},
        {"id": "2", "type": "factoid", "exact_answer": ["a", ["b"]]},
        {"id": "1", "exact_answer": [["late"]]},
        {"id": "3", "type": "yesno", "exact_answer": "yes"},
        {"id": "4"},
        {"id": "5", "exact_answer": [[str(n)] for n in range(6)]},
    ]
    answers, remarks = read_answers(save("run.json", {"questions": entries}))
    ranked = {"1": ["a", "", "a"], "2": ["a", "b"], "3": [], "4": [], "5": list("012345")}
    assert answers == ranked
    assert [remark.split(": ")[-1] for remark in remarks] == [
        f"1 question ('{name}')" for name in "221345"
    ]


def test_numbers_are_the_texts_they_are_written_as(save):
    """As the organizers' program reads them; only "-0", being a whole number, loses its sign."""
    numbers = b"7, -0, -7, 7.0, 1e3, 1E-2, 12345678901234567890123, -0.0"
    path = save("run.json", b'{"questions": [{"id": 7, "exact_answer": [[%s]]}]}' % numbers.replace(
        b", ", b"], ["))  # fmt: skip
    read = ["7", "0", "-7", "7.0", "1e3", "1E-2", "12345678901234567890123", "-0.0"]
    answers, remarks = read_answers(path)
    assert answers == {"7": read} and "a number; it is read as written (9.0 is not 9)" in remarks[0]
    gold = b'{"questions": [{"id": "7", "type": "factoid", "exact_answer": [[%s]]}]}' % numbers
    assert read_golds(save("gold.json", gold)).scored == [("7", tuple(read))]


@pytest.mark.parametrize("answer", [True, {}, [True], [[True]], [[["a"]]], {"a": 1}])
def test_answers_of_the_wrong_type_are_refused(save, answer):
    path = save("run.json", {"questions": [{"id": "q9", "exact_answer": answer}]})
    with pytest.raises(InputError, match="'q9': field 'exact_answer'"):
        read_answers(path)


@pytest.mark.fault("a failure while several files are written")
def test_writing_leaves_the_old_file_when_it_fails(tmp_path):
    path = write_json(tmp_path / "out.json", {"α": [1]})
    assert path.read_bytes() == '{\n "α": [\n  1\n ]\n}\n'.encode()
    with pytest.raises(InputError, match="unpaired surrogate"):
        write_json(path, "\ud800")
    with pytest.raises(InputError, match="cannot be written"):
        write_json(path / "below_a_file.json", {})
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]
    assert json.loads(path.read_text(encoding="utf-8")) == {"α": [1]}


def test_a_question_as_written_in_2013(save):
    """Flat golds, keys of other tasks, a null list, sections by number, offsets at the end."""
    item = {
        "id": "0000000000000000000000b1", "type": "factoid", "body": "Which gene?",
        "concepts": ["http://example.org/c"], "triples": [{"s": "a", "p": "b", "o": "c"}],
        "documents": None, "ideal_answer": "It is p53.", "exact_answer": ["p53", "TP53"],
        "snippets": [{"text": "p53", "beginSection": "sections.0", "endSection": "sections.0",
                      "offsetInBeginSection": 7, "offsetInEndSection": 10}],
    }  # fmt: skip
    (question,) = read_questions(save("training.json", {"questions": [item]}), answers="required")
    assert question.exact_answer == (("p53", "TP53"),) and question.documents == ()
    assert question.snippets == (Snippet("p53", "", "sections.0", "sections.0", 7, 10),)
