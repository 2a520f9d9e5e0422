"""The SLURM script, with a stand-in for sbatch and a make that only notes what it was asked for."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import batch
from helpers.config import from_parameters
from helpers.sweeps import notebooks

ROOT = Path(__file__).parents[1]
SCRIPT = "docs/slurm/seeds.sbatch"


@pytest.fixture
def submit(tmp_path):
    """Submit the script from a folder like a clone; return the status and what make was told."""
    clone, tools = tmp_path / "a clone", tmp_path / "bin"
    (clone / "docs/slurm").mkdir(parents=True)
    tools.mkdir()
    shutil.copy(ROOT / SCRIPT, clone / SCRIPT)
    make = tools / "make"
    make.write_text('#!/bin/bash\nprintf "%q " "$@" >> calls; echo >> calls\n')
    make.chmod(0o755)

    def run(*words, **variables):
        path = {"PATH": f"{tools}:{os.environ['PATH']}", **variables}
        command = [sys.executable, str(Path(__file__).with_name("sbatch.py")), *words]
        done = subprocess.run(command, cwd=clone, env=os.environ | path)
        calls = clone / "calls"
        return done.returncode, calls.read_text().splitlines() if calls.exists() else []

    return run


@pytest.fixture
def settings_of(monkeypatch):
    """The settings that the real Makefile and command line make of make's arguments."""

    def read(call):
        shown = subprocess.run(
            ["make", "-n", *shlex.split(call)], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        line = next(line for line in shown if "helpers.batch run" in line)
        found = []
        monkeypatch.setattr(notebooks, "run", lambda parameters, **_: found.append(parameters))
        assert batch.main(shlex.split(line.partition("helpers.batch ")[2])) == 0
        return from_parameters(**found[0])

    return read


def test_an_array_trains_one_seed_per_task_under_the_name_that_make_seeds_expects(
    submit, settings_of
):
    code, calls = submit(SCRIPT, "/data/my bioasq")
    assert code == 0 and len(calls) == 3
    for seed, call in enumerate(calls):
        found = settings_of(call)
        assert (found.profile, found.seed, found.device) == ("biomegatron", seed, "cuda")
        assert found.bioasq_dir == "/data/my bioasq"
        assert (found.runs_dir, found.run) == ("runs/biomegatron-seeds", f"seed-{seed}")


def test_a_single_job_and_other_settings(submit, settings_of):
    code, calls = submit(
        "--array=5", SCRIPT, "/data", PROFILE="bioasq-cpu", SET="precision=bf16", RUN="half"
    )
    assert code == 0 and len(calls) == 1
    found = settings_of(calls[0])
    assert (found.profile, found.seed, found.precision) == ("bioasq-cpu", 5, "bf16")
    assert (found.runs_dir, found.run) == ("runs/half", "seed-5")


def test_a_missing_folder_stops_the_job(submit):
    assert submit(SCRIPT) == (1, [])


def test_an_array_runs_each_run_of_a_sweep_once(submit, tmp_path):
    clone = tmp_path / "a clone"
    shutil.copy(ROOT / "docs/slurm/sweep.sbatch", clone / "docs/slurm")
    python = clone / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\nprintf "%q " "$@" >> calls; echo >> calls\n')
    python.chmod(0o755)
    code, calls = submit("--array=0-2", "docs/slurm/sweep.sbatch", "my sweep.yaml")
    assert code == 0
    words = ["-m", "helpers.batch", "sweep", "my sweep.yaml", "--only"]
    assert sorted(shlex.split(call) for call in calls) == [[*words, str(n)] for n in range(3)]
    assert submit("--array=0-2", "docs/slurm/sweep.sbatch")[0] == 1
