"""The memory calculator against what autograd saves and against the peak of a process."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.model import encoder, memory
from helpers.model.compute import bf16_instructions
from helpers.model.encoder import EncoderConfig, SpanModel
from helpers.model.features import Batch

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory.py"
SIZES = dict(vocab_size=99, hidden=64, layers=3, heads=4, feed_forward=192, positions=64)
LENGTHS = (20, 20, 33, 9, 9, 9)


def batch_of(lengths):
    ids = torch.zeros(sum(lengths), dtype=torch.long)
    positions = torch.cat([torch.arange(n) for n in lengths])
    ends = torch.ones(len(lengths), dtype=torch.long)
    return Batch.pack(ids, ids.clone(), positions, tuple(lengths), ends, ends)


class Varlen(torch.autograd.Function):
    """Saves what PyTorch's kernel for windows of different lengths saves."""

    @staticmethod
    def forward(ctx, query, key, value, bounds):
        output = torch.zeros(query.shape, dtype=query.dtype)
        sums = torch.zeros(query.shape[1], query.shape[0])
        ctx.save_for_backward(query, key, value, bounds, output, sums)
        return output

    @staticmethod
    def backward(ctx, grad):
        return grad, grad, grad, None


def varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k):
    return Varlen.apply(query, key, value, cu_seq_q)


def saved(config, precision, recompute=False):
    """Return the bytes that autograd saves, apart from weights and their 16-bit copies."""
    net = SpanModel(config).train()
    net.encoder.recompute = recompute
    batch = batch_of(LENGTHS)
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    shapes = {tuple(p.shape) for p in net.parameters() if p.ndim == 2}
    kept = {}  # every tensor is held, or its address could be used again

    def pack(tensor):
        address = tensor.untyped_storage().data_ptr()
        is_copy = tensor.dtype == torch.bfloat16 and {tensor.shape, tensor.shape[::-1]} & shapes
        if address not in weights and not is_copy:
            kept[address] = tensor
        return tensor

    half = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), half:
        logits = net(batch)
    assert logits.grad_fn is not None
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize(
    ("path", "dropout"),
    [
        ("by length", 0.0),
        ("by length", 0.1),
        ("products", 0.0),
        ("padded", 0.0),
        ("variable length", 0.0),
    ],
)
def test_the_list_of_tensors_is_what_autograd_saves(
    norm_first, precision, path, dropout, monkeypatch
):
    monkeypatch.setattr(encoder, "attention_path", lambda *a: path)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen)
    config = EncoderConfig(**SIZES, norm_first=norm_first, dropout=dropout)
    layer = memory.layer_tensors(config, LENGTHS, precision, path)
    once = memory.encoder_tensors(config, LENGTHS, precision, path)
    listed = 3 * sum(t.size * t.count for t in layer) + sum(t.size * t.count for t in once)
    assert listed == pytest.approx(saved(config, precision), rel=0.01)


def test_activation_checkpointing_keeps_the_inputs_of_the_layers():
    config = EncoderConfig(**SIZES)
    layer = sum(t.size * t.count for t in memory.layer_tensors(config, LENGTHS, "32", "by length"))
    found = memory.training_memory(config, LENGTHS, activation_checkpointing=True)
    again = 4 * sum(LENGTHS) * config.hidden  # the input of the layer that is computed again
    assert found.activations - layer + again == pytest.approx(saved(config, "32", True), rel=0.02)


@pytest.mark.parametrize("changes", [{}, {"layers": 1}, {"vocab_size": 7, "token_types": 3}])
def test_the_number_of_parameters_is_that_of_the_model(changes):
    config = EncoderConfig(**{**SIZES, **changes})
    net = SpanModel(config)
    linear = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
    expected = sum(p.numel() for p in net.parameters()), sum(m.weight.numel() for m in linear)
    assert memory.parameters(config) == expected


def test_the_345m_model_takes_16_bytes_per_parameter_and_its_activations():
    found = memory.training_memory(EncoderConfig(), [384] * 12, path="padded")
    assert found.weights == found.gradients == found.moments // 2 == 4 * 334_166_018
    assert found.allocator == found.half_weights == 0
    assert found.total == sum(vars(found).values())
    half = memory.training_memory(
        EncoderConfig(), [384] * 12, precision="bf16", path="variable length"
    )
    assert half.half_weights == 2 * (24 * 12 * 1024**2 + 2 * 1024)
    assert half.activations < 0.62 * found.activations


def test_only_the_largest_part_of_a_batch_counts():
    config, lengths = EncoderConfig(**SIZES), [40, 30, 20, 10]
    found = memory.training_memory(config, lengths, accumulate=2)  # 40 + 10 and 30 + 20 tokens
    parts = [memory.training_memory(config, part) for part in ([40, 10], [30, 20])]
    assert found.total == max(part.total for part in parts)
    assert found.activations < 0.52 * memory.training_memory(config, lengths).activations
    assert memory.training_memory(config, np.asarray([40]), accumulate=3).total > 0


@pytest.mark.parametrize("path", ["by length", "padded", "variable length"])
def test_prediction_takes_the_weights_and_one_layer(path):
    config = EncoderConfig(**SIZES)
    found = memory.prediction_memory(config, LENGTHS, path=path)
    assert found.gradients == found.moments == found.half_weights == 0
    deeper = memory.prediction_memory(EncoderConfig(**{**SIZES, "layers": 9}), LENGTHS, path=path)
    assert deeper.activations == found.activations and deeper.weights > found.weights
    assert found.total < memory.training_memory(config, LENGTHS, path=path).total


# Half as many windows as in the benchmark; 0.2 to 1.6 GB.
CASES = [
    ("4x128", 70, 60, "32", 0.1, False),
    ("6x384", 200, 6, "bf16", 0.0, True),
    ("12x768", 384, 1, "32", 0.0, False),
]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads VmHWM, Linux only")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_the_estimate_is_within_15_percent_of_the_measured_peak(case):
    model, length, count, precision, dropout, checkpointing = case
    if precision == "bf16" and not bf16_instructions():
        precision = "32"
    spec = {
        "model": model, "task": "train", "precision": precision, "dropout": dropout,
        "checkpointing": checkpointing, "length": length, "count": count,
    }  # fmt: skip
    command = [sys.executable, str(BENCHMARK), "--case", json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0.85 < found["predicted"] / found["measured"] < 1.15
