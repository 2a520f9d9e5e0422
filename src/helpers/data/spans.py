"""The strict rule: where the synonyms of an answer stand in a context, and what that allows.

Strict means: each occurrence of each synonym, case-insensitive, with neither a letter, a digit
nor an underscore on either side (nor an accent that is a character of its own). Offsets are
characters of the original context.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from helpers.data.bioasq import Question

# A word as Google's SQuAD code splits a context; it gives an answer one blank between two words.
WORD = re.compile("[^ \t\r\n\u202f]+")
_GREEK = {  # "ς" is named "... FINAL SIGMA", and Unicode's lambda lacks its b
    letter: unicodedata.name(letter).rsplit(" ", 1)[1].lower().replace("lamda", "lambda")
    for letter in "αβγδεζηθικλμνξοπρσςτυφχψω"
}
_GREEK_LETTER = re.compile("|".join(_GREEK))
_NUMBER_OR_LETTERS = re.compile(r"\d+(?:\.\d+)*|[^\W\d_]+")


@dataclass(frozen=True)
class Span:
    """An answer in a context: ``text == context[start:end]``."""

    start: int
    end: int
    text: str


def fold(text: str) -> str:
    """Lower-case without moving any offset: ``len(fold(text)) == len(text)``.

    'İ' is the only character whose lower case is longer, so it stays as it is. Both small sigmas
    become one, since ``lower`` picks between them by position in the word. Nothing else is
    equated ('ß' is not 'ss'), as the official evaluator compares lower-cased strings.
    """
    lower = "İ".join(map(str.lower, text.split("İ"))) if "İ" in text else text.lower()
    return lower.replace("ς", "σ")


def find_spans(context: str, synonyms: Iterable[str]) -> list[Span]:
    """Every occurrence of every synonym by the strict rule, sorted and unique.

    Synonyms are taken literally, spaces at their edges included; those of spaces only find nothing.
    Overlapping occurrences of different synonyms all count. For golds as files have them, see
    ``needles``.
    """
    wanted = {fold(text) for text in set(synonyms) if text.strip()}
    return [Span(start, end, context[start:end]) for start, end in strict(fold(context), wanted)]


def needles(golds: Iterable[str]) -> set[str]:
    """What to look for in a folded context: distinct golds, folded, without blanks at the edges.

    A gold such as "TNF " would otherwise be found before a bracket but not before a word.
    """
    return {fold(text.strip()) for text in set(golds)} - {""}


def strict(folded: str, wanted: Iterable[str]) -> list[tuple[int, int]]:
    """(start, end) of every strict occurrence of folded synonyms in a folded context, sorted."""
    found = set()
    for needle in wanted:
        start = folded.find(needle)
        while start >= 0:
            end = start + len(needle)
            if not in_word(folded[start - 1 : start]) and not in_word(folded[end : end + 1]):
                found.add((start, end))
            start = folded.find(needle, start + 1)
    return sorted(found)


def in_word(character: str) -> bool:
    """Whether a character (or none, at an edge) goes on with a word; an accent of its own does."""
    if character.isalnum() or character == "_":
        return True
    return character >= "\u0300" and unicodedata.category(character) == "Mn"  # from there on


def ceiling(
    questions: Iterable[Question], contexts: Mapping[str, Sequence[str]]
) -> tuple[int, int]:
    """How many questions any extractive system could answer: (k, n).

    A question counts when some synonym is a substring of some context, whatever its case, word
    boundaries or not; of the context as it is or with single blanks, as decoding writes answers.
    ``contexts`` maps question ids to the texts given to the system.
    """
    possible = total = 0
    for question in questions:
        wanted = needles(question.synonyms())
        given = contexts.get(question.id, ())
        texts = [fold(text) for raw in given for text in {raw, " ".join(WORD.findall(raw))}]
        possible += any(needle in text for text in texts for needle in wanted)
        total += 1
    return possible, total


def words(text: str) -> list[str]:
    """The words of a text in lower case, without accents, articles and a plural or possessive s.

    Letters and digits are separate words and a Greek letter is its name, so "IL6Rα" gives
    il, 6, r, alpha. "a" is an article at the start only: "vitamin A" keeps its last word.
    """
    text = unicodedata.normalize("NFKD", text).casefold()
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"['’]s\b", "", text)
    text = _GREEK_LETTER.sub(lambda letter: f" {_GREEK[letter[0]]} ", text)
    found = [word for word in _NUMBER_OR_LETTERS.findall(text) if word != "the"]
    if found[:1] in (["a"], ["an"]):
        del found[0]
    return [w[:-1] if len(w) > 3 and w[-1] == "s" and w[-2] not in "sui" else w for w in found]


def plain(text: str) -> str:
    """``words`` written as one, so that blanks and hyphens do not matter: "TNF-α" is "tnfalpha".

    Two numbers stay apart: "1-2" is not "12".
    """
    return re.sub(r"(?<!\d) | (?!\d)", "", " ".join(words(text)))


def lacks(text: str, golds: Iterable[str]) -> bool:
    """Whether no gold is in a text, not even in other writing (``plain``) or without its bracket.

    Golds of fewer than three letters and digits are not looked for.
    """
    written = plain(text)
    forms = {plain(part) for gold in golds for part in (gold, *re.split(r"[()\[\]]", gold))}
    return not any(len(form) >= 3 and form in written for form in forms)


# The only characters next to an answer in the public 7b training file, edges of the context aside.
_PUBLISHED_NEIGHBOURS = " ().,:;"


def extra_cause(span: Span, context: str, answers: Collection[str]) -> str:
    """Why the public 7b training file lacks a span that the strict rule finds in its context.

    ``answers`` are all its answer texts for the question. The file matches case and takes only
    blanks, round brackets and sentence punctuation as boundaries (observed: none of its 4,231
    answers has another neighbor). "" when neither explains it.
    """
    if span.text not in answers:
        return "case differs"
    around = context[span.start - 1 : span.start] + context[span.end : span.end + 1]
    if any(character not in _PUBLISHED_NEIGHBOURS for character in around):
        return "joined to its neighbor by a character such as - / + [ '"
    return ""


def gold_spans(context: str, golds: Iterable[str]) -> list[Span]:
    """Where golds stand in a context by the strict rule, blanks at a gold's edges aside."""
    return find_spans(context, [gold.strip() for gold in golds])
