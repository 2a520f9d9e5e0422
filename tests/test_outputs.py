"""Writing: whole or not at all, and never over a device, an input or somebody's folder."""

import json
import os

import pytest

from helpers.bioasq import read_json, read_questions
from helpers.config import InputError
from helpers.outputs import all_or_none, check_outputs, write_json, write_text


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_json(tmp_path / "link.json", {"a": "α"})
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text(encoding="utf-8")) == {"a": "α"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_special_file_is_refused_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # stands for any device: as root, nothing else protects those
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(InputError, match="special file"):
            write_text(tmp_path / name, "x")
        with pytest.raises(InputError, match="special file"):
            check_outputs([tmp_path / name])
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


def test_outputs_that_cannot_be_are_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("x")
    for bad, words in [
        (tmp_path, "Is a directory"),
        ("", "name is empty"),
        (".", "Is a directory"),
        ("/", "Is a directory"),
        (tmp_path / "file" / "out.json", "is a file"),
        (tmp_path / "file" / "deep" / "out.json", "is a file"),
    ]:
        with pytest.raises(InputError, match=words) as error:
            check_outputs([bad])
        assert "\n" not in str(error.value)
    check_outputs([tmp_path / "new" / "folder" / "out.json", None])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_an_output_is_neither_an_input_nor_another_output(tmp_path):
    source, link = tmp_path / "in.json", tmp_path / "link.json"
    source.write_text("{}")
    link.symlink_to("in.json")
    for outputs, inputs in [
        ([source], [source]),
        ([link], [source]),
        ([tmp_path / "a.json", tmp_path / "b" / ".." / "a.json"], []),
    ]:
        with pytest.raises(InputError, match="would be overwritten"):
            check_outputs(outputs, inputs)


def test_half_a_character_is_named_with_its_file_and_line(tmp_path):
    path = tmp_path / "half.json"
    path.write_text('{"questions": [\n{"body": "\\ud83d\\ude00 fine"},\n{"body": "\\ud800"}]}')
    with pytest.raises(InputError, match=r"half\.json: holds half a character") as error:
        read_json(path)
    assert "\n" not in str(error.value)
    path.write_text('{"body": "\\ud83d\\ude00 fine"}')
    assert read_json(path) == {"body": "😀 fine"}


def test_an_unknown_question_type_is_not_skipped_in_silence(tmp_path):
    item = {"id": "a1", "type": "factiod", "body": "which?", "snippets": []}
    path = write_json(tmp_path / "q.json", {"questions": [item]})
    with pytest.raises(InputError, match="'a1': field 'type' is 'factiod'"):
        read_questions(path)


def test_all_or_none_of_several_files(tmp_path):
    old = tmp_path / "a.txt"
    old.write_text("old")
    with pytest.raises(InputError), all_or_none():
        write_text(old, "new")
        write_text(tmp_path / "b" / "b.txt", "new")
        assert old.read_text() == "old"
        write_text(tmp_path / "c.txt", "\ud800")
    assert old.read_text() == "old"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.txt"]
    with all_or_none():
        write_text(old, "new")
        write_text(tmp_path / "c.txt", "new")
    assert old.read_text() == "new" == (tmp_path / "c.txt").read_text()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "b", "c.txt"]


def test_a_name_that_is_too_long_is_one_line(tmp_path):
    for length in (249, 300):
        with pytest.raises(InputError, match="cannot be written"):
            write_text(tmp_path / ("o" * length), "x")
    assert not list(tmp_path.iterdir())
