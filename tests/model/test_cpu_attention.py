"""Attention by products against torch's attention: outputs and gradients, for any lengths."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model.test_encoder import batch_of

from helpers.model.cpu_attention import attend_by_products
from helpers.model.encoder import EncoderConfig, SpanModel, _attend_by_length, attention_path


def results(attend, dtype, batch, seed):
    """Outputs and the three gradients, ``[total_tokens, heads, size]``, in float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(batch.ids), 4, 8)
    values = torch.randn(4, *shape, generator=generator).bfloat16().to(dtype)
    q, k, v = (t.requires_grad_() for t in values[:3].unbind())
    out = attend(q, k, v, batch, 0.0)
    return [t.double() for t in (out, *torch.autograd.grad(out, (q, k, v), values[3]))]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 99))
def test_products_are_attention_in_float64(lengths, seed):
    """In double precision only the softmax (float32 inside) rounds, so formulas must agree."""
    batch = batch_of(lengths)
    got = results(attend_by_products, torch.float64, batch, seed)
    for a, b in zip(got, results(_attend_by_length, torch.float64, batch, seed), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 99))
def test_bfloat16_is_within_one_percent(lengths, seed):
    batch = batch_of(lengths)
    got = results(attend_by_products, torch.bfloat16, batch, seed)
    exact = results(_attend_by_length, torch.float64, batch, seed)
    # A window of one token has no gradient for queries and keys, so we compare with all tensors.
    size = max(t.norm() for t in exact)
    for a, b in zip(got, exact, strict=True):
        assert (a - b).norm() <= 0.01 * size


def test_only_bfloat16_without_dropout_uses_products():
    cpu = torch.device("cpu")
    assert attention_path(cpu, torch.bfloat16, 0.0) == "products"
    assert attention_path(cpu, torch.bfloat16, 0.1) == "by length"
    assert attention_path(cpu, torch.float32, 0.0) == "by length"


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_model_s_logits_and_gradients_in_bf16_are_near_those_in_float32(norm_first):
    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=64, hidden=64, layers=3, heads=4, feed_forward=128, positions=64,
        norm_first=norm_first,
    )  # fmt: skip
    model = SpanModel(config)
    batch = batch_of((20, 20, 33, 7))
    weight = torch.randn(80, 2)
    logits, grads = [], []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = model(batch).float()
        (out * weight).sum().backward()
        logits.append(out.detach())
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    for exact, half in (logits, grads):
        assert 0 < (half - exact).norm() < 0.02 * exact.norm()
