"""A short run of fuzz.py, and all inputs that it ever kept."""

import json
import random

import fuzz
import pytest

INPUTS = 200  # for each reader; python tests/fuzz.py tries 1,000,000


@pytest.mark.fault("damaged input files, made at random")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_damaged_files_are_accepted_or_refused_in_one_line(
    name, monkeypatch, tmp_path, record_property
):
    record_property("tries", INPUTS)
    monkeypatch.setattr(fuzz, "KEPT", tmp_path / "kept")
    counted = fuzz.fuzz(name, INPUTS, seed=1)
    assert counted["failed"] == 0, counted
    assert counted["refused"] > INPUTS / 10 and counted["accepted"] > 0


@pytest.mark.fault("damaged input files that once failed")
@pytest.mark.parametrize("path", sorted(fuzz.KEPT.glob("*")), ids=lambda path: path.name)
def test_inputs_that_once_failed(path, tmp_path):
    name = path.name.rpartition("-")[0]
    assert fuzz.attempt(name, path.read_bytes(), tmp_path) in ("accepted", "refused")


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_the_first_valid_input_of_each_reader_is_accepted(name, tmp_path):
    seed = fuzz.TARGETS[name][2][0]
    data = seed if isinstance(seed, bytes) else json.dumps(seed).encode()
    assert fuzz.attempt(name, data, tmp_path) == "accepted"


def test_what_fails_is_named_and_kept(monkeypatch, tmp_path, capsys):
    def read(path):
        if b"x" in path.read_bytes():
            raise KeyError("lost")

    monkeypatch.setattr(fuzz, "KEPT", tmp_path / "kept")
    monkeypatch.setitem(fuzz.TARGETS, "bad", (read, "f", [b"ax"]))
    counted = fuzz.fuzz("bad", 50, seed=0)
    assert counted["failed"] == counted["KeyError: 'lost'"] > 0 < counted["accepted"]
    (kept,) = (tmp_path / "kept").iterdir()
    assert b"x" in kept.read_bytes() and f"{kept.name}: KeyError" in capsys.readouterr().out
    assert fuzz.attempt("bad", kept.read_bytes(), tmp_path) == "KeyError: 'lost'"


def test_every_input_differs_a_little_from_a_valid_one():
    made = [fuzz.made(fuzz.QUESTIONS, random.Random(number)) for number in range(50)]
    assert len(set(made)) > 45
    assert sum(b"infliximab" in data for data in made) > 25
