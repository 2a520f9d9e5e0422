"""The organizers' evaluator as a second process: a stand-in in Java takes its place here.

The semantics are checked line by line against the stand-in, which was written from the documented
behavior, not from our Python. A jar of the organizers' own is used as well when OFFICIAL_JAR
names one.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.config import InputError
from helpers.data.bioasq import read_questions, write_answers
from helpers.data.layout import find_files
from helpers.data.mini import DATA
from helpers.scoring import official
from helpers.scoring.evaluate import evaluate_files

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "data_scripts" / "official_evaluation.py"
STANDIN = ROOT / "tests" / "java_standin"


def pair(folder, gold, answers):
    """Golden and answer file; ids become 24 digits, ``answers`` may lack questions."""
    rows = [{"id": f"{n:024d}", "type": "factoid", "body": "Which?", "exact_answer": gold[n]}
            for n in gold]  # fmt: skip
    given = [{"id": f"{n:024d}", "type": "factoid", "exact_answer": answers[n]} for n in answers]
    paths = folder / "g.json", folder / "a.json"
    for path, questions in zip(paths, (rows, given), strict=True):
        path.write_text(json.dumps({"questions": questions}, ensure_ascii=False), encoding="utf-8")
    return paths


def one(jar, folder, gold, answers, **options):
    golden, given = pair(folder, gold, answers)
    (found,) = official.compare_files(jar, [golden], [given], **options)
    assert found.agrees, found.line()
    return found


# Facts on edition 5, line by line: gold, what the system says, (SAcc, LAcc, MRR).
SEMANTICS = {
    "equal but for case": ([["Insulin"]], [["INSULIN"]], (1, 1, 1)),
    "nothing is trimmed": ([["insulin"]], [["insulin "]], (0, 0, 0)),
    "nor in the gold": ([["insulin "]], [["insulin"]], (0, 0, 0)),
    "no punctuation is removed": ([["insulin"]], [["insulin."]], (0, 0, 0)),
    "no article is removed": ([["insulin"]], [["the insulin"]], (0, 0, 0)),
    "double blanks stay": ([["T  cell"]], [["T cell"]], (0, 0, 0)),
    "letters outside ASCII": ([["TNF-α"]], [["tnf-Α"]], (1, 1, 1)),
    "a letter that grows in lower case": ([["İ"]], [["i̇"]], (1, 1, 1)),
    "synonyms of all inner lists": ([["a"], ["b", "c"]], [["c"]], (1, 1, 1)),
    "only the first synonym of a system": ([["b"]], [["a", "b"]], (0, 0, 0)),
    "empty inner lists move up": ([["b"]], [[], ["b"]], (1, 1, 1)),
    "an empty string holds its rank": ([["b"]], [[""], ["b"]], (0, 1, 0.5)),
    "duplicates hold theirs": ([["b"]], [["a"], ["a"], ["b"]], (0, 1, 1 / 3)),
    "no cut at five": ([["z"]], [[c] for c in "abcdefz"], (0, 1, 1 / 7)),
    "an empty answer is wrong": ([["a"]], [], (0, 0, 0)),
    "quotes and backslashes": ([['5"-\\a']], [['5"-\\A']], (1, 1, 1)),
}


@pytest.mark.parametrize("name", SEMANTICS)
def test_both_programs_follow_the_table(jar, tmp_path, name):
    gold, answer, expected = SEMANTICS[name]
    found = one(jar, tmp_path, {1: gold}, {1: answer})
    assert [found.ours[m] for m in ("SAcc", "LAcc", "MRR")] == pytest.approx(list(expected))
    assert found.repairs == ()


@pytest.mark.parametrize("name", SEMANTICS)
def test_ours_follows_the_table_without_java(tmp_path, name):
    gold, answer, expected = SEMANTICS[name]
    golden, given = pair(tmp_path, {1: gold}, {1: answer})
    row = evaluate_files([golden], [given]).scores["pooled"]
    assert (row["sacc"], row["lacc"], row["mrr"]) == pytest.approx(expected)


READ = {
    "empty gold": ({1: [], 2: [["a"]]}, {1: [["a"]], 2: [["a"]]}, 0.5),
    "gold as a text": ({1: "a", 2: [["a"]]}, {1: [["a"]], 2: [["a"]]}, 0.5),
    "answer as a text": ({1: [["a"]], 2: [["a"]]}, {1: "a", 2: [["a"]]}, 0.5),
    "numbers": (
        {1: [["7"]], 2: [["1E3"]], 3: [["7"]]},
        {1: [[7]], 2: [[1000.0]], 3: [[7.0]]},
        1 / 3,
    ),
    "unknown id": ({1: [["a"]]}, {1: [["a"]], 7: [["b"]]}, 1),
}


@pytest.mark.parametrize("name", READ)
def test_files_that_the_program_reads_are_not_changed(jar, tmp_path, name):
    gold, answers, expected = READ[name]
    found = one(jar, tmp_path, gold, answers)
    assert found.official["SAcc"] == pytest.approx(expected)
    assert found.repairs == ()


REPAIRS = {
    "flat gold": ({1: ["a", "b"]}, {1: [["B"]]}, "flat list; it is read as synonyms"),
    "null in the gold": ({1: [["a", None]]}, {1: [["A"]]}, "null; it is left out"),
    "flat answer": ({1: [["a"]]}, {1: ["b", "a"]}, "not a list of lists; each string is an answer"),
    "a bare number": ({1: 7, 2: [["8"]]}, {1: [["7"]], 2: 8}, "is a number; it is read as"),
    "null answer": ({1: [["a"]], 2: [["b"]]}, {1: [["a"]], 2: None}, "answer; it counts as wrong"),
    "null in an answer": ({1: [["a"]]}, {1: [[None, "a"], ["b"]]}, "null; it is left out"),
}


@pytest.mark.parametrize("name", REPAIRS)
def test_what_the_program_cannot_read_is_repaired_in_a_copy_and_listed(jar, tmp_path, name):
    gold, answers, repair = REPAIRS[name]
    found = one(jar, tmp_path, gold, answers)
    assert "the program cannot read the files as they are" in found.repairs[0]
    assert any(repair in said and ".json: " in said and "0000" in said for said in found.repairs)
    before = pair(tmp_path, gold, answers)[0].read_bytes()
    assert (tmp_path / "g.json").read_bytes() == before


def edited(folder, gold=(), answers=()):
    """The pair of files with one right answer, with questions added and fields changed."""
    paths = pair(folder, {1: [["a"]]}, {1: [["a"]]})
    for path, more in zip(paths, (gold, answers), strict=True):
        rows = json.loads(path.read_text())["questions"]
        more = dict(more)
        rows = [{**rows[0], **more.pop("change", {})}, *more.pop("rows", [])]
        path.write_text(json.dumps(more.pop("whole", lambda rows: {"questions": rows})(rows)))
    return paths


FIRST = f"{1:024d}"
YES = {"id": "x", "type": "yesno", "body": "Is it?", "exact_answer": "yes"}
STOPPING = {
    "null documents": ({"change": {"documents": None}}, {}),
    "an unknown field in a snippet": ({"change": {"snippets": [{"text": "a", "new": 1}]}}, {}),
    "half an offset": ({"change": {"snippets": [{"offsetInBeginSection": 0.5}]}}, {}),
    "a bare list": ({"whole": lambda rows: rows}, {"whole": lambda rows: rows}),
    "NaN": ({}, {"change": {"score": float("nan")}}),
    "no id": ({}, {"rows": [{"exact_answer": [["b"]]}, {"id": None}], "change": {}}),
    "a list for yes or no": ({"rows": [YES]}, {"rows": [{"id": "x", "exact_answer": [["yes"]]}]}),
    "null in another question": ({"rows": [{**YES, "exact_answer": None}]}, {}),
}


@pytest.mark.parametrize("name", STOPPING)
def test_what_stops_the_program_elsewhere_does_not_move_our_figures(jar, tmp_path, name):
    golden, given = edited(tmp_path, *STOPPING[name])
    (found,) = official.compare_files(jar, [golden], [given])
    assert found.agrees and found.official["SAcc"] == 1
    assert len(found.repairs) > 1 and "as they are" in found.repairs[0]
    assert evaluate_files([golden], [given]).remarks


def test_a_gold_list_written_as_text_is_refused(jar, tmp_path):
    golden, given = edited(tmp_path, {"change": {"exact_answer": "[['a']]"}})
    with pytest.raises(InputError, match="is a list written as a string, which .* JSON list"):
        official.compare_files(jar, [golden], [given])


def test_repeated_ids_count_once(jar, tmp_path):
    again = {"id": FIRST, "exact_answer": [["b"]]}
    golden, given = edited(tmp_path, answers={"rows": [again]})
    (found,) = official.compare_files(jar, [golden], [given])
    assert found.agrees and found.official["SAcc"] == 1.0 and found.repairs == ()


@pytest.mark.parametrize("missing", ["wrong", "dropped"])
def test_missing_questions_are_dropped_on_both_sides(jar, tmp_path, missing):
    found = one(jar, tmp_path, {1: [["a"]], 2: [["b"]]}, {1: [["a"]]}, missing=missing)
    assert found.official["SAcc"] == 1.0
    assert len(found.repairs) == (missing == "wrong")
    assert all("missing, so left out of the means" in said for said in found.repairs)


@pytest.mark.parametrize(("missing", "strict"), [("wrong", 0.5), ("dropped", 1)])
def test_a_later_program_that_stops_at_missing_questions(tmp_path, missing, strict):
    jar = changed_standin(tmp_path, "continue; // an", "throw new IllegalStateException(); // an")
    found = one(jar, tmp_path, {1: [["a"]], 2: [["b"]]}, {1: [["a"]]}, missing=missing)
    assert found.official["SAcc"] == strict
    assert "missing, " in found.repairs[-1]


def changed_standin(folder, old, new):
    """A jar of the stand-in with one place of its source changed."""
    sources = folder / "source"
    shutil.copytree(STANDIN, sources)
    text = (sources / "EvaluatorTask1b.java").read_text()
    assert old in text
    (sources / "EvaluatorTask1b.java").write_text(text.replace(old, new))
    classes = folder / "classes"
    subprocess.run(["javac", "-d", str(classes), *map(str, sources.glob("*.java"))], check=True)
    jar = folder / "changed.jar"
    subprocess.run(["jar", "cf", str(jar), "-C", str(classes), "evaluation"], check=True)
    return jar


@pytest.mark.skipif(not os.environ.get("BIOASQ_DIR"), reason="BIOASQ_DIR is not set")
def test_the_real_golden_files_score_the_same_in_both_programs(jar, tmp_path):
    files = find_files(os.environ["BIOASQ_DIR"], need_train=False)
    answers = []
    for gold in files.golds:
        asked = read_questions(gold, answers="required")
        # Right at rank 1, at rank 2, in capitals, wrong by a blank, and no answer at all, in turn.
        rankings = [
            ([g], ["no", g], [g.upper()], [f"{g} "], [])[n % 5]
            for n, g in enumerate(q.synonyms()[-1] for q in asked)
        ]
        ranked = dict(zip((q.id for q in asked), rankings, strict=True))
        answers.append(write_answers(tmp_path / gold.name, ranked))
    found = official.compare_files(jar, files.golds, answers)
    assert [batch.line() for batch in found if not batch.agrees] == []
    assert sum(batch.official["SAcc"] > 0 for batch in found) == 5


texts = st.text(alphabet='aAbB .α"\\İı', max_size=3)
ranked = st.lists(st.lists(texts, max_size=2), max_size=4)
gold_lists = st.lists(st.lists(texts, min_size=1, max_size=2), min_size=1, max_size=2)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(st.integers(1, 9), st.tuples(gold_lists, st.none() | ranked), min_size=1))
def test_any_files_score_the_same_in_both_programs(standin, tmp_path, questions):
    gold = {n: golds for n, (golds, _) in questions.items()}
    one(standin, tmp_path, gold, {n: answer for n, (_, answer) in questions.items()})


def script(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture
def mini_files(tmp_path):
    golds = [
        DATA / f"mini{n}_golden.json" for n in (4, 1)
    ]  # the first batch has an even number of questions
    answers = []
    for gold in golds:
        rows = json.loads(gold.read_text())["questions"]
        ranking = {
            row["id"]: ["no", row["exact_answer"][0][0]] if n % 2 else [row["exact_answer"][0][0]]
            for n, row in enumerate(r for r in rows if r["type"] == "factoid")
        }
        answers.append(write_answers(tmp_path / gold.name, ranking))
    return golds, answers


def test_the_script_compares_batch_by_batch(jar, mini_files):
    golds, answers = mini_files
    done = script("--jar", jar, "--gold", *golds, "--answers", *answers)
    assert done.returncode == 0, done.stderr
    head, first, second, last = done.stdout.splitlines()
    assert second.startswith("mini1_golden") and second.endswith("agree")
    assert "SAcc 0.5 0.5" in first and "MRR 0.75 0.75" in first
    assert last == "6 scores, all agree" and head


def test_a_difference_is_status_1(mini_files, tmp_path, standin):
    wrong = changed_standin(tmp_path, "strict += hit == 1", "strict += hit == 2")
    golds, _ = mini_files
    script_answers = tmp_path / "all_first.json"
    rows = json.loads(golds[0].read_text())["questions"]
    right = {r["id"]: [r["exact_answer"][0][0]] for r in rows if r["type"] == "factoid"}
    write_answers(script_answers, right)
    done = script("--jar", wrong, "--gold", golds[0], "--answers", script_answers)
    assert done.returncode == 1
    assert "DIFFER" in done.stdout and "NOT all agree" in done.stdout


def fake_java(folder, code):
    """A ``java`` that is a Python script: for failures that a real one does not show on demand."""
    home = folder / "home"
    (home / "bin").mkdir(parents=True)
    java = home / "bin" / "java"
    java.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
    java.chmod(0o755)
    return str(home)


CRASH = 'Exception in thread "main" java.lang.'


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (f"sys.exit('{CRASH}IllegalStateException: Expected BEGIN_ARRAY but was STRING')",
         "the evaluator failed: java.lang.IllegalStateException: Expected BEGIN_ARRAY"),
        (f"sys.exit('{CRASH}NoClassDefFoundError: com/google/gson/stream/JsonReader')",
         "keep the folder lib next to the jar"),
        ("sys.exit('Error: Could not find or load main class evaluation.EvaluatorTask1b\\n"
         "Caused by: java.lang.ClassNotFoundException: evaluation.EvaluatorTask1b')",
         "so it is not the evaluator's jar"),
        ("sys.exit('Error: Unable to initialize main class evaluation.EvaluatorTask1b\\n"
         "Caused by: java.lang.NoClassDefFoundError: org/apache/commons/cli/ParseException')",
         "lacks a library (org/apache/commons/cli/ParseException); keep the folder lib"),
        ("print('Wrong challenge version. I will exit.')", "Wrong challenge version"),
        ("print('Usage: -phaseX [-e version] goldenfile systemfile [-verbose]')", "Usage"),
        ("pass", "it printed nothing"),
        ("print('SEVERE java.io.EOFException', file=sys.stderr); print('0 1 1 1 0 0 0')",
         "EOFException"),  # half a file was read, and figures came all the same
        ("print('0.0 1.0')", "the evaluator failed: 0.0 1.0"),
    ],
)  # fmt: skip
def test_its_failures_become_one_readable_line(tmp_path, code, message, mini_files):
    golds, answers = mini_files
    (tmp_path / "some.jar").write_bytes(b"")
    done = script(
        "--jar", tmp_path / "some.jar", "--gold", golds[0], "--answers", answers[0],
        JAVA_HOME=fake_java(tmp_path, code),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert message in done.stderr


def test_another_jar_is_told(standin, tmp_path, mini_files):
    golds, answers = mini_files
    other = tmp_path / "other.jar"
    subprocess.run(["jar", "cf", str(other), "-C", str(STANDIN), "JsonReader.java"], check=True)
    done = script("--jar", other, "--gold", golds[0], "--answers", answers[0])
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "it is not the evaluator's jar" in done.stderr


def test_line_of_2018_with_seven_figures(tmp_path, mini_files):
    golds, answers = mini_files
    (tmp_path / "some.jar").write_bytes(b"")
    home = fake_java(tmp_path, "print('0.0 0.5 1.0 0.75 0.0 0.0 0.0')")
    done = script(
        "--jar", tmp_path / "some.jar", "--gold", golds[0], "--answers", answers[0], JAVA_HOME=home
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jar": "nowhere.jar"}, "nowhere.jar: no such file; specify BioASQEvaluation.jar"),
        ({"edition": 3}, "edition: 3 has different rules"),
        ({"answer_files": []}, "1 gold files but 0 answer files"),
        ({"missing": "kept"}, "'kept' is not one of"),
    ],
)
def test_bad_input_is_named(standin, mini_files, change, message):
    golds, answers = mini_files
    call = {"jar": standin, "gold_files": golds[:1], "answer_files": answers[:1]} | change
    with pytest.raises(InputError, match=message):
        official.compare_files(**call)


def test_without_java_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"java: not found in JAVA_HOME .*install a Java runtime"):
        official.compare_files(tmp_path / "x.jar", ["g"], ["a"])
