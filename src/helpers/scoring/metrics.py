"""Scores of ranked answers: BioASQ factoid accuracy and MRR, SQuAD exact match and F1.

The BioASQ part scores answers as the organizers' Java program does (``EvaluatorTask1b``, phase B,
edition 5, which scored task 7b):

- An answer is correct if, in lowercase, it equals a synonym in any inner list of the gold answer.
  Nothing is trimmed, and punctuation and articles count.
- In a system's list of lists, only the first string of each inner list counts. Empty inner lists
  are dropped, so later answers move up. ``""`` and repeated answers keep their ranks. We do not cut
  the list at five answers; the code that writes it must respect the task's limit.
- Strict accuracy (SAcc) requires a correct answer at rank 1, and lenient accuracy (LAcc) requires
  one at any rank. MRR is the mean reciprocal rank. The reciprocal rank is 1 / rank of the first
  correct answer, or 0 if there is none. All three are plain means over the gold file's factoids; a
  factoid that occurs twice counts twice.

The functions take plain mappings and sequences; ``evaluate`` reads the files.
"""

from __future__ import annotations

import itertools
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from helpers.config import MISSING, InputError

MEASURES = ("SAcc", "MRR", "LAcc")
_COUNTS = ("n", "counted", "hits_strict", "hits_lenient")
Gold = Mapping[str, Sequence[str]] | Sequence[tuple[str, Sequence[str]]]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
# A word in Java's ``BreakIterator``: letters (L) or numbers (N) with marks (i, f) and single
# punctuation between letters (-), between digits (,) or between either (").
_WORD = re.compile('(?:(?:L[if]*)+(?:[-"]f*(?:L[if]*)+)*|(?:N[if]*)+(?:[",]f*(?:N[if]*)+)*)+')
_CLASSES = {  # character or Unicode category -> class
    '"': '"', "'": '"', ".": '"', ",": ",", "\u066b": ",", "\u00ad": "-", "\u2027": "-",
    "Pd": "-", "Pc": "-", "Mn": "i", "Me": "i", "Cf": "f", "Mc": "L",
}  # fmt: skip
_NO_LETTER = re.compile("[\u3005\u3041-\u30fe\u4e00-\u9fa5\uf900-\ufa2d\U00010000-\U0010ffff]")
_CASED = re.compile(  # cased in Java, in addition to the letters of category Lu, Ll and Lt
    "[\u02b0-\u02b8\u02c0\u02c1\u02e0-\u02e4\u0345\u037a\u1d2c-\u1d61\u2160-\u217f\u24b6-\u24e9]"
)


@dataclass(frozen=True)
class _Counts:
    batch: str
    n: int  # number of factoids in the gold file
    counted: int  # number of factoids in the means; less than n if missing answers are dropped
    hits_strict: int
    hits_lenient: int

    def as_row(self) -> dict:
        """Return the score as one row of ``scores.json``, with measures from 0 to 1."""
        return {name: getattr(self, name) for name in ("batch", *_COUNTS, "sacc", "mrr", "lacc")}


@dataclass(frozen=True)
class BatchScore(_Counts):
    """The score of one batch; ``sacc``, ``lacc`` and ``mrr`` are means over counted questions."""

    reciprocal_sum: float

    @property
    def sacc(self) -> float:
        return self.hits_strict / self.counted

    @property
    def lacc(self) -> float:
        return self.hits_lenient / self.counted

    @property
    def mrr(self) -> float:
        return self.reciprocal_sum / self.counted


@dataclass(frozen=True)
class Average(_Counts):
    """An average over batches. Only the macro average differs from hits / counted."""

    sacc: float
    lacc: float
    mrr: float


def lower(text: str) -> str:
    """Lowercase a string as Java's ``toLowerCase`` does in the official program.

    Python and Java disagree only on whether a capital sigma ends a word. In Java, a word may
    contain single punctuation marks ("A-Σ", "1.5Σ"). We do not reproduce Java's results for letters
    newer than Java's Unicode tables, for letters beyond U+FFFF next to a sigma, or in the Turkish
    and Lithuanian locales.
    """
    if "Σ" not in text:
        return text.lower()
    letters = ["σ" if letter == "Σ" else letter.lower() for letter in text]
    for word in _WORD.finditer("".join(map(_word_class, text))):
        cased = [
            i
            for i in range(*word.span())
            if _CASED.match(text[i]) or unicodedata.category(text[i]) in ("Lu", "Ll", "Lt")
        ]
        if len(cased) > 1 and text[cased[-1]] == "Σ":
            letters[cased[-1]] = "ς"
    return "".join(letters)


