import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.config import InputError
from helpers.data.bioasq import read_questions, write_answers
from helpers.data.layout import find_files
from helpers.data.squad import read_squad
from helpers.scoring.evaluate import evaluate_files

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "data_scripts" / "evaluate.py"
spec = importlib.util.spec_from_file_location("evaluate", SCRIPT)
evaluate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(evaluate)


def question(name, exact_answer, kind="factoid"):
    return {"id": name, "type": kind, "body": f"What is {name}?", "exact_answer": exact_answer}


def system(**answers):
    return {
        "questions": [
            {"id": name, "type": "factoid", "exact_answer": answer}
            for name, answer in answers.items()
        ]
    }


GOLD_1 = {
    "questions": [
        question("a1", [["Insulin"]]),
        question("a2", [["TNF-α", "tumour necrosis factor"], ["cachectin"]]),
        question("a3", ["ascorbic acid", "vitamin C "]),  # the flat shape, a trailing blank
        question("y1", "yes", "yesno"),
    ]
}
GOLD_2 = {"questions": [question("b1", [["EXT2"]])]}
ANSWERS_1 = system(a1=[["insulin"]], a2=[["IL-6"], [], ["Cachectin", "x"]], a3=[["vitamin C"]])
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "Insulin lowers blood glucose.",
                    "qas": [
                        {
                            "id": "s_001",
                            "question": "What lowers glucose?",
                            "answers": [{"text": "Insulin", "answer_start": 0}],
                        },
                        {
                            "id": "s_002",
                            "question": "What does it lower?",
                            "answers": [
                                {"text": "glucose", "answer_start": 21},
                                {"text": "blood glucose", "answer_start": 15},
                            ],
                        },
                    ],
                }
            ],
        }
    ],
}


@pytest.fixture
def files(save):
    golds = [save("7B1_golden.json", GOLD_1), save("7B2_golden.json", GOLD_2)]
    answers = [save("7B1.json", ANSWERS_1), save("7B2.json", system(b1=[["x"], ["ext2"]]))]
    return list(map(str, golds)), list(map(str, answers))


def test_lines_and_scores_by_hand(files, tmp_path, capsys):
    golds, answers = files
    out = tmp_path / "scores.json"
    status = evaluate.main(["--gold", *golds, "--answers", *answers, "--json", str(out)])
    printed = capsys.readouterr()
    assert status == 0
    assert [line.rpartition(".json: ")[2] for line in printed.err.splitlines()] == [
        "field 'exact_answer' stops the official program, even in an ignored entry; scoring "
        "continues here as described in the other remarks; correct the field: 1 question ('a3')",
        "field 'exact_answer' is a flat list; it is read as synonyms of one answer: "
        "1 question ('a3')",
        "an answer differs from a gold answer only in surrounding space, so it counts as wrong, "
        "as in the official program: 1 question ('a3')",
    ]
    assert [line.split() for line in printed.out.splitlines()] == [
        "7B1 SAcc 33.33 (1 of 3) MRR 50.00 (mean of 3) LAcc 66.67 (2 of 3)".split(),
        "7B2 SAcc 0.00 (0 of 1) MRR 50.00 (mean of 1) LAcc 100.00 (1 of 1)".split(),
        "weighted SAcc 25.00 (1 of 4) MRR 50.00 (mean of 4) LAcc 75.00 (3 of 4)".split(),
    ]
    scores = json.loads(out.read_text(encoding="utf-8"))
    assert [row["batch"] for row in scores["batches"]] == ["7B1", "7B2"]
    assert scores["batches"][0]["hits_lenient"] == 2
    assert scores["weighted"]["lacc"] == scores["pooled"]["lacc"] == 0.75
    assert scores["macro"]["lacc"] == pytest.approx(5 / 6)
    assert (scores["schema_version"], scores["missing"]) == (1, "wrong")
    assert scores["remarks"] == printed.err.splitlines()
    assert [path.name for path in tmp_path.iterdir() if "scores" in path.name] == ["scores.json"]


