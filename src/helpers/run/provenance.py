"""The provenance of a run: its code (commit and source hash), Python, packages and hardware."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from helpers import __version__
from helpers.io import sha256

PACKAGES = (
    "torch", "nemo_toolkit", "transformers", "tokenizers", "lightning", "safetensors", "numpy",
    "scipy", "pandas", "matplotlib", "papermill", "wandb",
)  # fmt: skip
# Only these files affect the result of a run. Other files in the clone, such as data, do not.
_CODE = ("src", "locks/*.txt", "pyproject.toml", "notebooks/[0-9][0-9]_*.ipynb")
# A line in a notebook's parameters cell: name, value and optional comment.
_PARAMETER = re.compile(
    r"""^(\w+) = ("[^"\n]*"|'[^'\n]*'|-?[\d.]+(?:e-?\d+)?|None|True|False)[ \t]*(?:\#.*)?$""", re.M
)


def describe(gpus: list[str] | None = None) -> dict[str, Any]:
    """Describe the kit, Python, packages and hardware of this process for the manifest.

    ``gpus`` lists the GPU names to record if torch is not imported (see ``gpu_names``).
    """
    import psutil  # imported here because the GPU benchmark runs without it

    names = gpu_names()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "kit": {
            "name": "biomegatron-bioasq-kit",
            "version": __version__,
            "commit": commit(),
            "source_sha256": source_hash(),
        },
        "python": platform.python_version(),
        "packages": {
            name: next((found.version for found in metadata.distributions(name=name)), None)
            for name in PACKAGES
        },
        "hardware": {
            "platform": platform.platform(),
            "cpu": _cpu_model(),
            "cores": cores,  # available to this process, possibly fewer than the machine has
            "memory_bytes": psutil.virtual_memory().total,
            "gpus": gpus if names is None else names,
        },
    }


def commit() -> str | None:
    """Return the commit of this clone, with ``+changes`` if its code differs from that commit."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD").strip()
        status = _git(root, "status", "--porcelain", "--no-renames", "-z", "--", *_CODE)
        changed = any(_has_changed(root, entry[3:]) for entry in status.split("\0") if entry)
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, timeout=10, check=True).stdout.decode()


def _has_changed(root: Path, name: str) -> bool:
    """Return whether a file differs from the commit, apart from notebook output and parameters.

    Running a notebook and saving it in the clone does not count as a change.
    """
    if not name.endswith(".ipynb"):
        return True
    try:
        before = notebook_sources(_git(root, "show", f"HEAD:{name}"))
        return notebook_sources((root / name).read_bytes()) != before
    except (OSError, subprocess.CalledProcessError, ValueError, KeyError, TypeError):
        return True  # new, deleted, or not a notebook


def notebook_sources(content: str | bytes) -> list[tuple[str, str]]:
    """Return the type and source of every cell, without outputs, execution counts or metadata.

    Parameter values are also omitted, because the manifest records them as settings.
    """
    sources = []
    for cell in json.loads(content)["cells"]:
        source = "".join(cell["source"])
        if _is_parameters(cell):
            source = _PARAMETER.sub(r"\1", source)
        sources.append((cell["cell_type"], source))
    return sources


def notebook_parameters(content: str | bytes) -> dict[str, object]:
    """Return the names and values in the parameters cell."""
    cells = filter(_is_parameters, json.loads(content)["cells"])
    source = "\n".join("".join(cell["source"]) for cell in cells)
    return {name: ast.literal_eval(value) for name, value in _PARAMETER.findall(source)}


def _is_parameters(cell: dict) -> bool:
    return "parameters" in cell["metadata"].get("tags", [])


def source_hash() -> str:
    """Return one SHA-256 hash of the package's files, to identify the code even without Git."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*.*") if path.suffix != ".pyc"):
        digest.update(f"{path.relative_to(folder)}\0{sha256(path)}\0".encode())
    return digest.hexdigest()


def gpu_names() -> list[str] | None:
    """Return the GPU names, or None if torch is not imported yet (importing it is slow)."""
    if (torch := sys.modules.get("torch")) is None:
        return None
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _cpu_model() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:  # not Linux
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
