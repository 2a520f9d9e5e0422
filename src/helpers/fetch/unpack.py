"""Archives (zip, tar, .nemo), unpacked so that nothing can be written outside one folder.

Only regular files are taken (not the shadow files of macOS), and each is written by us under a
checked relative name: absolute paths, ``..``, drive letters, links, devices and encrypted members
refuse the whole archive, as do sizes that no checkpoint has. Nothing is left behind by an archive
that was refused.
"""

from __future__ import annotations

import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm  # not tqdm.auto, whose bar freezes at 0% in a saved notebook

from helpers.config import InputError
from helpers.fetch.download import check_disk

_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)
CHUNK = 1 << 20  # bytes
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
                    while chunk := source.read(CHUNK):
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
