"""Download one URL, unpack archives safely, and verify files before they get their final names.

``download`` resumes partial files and fails fast if the host is unreachable. It does not check
whether the bytes are correct; ``copy`` and ``accept`` do so with the SHA-256.
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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm  # not tqdm.auto, whose bar freezes at 0% in a saved notebook

from helpers.config import InputError
from helpers.io import hold, progress_stream, sha256

CHUNK = 1 << 16  # bytes per piece; an interrupted download loses at most one piece
TIMEOUTS = (5, 30)  # seconds to connect, and between two pieces of a response
ATTEMPTS = 4  # consecutive failures allowed; receiving PROGRESS bytes resets the count
PROGRESS = 1 << 20
RETRY_STATUS = (408, 429, 500, 502, 503, 504)
LONGEST_PAUSE = 20.0  # seconds between attempts, even if the server asks for more
LOCK_PATIENCE = 1800  # seconds to wait while another process fetches the same files
INCOMING = ".incoming"  # subfolder of a target for files that have not been verified yet
LISTING = 64 << 20  # maximum number of bytes in a JSON answer
HEADER = 1 << 20  # maximum number of bytes for the name of a file in a tar archive
MEMBERS = 10_000  # maximum number of files in an archive; checkpoints contain only a few
TOTAL = 16 << 30  # maximum number of bytes after unpacking; the 345M checkpoint takes 0.7 GB
RATIO = 200  # maximum unpacked/packed size; about 2 for weights, 20 for text, 1,000 for zip bombs
SMALL = 16 << 20  # if an archive unpacks to at most this many bytes, its ratio does not matter
_PAGE = "the server sent a web page (perhaps a login or proxy page), not the file"
_ROOM = "free some space, or choose a different folder with --to, HELPERS_CACHE or HELPERS_LOCK"
_DAMAGED = (  # RuntimeError means an unknown compression method
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError
)  # fmt: skip


class NotHere(Exception):
    """Raised when a source cannot provide a file; the message is the reason shown to the user."""


class Unsafe(Exception):
    """Raised for an archive that we refuse to unpack."""


class Again(Exception):
    """Raised if another attempt may succeed; the server may ask for a ``pause`` in seconds."""

    def __init__(self, reason: str, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause

    def wait(self, failures: int) -> None:
        """Pause as the server requests, or 1, 2, 4, ... seconds after 1, 2, 3, ... failures."""
        pause = 2.0 ** (failures - 1) if self.pause is None else self.pause
        time.sleep(min(pause, LONGEST_PAUSE))


@dataclass(frozen=True)
class File:
    """One file of a checkpoint. Its hash and size may be unknown until the first fetch."""

    name: str
    sha256: str
    bytes: int | None

    def matches(self, path: Path) -> bool:
        """Return whether the file at ``path`` is identical to this file, byte for byte."""
        return path.is_file() and path.stat().st_size == self.bytes and sha256(path) == self.sha256


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a disk error into an ``InputError`` that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder}: cannot write ({error.strerror or error}); {_ROOM}") from None


def check_disk(folder: Path, needed: int) -> None:
    """Raise ``InputError`` unless ``folder`` has space for ``needed`` bytes plus a 5% margin."""
    free = shutil.disk_usage(folder).free
    if free < needed * 1.05:
        raise InputError(
            f"{folder}: needs {needed / 1e6:.0f} MB, but only {free / 1e6:.0f} MB is free; {_ROOM}"
        )


@contextmanager
def locked(folder: Path, name: str, lock: str = ".lock") -> Iterator[None]:
    """Allow one process at a time to work in ``folder``; show ``name`` to users who must wait."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = hold(folder / lock)
        if held is None:
            print(f"{name}: waiting for another process that is fetching it", file=sys.stderr)
            held = hold(folder / lock, LOCK_PATIENCE)
    if held is None:
        raise InputError(
            f"{folder}: another process is still fetching files into it; try again later"
        )
    with held:
        yield


def offline() -> bool:
    """Return whether ``HELPERS_OFFLINE`` forbids all network connections."""
    return os.environ.get("HELPERS_OFFLINE", "").lower() not in ("", "0", "false", "no")


