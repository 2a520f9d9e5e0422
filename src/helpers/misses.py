"""Why a question gave no example, and the place in its texts that comes nearest to an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from helpers.bioasq import Question
from helpers.config import RUNGS
from helpers.contexts import Context, documents_of
from helpers.ladder import Ladder
from helpers.spans import fold, needles
from helpers.squad_file import Drop

_WORDS = re.compile(r"\S+")
_EDGE = " .,;:()[]"
_LONGEST = 12  # words of an answer that are compared


def why_dropped(
    question: Question,
    context: str,
    contexts: Sequence[Context],
    lacking: Mapping[str, str],
) -> Drop:
    """The drop report's entry for a question in none of whose contexts a span was found.

    Where there are texts and an answer, ``nearest`` quotes the most similar place; ``rung`` names
    the rung that would accept it, if one does.
    """
    wanted = needles(question.synonyms())
    if not contexts and context == "abstract":
        documents = [d for d, _ in documents_of(question) if d]
        told = (f"{d} ({lacking[d]})" if d in lacking else d for d in documents)
        detail = f"none of its documents has one: {', '.join(told) or 'no documents'}"
        return Drop(question.id, question.body, "no abstract", detail)
    if not contexts:
        return Drop(question.id, question.body, "no snippets")
    if not wanted:
        return Drop(question.id, question.body, "no exact answer")
    reason, detail = "answer in no context", " | ".join(question.synonyms())
    text, snippet, rung, likeness = nearest(question.synonyms(), contexts)
    inside = _inside_a_word(wanted, contexts)
    if inside:
        reason, (detail, word, number) = "answer only inside a word", inside
        if not rung:  # which would quote a whole answer
            text, snippet = word, number
            likeness = round(max(_likeness(_pieces(w), _pieces(word)) for w in wanted), 3)
    return Drop(question.id, question.body, reason, detail, text, snippet, rung, likeness)


def _inside_a_word(wanted: set[str], contexts: Sequence[Context]) -> tuple[str, str, int] | None:
    """The first answer inside a longer word: its surroundings, the word, and the snippet."""
    for context in contexts:
        text = fold(context.text)
        for needle in sorted(wanted):
            start = text.find(needle)
            if start >= 0:
                end = start + len(needle)
                around = context.text[max(0, start - 20) : end + 20]
                word = next(m[0] for m in _WORDS.finditer(context.text) if m.end() >= end)
                return around, word.strip(_EDGE), context.snippet
    return None


def nearest(golds: Sequence[str], contexts: Sequence[Context]) -> tuple[str, int, str, float]:
    """The place most like an answer: its text, its snippet, the rung that accepts it, likeness.

    The lowest rung of the whole ladder decides; where none accepts anything, the run of as many
    words as the gold has that shares most three-letter pieces with it. The likeness is Dice's
    coefficient of these pieces, 0 to 1.
    """
    ladder = Ladder(golds, RUNGS)
    best: tuple[int, int, int, int] | None = None
    for number, context in enumerate(contexts):
        match = ladder.find(context.text)
        if match.rung:
            found = (RUNGS.index(match.rung), number, *match.spans[0])
            best = found if best is None else min(best, found)
    if best:
        rung, number, start, end = best
        text = contexts[number].text[start:end]
        likeness = max(_likeness(_pieces(gold), _pieces(text)) for gold in golds)
        return text, contexts[number].snippet, RUNGS[rung], round(likeness, 3)
    likeness, text, snippet = max(
        (_most_alike(gold, context) for gold in golds for context in contexts),
        key=lambda found: found[0],
        default=(0.0, "", -1),
    )
    return text, snippet, "", round(likeness, 3)


def _most_alike(gold: str, context: Context) -> tuple[float, str, int]:
    wanted = _pieces(gold)
    size = min(max(len(gold.split()), 1), _LONGEST)
    places = [match.span() for match in _WORDS.finditer(context.text)]
    # Words are judged one by one, so that the search is linear; the best run is then compared.
    shared = [len(wanted & _pieces(context.text[a:b])) for a, b in places]
    sums = [sum(shared[n : n + size]) for n in range(max(len(shared) - size + 1, 1))]
    low = max(range(len(sums)), key=sums.__getitem__)
    if not sums[low]:
        return 0.0, "", -1
    start, end = places[low][0], places[min(low + size, len(places)) - 1][1]
    text = context.text[start:end].strip(_EDGE)
    return _likeness(wanted, _pieces(text)), text, context.snippet


@lru_cache(maxsize=1 << 14)
def _pieces(text: str) -> frozenset[str]:
    padded = f" {' '.join(fold(text).split())} "
    return frozenset(padded[n : n + 3] for n in range(len(padded) - 2))


def _likeness(one: frozenset[str], two: frozenset[str]) -> float:
    return 2 * len(one & two) / (len(one) + len(two)) if one and two else 0.0
