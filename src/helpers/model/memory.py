"""How much memory training and prediction take, computed from a model's configuration.

Training keeps the weights, their gradients and Adam's two moments, which together take 16 bytes per
parameter. It also keeps the *activations*, which are the tensors that autograd saves in the forward
pass for the backward pass. We count the activations tensor by tensor. ``layer_tensors`` lists those
of one layer, and a test compares the list with what autograd actually saves.
``benchmarks/memory.py`` compares the total with the measured peak of a process. We compute
everything except the memory that the CPU's allocator wastes, which we measured (see ``HOLES``).

The estimate is for one device. It describes the end of the forward pass in any step after the
first. At this point, the gradients of the previous step still exist, because Lightning clears them
only after the forward pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from helpers.model.encoder import EncoderConfig, attention_path
from helpers.model.features import split_batch

_FLOAT, _INT = 4, 8  # bytes
_HALF = ("bf16", "16")
# On a CPU, glibc places blocks below 32 MiB in one heap. Tensors that live longer than their
# neighbors, such as gradients, leave holes there that are too small for the next large tensor. The
# size of these holes does not follow from the model and varies by 10% from run to run, so we
# measured it (glibc 2.36, PyTorch 2.13). In training, it is a multiple of one layer's activations;
# the multiple depends on activation checkpointing. In prediction, it is a share of the live memory.
# These are the only measured constants. With them, the estimate was within 15% of the peak in 91 of
# 100 cases with models of four sizes, and within 20% in all but two, both with a tiny model
# (docs/results/memory.json).
HOLES = {False: 2.6, True: 3.0}
PREDICTION_HOLES = 0.65
_CPU = ("by length", "products")  # attention paths on a CPU
_MAPPED = 32 * 2**20


@dataclass(frozen=True)
class Memory:
    """Peak memory on one device, in bytes; ``total`` is the sum of all parts.

    weights: float32, at every precision.
    half_weights: the 16-bit copies of the linear layers' weights that autocast keeps.
    gradients: float32. moments: Adam's two averages per weight, float32.
    activations: the most that the backward pass needs; in prediction, the most that a layer needs.
    temporary: the largest temporary results in the backward pass of one layer.
    allocator: memory that the CPU's allocator cannot reuse (see ``HOLES``); 0 on a GPU.
    """

    weights: int
    half_weights: int
    gradients: int
    moments: int
    activations: int
    temporary: int
    allocator: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Tensors:
    """``count`` tensors of ``size`` bytes each that are kept for the backward pass."""

    name: str
    size: int
    count: int = 1


def parameters(config: EncoderConfig) -> tuple[int, int]:
    """Return the total number of parameters and the number of weights in linear layers."""
    h, f = config.hidden, config.feed_forward
    linear = config.layers * (4 * h * h + 2 * h * f) + 2 * h
    biases_and_norms = config.layers * (4 * h + f + h + 4 * h) + 2 + 2 * h
    embeddings = (config.vocab_size + config.positions + config.token_types) * h
    return linear + biases_and_norms + embeddings, linear


def forward_flops(config: EncoderConfig, lengths: Sequence[int]) -> float:
    """Return the floating-point operations of a forward pass over windows of these lengths.

    We count the linear layers, the span head and the two products of attention. A training step
    takes three times as many, because the gradients of the inputs and of the weights each
    take one more product.
    """
    h, f, lengths = config.hidden, config.feed_forward, np.asarray(lengths, float)
    per_token = config.layers * (8 * h * h + 4 * h * f) + 4 * h
    return float(per_token * lengths.sum() + 4 * config.layers * h * (lengths**2).sum())


def training_memory(
    config: EncoderConfig,
    lengths: Sequence[int],
    *,
    precision: str = "32",
    dropout: float = 0.0,
    activation_checkpointing: bool = False,
    accumulate: int = 1,
    path: str = "",
) -> Memory:
    """Return the memory for a training step on a batch of windows with these ``lengths``.

    Only the largest of the ``accumulate`` parts of the batch counts. ``precision``, ``dropout`` and
    ``activation_checkpointing`` are the settings with these names, except that ``precision`` cannot
    be ``"auto"``. ``path`` is a result of ``encoder.attention_path``, by default the one for a CPU.
    """
    lengths, path = np.asarray(lengths), path or _cpu_path(precision, dropout)
    parts = [lengths[rows] for rows, _ in split_batch(range(len(lengths)), lengths, accumulate)]
    most = replace(config, dropout=dropout)
    found = [_training(most, part, precision, activation_checkpointing, path) for part in parts]
    return max(found, key=lambda memory: memory.total)


def prediction_memory(
    config: EncoderConfig, lengths: Sequence[int], *, precision: str = "32", path: str = ""
) -> Memory:
    """Return the memory for predicting a batch of windows with these ``lengths``.

    The peak occurs inside GELU or inside attention, because the variables of ``Layer.forward`` keep
    their values until it returns. The residual sum ``x`` and the outputs of LayerNorm are float32.
    Everything else has the precision of the linear layers.
    """
    half, path = precision in _HALF, path or _cpu_path(precision, 0.0)
    all_weights, linear = parameters(config)
    size, tokens = (2 if half else 4), int(np.sum(lengths))
    rows = _rows(lengths, path)
    hidden, cast = tokens * config.hidden, tokens * config.hidden * 2 * half
    mlp = [hidden * _FLOAT] * 3 + [hidden * size, cast] + [tokens * config.feed_forward * size] * 2
    attention = [hidden * _FLOAT] * 2 + [cast, 3 * hidden * size, hidden * size]
    attention += [rows * config.hidden * size] * (4 if path == "padded" else 1)
    if path == "products":  # scores, their softmax in float32, and the weights, per pair of tokens
        pairs = config.heads * int((np.asarray(lengths, int) ** 2).sum())
        attention += [pairs * size, pairs * _FLOAT, pairs * size]
    live = max(mlp, attention, key=sum)
    heap = sum(block for block in live if block < _MAPPED) if path in _CPU else 0
    return Memory(
        weights=_FLOAT * all_weights,
        half_weights=2 * linear * half,
        gradients=0,
        moments=0,
        activations=sum(live) + tokens * 4 * _INT,
        temporary=0,
        allocator=round(PREDICTION_HOLES * heap),
    )


def _cpu_path(precision: str, dropout: float) -> str:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return attention_path(torch.device("cpu"), dtype, dropout)


def _training(config, lengths, precision, checkpointing, path) -> Memory:
    half = precision in _HALF
    all_weights, linear = parameters(config)
    tokens, size = int(lengths.sum()), 2 if half else 4
    layer = layer_tensors(config, lengths, precision, path)
    once = encoder_tensors(config, lengths, precision, path)
    if checkpointing:  # each layer keeps its input, and one layer at a time keeps everything
        inputs = Tensors("inputs of the layers", _FLOAT * tokens * config.hidden, config.layers - 1)
        kept = [*once, inputs, *layer]
    else:
        kept = [*once, *(replace(t, count=t.count * config.layers) for t in layer)]
    # The gradients of GELU's output and of the residual sum, before anything is freed.
    temporary = size * tokens * config.feed_forward + _FLOAT * tokens * config.hidden
    heap = _bytes(layer, below=_MAPPED) if path in _CPU else 0
    return Memory(
        weights=_FLOAT * all_weights,
        half_weights=2 * linear * half,
        gradients=_FLOAT * all_weights,
        moments=2 * _FLOAT * all_weights,
        activations=_bytes(kept),
        temporary=temporary,
        allocator=round(HOLES[checkpointing] * heap),
    )


def _bytes(kept: Sequence[Tensors], below: float = math.inf) -> int:
    return sum(t.size * t.count for t in kept if t.size < below)


def _rows(lengths: Sequence[int], path: str) -> int:
    """Return the number of tokens that attention processes, including padding."""
    return int(len(lengths) * np.max(lengths) if path == "padded" else np.sum(lengths))


def layer_tensors(
    config: EncoderConfig, lengths: Sequence[int], precision: str, path: str
) -> list[Tensors]:
    """List the tensors, except weights, that autograd saves in one layer for these windows.

    LayerNorms work in float32 at every precision, so they keep float32 inputs. In mixed precision,
    autocast makes 16-bit copies for the linear layers. Dropout keeps a floating-point mask on a CPU
    and a byte mask on a GPU.
    """
    size = 2 if precision in _HALF else 4
    tokens, h, f = int(np.sum(lengths)), config.hidden, config.feed_forward
    kept = [
        Tensors("inputs of the two LayerNorms (residual sums)", _FLOAT * tokens * h, 2),
        Tensors("means and standard deviations of the two LayerNorms", _FLOAT * tokens, 4),
        Tensors("inputs of the linear layers qkv, out and up", size * tokens * h, 3),
        Tensors("input of GELU", size * tokens * f),
        Tensors("input of the linear layer down", size * tokens * f),
    ]
    if config.dropout:
        mask = size if path in _CPU else 1
        kept.append(Tensors("dropout masks of the two residual sums", mask * tokens * h, 2))
    return kept + _attention_tensors(config, lengths, size, path)


def _attention_tensors(config, lengths, size, path) -> list[Tensors]:
    """List the tensors that attention saves between the linear layers qkv and out.

    A fused kernel keeps its inputs, its output and the logarithm of the sum of exponentials for
    each token and head. The backward pass recomputes the attention weights from these. The CPU's
    kernel does not support dropout. With dropout, PyTorch therefore computes step by step in
    float32 and keeps the weights before dropout, the dropout mask and the weights after dropout.
    """
    tokens, rows, h = int(np.sum(lengths)), _rows(lengths, path), config.hidden
    if path == "by length" and config.dropout:
        runs = [
            (len(list(run)), length)
            for length, run in itertools.groupby(np.asarray(lengths).tolist())
        ]
        kept = [Tensors("scaled queries and keys", _FLOAT * tokens * h, 2)]
        for count, length in runs:
            pairs = count * length * length * config.heads
            kept.append(Tensors("weights before and after dropout, mask", _FLOAT * pairs, 3))
            if count > 1 or size < _FLOAT:
                kept.append(Tensors("values of a run", _FLOAT * count * length * h))
        if size == _FLOAT and any(count == 1 for count, _ in runs):
            # The values of a single window are a view, which keeps all of qkv's output in memory.
            kept.append(Tensors("queries, keys and values", _FLOAT * tokens * 3 * h))
        return kept
    if path == "products":
        pairs = int((np.asarray(lengths, int) ** 2).sum()) * config.heads
        return [
            Tensors("queries, keys and values", size * tokens * 3 * h),
            Tensors("attention weights", size * pairs),
        ]
    kept = [
        Tensors("queries, keys and values", size * tokens * 3 * h),
        Tensors("log-sum-exp", _FLOAT * rows * config.heads),
    ]
    if path == "padded":
        kept.append(Tensors("padded queries, keys, values and output", size * rows * h, 4))
        kept.append(Tensors("additive mask", size * rows))
    elif path == "by length":  # ``torch.cat`` copies the output; ``out`` keeps the copy
        kept.append(Tensors("output of the kernel", size * tokens * h))
    return kept


def encoder_tensors(
    config: EncoderConfig, lengths: Sequence[int], precision: str, path: str
) -> list[Tensors]:
    """List the tensors of the batch and those that autograd saves outside the layers."""
    size = 2 if precision in _HALF else 4
    tokens, h = int(np.sum(lengths)), config.hidden
    kept = [
        Tensors("ids, token types, positions and slots", _INT * tokens, 4),
        Tensors("input of the encoder's LayerNorm", _FLOAT * tokens * h),
        Tensors("means and standard deviations of this LayerNorm", _FLOAT * tokens, 2),
        Tensors("input of the span head", size * tokens * h),
        Tensors("logits", _FLOAT * tokens * 2),
    ]
    if config.dropout:
        mask = _FLOAT if path in _CPU else 1
        kept.append(Tensors("dropout mask of the embeddings", mask * tokens * h))
    return kept


def gpu_path(precision: str, dropout: float) -> str:
    """Return how a GPU with compute capability 8.0 computes attention in training."""
    return "variable length" if precision in _HALF and not dropout else "padded"
