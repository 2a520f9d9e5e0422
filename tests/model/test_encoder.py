"""Our encoder against transformers' BERT and Megatron-BERT: same weights, same logits."""

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.config import InputError, Settings
from helpers.fetch import fetch
from helpers.model import checkpoints
from helpers.model.encoder import EncoderConfig, SpanModel, _attend_by_length, _attend_padded, pad
from helpers.model.features import Batch

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{i}" for i in range(59)]
SIZES = {
    "vocab_size": 64, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 80, "max_position_embeddings": 64, "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3,
}  # fmt: skip
CLASSES = {
    "bert": (transformers.BertConfig, transformers.BertForQuestionAnswering),
    "megatron": (transformers.MegatronBertConfig, transformers.MegatronBertForQuestionAnswering),
}


def batch_of(lengths, seed=0, vocab=64):
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    types = np.concatenate([np.arange(n) >= n // 3 for n in lengths]).astype(np.int64)
    zeros = torch.zeros(len(lengths), dtype=torch.int64)
    return Batch.pack(
        ids=torch.from_numpy(rng.integers(5, vocab, total)),
        token_types=torch.from_numpy(types),
        positions=torch.cat([torch.arange(n) for n in lengths]),
        lengths=tuple(lengths),
        start=zeros,
        end=zeros,
    )


def reference_logits(model, batch):
    """transformers' logits for the padded batch, unpadded again: ``[total_tokens, 2]``."""
    ids, types = pad(batch.ids, batch, 0), pad(batch.token_types, batch, 0)
    with torch.inference_mode():
        out = model(input_ids=ids, token_type_ids=types, attention_mask=batch.mask.long())
    return torch.stack([out.start_logits, out.end_logits], -1)[batch.mask]


def randomise(model, seed):
    """LayerNorms and biases start at 1 and 0, where a swapped pair would not be noticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)


@pytest.fixture(scope="module", params=CLASSES)
def pair(request, tmp_path_factory):
    """(transformers' model, ours), loaded from the folder that transformers saved."""
    config, cls = CLASSES[request.param]
    torch.manual_seed(0)
    theirs = cls(config(**SIZES)).eval()
    randomise(theirs, 1)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return theirs, checkpoints.load(folder, Settings(max_length=64)).model


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(2, 60), min_size=1, max_size=9), st.integers(0, 99))
def test_logits_equal_those_of_transformers_for_any_batch(pair, lengths, seed):
    theirs, ours = pair
    batch = batch_of(lengths, seed)
    with torch.inference_mode():
        got = ours(batch)
    torch.testing.assert_close(got, reference_logits(theirs, batch), atol=1e-4, rtol=1e-4)


def test_minilm_gives_the_logits_of_transformers():
    """The real weights, with the same random span head on both sides."""
    try:
        folder = fetch.fetch("minilm").folder
    except InputError as error:
        pytest.skip(f"the MiniLM weights cannot be had here: {error}")
    ours = checkpoints.load(folder, Settings(max_length=64)).model
    theirs = transformers.BertForQuestionAnswering.from_pretrained(folder).eval()
    theirs.qa_outputs.load_state_dict(ours.head.state_dict())
    batch = batch_of((60, 60, 7, 200, 384), vocab=30_000)
    with torch.inference_mode():
        got = ours(batch)
    torch.testing.assert_close(got, reference_logits(theirs, batch), atol=1e-4, rtol=1e-4)


def test_a_window_does_not_see_its_neighbours(pair):
    _, ours = pair
    lengths = (7, 7, 20, 3, 20)
    batch = batch_of(lengths, 3)
    with torch.inference_mode():
        together = ours(batch).split(lengths)
        low = 0
        for length, expected in zip(lengths, together, strict=True):
            here = slice(low, low + length)
            alone = Batch.pack(batch.ids[here], batch.token_types[here], batch.positions[here],
                          (length,), batch.start[:1], batch.end[:1])  # fmt: skip
            torch.testing.assert_close(ours(alone), expected, atol=1e-5, rtol=1e-5)
            low += length


def test_both_attentions_agree_also_in_their_gradients():
    batch = batch_of((5, 5, 9, 2, 9))
    generator = torch.Generator().manual_seed(0)
    qkv = [torch.randn(30, 4, 8, generator=generator, requires_grad=True) for _ in range(3)]
    weight = torch.randn(30, 4, 8, generator=generator)
    results = []
    for attend in (_attend_by_length, _attend_padded):
        out = attend(*qkv, batch, 0.0)
        results.append([out, *torch.autograd.grad((out * weight).sum(), qkv)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", [{"norm_first": False}, {"epsilon": 1e-2}, {"heads": 2}])
def test_a_wrong_setting_changes_the_logits(change):
    """The weights alone load under all of these; only the logits tell."""
    sizes = dict(vocab_size=64, hidden=48, layers=2, heads=4, feed_forward=80, positions=64)
    torch.manual_seed(0)
    right = SpanModel(EncoderConfig(**sizes))
    randomise(right, 2)
    wrong = SpanModel(EncoderConfig(**{**sizes, **change}))
    wrong.load_state_dict(right.state_dict())
    batch = batch_of((9, 20))
    with torch.inference_mode():
        assert (right(batch) - wrong(batch)).abs().max() > 1e-3


def test_biomegatron_345m_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = SpanModel(EncoderConfig())
    assert sum(p.numel() for p in model.parameters()) == 334_166_018


def test_a_fresh_head_follows_from_the_seed():
    model = SpanModel(EncoderConfig(vocab_size=64, hidden=48, layers=1, heads=4, feed_forward=80))
    heads = []
    for seed in (1, 1, 2):
        model.new_head(seed)
        heads.append(model.head.weight.detach().clone())
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
