"""Why a question gave no example, and the place in its texts that comes nearest to an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import product
from operator import itemgetter

from helpers.data.contexts import Context, documents_of
from helpers.data.schema import Question
from helpers.data.spans import fold, needles
from helpers.data.squad import Drop

_WORDS = re.compile(r"\S+")
_EDGE = " .,;:()[]"
_LONGEST = 12  # words of an answer that are compared


def why_dropped(
    question: Question, context: str, contexts: Sequence[Context], lacking: Mapping[str, str]
) -> Drop:
    """The drop report's entry for a question in none of whose contexts a span was found."""
    drop, golds = partial(Drop, question.id, question.body), needles(question.synonyms())
    if not contexts and context == "abstract":
        documents = [d for d, _ in documents_of(question) if d]
        why = ", ".join(f"{d} ({lacking[d]})" if d in lacking else d for d in documents)
        return drop("no abstract", f"none of its documents has one: {why or 'no documents'}")
    if not contexts or not golds:
        return drop("no exact answer" if contexts else "no snippets")
    for found, gold in product(contexts, sorted(golds)):
        start = fold(found.text).find(gold)
        if start >= 0:
            end = start + len(gold)
            word = next(m[0] for m in _WORDS.finditer(found.text) if m.end() >= end).strip(_EDGE)
            around = found.text[max(0, start - 20) : end + 20]
            likeness = _likeness(gold, word)
            return drop("answer only inside a word", around, word, found.snippet, likeness)
    return drop("answer in no context", " | ".join(question.synonyms()), *nearest(golds, contexts))


def nearest(golds: Iterable[str], contexts: Sequence[Context]) -> tuple[str, int, float]:
    """The words most like an answer, as many as it has: text, snippet, and likeness from 0 to 1."""
    best = ("", -1, 0.0)
    for gold, context in product(sorted(golds), contexts):
        size = min(len(gold.split()), _LONGEST)
        places = [match.span() for match in _WORDS.finditer(context.text)]
        for first, last in zip(places, places[size - 1 :] or places[-1:], strict=False):
            text = context.text[first[0] : last[1]].strip(_EDGE)
            best = max(best, (text, context.snippet, _likeness(gold, text)), key=itemgetter(2))
    return best


def _likeness(one: str, two: str) -> float:
    """Dice's coefficient of the three-letter pieces of two texts."""
    first, second = _pieces(one), _pieces(two)
    return round(2 * len(first & second) / max(len(first) + len(second), 1), 3)


@lru_cache(maxsize=1 << 14)
def _pieces(text: str) -> frozenset[str]:
    padded = f" {' '.join(fold(text).split())} "
    return frozenset(padded[n : n + 3] for n in range(len(padded) - 2))