def _word_class(letter: str) -> str:
    category = unicodedata.category(letter)
    kind = _CLASSES.get(letter) or _CLASSES.get(category) or category[0]
    return kind if kind in '"-,if' or (kind in "LN" and not _NO_LETTER.match(letter)) else " "


def ranked_strings(exact_answer: Sequence | None) -> list[str]:
    """Return the ranked strings that the official program reads from a system's exact answer.

    Each entry is a string or a list of synonyms, of which only the first counts. ``None`` and
    ``[]`` mean that the system gave no answer.
    """
    if isinstance(exact_answer, str):
        raise TypeError(f"expected a list of answers, got the string {exact_answer!r}")
    kept = (entry for entry in exact_answer or () if isinstance(entry, str) or len(entry))
    return [entry if isinstance(entry, str) else entry[0] for entry in kept]


def hit_rank(ranking: Sequence[str], synonyms: Sequence[str]) -> int:
    """Return the rank (from 1) of the first correct answer, or 0 if no answer is correct."""
    if isinstance(synonyms, str):
        raise TypeError(f"expected a sequence of gold synonyms, got {synonyms!r}")
    right = {lower(synonym) for synonym in synonyms}
    return next((rank for rank, text in enumerate(ranking, 1) if lower(text) in right), 0)


def hit_ranks(gold: Gold, answers: Mapping[str, Sequence], missing: str = "wrong") -> dict:
    """Return the first correct answer's rank for each counted question, in the order of ``gold``.

    ``gold`` maps each question id to all synonyms of its answer, or lists such pairs. If an id is
    repeated, only its first pair counts here, but each pair counts in ``score_batch``. ``answers``
    maps ids to rankings as in ``ranked_strings``; ids that are not in ``gold`` are ignored. If a
    question has no entry, ``missing="wrong"`` gives it rank 0 and ``missing="dropped"`` leaves it
    out, as the evaluators did until 2020. An empty entry counts as wrong in both cases.
    """
    ranks: dict[str, int] = {}
    for question, rank in _ranks(gold, answers, missing):
        ranks.setdefault(question, rank)
    return ranks


def check_missing(missing: str) -> None:
    """Raise ``InputError`` unless ``missing`` is one of ``MISSING``."""
    if missing not in MISSING:
        raise InputError(f"missing: {missing!r} is not one of {', '.join(MISSING)}")


def _ranks(gold: Gold, answers: Mapping[str, Sequence], missing: str) -> list[tuple[str, int]]:
    check_missing(missing)
    return [
        (question, hit_rank(ranked_strings(answers.get(question)), synonyms))
        for question, synonyms in (gold.items() if isinstance(gold, Mapping) else gold)
        if missing == "wrong" or question in answers
    ]


def question_values(ranks: Sequence[int]) -> dict[str, list[float]]:
    """Return each measure's value per question, given the rank of its first correct answer or 0."""
    return {
        "SAcc": [float(rank == 1) for rank in ranks],
        "MRR": [1 / rank if rank else 0.0 for rank in ranks],
        "LAcc": [float(rank > 0) for rank in ranks],
    }


def score_batch(
    batch: str, gold: Gold, answers: Mapping[str, Sequence], missing: str = "wrong"
) -> BatchScore:
    """Score one batch. The arguments are those of ``hit_ranks``.

    Raise ``InputError`` if no question is left to score.
    """
    ranks = [rank for _, rank in _ranks(gold, answers, missing)]
    if not ranks:
        why = "every question lacks an entry" if gold else "the gold file has no questions"
        raise InputError(f"{batch}: nothing to score ({why}); check that the files belong together")
    strict, reciprocal, lenient = (math.fsum(v) for v in question_values(ranks).values())
    return BatchScore(batch, len(gold), len(ranks), int(strict), int(lenient), reciprocal)


def pooled(scores: Sequence[BatchScore]) -> BatchScore:
    """Return the score of all questions of all batches, as if they were one batch."""
    reciprocal_sum = math.fsum(score.reciprocal_sum for score in scores)
    return BatchScore("pooled", **_totals(scores), reciprocal_sum=reciprocal_sum)