def download(
    url: str,
    part: Path,
    size: int | None = None,
    headers: dict | None = None,
    *,
    hashed: bool = False,
    most: int = TOTAL,
) -> None:
    """Download ``url`` into ``part``, continuing after any bytes that ``part`` already contains.

    ``size`` is the expected number of bytes, or ``None`` if only the server knows it. In this case,
    we accept at most ``most`` bytes, because a server could go on sending forever. ``hashed`` means
    that the caller verifies a SHA-256 afterward; otherwise, we resume a partial file only if the
    server's ETag or date is unchanged. ``headers`` may contain credentials, because ``requests``
    removes them if a redirect leads to a different host. We try an unreachable host only once.
    Raises ``NotHere`` with the reason; the bytes received so far stay in ``part``.
    """
    if offline():
        raise NotHere("HELPERS_OFFLINE is set")
    failures, best = 0, _size(part)
    while True:
        try:
            return _attempt(url, part, size, headers or {}, hashed, most)
        except NotHere as reason:
            raise NotHere(f"{public(url)}: {reason}") from None
        except Again as reason:
            failures = 1 if _size(part) >= best + PROGRESS else failures + 1
            best = max(best, _size(part))
            if failures >= ATTEMPTS:
                raise NotHere(f"{public(url)}: {reason}, {failures} times in a row") from None
            reason.wait(failures)


def public(url: str) -> str:
    """Return the URL without the user name and password that a mirror's address may contain."""
    return re.sub("(?<=//)[^/?#]*@", "", url)


def get_json(url: str, headers: dict | None = None) -> Any:
    """Return the JSON data from a URL. Raises ``NotHere`` with the reason."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        download(url, answer, headers=headers, most=LISTING)
        try:
            return json.loads(answer.read_bytes())
        except (ValueError, RecursionError):
            raise NotHere(f"{public(url)}: the response is not JSON") from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mark(part: Path) -> Path:
    """Return the path of the file that stores the ETag or date of a download, for If-Range."""
    return part.with_name(f"{part.name}.etag")


def _attempt(
    url: str, part: Path, size: int | None, headers: dict, hashed: bool, most: int
) -> None:
    """Request the bytes that ``part`` lacks. Raises ``Again`` or ``NotHere``."""
    import requests  # imported here because it is slow to import

    tag = _mark(part).read_text() if _mark(part).exists() else ""
    unknown = not tag and not (hashed and size is not None)
    if unknown or (size is not None and _size(part) > size):
        part.unlink(missing_ok=True)
    have = _size(part)
    if not have or have != size:
        headers = headers | {"Accept-Encoding": "identity", "User-Agent": "biomegatron-bioasq-kit"}
        if have:
            headers |= {"Range": f"bytes={have}-"} | ({"If-Range": tag} if tag else {})
        try:
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as answer:
                _check_status(answer, part, have)
                have = have if answer.status_code == 206 else 0  # 200 means the whole file
                size = _whole_size(answer, part.parent, have, size)
                tag, date = (answer.headers.get(key, "") for key in ("ETag", "Last-Modified"))
                # A weak ETag (W/"...") does not guarantee identical bytes.
                _mark(part).write_text(tag if tag.startswith('"') else date)
                part.touch()
                os.truncate(part, have)
                _save(answer, part, size, most)
        except requests.exceptions.RequestException as error:
            if hopeless(error):
                raise NotHere(in_words(error)) from None
            raise Again(f"connection lost after {_size(part)} bytes ({in_words(error)})") from None
        if size is not None and _size(part) < size:
            raise Again(f"connection lost after {_size(part)} of {size} bytes")
    _mark(part).unlink(missing_ok=True)


def _check_status(answer, part: Path, have: int) -> None:
    """Reject a response unless it is the file, or the rest of it starting at byte ``have``."""
    check_busy(answer)
    status, start = answer.status_code, answer.headers.get("Content-Range", "")
    if status == 416 or (status == 206 and not start.startswith(f"bytes {have}-")):
        part.unlink(missing_ok=True)
        raise Again("the server did not continue where the last attempt stopped", 0)
    if status not in (200, 206):
        raise NotHere(f"HTTP {status} {answer.reason or ''}".rstrip())
    if "text/html" in answer.headers.get("Content-Type", ""):
        raise NotHere(_PAGE)


def _whole_size(answer, folder: Path, have: int, size: int | None) -> int | None:
    """Return the file's size in bytes, or None if a lost connection is detectable without it."""
    length = answer.headers.get("Content-Length", "")
    if length.isdigit() and size is None:
        check_disk(folder, int(length))
        return have + int(length)
    if length.isdigit() and have + int(length) != size:
        raise NotHere(f"the server offers {have + int(length)} bytes, but we expect {size}")
    chunked = "chunked" in answer.headers.get("Transfer-Encoding", "")  # the encoding marks its end
    if size is None and not chunked and "json" not in answer.headers.get("Content-Type", ""):
        raise NotHere("the server does not send the file's size, so we cannot verify completeness")
    return size


