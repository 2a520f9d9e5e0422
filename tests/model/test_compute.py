"""Where and how a run computes; a GPU is played by patching what PyTorch says about it."""

import pytest
import torch
from kernel import varlen_attn
from tiny import tiny_examples, tiny_folder, tiny_reader

from helpers.config import InputError, Settings, from_parameters
from helpers.model import checkpoints, compute, decoding, encoder, row_order, step
from helpers.model.compute import Compute, decide
from helpers.model.features import gather


@pytest.fixture
def gpus(monkeypatch):
    """Let PyTorch report GPUs with a compute capability."""

    def report(count=2, capability=(8, 0)):
        fake = {"is_available": lambda: count > 0, "device_count": lambda: count,
                "get_device_capability": lambda *device: capability,
                "get_device_name": lambda *device: "Test GPU"}  # fmt: skip
        for name, function in fake.items():
            monkeypatch.setattr(torch.cuda, name, function)

    return report


@pytest.mark.parametrize(
    ("settings", "capability", "expected"),
    [
        ({}, (8, 0), ("cuda:0", "32", "padded", "padded")),
        ({"precision": "auto"}, (9, 0), ("cuda:0", "bf16", "variable length", "padded")),
        ({"precision": "auto"}, (7, 5), ("cuda:0", "16", "padded", "padded")),
        ({"precision": "tf32", "device": "cuda:1"}, (8, 6), ("cuda:1", "tf32", "padded", "padded")),
        ({"device": "cpu"}, (9, 0), ("cpu", "32", "by length", "by length")),
    ],
)
def test_what_a_gpu_is_used_for(gpus, settings, capability, expected):
    gpus(2, capability)
    found = decide(Settings(**settings))
    assert (found.device, found.precision, found.attention(), found.attention(0.1)) == expected
    assert ("compute capability" in found.reason) == (settings.get("precision") == "auto")


@pytest.mark.parametrize(
    ("settings", "capability", "message"),
    [
        ({"device": "cuda:2"}, (8, 0), "device: cuda:2 is set, but the GPUs are cuda:0 to cuda:1"),
        ({"devices": 3}, (8, 0), "devices: 3 is set, but this machine has 2 GPUs"),
        ({"devices": 2, "device": "cuda:0"}, (8, 0), "devices: 2 needs device=cuda"),
        ({"precision": "bf16"}, (7, 5), "bf16 needs compute capability 8.0 .* Test GPU has 7.5"),
        ({"device": "gpu"}, (8, 0), "device: 'gpu' is not one of auto, cpu, cuda"),
        ({"device": "cpu", "precision": "16"}, (8, 0), "precision: 16 needs a GPU"),
        ({"device": "mps"}, (8, 0), "no Apple GPU"),
    ],
)
def test_what_a_machine_lacks_is_one_line(gpus, settings, capability, message):
    gpus(2, capability)
    with pytest.raises(InputError, match=message) as error:
        decide(Settings(**settings))
    assert "\n" not in str(error.value)


def test_a_gpu_that_is_missing_is_one_line_before_a_checkpoint_is_read(gpus, tmp_path):
    gpus(0)
    with pytest.raises(InputError, match="device: cuda is set, but PyTorch .* set device=auto"):
        checkpoints.load(tmp_path / "none", Settings(device="cuda"))
    assert decide(Settings()).device == "cpu"


@pytest.mark.parametrize(
    ("instructions", "gain", "expected"),
    [(True, 3.0, "bf16"), (True, 1.1, "32"), (False, 3.0, "32")],
)
def test_auto_takes_bf16_on_a_cpu_only_where_it_is_faster(
    monkeypatch, gpus, instructions, gain, expected
):
    gpus(0)
    monkeypatch.setattr(compute, "bf16_instructions", lambda: ("avx512_bf16",) * instructions)
    monkeypatch.setattr(compute, "bf16_ratio", lambda: gain)
    found = decide(from_parameters(precision="auto"))
    assert found.precision == expected and "precision=auto: " in found.reason
    assert expected in found.line(0.0)
    if not instructions:
        with pytest.raises(InputError, match="precision: bf16 is set, but this CPU"):
            decide(from_parameters(precision="bf16"))


def test_tf32_is_a_mode_of_float32_products():
    try:
        Compute(precision="tf32").prepare()
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        Compute().prepare()
    assert torch.get_float32_matmul_precision() == "highest"


def test_cudnn_which_plans_anew_for_each_size_of_a_batch_computes_no_attention():
    torch.backends.cuda.enable_cudnn_sdp(True)
    Compute("cuda:0", "bf16").prepare()
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_a_loaded_reader_uses_what_was_decided(tmp_path, monkeypatch):
    """bf16 autocast, without the instructions slow but right, as far as 8 bits go."""
    folder = tiny_folder(tmp_path / "m", 1)
    monkeypatch.setattr(compute, "bf16_instructions", lambda: ("avx512_bf16",))
    readers = [
        checkpoints.load(folder, Settings(max_length=48, precision=precision))
        for precision in ("32", "bf16")
    ]
    assert [reader.compute.precision for reader in readers] == ["32", "bf16"]
    windows = readers[0].windows(tiny_examples(9))
    exact, rounded = (
        decoding.compute_logits(reader.model, windows, compute=reader.compute) for reader in readers
    )
    difference = abs(exact - rounded).max()
    assert 0 < difference < 0.05 * abs(exact).max()
    assert row_order.plain(readers[1]).compute == readers[1].compute


class Short:
    """A model on which memory runs out for batches of more than ``limit`` tokens."""

    def __init__(self, model, limit):
        self.model, self.limit, self.sizes = model, limit, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, batch):
        self.sizes.append(len(batch.ids))
        if len(batch.ids) > self.limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.model(batch)


@pytest.mark.fault("too little memory in prediction")
def test_prediction_goes_on_with_half_batches_when_memory_runs_out(capsys):
    reader = tiny_reader(1)
    windows = reader.windows(tiny_examples(40))
    expected = decoding.compute_logits(reader.model, windows)
    short = Short(reader.model, 100)
    found = decoding.compute_logits(short, windows)
    assert abs(found - expected).max() < 1e-5
    assert max(short.sizes[-5:]) <= 100
    assert "predicting: not enough memory; continuing with" in capsys.readouterr().err
    with pytest.raises(InputError, match="max_length: not even one window of"):
        decoding.compute_logits(Short(reader.model, 3), windows)
    with pytest.raises(RuntimeError, match="another"):
        decoding.compute_logits(Broken(reader.model, 0), windows)


class Broken(Short):
    def __call__(self, batch):
        raise RuntimeError("another error")


@pytest.mark.parametrize("path", ["variable length", "padded"])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_paths_of_a_gpu_give_the_loss_and_gradients_of_the_cpu(monkeypatch, path, recompute):
    reader = tiny_reader(1)
    windows = reader.windows(tiny_examples(9), training=True)
    batch = gather(windows, range(9))
    reader.model.train()

    def gradients():
        reader.model.zero_grad()
        loss = step.span_loss(step.logits_of(reader.model, batch), batch)
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in reader.model.parameters())]

    expected = gradients()
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    monkeypatch.setattr(encoder, "attention_path", lambda *args: path)
    reader.model.encoder.recompute = recompute
    for found, right in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-4)
