"""The measurements of notebook 01, on models small enough to count by hand."""

import pytest
import torch
from tiny import tiny_reader

from helpers.data.squad import Example
from helpers.model.encoder import EncoderConfig, SpanModel
from helpers.views import measure


def test_biomegatron_has_the_published_number_of_weights():
    model = measure.meta_model()
    assert sum(measure.parameters_by_part(model).values()) == 334_166_018  # of NVIDIA's checkpoint
    assert next(model.parameters()).is_meta


def test_every_weight_belongs_to_the_right_part():
    config = EncoderConfig(
        vocab_size=7, hidden=4, layers=2, heads=2, feed_forward=8, positions=5, token_types=2
    )
    assert measure.parameters_by_part(measure.meta_model(config)) == {
        "embeddings": (7 + 5 + 2) * 4,
        "attention": 2 * (4 * 12 + 12 + 4 * 4 + 4),
        "feed-forward": 2 * (4 * 8 + 8 + 8 * 4 + 4),
        "LayerNorm": (2 * 2 + 1) * 2 * 4,
        "span head": 2 * 4 + 2,
    }


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_parts_add_up_to_the_model(norm_first):
    model = SpanModel(EncoderConfig(50, 8, 3, 2, 16, 9, 2, norm_first))
    counts = measure.parameters_by_part(model)
    assert tuple(counts) == measure.PARTS
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())


def test_training_needs_four_numbers_per_weight():
    assert measure.memory(2**20) == {
        "stored, float16": 2.0, "prediction, float32": 4.0, "training, float32": 16.0,
    }  # fmt: skip


def test_logits_come_with_their_tokens():
    reader = tiny_reader()
    example = Example("1_001", "1", "which gene ?", "the gene gak", (), 1, "")
    rows = measure.head_logits(reader.model, reader.windows([example]), reader.vocab)
    tokens = [token for token, _, _ in rows]
    assert tokens == ["[CLS]", "which", "gene", "?", "[SEP]", "the", "gene", "gak", "[SEP]"]
    best = max(reader.answer(example.question, example.context), key=lambda c: c.probability)
    assert best.start_logit in [pytest.approx(start, abs=1e-5) for _, start, _ in rows]


def test_depth_experiment_agrees_with_the_theory():
    stacks = measure.depth_experiment(depths=(2, 16), width=64, seeds=(0,))
    found = {(s.layers, s.norm_first): s for s in stacks}
    assert set(found) == {(2, False), (2, True), (16, False), (16, True)}
    for (layers, _), stack in found.items():
        assert len(stack.gradients) == layers
        assert all(value > 0 for value in stack.gradients)
    # Xiong et al. 2020, theorem 1: the last layer's gradient shrinks with depth only in pre-LN.
    shrunk = {n: found[16, n].gradients[-1] / found[2, n].gradients[-1] for n in (False, True)}
    assert shrunk[False] > 0.8
    assert shrunk[True] < 0.7


def test_depth_experiment_depends_on_its_own_seed_only():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = measure.depth_experiment(depths=(2,), width=32, seeds=(3,))
    assert torch.equal(before, torch.get_rng_state())
    assert first == measure.depth_experiment(depths=(2,), width=32, seeds=(3,))
    assert first != measure.depth_experiment(depths=(2,), width=32, seeds=(4,))
