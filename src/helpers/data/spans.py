"""The strict rule: where the synonyms of an answer occur in a context.

Strict means: each occurrence of each synonym, case-insensitive, with no letter, digit, underscore
or combining accent on either side. Offsets are characters of the original context.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from helpers.data.bioasq import Question

# A word as Google's SQuAD code splits a context; it puts one space between two words of an answer.
WORD = re.compile("[^ \t\r\n\u202f]+")
_GREEK = {  # "ς" is named "... FINAL SIGMA", and Unicode spells lambda without a b
    letter: unicodedata.name(letter).rsplit(" ", 1)[1].lower().replace("lamda", "lambda")
    for letter in "αβγδεζηθικλμνξοπρσςτυφχψω"
}
_NUMBER_OR_LETTERS = re.compile(r"\d+(?:\.\d+)*|[^\W\d_]+")
# The only characters next to an answer in the public 7b training file, except at a context's edges.
_PUBLISHED_NEIGHBORS = " ().,:;"


@dataclass(frozen=True, order=True)
class Span:
    """An answer in a context: ``text == context[start:end]``."""

    start: int
    end: int
    text: str


def fold(text: str) -> str:
    """Lower-case without moving any offset: ``len(fold(text)) == len(text)``.

    'İ' is the only character with a longer lower case, so it stays. Both small sigmas become one,
    because ``lower`` picks between them by position in the word. 'ß' is not 'ss'.
    """
    lower = "İ".join(map(str.lower, text.split("İ"))) if "İ" in text else text.lower()
    return lower.replace("ς", "σ")


def find_spans(context: str, synonyms: Iterable[str]) -> list[Span]:
    """Every occurrence of every synonym by the strict rule, sorted and unique.

    Synonyms are taken literally, including spaces at their edges; those of spaces only find
    nothing. Overlapping occurrences of different synonyms all count. See also ``gold_spans``.
    """
    folded = fold(context)
    found = set()
    for term in {fold(text) for text in set(synonyms) if text.strip()}:
        start = folded.find(term)
        while start >= 0:
            end = start + len(term)
            if not in_word(folded[start - 1 : start]) and not in_word(folded[end : end + 1]):
                found.add((start, end))
            start = folded.find(term, start + 1)
    return [Span(start, end, context[start:end]) for start, end in sorted(found)]


def gold_spans(context: str, golds: Iterable[str]) -> list[Span]:
    """``find_spans`` of golds without the spaces at their edges ("TNF " also before a word)."""
    return find_spans(context, map(str.strip, golds))


def search_terms(golds: Iterable[str]) -> set[str]:
    """What to search for in a folded context: the golds, folded, without spaces at the edges."""
    return {fold(text.strip()) for text in set(golds)} - {""}


def in_word(character: str) -> bool:
    """Whether a character ("" at the edge of a text) continues a word; combining accents do."""
    if character.isalnum() or character == "_":
        return True
    return character >= "\u0300" and unicodedata.category(character) == "Mn"  # none before it


def ceiling(
    questions: Iterable[Question], contexts: Mapping[str, Sequence[str]]
) -> tuple[int, int]:
    """(k, n): how many questions any extractive system could answer, of how many.

    A question counts if a synonym is a substring of one of its ``contexts`` (question id -> texts),
    whatever its case and word boundaries; of the context as it is or with single spaces, as
    decoding writes answers.
    """
    possible = []
    for question in questions:
        terms = search_terms(question.synonyms())
        given = contexts.get(question.id, ())
        texts = [fold(text) for raw in given for text in {raw, " ".join(WORD.findall(raw))}]
        possible.append(any(term in text for text in texts for term in terms))
    return sum(possible), len(possible)


def words(text: str) -> list[str]:
    """The words of a text in lower case, without accents, articles and a plural or possessive s.

    Letters and digits are separate words and a Greek letter is its name, so "IL6Rα" gives
    il, 6, r, alpha. "a" is an article only at the start: "vitamin A" keeps its last word.
    """
    text = unicodedata.normalize("NFKD", text).casefold()
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"['’]s\b", "", text)
    text = text.translate({ord(letter): f" {name} " for letter, name in _GREEK.items()})
    found = [word for word in _NUMBER_OR_LETTERS.findall(text) if word != "the"]
    if found[:1] in (["a"], ["an"]):
        del found[0]
    return [w[:-1] if len(w) > 3 and w[-1] == "s" and w[-2] not in "sui" else w for w in found]


def plain(text: str) -> str:
    """``words`` joined, so that spaces and hyphens do not matter: "TNF-α" is "tnfalpha".

    Two numbers stay apart: "1-2" is not "12".
    """
    return re.sub(r"(?<!\d) | (?!\d)", "", " ".join(words(text)))


def lacks_answer(text: str, golds: Iterable[str]) -> bool:
    """Whether no gold is in a text, not even spelled differently (``plain``) or without brackets.

    Golds of fewer than three letters and digits are not searched for.
    """
    written = plain(text)
    forms = {plain(part) for gold in golds for part in (gold, *re.split(r"[()\[\]]", gold))}
    return not any(len(form) >= 3 and form in written for form in forms)


def extra_cause(span: Span, context: str, answers: Collection[str]) -> str:
    """Why the public 7b training file lacks a span that the strict rule finds in its context.

    ``answers`` are all its answer texts for the question. The file matches case and accepts only
    spaces, round brackets and sentence punctuation as boundaries (none of its 4,231 answers has
    another neighbor). "" when neither explains it.
    """
    if span.text not in answers:
        return "case differs"
    around = context[span.start - 1 : span.start] + context[span.end : span.end + 1]
    if any(character not in _PUBLISHED_NEIGHBORS for character in around):
        return "joined to its neighbor by a character such as - / + [ '"
    return ""
