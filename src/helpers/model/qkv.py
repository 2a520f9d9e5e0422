"""The three historical row orders of Megatron's query-key-value matrix.

Megatron-LM changed the order twice without a change of shape (``checkpoint_version`` in
``megatron/checkpointing.py``, ``fix_query_key_value_ordering``):

======= ====================== =======================================================
version rows run over           since
======= ====================== =======================================================
0       [3, heads, dimension]  the first release; all queries, then keys, then values
1.0     [heads, dimension, 3]  2020
2.0     [heads, 3, dimension]  2021
======= ====================== =======================================================

Loading one as another raises no error and ruins every answer (NeMo pull request 3435).
"""

from __future__ import annotations

import torch

# order: the axes of its view [.., .., .., hidden] that make [3, heads, dimension, hidden]
_AXES = {"0": (0, 1, 2), "1.0": (2, 0, 1), "2.0": (1, 0, 2)}
ORDERS = tuple(_AXES)


def to_ours(rows: torch.Tensor, heads: int, order: str) -> torch.Tensor:
    """Rows ``[3 × hidden, ...]`` of a given order, as all queries, then keys, then values."""
    return _permute(rows, heads, _shape(rows, heads, order), _AXES[order])


def from_ours(rows: torch.Tensor, heads: int, order: str) -> torch.Tensor:
    """The inverse of ``to_ours``."""
    axes = _AXES[order]
    inverse = tuple(axes.index(axis) for axis in range(3))
    return _permute(rows, heads, _shape(rows, heads, "0"), inverse)


def _shape(rows: torch.Tensor, heads: int, order: str) -> tuple[int, int, int]:
    ours = (3, heads, rows.shape[0] // (3 * heads))
    shape = [0, 0, 0]
    for size, axis in zip(ours, _AXES[order], strict=True):
        shape[axis] = size
    return tuple(shape)


def _permute(rows, heads: int, shape, axes) -> torch.Tensor:
    rest = rows.shape[1:]
    order = (*axes, *range(3, 3 + len(rest)))
    return rows.reshape(*shape, *rest).permute(order).reshape(rows.shape)
