"""Find the order of a Megatron checkpoint's query-key-value rows by testing each possible order.

Megatron-LM changed the order of the rows twice without changing their shape (see
``checkpoint_version`` and ``fix_query_key_value_ordering`` in ``megatron/checkpointing.py``):

======= ====================== =======================================================
version axes of the rows       since
======= ====================== =======================================================
0       [3, heads, dimension]  the first release; all queries, then keys, then values
1.0     [heads, dimension, 3]  2020
2.0     [heads, 3, dimension]  2021
======= ====================== =======================================================

NVIDIA's files do not state their order. The wrong order loads without an error and makes every
answer useless (NeMo pull request 3435). ``find_order`` therefore tries each order on questions that
a trained model can answer or, for a model without a span head, on predicting masked words, as in
pre-training. If no order stands out, ``find_order`` raises an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from helpers.config import InputError, Settings
from helpers.data.squad import Example
from helpers.io import progress_stream
from helpers.model.decoding import Reader
from helpers.model.encoder import SpanModel
from helpers.model.features import Batch, gather
from helpers.scoring.metrics import squad_em_f1

# The axes of each order's rows, slowest first: 0 = query, key or value; 1 = head; 2 = dimension
_RUNS = {"0": (0, 1, 2), "1.0": (1, 2, 0), "2.0": (1, 0, 2)}
ORDERS = tuple(_RUNS)
QUESTIONS = Path(__file__).with_name("row_order_questions.json")
# The best score must reach the first number and exceed all others by the second. The small model in
# the tests has an F1 of 0.72 in its own order and 0.17 in the others, where its answers are random.
NEEDED = {"answers": (0.35, 0.2), "words": (0.2, 0.15)}
MEASURES = {
    "answers": "mean token F1 on the questions in row_order_questions.json",
    "words": "proportion of masked words guessed by the pre-training head",
    "tag": "the checkpoint_version stored in the file",
    "given": "the qkv_order setting",
}
Measure = Callable[[Reader], float]  # returns a score from 0 to 1
_BETTER = 0.1  # reject the stated head count if another scores this much higher
_EVERY = 6  # we mask one word in six
_LEAST_WORDS = 60  # an English biomedical vocabulary yields twice as many
_REMEDY = f"if you know the order, set qkv_order ({', '.join(ORDERS)})"


def find_order(
    reader: Reader, path: Path, version: str, lm_head: Mapping[str, torch.Tensor]
) -> dict:
    """Find the row order of the model read from ``path``, and convert its rows to our order.

    The setting ``qkv_order`` takes precedence. Otherwise, the order is the one in which the model
    scores best with its span head or, if it has none, with the masked-language-model head
    ``lm_head``. If it has neither head, the file's ``version`` tag determines the order. Return a
    JSON-ready dict: the ``order``, the ``kind`` of decision (a key of ``MEASURES``), a description
    of the ``measure``, the ``scores`` (0 to 1) by order, and the scores by head count (``heads``).
    Raise ``InputError`` if the order cannot be determined, if the scores and the tag disagree, or
    if the model scores clearly higher with a number of heads other than the stated one.
    """
    order, scores, heads = reader.settings.qkv_order, {}, {}
    if order:
        kind = "given"
    elif not reader.fresh_head or _fits(lm_head, reader.model):
        kind = "words" if reader.fresh_head else "answers"
        measure = _word_score(lm_head) if reader.fresh_head else answer_score
        order, scores, heads = _by_trying(reader, path, kind, measure, version)
    elif version in ORDERS:
        order, kind = version, "tag"
    else:
        raise InputError(
            f"{path}: no span head, no masked-word head and no version tag, so the order of the "
            f"query-key-value rows cannot be determined; {_REMEDY}"
        )
    reorder(reader.model, "0", order)
    found = {"order": order, "kind": kind, "scores": scores, "heads": heads}
    return found | {"measure": MEASURES[kind]}


def order_lines(found: Mapping) -> list[str]:
    """Format the result of ``find_order`` as lines of Markdown."""
    order, measure = found["order"], found["measure"]
    lines = [f"The kit read the query-key-value rows in order {order}, based on {measure}."]
    for title, tried in (("order", "scores"), ("number of heads", "heads")):
        if scores := found.get(tried):
            rows = [(name, f"{score:.4f}") for name, score in scores.items()]
            lines += ["", *markdown_table((title, "score"), rows)]
    return lines


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return ["| " + " | ".join(map(str, cells)) + " |" for cells in lines]


def to_ours(rows: torch.Tensor, heads: int, order: str) -> torch.Tensor:
    """Convert rows ``[3 × hidden, ...]`` from ``order`` to all queries, then keys, then values."""
    return rows[_places(len(rows), heads, order)]


def from_ours(rows: torch.Tensor, heads: int, order: str) -> torch.Tensor:
    """Apply the inverse of ``to_ours``."""
    return rows[_places(len(rows), heads, order).argsort()]


def _places(count: int, heads: int, order: str) -> torch.Tensor:
    """Return the index of each of our rows among the rows in ``order``: int64 ``[count]``."""
    sizes, runs = (3, heads, count // (3 * heads)), _RUNS[order]
    places = torch.arange(count).view([sizes[axis] for axis in runs])
    return places.permute([runs.index(axis) for axis in range(3)]).flatten()


def reorder(model: SpanModel, now: str, wanted: str) -> None:
    """Reinterpret rows that were read in order ``now`` as rows in order ``wanted``."""
    if now == wanted:
        return
    with torch.no_grad():
        for layer in model.encoder.layers:
            heads = layer.attention.heads
            for rows in (layer.attention.qkv.weight, layer.attention.qkv.bias):
                rows.copy_(to_ours(from_ours(rows, heads, now), heads, wanted))


def try_orders(
    reader: Reader, measure: Measure, orders: Collection[str] = ORDERS
) -> dict[str, float]:
    """Return the measure for each order; the rows are in order "0" before and after the call."""
    scores, now = {}, "0"
    try:
        for order in tqdm(
            orders, desc="query-key-value order", unit="order", delay=5, file=progress_stream()
        ):
            reorder(reader.model, now, order)
            now = order
            scores[order] = measure(reader)
    finally:
        reorder(reader.model, now, "0")
    return scores


def choose(scores: Mapping[str, float], kind: str) -> str | None:
    """Return the order that stands out according to ``NEEDED``, or None."""
    least, lead = NEEDED[kind]
    best, second, *_ = sorted(scores, key=scores.__getitem__, reverse=True)
    clear = scores[best] >= least and scores[best] - scores[second] >= lead
    return best if clear else None


def _by_trying(
    reader: Reader, path: Path, kind: str, measure: Measure, version: str
) -> tuple[str, dict[str, float], dict[str, float]]:
    """Return the best order, the scores of the orders and the scores of the head counts."""
    try:
        scores = try_orders(reader, measure)
    except InputError as error:
        raise InputError(f"{path}: {error}; {_REMEDY}") from None
    heads = _try_heads(reader, path, kind, scores, measure)
    best = choose(scores, kind)
    shown = ", ".join(f"{order}: {score:.2f}" for order, score in scores.items())
    if best is None:
        raise InputError(
            f"{path}: no order of the query-key-value rows stands out ({MEASURES[kind]}: {shown}), "
            f"so the checkpoint is damaged, untrained or not what it claims to be; {_REMEDY}"
        )
    if version in ORDERS and version != best:
        raise InputError(
            f"{path}: tagged as version {version} but scores best as {best} ({shown}); {_REMEDY}"
        )
    return best, scores, heads


def _try_heads(
    reader: Reader, path: Path, kind: str, scores: Mapping[str, float], measure: Measure
) -> dict[str, float]:
    """Return the best score for the stated head count and up to four others, keyed by head count.

    The weights fit any count that divides the hidden size, and a model with the wrong count still
    answers some questions. We try the count that gives heads of size 64, as in nearly all models of
    this kind, and the counts nearest to the stated one. We try each count in the order that is best
    so far and in "2.0", the only order in which a wrong count mixes queries, keys and values.
    """
    model, best = reader.model, max(scores, key=scores.__getitem__)
    hidden, stated = model.config.hidden, model.config.heads
    counts = [n for n in range(1, hidden + 1) if hidden % n == 0 and 8 <= hidden // n <= 128]
    others = sorted(
        (n for n in counts if n != stated),
        key=lambda n: (hidden != 64 * n, abs(math.log(n / stated))),
    )
    found = {str(stated): scores[best]}
    try:
        for count in others[:4]:
            _set_heads(model, count)
            found[str(count)] = max(try_orders(reader, measure, {best, "2.0"}).values())
    finally:
        _set_heads(model, stated)
    likely = max(found, key=found.__getitem__)
    if found[likely] > max(scores[best] + _BETTER, NEEDED[kind][0]):
        raise InputError(
            f"{path}: num-attention-heads is {stated}, but the model scores {found[likely]:.2f} "
            f"with {likely} heads and only {scores[best]:.2f} with {stated} ({MEASURES[kind]}); "
            "correct num-attention-heads in config.json"
        )
    return found


def _set_heads(model: SpanModel, count: int) -> None:
    for layer in model.encoder.layers:
        layer.attention.heads = count


def questions() -> list[tuple[Example, str]]:
    """Return questions and answers; each context contains the answer and a similar distractor."""
    items = json.loads(QUESTIONS.read_text(encoding="utf-8"))["items"]
    return [
        (Example(f"{n:024x}_001", f"{n:024x}", i["question"], i["context"], ()), i["answer"])
        for n, i in enumerate(items)
    ]


def plain(reader: Reader) -> Reader:
    """Return the reader with default settings; the user's are meant for different questions."""
    longest = min(Settings.max_length, reader.model.config.positions)
    return replace(reader, settings=Settings(max_length=longest))


