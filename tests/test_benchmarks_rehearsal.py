"""The rehearsal of the reproduction: its files, its SIGKILL, and all of it with a tiny model."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import rehearsal

from helpers.config import from_parameters
from helpers.model import checkpoints
from helpers.run.stages import convert_run, find_run_files


@pytest.fixture(scope="module")
def standins(tmp_path_factory):
    """The settings of a run on stand-ins for the checkpoint and the BioASQ files."""
    folder = tmp_path_factory.mktemp("rehearsal")
    rehearsal.write_checkpoint(folder / "checkpoint", 2, 64)
    rehearsal.write_bioasq(folder / "bioasq")
    changed = " ".join(rehearsal.settings(folder, 2))
    return from_parameters(rehearsal.PROFILE, changed, bioasq_dir=str(folder / "bioasq"))


def test_the_files_are_read_as_edition_7b_with_abstracts(standins):
    converted = convert_run(find_run_files(standins), standins)
    assert converted.files.batches == ("7B1", "7B2", "7B3", "7B4", "7B5")
    assert not converted.files.enriched and not converted.files.ignored
    assert standins.context == "abstract" and not converted.drops and not converted.leaks
    assert len(converted.train) == rehearsal.TRAIN
    assert [len(batch.examples) for batch in converted.batches] == 5 * [rehearsal.TESTS]
    assert all(batch.ceiling == (rehearsal.TESTS,) * 2 for batch in converted.batches)


def test_the_checkpoint_gives_short_windows_of_real_tokens(standins):
    reader = checkpoints.load(standins.model, standins)
    assert not reader.fresh_head and reader.model.config.norm_first
    assert reader.origin["qkv"]["order"] == "0" and reader.origin["format"] == "Megatron"
    windows = reader.windows(
        list(convert_run(find_run_files(standins), standins).train), training=True
    )
    assert len(windows) == rehearsal.TRAIN and max(windows.lengths) <= 100
    tokens = Counter(reader.vocab[n] for n in windows.ids)
    assert not tokens["[UNK]"] and len(tokens) > 100


def test_kill_reaches_a_process_in_another_group(tmp_path):
    program = (
        "import subprocess, sys, time\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "print(subprocess.Popen(sleep, start_new_session=True).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        rehearsal.kill(psutil.Process(parent.pid))
        assert parent.wait() == -9
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_training_that_started_again_is_noticed(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "training").mkdir()
    rows = ["step,loss,learning_rate,seconds", "1,3.5,1e-6,0.1", "2,3.4,1e-6,0.2"]
    history = tmp_path / "training" / "history.csv"

    def resumed(ran, seconds):
        said = {"text": [f"This call ran {ran} of 3 steps."]}
        cells = {"cells": [{"outputs": [said]}]}
        (tmp_path / "notebooks" / "03_fine_tune.ipynb").write_text(json.dumps(cells))
        history.write_text("\n".join([*rows[:2], f"2,3.4,1e-6,{seconds}", "3,3.3,0.0,0.3", ""]))
        return rehearsal.check_resumed(tmp_path, rows)

    assert resumed(2, 0.9) == {"steps": 3, "before": 1, "logged_when_killed": 2}
    assert resumed(1, 0.2)["before"] == 2
    with pytest.raises(SystemExit, match="ran 3 of 3 steps"):
        resumed(3, 0.2)
    with pytest.raises(SystemExit, match=r"history\.csv does not continue"):
        resumed(1, 0.9)


@pytest.mark.fault("SIGKILL of make seeds")
@pytest.mark.long
def test_a_killed_reproduction_continues_and_gives_verdicts(tmp_path, capsys):
    report = tmp_path / "rehearsal.json"
    started = time.monotonic()
    arguments = ["--layers", "2", "--hidden", "64", "--epochs", "60", "--seeds", "0"]
    assert rehearsal.main([*arguments, "--json", str(report)]) == 0
    found = json.loads(report.read_text())
    assert 12 <= found["resumed"]["before"] < found["resumed"]["steps"] == 120
    assert "not comparable" in found["verdicts"] and "sacc" in found["spread"]
    usage = found["memory_and_disk"]
    assert usage["rss"] >= usage["pss"] > 200e6 and usage["disk"] > found["weights"] * 20
    assert 0 < sum(found["minutes"].values()) <= (time.monotonic() - started) / 60
    assert found["verdicts"] in capsys.readouterr().out
