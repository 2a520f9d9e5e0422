"""From logits to ranked answers: best spans per window, n-best per pair, one list per question.

``best_spans`` finds the candidate spans. ``nbest`` then follows Google BERT's SQuAD code, which
NeMo 0.11 also used: it takes the best spans from all windows of one question-context pair, keeps
only those with distinct texts, and applies a softmax to the sums of their start and end logits.
``rank_answers`` merges the n-best lists of a question's contexts in the same way as
``transform_n2b_factoid`` from dmis-lab, which NVIDIA used for its published results.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from helpers.config import InputError, Settings
from helpers.data.spans import Span
from helpers.data.squad import Example, by_pair
from helpers.io import out_of_memory, progress_stream, write_text
from helpers.model import processes
from helpers.model.compute import Compute
from helpers.model.encoder import SpanModel
from helpers.model.features import (
    Windows,
    gather,
    make_windows,
    prediction_batches,
    to_device,
)
from helpers.model.texts import Detokenizer, has_single_spaces, make_tokenizer, span_text
from helpers.scoring.metrics import score_batch, squad_scores
from helpers.scoring.uncertainty import bootstrap_interval

_SPAN = np.dtype([("start", "i4"), ("end", "i4"), ("start_logit", "f8"), ("end_logit", "f8"),
                  ("probability", "f8")])  # fmt: skip
_AT_ONCE = 2048  # examples
_WORTH_STARTING = 20_000  # examples; fewer take less time than starting processes
_TOKENS, _TOKENS_ON_GPU = 4096, 32_768  # per batch in prediction
LONGEST = 100  # characters; we discard longer answers, as dmis-lab does


@dataclass(frozen=True)
class Candidate:
    """One span of a context, with its logits and its probability in the n-best list of the pair.

    start, end: character offsets in the context. ``text`` has single spaces between words.
    """

    text: str
    start: int
    end: int
    start_logit: float
    end_logit: float
    probability: float


class NBest(Sequence[Candidate]):
    """The candidates of one pair, best first.

    They are stored in an array, at 32 bytes each, not as objects, because 100,000 pairs have two
    million candidates. The texts are read from the context.
    """

    __slots__ = ("_spans", "context")

    def __init__(self, context: str, spans: np.ndarray | Sequence[tuple]):
        """``spans`` has the fields of ``Candidate`` except ``text``; an array is not copied."""
        self.context, self._spans = context, np.asarray(spans, _SPAN)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, end, *numbers = self._spans[index].item()
        return Candidate(span_text(self.context, start, end), start, end, *numbers)

    def __eq__(self, other) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


@dataclass
class Reader:
    """A model with its vocabulary and settings: everything needed to answer questions.

    vocab: tokens in the order of their ids; the tokenizer is built from them if none is given.
    fresh_head: whether the span head is random; if so, fine-tune before you trust any answer.
    origin: where the weights come from (files, hashes, row order, fine-tuning).
    compute: the device and precision with which this reader trains and answers.
    trained_into: folders of the training runs that changed this model since it was loaded.
    """

    model: SpanModel
    vocab: Sequence[str]
    settings: Settings
    fresh_head: bool = False
    origin: dict = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    compute: Compute = field(default_factory=Compute)
    trained_into: set[Path] = field(default_factory=set)

    def __post_init__(self):
        """Raise ``InputError`` if ``settings.max_length`` is more than the model can read."""
        longest, positions = self.settings.max_length, self.model.config.positions
        if longest > positions:
            raise InputError(
                f"max_length: {longest} is more than the {positions} positions of this model; "
                f"set max_length={positions} or less"
            )
        self.tokenizer = self.tokenizer or make_tokenizer(self.vocab)

    def windows(self, examples: Sequence[Example], training: bool = False) -> Windows:
        """Cut the examples into windows according to this reader's settings."""
        s = self.settings
        return make_windows(
            examples, self.tokenizer, max_length=s.max_length, step=s.step,
            max_query=s.max_query, training=training,
        )  # fmt: skip

    def predict(self, examples: Sequence[Example], progress: bool = True) -> list[NBest]:
        """Return the n-best candidates for each example, best first, in the given order.

        On one device, ``_AT_ONCE`` examples are processed at a time, so the memory for windows and
        logits does not grow with the number of examples.
        """
        found: list[NBest] = []
        for part, windows, logits in self._parts(examples, progress):
            found += self._nbest(part, windows, logits)
        return found

    def _parts(self, examples: Sequence[Example], progress: bool):
        """Yield parts of the examples, each with its windows and their logits."""
        together = self.compute.devices > 1 and len(examples) >= _WORTH_STARTING
        size = len(examples) if together else _AT_ONCE
        for low in range(0, len(examples), size or 1):
            part = examples[low : low + size]
            windows = self.windows(part)
            if together:
                yield part, windows, self._logits_together(windows, progress)
            else:
                yield part, windows, compute_logits(self.model, windows, progress, self.compute)

    def _nbest(self, part: Sequence[Example], windows: Windows, logits: np.ndarray) -> list[NBest]:
        s = self.settings
        return nbest(windows, logits, part, size=s.nbest, max_answer=s.max_answer)

    def answer(self, question: str, context: str) -> NBest:
        """Return the n-best answers to one question about one context."""
        return self.predict([Example("0_001", "0", question, context)], progress=False)[0]

    def _logits_together(self, windows: Windows, progress: bool) -> np.ndarray:
        """Compute the logits with one process per device, each for an equal part of the windows."""
        if progress:
            print(f"predicting on {self.compute.devices} devices", file=sys.stderr)
        with tempfile.TemporaryDirectory() as name:
            processes.run("predict", self, windows, Path(name), show=lambda: None)
            return np.concatenate([np.load(path) for path in sorted(Path(name).glob("*.npy"))])


