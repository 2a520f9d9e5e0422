"""Text files: what is not UTF-8 is named; written whole or not at all, and never over a device."""

import bz2
import gzip
import json
import lzma
import os
import shutil
import subprocess
import sys

import pytest

from helpers.config import InputError
from helpers.data.bioasq import read_json, read_questions
from helpers.io import (
    all_or_none,
    check_outputs,
    progress_stream,
    read_text,
    write_json,
    write_text,
)

TEXT = '{"a": "TNF-α “x”"}'


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (TEXT.encode("utf-16"), "is in UTF-16, not UTF-8; convert it with iconv -f UTF-16 -t"),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "iconv -f UTF-16 -t"),
        (TEXT.encode("utf-16-le"), "iconv -f UTF-16LE -t"),
        (TEXT.encode("utf-16-be"), "iconv -f UTF-16BE -t"),
        (TEXT.encode("utf-32"), "iconv -f UTF-32 -t"),
        (TEXT.encode("utf-32-le"), "iconv -f UTF-32LE -t"),
        (TEXT.encode("utf-32-be"), "iconv -f UTF-32BE -t"),
        ("ab\n“é”".encode("cp1252"), "line 2, byte 3); if 'ab\\n“é”' looks right"),
        (b"caf\xe9 \x81", "save it as UTF-8 in the program that wrote it"),
        ("α".encode() + b" caf\xe9 x", "is only partly UTF-8 (line 1, byte 6 is damaged"),
        ("abα".encode()[:-1], "ends in the middle of a character (line 1, byte 2)"),
        (gzip.compress(TEXT.encode()), "is a gzip file, not text; unpack it with gunzip"),
        (bz2.compress(TEXT.encode()), "is a bzip2 file"),
        (lzma.compress(TEXT.encode()), "is an xz file"),
        (b"PK\x03\x04...", "is a zip file, not text; unpack it with unzip"),
        (b"PAR1...", "is a Parquet file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "is a web page, perhaps a login page"),
    ],
)
def test_what_is_not_utf8_text_is_named_with_its_remedy(tmp_path, raw, words):
    path = tmp_path / "f.json"
    path.write_bytes(raw)
    with pytest.raises(InputError) as caught:
        read_text(path)
    assert words in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not shutil.which("iconv"), reason="no iconv on this machine")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-32-be", "cp1252"])
def test_the_advised_command_gives_the_text(tmp_path, encoding):
    text = TEXT.replace("α", "é") if encoding == "cp1252" else TEXT
    path, new = tmp_path / "f.json", tmp_path / "new.json"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(InputError) as caught:
        read_text(path)
    _, _, command = str(caught.value).partition("iconv")
    command = f"iconv{command}".replace("FILE", str(path)).replace("NEW.json", str(new))
    subprocess.run(command, shell=True, check=True)
    assert read_text(new) == text


def test_a_mark_at_the_start_is_no_part_of_the_text(tmp_path):
    (tmp_path / "f.json").write_bytes(TEXT.encode("utf-8-sig"))
    assert read_text(tmp_path / "f.json") == TEXT


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "f.json").write_bytes(b" \n")
    with pytest.raises(InputError, match=r"f\.json: is empty"):
        read_json(tmp_path / "f.json")


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a": ', '{"a": 1} x', '{"a": 1}\n[2]', "1\n2"])
def test_only_whole_json_lines_of_objects_are_read(tmp_path, text):
    (tmp_path / "f.json").write_text('{"a": 1}\n\n{"b": 2}\n')
    assert read_json(tmp_path / "f.json") == [{"a": 1}, {"b": 2}]
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(InputError, match="not JSON"):
        read_json(tmp_path / "f.json")


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
    with pytest.raises(InputError, match=r"half\.json: contains an unpaired surrogate") as error:
        read_json(path)
    assert "\n" not in str(error.value)
    path.write_text('{"body": "\\ud83d\\ude00 fine"}')
    assert read_json(path) == {"body": "😀 fine"}


def test_an_unknown_question_type_is_not_skipped_in_silence(tmp_path):
    item = {"id": "a1", "type": "factiod", "body": "which?", "snippets": []}
    path = write_json(tmp_path / "q.json", {"questions": [item]})
    with pytest.raises(InputError, match="'a1': field 'type' is 'factiod'"):
        read_questions(path)


@pytest.mark.fault("a failure while several files are written")
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


def test_progress_goes_to_standard_output_only_in_a_notebook(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel.kernelapp", raising=False)
    assert progress_stream() is sys.stderr
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", object())
    assert progress_stream() is sys.stdout
