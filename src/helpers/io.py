"""Read and write UTF-8 files (completely or not at all), hash files, and measure free memory."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

import filelock

from helpers.config import InputError

_OTHER_FORMATS = (  # first bytes, what the file is, what to do
    (b"\x1f\x8b", "a gzip file", "unpack it with gunzip -c FILE > NEW.json"),
    (b"PK\x03\x04", "a zip file", "unpack it with unzip FILE"),
    (b"BZh", "a bzip2 file", "unpack it with bunzip2 -k FILE"),
    (b"\xfd7zXZ\x00", "an xz file", "unpack it with xz -dk FILE"),
    (b"(\xb5/\xfd", "a zstd file", "unpack it with zstd -dk FILE"),
    (b"7z\xbc\xaf'\x1c", "a 7-Zip archive", "unpack it with 7z x FILE"),
    (b"PAR1", "a Parquet file", "export it as JSON, for example with pandas"),
    (b"%PDF", "a PDF file", "specify the JSON file"),
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with git lfs pull"),
)


def progress_stream() -> TextIO:
    """Return the stream for progress bars: standard error, or standard output in a notebook.

    Jupyter shows all text from standard error on a pink background, as if it were a problem.
    """
    # Programs that only start kernels also import ipykernel, but not this module of it.
    return sys.stdout if "ipykernel.kernelapp" in sys.modules else sys.stderr


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file without its byte order mark.

    Any other file raises an ``InputError`` that explains what the file is (text in a different
    encoding, a compressed file, a web page) and how to convert it. We never guess an encoding,
    because a wrong guess would silently change Greek letters and quotation marks.
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; specify a file in it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    for start, what, remedy in _OTHER_FORMATS:
        if raw.startswith(start):
            raise InputError(f"{path}: is {what}, not text; {remedy}")
    encoding = json.detect_encoding(raw).upper()  # based on the byte order mark or zero bytes
    if not encoding.startswith("UTF-8"):
        encoding = re.sub("-([BL]E)$", r"\1", encoding)  # as iconv spells it
        raise InputError(
            f"{path}: is in {encoding}, not UTF-8; convert it with iconv -f {encoding} -t UTF-8 "
            "FILE > NEW.json"
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


def _not_utf8(raw: bytes, error: UnicodeDecodeError) -> str:
    place = f"line {raw.count(10, 0, error.start) + 1}, byte {error.start}"
    if error.reason == "unexpected end of data":
        return f"ends in the middle of a character ({place}); download it again"
    if not raw[: error.start].removeprefix(b"\xef\xbb\xbf").isascii():
        return f"is only partly UTF-8 ({place} is damaged or not UTF-8); repair the text there"
    near = raw[max(0, error.start - 20) : error.start + 20]
    try:
        shown = near.decode("cp1252")
    except UnicodeDecodeError:
        return f"is not UTF-8 ({place}); save it as UTF-8 in the program that wrote it"
    return (
        f"is not UTF-8 ({place}); if {shown!r} looks right, the file is in Windows-1252, so "
        "convert it with iconv -f CP1252 -t UTF-8 FILE > NEW.json"
    )


def check_outputs(
    outputs: Iterable[str | Path | None], inputs: Iterable[str | Path | None] = ()
) -> None:
    """Before any work is done, refuse outputs that we cannot write or that would destroy a file.

    An output must not be an input, another output, a folder, or a special file such as a device,
    and we must have permission to write to it. ``None`` means no such output or input.
    """
    taken = {os.path.realpath(path) for path in inputs if path is not None}
    for path in (path for path in outputs if path is not None):
        real = str(_writable(path))
        if real in taken:
            raise InputError(f"{path}: would be overwritten; give each output its own name")
        taken.add(real)


_waiting: ContextVar[list[tuple[Path, Path]] | None] = ContextVar("waiting", default=None)


@contextmanager
def all_or_none() -> Iterator[None]:
    """At the end of the block, rename all files written in it into place, or none of them.

    If the disk fills up before the last file is complete, no partial result remains and no old file
    is lost.
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
    """Write UTF-8 text in one step, so that readers see either the old file or the whole new file.

    A symbolic link stays a link, and we replace the file that it points to. In an ``all_or_none``
    block, the file gets its final name at the end of the block.
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
        raise InputError(f"{path}: cannot encode an unpaired surrogate ({error.reason})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        if not kept and os.path.isfile(part):  # False if the name is too long
            part.unlink()
    return Path(path)


def write_json(path: str | Path, data: Any) -> Path:
    """Write ``data`` as readable UTF-8 JSON in one step."""
    return write_text(path, json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def _writable(path: str | Path) -> Path:
    """Return the real path of an output. Raises ``InputError`` if we cannot write a file there."""
    if not str(path):
        raise InputError("output: the name is empty; specify a file name")
    real = Path(os.path.realpath(path))
    if os.path.isdir(real):
        raise InputError(f"{path}: cannot be written (Is a directory); specify a file in it")
    # The target of /dev/stdout may be a pipe without a name, so we also check the path as given.
    if any(os.path.exists(name) and not os.path.isfile(name) for name in (real, path)):
        raise InputError(f"{path}: is a device or another special file; specify a regular file")
    above = next(folder for folder in real.parents if folder.exists())
    if not above.is_dir():
        raise InputError(f"{path}: cannot be written, because {above} is a file; use a folder")
    if not os.access(above, os.W_OK):
        raise InputError(f"{path}: cannot be written without write permission in {above}")
    return real


def hold(lock: Path, patience: float = 0) -> AbstractContextManager | None:
    """Create and lock a file until the returned context or this process ends.

    Returns ``None`` if another process still holds the lock after ``patience`` seconds. Remove the
    file only while you hold the lock: filelock notices if the file that it locked was removed.
    """
    try:
        return filelock.FileLock(lock).acquire(timeout=patience)
    except filelock.Timeout:
        return None


def out_of_memory(error: Exception | str) -> bool:
    """Return whether an error, or its text, means that memory ran out, on any device."""
    signs = ("out of memory", "t allocate memory", "failed to map segment")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def free_memory(swap: bool = False) -> int:
    """Return the number of bytes that a new program can use."""
    import psutil  # imported here because the GPU benchmark runs without it

    free = psutil.virtual_memory().available + (psutil.swap_memory().free if swap else 0)
    try:  # psutil does not see the limit of a container
        folder = Path("/sys/fs/cgroup")
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used -= int(stat["inactive_file"])  # file cache, which the kernel frees on demand
        return min(free, max(0, limit - used))
    except (OSError, ValueError, KeyError):  # not in a container, or the limit is "max"
        return free


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits, reading the file in pieces."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from None


def hashes(path: str | Path) -> dict[str, str]:
    """Map the full path of a file, or of each file directly in a folder, to its SHA-256."""
    path = Path(path).resolve()
    found = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return {str(p): sha256(p) for p in found}
