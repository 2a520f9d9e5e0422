"""Which query-key-value order a Megatron checkpoint has, decided by what the model can do.

Megatron-LM changed the order of the rows twice without a change of shape (``checkpoint_version`` in
``megatron/checkpointing.py``, ``fix_query_key_value_ordering``):

======= ====================== =======================================================
version rows run over           since
======= ====================== =======================================================
0       [3, heads, dimension]  the first release; all queries, then keys, then values
1.0     [heads, dimension, 3]  2020
2.0     [heads, 3, dimension]  2021
======= ====================== =======================================================

A file does not name its order, and the wrong one loads without an error and makes every answer
useless (NeMo pull request 3435). Only in the right order is the model any good, so each order is
tried on questions that a trained model answers or, for a model without a span head, on words that
it was pre-trained to guess. If no order stands out, nothing is decided.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from helpers.config import InputError, Settings
from helpers.data.squad import Example
from helpers.model.decoding import Reader
from helpers.model.encoder import SpanModel
from helpers.model.features import Batch, gather
from helpers.scoring.metrics import squad_em_f1

# order: the axes of its view [.., .., .., hidden] that make [3, heads, dimension, hidden]
_AXES = {"0": (0, 1, 2), "1.0": (2, 0, 1), "2.0": (1, 0, 2)}
ORDERS = tuple(_AXES)


def to_ours(rows: torch.Tensor, heads: int, order: str) -> torch.Tensor:
    """Rows ``[3 × hidden, ...]`` of a given order, as all queries, then keys, then values."""
    return _permute(rows, heads, _shape(rows, heads, order), _AXES[order])


def from_ours(rows: torch.Tensor, heads: int, order: str) -> torch.Tensor:
    """The inverse of ``to_ours``."""
    axes = _AXES[order]
    inverse = tuple(axes.index(axis) for axis in range(3))
    return _permute(rows, heads, _shape(rows, heads, "0"), inverse)


def _shape(rows: torch.Tensor, heads: int, order: str) -> tuple[int, int, int]:
    ours = (3, heads, rows.shape[0] // (3 * heads))
    shape = [0, 0, 0]
    for size, axis in zip(ours, _AXES[order], strict=True):
        shape[axis] = size
    return tuple(shape)


def _permute(rows, heads: int, shape, axes) -> torch.Tensor:
    rest = rows.shape[1:]
    order = (*axes, *range(3, 3 + len(rest)))
    return rows.reshape(*shape, *rest).permute(order).reshape(rows.shape)


QUESTIONS = Path(__file__).parents[1] / "probe_questions.json"
# The best score must reach the first number and lead by the second. The small model of the tests
# answers at F1 0.72 in its own order and at 0.17 in the others, where it points at random words.
NEEDED = {"answers": (0.35, 0.2), "words": (0.2, 0.15)}
MEASURES = {
    "answers": "mean token F1 on the questions of probe_questions.json",
    "words": "share of masked words guessed by the pre-training head",
    "tag": "the file's own checkpoint_version",
    "given": "the setting qkv_order",
}
Measure = Callable[[Reader], float]  # 0 to 1
_BETTER = 0.1  # a head count that scores so much higher than the stated one refutes it
_EVERY = 6  # one word in so many is masked
_LEAST_WORDS = 60  # a vocabulary of English and biomedicine knows twice as many


@dataclass(frozen=True)
class Evidence:
    """The order a checkpoint was read in, and why: ``scores`` (0 to 1) of the orders tried."""

    order: str
    kind: str  # a key of MEASURES
    scores: Mapping[str, float] = field(default_factory=dict)
    heads: Mapping[str, float] = field(default_factory=dict)  # scores of the head counts tried

    @property
    def measure(self) -> str:
        """What the decision rests on, in words."""
        return MEASURES[self.kind]

    def as_dict(self) -> dict:
        """JSON-ready, for a manifest or a model card."""
        return asdict(self) | {"measure": self.measure}


def questions() -> list[tuple[Example, str]]:
    """The questions, each with a short context that holds its answer and another of its kind."""
    items = json.loads(QUESTIONS.read_text(encoding="utf-8"))["items"]
    return [
        (Example(f"{n:024x}_001", f"{n:024x}", i["question"], i["context"], ()), i["answer"])
        for n, i in enumerate(items)
    ]


def find_order(
    reader: Reader, path: Path, *, has_head: bool, version: str, lm_head: Mapping[str, torch.Tensor]
) -> Evidence:
    """Decide the row order and leave the model in it; its rows come in order "0" as read.

    A span head is evidence, else a head for masked words, else the file's version tag. Where both
    a score and a tag speak they must agree. Raises ``InputError`` when nothing decides, or when
    the model is clearly better with another number of heads than the stated one.
    """
    remedy = f"name the order with qkv_order ({', '.join(ORDERS)}) if you know it"
    if not has_head and not _whole(lm_head, reader):
        if version not in ORDERS:
            raise InputError(
                f"{path}: no span head, no masked-word head and no version tag, so nothing tells "
                f"the order of its query-key-value rows; {remedy}"
            )
        reorder(reader.model, "0", version)
        return Evidence(version, "tag")
    kind = "answers" if has_head else "words"
    measure = answer_score if has_head else _word_score(lm_head)
    try:
        scores = try_orders(reader, measure)
    except InputError as error:
        raise InputError(f"{path}: {error}; {remedy}") from None
    heads = _try_heads(reader, path, kind, scores, measure)
    best = choose(scores, kind)
    shown = ", ".join(f"{order}: {score:.2f}" for order, score in scores.items())
    if best is None:
        raise InputError(
            f"{path}: no order of its query-key-value rows stands out ({MEASURES[kind]}: "
            f"{shown}), so it is damaged, not trained, or not what it says; {remedy}"
        )
    if version in ORDERS and version != best:
        raise InputError(
            f"{path}: tagged as version {version}, but answers best as {best} ({shown}); {remedy}"
        )
    reorder(reader.model, "0", best)
    return Evidence(best, kind, scores, heads)


def _try_heads(
    reader: Reader, path: Path, kind: str, scores: Mapping[str, float], measure: Measure
) -> dict[str, float]:
    """The best score under the stated head count and at most four others, by count.

    The weights fit any count that divides the width, and with a wrong one the model still answers
    a part. Tried are heads of 64 numbers, which nearly all models of this kind have, and the
    counts nearest to the stated one; each in the order that is best so far and in "2.0", the only
    one in which a wrong count mixes queries, keys and values. Raises ``InputError`` when another
    count is clearly better.
    """
    model, best = reader.model, max(scores, key=scores.__getitem__)
    hidden, stated = model.config.hidden, model.config.heads
    counts = [n for n in range(1, hidden + 1) if hidden % n == 0 and 8 <= hidden // n <= 128]
    counts = sorted(
        (n for n in counts if n != stated),
        key=lambda n: (hidden != 64 * n, abs(math.log(n / stated))),
    )[:4]
    found = {str(stated): scores[best]}
    try:
        for count in counts:
            _set_heads(model, count)
            found[str(count)] = max(try_orders(reader, measure, {best, "2.0"}).values())
    finally:
        _set_heads(model, stated)
    likely = max(found, key=found.__getitem__)
    if found[likely] > max(scores[best] + _BETTER, NEEDED[kind][0]):
        raise InputError(
            f"{path}: num-attention-heads is {stated}, but with {likely} heads the model scores "
            f"{found[likely]:.2f} and with {stated} only {scores[best]:.2f} ({MEASURES[kind]}); "
            "correct num-attention-heads in config.json"
        )
    return found


def _set_heads(model: SpanModel, count: int) -> None:
    for layer in model.encoder.layers:
        layer.attention.heads = count


def try_orders(
    reader: Reader, measure: Measure, orders: Collection[str] = ORDERS
) -> dict[str, float]:
    """The measure under each order; the model's rows are in "0" before and after."""
    scores, now = {}, "0"
    try:
        for order in tqdm(orders, desc="query-key-value order", unit="order", delay=5):
            reorder(reader.model, now, order)
            now = order
            scores[order] = measure(reader)
    finally:
        reorder(reader.model, now, "0")
    return scores


