"""Writing files: whole or not at all, and never over what is not ours to replace."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from helpers.config import InputError


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
