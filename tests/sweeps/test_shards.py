"""Answers to a folder of files: each question once, whatever dies, and the same as in one call."""

import json
import random
import subprocess
import sys
import time

import psutil
import pyarrow
import pyarrow.parquet
import pytest
from here import Here
from tiny import tiny_examples, tiny_folder

from helpers import batch
from helpers.config import InputError, from_parameters
from helpers.model import checkpoints
from helpers.model.decoding import rank_answers
from helpers.sweeps import engine, shards

SETTINGS = from_parameters("mini", max_length=48)
NAMES = ("id", "question", "context")


def write(folder, count, files, seed=0):
    """Write ``count`` pairs, three per question, in files of both kinds; return the rows."""
    folder.mkdir(parents=True)
    examples = tiny_examples(count, seed)
    rows = [dict(zip(NAMES, (e.question_id, e.question, e.context), strict=True)) for e in examples]
    size = -(-count // files // 3) * 3
    for n, start in enumerate(range(0, count, size)):
        part = rows[start : start + size]
        if n % 2:
            table = pyarrow.Table.from_pylist(part)
            pyarrow.parquet.write_table(table, folder / f"{n:03d}.parquet")
        else:
            lines = "".join(json.dumps(row) + "\n" for row in part)
            (folder / f"{n:03d}.jsonl").write_text(lines)
    return examples


def answer(source, output, model, **changes):
    lines = []
    settings = from_parameters("mini", max_length=48, **changes)
    totals = shards.predict_shards(
        model, source, output, settings, Here(), engine.Share(1), say=lines.append
    )
    return totals, lines


def read(output):
    return [json.loads(line) for path in sorted(output.glob("*.jsonl"))
            for line in path.read_text().splitlines()]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model") / "m", 1)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(shards, "_ROWS", 20)
    shards._reader.cache_clear()


def test_shards_have_the_answers_of_one_call(tmp_path, model):
    examples = write(tmp_path / "in", 150, 4)
    totals, lines = answer(tmp_path / "in", tmp_path / "out", model)
    assert totals == {"questions": 50, "pairs": 150, "files": 4}
    assert lines[0] == "4 files, 0 of them answered earlier" and len(lines) == 5
    reader = checkpoints.load(model, SETTINGS)
    expected = rank_answers(examples, reader.predict(examples, progress=False))
    found = {row["id"]: row["answers"] for row in read(tmp_path / "out")}
    assert list(found) == list(expected)
    for name, ranked in expected.items():
        assert [text for text, _ in found[name]] == [text for text, _ in ranked]
        assert [s for _, s in found[name]] == pytest.approx([s for _, s in ranked], rel=1e-5)


def test_only_what_has_changed_is_answered_again(tmp_path, model):
    source, output = tmp_path / "in", tmp_path / "out"
    write(source, 60, 4)
    answer(source, output, model)
    (output / ".000.jsonl.1.part").write_text("left by a worker that was killed")
    assert answer(source, output, model)[1] == ["4 files, 4 of them answered earlier"]
    assert not list(output.glob(".*.part"))
    (output / "000.jsonl").write_text("damaged")
    (source / "002.jsonl").write_text((source / "002.jsonl").read_text() + "\n")
    (output / ".001.jsonl.json").write_text("not JSON")
    assert answer(source, output, model)[1][0] == "4 files, 1 of them answered earlier"
    assert answer(source, output, model, merge="max")[1][0] == "4 files, 0 of them answered earlier"
    assert len(read(output)) == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "a", "question": "q"}', "row 1 has no text in the field 'context'"),
        ('{"id": 1, "question": "q", "context": "c"}', "row 1 has no text in the field 'id'"),
        ("[1]", "row 1 has no text in the field 'id'"),
        ("\n{", "line 2 is not JSON in UTF-8"),
        ("[" * 200_000, "line 1 is not JSON in UTF-8"),
        (b'{"id": "\xff"}', "line 1 is not JSON in UTF-8"),
    ],
)
def test_a_bad_row_is_named_and_the_other_files_are_answered(text, message, tmp_path, model):
    source, output = tmp_path / "in", tmp_path / "out"
    write(source, 6, 1)
    (source / "bad.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message) as error:
        answer(source, output, model)
    assert "bad.jsonl" in str(error.value)
    assert [p.name for p in output.glob("*.jsonl")] == ["000.jsonl"]
    assert not list(output.glob(".*.part"))


def test_a_question_in_two_places_is_refused(tmp_path, model):
    row = json.dumps(dict.fromkeys(NAMES, "gene")) + "\n"
    other = json.dumps(dict.fromkeys(NAMES, "which")) + "\n"
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.jsonl").write_text(row + other + row)
    with pytest.raises(InputError, match="rows of question 'gene' are not consecutive"):
        answer(source, tmp_path / "out", model)
    (source / "a.jsonl").write_text(row)
    (source / "b.jsonl").write_text(row)
    with pytest.raises(InputError, match="b.jsonl: question 'gene' is also in a.jsonl"):
        answer(source, tmp_path / "out", model)


def test_a_folder_without_shards_is_one_line(tmp_path, model, capsys):
    (tmp_path / "x.parquet").write_text("no Parquet")
    (tmp_path / "empty").mkdir()
    for source, message in [("none", "no such folder"), ("empty", "has no .jsonl")]:
        words = ["predict", str(model), str(tmp_path / source), str(tmp_path / "out")]
        assert batch.main(words) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    with pytest.raises(InputError, match="is not a readable Parquet file"):
        answer(tmp_path, tmp_path / "out", model)


@pytest.mark.fault("SIGKILL of a worker in prediction")
@pytest.mark.long
def test_20000_pairs_with_two_workers_one_of_which_is_killed(tmp_path, model):
    random.seed(0)
    examples = write(tmp_path / "in", 20_001, 10)
    command = [sys.executable, "-m", "helpers.batch", "predict", str(model), str(tmp_path / "in"),
               str(tmp_path / "out"), "--jobs", "2", "--set", "max_length=48"]  # fmt: skip
    log = tmp_path / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    killed, memory = False, []  # memory: (finished files, bytes of the largest worker)
    while process.poll() is None:
        done = len(list((tmp_path / "out").glob("*.jsonl"))) if (tmp_path / "out").exists() else 0
        workers = []
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if "spawn_main" in " ".join(child.cmdline()):
                    workers.append((child.memory_info().rss, child))
            except psutil.Error:
                continue
        if done and workers:
            memory.append((done, max(size for size, _ in workers)))
        if done >= 2 and not killed:
            min(workers, key=lambda w: w[1].pid)[1].kill()
            killed = True
        time.sleep(0.2)
    assert process.returncode == 0 and killed, log.read_text()
    assert "Traceback" not in log.read_text()
    assert "6667 questions, 20001 pairs, 10 files" in log.read_text()
    found = [row["id"] for row in read(tmp_path / "out")]
    assert len(found) == len(set(found)) == 6667
    assert set(found) == {example.question_id for example in examples}
    early = max(size for done, size in memory if done <= 3)
    late = max(size for done, size in memory if done >= 8)
    assert late < 1.2 * early, memory
