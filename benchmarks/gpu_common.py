"""Code that the parts of the GPU benchmark share."""

from __future__ import annotations

import argparse
import gc
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import gpu_data
import torch
from lightning.pytorch import Callback

from helpers.io import write_json
from helpers.model import encoder, step, training
from helpers.model.compute import Compute
from helpers.model.decoding import Reader
from helpers.model.encoder import EncoderConfig
from helpers.model.features import Windows

# The attention paths and precisions for each kind of device.
PATHS = {
    "cpu": [("by length", "32"), ("products", "bf16"), ("padded", "32"), ("padded", "bf16")],
    "cuda": [("padded", "32"), ("padded", "tf32"), ("padded", "bf16"), ("padded", "16"),
             ("variable length", "bf16"), ("variable length", "16")],
}  # fmt: skip
# Limits on norm(difference) / norm(reference) for the logits, the loss and the gradients.
TOLERANCES = {
    "32": (1e-4, 1e-5, 1e-3), "tf32": (5e-3, 1e-3, 2e-2),
    "16": (5e-3, 1e-3, 2e-2), "bf16": (3e-2, 5e-3, 1.5e-1),
}  # fmt: skip


# With 30,000 words, these give BioMegatron's 30,592 embeddings. They include the special tokens.
_OTHER_TOKENS = 592


@dataclass
class Run:
    """The options of the script, its results so far, and the remaining time."""

    options: argparse.Namespace
    device: torch.device
    data: dict[str, gpu_data.Data] = field(default_factory=dict)
    found: dict = field(default_factory=dict)
    failed: int = 0
    deadline: float = math.inf

    def say(self, text: str = "") -> None:
        """Print a line and add it to the log."""
        print(text, flush=True)
        with (self.options.output / "gpu.log").open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def write(self) -> None:
        write_json(self.options.output / "gpu.json", self.found)

    def left(self) -> float:
        """Return the seconds that the current part may still take."""
        return self.deadline - time.monotonic()

    def config(self, **others) -> EncoderConfig:
        """Return the configuration of the large model."""
        layers, hidden = self.options.layers, self.options.hidden
        sizes = {"heads": hidden // 64, "feed_forward": 4 * hidden}
        rows = self.options.words + _OTHER_TOKENS
        values = {"vocab_size": rows, "layers": layers, "hidden": hidden, **sizes, **others}
        return EncoderConfig(**values)

    def texts(self, context: str) -> gpu_data.Data:
        """Return synthetic texts, which are created only once per context."""
        if context not in self.data:
            self.data[context] = gpu_data.synthetic(context, self.options.rows, self.options.words)
        return self.data[context]

    def compute(self, precision: str) -> Compute:
        return Compute(str(self.device), precision)

    def paths(self) -> list[tuple[str, str]]:
        """Return the attention paths and precisions that this device supports."""
        found = PATHS[self.device.type]
        if is_cuda(self.device) and torch.cuda.get_device_capability(self.device)[0] < 8:
            found = [("padded", precision) for precision in ("32", "16")]
        return found

    def precisions(self) -> list[str]:
        return list(dict.fromkeys(precision for _, precision in self.paths()))

    def fast(self) -> str:
        """Return the half precision that the kit would choose on this device."""
        return "bf16" if "bf16" in self.precisions() else "16"

    def verdict(self, passed: bool, text: str) -> bool:
        """Print the result of a check, and count it if it failed."""
        self.failed += not passed
        self.say(f"{'PASS' if passed else 'FAIL'} {text}")
        return passed


@contextmanager
def attention(path: str | None) -> Iterator[None]:
    """Force an attention path; None keeps the one that the package chooses."""
    if path is None:
        yield
    else:
        with mock.patch.object(encoder, "attention_path", lambda *args: path):
            yield


@contextmanager
def precision_of(compute: Compute) -> Iterator[Compute]:
    """Allow TF32 in the block only if ``compute`` uses it."""
    compute.prepare()
    try:
        yield compute
    finally:
        Compute().prepare()


def is_cuda(device: torch.device) -> bool:
    return device.type == "cuda"


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if is_cuda(device):
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    """Release the memory of models that are no longer used."""
    gc.collect()
    if is_cuda(device):
        torch.cuda.empty_cache()


def train(
    reader: Reader,
    windows: Windows,
    callbacks: Sequence[Callback] = (),
    *,
    watch: Callable[[], AbstractContextManager] | None = None,
    saves: bool = True,
) -> step.Recorder:
    """Train with the kit's loop, without NeMo, and return its recorder.

    watch: returns a context manager for the whole training (default: one that hides warnings).
    saves: whether the recorder saves checkpoints, as in every real training run.
    """
    batches = training.plan_batches(windows.lengths, reader.settings)
    optim = training.optim_of(reader.settings, len(batches))
    module = step.SpanModule(reader.model, optim, reader.settings.seed)
    steps = len(batches) if saves else 10**9
    with tempfile.TemporaryDirectory() as folder, (watch or _quiet)():
        path = Path(folder)
        recorder = step.Recorder(path / "history.csv", path / training.LAST, steps, progress=False)
        trainer = training.make_trainer(reader)
        trainer.callbacks += [recorder, *callbacks]
        try:
            training.fit_batches(trainer, module, reader, windows, batches)
        finally:
            recorder.close()
    return recorder


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
