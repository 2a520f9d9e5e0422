"""Logits become ranked answers: windows → n-best of a pair → one list per question.

The n-best follows Google BERT's SQuAD code, which NeMo 0.11 kept: the best spans of all windows
of one question-context pair, distinct texts only, and a softmax over start + end logits of these.
Merging over a question's snippets follows dmis-lab's ``transform_n2b_factoid`` by its behaviour,
since NVIDIA's notebook used it for the published figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from helpers.config import InputError, Settings
from helpers.encoder import SpanModel
from helpers.features import (
    Windows,
    gather,
    make_tokenizer,
    make_windows,
    prediction_batches,
)
from helpers.metrics import score_batch
from helpers.outputs import write_text
from helpers.squad import Example, Span

_BRACKETS = {")": "(", "]": "[", "}": "{"}
LONGEST = 100  # characters; dmis-lab discards longer answers


@dataclass(frozen=True)
class Candidate:
    """One span of a context with its logits and its probability among the pair's n-best."""

    text: str
    start: int  # characters in the context
    end: int
    start_logit: float
    end_logit: float
    probability: float


@dataclass(frozen=True)
class Reader:
    """A model with its vocabulary and settings: all it takes to answer."""

    model: SpanModel
    vocab: Sequence[str]  # tokens in the order of their ids
    settings: Settings
    fresh_head: bool = False  # the span head is random: fine-tune before believing an answer
    origin: dict = field(default_factory=dict)  # of converted weights: files, hashes, row order

    @cached_property
    def tokenizer(self):
        """The tokenizer over ``vocab``."""
        return make_tokenizer(self.vocab)

    def windows(self, examples: Sequence[Example], training: bool = False) -> Windows:
        """The examples' windows under this reader's settings."""
        s = self.settings
        return make_windows(
            examples, self.tokenizer, max_length=s.max_length, step=s.step,
            max_query=s.max_query, training=training,
        )  # fmt: skip

    def predict(self, examples: Sequence[Example], progress: bool = True) -> list[list[Candidate]]:
        """N-best candidates per example, best first, in the examples' order."""
        if not examples:
            return []
        windows = self.windows(examples)
        logits = compute_logits(self.model, windows, progress=progress)
        s = self.settings
        return nbest(windows, logits, examples, size=s.nbest, max_answer=s.max_answer)

    def answer(self, question: str, context: str) -> list[Candidate]:
        """N-best answers to one question about one context."""
        example = Example("0_001", "0", question, context, (), 0, "")
        return self.predict([example], progress=False)[0]


def compute_logits(model: SpanModel, windows: Windows, progress: bool = False) -> np.ndarray:
    """Start and end logits of every token, float32 ``[total_tokens, 2]``, in the windows' order.

    A window's logits depend on its own tokens only, whatever else shares its batch.
    """
    device = next(model.parameters()).device
    result = np.empty((len(windows.ids), 2), np.float32)
    was_training = model.training
    model.eval()
    plan = prediction_batches(windows.lengths)
    bar = tqdm(plan, desc="predicting", unit="batch", disable=not progress)
    try:
        with torch.inference_mode(), bar:  # closed when the cell is stopped, too
            for rows in bar:
                logits = model(gather(windows, rows).to(device)).float().cpu().numpy()
                low = 0
                for row in rows:
                    a, b = windows.bounds[row], windows.bounds[row + 1]
                    result[a:b] = logits[low : low + b - a]
                    low += b - a
    finally:
        model.train(was_training)
    if not np.isfinite(result).all():
        raise _damaged(model)
    return result


def _damaged(model: SpanModel) -> InputError:
    bad = (n for n, p in model.named_parameters() if not torch.isfinite(p).all())
    name = next(bad, "its output")
    return InputError(f"model: {name} holds numbers that are not finite; fetch or train it again")


def nbest(
    windows: Windows,
    logits: np.ndarray,
    examples: Sequence[Example],
    *,
    size: int = 20,
    max_answer: int = 30,
) -> list[list[Candidate]]:
    """The ``size`` best spans of every example, distinct by text, probabilities summing to 1.

    Every span of at most ``max_answer`` tokens is weighed (Google's code looks only at pairs of
    the 20 best starts and ends). Both ends lie on word edges: BERT's code widens an answer to
    whole words afterwards. An example without any token gets an empty list.
    """
    found: list[list[tuple[float, float, float, int, int]]] = [[] for _ in examples]
    for row in range(len(windows)):
        a, b = windows.bounds[row], windows.bounds[row + 1]
        start, end = _best_spans(
            np.where(windows.can_start[a:b], logits[a:b, 0], -np.inf),
            np.where(windows.can_end[a:b], logits[a:b, 1], -np.inf),
            size * 4,  # spares, since equal texts count once
            max_answer,
        )
        for s, e in zip(start.tolist(), end.tolist(), strict=True):
            x, y = float(logits[a + s, 0]), float(logits[a + e, 1])
            span = int(windows.chars[a + s, 0]), int(windows.chars[a + e, 1])
            found[windows.pair[row]].append((x + y, x, y, *span))
    return [
        _distinct(spans, example.context, size)
        for spans, example in zip(found, examples, strict=True)
    ]


