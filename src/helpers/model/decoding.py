"""Logits become ranked answers: windows → n-best of a pair → one list per question.

The n-best follows Google BERT's SQuAD code, which NeMo 0.11 kept: the best spans of all windows
of one question-context pair, distinct texts only, and a softmax over start + end logits of these.
Merging over a question's snippets follows dmis-lab's ``transform_n2b_factoid`` by its behavior,
since NVIDIA's notebook used it for the published figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from helpers.config import InputError, Settings
from helpers.data.spans import Span
from helpers.data.squad import Example
from helpers.io import write_text
from helpers.model.encoder import SpanModel
from helpers.model.features import (
    Spelling,
    Windows,
    gather,
    make_tokenizer,
    make_windows,
    prediction_batches,
)
from helpers.scoring.metrics import score_batch, squad_scores
from helpers.scoring.uncertainty import bootstrap_interval

LONGEST = 100  # characters; dmis-lab discards longer answers


@dataclass(frozen=True)
class Candidate:
    """One span of a context with its logits and its probability among the pair's n-best."""

    text: str
    start: int  # characters in the context; the text has single blanks even where that has not
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
    tokenizer: Tokenizer | None = None  # made from ``vocab`` when none is given

    def __post_init__(self):
        """Raise ``InputError`` when the settings' windows are longer than the model can read."""
        longest, positions = self.settings.max_length, self.model.config.positions
        if longest > positions:
            raise InputError(
                f"max_length: {longest} is more than the {positions} positions of this model; "
                f"set max_length={positions} or less"
            )
        if self.tokenizer is None:
            object.__setattr__(self, "tokenizer", make_tokenizer(self.vocab))

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

    The same texts, order and probabilities as Google's ``write_predictions``, with two exceptions.
    Where no span is left, that code invents the answer "empty"; this list is empty. And padding
    takes some of the ``size`` places there, while here none is ever computed. For one model of
    ``bioasq-cpu`` padded to 384 that changed 476 of 512 lists, mostly at their ends, 14 first
    texts, and the scores by 0 (SAcc), 0.08 (MRR) and 0 (LAcc) points.
    """
    row, start, end = _spans(windows, logits, size, max_answer)
    x, y = logits[start, 0].astype(np.float64), logits[end, 1].astype(np.float64)
    order = np.lexsort((-(x + y), windows.pair[row]))  # stable: ties to the better start, then end
    cuts = np.searchsorted(windows.pair[row][order], np.arange(len(examples) + 1))
    first, last = windows.token[start][order], windows.token[end][order]
    columns = first, last, x[order], y[order]
    return [
        _distinct(windows.spellings[i], *(c[cuts[i] : cuts[i + 1]].tolist() for c in columns), size)
        for i in range(len(examples))
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
        # dmis-lab's loop sorts by probability too, but its later version then takes the rows by
        # their old numbers (``iloc``), in an order without meaning. Sums do not depend on it; the
        # casing of an answer and the order of equal sums do, and here follow the probabilities.
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

    The first rule that fits: a last comma, full stop or blank goes; the only pair of round
    brackets goes when it encloses all; a text with brackets of one side only is discarded.
    """
    if text.endswith((",", ".", " ")):
        return text[:-1]
    if len(text) > 2 and text[0] + text[-1] == "()" and text.count("(") == text.count(")") == 1:
        return text[1:-1]
    return "" if ("(" in text) != (")" in text) else text


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


def squad_em_and_f1(reader: Reader, examples: Sequence[Example], progress: bool = True) -> dict:
    """EM and F1 of the reader's best spans as SQuAD v1.1 has them, fractions of 1.

    ``f1_interval`` is the 95% bootstrap interval over questions.
    """
    best = reader.predict(examples, progress=progress)
    answers = {e.id: c[0].text if c else "" for e, c in zip(examples, best, strict=True)}
    golds = {e.id: [span.text for span in e.spans] for e in examples}
    exact, f1 = zip(*squad_scores(golds, answers).values(), strict=True)
    return {
        "questions": len(golds),
        "em": sum(exact) / len(golds),
        "f1": sum(f1) / len(golds),
        "f1_interval": list(bootstrap_interval(f1)),
    }


def dev_scores(reader: Reader, examples: Sequence[Example], progress: bool = False) -> dict:
    """How well the reader answers held-out examples, for every choice one makes.

    Returns fractions ``sacc``, ``mrr``, ``lacc`` over questions and ``pair_em`` over distinct
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
        "mrr": score.mrr,
        "lacc": score.lacc,
        "pair_em": hits / count if count else 0.0,
    }


def _spans(windows: Windows, logits: np.ndarray, size: int, max_answer: int):
    """Window, first and last token of all spans between a window's best starts and best ends.

    The best are the ``size`` highest logits of all tokens of a window, those of the question too.
    Spans come window by window, the better start first, then the better end.
    """
    places = windows.bounds[:-1, None] + np.arange(size)
    inside = places < windows.bounds[1:, None]
    row = np.repeat(np.arange(len(windows)), windows.lengths)
    orders = (np.lexsort((-column, row)) for column in logits.T)
    starts, ends = (order[np.where(inside, places, 0)] for order in orders)
    may_start = inside & windows.can_start[starts]
    may_end = inside & (windows.token[ends] >= 0)
    found = []
    chunk = 1 + 4_000_000 // size**2  # windows at a time: memory
    for low in range(0, len(windows), chunk):
        part = slice(low, low + chunk)
        tokens = ends[part, None, :] - starts[part, :, None] + 1
        fits = (tokens > 0) & (tokens <= max_answer)
        n, i, j = np.nonzero(fits & may_start[part, :, None] & may_end[part, None, :])
        found.append((n + low, starts[n + low, i], ends[n + low, j]))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def _distinct(spelling: Spelling, first, last, x, y, size: int) -> list[Candidate]:
    """The first ``size`` spans with different texts; the columns are those of spans, best first."""
    chosen: dict[str, tuple] = {}
    for a, b, *span in zip(first, last, x, y, strict=True):
        low, high, text = spelling.cut(a, b)
        chosen.setdefault(text, (low, high, *span))
        if len(chosen) == size:
            break
    sums = [span[2] + span[3] for span in chosen.values()]
    weights = [math.exp(value - sums[0]) for value in sums]
    total = sum(weights)
    return [
        Candidate(text, *span, weight / total)
        for (text, span), weight in zip(chosen.items(), weights, strict=True)
    ]