def compute_logits(
    model: SpanModel, windows: Windows, progress: bool = False, compute: Compute | None = None
) -> np.ndarray:
    """Compute the start and end logits of every token, in window order: ``[total_tokens, 2]``.

    The result is a float32 array. The logits of a window depend only on its own tokens, not on the
    rest of its batch. If memory runs out, we make the batches half as large. Raise an
    ``InputError`` that names the weight at fault if any logits are not finite.
    """
    device = next(model.parameters()).device
    # The logits stay on the device until the end, because each copy waits for the device. They
    # share one array, because one small array per batch would fragment the memory.
    found = torch.empty(len(windows.ids), 2, device=device)
    tokens = _TOKENS if device.type == "cpu" else _TOKENS_ON_GPU
    left = prediction_batches(windows.lengths, tokens)[::-1]
    was_training = model.training
    model.eval()
    bar = tqdm(
        total=len(windows), desc="predicting", unit="window", disable=not progress,
        file=progress_stream(),
    )  # fmt: skip
    try:
        with (compute or Compute()).prediction(model), bar:
            while left:
                rows, short = left.pop(), False
                try:
                    logits = model(gather(windows, rows).to(device)).float()
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    if len(rows) == 1:
                        size = windows.lengths[rows[0]]
                        raise InputError(
                            f"max_length: not even one window of {size} tokens fits in memory; "
                            "lower it, or set device=cpu"
                        ) from error
                    short = True
                if short:  # not in ``except``, where the error still holds the tensors
                    left, tokens = _halve([*left, rows], windows, tokens, device)
                    continue
                found[to_device(torch.from_numpy(windows.tokens_of(rows)), device)] = logits
                bar.update(len(rows))
    finally:
        model.train(was_training)
    if not torch.isfinite(found).all():
        bad = (name for name, p in model.named_parameters() if not torch.isfinite(p).all())
        name = next(bad, "the output")
        raise InputError(
            f"model: {name} contains non-finite values; fetch or train the model again"
        )
    return found.cpu().numpy()


