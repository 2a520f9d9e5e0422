"""Download one URL: resume partial files, fail fast if the host is unreachable.

Nothing here decides whether the bytes are the right ones; ``fetch`` checks them before use.

Archives (zip, tar, .nemo), unpacked so that nothing can be written outside one folder.

Only regular files are taken (not the shadow files of macOS), and each is written by us under a
checked relative name: absolute paths, ``..``, drive letters, links, devices and encrypted members
refuse the whole archive, as do sizes that no checkpoint has. Nothing is left behind by an archive
that was refused.

Files that get their final name only when their SHA-256 is the expected one.

Everything that puts a checkpoint's file into a folder goes through ``accept``: a copy, a member of
a zip, a download. Two processes are kept apart by ``locked``, and ``check_disk`` looks first.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import stat
import sys
import tarfile
import tempfile
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import filelock
from tqdm import tqdm  # not tqdm.auto, whose bar freezes at 0% in a saved notebook

from helpers.config import InputError
from helpers.io import sha256

CHUNK = 1 << 16  # bytes; what a cut connection can lose
TIMEOUTS = (5, 30)  # seconds: to connect, between two pieces of an answer
ATTEMPTS = 4  # in a row that brought nothing; each that brought a piece starts the count anew
PROGRESS = 1 << 20  # bytes that make such a piece
RETRY_STATUS = (408, 429, 500, 502, 503, 504)
_PAGE = "a web page came (a login, a proxy's notice?) and not the file"
LONGEST_PAUSE = 20.0  # seconds between two attempts, whatever the server asks for


class NotHere(Exception):
    """A source cannot give a file; the message is the reason, as shown to the user."""


class _Again(Exception):
    """This attempt failed, another may not."""

    def __init__(self, reason: str, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause


@contextmanager
def writing(folder: Path):
    """Turn what the disk refuses into an ``InputError`` that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}); make room, or choose "
            "another folder through --to or the environment's HELPERS_CACHE"
        ) from None


def offline() -> bool:
    """True when ``HELPERS_OFFLINE`` forbids every network connection."""
    return os.environ.get("HELPERS_OFFLINE", "").lower() not in ("", "0", "false", "no")


def download(
    url: str,
    part: Path,
    size: int | None = None,
    headers: dict | None = None,
    *,
    hashed: bool = False,
) -> None:
    """Bring ``part`` to the whole of ``url``, continuing with what it already holds.

    ``size`` is the number of bytes expected, ``None`` when only the server knows. ``hashed`` says
    that the caller compares a SHA-256 afterwards; without it, what was begun goes on only while
    the server's ETag or date stays the same. ``headers`` may hold credentials: requests drops them
    when a redirect leads to another host. A host that cannot be reached is not tried twice. Raises
    ``NotHere`` with the reason; what arrived until then stays in ``part``.
    """
    if offline():
        raise NotHere("HELPERS_OFFLINE is set")
    failures, best = 0, _size(part)
    while True:
        try:
            _attempt(url, part, size, headers or {}, hashed)
            _tag(part).unlink(missing_ok=True)
            return
        except _Again as reason:
            failures = 1 if _size(part) >= best + PROGRESS else failures + 1
            best = max(best, _size(part))
            if failures >= ATTEMPTS:
                raise NotHere(f"{url}: {reason}, {failures} times in a row") from None
            pause = 2.0 ** (failures - 1) if reason.pause is None else reason.pause
            time.sleep(min(pause, LONGEST_PAUSE))


def get_json(url: str, headers: dict | None = None) -> Any:
    """The JSON behind an address. Raises ``NotHere`` with the reason."""
    with writing(Path(tempfile.gettempdir())):
        scratch = tempfile.TemporaryDirectory()
    with scratch as folder:
        answer = Path(folder) / "answer.json"
        download(url, answer, headers=headers)
        try:
            return json.loads(answer.read_bytes())
        except ValueError:
            raise NotHere(f"{url}: the answer is not JSON") from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tag(part: Path) -> Path:
    """Where the server's mark of a half-fetched file is kept."""
    return part.with_name(part.name + ".etag")


def _attempt(url: str, part: Path, size: int | None, headers: dict, hashed: bool) -> None:
    import requests  # here, since importing it takes longer than most of the kit

    tag = _tag(part).read_text() if _tag(part).exists() else ""
    if not tag and not (hashed and size is not None):
        part.unlink(missing_ok=True)  # nothing says that it is a piece of what is there now
    elif size is not None and _size(part) > size:
        part.unlink()
    have = _size(part)
    if have and have == size:
        return
    headers = headers | {"Accept-Encoding": "identity", "User-Agent": "biomegatron-bioasq-kit"}
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": tag} if tag else {})
    try:
        answer = requests.get(url, headers=headers, stream=True, timeout=TIMEOUTS)
    except requests.exceptions.RequestException as error:
        if hopeless(error):
            raise NotHere(f"{url}: {in_words(error)}") from None
        raise _Again(in_words(error)) from None
    with answer:
        have, size = _check_answer(url, answer, part, have, size)
        with writing(part.parent):
            _tag(part).write_text(_validator(answer.headers))
        try:
            _save(url, answer, part, have, size)
        except requests.exceptions.RequestException as error:
            raise _Again(f"cut after {_of(part, size)} bytes ({in_words(error)})") from None
    if size is not None and _size(part) < size:
        raise _Again(f"cut after {_of(part, size)} bytes")


