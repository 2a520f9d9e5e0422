"""BioASQ questions to examples, and the command line that does it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.config import InputError
from helpers.data.bioasq import Question, Snippet, read_questions
from helpers.data.convert import Abstracts, convert, find_abstract, read_abstracts
from helpers.data.squad import Drop, read_squad
from helpers.pipeline import convert_files

SCRIPT = Path(__file__).parents[2] / "data_scripts" / "bioasq_to_squad.py"
CASES = Path(__file__).parents[1] / "cases"
A1, A2 = "0000000000000000000000a1", "0000000000000000000000a2"


def question(*texts, golds=("p53",), name="q", documents=()):
    snippets = tuple(Snippet(text, f"https://example.org/{n}") for n, text in enumerate(texts))
    return Question(name, "Which?", "factoid", snippets, documents, (tuple(golds),))


def test_training_keeps_contexts_with_a_span_and_reports_the_rest(save, tiny):
    examples, drops = convert(read_questions(save("t.json", tiny)))
    assert [(e.id, e.question_id, e.snippet, e.document) for e in examples] == [
        (f"{A1}_001", A1, 0, "https://example.org/d/1")
    ]
    assert [(s.start, s.text) for s in examples[0].spans] == [
        (18, "TNF-α"), (30, "TNF-α"), (43, "tnf-α"),
    ]  # fmt: skip
    assert [(drop.question_id, drop.reason) for drop in drops] == [
        (A2, "answer only inside a word")
    ]
    assert "preascorbic" in drops[0].detail


def test_test_input_keeps_every_context_and_repeats(save, tiny):
    for item in tiny["questions"]:
        del item["exact_answer"]
    examples, drops = convert(read_questions(save("t.json", tiny)), test=True)
    assert [e.id[-6:] for e in examples] == ["a1_001", "a1_002", "a1_003", "a2_001"]
    assert examples[1].context == examples[2].context
    assert not drops and not any(e.spans for e in examples)


def test_rows_have_the_same_ids_in_training_and_test():
    one = question("no", "p53 a", "no", "p53 b", "p53 a")
    train, everything = convert([one])[0], convert([one], test=True)[0]
    assert [e.id for e in train] == ["q_002", "q_004"]
    assert [e for e in everything if e in train] == train and len(everything) == 5


@pytest.mark.parametrize(
    ("one", "context", "reason"),
    [
        (question(), "snippet", "no snippets"),
        (question(), "appended", "no snippets"),
        (question("p53"), "abstract", "no abstract"),
        (Question("q", "Which?", "factoid", (Snippet("p53"),)), "snippet", "no exact answer"),
        (question("p53", golds=(" ", "")), "snippet", "no exact answer"),
        (question("p530 ap53"), "snippet", "answer only inside a word"),
        (question("p 53"), "snippet", "answer in no context"),
    ],
)
def test_each_drop_has_its_reason(one, context, reason):
    examples, drops = convert([one], context=context, abstracts=Abstracts({"x": "y"}))
    assert not examples and [drop.reason for drop in drops] == [reason]


def test_negatives_are_contexts_that_surely_lack_the_answer():
    one = question("p 53 rose", "p53", "nothing", "ap53", "nothing", "p53")
    kept, _ = convert([one], negatives=True)
    assert [(e.id, len(e.spans)) for e in kept] == [("q_002", 1), ("q_003", 0)]
    assert convert([question("nothing")], negatives=True)[0] == []
    assert convert([one], test=True) == convert([one], test=True, negatives=True)


def test_blank_snippets_are_no_contexts_but_keep_their_number():
    one = question(" ", "p53", "")
    assert [(e.id, e.snippet) for e in convert([one], test=True)[0]] == [("q_001", 1)]


def test_every_question_is_an_example_or_a_drop():
    many = [question(*texts, name=str(n)) for n, texts in enumerate([(), ("p53", "p53 b"), ("x",)])]
    for test in (False, True):
        examples, drops = convert(many, test=test)
        names = {e.question_id for e in examples} | {drop.question_id for drop in drops}
        assert names == {"0", "1", "2"} and len(drops) == (1 if test else 2)
    assert convert([question()], test=True)[1] == [Drop("q", "Which?", "no snippets")]


def test_appended_context_joins_distinct_snippets():
    examples, _ = convert([question("b p53.", "a", "b p53.")], context="appended")
    assert [(e.id, e.context, e.snippet) for e in examples] == [("q_001", "b p53. a", -1)]
    assert examples[0].spans[0].start == 2


def test_an_appended_context_says_where_each_snippet_stands(save, tiny, tmp_path):
    (example,), _ = convert([question("b p53.", "a", "b p53.", " ")], context="appended")
    e = "https://example.org/"
    assert example.parts == ((0, e + "0", 0), (1, e + "1", 7), (2, e + "2", 0))
    path, ids = save("training7b.json", tiny), tmp_path / "ids.jsonl"
    convert_files([path], tmp_path / "o.json", context="appended", ids=ids)
    for line in map(json.loads, ids.read_text("utf-8").splitlines()):
        assert (line["snippet"], line["document"]) == (-1, "")
        (row,) = [r for r in read_squad(tmp_path / "o.json") if r.id == line["id"]]
        for part in line["snippets"]:
            snippet = tiny["questions"][0]["snippets"][part["snippet"]]
            assert row.context[part["offset"] :].startswith(snippet["text"])
            assert part["document"] == snippet["document"]
    convert_files([path], tmp_path / "o.json", ids=ids)
    assert "snippets" not in ids.read_text("utf-8")


def test_abstracts_by_address_id_and_scheme(save):
    path = save(
        "abstracts.json",
        {
            "http://www.ncbi.nlm.nih.gov/pubmed/11": "Of p53.",
            "12": "p53!",
            "https://e.org/13/": "x",
        },
    )
    abstracts = Abstracts(read_abstracts(path))
    snippets = tuple(
        Snippet("s", f"https://www.ncbi.nlm.nih.gov/pubmed/{number}")
        for number in (12, 11, 12, 99, 13)
    )
    one = Question("q", "Which?", "factoid", (*snippets, Snippet("s")), (), (("p53",),))
    examples, _ = convert([one], context="abstract", abstracts=abstracts, test=True)
    assert [(e.context, e.snippet, len(e.spans)) for e in examples] == [
        ("p53!", 0, 1), ("Of p53.", 1, 1),
    ]  # fmt: skip
    # The last part of another address is not taken for a PubMed id.
    elsewhere = Question("q", "Which?", "factoid", (Snippet("s", "http://e.org/13"),))
    examples, _ = convert([elsewhere], context="abstract", abstracts=abstracts, test=True)
    assert [e.context for e in examples] == ["x"]
    listed = question(documents=("12", "13"))
    examples, _ = convert([listed], context="abstract", abstracts=abstracts)
    assert [(e.id, e.document, e.snippet) for e in examples] == [("q_001", "12", -1)]


@pytest.mark.parametrize(
    "document", ["https://pubmed.ncbi.nlm.nih.gov/00012/ ", "012", "www.ncbi.nlm.nih.gov/pubmed/12"]
)
def test_an_abstract_is_found_however_its_pubmed_id_is_written(document):
    assert find_abstract({"12": "p53!"}, document) == "p53!"
    assert not find_abstract({"12": "p53!"}, "https://e.org/12") and not find_abstract(
        {"": "x"}, ""
    )


@pytest.mark.parametrize("data", [[], {}, {"11": ""}, {"11": None}, {"data": []}])
def test_bad_abstracts(save, data):
    with pytest.raises(InputError, match=r"abstracts\.json: "):
        read_abstracts(save("abstracts.json", data))


def test_wrong_settings():
    with pytest.raises(InputError, match="context: 'page'"):
        convert([], context="page")
    with pytest.raises(InputError, match="needs abstracts"):
        convert([question("p53")], context="abstract")


def run(*args, cwd):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, args)], cwd=cwd, capture_output=True, text=True
    )


def test_command_line_writes_all_files(save, tiny, tmp_path):
    tiny["questions"][1]["snippets"] = [{"text": "Ascorbic acid"}]
    path = save("training7b.json", tiny)
    done = run(
        path, "--output", "out/train.json", "--drops", "drops.jsonl", "--ids", "ids.jsonl",
        "--dev-fraction", "0.5", "--seed", "1", "--squad-version", "2", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"{path}: field 'exact_answer' is a flat list; it is read as synonyms of one answer: "
        f"1 question ('{A2}')"
    ]
    assert "2 of 2 questions, 0 dropped" in done.stdout
    train = read_squad(tmp_path / "out" / "train.json")
    dev = read_squad(tmp_path / "out" / "train_dev.json")
    assert {e.question_id for e in train} | {e.question_id for e in dev} == {A1, A2}
    ids = [json.loads(line)["id"] for line in (tmp_path / "ids.jsonl").read_text().splitlines()]
    assert ids == [e.id for e in train + dev]
    assert json.loads((tmp_path / "out" / "train.json").read_text())["version"] == "2.0"


def test_training_rows_are_occurrences_and_test_rows_are_contexts(save, tiny, tmp_path):
    path = save("training7b.json", tiny)
    summary = convert_files([path], tmp_path / "train.json")
    assert len(read_squad(tmp_path / "train.json")) == 3
    assert "1 of 2 questions, 1 dropped; answer only inside a word: 1" in summary
    convert_files([path], tmp_path / "test.json", test=True)
    assert [len(e.spans) for e in read_squad(tmp_path / "test.json")] == [3, 0, 0, 0]
    first = (tmp_path / "train.json").read_bytes()
    convert_files([path], tmp_path / "train.json")
    assert (tmp_path / "train.json").read_bytes() == first


def test_negatives_on_the_command_line(save, tiny, tmp_path):
    item = tiny["questions"][0]
    item["snippets"] = [{"text": text} for text in ("TNF-alpha", "tnf-α", "of none")]
    item["exact_answer"] = [["TNF-α"]]
    path = save("training7b.json", tiny)
    done = run(path, "--output", "out.json", "--ids", "ids.jsonl",
               "--squad-version", "2", "--negatives", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [r for r in read_squad(tmp_path / "out.json") if r.question_id == A1]
    assert [(r.context, len(r.spans)) for r in rows] == [("tnf-α", 1), ("of none", 0)]
    ids = [json.loads(line) for line in (tmp_path / "ids.jsonl").read_text("utf-8").splitlines()]
    assert len({row["id"] for row in ids}) == len(ids)
    raw = json.loads((tmp_path / "out.json").read_text("utf-8"))["data"][0]["paragraphs"]
    assert [p["qas"][0]["is_impossible"] for p in raw][:2] == [False, True]


@pytest.mark.parametrize("key", ["answers", ""])
def test_squad_files_are_written_anew_with_and_without_answers(save, tmp_path, key):
    row = {"id": f"{A1}_001", "question": "Which?"}
    bare = {"id": f"{A2}_001", "question": "What?"} | ({"answers": []} if key else {})
    paragraphs = [
        {"context": "of p53", "qas": [row | {"answers": [{"text": "p53", "answer_start": 3}]}]},
        {"context": "of none", "qas": [bare]},
    ]
    path = save("BioASQ-test-factoid-7b.json", {"data": [{"paragraphs": paragraphs}]})
    drops = tmp_path / "drops.jsonl"
    assert "1 of 2 questions, 1 dropped" in convert_files([path], tmp_path / "o.json", drops=drops)
    assert [json.loads(line)["reason"] for line in drops.read_text().splitlines()] == [
        "no answer in the SQuAD file"
    ]
    convert_files([path], tmp_path / "t.json", test=True)
    raw = json.loads((tmp_path / "t.json").read_text())["data"][0]["paragraphs"]
    assert [len(p["qas"][0]["answers"]) for p in raw] == [1, 0]


def squad_file(*rows):
    return {"data": [{"title": "T", "paragraphs": [
        {"context": context, "qas": [{"id": name, "question": name[0], "answers": [
            {"text": context[start:end], "answer_start": start} for start, end in spans]}]}
        for name, context, *spans in rows
    ]}]}  # fmt: skip


def rows_in(path):
    parts = json.loads(path.read_text("utf-8"))["data"][0]["paragraphs"]
    return [(row["id"], len(row["answers"]), row.get("is_impossible"))
            for part in parts for row in part["qas"]]  # fmt: skip


def test_negatives_and_row_ids_of_a_squad_file_stay(save, tmp_path):
    rows = [("q_004", "of p53", (3, 6)), ("q_007", "of none"), ("r_001", "none")]
    path, out = save("s.json", squad_file(*rows)), tmp_path / "o.json"
    convert_files([path], out, ids=tmp_path / "ids.jsonl")
    assert rows_in(out) == [("q_004", 1, None)]
    (line,) = map(json.loads, (tmp_path / "ids.jsonl").read_text("utf-8").splitlines())
    assert line == {"id": "q_004", "question_id": "q", "snippet": -1, "document": "",
                    "spans": [[3, 6]]}  # fmt: skip
    convert_files([path], out, version="2.0", negatives=True)
    assert rows_in(out) == [("q_004", 1, False), ("q_007", 0, True)]
    # Rows of several answers become one each, numbered anew.
    two = save("two.json", squad_file(("q_004", "p53 p53", (0, 3), (4, 7)), *rows[1:]))
    convert_files([two], out, version="2.0", negatives=True)
    assert [name for name, *_ in rows_in(out)] == ["q_001", "q_002", "q_003"]


def test_what_nobody_knows_is_not_called_impossible(save, tiny, tmp_path):
    out = tmp_path / "o.json"
    golden = save("7B1_golden.json", tiny)
    convert_files([golden], out, test=True, version="2.0")
    assert [flag for *_, flag in rows_in(out)] == [False, True, True, True]
    for item in tiny["questions"]:
        del item["exact_answer"]
    convert_files([save("test.json", tiny)], out, test=True, version="2.0")
    assert [flag for *_, flag in rows_in(out)] == [None] * 4
    rows = squad_file(("q_001", "p53", (0, 3)), ("q_002", "none"), ("r_001", "none"))
    convert_files([save("s.json", rows)], out, test=True, version="2.0")
    assert [flag for *_, flag in rows_in(out)] == [False, True, None]
    said = json.loads(json.dumps(rows))
    said["data"][0]["paragraphs"][-1]["qas"][-1]["is_impossible"] = True  # the file itself knows
    convert_files([save("v2.json", said)], out, test=True, version="2.0")
    assert [flag for *_, flag in rows_in(out)] == [False, True, True]


def test_a_failure_at_the_last_file_leaves_nothing(save, tiny, tmp_path):
    path, drops = save("training7b.json", tiny), tmp_path / "drops.jsonl"
    drops.write_text("old")
    before = sorted(tmp_path.rglob("*"))
    name = "o" * 246 + ".json"  # too long once it has the ending of a part
    with pytest.raises(InputError, match="cannot be written"):
        convert_files([path], tmp_path / name, drops=drops, ids=tmp_path / "ids.jsonl")
    assert sorted(tmp_path.rglob("*")) == before and drops.read_text() == "old"


def test_test_questions_in_a_training_file_are_refused(save, tiny, tmp_path):
    train = save("training7b.json", tiny)
    test = json.loads(json.dumps(tiny))
    test["questions"][0]["id"] = "0000000000000000000000ff"
    path = save("7B1_golden.json", test)
    done = run(train, "--output", "o.json", "--against", path, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "1 by same id, 1 by same wording" in done.stderr and "allow_leak" in done.stderr
    assert not (tmp_path / "o.json").exists()
    done = run(train, "--output", "o.json", "--against", path, "--allow-leak", cwd=tmp_path)
    assert done.returncode == 0 and "allowed by allow_leak" in done.stderr


def test_a_golden_file_is_training_data_with_a_remark(save, tiny, tmp_path):
    """Tests of earlier editions are later editions' training data; --against keeps tests out."""
    golden, train = save("6B1_golden.json", tiny), save("training7b.json", tiny)
    done = run(golden, "--output", "golden.json", cwd=tmp_path)
    assert done.returncode == 0 and "6B1_golden.json: this golden file is converted" in done.stderr
    assert "--test" in done.stderr and "--against" in done.stderr
    done = run(train, "--output", "train.json", cwd=tmp_path)
    assert done.returncode == 0 and "a golden file" not in done.stderr
    assert (tmp_path / "golden.json").read_bytes() == (tmp_path / "train.json").read_bytes()
    done = run(golden, "--output", "o.json", "--against", save("7B1_golden.json", tiny),
               cwd=tmp_path)  # fmt: skip
    assert done.returncode == 2 and "2 by same id" in done.stderr
    done = run(golden, "--output", "t.json", "--test", cwd=tmp_path)
    assert done.returncode == 0 and "converted as training data" not in done.stderr