def test_odd_ids_are_reported_and_the_first_of_a_repeated_id_counts(files, save, capsys):
    golds, answers = files
    odd = system(a1=[["x"]], elsewhere=[["x"]])
    odd["questions"].append(system(a1=[["insulin"]])["questions"][0])
    answers[0] = str(save("odd.json", odd))
    assert evaluate.main(["--gold", *golds, "--answers", *answers]) == 0
    printed = capsys.readouterr()
    assert "(0 of 3)" in printed.out.splitlines()[0]
    *_, again, missing, unknown = printed.err.splitlines()
    assert "'a1'" in again and "first" in again
    assert missing.endswith("no entry, so counted as wrong: 2 questions ('a2', 'a3')")
    assert unknown.endswith("so ignored: 1 question ('elsewhere')")


CASES = Path(__file__).parents[1] / "cases"


@pytest.mark.parametrize(
    ("gold", "answers", "strict", "remarks"),
    [
        ("answers/gold", "answers/type_spelled_otherwise", "100.00 (4 of 4)", []),
        ("answers/gold", "answers/type_empty", "100.00 (4 of 4)", []),
        ("answers/number_gold", "answers/number", "100.00 (2 of 2)",
         ["an answer is a number; it is read as written (9.0 is not 9): 1 question"]),
        ("answers/gold", "answers/plain_string", "0.00 (0 of 4)",
         ["a string, which the official program scores as 0", "would give SAcc 100.00 (4 of 4)"]),
        ("golds/question_twice", "golds/question_twice_answers", "66.67 (2 of 3)",
         ["a question occurs twice; it counts twice: 1 question ('000000000000000000007c01')"]),
    ],
)  # fmt: skip
def test_cases(gold, answers, strict, remarks, capsys):
    call = ["--gold", str(CASES / f"{gold}.json"), "--answers", str(CASES / f"{answers}.json")]
    assert evaluate.main(call) == 0
    printed = capsys.readouterr()
    assert f"SAcc {strict.rjust(15)}".split() == printed.out.split()[1:6]
    lines = printed.err.splitlines()
    assert len(lines) == len(remarks)
    assert all(remark in line for remark, line in zip(remarks, lines, strict=True))


