"""A whole run that is killed again and again, and disks without room: nothing half-done counts."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pytest
from safetensors import safe_open

from helpers import batch
from helpers.io import sha256

KILLS, SEED = 30, 0
SHORTEST, LONGEST = 2, 25  # seconds until the next kill
REPORT = 8  # seconds after the last notebook, in which the report is written
LONG = pytest.mark.long
ENDING = 30  # seconds that the kernel of a killed command may take to notice


def command(runs, name, *more):
    words = ["run", "--run", name, "--set", f"runs_dir={runs}", *more]
    return [sys.executable, "-m", "helpers.batch", *words]


def of_this_test(place):
    """The processes whose temporary folder is that of this test, except for this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(place) and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def check_whole(folder: Path) -> None:
    """Every file under a final name is complete, and the manifest states its hash."""
    if not (folder / "manifest.json").exists():
        return
    known = json.loads((folder / "manifest.json").read_text())["files"]
    for name, entry in known.items():
        path = folder / name
        assert not path.exists() or sha256(path) == entry["sha256"], name
    for path in folder.rglob("*"):
        inner = path.relative_to(folder).parts
        if not path.is_file() or any(part.startswith(".") for part in inner) or "wandb" in inner:
            continue
        if path.suffix in (".json", ".ipynb"):
            json.loads(path.read_text())
        elif path.suffix == ".nemo":
            with tarfile.open(path) as archive:
                assert archive.getnames(), path
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as weights:
                assert list(weights.keys()), path


def wait_for_notebook(process, log: Path) -> str:
    """Wait until the command says that a notebook is done; return its number, "" at the end."""
    while process.poll() is None:
        if found := re.search(r"\] (\d\d)_\w+: \d+ s", log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.2)
    return ""


@pytest.mark.fault("SIGKILL or SIGTERM of a whole run")
@LONG
def test_thirty_kills_at_random_moments_change_nothing(tmp_path, short_path, record_property):
    record_property("tries", KILLS)
    place, runs = short_path, tmp_path / "runs"
    environment = {**os.environ, "TMPDIR": str(place)}
    subprocess.run(command(runs, "whole"), env=environment, check=True, capture_output=True)
    rng, rows, finished, whole = random.Random(SEED), [], 0, False
    for number in range(KILLS):
        chosen = rng.choice([signal.SIGKILL, signal.SIGTERM])
        more = ["--fresh"] if whole else []  # a finished run is replaced
        log = tmp_path / f"{number}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command(runs, "killed", *more), env=environment, stdout=file, stderr=file
            )
        # Every second try waits for the end of a notebook, so that the kills reach all notebooks.
        done = wait_for_notebook(process, log) if number % 2 else ""
        pause = rng.uniform(0, REPORT) if done.startswith("05") else rng.uniform(SHORTEST, LONGEST)
        try:
            process.wait(pause)
        except subprocess.TimeoutExpired:
            process.send_signal(chosen)
            process.wait()
        whole = process.returncode == 0
        finished += whole
        ended = time.monotonic() + ENDING
        while of_this_test(place) and time.monotonic() < ended:
            time.sleep(0.5)
        assert of_this_test(place) == [], f"{chosen.name} after {pause:.1f} s left a process"
        check_whole(runs / "killed")
        since = f"after {pause:4.1f} s" + (f" more than notebook {done}" if done else "")
        rows.append(f"{number + 1:2d}  {chosen.name}  {process.returncode:4d}  {since}")
    subprocess.run(command(runs, "killed"), env=environment, check=True, capture_output=True)
    assert finished, "no kill met the report, or a run that replaces a finished one"
    print("number, fault, exit status, moment; promised and found after each: no process is left, "
          "and all files are whole", *rows, sep="\n")  # fmt: skip
    check_whole(runs / "killed")
    assert batch.main(["same", str(runs / "whole"), str(runs / "killed")]) == 0
    assert [path.name for path in place.iterdir() if "kernel" in path.name] == []
    assert {path.name for path in runs.iterdir()} == {"whole", "killed", "latest"}


@pytest.fixture
def small_disk(tmp_path):
    """``small_disk(size, *options)`` mounts a disk of this size."""
    mounted = []

    def mount(size, *options):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "none"]
        if subprocess.run([*words, folder], capture_output=True).returncode:
            pytest.skip("may not mount a small disk here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.fault("full or read-only disk")
@pytest.mark.parametrize(
    ("size", "options", "said"),
    [("64k", [], "No space left|is full"), ("1m", ["ro"], "Read-only|write permission")],
)
def test_a_batch_without_room_is_told_in_one_line(size, options, said, small_disk, capfd):
    disk = small_disk(size, *options)
    assert batch.main(["run", "--until", "00", "--set", f"runs_dir={disk / 'runs'}"]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("helpers.batch: ") and str(disk) in error, error
    assert any(word in error for word in said.split("|")), error
    assert not [path for path in disk.rglob("*") if path.name.endswith(".part")]


@pytest.mark.fault("memory limit of the process")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep this limit")
@pytest.mark.parametrize(("limit", "until"), [(1.5e9, "00"), pytest.param(3e9, "01", marks=LONG)])
def test_a_batch_without_memory_is_told_in_one_line(limit, until, tmp_path):
    """With the first limit, torch cannot be imported, or the kernel dies of it."""
    limit = (int(limit), int(limit))
    done = subprocess.run(
        [*command(tmp_path / "runs", "small"), "--until", until], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )  # fmt: skip
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("helpers.batch: ") and "the memory ran out" in error
