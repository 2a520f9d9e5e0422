"""Scores of ranked answers: BioASQ factoid accuracy and MRR, SQuAD exact match and F1.

The BioASQ part follows the organizers' Java program (``EvaluatorTask1b``, phase B, edition 5, the
one of task 7b) in what it counts, not in how it looks:

- an answer is right when its lower-cased text equals that of any synonym of any inner list of the
  gold; nothing is trimmed, no punctuation and no article is removed;
- of a system's list of lists only the first string of each inner list counts; an empty inner list
  is dropped and the later ones move up; ``""`` and a repeated answer keep their rank; there is no
  cut at five (the task's limit is the writer's business);
- strict accuracy asks for the first answer, lenient accuracy for any, the reciprocal rank is one
  over the rank of the first hit; all three are plain means over the gold's factoids, of which one
  that stands twice counts twice.

Everything takes plain mappings and sequences; files are read by ``bioasq`` and ``squad``.
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

_ROW = ("batch", "n", "counted", "hits_strict", "hits_lenient", "sacc", "mrr", "lacc")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class _Counts:
    batch: str
    n: int  # gold factoids
    counted: int  # those the means are taken over; fewer only when missing ones are dropped
    hits_strict: int
    hits_lenient: int

    def as_row(self) -> dict:
        """The score as one row of ``scores.json``; accuracies and MRR are fractions of 1."""
        return {name: getattr(self, name) for name in _ROW}


@dataclass(frozen=True)
class BatchScore(_Counts):
    """Counts over one batch of questions; the three scores follow from them."""

    reciprocal_sum: float

    @property
    def sacc(self) -> float:
        """Strict accuracy: the share of questions whose first answer is right."""
        return self.hits_strict / self.counted

    @property
    def lacc(self) -> float:
        """Lenient accuracy: the share of questions with a right answer at any rank."""
        return self.hits_lenient / self.counted

    @property
    def mrr(self) -> float:
        """Mean reciprocal rank of the first right answer, 0 where there is none."""
        return self.reciprocal_sum / self.counted


@dataclass(frozen=True)
class Average(_Counts):
    """An average over batches, with the counts that lie behind it.

    For ``macro`` the scores are not hits divided by counted: each batch weighs the same there.
    """

    sacc: float
    lacc: float
    mrr: float


def lower(text: str) -> str:
    """Lower case as the official program's Java ``toLowerCase`` gives it.

    Python and Java differ on a capital sigma only: whether it ends a word. Java's words
    (``BreakIterator``) are runs of letters and numbers with single punctuation marks inside them
    ("A-Σ", "1.5Σ"). Not followed: letters that Unicode added after Java's tables, letters beyond
    U+FFFF beside a sigma, and a Java started in a Turkish or Lithuanian locale.
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


# L a letter, N a digit, i and f marks that change nothing (f: not even behind punctuation), and
# punctuation inside words (-), numbers (,) or both (").
_WORD = re.compile('(?:(?:L[if]*)+(?:[-"]f*(?:L[if]*)+)*|(?:N[if]*)+(?:[",]f*(?:N[if]*)+)*)+')
_NO_LETTER = re.compile("[\u3005\u3041-\u30fe\u4e00-\u9fa5\uf900-\ufa2d\U00010000-\U0010ffff]")
_CASED = re.compile(
    "[\u02b0-\u02b8\u02c0\u02c1\u02e0-\u02e4\u0345\u037a\u1d2c-\u1d61\u2160-\u217f\u24b6-\u24e9]"
)  # beside the letters of category Lu, Ll and Lt


def _word_class(letter: str) -> str:
    category = unicodedata.category(letter)
    if letter in "\"'.":
        return '"'
    if category in ("Pd", "Pc") or letter in "\u00ad\u2027":
        return "-"
    if category in ("Mn", "Me", "Cf"):
        return "f" if category == "Cf" else "i"
    if _NO_LETTER.match(letter):
        return " "
    kind = "L" if category == "Mc" else category[0]
    return "," if letter in ",\u066b" else kind if kind in "LN" else " "