def test_the_held_out_part_shares_no_wording_with_the_rest(save, tmp_path):
    twins = CASES / "golds" / "twins_same_wording.json"
    for seed in range(3):
        convert_files([twins], tmp_path / "o.json", dev_fraction=0.3, seed=seed)
        train, dev = (
            {row.question for row in read_squad(tmp_path / name)}
            for name in ("o.json", "o_dev.json")
        )
        assert train and dev and not train & dev


def test_space_in_a_squad_file_is_told_and_gone(tmp_path, capsys):
    path = CASES / "squad" / "trailing_space_in_gold.json"
    convert_files([path], tmp_path / "o.json")
    assert "trailing whitespace, which is removed: 8 questions" in capsys.readouterr().err
    assert read_squad(tmp_path / "o.json")[0].spans[0].text == "CFTR"


def test_a_near_equal_wording_is_told_and_converted(save, tiny, tmp_path):
    train = save("training7b.json", tiny)
    test = json.loads(json.dumps(tiny))
    test["questions"] = test["questions"][:1]
    test["questions"][0] |= {"id": "f" * 24, "body": "Which cytokines does infliximab block the?"}
    done = run(train, "--output", "o.json", "--against", save("7B1_golden.json", test),
               cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0 and "1 by near-equal wording" in done.stderr
    assert (tmp_path / "o.json").exists()


def test_bad_input_is_one_line_and_leaves_nothing(save, tiny, tmp_path):
    twice = save("copy/training7b.json", tiny)
    train = save("training7b.json", tiny)
    bare = {"questions": [{"id": "x", "type": "factoid", "body": "?", "snippets": []}]}
    test_input = save("test.json", bare)
    hopeless = save(
        "hopeless.json", {"questions": [{**bare["questions"][0], "exact_answer": [["a"]]}]}
    )
    ready = save("ready.json", squad_file(("q_004", "of p53", (3, 6))))
    bare_of = save("nodocuments7b.json", {"questions": [{**bare["questions"][0],
                   "snippets": [{"text": "a"}], "exact_answer": ["a"]}]})  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    for arguments, words in [
        ([train, twice], "id is also in another file"),
        ([test_input], "this is a test input"),
        ([hopeless], "no question could be converted (no snippets)"),
        ([train, "--context", "abstract"], "needs abstracts"),
        ([bare_of, "--context", "abstract"], "nodocuments7b.json: context 'abstract' needs"),
        ([train, "--dev-fraction", "2"], "dev fraction 2.0"),
        ([train, "--test", "--dev-fraction", "0.5"], "a test input is not split"),
        ([train, "--negatives"], "add --squad-version 2"),
        ([train, "--abstracts", test_input], "read only with --context abstract"),
        ([ready, "--context", "appended"], "ready.json: a SQuAD file already has contexts"),
        ([ready, "--abstracts", test_input], "read only with --context abstract"),
        ([train, "--drops", "out.json"], "would be overwritten"),
        ([train, "--ids", train], "would be overwritten"),
        ([tmp_path / "none.json"], "no such file"),
    ]:
        done = run(*arguments, "--output", "out.json", cwd=tmp_path)
        assert done.returncode == 2 and words in done.stderr
        assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_when_nothing_can_be_converted_repairs_and_drops_are_written_all_the_same(save, tmp_path):
    one = {"id": "x", "type": "Factoid", "body": "?", "exact_answer": [["a"]], "snippets": []}
    train = save("training7b.json", {"questions": [one]})
    done = run(train, "--output", "o.json", "--drops", "z.jsonl", cwd=tmp_path)
    repair, error = done.stderr.splitlines()
    assert done.returncode == 2 and "nonstandard spelling" in repair and "(no snippets)" in error
    (drop,) = map(json.loads, (tmp_path / "z.jsonl").read_text("utf-8").splitlines())
    assert drop["reason"] == "no snippets" and not (tmp_path / "o.json").exists()


def test_nan_in_a_test_input_is_named(save, tiny, tmp_path):
    tiny["questions"][0]["exact_answer"] = float("nan")
    test = save("test.json", tiny)
    done = run(test, "--test", "--output", "o.json", cwd=tmp_path)
    assert (
        done.returncode == 0 and f"{test}: NaN is not valid JSON; it is read as null" in done.stderr
    )


def test_neither_torch_nor_nemo_is_imported():
    code = (
        "import sys, helpers.data.bioasq, helpers.data.convert; "
        "print({'torch', 'nemo', 'matplotlib', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
