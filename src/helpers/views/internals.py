"""What notebook 01 measures on models: parts, memory, order of rows, and where LayerNorm stands.

The depth experiment looks at random weights and at a single backward pass. It shows what training
has to start from, not what training ends with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from helpers.fetch.registry import MEGATRON_GELU
from helpers.model import row_order
from helpers.model.decoding import Reader, compute_logits
from helpers.model.encoder import EncoderConfig, SpanModel
from helpers.model.features import Batch, Windows

PARTS = ("embeddings", "attention", "feed-forward", "LayerNorm", "span head")
_PART_OF = {  # a word of the parameter's name -> the part it belongs to; the first match counts
    "norm": "LayerNorm",
    "attention": "attention",
    "up": "feed-forward",
    "down": "feed-forward",
    "head": "span head",
}
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Stack:
    """One stack of layers with random weights, looked at layer by layer, the first one first.

    gradients: norm of the loss's gradient with respect to the layer's second feed-forward matrix.
    likeness: mean cosine between two tokens of one window, in what leaves the layer.
    """

    layers: int
    norm_first: bool
    seed: int
    gradients: tuple[float, ...]
    likeness: tuple[float, ...]

    @property
    def name(self) -> str:
        """Where LayerNorm stands."""
        return "pre-LayerNorm" if self.norm_first else "post-LayerNorm"


def meta_model(config: EncoderConfig | None = None) -> SpanModel:
    """A model with names and shapes but no memory; BioMegatron 345M's without a ``config``."""
    with torch.device("meta"):
        return SpanModel(config or EncoderConfig(gelu=MEGATRON_GELU))


def parameters_by_part(model: SpanModel) -> dict[str, int]:
    """How many weights the model has in each of ``PARTS``."""
    counts = dict.fromkeys(PARTS, 0)
    for name, weight in model.named_parameters():
        known = [part for word, part in _PART_OF.items() if word in _words(name)]
        counts[known[0] if known else "embeddings"] += weight.numel()
    return counts


def memory(parameters: int) -> dict[str, float]:
    """MiB that ``parameters`` weights take, by what is done with them.

    Training keeps four float32 numbers per weight: itself, its gradient and Adam's two moments
    (Kingma and Ba 2015). What the layers compute on the way comes on top and grows with the batch.
    """
    per_weight = {"stored, float16": 2, "answering, float32": 4, "training, float32": 16}
    return {name: parameters * size / MEBIBYTE for name, size in per_weight.items()}


def row_orders(reader: Reader) -> dict:
    """The three row orders and how well the model does in each: ``order``, ``measure``, ``scores``.

    A converted checkpoint brings what was found when it was converted. For any other, whose order
    is known, the rows are exchanged on purpose: with a trained span head the model answers the
    probe's questions, without one it matches them to their texts.
    """
    known = reader.origin.get("qkv", {})
    if known.get("scores"):
        return known
    if reader.fresh_head:
        measure, words = matching, "share of questions whose own text is the nearest"
    else:
        measure, words = row_order.answer_score, row_order.MEASURES["answers"]
    scores = row_order.try_orders(reader, measure)
    return {"order": "0", "kind": "shown", "measure": words, "scores": scores}


def matching(reader: Reader) -> float:
    """How often a question of the probe is nearest to its own text, by cosine of mean states.

    MiniLM was trained for this (Reimers and Gurevych 2019, mean pooling); chance is 1 of 20.
    """
    examples = [example for example, _ in row_order.questions()]
    questions = _mean_states(reader, [example.question for example in examples])
    texts = _mean_states(reader, [example.context for example in examples])
    nearest = (questions @ texts.T).argmax(1)
    return (nearest == torch.arange(len(examples))).float().mean().item()


