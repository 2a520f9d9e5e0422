"""The check whether bfloat16 is faster on this CPU, and prediction with prepared weights."""

import contextlib
import itertools

import pytest
import torch
from model.test_encoder import batch_of

from helpers.model import compute
from helpers.model.encoder import EncoderConfig, SpanModel


@contextlib.contextmanager
def bf16():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        yield


def has(monkeypatch, **capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


def test_without_instructions_nothing_is_timed(monkeypatch):
    has(monkeypatch, avx512_f=True, avx512_bf16=False, architecture="x86_64")
    monkeypatch.setattr(compute, "bf16_ratio", lambda: pytest.fail("timed"))
    check = compute.check_bf16()
    assert (check.instructions, check.ratio, check.faster) == ((), None, False)


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
@pytest.mark.parametrize(("ratio", "faster"), [(3.4, True), (1.1, False), (0.04, False)])
def test_with_instructions_the_time_decides(monkeypatch, name, ratio, faster):
    has(monkeypatch, **{name: True})
    monkeypatch.setattr(compute, "bf16_ratio", lambda: ratio)
    check = compute.check_bf16()
    assert (check.instructions, check.ratio, check.faster) == ((name,), ratio, faster)


def test_a_torch_without_the_function_has_no_instructions(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert compute.bf16_instructions() == ()


def test_the_ratio_compares_the_fastest_rounds(monkeypatch):
    """A clock that gives float32 4 seconds and bfloat16 1 second, and 9 in the first round."""
    took = itertools.chain([9, 9], itertools.cycle([4, 1]))
    now, reads = [0.0], itertools.count()

    def clock():
        # The reads are: begin, then (start, stop) twice per round, then one per further round.
        n = next(reads)
        if n and n < 13 and n % 2 == 0:
            now[0] += next(took)
        return now[0]

    monkeypatch.setattr(compute.time, "perf_counter", clock)
    assert compute.bf16_ratio(seconds=0) == 4


def test_the_check_leaves_the_random_state_alone_and_gives_a_positive_ratio():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with bf16():  # whatever the caller computes in
        assert compute.bf16_ratio(seconds=0) > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("gelu", ["erf", "tanh"])
@pytest.mark.parametrize("norm_first", [True, False])
def test_prepared_weights_give_the_logits_of_autocast(gelu, norm_first):
    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=64, hidden=64, layers=3, heads=4, feed_forward=128, positions=64,
        norm_first=norm_first, gelu=gelu,
    )  # fmt: skip
    model = SpanModel(config).eval()
    batch = batch_of((20, 20, 33, 7))
    with torch.inference_mode():
        exact = model(batch)
    with bf16():
        plain = model(batch).float()
        with compute.prepared_weights(model):
            prepared = model(batch).float()
        again = model(batch).float()
    scale = exact.abs().max()
    assert (plain - exact).abs().max() < 0.03 * scale
    assert (prepared - exact).abs().max() < 0.03 * scale
    assert not torch.equal(prepared, exact)
    assert torch.equal(plain, again)  # the model is as before
    assert not any("forward" in vars(m) or "mlp" in vars(m) for m in model.modules())


def test_an_error_also_restores_the_model():
    config = EncoderConfig(vocab_size=64, hidden=32, layers=2, heads=4, feed_forward=64)
    model = SpanModel(config).eval()
    with pytest.raises(RuntimeError, match="stop"), bf16(), compute.prepared_weights(model):
        raise RuntimeError("stop")
    assert not any("forward" in vars(m) or "mlp" in vars(m) for m in model.modules())
