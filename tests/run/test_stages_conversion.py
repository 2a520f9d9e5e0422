"""The conversion stage: from a folder of BioASQ files to the run's SQuAD files."""

import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace

import pytest

from helpers.config import CONTEXTS, InputError, from_parameters
from helpers.data.layout import read_batches
from helpers.data.spans import Span
from helpers.data.squad import Example, by_occurrence, read_squad, write_squad
from helpers.run.folder import Run
from helpers.run.stages import convert_run, find_run_files, write_run
from helpers.views.measure import (
    compare_contexts,
    describe_files,
    followed_question,
    long_example,
    raw_record,
    remarks,
)


def factoid(number, answer, *texts, body=None):
    return {
        "id": f"{number:024x}",
        "type": "factoid",
        "body": body or f"Which gene is number {number}?",
        "documents": [f"https://example.org/d/{number}"],
        "snippets": [{"text": t, "document": f"https://example.org/d/{number}"} for t in texts],
        "exact_answer": [[answer]],
    }


TRAIN = [
    factoid(1, "p53", "P53 and p53.", "nothing here", "P53 and p53."),
    factoid(2, "BRCA1", "The gene BRCA1.", "BRCA1 again"),
    factoid(3, "cat", "Only catalase."),
    factoid(4, "TNF", "TNF is one."),
    {"id": "f" * 24, "type": "yesno", "body": "Is it?", "exact_answer": "yes"},
]
GOLD = [
    factoid(11, "EGFR", "EGFR first", "and EGFR once more"),
    factoid(12, "MYC", "Nothing said."),
]
SQUAD = [
    Example(f"{n:024x}_{row:03d}", f"{n:024x}", f"Which {n}?", text, spans)
    for n, row, text, spans in [
        (1, 4, "a b a", (Span(0, 1, "a"),)),
        (1, 7, "a b a", (Span(4, 5, "a"),)),
        (2, 1, "c", (Span(0, 1, "c"),)),
        (3, 1, "no answer", ()),
    ]
]


def without_answers(questions):
    questions = deepcopy(questions)
    for question in questions:
        del question["exact_answer"]
        question["snippets"] = question["snippets"][:1]
    return questions


TEST = without_answers(GOLD)


@pytest.fixture
def make(save, tmp_path):
    """``make(train=..., test=..., gold=..., **settings)`` -> files and settings of that folder."""

    def build(train=TRAIN, test=TEST, gold=GOLD, **values):
        if train is not None:
            save("data/BioASQ-training7b.json", {"questions": train})
        if test is not None:
            save("data/BioASQ-task7bPhaseB-testset1.json", {"questions": test})
        save("data/7B1_golden.json", {"questions": gold})
        values = {"bioasq_dir": str(tmp_path / "data"), "runs_dir": str(tmp_path), **values}
        settings = from_parameters(run="r", **values)
        return find_run_files(settings), settings

    return build


def squad_train(tmp_path, examples):
    write_squad(tmp_path / "data" / "BioASQ-train-factoid-7b.json", examples)


def test_the_organisers_files(make):
    converted = convert_run(*make(dev_fraction=0.3, seed=1))
    assert converted.steps == (
        ("all types", 5), ("factoid", 4), ("not in a test batch", 4), ("with an exact answer", 4),
        ("answer found in a context", 3),
    )  # fmt: skip
    reasons = [(drop.question_id[-1], drop.reason) for drop in converted.drops]
    assert reasons == [("3", "answer only inside a word")]
    assert all(len(row.spans) == 1 for row in converted.train)
    trained = {row.question_id for row in converted.train}
    held = {row.question_id for row in converted.dev}
    assert len(held) == 1 and len(trained) == 2 and not trained & held
    (batch,) = converted.batches
    assert (batch.name, [row.context for row in batch.examples]) == (
        "7B1", ["EGFR first", "Nothing said."],
    )  # fmt: skip
    assert batch.ceiling == (1, 2) and batch.golden_ceiling == (1, 2) and batch.golden_snippets == 3


