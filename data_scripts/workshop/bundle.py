"""Write a folder from which the kit can be installed on machines without a network connection.

The folder contains all packages, the kit as a git clone (which includes BioASQ-mini), the MiniLM
weights, the website of a finished run, and a script that installs all of this. The packages work
only with the operating system, processor type and Python version with which they were collected.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from helpers.config import ROOT, InputError, Settings
from helpers.fetch.fetch import fetch
from helpers.io import sha256, write_text
from helpers.run.provenance import commit
from workshop import site

_SCRIPT = Path(__file__).with_name("install.sh")
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
PLATFORM = f"{sys.platform} {platform.machine()} {PYTHON.replace('python', 'Python ')}"
_README = """BioMegatron BioASQ kit: bundle for machines without a network connection

1. Copy this folder ({size:,.0f} MB) to a machine with {platform}.
2. Run: sh install.sh
   This installs the kit into ./biomegatron-bioasq-kit and the weights into the cache
   (HELPERS_CACHE, by default ~/.cache/biomegatron-bioasq-kit).
3. In that folder, run: make lab

To read the executed notebooks without installing anything, open site/index.html.

packages/   the packages with the versions and hashes in kit/locks
kit/        a git clone of the kit (commit {commit})
weights/    all-MiniLM-L6-v2 (Apache-2.0)
site/       the executed notebooks and the documentation
SHA256SUMS  the hashes that install.sh checks before it installs anything
"""


def make(to: Path, run: Path, torch_index: str = "") -> Path:
    """Write the bundle into the new folder ``to``; return ``to``.

    ``run`` is a finished run, whose notebooks the website shows. ``torch_index`` is the address of
    a package index with builds of torch. If it is empty, pip's own settings decide. Raises
    ``InputError`` if ``to`` is not empty, if the kit is not a git clone or has uncommitted
    changes, or if a command fails.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to}: exists already; remove it or choose another folder")
    if not (version := commit()):
        raise InputError(f"{ROOT}: is not a git clone; make the bundle in one")
    if version.endswith("+changes"):
        raise InputError(
            f"{ROOT}: has changes that are not committed; commit them, because the bundle contains "
            "the last commit"
        )
    part = to.with_name(f"{to.name}.part")  # renamed when it is complete
    shutil.rmtree(part, ignore_errors=True)
    site.make(run, part / "site")
    _run(["git", "clone", "--quiet", "--depth=1", ROOT.as_uri(), str(part / "kit")])
    _run(["git", "-C", str(part / "kit"), "remote", "remove", "origin"])  # a path on this machine
    fetch(Settings.model, to=part / "weights")
    _packages(part / "packages", torch_index)
    script = _SCRIPT.read_text("utf-8").replace("@PLATFORM@", PLATFORM).replace("@PYTHON@", PYTHON)
    write_text(part / "install.sh", script)
    size = sum(path.stat().st_size for path in _files(part)) / 1e6
    write_text(part / "README.txt", _README.format(size=size, platform=PLATFORM, commit=version))
    sums = [f"{sha256(path)}  {path.relative_to(part).as_posix()}\n" for path in _files(part)]
    write_text(part / "SHA256SUMS", "".join(sums))
    if to.exists():
        to.rmdir()
    return part.rename(to)


def _packages(folder: Path, torch_index: str) -> None:
    """Download the files of all packages. pip checks them against the hashes in locks/."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    index = ["--index-url", torch_index] if torch_index else []
    cuda = sys.platform == "linux" and "+cpu" not in metadata.version("torch")
    files = {"build": [], "cuda" if cuda else "cpu": index, "packages": ["--no-build-isolation"]}
    for name, more in files.items():
        lock = str(ROOT / "locks" / f"{name}.txt")
        _run([*pip, "--require-hashes", "--no-deps", *more, "-r", lock])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"{' '.join(command[:4])} …: failed ({lines[-1]})")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
