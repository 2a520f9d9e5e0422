"""One question of a BioASQ file: what its fields must be, what is repaired, what is refused.

The organizers' files changed over the years: golds are flat lists or lists of lists, keys are
null or missing, offsets are at times strings. What can mean one thing only is repaired and
listed; anything else is an ``InputError`` with the file, the question and the field. Golds stay
exactly as written, blanks included, because the official evaluator compares them as they are.
"""

from __future__ import annotations

import ast
import io
import json
import sys
import tokenize
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from helpers.config import InputError

TYPES = ("factoid", "list", "yesno", "summary")
_SPELT = {"yes/no": "yesno", "yes-no": "yesno", "yes_no": "yesno", "factoids": "factoid"}


@dataclass(frozen=True)
class Snippet:
    """A passage given with a question. Offsets are characters in its section, -1 when absent."""

    text: str
    document: str = ""
    begin_section: str = ""
    end_section: str = ""
    offset_begin: int = -1
    offset_end: int = -1


@dataclass(frozen=True)
class Question:
    """One question; ``exact_answer`` holds an inner tuple of synonyms per acceptable entity."""

    id: str
    body: str
    type: str
    snippets: tuple[Snippet, ...] = ()
    documents: tuple[str, ...] = ()
    exact_answer: tuple[tuple[str, ...], ...] = ()

    def synonyms(self) -> tuple[str, ...]:
        """Every accepted string, as written; the evaluator pools the entities like this."""
        return tuple(text for entity in self.exact_answer for text in entity)


@dataclass
class Oddities:
    """What was repaired or is worth knowing: the kind -> ids of the questions, in file order."""

    found: dict[str, dict[str, None]] = field(default_factory=dict)

    def add(self, what: str, question_id: str) -> None:
        """Note one oddity of one question; a second of the same kind changes nothing."""
        self.found.setdefault(what, {})[question_id] = None

    def tell(self, path: object) -> None:
        """The remarks on standard error."""
        for line in self.lines(path):
            print(line, file=sys.stderr)

    def lines(self, path: object) -> list[str]:
        """One remark per kind, with how many questions and the first of them ("" is the file)."""
        return [
            f"{path}: {what}" + (f": {some_ids(ids)}" if any(ids) else "")
            for what, ids in self.found.items()
        ]


def some_ids(ids: Collection[str], shown: int = 5) -> str:
    """How many questions, and the first few of their ids, for a remark."""
    names = ", ".join(repr(name) for name in list(ids)[:shown])
    more = f" and {len(ids) - shown} more" if len(ids) > shown else ""
    return f"{len(ids)} question{'s' * (len(ids) != 1)} ({names}{more})"


def place_of(path: object, item: dict, number: int) -> str:
    """File and question, as the beginning of a message."""
    known = item.get("id")
    return f"{path}: question {known!r}" if known else f"{path}: question number {number}"


_REQUIRED = object()


def get(item: dict, name: str, kind: type, where: str, default: Any = _REQUIRED) -> Any:
    """A field of the given type; null means absent, as in the organizers' older files."""
    value = item.get(name)
    if value is None:
        if default is _REQUIRED:
            raise InputError(f"{where}: field {name!r} is missing, null or NaN; add it")
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(
            f"{where}: field {name!r} is {type(value).__name__}, expected {kind.__name__}"
        )
    if default is _REQUIRED and kind is str and not value.strip():
        raise InputError(f"{where}: field {name!r} is empty; fill it in or remove the question")
    return value


def type_of(item: dict, where: str, odd: Oddities) -> str:
    """The question's type, in one of the organizers' four spellings."""
    written = get(item, "type", str, where)
    name = written.strip().lower()
    name = _SPELT.get(name, name)
    if name not in TYPES:
        raise InputError(
            f"{where}: field 'type' is {written!r}, expected one of {', '.join(TYPES)}"
        )
    if name != written:
        odd.add(f"field 'type' is spelled another way, read as {name!r}", item["id"])
    return name


def read_question(item: dict, kind: str, where: str, odd: Oddities) -> Question:
    """Check and repair all fields of a question whose id and type are known."""
    name = item["id"]
    snippets = [
        _snippet(entry, name, f"{where}, snippet {number}", odd)
        for number, entry in enumerate(get(item, "snippets", list, where, ()))
    ]
    documents = item.get("documents")
    if isinstance(documents, str):
        odd.add("field 'documents' is one string, read as a list of it", name)
        documents = [documents]
    if not isinstance(documents or [], list) or not all(
        isinstance(document, str) for document in documents or ()
    ):
        raise InputError(f"{where}: field 'documents' must be a list of strings")
    body = get(item, "body", str, where)
    golds = entities(item.get("exact_answer"), name, where, odd) if kind == "factoid" else ()
    return Question(name, body, kind, tuple(snippets), tuple(documents or ()), golds)


def _snippet(entry: object, name: str, where: str, odd: Oddities) -> Snippet:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: is {type(entry).__name__}, expected an object")
    text = get(entry, "text", str, where, "")
    if not text.strip():
        odd.add("a snippet without text is not read", name)
    begin = _offset(entry, "offsetInBeginSection", name, where, odd)
    end = _offset(entry, "offsetInEndSection", name, where, odd)
    sections = [get(entry, f"{side}Section", str, where, "") for side in ("begin", "end")]
    if min(begin, end) >= 0 and sections[0] == sections[1] and end - begin != len(text):
        odd.add("a snippet is not as long as its offsets say; its text counts", name)
    return Snippet(text, get(entry, "document", str, where, ""), *sections, begin, end)