def _mean_states(reader: Reader, texts: Sequence[str]) -> torch.Tensor:
    """Unit vectors ``[texts, hidden]``."""
    encoded = [torch.tensor(e.ids) for e in reader.tokenizer.encode_batch(list(texts))]
    lengths, ids = tuple(map(len, encoded)), torch.cat(encoded)
    positions = torch.cat([torch.arange(n) for n in lengths])
    nothing = torch.zeros(len(texts), dtype=torch.long)
    batch = Batch(ids, torch.zeros_like(ids), positions, lengths, nothing, nothing)
    with torch.inference_mode():
        states = reader.model.encoder(batch)
    return F.normalize(torch.stack([part.mean(0) for part in states.split(lengths)]), dim=-1)


def head_logits(
    model: SpanModel, windows: Windows, vocab: Sequence[str]
) -> list[tuple[str, float, float]]:
    """(token, start logit, end logit) of every token of the first window."""
    last = int(windows.bounds[1])
    logits = compute_logits(model, windows)[:last].tolist()
    return [(vocab[i], *pair) for i, pair in zip(windows.ids[:last].tolist(), logits, strict=True)]


def depth_experiment(
    depths: Sequence[int] = (3, 6, 12, 24), width: int = 128, seeds: Sequence[int] = (0, 1)
) -> list[Stack]:
    """Random stacks of several depths, with LayerNorm after and before the blocks.

    The setting is close to that of Xiong et al. 2020, §3: matrices of the layers drawn as Xavier
    did, biases 0, LayerNorm's scale 1 and shift 0, and a loss in which each token has a class of
    its own, as when a masked word is guessed. Tokens and classes are random.
    """
    return [
        _look_at(layers, norm_first, width, seed)
        for layers in depths
        for norm_first in (False, True)
        for seed in seeds
    ]


def _look_at(layers: int, norm_first: bool, width: int, seed: int) -> Stack:
    windows, length, words = 4, 32, 1000
    generator = torch.Generator().manual_seed(seed)
    config = EncoderConfig(
        vocab_size=words, hidden=width, layers=layers, heads=4, feed_forward=4 * width,
        positions=length, norm_first=norm_first,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # a new module draws weights; ours replace them
        encoder = SpanModel(config).encoder
    _xavier(encoder, generator)
    ids = torch.randint(words, (windows * length,), generator=generator)
    classes = torch.randint(words, (windows * length,), generator=generator)
    read_out = torch.randn(width, words, generator=generator) * math.sqrt(2 / (width + words))
    nothing = torch.zeros(windows, dtype=torch.long)
    batch = Batch(
        ids, torch.zeros_like(ids), torch.arange(length).repeat(windows),
        (length,) * windows, nothing, nothing,
    )  # fmt: skip

    likeness: list[float] = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda *call: likeness.append(_likeness(call[2], windows)))
    F.cross_entropy(encoder(batch) @ read_out, classes).backward()
    gradients = tuple(layer.down.weight.grad.norm().item() for layer in encoder.layers)
    return Stack(layers, norm_first, seed, gradients, tuple(likeness))


def _xavier(encoder: torch.nn.Module, generator: torch.Generator) -> None:
    """Weights of both kinds of stack from the same draws, so that only LayerNorm differs."""
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "norm" in name:
                continue
            if weight.dim() == 1:
                weight.zero_()
            elif "layers" not in name:  # embeddings: of size 1, as LayerNorm would make them
                weight.normal_(0, 1, generator=generator)
            else:  # query, key and value are three square matrices in one
                rows = weight.shape[0] / (3 if "qkv" in name else 1)
                weight.normal_(0, math.sqrt(2 / (rows + weight.shape[1])), generator=generator)


def _likeness(states: torch.Tensor, windows: int) -> float:
    unit = F.normalize(states.detach().view(windows, -1, states.shape[-1]), dim=-1)
    cosines = unit @ unit.transpose(1, 2)
    length = cosines.shape[-1]
    others = cosines.sum((1, 2)) - length  # a token is like itself
    return (others / (length * (length - 1))).mean().item()


def _words(name: str) -> list[str]:
    """``layers.0.attention_norm.weight`` as words, ``norm`` of its own."""
    return name.replace("_", ".").split(".")