def _save(answer, part: Path, size: int | None, most: int) -> None:
    have = _size(part)
    title = part.name.removesuffix(".part")
    bar = tqdm(
        desc=title, total=size, initial=have, unit="B", unit_scale=True, file=progress_stream()
    )
    with bar, open(part, "ab") as out:
        for chunk in answer.iter_content(CHUNK):
            if not have and re.match(rb"\s*<(!doctype\s+)?html", chunk[:100], re.IGNORECASE):
                raise NotHere(_PAGE)
            have += len(chunk)
            if have > (most if size is None else size):
                part.unlink()
                _mark(part).unlink()
                what = f"more than {most}" if size is None else f"more than the expected {size}"
                raise NotHere(f"the server sent {what} bytes")
            out.write(chunk)
            out.flush()
            bar.update(len(chunk))


def check_busy(answer) -> None:
    """Raise ``Again`` if the status means that the server may accept the request later."""
    if answer.status_code in RETRY_STATUS:
        pause = asked_pause(answer.headers.get("Retry-After", ""))
        raise Again(f"HTTP {answer.status_code}", pause)


def asked_pause(after: str) -> float | None:
    """Return the wait in seconds from a Retry-After header, which contains seconds or a date."""
    import urllib3

    try:
        return urllib3.Retry().parse_retry_after(after)
    except urllib3.exceptions.InvalidHeader:
        return None


def hopeless(error: Exception) -> bool:
    """Return whether no connection could be established, for example to an unknown host."""
    import urllib3
    from requests import exceptions

    if error.args and isinstance(error.args[0], urllib3.exceptions.MaxRetryError):
        return True  # urllib3 raises this error if it cannot send the request
    cut = (exceptions.ConnectionError, exceptions.ReadTimeout, exceptions.ChunkedEncodingError)
    return not isinstance(error, cut)


def in_words(error: Exception) -> str:
    """Describe a connection error from requests or httpx to the user in a few words."""
    text = " ".join(str(error).split())
    for sign, words in {
        "NameResolution|[Nn]ame resolution|Name or service|nodename": "the host name is unknown "
        "(no network?)",
        "ConnectTimeout": "no connection within the time limit",
        "Connection refused": "connection refused",
        "CERTIFICATE": "this machine does not trust the server's TLS certificate",
        "ReadTimeout|Read timed out": "no response within the time limit",
    }.items():
        if re.search(sign, repr(error)):
            return words
    return f"{type(error).__name__}: {text[:160]}"


def is_archive(path: Path) -> bool:
    """Return whether a file has the content of a zip or tar archive (``.nemo`` files are tar)."""
    if not path.is_file() or path.suffix in (".pt", ".bin", ".ckpt"):
        return False  # since torch 1.6, .pt files are zip files, but we treat them as one file
    return zipfile.is_zipfile(path) or _is_tar(path)


class _Member(tarfile.TarInfo):
    """An entry of a tar archive. tarfile reads long names and attributes into memory as a whole."""

    _LONG = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
             tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)  # fmt: skip

    def _proc_member(self, file):  # tarfile's method for subclasses: read what follows the header
        if self.type in self._LONG and self.size > HEADER:
            raise Unsafe(f"a name or an attribute in it takes {self.size} bytes")
        return super()._proc_member(file)


def open_tar(path: Path) -> tarfile.TarFile:
    """Open a tar archive for reading. Raises ``Unsafe`` if a name in it is absurdly long."""
    return tarfile.open(path, tarinfo=_Member)


