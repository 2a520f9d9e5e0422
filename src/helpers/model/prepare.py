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
from helpers.fetch.registry import cache_folder
from helpers.model import (
    checkpoints,
    decoding,
    encoder,
    features,
    megatron,
    model_card,
    names,
    qkv,
    row_order,
    spelling,
    weights,
)

# The modules that decide what a conversion holds: a change in one of them is a new conversion.
CONVERTING = (checkpoints, encoder, features, names, megatron, model_card, decoding, row_order, qkv,
              registry, spans, spelling, weights)  # fmt: skip


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
    folder = cache_folder() / "converted" / f"{path.stem}-{name}"
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
    """SHA-256 of the converting modules' sources and of the questions that decide the row order."""
    sources = [Path(module.__file__) for module in CONVERTING] + [row_order.QUESTIONS]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