def test_rows_are_occurrences_in_train_and_pairs_in_dev(make):
    whole = convert_run(*make(dev_fraction=0.0))
    assert not whole.dev and whole.counts()["train"] == {"questions": 3, "pairs": 4, "rows": 5}
    seen = {}
    for seed in range(6):
        part = convert_run(*make(dev_fraction=0.3, seed=seed))
        seen[frozenset(row.question_id for row in part.dev)] = part
        contexts = {(row.question_id, row.context) for row in part.dev}
        assert len(contexts) == len(part.dev)
        # Nothing is lost: the two parts hold the spans of the whole.
        spans = [(row.question_id, row.context, s) for row in part.train for s in row.spans]
        spans += [(row.question_id, row.context, s) for row in part.dev for s in row.spans]
        assert sorted(spans, key=str) == sorted(
            ((row.question_id, row.context, row.spans[0]) for row in whole.train), key=str
        )
    assert len(seen) > 1
    both = [row for part in seen.values() for row in part.dev if row.question_id.endswith("1")]
    assert both and [s.text for s in both[0].spans] == ["P53", "p53"]


def test_a_golden_file_that_scoring_refuses_stops_the_conversion(make):
    gold = [{**GOLD[0], "exact_answer": "['a']"}, *GOLD[1:]]
    with pytest.raises(
        InputError, match=r"7B1_golden.*exact_answer' is a list written as a string"
    ):
        convert_run(*make(gold=gold))


def test_a_ready_squad_file_is_taken_as_it_is(make, tmp_path):
    _, settings = make(dev_fraction=0.0)
    squad_train(tmp_path, SQUAD)
    files = find_run_files(settings)
    assert files.train_is_squad
    converted = convert_run(files, settings)
    assert [row.id for row in converted.train] == [row.id for row in SQUAD[:3]]
    assert [(d.question_id, d.reason) for d in converted.drops] == [
        (f"{3:024x}", "no answer in the SQuAD file")
    ]
    assert dict(converted.steps)["with an answer"] == 2


def test_dev_pairs_of_a_squad_file_gather_their_rows(make, tmp_path):
    _, settings = make()
    squad_train(tmp_path, SQUAD)
    for seed in range(20):
        settings = replace(settings, dev_fraction=0.5, seed=seed)
        converted = convert_run(find_run_files(settings), settings)
        if converted.dev[0].question_id == SQUAD[0].question_id:
            break
    (pair,) = converted.dev
    assert pair.id == SQUAD[0].id and [span.start for span in pair.spans] == [0, 4]


def test_a_squad_file_of_pairs_becomes_one_of_occurrences(make, tmp_path):
    _, settings = make(dev_fraction=0.0)
    squad_train(tmp_path, [replace(SQUAD[0], spans=SQUAD[0].spans + SQUAD[1].spans)])
    converted = convert_run(find_run_files(settings), settings)
    assert [len(row.spans) for row in converted.train] == [1, 1]
    assert [row.id[-3:] for row in converted.train] == ["001", "002"]


@pytest.mark.parametrize("ready", [False, True])
def test_test_questions_are_not_trained_on(make, tmp_path, ready):
    same_id = factoid(11, "EGFR", "EGFR again", body="Quite another wording?")
    same_words = factoid(5, "MYC", "MYC it is", body="which  GENE is number 12")
    files, settings = make(train=[*TRAIN, same_id, same_words], dev_fraction=0.0)
    if ready:
        pairs = [
            Example(f"{n:024x}_001", f"{n:024x}", body, "x y", (Span(0, 1, "x"),))
            for n, body in ((11, "Other"), (5, "Which gene is number 12?"), (1, "Good?"))
        ]
        squad_train(tmp_path, pairs)
        files = find_run_files(settings)
    converted = convert_run(files, settings)
    leaks = [(d.question_id, d.detail) for d in converted.drops if "test question" in d.reason]
    assert leaks == [(f"{11:024x}", "same id"), (f"{5:024x}", "same wording")]
    assert not {row.question_id for row in converted.train} & {f"{n:024x}" for n in (5, 11)}
    steps = dict(converted.steps)
    assert steps["not in a test batch"] == (1 if ready else 4)
    assert [(leak.how, leak.test_id[-1]) for leak in converted.leaks] == [
        ("same id", "b"), ("same wording", "c")
    ]  # fmt: skip
    allowed = convert_run(files, replace(settings, allow_leak=True))
    assert {f"{n:024x}" for n in (5, 11)} < {row.question_id for row in allowed.train}
    assert allowed.leaks == converted.leaks


def test_a_near_equal_wording_is_reported_and_stays(make):
    alike = factoid(5, "MYC", "MYC it is", body="Which is the gene number 12 ?")
    converted = convert_run(*make(train=[*TRAIN, alike], dev_fraction=0.0))
    assert [leak.how for leak in converted.leaks] == ["near-equal wording"]
    assert alike["id"] in {row.question_id for row in converted.train}


