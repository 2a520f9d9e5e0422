"""The script that tries newer packages, with stand-ins for uv and make."""

import json
import runpy
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "data_scripts" / "upgrade.py"
LOCK = """import pathlib, sys
assert "--upgrade" in sys.argv
pathlib.Path("locks/packages.txt").write_text("{new}")
"""
MAKE = """#!/bin/sh
which=$(basename "$PWD")
echo "$which $1" >> "{calls}"
case "$1" in
  setup) exit ${{SETUP:-0}};;
  test) echo "== 9 passed in 3 s =="; [ $which = old ];;
  walkthrough) mkdir -p runs/upgrade && cp "{folder}/$which.json" runs/upgrade/scores.json;;
esac
"""


@pytest.fixture
def upgrade(tmp_path, monkeypatch):
    """``upgrade(new)`` runs the script in a small kit whose lock would become ``new``."""
    kit = tmp_path / "kit"
    (kit / "locks").mkdir(parents=True)
    (kit / "data_scripts").mkdir()
    (kit / "locks" / "packages.txt").write_text("numpy==1.0\nleft==2\n")
    for name, sacc in (("old", 0.5), ("new", 0.45)):
        scores = {"pooled": {"sacc": sacc, "mrr": 0.6, "lacc": 0.7, "ceiling": 0.8}}
        (tmp_path / f"{name}.json").write_text(json.dumps(scores))
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "make").write_text(MAKE.format(calls=tmp_path / "calls", folder=tmp_path))
    (tools / "make").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    script = runpy.run_path(str(SCRIPT))
    monkeypatch.setitem(script["main"].__globals__, "ROOT", kit)

    def run(new):
        (kit / "data_scripts" / "lock.py").write_text(LOCK.format(new=new))
        git = ["git", "-C", str(kit), "-c", "user.name=a", "-c", "user.email=a@example.org"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "kit"]):
            subprocess.run([*git, *command], check=True)
        return script["main"]([]), kit / "build" / "upgrade"

    return run


def test_both_pins_are_tried_and_compared(upgrade, tmp_path, capfd):
    status, folder = upgrade(r"numpy==1.1\nmore==3\n")
    assert status == 0
    assert (tmp_path / "calls").read_text().split("\n")[:-1] == [
        f"{which} {step}" for which in ("old", "new") for step in ("setup", "test", "walkthrough")
    ]
    rows = (folder / "report.md").read_text().splitlines()
    assert {"| numpy | 1.0 | 1.1 |", "| left | 2 | – |", "| more | – | 3 |"} <= set(rows)
    assert "| sacc | 0.5000 | 0.4500 | -0.0500 |" in rows
    assert "| new | == 9 passed in 3 s == |" in rows  # failed tests are reported, not the end
    assert "cp " in capfd.readouterr().out


def test_nothing_is_tried_if_no_pin_can_be_newer(upgrade, tmp_path, capfd):
    assert upgrade(r"numpy==1.0\nleft==2\n")[0] == 0
    assert "Every pin is the newest" in capfd.readouterr().out
    assert not (tmp_path / "calls").exists()


def test_an_installation_that_fails_is_one_line(upgrade, monkeypatch, capfd):
    monkeypatch.setenv("SETUP", "1")
    assert upgrade(r"numpy==1.1\n")[0] == 2
    error = capfd.readouterr().err.splitlines()
    assert error[-1].startswith("upgrade.py: make setup: failed in ")
