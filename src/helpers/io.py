"""Text files: written whole or not at all, never over what is not ours, and read as UTF-8 only.

How much memory a computation may take, in bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from helpers.config import InputError

_OTHER_FORMATS = (  # first bytes, what the file is, what to do
    (b"\x1f\x8b", "a gzip file", "unpack it: gunzip -c FILE > NEW.json"),
    (b"PK\x03\x04", "a zip file", "unpack it: unzip FILE"),
    (b"BZh", "a bzip2 file", "unpack it: bunzip2 -k FILE"),
    (b"\xfd7zXZ\x00", "an xz file", "unpack it: xz -dk FILE"),
    (b"(\xb5/\xfd", "a zstd file", "unpack it: zstd -dk FILE"),
    (b"7z\xbc\xaf'\x1c", "a 7-Zip archive", "unpack it: 7z x FILE"),
    (b"PAR1", "a Parquet file", "export it as JSON, for example with pandas"),
    (b"%PDF", "a PDF file", "give the JSON file"),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
)
_UNICODE = (  # marks at the start of a file, the longer ones first
    (b"\xff\xfe\x00\x00", "UTF-32"), (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"),
)  # fmt: skip


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, a byte order mark at its start left out.

    Anything else is an ``InputError`` that names what the file is (another encoding, a packed
    file, a web page) and how to convert it. Nothing is guessed: a wrong encoding would change
    Greek letters and quotation marks without an error.
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; name one file in it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    for start, what, remedy in _OTHER_FORMATS:
        if raw.startswith(start):
            raise InputError(f"{path}: is {what}, not text; {remedy}")
    wide = next((name for mark, name in _UNICODE if raw.startswith(mark)), _without_mark(raw))
    if wide:
        raise InputError(
            f"{path}: is in {wide}, not UTF-8; convert it: iconv -f {wide} -t UTF-8 FILE > NEW.json"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {_not_utf8(raw, error)}") from None
    if text.lstrip()[:5].lower() in ("<html", "<!doc"):
        raise InputError(
            f"{path}: is a web page, perhaps a login page; sign in and download the file again"
        )
    return text


def _without_mark(raw: bytes) -> str:
    """UTF-16 or UTF-32 without a mark: a JSON text begins with ASCII, so zeros stand beside it."""
    zeros = tuple(byte == 0 for byte in raw[:4])
    names = {
        (False, True, False, True): "UTF-16LE", (True, False, True, False): "UTF-16BE",
        (False, True, True, True): "UTF-32LE", (True, True, True, False): "UTF-32BE",
    }  # fmt: skip
    return names.get(zeros, "")


def _not_utf8(raw: bytes, error: UnicodeDecodeError) -> str:
    place = f"line {raw.count(10, 0, error.start) + 1}, byte {error.start}"
    if error.reason == "unexpected end of data":
        return f"ends in the middle of a character ({place}); download it again"
    if not raw[: error.start].removeprefix(b"\xef\xbb\xbf").isascii():
        return f"is UTF-8 in part only, damaged or mixed at {place}; repair the text there"
    near = raw[max(0, error.start - 20) : error.start + 20]
    try:
        shown = near.decode("cp1252")
    except UnicodeDecodeError:
        return f"is not UTF-8 ({place}); save it as UTF-8 in the program that wrote it"
    return (
        f"is not UTF-8 ({place}); if {shown!r} reads well, it is in Windows-1252: "
        "iconv -f CP1252 -t UTF-8 FILE > NEW.json"
    )


def check_outputs(
    outputs: Iterable[str | Path | None], inputs: Iterable[str | Path | None] = ()
) -> None:
    """Refuse outputs that cannot be written or would destroy something, before any work is done.

    An output must not be an input, another output, a folder, or a special file such as a device,
    and some folder above it must be writable. ``None`` stands for an output or input not given.
    """
    read = {_real(path) for path in inputs if path is not None}
    taken: set[Path] = set()
    for path in (path for path in outputs if path is not None):
        real = _writable(path)
        if real in read or real in taken:
            raise InputError(f"{path}: would be overwritten; give each output a name of its own")
        taken.add(real)


_waiting: ContextVar[list[tuple[Path, Path]] | None] = ContextVar("waiting", default=None)


@contextmanager
def all_or_none() -> Iterator[None]:
    """Files written inside get their names together at the end, or none of them does.

    So a full disk at the last file leaves no half of a result, and no old file is lost to it.
    """
    waiting: list[tuple[Path, Path]] = []
    token = _waiting.set(waiting)
    try:
        yield
        for part, real in waiting:
            try:
                os.replace(part, real)
            except OSError as error:
                raise InputError(f"{real}: cannot be written ({error.strerror})") from None
    finally:
        _waiting.reset(token)
        for part, _ in waiting:
            part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text in one step: readers see the old file or the whole new one.

    A symbolic link stays a link; the file it leads to is replaced. Inside ``all_or_none`` the
    file gets its name at the end of that.
    """
    real = _writable(path)
    part = real.with_name(f".{real.name}.{os.getpid()}.part")
    waiting, kept = _waiting.get(), False
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(text.encode("utf-8"))
        if waiting is None:
            os.replace(part, real)
        else:
            waiting.append((part, real))
            kept = True
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: cannot write half a character ({error.reason})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        if not kept and os.path.isfile(part):  # which takes a name that is too long for no file
            part.unlink()
    return Path(path)


def write_json(path: str | Path, data: Any) -> Path:
    """Write ``data`` as readable UTF-8 JSON in one step."""
    return write_text(path, json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _writable(path: str | Path) -> Path:
    """Where a file of this name really goes; ``InputError`` when none can or may go there."""
    if not str(path):
        raise InputError("output: the name is empty; give a file name")
    real = _real(path)
    if os.path.isdir(real):
        raise InputError(f"{path}: cannot be written (Is a directory); name a file in it")
    # A pipe behind /dev/stdout has no name of its own, so the path as given is asked as well.
    if any(os.path.exists(name) and not os.path.isfile(name) for name in (real, path)):
        raise InputError(f"{path}: is a device or another special file; name a regular file")
    above = next(folder for folder in real.parents if folder.exists())
    if not above.is_dir():
        raise InputError(f"{path}: cannot be written, {above} is a file; name another folder")
    if not os.access(above, os.W_OK):
        raise InputError(f"{path}: cannot be written, no permission in {above}")
    return real


def free_memory(swap: bool = False) -> int | None:
    """Bytes that a new program can use, or None; psutil comes with Jupyter's kernel."""
    try:
        import psutil
    except ImportError:
        return None
    free = psutil.virtual_memory().available + (psutil.swap_memory().free if swap else 0)
    try:  # a container's own limit, which psutil does not see
        folder = Path("/sys/fs/cgroup")
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used -= int(stat["inactive_file"])  # files it has read; they go when room is needed
        return min(free, max(0, limit - used))
    except (OSError, ValueError, KeyError):  # no container, or "max"
        return free


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