def _halve(
    left: list[list[int]], windows: Windows, tokens: int, device: torch.device
) -> tuple[list[list[int]], int]:
    """Regroup the remaining windows into batches of half as many tokens, last batch first."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    rows = np.concatenate(left)
    used = windows.lengths[left[-1]].sum()
    tokens = min(tokens, int(used)) // 2
    said = f"predicting: not enough memory; continuing with {tokens} tokens per batch"
    print(said, file=sys.stderr)
    batches = prediction_batches(windows.lengths[rows], tokens)[::-1]
    return [rows[batch].tolist() for batch in batches], tokens


def best_spans(
    windows: Windows, logits: np.ndarray, size: int, max_answer: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find every span from one of a window's best starts to one of its best ends.

    The best starts and ends are the tokens with the ``size`` highest logits in the whole window,
    including the question. Return three int64 arrays ``[spans]``: the window of each span and its
    first and last tokens (indices into ``[total_tokens]``). Spans are sorted by window, then by
    start logit, then by end logit, highest first.
    """
    found = []
    chunk = 1 + 4_000_000 // max(size**2, windows.lengths.max())  # windows per step: limits memory
    for low in range(0, len(windows), chunk):
        bounds = windows.bounds[low : low + chunk + 1]
        lengths = np.diff(bounds)
        inside = np.arange(lengths.max()) < lengths[:, None]  # [windows, longest]
        best = []  # the tokens with the best start logits and those with the best end logits
        for column in logits[bounds[0] : bounds[-1]].T:
            padded = np.full(inside.shape, np.inf, column.dtype)
            padded[inside] = -column
            order = np.argsort(padded, axis=1, kind="stable")[:, :size]  # ties keep text order
            best.append(np.minimum(bounds[:-1, None] + order, bounds[-1] - 1))
        starts, ends = best
        exists = np.arange(starts.shape[1]) < lengths[:, None]  # a window may have fewer tokens
        may_start = exists & windows.can_start[starts]
        may_end = exists & (windows.token[ends] >= 0)
        tokens = ends[:, None, :] - starts[:, :, None] + 1  # [windows, starts, ends]
        fits = (tokens > 0) & (tokens <= max_answer)
        # ``flatnonzero`` with two divisions takes a third of the time of ``nonzero``.
        at = np.flatnonzero(fits & may_start[:, :, None] & may_end[:, None, :])
        row, j = np.divmod(at, starts.shape[1])
        n = row // starts.shape[1]
        found.append((n + low, starts.ravel()[row], ends[n, j]))
    window, first, last = (np.concatenate(column) for column in zip(*found, strict=True))
    return window, first, last


def nbest(
    windows: Windows,
    logits: np.ndarray,
    examples: Sequence[Example],
    *,
    size: int = 20,
    max_answer: int = 30,
) -> list[NBest]:
    """Return each example's ``size`` best spans with distinct texts; probabilities sum to 1.

    The texts, order and probabilities match Google's ``write_predictions``, with two exceptions.
    If no span is left, Google's code invents the answer "empty", but we return an empty list. In
    Google's code, padding also takes up some of the ``size`` places. For one ``bioasq-cpu`` model,
    padding to 384 tokens changed 476 of 512 lists, mostly near their ends, and 14 top answers.
    SAcc and LAcc did not change, and MRR changed by 0.08 percentage points.
    """
    window, first, last = best_spans(windows, logits, size, max_answer)
    score = logits[first, 0].astype(float) + logits[last, 1].astype(float)
    order = np.argsort(-score, kind="stable")  # ties keep their order
    # numpy sorts 16-bit integers, which suffice here, ten times as fast as larger ones.
    pair = windows.pair[window].astype(np.min_scalar_type(len(examples)))
    order = order[np.argsort(pair[order], kind="stable")]
    bounds = np.searchsorted(pair, np.arange(len(examples) + 1)).tolist()  # pair is sorted
    first, last, score = first[order], last[order], score[order]
    others = np.cumsum(~windows.literal)
    simple = windows.literal[first] & windows.unique[first] & (others[first] == others[last])
    starts = np.where(simple, windows.chars[first, 0], -1).tolist()  # -1: still unknown
    ends = windows.chars[last, 1].tolist()
    tokens = windows.token[first], windows.token[last]
    chosen: list[int] = []
    counts = [0]
    for detokenizer, (low, high) in zip(windows.detokenizers, pairwise(bounds), strict=True):
        chosen += _distinct(detokenizer, tokens, starts, ends, range(low, high), size)
        counts.append(len(chosen))
    spans = np.empty(len(chosen), _SPAN)
    spans["start"] = [starts[n] for n in chosen]
    spans["end"] = [ends[n] for n in chosen]
    spans["start_logit"], spans["end_logit"] = logits[first[chosen], 0], logits[last[chosen], 1]
    sizes = np.diff(counts)
    best = np.repeat(np.asarray(counts[:-1]), sizes)  # each pair's first span
    score = score[chosen]
    # With ``np.exp`` and ``np.sum``, the last bits would depend on the CPU's instruction set.
    weights = list(map(math.exp, (score - score[best]).tolist()))
    totals = [sum(weights[low:high]) for low, high in pairwise(counts)]
    spans["probability"] = weights / np.repeat(totals, sizes)
    return [
        NBest(example.context, spans[low:high])
        for example, (low, high) in zip(examples, pairwise(counts), strict=True)
    ]