@pytest.mark.parametrize(
    ("gold", "said"),
    [("nan", "is null or NaN"), ("list_as_text", "is a list written as a string, which")],
)
def test_cases_of_golds_that_are_refused(gold, said, capsys):
    path, answers = CASES / "golds" / f"{gold}.json", CASES / "answers" / "type_empty.json"
    assert evaluate.main(["--gold", str(path), "--answers", str(answers)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: question '000000000000000000005c01': field 'exact_answer' {said}" in line


def remarks_of(save, golds, **answers):
    """Strict hits, and the remarks without the files' names, of golds (id, exact_answer)."""
    gold = save("g.json", {"questions": [question(*row) for row in golds]})
    result = evaluate_files([gold], [save("a.json", system(**answers))])
    return result.scores["pooled"]["hits_strict"], [
        line.rpartition(".json: ")[2] for line in result.remarks
    ]


def test_a_list_as_text_inside_a_gold_list_is_refused(save):
    with pytest.raises(InputError, match="'b': field 'exact_answer' is a list written as a string"):
        remarks_of(save, [("a", [["x"]]), ("b", ["['x']"])], a=[["x"]])


def test_a_plain_gold_text_is_no_gold_and_a_bare_number_is_one(save):
    hits, remarks = remarks_of(save, [("a", "x"), ("b", 9)], a=[["x"]], b=[["9"]])
    assert hits == 1
    assert any("is a number; it is read as the only answer: 1 question ('b')" in r for r in remarks)
    assert not any("one string" in remark for remark in remarks)
    assert remarks[-1] == "no gold answer, so counted as wrong: 1 question ('a')"


def test_a_question_twice_with_different_golds_is_named(save):
    golds = [("a", [["x"]]), ("a", [["y"]]), ("b", [["z"]]), ("b", [["z"]])]
    hits, remarks = remarks_of(save, golds, a=[["x"]], b=[["z"]])
    assert hits == 3
    assert remarks == [
        "a question occurs twice with different gold answers; it counts twice: 1 question ('a')",
        "a question occurs twice; it counts twice: 1 question ('b')",
    ]


def test_a_sixth_answer_counts_and_the_remark_says_so(save):
    result = remarks_of(save, [("a", [["f"]])], a=[[letter] for letter in "abcdef"])
    remark = "more than the allowed 5 answers; a correct one counts at any rank"
    assert result == (0, [f"{remark}: 1 question ('a')"])


def test_a_bare_number_is_treated_like_a_plain_text(save):
    hits, remarks = remarks_of(save, [("a", [["9"]])], a=9)
    assert hits == 0
    assert any("is a number, which counts as wrong; make it a list of lists" in r for r in remarks)
    assert "as lists of lists, these strings would give SAcc 100.00" in remarks[-1]


def test_answers_that_only_space_makes_wrong_are_counted(save):
    golds = [("a", [["BRAF"]]), ("b", [["KRAS "]]), ("c", [["x"]]), ("d", [["y"]])]
    answers = {"a": [["BRAF "]], "b": [["q"], ["KRAS"]], "c": [["x"], ["x "]], "d": [["z "]]}
    hits, remarks = remarks_of(save, golds, **answers)
    assert hits == 1 and len(remarks) == 1
    assert "differs from a gold answer only in surrounding space" in remarks[0]
    assert remarks[0].endswith("2 questions ('a', 'b')")


def test_every_ignored_entry_is_named(save):
    gold = {"questions": [question("a1", [["x"]]), question("y1", "yes", "yesno"),
                          question("f1", [["x"]], "Factoid")]}  # fmt: skip
    entries = [
        {"id": "a1", "exact_answer": [["x"]]}, {"exact_answer": [["x"]]}, {"id": None},
        {"id": "y1", "exact_answer": {"any": "thing"}}, {"id": "zz"}, {"id": "a1"},
        {"id": "f1", "exact_answer": [["x"]]},
    ]  # fmt: skip
    result = evaluate_files([save("g.json", gold)], [save("a.json", {"questions": entries})])
    assert result.scores["pooled"]["n"] == result.scores["pooled"]["hits_strict"] == 1
    said = " | ".join(remark.rpartition(".json: ")[2] for remark in result.remarks)
    assert "field 'type' is 'Factoid', which is not scored" in said
    assert "has no id; it is ignored: 2 questions ('2', '3')" in said
    assert "ignored: 2 questions ('y1', 'f1')" in said and "ignored: 1 question ('zz')" in said
    assert "the answers of its first entry count: 1 question ('a1')" in said
    assert "changes no factoid score here: 1 question ('y1')" in said
    assert "even in an ignored entry; scoring continues here as described in the other" in said


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ('%s', None),
        ('\ufeff%s', None),
        ('%s\n%s', "all text after the first value"),
        ('%s rest', "all text after the first value"),
        ('{"data": [], "score": 1.5, %s}', None),
        ('{"score": NaN, %s}', "NaN is not valid JSON; it is read as null"),
        ('[{"id": "a1", "exact_answer": [["x\ny", "\\ud83d"]]}]', "a bare list"),
        ('{"questions": [{"id": "a1", "exact_answer": "[\'x\' \'y\']"}]}', "is a string"),
    ],
)  # fmt: skip
def test_what_the_program_makes_of_odd_json(text, remark, save):
    whole = '{"questions": [{"id": "a1", "exact_answer": [["x\\ny"]]}]}'
    text = text.replace("%s", whole[1:-1] if text.startswith("{") else whole)
    gold = save("g.json", {"questions": [question("a1", [["X\nY"]])]})
    result = evaluate_files([gold], [save("a.json", text.encode())])
    assert result.scores["pooled"]["hits_strict"] == (remark != "is a string")
    assert bool(result.remarks) == bool(remark)
    assert remark is None or remark in result.remarks[0]


