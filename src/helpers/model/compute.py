"""Where and how a run computes: the device, the precision and the number of devices.

``decide`` turns the settings ``device``, ``precision`` and ``devices`` into a ``Compute``.
Training, prediction, dev scores, the row-order check and the widget all use the ``Compute`` of
their reader, so they cannot disagree. The weights are float32 at every precision. ``bf16`` and
``16`` (float16) are mixed precision, in which matrix products and attention run in 16 bits
(Micikevicius et al. 2018).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache, partial

import torch

from helpers.config import InputError, Settings
from helpers.model.encoder import EncoderConfig, Layer, SpanModel, attention_path
from helpers.model.features import Batch

_HALF = {"bf16": torch.bfloat16, "16": torch.float16}
# Lightning's names. TF32 is a mode of float32 products (see ``Compute.prepare``).
LIGHTNING = {"32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
_AMPERE = (8, 0)  # compute capability of the A100, the first GPU with bf16 and TF32
# PyTorch's names for AVX512_BF16 and AMX on x86, and for BF16 and its vector form on ARM.
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "amx_tile", "bf16", "sve_bf16")
_AT_LEAST = 1.2  # the speedup that makes bfloat16 worth its rounding errors
_LENGTHS = (70,) * 3 + (90,) * 2  # tokens per window, as in a few BioASQ snippets


@dataclass(frozen=True)
class Compute:
    """Where and how to compute.

    device: a PyTorch device, such as "cpu" or "cuda:0".
    precision: "32", "tf32", "bf16" or "16".
    devices: number of processes, each on its own device.
    reason: why ``auto`` chose this device and precision; "" if the settings specify both.
    """

    device: str = "cpu"
    precision: str = "32"
    devices: int = 1
    reason: str = ""

    def autocast(self) -> AbstractContextManager:
        """Return a context manager that runs matrix products in this precision."""
        if self.precision not in _HALF:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, _HALF[self.precision])

    def prediction(self, model: SpanModel) -> AbstractContextManager:
        """Return a context manager for prediction: no gradients, and weights cast only once.

        In inference mode, autocast would cast all weights again for each batch (PyTorch 2.13).
        """
        stack = ExitStack()
        own = (self.device, self.precision) == ("cpu", "bf16")
        cached = self.precision in _HALF and not own
        stack.enter_context(torch.no_grad() if cached else torch.inference_mode())
        stack.enter_context(self.autocast())
        if own:
            stack.enter_context(prepared_weights(model))
        return stack

    def prepare(self) -> None:
        """Set PyTorch's global modes: TF32 if ``precision`` is "tf32", and no cuDNN attention.

        On an H100 or H200, PyTorch 2.11 and later prefer cuDNN for padded rows in half precision.
        cuDNN plans its work again for each new batch shape, and our batches rarely share a shape.
        On an H200, a training step of BioMegatron with dropout on 12 snippets took 146 ms in
        bf16 with cuDNN and 65 ms without it.
        """
        torch.backends.cuda.enable_cudnn_sdp(False)
        torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")

    def attention(self, dropout: float = 0.0) -> str:
        """Return the attention path (see ``encoder``); ``dropout`` is 0 in prediction."""
        dtype = _HALF.get(self.precision, torch.float32)
        return attention_path(torch.device(self.device), dtype, dropout)

    def describe(self) -> dict:
        """Return the dict that the manifest and ``scores.json`` record."""
        return asdict(self) | {"attention": self.attention()}

    def line(self, dropout: float) -> str:
        """Return a sentence that says where and how training with ``dropout`` runs, and why."""
        many = f"{self.devices} × " if self.devices > 1 else ""
        why = f" ({self.reason})" if self.reason else ""
        attention = self.attention(dropout)
        padded = "; attention on padded rows" if attention == "padded" else ""
        return f"Computing on {many}{self.device} with precision {self.precision}{why}{padded}."


def decide(settings: Settings) -> Compute:
    """Decide where and how to compute.

    ``device="auto"`` selects a CUDA GPU if PyTorch finds one, and the CPU otherwise.
    ``precision="auto"`` selects bf16 on a GPU with compute capability 8.0 or above and float16 on
    an older GPU. On a CPU, it selects bf16 if the CPU has bf16 instructions and a short measurement
    shows that bf16 is faster. Raise ``InputError`` if the settings require something that this
    machine does not have.
    """
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    reasons = [f"device=auto: {_found()}"] if settings.device == "auto" else []
    kind = _check_device(device, settings.devices)
    precision, why = settings.precision, ""
    if precision == "auto":
        precision, why = {"cpu": _auto_cpu, "cuda": _auto_cuda, "mps": _auto_mps}[kind]()
        reasons.append(f"precision=auto: {why}")
    _check_precision(kind, precision)
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return Compute(device, precision, settings.devices, "; ".join(reasons))


def _found() -> str:
    return "a CUDA GPU is available" if torch.cuda.is_available() else "no CUDA GPU is available"


def _check_device(device: str, devices: int) -> str:
    """Return the kind of device; raise ``InputError`` if this machine lacks it."""
    kind, _, number = device.partition(":")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise InputError(f"device: {device!r} is not one of auto, cpu, cuda, cuda:N, mps")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("device: mps is set, but this machine has no Apple GPU; set device=auto")
    if kind == "cuda" and not torch.cuda.is_available():
        build = torch.version.cuda and f"for CUDA {torch.version.cuda} and finds no GPU or driver"
        raise InputError(
            f"device: {device} is set, but PyTorch {torch.__version__} is built "
            f"{build or 'for the CPU only'}; set device=auto or see docs/setup.md"
        )
    if kind == "cuda":
        count = torch.cuda.device_count()
        if number and int(number) >= count:
            raise InputError(
                f"device: {device} is set, but the GPUs are cuda:0 to cuda:{count - 1}"
            )
        if devices > count:
            raise InputError(f"devices: {devices} is set, but this machine has {count} GPUs")
    if devices > 1 and (number or kind == "mps"):
        raise InputError(f"devices: {devices} needs device=cuda or device=cpu, not {device}")
    return kind


def _check_precision(kind: str, precision: str) -> None:
    """Raise ``InputError`` if this precision is unavailable or very slow on a device."""
    if kind == "cpu" and precision in ("tf32", "16"):
        raise InputError(f"precision: {precision} needs a GPU; set precision=32 or precision=auto")
    if kind == "cpu" and precision == "bf16" and not bf16_instructions():
        raise InputError(
            "precision: bf16 is set, but this CPU has no bf16 instructions and would be about 20 "
            "times slower than with precision=32"
        )
    if kind == "cuda" and precision in ("tf32", "bf16"):
        found = torch.cuda.get_device_capability()
        if found < _AMPERE:
            raise InputError(
                f"precision: {precision} needs compute capability 8.0 (A100) or above, but "
                f"{torch.cuda.get_device_name()} has {found[0]}.{found[1]}; set precision=16 or 32"
            )
    if kind == "mps" and precision != "32":
        raise InputError(f"precision: {precision} is not supported on mps; set precision=32")


def _auto_cuda() -> tuple[str, str]:
    major, minor = torch.cuda.get_device_capability()
    chosen = "bf16" if (major, minor) >= _AMPERE else "16"
    return chosen, f"compute capability {major}.{minor}"


def _auto_mps() -> tuple[str, str]:
    return "32", "the kit uses only float32 on mps"


def _auto_cpu() -> tuple[str, str]:
    found = check_bf16()
    if found.ratio is None:
        return "32", "the CPU has no bf16 instructions"
    chosen = "bf16" if found.faster else "32"
    return chosen, f"bf16 is {found.ratio:.1f} times as fast as float32 on this CPU"


@dataclass(frozen=True)
class Check:
    """Whether to use bfloat16 on this CPU, and why.

    instructions: PyTorch's names for the CPU's bfloat16 instructions; empty if there are none.
    ratio: float32 time divided by bfloat16 time for the forward and backward passes of one layer.
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
    backward passes of a layer of size 384. The speedup is the ratio of the fastest times. The
    random state does not change.
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
    reads reordered weights and also applies the bias and GELU. Prediction was 1.1 times as fast as
    with autocast alone (6 x 384, batches of 4,096 tokens, AVX512_BF16). The copies take 2 bytes per
    weight, and the model is unchanged afterward. Use this function only inside
    ``torch.inference_mode()`` and bfloat16 autocast, with a model in evaluation mode. It does
    nothing if the CPU lacks the kernel's instructions.
    """
    changed = []
    try:
        for layer in model.encoder.layers if _has_kernel() else ():
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


@cache
def _has_kernel() -> bool:
    """Return whether the kernel of ``prepared_weights`` runs on this CPU; it needs AVX-512."""
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(16, 16, dtype=torch.bfloat16))
    except RuntimeError:
        return False
    return True


def _prepare(linear: torch.nn.Linear, activation: str = "none", approximate: str = ""):
    """Return a function that computes ``linear`` and then an activation, in bfloat16."""
    weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().bfloat16())
    bias = linear.bias.detach().bfloat16()
    product = torch.ops.mkldnn._linear_pointwise
    return lambda x: product(x.bfloat16(), weight, bias, activation, [], approximate)
