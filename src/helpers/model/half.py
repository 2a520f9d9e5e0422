"""Check whether bfloat16 is faster on this CPU, and prepare weights to predict in bfloat16.

Without bfloat16 instructions, autocast takes more than 20 times as long as float32. We therefore
check first whether the CPU has these instructions, and time an encoder layer only if it does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from helpers.model.encoder import EncoderConfig, Layer, SpanModel
from helpers.model.features import Batch

# PyTorch's names for AVX512_BF16 and AMX on x86, and for BF16 and its vector form on ARM.
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "amx_tile", "bf16", "sve_bf16")
_AT_LEAST = 1.2  # the speedup that makes bfloat16 worth its rounding errors
_LENGTHS = (70,) * 3 + (90,) * 2  # tokens per window, as in a few BioASQ snippets


@dataclass(frozen=True)
class Check:
    """Whether to use bfloat16 on this CPU, and why.

    instructions: PyTorch's names for the CPU's bfloat16 instructions; empty if there are none.
    ratio: float32 time divided by bfloat16 time for the forward and backward pass of one layer.
    None if the CPU has no such instructions, because we then skip the measurement.
    """

    instructions: tuple[str, ...]
    ratio: float | None

    @property
    def faster(self) -> bool:
        return self.ratio is not None and self.ratio >= _AT_LEAST


def check_bf16() -> Check:
    """Look for bfloat16 instructions and, if the CPU has any, measure the speedup."""
    found = bf16_instructions()
    return Check(found, bf16_ratio() if found else None)


def bf16_instructions() -> tuple[str, ...]:
    """Return the CPU's bfloat16 instructions; none for unknown CPUs or old PyTorch versions."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return tuple(name for name in _INSTRUCTIONS if capabilities.get(name, False))


@torch.inference_mode(False)  # callers may use inference mode, but we need gradients
def bf16_ratio(seconds: float = 0.25) -> float:
    """Return the speedup of bfloat16 autocast over float32 for one layer on the CPU.

    For about ``seconds`` in total, we alternate between the two precisions and time the forward and
    backward pass of a layer of size 384. The speedup compares the fastest times. The random state
    does not change.
    """
    with torch.random.fork_rng(devices=[]):
        layer = Layer(EncoderConfig(hidden=384, heads=12, feed_forward=1536))
        x = torch.randn(sum(_LENGTHS), 384, requires_grad=True)
    none = torch.zeros(len(x), dtype=torch.int64)
    batch = Batch.pack(none, none, none, _LENGTHS, none, none)
    half = partial(torch.autocast, "cpu", torch.bfloat16)
    modes = {"float32": partial(half, enabled=False), "bf16": half}
    fastest = dict.fromkeys(modes, float("inf"))
    begin, rounds = time.perf_counter(), 0
    with torch.enable_grad():
        while rounds < 3 or time.perf_counter() - begin < seconds:  # the first is a warm-up
            for name, mode in modes.items():
                start = time.perf_counter()
                with mode():
                    out = layer(x, batch)
                out.float().sum().backward()
                fastest[name] = min(fastest[name], time.perf_counter() - start)
            rounds += 1
    return fastest["float32"] / fastest["bf16"]


@contextmanager
def prepared_weights(model: SpanModel) -> Iterator[None]:
    """Predict in bfloat16 on a CPU with weights that are converted and reordered once.

    Each linear layer of the encoder calls the kernel that torch.compile would choose. This kernel
    reads reordered weights and includes the bias and GELU. Prediction was 1.1 times as fast as with
    autocast alone (6 x 384, batches of 4,096 tokens, AVX512_BF16). The copies take 2 bytes per
    weight, and the model is unchanged afterwards. Use this function only inside
    ``torch.inference_mode()`` and bfloat16 autocast, with a model in evaluation mode.
    """
    changed = []
    try:
        for layer in model.encoder.layers:
            up, down = _prepare(layer.up, "gelu", layer.approximate), _prepare(layer.down)
            for part, name, function in (
                (layer.attention.qkv, "forward", _prepare(layer.attention.qkv)),
                (layer.attention.out, "forward", _prepare(layer.attention.out)),
                (layer, "mlp", lambda x, up=up, down=down: down(up(x))),
            ):
                setattr(part, name, function)
                changed.append((part, name))
        yield
    finally:
        for part, name in changed:
            delattr(part, name)  # makes the method of the class visible again


def _prepare(linear: torch.nn.Linear, activation: str = "none", approximate: str = ""):
    """Return a function that computes ``linear`` and then an activation, in bfloat16."""
    weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().bfloat16())
    bias = linear.bias.detach().bfloat16()
    product = torch.ops.mkldnn._linear_pointwise
    return lambda x: product(x.bfloat16(), weight, bias, activation, [], approximate)