def ranked_strings(exact_answer: Sequence | None) -> list[str]:
    """A system's exact answer as the ranked strings the official program looks at.

    Each entry is a list of synonyms, of which the first counts, or a plain string. ``None`` and
    ``[]`` (no answer given) are an empty ranking.
    """
    if isinstance(exact_answer, str):
        raise TypeError(f"expected a list of answers, got the string {exact_answer!r}")
    entries = exact_answer or ()
    kept = (entry for entry in entries if isinstance(entry, str) or len(entry))
    return [entry if isinstance(entry, str) else entry[0] for entry in kept]


def hit_rank(ranking: Sequence[str], synonyms: Sequence[str]) -> int:
    """Rank (from 1) of the first right answer, 0 when none is right."""
    if isinstance(synonyms, str):
        raise TypeError(f"expected the gold synonyms as a sequence, got {synonyms!r}")
    right = {lower(synonym) for synonym in synonyms}
    return next((rank for rank, text in enumerate(ranking, 1) if lower(text) in right), 0)


Gold = Mapping[str, Sequence[str]] | Sequence[tuple[str, Sequence[str]]]


def hit_ranks(gold: Gold, answers: Mapping[str, Sequence], missing: str = "wrong") -> dict:
    """Rank of the first right answer for each question that counts, in the gold's order.

    ``gold`` maps a question id to all its synonyms (or lists such pairs; of a repeated id the
    first counts here, each in ``score_batch``), ``answers`` to a ranking as in
    ``ranked_strings``. A question without an entry in ``answers`` is missing: "wrong" gives it
    rank 0, "dropped" leaves it out, as the evaluators up to 2020 did. An entry that is empty is
    not missing: it is wrong either way. Ids that the gold does not have are ignored.
    """
    ranks: dict[str, int] = {}
    for question, rank in _ranks(gold, answers, missing):
        ranks.setdefault(question, rank)
    return ranks


def _ranks(gold: Gold, answers: Mapping[str, Sequence], missing: str) -> list[tuple[str, int]]:
    if missing not in MISSING:
        raise InputError(f"missing: {missing!r} is not one of {', '.join(MISSING)}")
    return [
        (question, hit_rank(ranked_strings(answers.get(question)), synonyms))
        for question, synonyms in (gold.items() if isinstance(gold, Mapping) else gold)
        if missing == "wrong" or question in answers
    ]


def score_batch(
    batch: str, gold: Gold, answers: Mapping[str, Sequence], missing: str = "wrong"
) -> BatchScore:
    """Score one batch; arguments as for ``hit_ranks``.

    Raises ``InputError`` when no question is left to count.
    """
    ranks = [rank for _, rank in _ranks(gold, answers, missing)]
    if not ranks:
        why = "every question is missing and dropped" if gold else "the gold has no question"
        raise InputError(f"{batch}: nothing to score, {why}; check that the files belong together")
    strict, lenient = sum(rank == 1 for rank in ranks), sum(rank > 0 for rank in ranks)
    reciprocal_sum = math.fsum(1 / rank for rank in ranks if rank)
    return BatchScore(batch, len(gold), len(ranks), strict, lenient, reciprocal_sum)


def pooled(scores: Sequence[BatchScore]) -> BatchScore:
    """All questions of all batches as one batch."""
    return BatchScore(
        "pooled", **_totals(scores), reciprocal_sum=math.fsum(s.reciprocal_sum for s in scores)
    )


def weighted(scores: Sequence[BatchScore]) -> Average:
    """Mean of the batches' scores, weighted by the questions counted: the pooled score again."""
    return _average("weighted", scores, [s.counted for s in scores])


def macro(scores: Sequence[BatchScore]) -> Average:
    """Mean of the batches' scores, each batch weighing the same."""
    return _average("macro", scores, [1] * len(scores))


def summary(scores: Sequence[BatchScore]) -> dict:
    """The rows of ``scores.json``: ``batches`` (a list), ``weighted``, ``pooled``, ``macro``."""
    means = (weighted(scores), pooled(scores), macro(scores))
    return {"batches": [s.as_row() for s in scores], **{m.batch: m.as_row() for m in means}}