def _validator(headers) -> str:
    """What If-Range may send: a strong ETag (a weak one promises no equal bytes), or a date."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _of(part: Path, size: int | None) -> str:
    return f"{_size(part)}" if size is None else f"{_size(part)} of {size}"


def _check_answer(url: str, answer, part: Path, have: int, size: int | None):
    """Refuse what is not the file; return where the answer's body starts, and the whole size."""
    status = answer.status_code
    if status in RETRY_STATUS:
        raise _Again(f"HTTP {status}", asked_pause(answer.headers.get("Retry-After", "")))
    start = answer.headers.get("Content-Range", "")
    if status == 416 or (status == 206 and not start.startswith(f"bytes {have}-")):
        part.unlink(missing_ok=True)
        raise _Again("the server would not continue where the last attempt stopped", 0)
    if status not in (200, 206):
        raise NotHere(f"{url}: HTTP {status} {answer.reason or ''}".rstrip())
    if "text/html" in answer.headers.get("Content-Type", ""):
        raise NotHere(f"{url}: {_PAGE}")
    if status == 200:
        have = 0  # the server ignores ranges, so this is the whole file again
    length = answer.headers.get("Content-Length", "")
    if length.isdigit() and size is None:
        size = have + int(length)
        check_disk(part.parent, int(length))
    elif length.isdigit() and have + int(length) != size:
        raise NotHere(f"{url}: {have + int(length)} bytes are offered where {size} are expected")
    elif size is None and not _shows_its_end(answer.headers):
        raise NotHere(f"{url}: the server does not say how long it is, so a cut would not show")
    return have, size


def _shows_its_end(headers) -> bool:
    """Whether a cut shows without a length: chunks are counted, JSON has to be closed."""
    chunked = "chunked" in headers.get("Transfer-Encoding", "")
    return chunked or "json" in headers.get("Content-Type", "")


