"""From file to file: fine-tune, predict and evaluate through the command lines."""

import json
import runpy
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path

import pytest
from tiny import tiny_examples, tiny_folder

from helpers import io, pipeline
from helpers.config import InputError, Settings
from helpers.data import bioasq, convert, squad
from helpers.data.spans import Span
from helpers.model.decoding import Reader

SCRIPTS = Path(__file__).parents[1] / "data_scripts"


def script(name):
    return runpy.run_path(str(SCRIPTS / name))["main"]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A folder with a tiny checkpoint, a train file, and a BioASQ test input with its golden."""
    folder = tmp_path_factory.mktemp("task")
    tiny_folder(folder / "base")
    squad.write_squad(folder / "train.json", squad.by_occurrence(tiny_examples(90)))
    questions = {}
    for e in tiny_examples(12, seed=9):
        item = questions.setdefault(
            e.question_id, {"id": e.question_id, "type": "factoid", "body": e.question,
                            "snippets": [], "exact_answer": []})  # fmt: skip
        item["snippets"].append({"text": e.context})
        item["exact_answer"].append([e.spans[0].text])
    io.write_json(folder / "golden.json", {"questions": list(questions.values())})
    for item in questions.values():
        del item["exact_answer"]
    io.write_json(folder / "test.json", {"questions": list(questions.values())})
    return folder


SETTINGS = ["max_length=48", "batch_size=4", "learning_rate=5e-3", "wandb_mode=disabled"]
SETS = [part for s in SETTINGS for part in ("--set", s)]


def test_from_a_checkpoint_and_files_to_a_score(task, tmp_path, capsys):
    args = ["--checkpoint", str(task / "base"), "--train", str(task / "train.json"), "--dev",
            str(task / "train.json"), "--output", str(tmp_path / "m"), *SETS,
            "--set", "allow_leak=true"]  # fmt: skip
    assert script("fine_tune.py")([*args, "--set", "epochs=12"]) == 0
    assert "dev: questions 30, pairs 90, loss" in capsys.readouterr().out
    answers = {}
    for checkpoint in ("model.nemo", "transformers"):
        out = tmp_path / f"{checkpoint}.json"
        args = ["--checkpoint", str(tmp_path / "m" / checkpoint), "--input",
                str(task / "test.json"), "--output", str(out), "--set", "max_length=48",
                "--set", "nbest=5", "--nbest", str(tmp_path / "nbest.jsonl")]  # fmt: skip
        assert script("predict.py")(args) == 0
        answers[checkpoint] = json.loads(out.read_text())
    assert answers["model.nemo"] == answers["transformers"]
    lines = (tmp_path / "nbest.jsonl").read_text().splitlines()
    assert len(lines) == 12 and max(len(json.loads(line)["nbest"]) for line in lines) == 5
    args = ["--gold", str(task / "golden.json"), "--answers", str(tmp_path / "model.nemo.json")]
    assert script("evaluate.py")([*args, "--json", str(tmp_path / "s.json")]) == 0
    pooled = json.loads((tmp_path / "s.json").read_text())["pooled"]
    assert pooled["n"] == 4
    assert pooled["lacc"] >= 0.75


def test_a_squad_file_with_other_ids_is_answered_row_by_row(task, tmp_path):
    rows = [squad.Example(f"q{i}", f"q{i}", e.question, e.context, e.spans, 0, "")
            for i, e in enumerate(tiny_examples(3))]  # fmt: skip
    squad.write_squad(tmp_path / "rows.json", rows)
    out = pipeline.predict_files(
        task / "base", tmp_path / "rows.json", tmp_path / "out.json", max_length=48
    )
    answers = json.loads(out.read_text())
    assert sorted(answers) == ["q0", "q1", "q2"]
    assert all(answers[e.id] in e.context for e in rows)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--train", "{task}/test.json"], "test.json"),
        (["--train", "{task}/none.json"], "none.json"),
        (["--train", "{task}/train.json", "--dev", "{task}/golden.json"], "golden.json"),
        (["--train", "{task}/train.json", "--set", "epoch=3"], "epoch"),
        (["--train", "{task}/train.json", "--set", "epochs=three"], "not a whole number"),
        (["--train", "{task}/train.json", "--set", "epochs=0"], "must be at least 1"),
        (["--train", "{task}/train.json", "--checkpoint", "nosuch"], "nosuch"),
        (["--train", "{task}/train.json", "--profile", "maxi"], "'maxi' is unknown"),
    ],
)
def test_bad_input_to_fine_tune_is_one_line_and_leaves_nothing(
    task, tmp_path, capsys, args, message
):
    args = [a.format(task=task) for a in args]
    full = ["--checkpoint", str(task / "base"), "--output", str(tmp_path / "m"), *args]
    assert script("fine_tune.py")(full) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "m").exists()


def test_a_profile_of_two_steps_is_not_taken_for_one(task, tmp_path, capsys):
    args = ["--checkpoint", str(task / "base"), "--train", str(task / "train.json"),
            "--output", str(tmp_path / "m"), "--profile", "squad-then-bioasq-cpu"]  # fmt: skip
    assert script("fine_tune.py")(args) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "one call trains on one file" in error
    assert not (tmp_path / "m").exists()


def test_bad_input_to_predict_is_one_line_and_leaves_nothing(task, tmp_path, capsys):
    out = tmp_path / "answers.json"
    base = ["--checkpoint", str(task / "base"), "--output", str(out), "--set", "max_length=48"]
    (tmp_path / "latin.json").write_bytes('{"questions": "é"}'.encode("latin-1"))
    for extra, message in [
        (["--input", str(tmp_path / "none.json")], "none.json"),
        (["--input", str(tmp_path / "latin.json")], "UTF-8"),
        (["--input", str(task / "test.json"), "--context", "abstract"], "abstracts"),
        (["--input", str(task / "test.json"), "--abstracts", "a.json"], "only with --context abst"),
        (
            ["--input", str(task / "train.json"), "--abstracts", "a.json", "--context", "abstract"],
            "train.json: a SQuAD file already has contexts",
        ),
    ]:
        assert script("predict.py")([*base, *extra]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
    assert not out.exists()


def test_a_folder_of_the_users_is_never_removed(task, tmp_path, capsys):
    for name, words in (
        ("training", "no training run (no plan.json)"),
        ("transformers", "not part of a saved"),
    ):
        own = tmp_path / name / name / "mine.txt"
        own.parent.mkdir(parents=True)
        own.write_text("mine")
        args = ["--checkpoint", str(task / "base"), "--train", str(task / "train.json")]
        assert script("fine_tune.py")([*args, "--output", str(tmp_path / name), *SETS]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert words in error
        assert own.read_text() == "mine"


def test_a_training_file_where_the_model_would_go_is_refused(task, tmp_path, capsys):
    train = tmp_path / "training" / "train.json"
    train.parent.mkdir()
    train.write_bytes((task / "train.json").read_bytes())
    args = ["--checkpoint", str(task / "base"), "--train", str(train), "--output", str(tmp_path)]
    assert script("fine_tune.py")([*args, *SETS]) == 2
    assert "choose a different --output" in capsys.readouterr().err
    assert train.is_file()


def test_no_script_writes_over_what_it_reads(task, tmp_path, capsys):
    copy = tmp_path / "test.json"
    copy.write_bytes((task / "test.json").read_bytes())
    base = ["--checkpoint", str(task / "base"), "--input", str(copy)]
    answers = tmp_path / "answers.json"
    answers.write_text('{"questions": []}')
    scoring = ["--gold", str(task / "golden.json"), "--answers", str(answers)]
    for name, args in [
        ("predict.py", [*base, "--output", str(copy)]),
        ("predict.py", [*base, "--output", str(tmp_path / "o"), "--nbest", str(copy)]),
        ("predict.py", [*base, "--output", str(tmp_path / "o"), "--nbest", str(tmp_path / "o")]),
        ("evaluate.py", [*scoring, "--json", str(answers)]),
        ("evaluate.py", [*scoring, "--json", str(task / "golden.json")]),
    ]:
        assert script(name)(args) == 2
        error = capsys.readouterr().err
        assert "would be overwritten" in error
        assert error.count("\n") == 1
    assert copy.read_bytes() == (task / "test.json").read_bytes()
    assert answers.read_text() == '{"questions": []}'


def test_a_question_without_text_gets_an_empty_answer_and_a_line(task, tmp_path, capsys):
    data = json.loads((task / "test.json").read_text())
    silent = data["questions"][0]
    silent["snippets"] = None
    source = io.write_json(tmp_path / "q.json", data)
    out = pipeline.predict_files(task / "base", source, tmp_path / "a.json", max_length=48)
    answers, _ = bioasq.read_answers(out)
    assert list(answers) == [item["id"] for item in data["questions"]]
    assert answers[silent["id"]] == []
    assert silent["id"] in capsys.readouterr().err
    for item in data["questions"]:
        item["snippets"] = []
    io.write_json(source, data)
    with pytest.raises(InputError, match="no question has a context"):
        pipeline.predict_files(task / "base", source, tmp_path / "a.json", max_length=48)


@pytest.mark.parametrize("name", ["predict.py", "fine_tune.py"])
def test_windows_longer_than_the_positions_are_one_line(task, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(convert, "convert", None)  # nothing is computed before that line
    monkeypatch.setattr(Reader, "windows", None)
    data = ["--train", task / "train.json"] if "tune" in name else ["--input", task / "test.json"]
    args = ["--checkpoint", task / "base", *data, "--output", tmp_path / "out"]
    assert script(name)([*map(str, args), "--set", "max_length=65"]) == 2
    said = "max_length: 65 is more than the 64 positions of this model; set max_length=64 or less"
    assert capsys.readouterr().err == f"{name}: {said}\n" and not (tmp_path / "out").exists()


def test_a_model_of_few_positions_is_converted_without_a_setting(task, tmp_path):
    out = pipeline.convert_checkpoint(task / "base", tmp_path / "out")
    assert (out / "tokenizer.json").is_file()


def test_a_golden_file_as_test_input_is_told(task, tmp_path, capsys):
    pipeline.predict_files(task / "base", task / "golden.json", tmp_path / "a.json", max_length=48)
    assert "it is a golden file" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["seed=1", "run=x", "profile=mini"])
def test_set_may_name_what_has_an_option_too(task, tmp_path, text):
    args = ["--checkpoint", str(task / "base"), "--train", str(task / "train.json"), "--output",
            str(tmp_path / "m"), *SETS, "--set", "epochs=1", "--set", text]  # fmt: skip
    assert script("fine_tune.py")(args) == 0


def test_training_on_a_test_question_is_refused_unless_allowed(task, tmp_path, capsys):
    base = ["--checkpoint", str(task / "base"), "--train", str(task / "train.json"), "--output",
            str(tmp_path / "m"), *SETS, "--set", "epochs=1"]  # fmt: skip
    own = tmp_path / "own"
    own.mkdir()
    (own / "7B1_golden.json").write_bytes((task / "golden.json").read_bytes())
    for known in (["--against", str(task / "test.json")], ["--set", f"bioasq_dir={own}"]):
        assert script("fine_tune.py")([*base, *known]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "4 by same id" in error and "allow_leak=true" in error
        assert not (tmp_path / "m").exists()
    allowed = ["--against", str(task / "test.json"), "--set", "allow_leak=true"]
    assert script("fine_tune.py")([*base, *allowed]) == 0
    assert "allowed by allow_leak" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["history.csv", "plan.json", "last.ckpt"])
def test_resuming_from_a_damaged_file_is_one_line(task, tmp_path, capsys, name):
    args = ["--checkpoint", str(task / "base"), "--train", str(task / "train.json"), "--output",
            str(tmp_path / "m"), *SETS, "--set", "epochs=1"]  # fmt: skip
    assert script("fine_tune.py")([*args, "--resume"]) == 0  # nothing to resume: it begins
    (tmp_path / "m" / "training" / name).write_bytes(b"\x80\x00 no such thing")
    capsys.readouterr()
    assert script("fine_tune.py")([*args, "--resume"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"training/{name}: damaged" in error and "delete" in error
    assert script("fine_tune.py")(args) == 0  # anew


def test_wandb_online_without_a_key_is_one_line(task, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")  # put back afterwards
    args = ["--checkpoint", str(task / "base"), "--train", str(task / "train.json"), "--output",
            str(tmp_path / "m"), *SETS, "--set", "wandb_mode=online"]  # fmt: skip
    assert script("fine_tune.py")(args) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "wandb_mode=online: no API key" in error
    assert not (tmp_path / "m").exists()


def test_a_training_question_in_the_file_held_out_is_refused_unless_allowed(task, tmp_path, capsys):
    first, second, *_ = tiny_examples(90)
    base = ["--checkpoint", "nosuch", "--train", str(task / "train.json"), "--output",
            str(tmp_path / "m"), *SETS, "--dev"]  # fmt: skip

    def said(name, example, *more):
        dev = squad.write_squad(tmp_path / f"{name}.json", [example])
        assert script("fine_tune.py")([*base, str(dev), *more]) == 2
        return capsys.readouterr().err.replace(str(tmp_path), "").splitlines()

    text = replace(first, id="f_001", question_id="f", question="Which GENE")
    same_id = replace(first, context="x " + second.context, spans=(Span(0, 1, "x"),))
    for name, example in (("text", text), ("id", same_id)):
        (line,) = said(name, example)
        assert f"/{name}.json: repeats questions from {task}/train.json with" in line, line
        assert f"1 question ('{example.id}'); the first: '{example.question}'" in line
        assert "remove them" in line and "allow_leak=true" in line
        remark, stop = said(name, example, "--set", "allow_leak=true")
        assert remark.endswith("allowed by allow_leak") and "nosuch" in stop
    remark, stop = said("wording", replace(same_id, id="f_001", question_id="f"))
    assert (
        "1 question ('f_001'); they are kept, so please check them" in remark and "nosuch" in stop
    )
    (stop,) = said("other", replace(same_id, question="where ?"))  # numbered alike, by chance
    assert "nosuch" in stop


def test_repairs_are_told(task, tmp_path, capsys):
    rows = json.loads((task / "train.json").read_text())
    answer = rows["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]
    answer["answer_start"] -= 1
    path = io.write_json(tmp_path / "train.json", rows)
    told = f"{path}: field 'answer_start' points to whitespace before the answer; we skip it: 1"
    for option in (["--train", str(path)], ["--train", str(task / "train.json"), "--dev", str(path),
                   "--set", "allow_leak=true"]):  # fmt: skip
        args = ["--checkpoint", "nosuch", *option, "--output", str(tmp_path / "m"), *SETS]
        assert script("fine_tune.py")(args) == 2
        assert capsys.readouterr().err.startswith(told)
    pipeline.predict_files(task / "base", path, tmp_path / "a.json", max_length=48)
    assert told in capsys.readouterr().err
    data = json.loads((task / "test.json").read_text())
    data["questions"].append(data["questions"][0])
    path = io.write_json(tmp_path / "test.json", data)
    pipeline.predict_files(task / "base", path, tmp_path / "a.json", max_length=48)
    assert f"{path}: the same question occurs twice" in capsys.readouterr().err


def test_no_file_of_a_stage_shares_a_name_with_a_setting():
    """``--set nbest=5`` once collided with the argument for the n-best file."""
    shared = {"profile", "overrides"} | {field.name for field in fields(Settings)}
    for stage in (pipeline.fine_tune_files, pipeline.predict_files):
        assert not shared & signature(stage).parameters.keys()