def answer_score(reader: Reader) -> float:
    """Return the mean token F1 of the best answers to ``questions`` under default settings."""
    examples, answers = zip(*questions(), strict=True)
    found = plain(reader).predict(examples, progress=False)
    texts = [best[0].text if best else "" for best in found]
    scores = [squad_em_f1(text, [answer])[1] for text, answer in zip(texts, answers, strict=True)]
    return float(np.mean(scores))


def _fits(lm_head: Mapping[str, torch.Tensor], model: SpanModel) -> bool:
    """Return whether the pre-training head is complete and fits the model."""
    hidden, words = model.config.hidden, model.config.vocab_size
    shapes = {"dense.weight": (hidden, hidden), "bias": (words,)}
    shapes |= dict.fromkeys(("dense.bias", "layernorm.weight", "layernorm.bias"), (hidden,))
    return all(n in lm_head and tuple(lm_head[n].shape) == shape for n, shape in shapes.items())


def _word_score(lm_head: Mapping[str, torch.Tensor]) -> Measure:
    """Return a measure: the proportion of masked words that the pre-training head predicts."""

    def measure(reader: Reader) -> float:
        device = reader.compute.device
        batch, masked, truth = mask_words(reader)
        head = {name: value.to(device).float() for name, value in lm_head.items()}
        with torch.inference_mode(), reader.compute.autocast():
            x = reader.model.encoder(batch.to(device))[masked.to(device)].float()
            # Megatron-LM's BertLMHead uses the exact GELU, not the fused one used in its layers.
            x = F.gelu(F.linear(x, head["dense.weight"], head["dense.bias"]))
            size = (x.shape[-1],)
            x = F.layer_norm(x, size, head["layernorm.weight"], head["layernorm.bias"], 1e-5)
            words = reader.model.encoder.words.weight
            guess = F.linear(x, words, head["bias"]).argmax(-1)
        return float((guess.cpu() == truth).float().mean())

    return measure


def mask_words(reader: Reader) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Mask some words in the contexts; return the batch, the masked positions and the word ids.

    We mask only words that consist of one token and have more than three letters. Each guess is
    then clearly correct or incorrect, and we avoid words that would fit into any text.
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
            f"only {len(known)} words of the vocabulary occur in the built-in questions, or the "
            "vocabulary lacks [MASK], so the row order cannot be determined"
        )
    masked = torch.tensor(known[::_EVERY])
    truth = batch.ids[masked]
    batch.ids[masked] = reader.vocab.index("[MASK]")
    return batch, masked, truth