def as_line(score: BatchScore | Average) -> str:
    """One line for a terminal: percentages, with the counts they come from."""
    n = score.counted
    dropped = f"  ({score.n - n} of {score.n} questions dropped)" if n < score.n else ""
    return (
        f"{score.batch:<10}"
        f"  SAcc {100 * score.sacc:6.2f} ({score.hits_strict} of {n})"
        f"  MRR {100 * score.mrr:6.2f} (mean of {n})"
        f"  LAcc {100 * score.lacc:6.2f} ({score.hits_lenient} of {n}){dropped}"
    )


def check_bounds(score: BatchScore | Average, ceiling: float | None = None) -> None:
    """Raise ``ValueError`` unless SAcc ≤ MRR ≤ LAcc ≤ ceiling, all fractions of 1.

    The first two hold for any ranking: a first-rank hit adds one to all three sums, a later hit
    adds nothing, a part, and one. The ceiling is the share of questions an extractive system can
    answer from its contexts (``squad.ceiling``), over the same questions as the score.
    """
    chain = [("SAcc", score.sacc), ("MRR", score.mrr), ("LAcc", score.lacc)]
    if ceiling is not None:
        chain.append(("ceiling", ceiling))
    for (low_name, low), (high_name, high) in itertools.pairwise(chain):
        if not low <= high + 1e-9:  # the means carry rounding, and NaN must not pass
            raise ValueError(
                f"{score.batch}: {low_name} {100 * low:.2f} is above {high_name} "
                f"{100 * high:.2f}, which cannot be; are the labels or the questions mixed up?"
            )


def normalize_answer(text: str) -> str:
    """A text as SQuAD v1.1 compares it: lower case, no ASCII punctuation, articles or extra space.

    Punctuation goes before the articles: "T-cell" becomes "tcell", and "a.b" "ab".
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


def squad_em_f1(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """Exact match (0 or 1) and token F1 (0 to 1) of one answer, each the best over the golds.

    As in SQuAD v1.1, where every question has an answer: F1 is 0 without a shared token, even
    when both texts normalize to nothing. Raises ``ValueError`` when there is no gold.
    """
    if isinstance(golds, str) or not golds:
        raise ValueError(f"expected one or more gold answers, got {golds!r}")
    given = normalize_answer(prediction)
    wanted = [normalize_answer(gold) for gold in golds]
    return float(given in wanted), max(_token_f1(given.split(), gold.split()) for gold in wanted)


def squad_scores(
    gold: Mapping[str, Sequence[str]], answers: Mapping[str, str], missing: str = "wrong"
) -> dict[str, tuple[float, float]]:
    """(exact match, F1) of each SQuAD question; one without an answer gets (0, 0) or is dropped."""
    if missing not in MISSING:
        raise InputError(f"missing: {missing!r} is not one of {', '.join(MISSING)}")
    return {
        name: squad_em_f1(answers[name], golds) if name in answers else (0.0, 0.0)
        for name, golds in gold.items()
        if missing == "wrong" or name in answers
    }


def _token_f1(given: list[str], wanted: list[str]) -> float:
    shared = (Counter(given) & Counter(wanted)).total()
    return 2 * shared / (len(given) + len(wanted)) if shared else 0.0


def _totals(scores: Sequence[BatchScore]) -> dict:
    if not scores:
        raise ValueError("no batch to average")
    names = ("n", "counted", "hits_strict", "hits_lenient")
    return {name: sum(getattr(s, name) for s in scores) for name in names}


def _average(name: str, scores: Sequence[BatchScore], weights: Sequence[float]) -> Average:
    totals = _totals(scores)

    def mean(measure: str) -> float:
        parts = (w * getattr(s, measure) for w, s in zip(weights, scores, strict=True))
        return math.fsum(parts) / sum(weights)

    return Average(name, **totals, sacc=mean("sacc"), mrr=mean("mrr"), lacc=mean("lacc"))