def _distinct(
    detokenizer: Detokenizer, tokens: tuple, starts: list, ends: list, spans: range, size: int
) -> list[int]:
    """Return the indices of one pair's first ``size`` spans with distinct texts.

    tokens: the first and last tokens of all spans. starts, ends: the offsets of all spans; where
    the start is -1, we decode the span and fill in both.
    """
    context = detokenizer.context
    single = has_single_spaces(context)
    chosen: dict[str, int] = {}
    for n in spans:
        if starts[n] < 0:
            starts[n], ends[n], text = detokenizer.decode(*(int(column[n]) for column in tokens))
        elif single:
            text = context[starts[n] : ends[n]]
        else:
            text = span_text(context, starts[n], ends[n])
        if text not in chosen:
            chosen[text] = n
            if len(chosen) == size:
                break
    return list(chosen.values())


def rank_answers(
    examples: Sequence[Example],
    candidates: Sequence[Sequence[Candidate]],
    *,
    merge: str = "sum",
    keep: int = 5,
) -> dict[str, list[tuple[str, float]]]:
    """Merge the n-best lists of each question's contexts into one ranked list of (answer, score).

    Texts that differ only in case count as one answer, spelled as in its most probable candidate.
    Its score is the sum of the candidates' probabilities, or, with ``merge="max"``, their maximum.
    """
    by_question: dict[str, list[Candidate]] = {e.question_id: [] for e in examples}
    for example, found in zip(examples, candidates, strict=True):
        by_question[example.question_id] += found
    ranked = {}
    for question, found in by_question.items():
        answers: dict[str, tuple[str, float]] = {}  # lowercased text -> (text, score)
        # dmis-lab's later version also sorts by probability, but then reads the rows by their old
        # positions (``iloc``), in arbitrary order. That cannot change a sum, only the
        # capitalization of an answer and the order of answers with equal sums. Here, both follow
        # the probabilities.
        for candidate in sorted(found, key=lambda c: -c.probability):
            text = tidy(candidate.text)
            if text and len(text) <= LONGEST:
                written, score = answers.get(text.lower(), (text, 0.0))
                p = candidate.probability
                score = score + p if merge == "sum" else max(score, p)
                answers[text.lower()] = written, score
        ranked[question] = sorted(answers.values(), key=lambda item: -item[1])[:keep]
    return ranked


def tidy(text: str) -> str:
    """Clean up one answer as dmis-lab does; return "" if it must be discarded.

    Only the first matching rule applies. Remove a final comma, period or space. Remove the only
    pair of parentheses if it encloses the whole text. Discard a text with "(" but without ")", or
    with ")" but without "(".
    """
    if text.endswith((",", ".", " ")):
        return text[:-1]
    if len(text) > 2 and text[0] + text[-1] == "()" and text.count("(") == text.count(")") == 1:
        return text[1:-1]
    return "" if ("(" in text) != (")" in text) else text


def write_nbest(
    path: str | Path, examples: Sequence[Example], candidates: Sequence[Sequence[Candidate]]
) -> Path:
    """Write one JSON line per pair: its ids, snippet number, document, context and n-best list."""
    lines = []
    for example, found in zip(examples, candidates, strict=True):
        names = ("id", "question_id", "snippet", "document", "context")
        row = {name: getattr(example, name) for name in names}
        row["nbest"] = [asdict(candidate) for candidate in found]
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return write_text(path, "".join(lines))


