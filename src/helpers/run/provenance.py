"""Which code made a run: the commit, whether files differ from it, and a hash of the package."""

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

from helpers.io import sha256

# What decides a run's result. Other files in a clone, such as data, are no change of the kit.
_CODE = ("src", "constraints.txt", "pyproject.toml", "notebooks/[0-9][0-9]_*.ipynb")
# A line of a notebook's parameters cell: name, value, comment.
_PARAMETER = re.compile(
    r"""^(\w+) = ("[^"\n]*"|'[^'\n]*'|-?[\d.]+(?:e-?\d+)?|None|True|False)[ \t]*(?:\#.*)?$""", re.M
)


def commit() -> str | None:
    """Commit of the kit's own checkout, with ``+changes`` when its code differs from it."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD").strip()
        listed = _git(root, "status", "--porcelain", "--no-renames", "-z", "--", *_CODE)
        changed = any(_is_changed(root, entry[3:]) for entry in listed.split("\0") if entry)
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changed else "")


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    done = subprocess.run(command, capture_output=True, timeout=10, check=True)
    return done.stdout.decode()


def _is_changed(root: Path, name: str) -> bool:
    """Whether a file that git calls changed differs in what its author wrote.

    Running a notebook and saving it in the clone is no change.
    """
    if not name.endswith(".ipynb"):
        return True
    try:
        before = notebook_sources(_git(root, "show", f"HEAD:{name}"))
        return notebook_sources((root / name).read_bytes()) != before
    except (OSError, subprocess.CalledProcessError, ValueError, KeyError, TypeError):
        return True  # new, deleted, or not a notebook


def notebook_sources(content: str | bytes) -> list[tuple[str, str]]:
    """Type and source of every cell: not outputs, execution counts, metadata or parameters.

    The values of the parameters are left out because the manifest's settings have them.
    """
    cells = json.loads(content)["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    return [
        (cell["cell_type"], _PARAMETER.sub(r"\1", source) if _is_parameters(cell) else source)
        for cell, source in zip(cells, sources, strict=True)
    ]


def notebook_parameters(content: str | bytes) -> dict[str, object]:
    """Names and values in the parameters cell."""
    cells = filter(_is_parameters, json.loads(content)["cells"])
    source = "\n".join("".join(cell["source"]) for cell in cells)
    return {name: ast.literal_eval(value) for name, value in _PARAMETER.findall(source)}


def _is_parameters(cell: dict) -> bool:
    return "parameters" in cell["metadata"].get("tags", [])


def source_hash() -> str:
    """One SHA-256 of the package's files, which names the code even without git."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*.*") if path.suffix != ".pyc"):
        digest.update(f"{path.relative_to(folder)}\0{sha256(path)}\0".encode())
    return digest.hexdigest()


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def cores() -> int | None:
    """Cores this process may use, which a container or a cluster can make fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def gpus() -> list[str] | None:
    """Names of the GPUs, or None while torch is not imported: this alone is no reason to."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