def rank_answers(
    examples: Sequence[Example],
    candidates: Sequence[Sequence[Candidate]],
    *,
    merge: str = "sum",
    keep: int = 5,
) -> dict[str, list[tuple[str, float]]]:
    """One ranked list of (answer, score) per question, from the n-bests of all its contexts.

    Texts equal when lower-cased are one answer, written as first seen; its score is the sum, or
    with ``merge="max"`` the largest, of their probabilities.
    """
    by_question: dict[str, list[Candidate]] = {e.question_id: [] for e in examples}
    for example, found in zip(examples, candidates, strict=True):
        by_question[example.question_id] += found
    ranked = {}
    for question, found in by_question.items():
        scores: dict[str, float] = {}
        written: dict[str, str] = {}
        for candidate in sorted(found, key=lambda c: -c.probability):
            text = tidy(candidate.text)
            if not text or len(text) > LONGEST:
                continue
            key = text.lower()
            written.setdefault(key, text)
            old = scores.get(key, 0.0)
            p = candidate.probability
            scores[key] = old + p if merge == "sum" else max(old, p)
        best = sorted(scores.items(), key=lambda item: -item[1])[:keep]
        ranked[question] = [(written[key], score) for key, score in best]
    return ranked


def tidy(text: str) -> str:
    """dmis-lab's clean-up of one answer; empty when the answer is to be discarded.

    One trailing comma, full stop or blank goes; else one outer pair of brackets; else a text
    whose brackets do not balance is discarded.
    """
    if text.endswith((",", ".", " ")):
        return text[:-1].strip()
    if len(text) > 1 and text[0] in "([{" and _BRACKETS.get(text[-1]) == text[0]:
        return text[1:-1].strip()
    opened: list[str] = []
    for character in text:
        if character in "([{":
            opened.append(character)
        elif character in _BRACKETS and (not opened or opened.pop() != _BRACKETS[character]):
            return ""
    return "" if opened else text


def write_nbest(
    path: str | Path, examples: Sequence[Example], candidates: Sequence[Sequence[Candidate]]
) -> Path:
    """One JSON line per pair: its id, question, snippet number, document and n-best."""
    lines = []
    for example, found in zip(examples, candidates, strict=True):
        row = {
            "id": example.id,
            "question_id": example.question_id,
            "snippet": example.snippet,
            "document": example.document,
            "context": example.context,
            "nbest": [asdict(c) for c in found],
        }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return write_text(path, "".join(lines))


def read_nbest(path: str | Path) -> list[tuple[Example, list[Candidate]]]:
    """What ``write_nbest`` wrote, with the question's text left empty."""
    rows = []
    with Path(path).open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            example = Example(
                row["id"], row["question_id"], "", row["context"], (), row["snippet"],
                row["document"],
            )  # fmt: skip
            rows.append((example, [Candidate(**c) for c in row["nbest"]]))
    return rows


def pair_exact_match(
    examples: Sequence[Example],
    candidates: Sequence[Sequence[Candidate]],
    gold_spans: Mapping[str, Sequence[Span]],
) -> tuple[int, int]:
    """(hits, pairs): over contexts that hold an answer, how often the best span is one of them.

    ``gold_spans`` maps an example's id to the gold spans of its context. The comparison is of
    lower-cased text, so another occurrence of the same words counts.
    """
    hits = pairs = 0
    for example, found in zip(examples, candidates, strict=True):
        golds = {s.text.lower() for s in gold_spans.get(example.id, ())}
        if golds:
            pairs += 1
            hits += bool(found) and found[0].text.lower() in golds
    return hits, pairs


def dev_scores(reader: Reader, examples: Sequence[Example], progress: bool = False) -> dict:
    """How well the reader answers held-out examples, for every choice one makes.

    Returns fractions ``sacc``, ``lacc``, ``mrr`` over questions and ``pair_em`` over distinct
    pairs, with ``questions`` and ``pairs``. The gold of a question is every span of its examples;
    examples that repeat a pair count once.
    """
    golds: dict[str, set[str]] = {}
    pairs: dict[tuple[str, str], Example] = {}
    for e in examples:
        golds.setdefault(e.question_id, set()).update(s.text for s in e.spans)
        pairs.setdefault((e.question_id, e.context), e)
    distinct = list(pairs.values())
    candidates = reader.predict(distinct, progress=progress)
    ranked = rank_answers(distinct, candidates, merge=reader.settings.merge)
    answers = {question: [text for text, _ in found] for question, found in ranked.items()}
    score = score_batch("dev", golds, answers)
    hits, count = pair_exact_match(distinct, candidates, {e.id: e.spans for e in distinct})
    return {
        "questions": score.n,
        "pairs": count,
        "sacc": score.sacc,
        "lacc": score.lacc,
        "mrr": score.mrr,
        "pair_em": hits / count if count else 0.0,
    }


def _best_spans(start: np.ndarray, end: np.ndarray, size: int, max_answer: int):
    """First and last tokens of the ``size`` highest start + end sums within the length limit."""
    reach = np.concatenate([end, np.full(max_answer - 1, -np.inf)])
    sums = start[:, None] + np.lib.stride_tricks.sliding_window_view(reach, max_answer)
    flat = sums.ravel()
    cut = min(size, len(flat)) - 1
    top = np.argpartition(-flat, cut)[: cut + 1]
    top = top[np.isfinite(flat[top])]
    top = top[np.lexsort((top, -flat[top]))]  # best first, ties to the leftmost and shortest
    first, extra = np.divmod(top, max_answer)
    return first, first + extra


def _distinct(spans, context: str, size: int) -> list[Candidate]:
    chosen: dict[str, tuple] = {}
    for span in sorted(spans, key=lambda s: (-s[0], s[3], s[4])):
        chosen.setdefault(context[span[3] : span[4]], span)
        if len(chosen) == size:
            break
    if not chosen:
        return []
    top = next(iter(chosen.values()))[0]
    weights = [math.exp(span[0] - top) for span in chosen.values()]
    total = sum(weights)
    return [
        Candidate(text, span[3], span[4], span[1], span[2], weight / total)
        for (text, span), weight in zip(chosen.items(), weights, strict=True)
    ]