def _is_tar(path: Path) -> bool:
    try:
        with open_tar(path):
            return True
    except Unsafe:
        return True  # ``unpack`` refuses it
    except tarfile.TarError:
        return False


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Unpack into ``folder``, which must not exist yet and appears only once it is complete.

    Returns the paths of the files. If a single folder contains all files in the archive, we unpack
    its contents instead. Raises an ``InputError`` that names the archive and any unsafe member.
    We refuse the whole archive if it contains absolute paths, ``..``, drive letters, links,
    devices, or encrypted members, or if it is too large for a checkpoint.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as temporary:
            inside = Path(temporary) / "files"
            inside.mkdir()
            is_tar = _is_tar(archive)  # checked first: a tar file may end like a zip
            with open_tar(archive) if is_tar else zipfile.ZipFile(archive) as file:
                _extract(file, archive, inside)
            only = list(inside.iterdir())
            while len(only) == 1 and only[0].is_dir():
                inside, only = only[0], list(only[0].iterdir())
            inside.rename(folder)
    except Unsafe as reason:
        raise InputError(f"{archive}: not unpacked, because {reason}") from None
    except _DAMAGED as error:
        raise InputError(f"{archive}: the archive is damaged ({error}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{archive}: cannot be unpacked ({error.strerror or error})") from None
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _extract(file: tarfile.TarFile | zipfile.ZipFile, archive: Path, folder: Path) -> None:
    is_tar = isinstance(file, tarfile.TarFile)
    found = _tar_members(file) if is_tar else _zip_members(file)
    members = list(islice((m for m in found if not _is_shadow(m[0])), MEMBERS + 1))
    if len(members) > MEMBERS:
        raise Unsafe(f"it contains more than {MEMBERS} files")
    # Neither library reads more bytes from a member than its declared size.
    packed, total = archive.stat().st_size, sum(size for _, size, _ in members)
    if total > TOTAL or (total > SMALL and total > RATIO * packed):
        sizes = f"its {packed / 1e6:.1f} MB would unpack to {total / 1e6:.0f} MB"
        raise Unsafe(f"{sizes}, which no checkpoint does")
    check_disk(folder, total)
    taken: set[str] = set()
    with tqdm(
        desc=archive.name, total=total, unit="B", unit_scale=True, delay=1, file=progress_stream()
    ) as bar:
        for name, size, info in members:
            path = PurePosixPath(name)
            odd = not path.parts or path.is_absolute() or ".." in path.parts
            # The libraries would repair some of these names, but we do not trust such an archive.
            if odd or re.search(r"^[A-Za-z]:|[\\\x00-\x1f]", name):
                raise Unsafe(f"{name!r} is not a plain path inside the archive")
            # If macOS or Windows treats two names as the same, one file would overwrite the other.
            key = unicodedata.normalize("NFC", path.as_posix()).casefold()
            if key in taken:
                raise Unsafe(f"it contains {name!r} twice")
            taken.add(key)
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            # We keep no owner or mode. (``tarfile``'s filters need Python 3.11.4.)
            source = file.extractfile(info) if is_tar else file.open(info)
            with source, target.open("xb") as copied:
                shutil.copyfileobj(source, copied, CHUNK)
            bar.update(size)


def _is_shadow(name: str) -> bool:
    """Return whether this is one of the metadata files that macOS adds to archives."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or (bool(parts) and parts[-1].startswith("._"))


def _tar_members(file: tarfile.TarFile) -> Iterator[tuple[str, int, tarfile.TarInfo]]:
    """Yield the name, size in bytes, and entry of each regular file."""
    for info in file:
        if info.isreg():
            yield info.name, info.size, info
        elif not info.isdir():
            raise Unsafe(f"{info.name!r} is a link or a device")


def _zip_members(file: zipfile.ZipFile) -> Iterator[tuple[str, int, zipfile.ZipInfo]]:
    for info in file.infolist():
        if info.flag_bits & 1:
            raise Unsafe(f"{info.filename!r} is encrypted")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise Unsafe(f"{info.filename!r} is a link or a device")
        if not info.is_dir():
            yield info.filename, info.file_size, info


def copy(where: str | Path, found: list[Path], files: Iterable[File], target: Path) -> None:
    """Verify ``files``, which we look up by name in ``found``, and put them into ``target``.

    We move files from the target's ``INCOMING`` folder and copy all others. Raises ``NotHere``
    if ``where`` (as shown to the user) lacks a file or has one with different bytes.
    """
    for file in files:
        named = [path for path in found if path.name == file.name]
        path = next((path for path in named if file.matches(path)), None)
        if not named:
            raise NotHere(f"{where} has no {file.name}")
        if path is None:
            raise NotHere(_wrong(file, "", sha256(named[0])))
        final, part = target / file.name, target / f".{file.name}.copy"
        if final.exists() and path.samefile(final):
            continue
        try:
            if target / INCOMING not in path.parents:
                check_disk(target, file.bytes)
                path = Path(shutil.copyfile(path, part))
            path.replace(final)
        finally:
            part.unlink(missing_ok=True)


def accept(part: Path, file: File, target: Path) -> None:
    """Give a downloaded file its final name, or delete it and raise ``NotHere`` on a wrong hash."""
    if file.sha256 and not file.matches(part):
        found = sha256(part)
        part.unlink()
        raise NotHere(_wrong(file, " and was deleted", found))
    part.replace(target / file.name)


def _wrong(file: File, done: str, found: str) -> str:
    return f"{file.name} has a wrong SHA-256{done}: {found}, not {file.sha256}"
