"""Looser matches beyond the strict rule: a ladder of named rungs, each of them to be switched on.

A rung makes two spellings equal. Rungs add up: a context in which the strict rule finds nothing is
read again with the first rung, then with the first and the second, and so on, and the first that
finds an answer gives its spans. So strict spans never change, and every looser span has one name.
Offsets are always those of the original text, and as in the strict rule neither a letter, a digit
nor an underscore may touch a span.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from helpers.spans import fold, in_word, needles, strict

MEANING = {
    "unicode": "compatible characters are one, accents left out: Sjögren = Sjogren, CD4⁺ = CD4+",
    "greek": "a Greek letter is its name: TNF-α = TNF-alpha",
    "hyphen": "hyphens, dashes and blanks are left out: IL-2 = IL 2 = IL2",
    "plural": "singular and plural: antibodies = antibody; abbreviations in capitals stay",
    "brackets": "an answer without its bracket, or its abbreviation alone: factor VIII (F8) = F8",
    "punctuation": "an answer without the punctuation at its edges: “warfarin”. = warfarin",
    "numerals": "Roman and Arabic numerals up to 39: type II = type 2",
}
LEAST = 3  # letters and digits that an answer must have left to be looked for loosely

_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ϵ": "epsilon",
    "ζ": "zeta", "η": "eta", "θ": "theta", "ϑ": "theta", "ι": "iota", "κ": "kappa",
    "λ": "lambda", "μ": "mu", "µ": "mu", "ν": "nu", "ξ": "xi", "ο": "omicron", "π": "pi",
    "ρ": "rho", "σ": "sigma", "ς": "sigma", "τ": "tau", "υ": "upsilon", "φ": "phi", "ϕ": "phi",
    "χ": "chi", "ψ": "psi", "ω": "omega",
}  # fmt: skip
_ALIKE = str.maketrans("‘’‚‛′ʹ“”„″", "''''''\"\"\"\"")  # after decomposition
_HYPHENS = frozenset("-‐‑‒–—―−﹣－")
_PIECES = re.compile(r"\w+|\W+")
_OF_TEXTS = frozenset({"unicode", "greek", "hyphen", "plural", "numerals"})  # others change golds
_ROMAN = re.compile(r"(?=[IVX])(X{0,3})(IX|IV|V?I{0,3})")
_BRACKETS = re.compile(r"[(\[{]([^()\[\]{}]*)[)\]}]")
_EDGE = " .,;:!?'\"“”‘’()[]{}"


@dataclass(frozen=True)
class Match:
    """Where an answer stands in a text, and the rung that found it ("" for the strict rule)."""

    rung: str
    spans: tuple[tuple[int, int], ...]


class Ladder:
    """The strict rule and the chosen rungs for the golds of one question."""

    def __init__(self, golds: Iterable[str], rungs: Sequence[str] = ()):
        self.golds = tuple(golds)
        self.wanted = needles(self.golds)
        self.rungs = tuple(rungs)
        self._forms: list[set[str]] | None = None  # of the golds, a set a rung; made when needed

    def find(self, text: str) -> Match:
        """The spans of the lowest rung that has any; ``Match("", ())`` when none has."""
        spans = strict(fold(text), self.wanted)
        return Match("", tuple(spans)) if spans or not self.rungs else self.climb(text)

    def climb(self, text: str) -> Match:
        """``find`` without the strict rule."""
        if self._forms is None:
            self._forms = [self._gold_forms(on) for on in self._states()]
        pieces = _PIECES.findall(text)
        on_before, normal = None, ""
        for on, forms, rung in zip(self._states(), self._forms, self.rungs, strict=True):
            if on & _OF_TEXTS != on_before:
                on_before = on & _OF_TEXTS
                normal = "".join([_form(piece, on_before)[0] for piece in pieces])
            # Where each character came from is only worked out when something is there.
            likely = [form for form in forms if form in normal]
            spans = _occurrences(text, pieces, likely, on_before) if likely else []
            if spans:
                return Match(rung, tuple(spans))
        return Match("", ())

    def _states(self) -> list[frozenset[str]]:
        return [frozenset(self.rungs[: n + 1]) for n in range(len(self.rungs))]

    def _gold_forms(self, on: frozenset[str]) -> set[str]:
        texts = {text for gold in self.golds for text in _variants(gold, on)}
        forms = {"".join(_form(p, on)[0] for p in _PIECES.findall(text)).strip() for text in texts}
        return {form for form in forms if sum(map(str.isalnum, form)) >= LEAST}


def _variants(gold: str, on: frozenset[str]) -> set[str]:
    """The gold and what brackets and punctuation leave of it."""
    found = {gold.strip()}
    if "brackets" in on and _BRACKETS.search(gold):
        found.add(" ".join(_BRACKETS.sub(" ", gold).split()))
        # A bracket may hold an abbreviation, which is a name, or a remark, which is none.
        inner = (text.strip() for text in _BRACKETS.findall(gold))
        found |= {text for text in inner if text.lower() != text and " " not in text}
    if "punctuation" in on:
        found |= {text.strip(_EDGE) for text in found}
    return found


def _occurrences(
    text: str, pieces: Sequence[str], forms: Iterable[str], on: frozenset[str]
) -> list[tuple[int, int]]:
    parts, starts, ends, at = [], [], [], 0
    for piece in pieces:
        normal, begun, stopped = _form(piece, on)
        parts.append(normal)
        starts += [at + n for n in begun]
        ends += [at + n for n in stopped]
        at += len(piece)
    normal = "".join(parts)
    found = set()
    for form in forms:
        low = normal.find(form)
        while low >= 0:
            high = low + len(form)
            # Not from or to the middle of what stands for one letter (the "pha" of an α).
            whole = (low == 0 or starts[low - 1] != starts[low]) and (
                high == len(normal) or starts[high] != starts[high - 1]
            )
            start, end = starts[low], ends[high - 1]
            if whole and not in_word(text[start - 1 : start]) and not in_word(text[end : end + 1]):
                found.add((start, end))
            low = normal.find(form, low + 1)
    return sorted(found)


@lru_cache(maxsize=1 << 16)
def _form(piece: str, on: frozenset[str]) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """A word, or what stands between two, in the common form of the rungs.

    With it, for each character of the form, where what it stands for starts and ends in the
    piece; what a rung leaves out at a word's end belongs to the character before it.
    """
    if "numerals" in on and _ROMAN.fullmatch(piece):
        number = _arabic(piece)
        return number, (0,) * len(number), (len(piece),) * len(number)
    forms = [_letter(character, on) for character in piece]
    normal = "".join(forms)
    starts = [n for n, form in enumerate(forms) for _ in form]
    ends = [n + 1 for n in starts]
    is_word = piece[:1].isalnum() or piece[:1] == "_"
    if "plural" in on and is_word and len(normal) > 3 and not piece.isupper():
        normal = stem(normal)
        starts, ends = starts[: len(normal)], [*ends[: len(normal) - 1], len(piece)]
    return normal, tuple(starts), tuple(ends)


@lru_cache(maxsize=1 << 13)
def _letter(character: str, on: frozenset[str]) -> str:
    if "hyphen" in on and (character in _HYPHENS or character.isspace()):
        return ""
    text = fold(character)
    if "unicode" in on:
        apart = unicodedata.normalize("NFKD", character).casefold()
        # Marks (accents) and invisible signs such as the soft hyphen have no width of their own.
        kept = (c for c in apart if unicodedata.category(c) not in ("Mn", "Cf"))
        text = "".join(kept).translate(_ALIKE).replace("ς", "σ")
    return "".join(_GREEK.get(c, c) for c in text) if "greek" in on else text


def stem(word: str) -> str:
    """What singular and plural share, never longer than the word: therapi, diseas, virus, gene."""
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if len(word) > 4 and word.endswith("e"):
        word = word[:-1]
    if len(word) > 3 and word.endswith("y"):
        word = word[:-1] + "i"
    return word


def _arabic(roman: str) -> str:
    tens, ones = _ROMAN.fullmatch(roman).groups()
    values = {"IX": 9, "IV": 4}
    rest = values.get(ones, 5 * ones.count("V") + ones.count("I"))
    return str(10 * len(tens) + rest)