def test_dropped_questions_leave_counts_and_weights(files, save, tmp_path, capsys):
    golds, answers = files
    answers[0] = str(save("one.json", system(a1=[["insulin"]])))
    call = ["--gold", *golds, "--answers", *answers, "--missing", "dropped"]
    assert evaluate.main([*call, "--json", str(tmp_path / "s.json")]) == 0
    printed = capsys.readouterr()
    assert "(2 of 3 questions dropped)" in printed.out.splitlines()[0]
    assert "no entry, so dropped: 2 questions" in printed.err
    weighted = json.loads((tmp_path / "s.json").read_text())["weighted"]
    assert (weighted["n"], weighted["counted"], weighted["sacc"]) == (4, 2, 0.5)


def test_same_question_in_two_batches_and_files_that_do_not_belong(files):
    golds, answers = files
    twice = evaluate_files([golds[0], golds[0]], [answers[0], answers[0]])
    assert any("counted twice" in remark for remark in twice.remarks)
    with pytest.raises(InputError, match="answers no question in .* in the same order"):
        evaluate_files(golds, answers[::-1])


def test_gold_without_an_answer_is_wrong_and_reported(save):
    gold = save("g.json", {"questions": [question("a1", []), question("a2", [["x"]])]})
    result = evaluate_files([gold], [save("a.json", system(a1=[["x"]], a2=[["x"]]))])
    assert result.scores["pooled"]["hits_strict"] == 1
    assert any("no gold answer" in remark for remark in result.remarks)


def test_long_lists_of_ids_are_cut(save):
    gold = save("g.json", {"questions": [question(f"q{n}", [["x"]]) for n in range(9)]})
    result = evaluate_files([gold], [save("a.json", system(q0=[["x"]]))])
    (remark,) = result.remarks
    assert remark.endswith("8 questions ('q1', 'q2', 'q3', 'q4', 'q5' and 3 more)")


def test_squad_files_get_em_and_f1(save, tmp_path, capsys):
    gold = str(save("dev.json", SQUAD))
    answers = str(save("predictions.json", {"s_001": "the insulin", "s_002": "sugar in blood"}))
    out = tmp_path / "s.json"
    assert evaluate.main(["--gold", gold, "--answers", answers, "--json", str(out)]) == 0
    first, weighted = capsys.readouterr().out.splitlines()
    assert first.split() == "dev EM 50.00 (1 of 2) F1 70.00 (mean of 2)".split()
    assert weighted.split()[1:] == first.split()[1:]
    row = json.loads(out.read_text())["squad"][0]
    assert (row["batch"], row["n"], row["hits_exact"], row["em"]) == ("dev", 2, 1, 0.5)
    assert row["f1"] == pytest.approx(0.7)


def test_squad_missing_and_unknown(save):
    gold, answers = save("dev.json", SQUAD), save("p.json", {"s_001": "insulin", "zz": "x"})
    wrong, dropped = evaluate_files([gold], [answers]), evaluate_files([gold], [answers], "dropped")
    assert (wrong.scores["weighted"]["em"], dropped.scores["weighted"]["em"]) == (0.5, 1)
    assert [("s_002" in r, "zz" in r) for r in wrong.remarks] == [(True, False), (False, True)]


