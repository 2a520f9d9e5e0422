"""The files for Binder, Codespaces and Colab, as far as we can test them without these services."""

import json
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import locked
import pytest

ROOT = Path(__file__).parents[1]
SETUP = (ROOT / "docs" / "setup.md").read_text(encoding="utf-8")


def test_binder_installs_the_kit_with_the_pinned_torch_and_python():
    folder = ROOT / ".binder"
    lines = (folder / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if not line.startswith(("#", "--"))]
    assert wanted == [f"-r ../locks/{name}.txt" for name in locked.CPU]
    assert (folder / "runtime.txt").read_text() == "python-3.11\n"
    script = folder / "postBuild"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    for name in re.findall(r"^python (\S+\.py)", script.read_text(), re.M):
        assert (ROOT / name).is_file()


def test_a_development_container_uses_commands_and_a_python_that_exist():
    found = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    make = shlex.split(found["onCreateCommand"])
    assert make[:2] == ["make", "setup"] and make[2].startswith("TORCH_INDEX=https://")
    python, script, name = shlex.split(found["postCreateCommand"])
    assert (ROOT / script).is_file() and name == "minilm"
    settings = found["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"] == "${workspaceFolder}/" + python
    assert re.search(r"python:3\.11-", found["image"])


@pytest.fixture
def cell(monkeypatch):
    """The set-up cell for Colab as a function; it returns what the cell changed."""
    (code,) = re.findall(r'^```python\n(import sys\n\nif "google.*?)^```', SETUP, re.M | re.S)
    called = []
    monkeypatch.setattr(os, "chdir", lambda path: called.append(path))
    monkeypatch.setattr(subprocess, "run", lambda command, **_: called.append(command[1:]))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run():
        before = list(sys.path)
        exec(code, {})
        return called + [path for path in sys.path if path not in before]

    run.called = called
    return run


def test_the_colab_cell_does_nothing_elsewhere(cell):
    assert cell() == []


def test_the_colab_cell_installs_the_kit_from_google_drive(cell, monkeypatch):
    colab = types.ModuleType("google.colab")
    colab.drive = types.SimpleNamespace(mount=cell.called.append)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    mounted, folder, install, path = cell()
    assert folder == f"{mounted}/MyDrive/biomegatron-bioasq-kit/notebooks"
    assert install[0] == "locks/install.sh" and (ROOT / install[0]).is_file()
    assert path.endswith("/src")
