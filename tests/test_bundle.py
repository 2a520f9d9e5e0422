"""The offline bundle: complete, verified before it installs, and enough without a network."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workshop import bundle

from helpers.config import ROOT, InputError
from helpers.run import reproduce


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A bundle without real packages, weights and pages."""
    if not (ROOT / ".git").exists():
        pytest.skip("the kit is not a git clone here")

    def write(folder, name):
        folder.mkdir(parents=True)
        (folder / name).write_text(name)

    monkeypatch.setattr(bundle, "commit", lambda: "c0ffee")
    monkeypatch.setattr(bundle.site, "make", lambda run, to: write(to, "index.html"))
    monkeypatch.setattr(bundle, "fetch", lambda name, to: write(to, "vocab.txt"))
    monkeypatch.setattr(bundle, "_packages", lambda folder, index: write(folder, f"{index}.whl"))
    return bundle.make(tmp_path / "bundle", tmp_path, "torch")


def install(folder, target, **environment):
    command = ["sh", str(folder / "install.sh"), str(target)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_the_bundle_lists_the_hash_of_every_file(small):
    lines = (small / "SHA256SUMS").read_text().splitlines()
    listed = dict(reversed(line.split("  ", 1)) for line in lines)
    files = {p.relative_to(small).as_posix() for p in small.rglob("*") if p.is_file()}
    assert listed.keys() == files - {"SHA256SUMS"}
    assert {"install.sh", "README.txt", "packages/torch.whl", "weights/vocab.txt"} <= files
    assert {"site/index.html", "kit/Makefile", "kit/notebooks/00_start_here.ipynb"} <= files
    for name, digest in listed.items():
        assert hashlib.sha256((small / name).read_bytes()).hexdigest() == digest
    assert "commit c0ffee" in (small / "README.txt").read_text()
    remotes = subprocess.run(["git", "-C", small / "kit", "remote"], capture_output=True)
    assert remotes.stdout == b""
    assert list(small.parent.iterdir()) == [small]


def test_a_bundle_never_replaces_anything(small, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        bundle.make(small, tmp_path)


@pytest.mark.parametrize(
    ("version", "message"), [(None, "not a git clone"), ("c0ffee+changes", "not committed")]
)
def test_a_bundle_contains_a_commit(small, tmp_path, monkeypatch, version, message):
    monkeypatch.setattr(bundle, "commit", lambda: version)
    with pytest.raises(InputError, match=message):
        bundle.make(tmp_path / "another", tmp_path)


def test_a_command_that_fails_is_one_line_with_its_last_message(tmp_path):
    with pytest.raises(InputError, match=r"clone .*: failed \(.*does not exist.*\)"):
        bundle._run(["git", "clone", "--quiet", str(tmp_path / "none"), str(tmp_path / "x")])


def test_the_installer_refuses_what_cannot_work_and_leaves_nothing(small, tmp_path):
    target = tmp_path / "kit"
    assert install(small, small) == (2, f"install.sh: {small} exists already; remove it or choose "
                                     "another folder\n")  # fmt: skip
    status, message = install(small, target, PYTHON="no-such-python")
    assert status == 2 and "no-such-python is missing" in message
    (small / "packages" / "torch.whl").write_text("changed")
    status, message = install(small, target)
    assert status == 2 and "packages/torch.whl is missing or was changed" in message
    script = small / "install.sh"
    script.write_text(script.read_text().replace(bundle.PLATFORM, "plan9 x86 Python 2.7"))
    status, message = install(small, target)
    assert status == 2 and "this bundle is for plan9 x86 Python 2.7, but" in message
    assert not target.exists()


@pytest.mark.long
def test_a_room_without_network_installs_and_walks_through(mini_run, tmp_path):
    """In a network namespace that has only a loopback device, with an empty home folder."""
    alone = ["unshare", "--map-root-user", "--net", "sh", "-c"]
    if not shutil.which("ip") or subprocess.run([*alone, "ip link set lo up"]).returncode:
        pytest.skip("this machine does not allow network namespaces")
    made = bundle.make(tmp_path / "bundle", mini_run)
    home, room = tmp_path / "home", tmp_path / "a room"
    home.mkdir()
    # No setting of this machine may help: neither its pip, nor its cache, nor its environment.
    clean = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
    clean |= {"PIP_CONFIG_FILE": os.devnull, "PYTHON": sys._base_executable}
    threads = "OMP_NUM_THREADS"  # the number of threads can change the last digits
    clean |= {threads: os.environ[threads]} if threads in os.environ else {}
    steps = (
        'ip link set lo up && ! curl --silent --max-time 5 http://192.0.2.1 && sh "$0" "$1" '
        '&& cd "$1" && make walkthrough RUN=offline && .venv/bin/jupyter lab --version '
        '&& .venv/bin/python -m pytest -q -m "not long and not notebooks and not slow"'
    )
    command = [*alone, steps, str(made / "install.sh"), str(room)]
    with open(tmp_path / "log", "w+") as log:
        done = subprocess.run(command, env=clean, cwd=tmp_path, stdout=log, stderr=log)
        log.seek(0)
        assert done.returncode == 0, log.read()[-5000:]
    run = room / "runs" / "offline"
    equal, lines = reproduce.same_scores(mini_run, run)
    assert equal, lines
    assert json.loads((run / "manifest.json").read_text())["kit"]["commit"]
    assert (home / ".cache" / "biomegatron-bioasq-kit" / "minilm" / "vocab.txt").is_file()
    assert Path(room / "runs" / "latest" / "index.html").is_file()
