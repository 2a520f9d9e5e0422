"""Files that get their final name only when their SHA-256 is the expected one.

Everything that puts a checkpoint's file into a folder goes through ``accept``: a copy, a member of
a zip, a download. Two processes are kept apart by ``locked``, and ``check_disk`` looks first.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import sys
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import filelock

from helpers.config import InputError
from helpers.fetch.download import NotHere, writing

CHUNK = 1 << 20  # bytes
LOCK_PATIENCE = 1800  # seconds to wait for another process that fetches the same files


@dataclass(frozen=True)
class File:
    """One file of a checkpoint; ``bytes`` is its exact size."""

    name: str
    sha256: str
    bytes: int


def sha256(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits; the file is read in pieces."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check it") from None


def hashes(path: str | Path) -> dict[str, str]:
    """Full path -> SHA-256 of a file, or of each file directly in a folder."""
    path = Path(path).resolve()
    found = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return {str(p): sha256(p) for p in found}


def unzip(path: Path, files: list[File], target: Path) -> None:
    """Take the members with the files' names and sizes, in whatever folder of the zip.

    Only our own file names are ever written, so a member's path cannot lead outside ``target``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for file in files:
                for member in archive.infolist():
                    same_name = member.filename.split("/")[-1] == file.name
                    if same_name and member.file_size == file.bytes:
                        break
                else:
                    raise NotHere(f"{path.name} holds no {file.name} of {file.bytes} bytes")
                with archive.open(member) as stream:
                    _write(stream, file, target)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise NotHere(f"{path.name} is a damaged archive ({error})") from None


def copy(folder: Path, files: list[File], target: Path) -> None:
    """Copy verified files; the originals are left alone whatever they hold."""
    for file in files:
        path = folder / file.name
        if not path.is_file():
            raise NotHere(f"{folder} has no {file.name}")
        if not is_good(path, file):
            raise NotHere(f"{file.name} has a wrong SHA-256: {sha256(path)}, not {file.sha256}")
        if not (target / file.name).exists() or not path.samefile(target / file.name):
            with open(path, "rb") as stream:
                _write(stream, file, target)


def _write(stream: BinaryIO, file: File, target: Path) -> None:
    part = target / f".{file.name}.copy"
    try:
        with writing(target), open(part, "wb") as out:
            shutil.copyfileobj(stream, out, CHUNK)
        accept(part, file, target)
    finally:
        part.unlink(missing_ok=True)


def accept(part: Path, file: File, target: Path) -> None:
    """Give a complete file its final name, or delete it."""
    if not is_good(part, file):
        found = sha256(part)
        part.unlink()
        raise NotHere(
            f"{file.name} has a wrong SHA-256 and was deleted: {found}, not {file.sha256}"
        )
    os.replace(part, target / file.name)


def is_good(path: Path, file: File) -> bool:
    """True when the path holds exactly this file's bytes."""
    return path.is_file() and path.stat().st_size == file.bytes and sha256(path) == file.sha256


@contextmanager
def locked(target: Path, name: str):
    """Let one process at a time fetch into ``target``."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(target / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            print(f"{name}: waiting for another process that is fetching it", file=sys.stderr)
            lock.acquire(timeout=LOCK_PATIENCE)
    except filelock.Timeout:
        raise InputError(f"{target}: another process has been fetching into it for long") from None
    except OSError as error:
        raise InputError(
            f"{target}: cannot write here ({error.strerror or error}); choose another folder "
            "through --to or the environment's HELPERS_CACHE"
        ) from None
    try:
        yield
    finally:  # the lock's file stays: removing it would let two waiting processes in at once
        lock.release()