def test_squad_repairs_are_named(save):
    rows = json.loads(json.dumps(SQUAD))
    answer = rows["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]
    answer["text"] += " "
    gold = save("dev.json", rows)
    twice = b'{"s_001": "x", "s_001": "insulin", "s_002": "sugar in blood"}'
    remarks = evaluate_files([gold], [save("p.json", twice)]).remarks
    assert remarks == [
        f"{gold}: an answer has leading or trailing whitespace, which is removed: 1 question "
        "('s_001')",
        f"{gold.with_name('p.json')}: key 's_001' occurs twice in one object; the last one counts",
    ]


def unanswered():
    data = json.loads(json.dumps(SQUAD))
    data["data"][0]["paragraphs"][0]["qas"][1]["answers"] = []
    return data


@pytest.mark.parametrize(
    ("gold", "answers", "said"),
    [
        (b"{", ANSWERS_1, "not JSON"),
        (GOLD_1, b"\xff\xfe", "not UTF-8"),
        ({"data": 1}, ANSWERS_1, "not a BioASQ file"),
        ([], ANSWERS_1, "not a BioASQ file"),
        ({"questions": [question("y1", "yes", "yesno")]}, ANSWERS_1, "factoid"),
        ({"questions": [question("a1", None)]}, ANSWERS_1, "exact_answer"),
        ({"questions": [question("a1", float("nan"))]}, ANSWERS_1, "'a1': field 'exact_answer'"),
        ({"questions": [{"id": "a1", "type": "factoid"}]}, ANSWERS_1, "this is a test input"),
        (GOLD_1, {"s_001": "insulin"}, "not a BioASQ file"),
        (GOLD_1, SQUAD, "did you swap --gold and --answers?"),
        (GOLD_1, system(a1=[[True]]), "'a1'"),
        (SQUAD, ANSWERS_1, "is a SQuAD file; specify the golden file"),
        (SQUAD, ["insulin"], "{row id: text}"),
        (unanswered(), {"s_001": "insulin"}, "'s_002' has no gold answer"),
    ],
)
def test_bad_input_is_one_line_status_2_and_no_file(gold, answers, said, save, tmp_path, capsys):
    paths = str(save("gold.json", gold)), str(save("answers.json", answers))
    before = sorted(tmp_path.iterdir())
    call = ["--gold", paths[0], "--answers", paths[1], "--json", str(tmp_path / "s.json")]
    assert evaluate.main(call) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert said in line and str(tmp_path) in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("missing", ["gold.json", "answers.json"])
def test_absent_file(missing, save, tmp_path, capsys):
    save("gold.json", GOLD_2), save("answers.json", system(b1=[["x"]]))
    (tmp_path / missing).unlink()
    call = ["--gold", str(tmp_path / "gold.json"), "--answers", str(tmp_path / "answers.json")]
    assert evaluate.main(call) == 2
    assert f"{missing}: no such file" in capsys.readouterr().err


def test_files_must_pair_up(files, save, capsys):
    golds, answers = files
    assert evaluate.main(["--gold", *golds, "--answers", answers[0]]) == 2
    assert "2 gold files but 1 answer file" in capsys.readouterr().err
    squad = str(save("dev.json", SQUAD))
    assert evaluate.main(["--gold", golds[0], squad, "--answers", *answers]) == 2
    assert "not both" in capsys.readouterr().err


def test_nothing_left_to_count(files, save, capsys):
    golds, _ = files
    answers = str(save("none.json", system()))
    call = ["--gold", golds[1], "--answers", answers, "--missing", "dropped"]
    assert evaluate.main(call) == 2
    assert "nothing to score" in capsys.readouterr().err
    call[1], call[3] = str(save("dev.json", SQUAD)), str(save("p.json", {}))
    assert evaluate.main(call) == 2
    assert "answers no question" in capsys.readouterr().err


def test_a_failed_call_keeps_the_old_scores(files, save, tmp_path):
    golds, answers = files
    old = save("s.json", {"old": True})
    answers[1] = str(save("broken.json", b"{"))
    assert evaluate.main(["--gold", *golds, "--answers", *answers, "--json", str(old)]) == 2
    assert json.loads(old.read_text()) == {"old": True}


def test_as_a_command(files):
    golds, answers = files

    def call(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(
            [sys.executable, str(SCRIPT), *arguments],
            capture_output=True, env=environment, encoding="utf-8", check=False,
        )  # fmt: skip

    good = call("--gold", *golds, "--answers", *answers)
    assert (good.returncode, len(good.stdout.splitlines())) == (0, 3)
    assert call("--gold", *golds).returncode == 2
    assert "--missing" in call("--help").stdout
    bad = call("--gold", golds[0], "--answers", "nowhere.json")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "Traceback" not in bad.stderr


FOLDER = os.environ.get("BIOASQ_DIR", "")
SQUAD_FILE = os.environ.get("SQUAD_FILE", "")


@pytest.mark.skipif(not FOLDER, reason="BIOASQ_DIR is not set: no real BioASQ 7b files")
def test_real_golden_batches(tmp_path):
    golds = find_files(FOLDER).golds
    answers, expected = [], 0
    for gold in golds:
        questions = read_questions(gold, answers="required")
        # First synonyms in capitals, behind a wrong answer for every third question.
        given = {
            q.id: ["no such answer"] * (n % 3 == 0) + [q.synonyms()[0].upper()]
            for n, q in enumerate(questions)
        }
        expected += sum(n % 3 != 0 for n in range(len(questions)))
        answers.append(write_answers(tmp_path / gold.name, given))
    scores = evaluate_files(golds, answers).scores
    assert [row["n"] for row in scores["batches"]] == [39, 25, 29, 34, 35]
    assert (scores["pooled"]["hits_strict"], scores["pooled"]["hits_lenient"]) == (expected, 162)
    assert scores["weighted"]["mrr"] == pytest.approx((expected + (162 - expected) / 2) / 162)


@pytest.mark.skipif(not SQUAD_FILE, reason="SQUAD_FILE is not set: no real SQuAD v1.1 file")
def test_real_squad_golds_answer_themselves(tmp_path, save):
    path = Path(SQUAD_FILE)
    rows = [
        row
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for row in paragraph["qas"]
    ]
    given = {row["id"]: f"The {row['answers'][0]['text']}." for row in rows[100:]}
    result = evaluate_files([path], [save("p.json", given)]).scores["weighted"]
    assert (result["n"], result["hits_exact"]) == (len(rows), len(rows) - 100)


@pytest.mark.skipif(not SQUAD_FILE, reason="SQUAD_FILE is not set: no real SQuAD v1.1 file")
def test_em_and_f1_agree_with_another_implementation(save):
    """TorchMetrics has a translation of the SQuAD v1.1 script of its own."""
    theirs = pytest.importorskip("torchmetrics.text").SQuAD()
    random.seed(0)
    given, predictions, targets = {}, [], []
    for row in read_squad(SQUAD_FILE):
        words = row.context.split()
        first = random.randrange(len(words))
        guess = " ".join(words[first : first + random.randint(1, 5)])
        # Near misses as well as spans from anywhere: an answer with its neighbors.
        span = row.spans[0]
        near = row.context[max(0, span.start - random.randint(0, 9)) : span.end + 4]
        given[row.id] = random.choice([guess, near, span.text])
        predictions.append({"prediction_text": given[row.id], "id": row.id})
        golds = {"text": [s.text for s in row.spans], "answer_start": [s.start for s in row.spans]}
        targets.append({"answers": golds, "id": row.id})
    ours = evaluate_files([SQUAD_FILE], [save("p.json", given)]).scores["weighted"]
    found = theirs(predictions, targets)
    assert ours["n"] == 1190 and 0.3 < ours["em"] < ours["f1"] < 0.9
    assert 100 * ours["em"] == pytest.approx(float(found["exact_match"]), abs=1e-3)
    assert 100 * ours["f1"] == pytest.approx(float(found["f1"]), abs=1e-3)
