"""BioASQ questions to examples, and the command line that does it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.bioasq import Question, Snippet, read_questions
from helpers.config import InputError
from helpers.file_conversion import convert_files
from helpers.squad import (
    Drop,
    convert,
    read_abstracts,
    read_squad,
    split_dev,
)

SCRIPT = Path(__file__).parents[1] / "data_scripts" / "bioasq_to_squad.py"
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
    examples, drops = convert([one], context=context, abstracts={"x": "y"})
    assert not examples and [drop.reason for drop in drops] == [reason]


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


def test_abstracts_by_address_id_and_scheme(save):
    path = save(
        "abstracts.json",
        {
            "http://www.ncbi.nlm.nih.gov/pubmed/11": "Of p53.",
            "12": "p53!",
            "https://e.org/13/": "x",
        },
    )
    abstracts = read_abstracts(path)
    snippets = tuple(
        Snippet("s", f"https://www.ncbi.nlm.nih.gov/pubmed/{number}")
        for number in (12, 11, 12, 99, 13)
    )
    one = Question("q", "Which?", "factoid", (*snippets, Snippet("s")), (), (("p53",),))
    examples, _ = convert([one], context="abstract", abstracts=abstracts, test=True)
    assert [(e.context, e.snippet, len(e.spans)) for e in examples] == [
        ("p53!", 0, 1), ("Of p53.", 1, 1), ("x", 4, 0),
    ]  # fmt: skip
    listed = question(documents=("12", "13"))
    examples, _ = convert([listed], context="abstract", abstracts=abstracts)
    assert [(e.id, e.document, e.snippet) for e in examples] == [("q_001", "12", -1)]


@pytest.mark.parametrize("data", [[], {}, {"11": ""}, {"11": None}, {"data": []}])
def test_bad_abstracts(save, data):
    with pytest.raises(InputError, match=r"abstracts\.json: "):
        read_abstracts(save("abstracts.json", data))


def test_wrong_settings():
    with pytest.raises(InputError, match="context: 'page'"):
        convert([], context="page")
    with pytest.raises(InputError, match="needs abstracts"):
        convert([question("p53")], context="abstract")


def test_dev_split_is_by_question_and_independent_of_order():
    examples, _ = convert([question("p53 a", "p53 b", name=f"q{n}") for n in range(40)])
    train, dev = split_dev(examples, 0.25, seed=3)
    assert len(dev) == 20 and len(train) == 60
    assert not {e.question_id for e in train} & {e.question_id for e in dev}
    assert sorted(train + dev, key=examples.index) == examples
    backwards = split_dev(examples[::-1], 0.25, seed=3)
    assert backwards == (train[::-1], dev[::-1])
    assert split_dev(examples, 0.25, seed=4)[1] != dev
    assert split_dev(examples, 0, seed=3) == (examples, [])
    assert [len(part) for part in split_dev(examples, 0.001, seed=3)] == [78, 2]
    assert [len(part) for part in split_dev(examples, 0.999, seed=3)] == [2, 78]
    for fraction in (-0.1, 1, float("nan")):
        with pytest.raises(InputError, match="dev fraction"):
            split_dev(examples, fraction, seed=3)
    with pytest.raises(InputError, match="cannot be split"):
        split_dev(examples[:2], 0.5, seed=3)


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
    assert done.returncode == 0 and done.stderr == ""
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


def test_bad_input_is_one_line_and_leaves_nothing(save, tiny, tmp_path):
    golden = save("7B1_golden.json", tiny)
    twice = save("copy/training7b.json", tiny)
    train = save("training7b.json", tiny)
    bare = {"questions": [{"id": "x", "type": "factoid", "body": "?", "snippets": []}]}
    test_input = save("test.json", bare)
    hopeless = save(
        "hopeless.json", {"questions": [{**bare["questions"][0], "exact_answer": ["a"]}]}
    )
    before = sorted(tmp_path.rglob("*"))
    for arguments, words in [
        ([golden], "golden file holds test questions; add --test"),
        ([train, twice], "id is also in another file"),
        ([test_input], "this is a test input"),
        ([hopeless], "no question could be converted (no snippets)"),
        ([train, "--context", "abstract"], "needs abstracts"),
        ([train, "--dev-fraction", "2"], "dev fraction 2.0"),
        ([train, "--test", "--dev-fraction", "0.5"], "a test input is not split"),
        ([train, "--drops", "out.json"], "would be overwritten"),
        ([train, "--ids", train], "would be overwritten"),
        ([tmp_path / "none.json"], "no such file"),
    ]:
        done = run(*arguments, "--output", "out.json", cwd=tmp_path)
        assert done.returncode == 2 and words in done.stderr
        assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_neither_torch_nor_nemo_is_imported():
    code = (
        "import sys, helpers.bioasq, helpers.squad; "
        "print({'torch', 'nemo', 'matplotlib', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
