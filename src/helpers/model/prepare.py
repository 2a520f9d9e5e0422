"""Megatron's files as a transformers folder, converted once and kept beside the fetched files.

Finding the row order takes a moment and old pickles have to be read whole; the folder that comes
out is mapped into memory at once and needs no evidence any more.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from helpers.config import Settings
from helpers.data import spans
from helpers.fetch import registry
from helpers.fetch.files import locked
from helpers.model import checkpoints, megatron, row_order


def prepare(path: str | Path, settings: Settings) -> Path:
    """The folder to load instead of a checkpoint of Megatron's; any other path comes back as it is.

    The folder lies in the cache, under a name that follows from the checkpoint's bytes, from
    ``settings.qkv_order`` and from the code that converts, so another file or order, or a newer
    version of the kit, makes a new folder. Raises ``InputError`` as ``checkpoints.load`` does.
    """
    path = Path(path)
    if not checkpoints.is_foreign(path):
        return path
    hashes = megatron.hashes(path)
    told = f"{sorted(hashes.values())} {settings.qkv_order} {_code()}"
    name = hashlib.sha256(told.encode()).hexdigest()[:16]
    folder = registry.cache_folder() / "converted" / f"{path.stem}-{name}"
    if (folder / "config.json").is_file():
        return folder
    with locked(folder.parent, path.name):
        for stale in folder.parent.glob(".saving-*"):  # of a process that was killed
            shutil.rmtree(stale, ignore_errors=True)
        if not (folder / "config.json").is_file():  # another process may have made it meanwhile
            reader = checkpoints.load(path, settings)
            checkpoints.save_transformers(reader, folder, with_head=not reader.fresh_head)
    return folder


def _code() -> str:
    """SHA-256 of the code that decides what a conversion holds: this room, and what it reads."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    sources += [Path(spans.__file__), Path(registry.__file__), row_order.QUESTIONS]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