def test_pairs_step_by_step(make):
    greek = factoid(6, "IFN-gamma", "of IFN-γ", "of IFN-γ", "IFN-gamma")
    converted = convert_run(*make(train=[*TRAIN, greek], dev_fraction=0.0))
    assert [count for _, count in converted.pair_steps] == [10, 8, 5, 6]


def test_golden_files_stand_in_but_give_nothing_away(make):
    files, settings = make(test=None)
    converted = convert_run(files, settings)
    (batch,) = converted.batches
    assert files.enriched and len(batch.examples) == 3
    assert not any(row.spans for row in batch.examples)
    assert [row["role"] for row in describe_files(files)] == ["train", "golden"]


def test_lost_test_questions_are_reported(make):
    test = without_answers(GOLD)
    test[0]["snippets"] = []
    test[1]["id"] = "e" * 24
    converted = convert_run(*make(test=test))
    reasons = sorted(drop.reason for drop in converted.drops if drop.reason.startswith("7B1"))
    assert reasons == ["7B1: no snippets", "7B1: not in the test input"]
    assert converted.batches[0].ceiling == (0, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": without_answers(TRAIN[:2])}, "exact_answer"),
        ({"train": [factoid(3, "cat", "Only catalase.")]}, "answer only inside a word"),
        ({"test": GOLD}, "exact_answer"),
        ({"test": without_answers([factoid(77, "x", "x")])}, "shares no question"),
        ({"test": [{**q, "snippets": []} for q in TEST]}, "no question has a context"),
        ({"context": "abstract"}, "abstracts.json"),
        ({"train": [TRAIN[1]], "dev_fraction": 0.5}, "cannot be split"),
        ({"gold": TEST}, "no question has 'exact_answer'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(make, tmp_path, change, words):
    files, settings = make(**change)
    with pytest.raises(InputError) as caught:
        convert_run(files, settings)
    message = str(caught.value)
    assert words in message and "\n" not in message
    assert not (tmp_path / "r").exists()


def test_the_run_folder(make, tmp_path):
    files, settings = make(dev_fraction=0.3, context="appended")
    converted, run = convert_run(files, settings), Run.open(settings)
    note = write_run(converted, run)
    assert note == run.noted("data", "02")
    assert note["golds"] == [str(tmp_path / "data" / "7B1_golden.json")]
    assert note["batches"] == ["7B1"] and not note["enriched"]
    assert note["train_rows"] == len(converted.train) and not note["train_is_squad"]
    for name, rows in (("train", converted.train), ("dev", converted.dev)):
        found = read_squad(run.need(f"squad/{name}.json", "02"))
        assert [(r.id, r.context, r.spans) for r in found] == [
            (r.id, r.context, r.spans) for r in rows
        ]
        ids = run.need(f"squad/{name}.ids.jsonl", "02").read_text("utf-8").splitlines()
        assert [json.loads(line)["id"] for line in ids] == [row.id for row in rows]
    tests = read_squad(run.need("squad/7B1.json", "02"))
    assert tests and not any(row.spans for row in tests)
    lines = run.need("squad/drops.jsonl", "02").read_text("utf-8").splitlines()
    assert len(lines) == len(converted.drops) == 1
    assert run.need("squad/leaks.jsonl", "02").read_text("utf-8") == "" and note["leaks"] == 0


def test_a_second_conversion_leaves_no_file_of_the_first(make):
    files, settings = make(dev_fraction=0.3)
    run = Run.open(settings)
    write_run(convert_run(files, settings), run)
    run.need("squad/dev.json", "02")
    write_run(convert_run(files, replace(settings, dev_fraction=0.0)), run)
    run = Run(run.folder, replace(settings, dev_fraction=0.0))
    assert not run.path("squad/dev.json").exists()
    with pytest.raises(InputError, match=r"squad/dev.json: is missing"):
        run.need("squad/dev.json", "02")
    assert {key for key in run.manifest()["files"] if "dev" in key} == set()


def test_the_same_input_gives_the_same_result(make):
    files, settings = make(dev_fraction=0.3)
    assert convert_run(files, settings) == convert_run(files, settings)


def test_contexts_compared(make, save):
    files, settings = make(test=None)
    snippet, appended = compare_contexts(files)
    assert (snippet["texts"], appended["texts"]) == (3, 2)
    assert snippet["ceiling (questions)"] == appended["ceiling (questions)"] == 1
    save("data/abstracts.json", {"https://example.org/d/12": "Here MYC is found."})
    files = find_run_files(settings)
    abstract = compare_contexts(files)[2]
    assert (abstract["with a text"], abstract["ceiling (questions)"]) == (1, 1)
    (batch,), drops = read_batches(files, "abstract")
    assert [row.context for row in batch.examples] == ["Here MYC is found."]
    assert [drop.reason for drop in drops] == ["7B1: no abstract"]


def test_the_longest_text_with_an_answer_may_be_an_abstract(make, save):
    files, settings = make()
    assert long_example(convert_run(files, settings)).context == "The gene BRCA1."
    text = "MYC is named, but only near the middle is MYC the gene of this long text."
    save("data/abstracts.json", {"https://example.org/d/12": text})
    example = long_example(convert_run(find_run_files(settings), settings))
    assert example.context == text
    assert [(span.start, span.text) for span in example.spans] == [(text.rindex("MYC"), "MYC")]


def test_a_raw_record_is_what_the_file_says(make):
    files, _ = make()
    record = raw_record(files.golds[0], GOLD[0]["id"])
    assert record == {**GOLD[0], "snippets": [GOLD[0]["snippets"][0], "… and 1 more"]}
    assert raw_record(files.tests[0], GOLD[1]["id"]) == TEST[1]


def test_bioasq_mini_is_the_default(tmp_path):
    settings = from_parameters(runs_dir=str(tmp_path))
    files = find_run_files(settings)
    assert files.batches == tuple(f"mini{n}" for n in range(1, 6)) and not files.enriched
    converted = convert_run(files, settings)
    assert not any("test question" in drop.reason for drop in converted.drops)
    assert all(0 < k < n for k, n in (batch.ceiling for batch in converted.batches))
    assert converted.dev and list(converted.train) == by_occurrence(converted.train)


def test_neither_nemo_nor_matplotlib_is_imported():
    code = (
        "import sys, helpers.run.stages; "
        "sys.exit(bool({'nemo', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def documents_only(questions):
    """The same questions with documents and without snippets."""
    return [{**question, "snippets": []} for question in questions if question["type"] == "factoid"]


def test_documents_without_snippets_are_converted_and_shown(make, save):
    """Under context=abstract a training file needs no snippets, and notebook 02 none either."""
    texts = {f"https://example.org/d/{n}": f"Of {a}." for n, a in ((1, "p53"), (11, "EGFR"))}
    save("data/abstracts.json", texts)
    files, settings = make(
        train=documents_only(TRAIN), test=documents_only(TEST), gold=documents_only(GOLD),
        context="abstract", dev_fraction=0.0,
    )  # fmt: skip
    converted = convert_run(files, settings)
    _, question, (example,) = followed_question(converted.batches)
    assert raw_record(files.tests[0], question.id)["snippets"] == []
    assert (example.context, long_example(converted).context) == ("Of EGFR.", "Of EGFR.")
    assert len(converted.train) == 1
    assert [row["context"] for row in compare_contexts(files)] == list(CONTEXTS)


def test_files_that_are_not_read_are_listed_with_the_reason(make, save):
    save("data/notes.txt", b"x")
    files, _ = make(test=None, gold=[{**GOLD[0], "type": "Factoid"}, GOLD[1]])
    rows = [(row["file"], row["remark"]) for row in remarks(files)]
    assert rows == [
        ("7B1_golden.json", "field 'type' has a nonstandard spelling; it is read as 'factoid'"),
        ("notes.txt", "not read: unknown file name"),
    ]
    for n in range(60):
        save(f"data/n{n:02d}.txt", b"x")
    rows = remarks(make(test=None)[0])
    assert len(rows) == 31 and rows[-1]["file"] == "31 more files"


def test_what_is_repaired_in_a_squad_file_is_listed(make, tmp_path, save):
    make()
    row = {"id": "q_001", "question": "?", "answers": [{"text": "a ", "answer_start": 0}]}
    squad = {"data": [{"paragraphs": [{"context": "a b", "qas": [row]}]}]}
    save("data/BioASQ-train-factoid-7b.json", squad)
    files, _ = make()
    found = {row["file"]: row["remark"] for row in remarks(files)}
    assert "trailing whitespace" in found["BioASQ-train-factoid-7b.json"]
    assert found["BioASQ-training7b.json"] == "not read: not needed: the SQuAD train files are read"
