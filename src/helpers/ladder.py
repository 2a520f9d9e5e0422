"""Looser matches beyond the strict rule: a ladder of named rungs, each of them to be switched on.

A rung makes two spellings equal. Rungs add up: a context in which the strict rule finds nothing is
read again with the first rung, then with the first and the second, and so on, and the first that
finds an answer gives its spans. So strict spans never change, and every looser span has one name.
Offsets are always those of the original text, and as in the strict rule neither a letter, a digit
nor an underscore may touch a span; nor may a span end inside a number such as 1.5 or 2,000.

More rungs never find less: what is found under some rungs is found under these and any others.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from helpers.spans import fold, in_word, needles, strict

MEANING = {
    "unicode": "compatible characters are one, accents left out: Sjögren = Sjogren, CD4⁺ = CD4+",
    "greek": "a Greek letter is its name: TNF-α = TNF-alpha",
    "hyphen": "hyphens, dashes, blanks are left out but between digits: IL-2 = IL 2 = IL2",
    "plural": "singular and plural: antibodies = antibody; words in capitals are not shortened",
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
_DIGIT = r"\d¹²³¼-¾⁰-⁹₀-₉⅐-⅟①-⒛⓪-⓿❶-➓"  # all that unicode turns into digits
# Blanks and hyphens (each in one common form by then) that are left out: all but one of a run
# between two digits, where they keep numbers apart (1-10 is not 110).
_LEFT_OUT = re.compile(
    rf"(?<![{_DIGIT}\- ])[- ]+|[- ]+(?![{_DIGIT}\- ])|(?<=-)[- ]+| +(?=-)|(?<= ) +"
)
_PIECES = re.compile(r"\w+|\W+")
_OF_TEXTS = frozenset({"unicode", "greek", "hyphen", "plural", "numerals"})  # others change golds
_ROMAN = re.compile(r"(?=[IVX])(X{0,3})(IX|IV|V?I{0,3})")
_BRACKETS = re.compile(r"[(\[{]([^()\[\]{}]*)[)\]}]")
_KEPT = re.compile(rf"[{_DIGIT}][- ]+[{_DIGIT}]")
_NUMBER = re.compile(r"\d[.,]\d")
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
        self._plan: list | None = None  # see ``_planned``; made when needed

    def find(self, text: str) -> Match:
        """The spans of the lowest rung that has any; ``Match("", ())`` when none has."""
        spans = strict(fold(text), self.wanted)
        return Match("", tuple(spans)) if spans or not self.rungs else self.climb(text)

    def climb(self, text: str) -> Match:
        """``find`` without the strict rule."""
        if self._plan is None:
            self._plan = self._planned()
        pieces = _PIECES.findall(text)
        normals: dict[frozenset[str], str] = {}
        for rung, readings in self._plan:
            spans: set[tuple[int, int]] = set()
            for on, forms in readings:
                if on not in normals:
                    normals[on] = _normal(pieces, on)
                # Where each character came from is only worked out when something is there.
                likely = [form for form in forms if form in normals[on]]
                if likely:
                    spans |= _occurrences(text, pieces, likely, on)
            if spans:
                return Match(rung, tuple(sorted(spans)))
        return Match("", ())

    def _planned(self) -> list[tuple[str, list[tuple[frozenset[str], set[str]]]]]:
        """For each rung how to read the text, and the forms that no rung below has looked for."""
        tried: dict[frozenset[str], set[str]] = defaultdict(set)
        plan = []
        for state, rung in zip(self._states(), self.rungs, strict=True):
            readings = []
            for on in _readings(state):
                of_text = on & _OF_TEXTS
                forms = self._gold_forms(on) - tried[of_text]
                tried[of_text] |= forms
                if forms:
                    readings.append((of_text, forms))
            plan.append((rung, readings))
        return plan

    def _states(self) -> list[frozenset[str]]:
        return [frozenset(self.rungs[: n + 1]) for n in range(len(self.rungs))]

    def _gold_forms(self, on: frozenset[str]) -> set[str]:
        texts = {text for gold in self.golds for text in _variants(gold, on)}
        forms = {_normal(_PIECES.findall(text), on & _OF_TEXTS).strip() for text in texts}
        return {form for form in forms if sum(map(str.isalnum, form)) >= LEAST}


def _readings(state: frozenset[str]) -> tuple[frozenset[str], ...]:
    """The rungs to read with, and the same without plural.

    A word in capitals is not shortened, and then differs from the shortened word it equals
    otherwise: CELLS is cells, though not cell.
    """
    return (state, state - {"plural"}) if "plural" in state else (state,)


def _normal(pieces: Iterable[str], on: frozenset[str]) -> str:
    normal = "".join([_form(piece, on)[0] for piece in pieces])
    if "hyphen" not in on:
        return normal
    if _KEPT.search(normal):
        return _LEFT_OUT.sub("", normal)
    return normal.replace(" ", "").replace("-", "")  # the same, and fast


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
) -> set[tuple[int, int]]:
    parts, starts, ends, at = [], [], [], 0
    for piece in pieces:
        normal, begun, stopped = _form(piece, on)
        parts.append(normal)
        starts += [at + n for n in begun]
        ends += [at + n for n in stopped]
        at += len(piece)
    normal = "".join(parts)
    if "hyphen" in on:
        gone = {n for match in _LEFT_OUT.finditer(normal) for n in range(*match.span())}
        kept = [n for n in range(len(normal)) if n not in gone]
        starts, ends = [starts[n] for n in kept], [ends[n] for n in kept]
        normal = "".join([normal[n] for n in kept])
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
            if "unicode" in on:  # accents, of no width there, belong to their letter
                start, end = _with_marks(text, start, end)
            if whole and not _inside(text, start) and not _inside(text, end, after=True):
                found.add((start, end))
            low = normal.find(form, low + 1)
    return found


def _with_marks(text: str, start: int, end: int) -> tuple[int, int]:
    while start and unicodedata.category(text[start - 1]) == "Mn":
        start -= 1
    while end < len(text) and unicodedata.category(text[end]) == "Mn":
        end += 1
    return start, end


def _inside(text: str, at: int, after: bool = False) -> bool:
    """Whether a span's edge lies inside a word, or inside a number with a point or comma."""
    if in_word(text[at : at + 1] if after else text[at - 1 : at]):
        return True
    sign = at if after else at - 1
    return 0 < sign < len(text) - 1 and bool(_NUMBER.fullmatch(text, sign - 1, sign + 2))


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
    for n in range(1, len(piece)) if "unicode" in on else ():
        # 10⁶ is 10^6 and not 106.
        raised = piece[n].isnumeric() and not piece[n].isdecimal() and forms[n][:1].isdecimal()
        forms[n] = "^" * (raised and piece[n - 1].isdecimal()) + forms[n]
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
        return " " if character.isspace() else "-"  # see _LEFT_OUT
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