def asked_pause(after: str) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date."""
    if after.isascii() and after.isdecimal():
        return float(after)
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except ValueError:
        return None


def check_disk(folder: Path, needed: int) -> None:
    """Raise ``InputError`` unless ``needed`` bytes and a little more fit into ``folder``."""
    free = shutil.disk_usage(folder).free
    if free < needed * 1.05:
        raise InputError(
            f"{folder}: {needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free; make "
            "room, or choose another folder through --to or the environment's HELPERS_CACHE"
        )


def _save(url: str, answer, part: Path, have: int, size: int | None) -> None:
    title = url.rsplit("/", 1)[-1].rsplit("path=", 1)[-1]
    bar = tqdm(desc=title, total=size, initial=have, unit="B", unit_scale=True)
    with writing(part.parent):
        part.touch()
        os.truncate(part, have)
    with bar, open(part, "ab") as out:
        for chunk in answer.iter_content(CHUNK):
            if not have and re.match(rb"\s*<(!doctype\s+)?html", chunk[:100], re.IGNORECASE):
                raise NotHere(f"{url}: {_PAGE}")
            have += len(chunk)
            if size is not None and have > size:
                part.unlink()
                _tag(part).unlink(missing_ok=True)
                raise NotHere(f"{url}: more than the expected {size} bytes came")
            with writing(part.parent):
                out.write(chunk)
                out.flush()
            bar.update(len(chunk))


def hopeless(error: Exception) -> bool:
    """True where no connection came about: name unknown, refused, timed out, TLS, bad address."""
    import requests
    import urllib3

    if isinstance(error, requests.exceptions.ReadTimeout):
        return False
    if not isinstance(error, requests.exceptions.ConnectionError):
        return True
    # urllib3 wraps what happened before the request was sent in MaxRetryError; a server that
    # hung up afterwards is a ProtocolError, and worth another attempt.
    return bool(error.args) and isinstance(error.args[0], urllib3.exceptions.MaxRetryError)


def in_words(error: Exception) -> str:
    """What went wrong with a connection, in a few words for the user."""
    text = str(error)
    for sign, words in {
        "NameResolution": "the host's name is unknown (no network?)",
        "ConnectTimeout": "no connection within the time limit",
        "Connection refused": "connection refused",
        "CERTIFICATE": "its TLS certificate is not trusted here",
        "Read timed out": "no answer within the time limit",
    }.items():
        if sign in text or sign in repr(error):
            return words
    return f"{type(error).__name__}: {' '.join(text.split())[:160]}"


_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)
_MIB = 1 << 20  # bytes
MEMBERS = 10_000  # files in one archive; checkpoints have a handful
TOTAL = 16 << 30  # bytes unpacked; the 345M checkpoint has 0.7 GB
RATIO = 200  # unpacked to packed: weights stay below 2, text below 20, a bomb has 1,000
SMALL = 16 << 20  # bytes that may come from any ratio


@dataclass(frozen=True)
class _Member:
    name: str
    bytes: int  # as the archive declares; counted again while writing
    open: Callable[[], BinaryIO]


def is_archive(path: Path) -> bool:
    """Whether the file is a zip or a tar (``.nemo`` is one), by its content."""
    # A .pt file is a zip too, in torch's format since 1.6; that one is a single file to us.
    return (
        path.is_file()
        and path.suffix not in (".pt", ".bin", ".ckpt")
        and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
    )


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Unpack into ``folder``, which must not exist yet; it appears only when complete.

    Returns the files' paths. When all lie in one folder inside the archive, that folder is left
    out. Raises ``InputError`` that names the archive and the member for whatever is unsafe,
    damaged or too large.
    """
    try:
        for stale in folder.parent.glob(".unpacking-*"):  # of a process that was killed
            shutil.rmtree(stale, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as temporary:
            inside = Path(temporary) / "files"
            inside.mkdir()
            _extract(archive, inside)
            only = list(inside.iterdir())
            while len(only) == 1 and only[0].is_dir():
                inside, only = only[0], list(only[0].iterdir())
            inside.rename(folder)
    except (*_DAMAGED, EOFError, RuntimeError) as error:
        raise InputError(f"{archive}: a damaged archive ({error}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{archive}: cannot be unpacked ({error.strerror or error})") from None
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _extract(archive: Path, folder: Path) -> None:
    taken: set[str] = set()
    is_zip = not tarfile.is_tarfile(archive)  # a tar that ends with a zip passes for a zip too
    with zipfile.ZipFile(archive) if is_zip else tarfile.open(archive) as file:
        members = _zip_members(archive, file) if is_zip else _tar_members(archive, file)
        found = [member for member in members if not _of_a_mac(member.name)]
        total = sum(member.bytes for member in found)
        _check_size(archive, total)
        if len(found) > MEMBERS:
            raise InputError(f"{archive}: {len(found)} files inside, more than {MEMBERS}; refused")
        check_disk(folder, total)
        written = 0
        with tqdm(desc=archive.name, total=total, unit="B", unit_scale=True, delay=1) as bar:
            for member in found:
                path = folder / _safe(archive, member.name)
                # Two names that a Mac or Windows takes for one would overwrite each other there.
                key = unicodedata.normalize("NFC", path.as_posix()).casefold()
                if key in taken:
                    raise InputError(f"{archive}: {member.name!r} is in it twice; refused")
                taken.add(key)
                path.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, open(path, "xb") as out:
                    while chunk := source.read(_MIB):
                        written += len(chunk)
                        _check_size(archive, written)
                        out.write(chunk)
                        bar.update(len(chunk))


def _of_a_mac(name: str) -> bool:
    """The shadows that macOS adds to an archive for each file."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or (bool(parts) and parts[-1].startswith("._"))


def _zip_members(archive: Path, file: zipfile.ZipFile) -> Iterator[_Member]:
    for info in file.infolist():
        if info.flag_bits & 1:
            raise InputError(f"{archive}: {info.filename!r} is encrypted; refused")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _no_file(archive, info.filename)
        if not info.is_dir():
            yield _Member(info.filename, info.file_size, partial(file.open, info))


def _tar_members(archive: Path, file: tarfile.TarFile) -> Iterator[_Member]:
    for info in file:
        if not info.isreg() and not info.isdir():
            raise _no_file(archive, info.name)
        if info.isreg():
            yield _Member(info.name, info.size, partial(file.extractfile, info))


def _no_file(archive: Path, name: str) -> InputError:
    return InputError(f"{archive}: {name!r} is a link or a device; refused")


def _safe(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if (
        not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or re.match(r"[A-Za-z]:", name)
        or re.search(r"[\\\x00-\x1f]", name)
    ):
        raise InputError(f"{archive}: {name!r} is no plain path inside the archive; refused")
    return path


def _check_size(archive: Path, unpacked: int) -> None:
    packed = archive.stat().st_size
    if unpacked > TOTAL or (unpacked > SMALL and unpacked > RATIO * packed):
        raise InputError(
            f"{archive}: {packed / 1e6:.1f} MB unpack to {unpacked / 1e6:.0f} MB or more, which "
            "no checkpoint does; refused"
        )


LOCK_PATIENCE = 1800  # seconds to wait for another process that fetches the same files


@dataclass(frozen=True)
class File:
    """One file of a checkpoint; ``bytes`` is its exact size."""

    name: str
    sha256: str
    bytes: int


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
            shutil.copyfileobj(stream, out, _MIB)
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
