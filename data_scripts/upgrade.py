"""Compare test results and BioASQ-mini scores under the old pins and the newest packages.

The script makes two clones of the last commit in build/upgrade. They need 6 GB of disk space, and
the script runs for an hour or more. It writes build/upgrade/report.md with the pins that differ,
the results of the tests and the scores. To accept the new pins, copy the locks from the new clone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.config import ROOT, InputError
from helpers.io import write_text
from helpers.views.machine import read_pins

WHICH = ("old", "new")
SCORES = ("sacc", "mrr", "lacc", "ceiling")


def call(folder: Path, *command: str, **environment: str) -> tuple[int, str]:
    """Run a command in a clone with its output shown; return its exit status and last line."""
    print(f"== {folder.name}: {' '.join(command)}", flush=True)
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    last = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line.strip() or last
    return process.wait(), last


def needed(folder: Path, *command: str, **environment: str) -> None:
    """Run a command that the comparison needs. Raises ``InputError`` if it fails."""
    status, last = call(folder, *command, **environment)
    if status:
        raise InputError(f"{' '.join(command)}: failed in {folder} ({last})")


def clone(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed(folder.parent, "git", "clone", "--quiet", str(ROOT), folder.name)


def differences(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Return one table row for each package whose versions differ."""
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return [f"| {name} | {old.get(name, '–')} | {new.get(name, '–')} |" for name in names]


def report(pins: list[str], tests: dict[str, str], scores: dict[str, dict]) -> str:
    """Return the report as Markdown, with pooled scores from 0 to 1."""
    old, new = (scores[name] for name in WHICH)
    rows = [f"| {name} | {old[name]:.4f} | {new[name]:.4f} | {new[name] - old[name]:+.4f} |"
            for name in SCORES]  # fmt: skip
    return "\n".join(
        ["# Old and new pins", "", "| package | old | new |", "|---|---|---|", *pins, "",
         "| tests | result |", "|---|---|", *(f"| {name} | {tests[name]} |" for name in WHICH), "",
         "| score on mini | old | new | difference |", "|---|---|---|---|", *rows, ""]
    )  # fmt: skip


def upgrade(folder: Path, torch_index: str) -> Path | None:
    """Do all steps in ``folder``; return the report, or None if no pin can be newer."""
    for name in WHICH:
        clone(folder / name)
    lock = [sys.executable, "data_scripts/lock.py", "--upgrade"]
    lock += ["--torch-index", torch_index] if torch_index else []
    needed(folder / "new", *lock, PYTHONPATH=str(folder / "new" / "src"))
    pins = differences(*(read_pins(folder / name / "locks") for name in WHICH))
    if not pins:
        return None
    tests, scores = {}, {}
    for name in WHICH:
        needed(folder / name, "make", "setup")
        tests[name] = call(folder / name, "make", "test")[1]
        needed(folder / name, "make", "walkthrough", "RUN=upgrade")
        path = folder / name / "runs" / "upgrade" / "scores.json"
        scores[name] = json.loads(path.read_text("utf-8"))["pooled"]
    return write_text(folder / "report.md", report(pins, tests, scores))


def main(arguments: list[str] | None = None) -> int:
    """Run the script. Return 2 for bad input, 130 if stopped, and 0 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-index", default="", metavar="URL",
                        help="package index with the CPU builds of torch")  # fmt: skip
    options = parser.parse_args(arguments)
    folder = ROOT / "build" / "upgrade"
    try:
        path = upgrade(folder, options.torch_index)
    except InputError as error:
        print(f"upgrade.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nupgrade.py: stopped; run it again to start over", file=sys.stderr)
        return 130
    if path is None:
        print("Every pin is the newest version that pyproject.toml allows.")
        return 0
    print(path.read_text("utf-8"))
    print(f"Written to {path}. To accept the new pins: cp {folder / 'new' / 'locks'}/*.txt locks/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
