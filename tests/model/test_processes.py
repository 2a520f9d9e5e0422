"""Several processes train and predict as one does; gloo on a CPU stands in for several GPUs."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_examples, tiny_reader

from helpers.config import InputError
from helpers.model import decoding, processes, training
from helpers.model.compute import Compute
from helpers.model.features import split_batch

PROGRAM = Path(__file__).parents[1] / "together.py"


def launch(count, folder, accumulate=1, pause=0.0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), str(PROGRAM)]
    command = [sys.executable, str(PROGRAM)] if count == 1 else command
    return subprocess.Popen(
        [*command, str(folder), str(accumulate), str(pause)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip


def result(folder):
    before, losses = json.loads((folder / "history.json").read_text())
    return before, np.asarray(losses), torch.load(folder / "state.pt", weights_only=True)


def assert_equal(folder, expected):
    _, losses, state = result(folder)
    assert len(losses) == len(expected[1]) == 18
    assert np.abs(losses - expected[1]).max() < 1e-10
    assert max((state[name] - tensor).abs().max() for name, tensor in expected[2].items()) < 1e-10


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses and weights of one process; 21 windows make batches of 4 and one of 1."""
    folder = tmp_path_factory.mktemp("alone") / "t"
    assert launch(1, folder).wait() == 0
    return result(folder)


def test_two_processes_train_as_one(tmp_path, alone):
    assert launch(2, tmp_path / "t").wait() == 0
    assert_equal(tmp_path / "t", alone)


def test_parts_one_after_another_train_as_one_batch(tmp_path, alone):
    assert launch(1, tmp_path / "t", accumulate=3).wait() == 0
    assert_equal(tmp_path / "t", alone)


@pytest.mark.fault("SIGKILL of one of three training processes")
def test_three_processes_of_which_one_was_killed_train_as_one(tmp_path, alone):
    folder = tmp_path / "t"
    process = launch(3, folder, accumulate=2, pause=0.2)
    deadline = time.monotonic() + 300
    while not (folder / "last.ckpt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.0)  # steps after the checkpoint, which are taken again
    os.kill(int((folder / "pid-1").read_text()), signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    assert not (folder / "state.pt").exists()
    assert launch(3, folder, accumulate=2).wait() == 0
    assert 0 < result(folder)[0] < 18
    assert_equal(folder, alone)


def test_fine_tune_and_predict_on_two_devices(tmp_path, monkeypatch, capsys):
    """The whole way: job, launcher, workers, results; float32, so the last bits may differ."""
    one, two = tiny_reader(1), tiny_reader(1, devices=2)
    two = replace(two, compute=Compute(devices=2))
    examples = tiny_examples(21)
    expected = training.fine_tune(one, examples, tmp_path / "one", dev=examples, progress=False)
    found = training.fine_tune(two, examples, tmp_path / "two", dev=examples)
    for ours, theirs in zip(found.dev, expected.dev, strict=True):
        assert {**ours, "seconds": 0} == pytest.approx({**theirs, "seconds": 0}, abs=1e-4)
    assert [row[0] for row in found.history] == [row[0] for row in expected.history]
    losses = [[row[1] for row in done.history] for done in (found, expected)]
    assert np.allclose(*losses, atol=1e-5)
    windows = one.windows(examples)
    logits = [decoding.compute_logits(reader.model, windows) for reader in (one, two)]
    # A constant added to all logits changes no softmax, so rounding alone decides its gradient.
    assert np.allclose(*(each - each.mean(0) for each in logits), atol=1e-3)
    assert "training: 100%" in "".join(capsys.readouterr())
    assert not list((tmp_path / "two").glob(".job-*"))
    monkeypatch.setattr(decoding, "_WORTH_STARTING", 2)
    answers = [[c.text for c in best] for best in two.predict(examples)]
    assert answers == [[c.text for c in best] for best in one.predict(examples)]
    assert "predicting on 2 devices" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["line", "killed"])
def test_a_process_that_fails_is_one_line(tmp_path, monkeypatch, how):
    reader = replace(tiny_reader(1, devices=2), compute=Compute(devices=2))

    def launch(job, log, compute, show):
        if how == "line":
            processes.report_error(job, InputError("devices: no such thing"))
        log.write_text("rank 1\n  traceback : Signal 9 (SIGKILL) received by PID 7\n")
        return 1

    monkeypatch.setattr(processes, "_launch", launch)
    words = {
        "line": "^devices: no such thing$",
        "killed": r"stopped \(Signal 9 \(SIGKILL\) received\); see .*processes.log",
    }
    with pytest.raises(InputError, match=words[how]):
        training.fine_tune(reader, tiny_examples(8), tmp_path / "t", progress=False)
    assert not list((tmp_path / "t").glob(".job-*"))


@given(st.lists(st.integers(2, 384), min_size=1, max_size=40), st.integers(1, 9))
def test_a_batch_is_split_evenly_and_each_window_counts_once(lengths, parts):
    rows = list(range(len(lengths)))
    split = split_batch(rows, lengths, parts)
    assert len(split) == parts
    counted = [row for own, share in split if share for row in own]
    assert sorted(counted) == rows
    assert sum(share for _, share in split) == pytest.approx(1)
    assert all(own == sorted(own) and own for own, _ in split)
    tokens = [sum(lengths[row] for row in own) if share else 0 for own, share in split]
    assert max(tokens) - min(tokens) <= max(lengths)
