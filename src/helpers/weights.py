"""Weights that are mapped into memory instead of being read.

The safetensors library sorts what it writes by name, which puts a layer's query, key and value
apart, and gives each tensor a memory of its own. Written side by side and mapped as one, the three
can be used as one matrix straight from the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write float32 tensors in their given order, in the safetensors format.

    Format: 8 bytes of header length, a JSON header with each tensor's place, the numbers
    (github.com/huggingface/safetensors, README, "Format").
    """
    header: dict = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}, expected float32")
        end = place + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers start at a multiple of 8
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for tensor in tensors.values():
            out.write(tensor.detach().cpu().contiguous().numpy().data)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file; those of a file that is all float32 are mapped, not read.

    Mapped tensors can be written to, which changes memory only, never the file. Raises
    ``safetensors.SafetensorError`` and ``OSError``.
    """
    with safe_open(path, "pt") as file:  # the library checks the header: names, shapes, places
        names = file.keys()
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    start = 8 + size
    if start % 4 or any(header[name]["dtype"] != "F32" for name in names):
        return load_file(path)
    length = (path.stat().st_size - start) // 4
    numbers = torch.from_file(str(path), shared=False, size=start // 4 + length)[start // 4 :]
    tensors = {}
    for name in names:
        low, high = header[name]["data_offsets"]
        tensors[name] = numbers[low // 4 : high // 4].view(header[name]["shape"])
    return tensors


def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The parts one below the other: a view where they lie so in memory already, else a copy."""
    first = parts[0]
    start = first.data_ptr()
    for part in parts:
        if not part.is_contiguous() or part.data_ptr() != start or not _same_memory(first, part):
            return torch.cat(list(parts))
        start += part.nbytes
    rows = sum(len(part) for part in parts)
    return first.as_strided((rows, *first.shape[1:]), first.stride(), first.storage_offset())


def _same_memory(first: torch.Tensor, part: torch.Tensor) -> bool:
    return first.untyped_storage().data_ptr() == part.untyped_storage().data_ptr()