def choose(scores: Mapping[str, float], kind: str) -> str | None:
    """The order that stands out by the rule above, or None."""
    least, lead = NEEDED[kind]
    best, second, *_ = sorted(scores, key=scores.__getitem__, reverse=True)
    clear = scores[best] >= least and scores[best] - scores[second] >= lead
    return best if clear else None


def reorder(model: SpanModel, now: str, wanted: str) -> None:
    """Take rows that were read as order ``now`` for rows of order ``wanted``, layer by layer."""
    if now == wanted:
        return
    with torch.no_grad():
        for layer in model.encoder.layers:
            heads = layer.attention.heads
            for rows in (layer.attention.qkv.weight, layer.attention.qkv.bias):
                rows.copy_(to_ours(from_ours(rows, heads, now), heads, wanted))


def answer_score(reader: Reader) -> float:
    """Mean token F1 of the best answers to ``questions``, whatever settings the reader has."""
    examples, answers = zip(*questions(), strict=True)
    found = plain(reader).predict(examples, progress=False)
    return float(
        np.mean([
            squad_em_f1(best[0].text if best else "", [answer])[1]
            for best, answer in zip(found, answers, strict=True)
        ])
    )  # fmt: skip


def plain(reader: Reader) -> Reader:
    """The reader with default settings: the user's are for the user's questions."""
    longest = min(Settings.max_length, reader.model.config.positions)
    return replace(reader, settings=Settings(max_length=longest))


