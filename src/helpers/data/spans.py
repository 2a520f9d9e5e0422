"""The strict rule for finding the synonyms of an answer in a context.

The rule finds each case-insensitive occurrence of each synonym that has no letter, digit,
underscore, or combining accent on either side. Offsets are positions in the original context.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from helpers.data.bioasq import Question

# Words as defined in Google's SQuAD code, which puts one space between the words of an answer.
WORD = re.compile("[^ \t\r\n\u202f]+")
_GREEK = {  # "ς" is named "... FINAL SIGMA" in Unicode, and the name of lambda lacks the b
    letter: unicodedata.name(letter).rsplit(" ", 1)[1].lower().replace("lamda", "lambda")
    for letter in "αβγδεζηθικλμνξοπρσςτυφχψω"
}
_NUMBER_OR_LETTERS = re.compile(r"\d+(?:\.\d+)*|[^\W\d_]+")
# The only characters that occur next to answers in the contexts of the public 7b training file.
_PUBLISHED_NEIGHBORS = " ().,:;"


@dataclass(frozen=True, order=True)
class Span:
    """An answer in a context: ``text == context[start:end]``."""

    start: int
    end: int
    text: str


def fold(text: str) -> str:
    """Lowercase a text without changing any offset: ``len(fold(text)) == len(text)``.

    'İ' is the only character with a longer lowercase form, so we leave it unchanged. Both lowercase
    sigmas become 'σ', because ``lower`` chooses between them by position. 'ß' does not become 'ss'.
    """
    lower = "İ".join(map(str.lower, text.split("İ"))) if "İ" in text else text.lower()
    return lower.replace("ς", "σ")


def find_spans(context: str, synonyms: Iterable[str]) -> list[Span]:
    """Return every occurrence of every synonym by the strict rule, sorted and without duplicates.

    Synonyms are taken literally, including leading and trailing spaces. A synonym that consists
    only of spaces has no occurrence. Overlapping occurrences of different synonyms all count. See
    also ``gold_spans``.
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
    """Find gold answers after stripping leading and trailing spaces; see ``find_spans``."""
    return find_spans(context, map(str.strip, golds))


def search_terms(golds: Iterable[str]) -> set[str]:
    """Return the folded, stripped gold answers to search for in a folded context."""
    return {fold(text.strip()) for text in set(golds)} - {""}


def in_word(character: str) -> bool:
    """Return whether a character ("" at the edge of a text) belongs to a word; accents do."""
    if character.isalnum() or character == "_":
        return True
    return character >= "\u0300" and unicodedata.category(character) == "Mn"  # none is below U+0300


def ceiling(
    questions: Iterable[Question], contexts: Mapping[str, Sequence[str]]
) -> tuple[int, int]:
    """Return (k, n), where an extractive system could answer at most k of the n questions.

    A question counts if one of its ``contexts`` (question id -> texts) contains any synonym as a
    substring. Case and word boundaries do not matter. We search both the original context and a
    copy with single spaces between words, because decoding writes answers that way.
    """
    possible = []
    for question in questions:
        terms = search_terms(question.synonyms())
        given = contexts.get(question.id, ())
        texts = [fold(text) for raw in given for text in {raw, " ".join(WORD.findall(raw))}]
        possible.append(any(term in text for text in texts for term in terms))
    return sum(possible), len(possible)


def words(text: str) -> list[str]:
    """Split a text into lowercase words without accents, articles, or plural or possessive s.

    Letters and digits form separate words, and Greek letters are replaced by their names, so
    "IL6Rα" becomes il, 6, r, alpha. "a" is removed only at the start, so "vitamin A" keeps its A.
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
    """Join ``words``, so that spaces and hyphens do not matter: "TNF-α" becomes "tnfalpha".

    Adjacent numbers stay separate, because "1-2" is not "12".
    """
    return re.sub(r"(?<!\d) | (?!\d)", "", " ".join(words(text)))


def lacks_answer(text: str, golds: Iterable[str]) -> bool:
    """Return whether a text contains no gold answer, even in a different spelling (see ``plain``).

    We also search for the parts of an answer inside and outside brackets, but not for strings that
    contain fewer than three letters and digits in total.
    """
    written = plain(text)
    forms = {plain(part) for gold in golds for part in (gold, *re.split(r"[()\[\]]", gold))}
    return not any(len(form) >= 3 and form in written for form in forms)


def extra_cause(span: Span, context: str, answers: Collection[str]) -> str:
    """Explain why a span found by the strict rule is missing from the public 7b training file.

    ``answers`` contains all answer texts in the file for the question. The file was made
    with case-sensitive matching, and only spaces, parentheses, and sentence punctuation occur next
    to its 4,231 answers. Returns "" if neither fact explains the missing span.
    """
    if span.text not in answers:
        return "case differs"
    around = context[span.start - 1 : span.start] + context[span.end : span.end + 1]
    if any(character not in _PUBLISHED_NEIGHBORS for character in around):
        return "next to a character such as - / + [ '"
    return ""