def _offset(entry: dict, field_name: str, name: str, where: str, odd: Oddities) -> int:
    value = entry.get(field_name)
    if value is None:
        return -1
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        number = int(value) if isinstance(value, str) else value
        if isinstance(value, bool) or number != int(number):
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise InputError(
            f"{where}: field {field_name!r} is {value!r}, expected a whole number"
        ) from None
    odd.add(f"field {field_name!r} is no whole number by its type, but by its value", name)
    return int(number)


def entities(value: object, name: str, where: str, odd: Oddities) -> tuple[tuple[str, ...], ...]:
    """The gold in a field ``exact_answer``: entities, each a tuple of synonyms."""
    if value is None:
        return ()
    if isinstance(value, list) and not any(isinstance(entry, list) for entry in value):
        parts = [listed(entry, where) for entry in value]
        if any(parts):
            odd.add(LISTED, name)
            value = [text for part, entry in zip(parts, value, strict=True)
                     for text in (part or [entry])]  # fmt: skip
            value = value if any(isinstance(entry, list) for entry in value) else [value]
    elif listed(value, where):
        odd.add(LISTED, name)
        value = listed(value, where)
        value = value if any(isinstance(entry, list) for entry in value) else [value]
    elif text_of(value) is not None:
        kind = "one string" if isinstance(value, str) else "a number"
        odd.add(f"field 'exact_answer' is {kind}, read as the only answer", name)
        value = [[text_of(value)]]
    if not isinstance(value, list):
        raise _bad_answer(where)
    nested = [isinstance(entry, list) for entry in value]
    if value and not any(nested):
        odd.add("field 'exact_answer' is a flat list, read as synonyms of one answer", name)
        value = [value]
    elif not all(nested):
        odd.add("field 'exact_answer' mixes strings and lists, each string is an answer", name)
        value = [entry if isinstance(entry, list) else [entry] for entry in value]
    found = (tuple(_synonyms(entity, name, where, odd)) for entity in value)
    return tuple(entity for entity in found if entity)


def _synonyms(entity: list, name: str, where: str, odd: Oddities):
    for text in entity:
        if text is None:
            odd.add("an answer is null and left out", name)
        elif text_of(text) is None:
            raise _bad_answer(where)
        else:
            if not isinstance(text, str):
                odd.add(NUMBER, name)
            yield text_of(text)


LISTED = "field 'exact_answer' is a list written as text, read as that list"
NUMBER = "an answer is a number, read as written (9.0 is not 9)"


def listed(text: object, where: str | None = None) -> list | None:
    """The list that a text spells out, as pandas writes it ("['BRAF']"), or None.

    With ``where`` given, a list without commas (``"['a' 'b']"``) raises ``InputError``.
    """
    if not (isinstance(text, str) and text.strip().startswith("[") and text.strip().endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if not isinstance(value, list):
            continue
        leaves = [leaf for part in value for leaf in (part if isinstance(part, list) else [part])]
        if not leaves or not all(isinstance(leaf, str) for leaf in leaves):
            continue
        tokens = tokenize.generate_tokens(io.StringIO(text.strip()).readline)
        if sum(token.type == tokenize.STRING for token in tokens) == len(leaves):
            return value
        if where is not None:
            raise InputError(
                f"{where}: field 'exact_answer' is a list written as text without commas; "
                "write it as a JSON list"
            )
    return None


def text_of(value: object) -> str | None:
    """A JSON value as the organizers' program reads a text: a number as written, else None."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if number or isinstance(value, str) else None


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(text_of(text) is not None for text in value)


def _whole(value: object) -> bool:
    try:
        return -(2**31) <= int(float(text_of(value))) == float(text_of(value)) < 2**31
    except (TypeError, ValueError, OverflowError):
        return False


def _objects(value: object, fields: dict, skipped: bool) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, dict)
        and all(fields[key](part) if key in fields else skipped for key, part in entry.items())
        for entry in value
    )


def _is_text(value: object) -> bool:
    return text_of(value) is not None


def _text_or_null(value: object) -> bool:
    return value is None or _is_text(value)


_SNIPPET = dict.fromkeys(("document", "text", "beginSection", "endSection"), _is_text) | {
    "offsetInBeginSection": _whole,
    "offsetInEndSection": _whole,
}
_TRIPLE = {"s": _text_or_null, "o": _text_or_null, "p": _is_text}
_READABLE = {
    **dict.fromkeys(("id", "type", "body"), _is_text),
    **dict.fromkeys(("concepts", "documents"), _texts),
    "triples": lambda value: _objects(value, _TRIPLE, skipped=True),
    "snippets": lambda value: _objects(value, _SNIPPET, skipped=False),
    "exact_answer": lambda value: (
        isinstance(value, str) or (isinstance(value, list) and all(map(_texts, value)))
    ),
}


def stops(item: dict) -> list[str]:
    """The fields of a question of any type at which the organizers' program stops.

    It reads every question of both files whole, also what it does not need (edition 5).
    """
    return [
        name for name, value in item.items() if name in _READABLE and not _READABLE[name](value)
    ]


def _bad_answer(where: str) -> InputError:
    return InputError(
        f"{where}: field 'exact_answer' must be a list of strings, or a list of such lists"
    )