def _whole(lm_head: Mapping[str, torch.Tensor], reader: Reader) -> bool:
    """Whether the head of pre-training is there with all its parts, and fits the model."""
    hidden, words = reader.model.config.hidden, reader.model.config.vocab_size
    shapes = {"dense.weight": (hidden, hidden), "bias": (words,)}
    shapes |= dict.fromkeys(("dense.bias", "layernorm.weight", "layernorm.bias"), (hidden,))
    return all(n in lm_head and tuple(lm_head[n].shape) == shape for n, shape in shapes.items())


def _word_score(lm_head: Mapping[str, torch.Tensor]) -> Measure:
    """A measure: the share of masked words that the pre-training head guesses."""
    head = {name: value.float() for name, value in lm_head.items()}

    def measure(reader: Reader) -> float:
        batch, masked, truth = mask_words(reader)
        with torch.inference_mode():
            x = reader.model.encoder(batch)[masked]
            # The exact GELU: Megatron-LM's BertLMHead does not use the fused one of its layers.
            x = F.gelu(F.linear(x, head["dense.weight"], head["dense.bias"]))
            size = (x.shape[-1],)
            x = F.layer_norm(x, size, head["layernorm.weight"], head["layernorm.bias"], 1e-5)
            words = reader.model.encoder.words.weight
            guess = F.linear(x, words, head["bias"]).argmax(-1)
        return float((guess == truth).float().mean())

    return measure


def mask_words(reader: Reader) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """The contexts with some words masked: the batch, the places in it, the words' ids.

    Only words that are one token and longer than three letters, so that a guess is right or
    wrong and not of the kind that any text would do for.
    """
    windows = plain(reader).windows([example for example, _ in questions()])
    batch = gather(windows, range(len(windows)))
    tokens = [reader.vocab[n] for n in windows.ids]
    known = [
        n
        for n in np.flatnonzero(windows.token >= 0)
        if tokens[n].isalpha() and len(tokens[n]) > 3 and not tokens[n + 1].startswith("##")
    ]
    if len(known) < _LEAST_WORDS or "[MASK]" not in reader.vocab:
        raise InputError(
            f"only {len(known)} words of the vocabulary are in the probe's texts (or it lacks "
            "[MASK]), too few to test the row order by"
        )
    masked = torch.tensor(known[::_EVERY])
    truth = batch.ids[masked]
    batch.ids[masked] = reader.vocab.index("[MASK]")
    return batch, masked, truth