def weighted(scores: Sequence[BatchScore]) -> Average:
    """Return the mean of the batch scores, weighted by counted questions, as in ``pooled``."""
    return _average("weighted", scores, [score.counted for score in scores])


def macro(scores: Sequence[BatchScore]) -> Average:
    """Return the mean of the batch scores, with the same weight for every batch."""
    return _average("macro", scores, [1] * len(scores))


def summary(scores: Sequence[BatchScore]) -> dict:
    """Return the rows of ``scores.json`` (a list for ``batches``, one row for each average)."""
    means = (weighted(scores), pooled(scores), macro(scores))
    return {"batches": [s.as_row() for s in scores], **{m.batch: m.as_row() for m in means}}


def _totals(scores: Sequence[BatchScore]) -> dict:
    if not scores:
        raise ValueError("no batch to average")
    return {name: sum(getattr(score, name) for score in scores) for name in _COUNTS}


def _average(name: str, scores: Sequence[BatchScore], weights: Sequence[float]) -> Average:
    totals, means = _totals(scores), {}
    for measure in ("sacc", "lacc", "mrr"):
        parts = (w * getattr(s, measure) for w, s in zip(weights, scores, strict=True))
        means[measure] = math.fsum(parts) / sum(weights)
    return Average(name, **totals, **means)


def as_line(score: BatchScore | Average) -> str:
    """Return one line for a terminal, with percentages and the counts behind them."""
    n = score.counted
    dropped = f"  ({score.n - n} of {score.n} questions dropped)" if n < score.n else ""
    return (
        f"{score.batch:<10}"
        f"  SAcc {100 * score.sacc:6.2f} ({score.hits_strict} of {n})"
        f"  MRR {100 * score.mrr:6.2f} (mean of {n})"
        f"  LAcc {100 * score.lacc:6.2f} ({score.hits_lenient} of {n}){dropped}"
    )


def check_bounds(score: BatchScore | Average, ceiling: float | None = None) -> None:
    """Raise ``ValueError`` unless SAcc ≤ MRR ≤ LAcc ≤ ceiling, each from 0 to 1.

    The first two inequalities hold for any ranking, because a hit at rank 1 adds 1 to all three
    sums, and a later hit adds 0, 1/rank and 1, respectively. The ceiling is the proportion of the
    same questions that an extractive system can answer from its contexts (``spans.ceiling``).
    """
    chain = [(name, getattr(score, name.lower())) for name in MEASURES]
    if ceiling is not None:
        chain.append(("ceiling", ceiling))
    for (low_name, low), (high_name, high) in itertools.pairwise(chain):
        if not low <= high + 1e-9:  # allows for rounding of the means and rejects NaN
            raise ValueError(
                f"{score.batch}: {low_name} {100 * low:.2f} is above {high_name} "
                f"{100 * high:.2f}, which is impossible; are the labels or the questions mixed up?"
            )


def normalize_answer(text: str) -> str:
    """Lowercase a string and remove ASCII punctuation, articles and extra space, as in SQuAD v1.1.

    Punctuation is removed before articles: "T-cell" becomes "tcell", and "a.b" becomes "ab".
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


def squad_em_f1(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """Return exact match (0 or 1) and token F1 (0 to 1) of an answer, each the best over ``golds``.

    As in SQuAD v1.1, where every question has an answer, F1 is 0 if no token is shared, even if
    both strings are empty after normalization. Raise ``ValueError`` if ``golds`` is empty.
    """
    if isinstance(golds, str) or not golds:
        raise ValueError(f"expected one or more gold answers, got {golds!r}")
    given = normalize_answer(prediction)
    wanted = [normalize_answer(gold) for gold in golds]
    return float(given in wanted), max(_token_f1(given.split(), gold.split()) for gold in wanted)


def _token_f1(given: list[str], wanted: list[str]) -> float:
    shared = (Counter(given) & Counter(wanted)).total()
    return 2 * shared / (len(given) + len(wanted)) if shared else 0.0


def squad_scores(
    gold: Mapping[str, Sequence[str]], answers: Mapping[str, str], missing: str = "wrong"
) -> dict[str, tuple[float, float]]:
    """Return (exact match, F1) per SQuAD question; missing answers get (0, 0) or are dropped."""
    check_missing(missing)
    return {
        name: squad_em_f1(answers[name], golds) if name in answers else (0.0, 0.0)
        for name, golds in gold.items()
        if missing == "wrong" or name in answers
    }