def read_nbest(path: str | Path) -> list[tuple[Example, list[Candidate]]]:
    """Read a file written by ``write_nbest``; it does not contain the question texts."""
    rows = []
    with Path(path).open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            found = [Candidate(**candidate) for candidate in row.pop("nbest")]
            rows.append((Example(question="", **row), found))
    return rows


def pair_exact_match(
    examples: Sequence[Example],
    candidates: Sequence[Sequence[Candidate]],
    gold_spans: Mapping[str, Sequence[Span]],
) -> tuple[int, int]:
    """Count the pairs that have a gold span, and the hits: pairs whose best span is a gold span.

    Return (hits, pairs). ``gold_spans`` maps an example's id to the gold spans of its context. The
    comparison uses the lowercased texts, so another occurrence of the same words also counts as a
    hit.
    """
    hits = pairs = 0
    for example, found in zip(examples, candidates, strict=True):
        golds = {s.text.lower() for s in gold_spans.get(example.id, ())}
        if golds:
            pairs += 1
            hits += bool(found) and found[0].text.lower() in golds
    return hits, pairs


def squad_em_and_f1(reader: Reader, examples: Sequence[Example], progress: bool = True) -> dict:
    """Return EM and F1 (0 to 1) of the reader's best spans under the SQuAD v1.1 rules.

    ``f1_interval`` is the 95% confidence interval of F1 from a bootstrap over questions.
    """
    best = reader.predict(examples, progress=progress)
    answers = {e.id: c[0].text if c else "" for e, c in zip(examples, best, strict=True)}
    golds = {e.id: [span.text for span in e.spans] for e in examples}
    exact, f1 = zip(*squad_scores(golds, answers).values(), strict=True)
    n = len(golds)
    interval = list(bootstrap_interval(f1))
    return {"questions": n, "em": sum(exact) / n, "f1": sum(f1) / n, "f1_interval": interval}


def dev_scores(reader: Reader, examples: Sequence[Example], progress: bool = False) -> dict:
    """Score the reader's answers to held-out examples, at least one of which has a span.

    Return the number of ``questions`` and of distinct ``pairs``, the mean ``loss`` of their windows
    in nats, the scores ``sacc``, ``mrr`` and ``lacc`` over questions, and ``pair_em`` over pairs.
    All scores are from 0 to 1. The gold answers of a question are the texts of all spans in its
    examples. We compute each window once, but the loss counts it once per span of its example, as
    in training.
    """
    golds: dict[str, set[str]] = {}
    for e in examples:
        golds.setdefault(e.question_id, set()).update(s.text for s in e.spans)
    pairs = by_pair(examples)
    candidates: list[NBest] = []
    losses = []
    for part, windows, logits in reader._parts(pairs, progress):
        candidates += reader._nbest(part, windows, logits)
        if any(e.spans for e in part):
            losses.append(_losses(windows, logits, reader.windows(part, training=True)))
    ranked = rank_answers(pairs, candidates, merge=reader.settings.merge)
    answers = {question: [text for text, _ in found] for question, found in ranked.items()}
    score = score_batch("dev", golds, answers)
    hits, count = pair_exact_match(pairs, candidates, {e.id: e.spans for e in pairs})
    measures = {"sacc": score.sacc, "mrr": score.mrr, "lacc": score.lacc, "pair_em": hits / count}
    loss = float(np.concatenate(losses).mean())
    return {"questions": score.n, "pairs": count, "loss": loss, **measures}


def _losses(windows: Windows, logits: np.ndarray, labeled: Windows) -> np.ndarray:
    """Return ``step.span_loss`` of each labeled window, from the logits of unlabeled windows.

    Both contain the same examples, but ``labeled`` repeats each window for each span.
    """
    spans = np.bincount(labeled.pair, minlength=windows.pair[-1] + 1) // np.bincount(windows.pair)
    rows = np.repeat(np.arange(len(windows)), spans[windows.pair])
    low = windows.bounds[:-1]
    total = np.logaddexp.reduceat(logits.astype(float), low)[rows]  # [labeled windows, 2]
    start, end = logits[low[rows] + labeled.start, 0], logits[low[rows] + labeled.end, 1]
    return (total - np.column_stack([start, end])).mean(axis=1)
