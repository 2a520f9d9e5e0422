"""Read and check BioASQ JSON (questions, golden files, and answers), and write answers.

The format of the organizers' files has changed over the years: gold answers may be flat or nested
lists, fields may be null or missing, and offsets may be strings. If a value can have only one
meaning, we repair it and add a remark. Anything else raises an ``InputError`` that names the file,
the question, and the field. Gold answers stay exactly as written, including spaces, because the
official evaluator compares them in that form.
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from helpers.config import InputError
from helpers.io import read_text, write_json

TYPES = ("factoid", "list", "yesno", "summary")
MAX_ANSWERS = 5  # the task's limit; the evaluator itself has none
_SPELLINGS = {"yes/no": "yesno", "yes-no": "yesno", "yes_no": "yesno", "factoids": "factoid"}
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_LIST_AS_TEXT = "field 'exact_answer' is a list written as a string; it is read as that list"
_EXPECTED = "must be a list of lists of strings"
_NUMBER = "an answer is a number; it is read as written (9.0 is not 9)"


@dataclass(frozen=True)
class Snippet:
    """A passage given with a question; offsets are positions in its section (-1 if missing)."""

    text: str
    document: str = ""
    begin_section: str = ""
    end_section: str = ""
    offset_begin: int = -1
    offset_end: int = -1


@dataclass(frozen=True)
class Question:
    """One question; ``exact_answer`` has one inner tuple of synonyms per accepted entity."""

    id: str
    body: str
    type: str
    snippets: tuple[Snippet, ...] = ()
    documents: tuple[str, ...] = ()
    exact_answer: tuple[tuple[str, ...], ...] = ()

    def synonyms(self) -> tuple[str, ...]:
        """Return all accepted strings as written, pooled across entities as in the evaluator."""
        return tuple(chain(*self.exact_answer))


@dataclass
class Remarks:
    """Repairs and notes about a file: an ordered list of question ids for each kind of remark."""

    found: dict[str, dict[str, None]] = field(default_factory=dict)

    def add(self, what: str, question_id: str) -> None:
        """Add a remark about a question; adding the same remark again has no effect."""
        self.found.setdefault(what, {})[question_id] = None

    def lines(self, path: object) -> list[str]:
        """Return one line per kind, with the number of questions and the first ids, if any."""
        return [
            f"{path}: {what}" + (f": {some_ids(ids)}" if any(ids) else "")
            for what, ids in self.found.items()
        ]

    def print(self, path: object) -> None:
        """Print the lines to standard error."""
        for line in self.lines(path):
            print(line, file=sys.stderr)


def some_ids(ids: Collection[str]) -> str:
    """Return the number of questions and the first five ids, to be shown in a remark."""
    names = ", ".join(map(repr, list(ids)[:5]))
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return f"{len(ids)} question{'s' * (len(ids) != 1)} ({names}{more})"


@dataclass(frozen=True)
class Place:
    """The location of a question in a file, used in error messages and remarks."""

    where: str
    id: str | None
    remarks: Remarks

    def error(self, name: str, problem: str) -> InputError:
        """Return the error to raise for a field."""
        return InputError(f"{self.where}: field {name!r} {problem}")

    def remark(self, what: str) -> None:
        """Add a remark about this question."""
        self.remarks.add(what, self.id)


class _Number(float):
    """A JSON decimal number that keeps its original notation, as in the organizers' program."""

    def __init__(self, written: str):
        self.written = written

    def __str__(self) -> str:
        return self.written


def text_of(value: object) -> str | None:
    """Return a JSON string or number as a string, like the organizers' program; otherwise None."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if number or isinstance(value, str) else None


def _is_text(value: object) -> bool:
    return text_of(value) is not None


def read_json(path: str | Path, remarks: Remarks | None = None, *, strict: bool = True) -> Any:
    """Parse a UTF-8 JSON file, with or without a byte order mark; raise ``InputError`` on failure.

    We read ``NaN`` as null and JSON lines as a list of objects. ``NaN`` and repeated keys are noted
    in ``remarks``. If a key is repeated, its last value counts, but if the key is 'questions', the
    lists are joined. If ``strict`` is false, unpaired surrogates and text after the end of the JSON
    value are allowed, as in the organizers' program.
    """
    path = Path(path)
    remarks = Remarks() if remarks is None else remarks

    def constant(name: str) -> None:
        if name != "NaN":
            raise InputError(f"{path}: contains {name}, which is not a JSON number; correct it")
        remarks.add("NaN is not valid JSON; it is read as null", "")

    decoder = json.JSONDecoder(
        strict=False,  # a line break inside a string can mean only one thing
        parse_float=_Number,
        parse_constant=constant,
        object_pairs_hook=lambda pairs: _as_dict(pairs, remarks),
    )
    text = read_text(path)
    if not text.strip():
        raise InputError(f"{path}: is empty; download it again")
    half = _HALF_CHARACTER.search(text) if strict else None
    try:
        data, end = decoder.raw_decode(text, len(text) - len(text.lstrip(" \t\r\n")))
        if text[end:].strip():
            if rows := _json_lines(text, decoder):
                data = rows
            elif strict:
                raise json.JSONDecodeError("Extra data", text, end)
            else:
                remarks.add(f"all text after the first value (from character {end}) is ignored", "")
        if half:  # usually half of a pair that encodes one character
            json.dumps(data, ensure_ascii=False).encode("utf-8")
        return data
    except InputError:
        raise
    except UnicodeEncodeError:
        line = text.count("\n", 0, half.start()) + 1
        problem = (
            f"contains an unpaired surrogate, half of a character (from line {line}: {half[0]})"
        )
        problem += "; correct the text"
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        problem = f"not JSON ({where}: {error.msg}); unpack or download it again"
    except ValueError:  # Python does not read integers with more than 4300 digits
        problem = "contains a number with thousands of digits; correct or remove it"
    except RecursionError:
        problem = "the JSON is nested too deeply for a BioASQ file; download it again"
    raise InputError(f"{path}: {problem}")


def _json_lines(text: str, decoder: json.JSONDecoder) -> list[dict]:
    """Return the rows of JSON lines (how the datasets library writes SQuAD), or an empty list."""
    try:
        rows = [decoder.decode(line) for line in text.split("\n") if line.strip()]
    except json.JSONDecodeError:
        return []
    squad = len(rows) > 1 and all(isinstance(row, dict) and "questions" not in row for row in rows)
    return rows if squad else []


def _as_dict(pairs: list[tuple[str, Any]], remarks: Remarks) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for name, count in Counter(key for key, _ in pairs).items() if count > 1)
        where = text_of(found.get("id")) or ""
        remarks.add(f"key {name!r} occurs twice in one object; the last one counts", where)
        found |= {key: value for key, value in pairs if key == "type" and value in TYPES}
        lists = [value for key, value in pairs if key == "questions" and isinstance(value, list)]
        found |= {"questions": list(chain(*lists))} if lists else {}
    return found


def is_squad(data: object) -> bool:
    """Return whether parsed JSON has a SQuAD structure: ``{"data": [...]}`` or the list inside it.

    The list contains articles, paragraphs, or (from the datasets library) rows with a context.
    """
    if isinstance(data, dict):
        if isinstance(data.get("questions"), list):
            return False
        return isinstance(data.get("data"), list) or ("context" in data and "question" in data)
    first = data[0] if isinstance(data, list) and data else None
    return isinstance(first, dict) and ("paragraphs" in first or "context" in first)


def raw_questions(data: object, path: str | Path) -> list:
    """Return the list of questions from parsed JSON, without checking the questions."""
    if is_squad(data):
        raise InputError(f"{path}: a SQuAD file; give a BioASQ file with a list 'questions'")
    if isinstance(data, list) and data and all(isinstance(item, dict) for item in data):
        data = {"questions": data}  # some copies of the files lack the outer object
    if not isinstance(data, dict) or not isinstance(data.get("questions"), list):
        raise InputError(f"{path}: not a BioASQ file (no top-level list 'questions'); give one")
    return data["questions"]


def _items(data: object, path: str | Path, remarks: Remarks) -> Iterator[tuple[Place, dict]]:
    """Yield the location and content of each question in parsed JSON."""
    for number, item in enumerate(raw_questions(data, path), 1):
        if not isinstance(item, dict):
            raise InputError(f"{path}: question {number} is not an object; the file is damaged")
        known = item.get("id")
        where = f"question {known!r}" if known else f"question number {number}"
        yield Place(f"{path}: {where}", text_of(known), remarks), item


def read_questions(
    path: str | Path,
    *,
    kind: str | None = "factoid",
    answers: str = "any",
    remarks: Remarks | None = None,
    data: object = None,
) -> list[Question]:
    """Read the questions of one type (``None``: all) from a BioASQ file, in file order.

    ``answers`` is "required" for a training or golden file, "forbidden" for a test input, and "any"
    otherwise. An empty list of answers meets the requirement, because the converter reports it. If
    you have already read the file, pass its parsed JSON as ``data``. We read gold answers only for
    factoid questions.
    """
    remarks = Remarks() if remarks is None else remarks
    data = read_json(path, remarks) if data is None else data
    if not raw_questions(data, path):
        raise InputError(f"{path}: its list 'questions' is empty; give a file with questions")
    questions, without, seen = [], [], {}
    for place, item in _items(data, path, remarks):
        name = _get(item, "id", str, place)
        if seen.setdefault(name, item) is not item:
            if seen[name] != item:
                raise InputError(f"{place.where}: id occurs twice with different content; keep one")
            place.remark("the same question occurs twice; only one copy is used")
            continue
        question_type = _type_of(item, place)
        if kind is not None and question_type != kind:
            continue
        if item.get("exact_answer") is None:
            without.append(name)
        elif answers == "forbidden":
            problem = "marks a training or golden file; give the test input instead"
            raise place.error("exact_answer", problem)
        questions.append(_read_question(item, question_type, place))
    if not questions:
        raise _none_of(path, len(raw_questions(data, path)), kind or "question")
    if answers == "required" and len(without) == len(questions):
        raise _no_golds(path, "question", without[0])
    if answers == "required" and without:
        raise InputError(
            f"{path}: question {without[0]!r}: field 'exact_answer' is missing, null or NaN "
            f"(in {len(without)} of {len(questions)}); add it or remove the question"
        )
    return questions


def _none_of(path: str | Path, total: int, kind: str) -> InputError:
    return InputError(
        f"{path}: none of its {total} questions is a {kind}; give a file with at least one"
    )


def _no_golds(path: str | Path, kind: str, first: str | None) -> InputError:
    return InputError(
        f"{path}: no {kind} has 'exact_answer' (first: {first!r}); "
        "this is a test input; give the training or golden file"
    )


def _get(item: dict, name: str, kind: type, place: Place, default: Any = None) -> Any:
    """Return a field of the given type, or the default (if any) if the field is missing or null."""
    value = item.get(name)
    if value is None:
        if default is None:
            raise place.error(name, "is missing, null or NaN; add it")
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise place.error(name, f"is {type(value).__name__}, expected {kind.__name__}")
    if default is None and kind is str and not value.strip():
        raise place.error(name, "is empty; fill it in or remove the question")
    return value


def _type_of(item: dict, place: Place) -> str:
    """Return the question type in the organizers' spelling."""
    written = _get(item, "type", str, place)
    name = written.strip().lower()
    name = _SPELLINGS.get(name, name)
    if name not in TYPES:
        raise place.error("type", f"is {written!r}, expected one of {', '.join(TYPES)}")
    if name != written:
        place.remark(f"field 'type' has a nonstandard spelling; it is read as {name!r}")
    return name


def _read_question(item: dict, kind: str, place: Place) -> Question:
    """Check and repair all fields of a question whose id and type are known."""
    snippets = [
        _read_snippet(entry, replace(place, where=f"{place.where}, snippet {number}"))
        for number, entry in enumerate(_get(item, "snippets", list, place, ()))
    ]
    documents = item.get("documents")
    if isinstance(documents, str):
        place.remark("field 'documents' is a string; it is read as a list with one entry")
        documents = [documents]
    documents = documents or []
    if not isinstance(documents, list) or not all(isinstance(text, str) for text in documents):
        raise place.error("documents", "must be a list of strings")
    body = _get(item, "body", str, place)
    golds = _entities(item.get("exact_answer"), place) if kind == "factoid" else ()
    return Question(item["id"], body, kind, tuple(snippets), tuple(documents), golds)


def _read_snippet(entry: object, place: Place) -> Snippet:
    if not isinstance(entry, dict):
        raise InputError(f"{place.where}: is {type(entry).__name__}, expected an object")
    keys = ("text", "document", "beginSection", "endSection")
    text, document, first, last = (_get(entry, key, str, place, "") for key in keys)
    if not text.strip():
        place.remark("a snippet has no text; it is ignored")
    begin = _offset(entry, "offsetInBeginSection", place)
    end = _offset(entry, "offsetInEndSection", place)
    if min(begin, end) >= 0 and first == last and end - begin != len(text):
        place.remark("the length of a snippet does not match its offsets; its text is used")
    return Snippet(text, document, first, last, begin, end)


def _offset(entry: dict, key: str, place: Place) -> int:
    value = entry.get(key)
    if value is None or type(value) is int:
        return -1 if value is None else value
    try:
        number = int(value)
        if isinstance(value, bool) or (isinstance(value, float) and value != number):
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise place.error(key, f"is {value!r}, expected an integer") from None
    place.remark(f"field {key!r} is not stored as an integer; it is read as one")
    return number


def _entities(value: object, place: Place) -> tuple[tuple[str, ...], ...]:
    """Return the gold answer from ``exact_answer`` as one tuple of synonyms per entity."""
    if value is None:
        return ()
    entries = value if isinstance(value, list) else [value]
    nested = any(isinstance(entry, list) for entry in entries)
    lists = [] if nested else [parse_list(entry, place) for entry in entries]
    if any(lists):
        place.remark(_LIST_AS_TEXT)
        value = list(chain(*(part or [entry] for part, entry in zip(lists, entries, strict=True))))
        value = value if any(isinstance(entry, list) for entry in value) else [value]
    elif _is_text(value):
        kind = "one string" if isinstance(value, str) else "a number"
        place.remark(f"field 'exact_answer' is {kind}; it is read as the only answer")
        value = [[text_of(value)]]
    if not isinstance(value, list):
        raise place.error("exact_answer", _EXPECTED)
    if value and not any(isinstance(entry, list) for entry in value):
        place.remark("field 'exact_answer' is a flat list; it is read as synonyms of one answer")
        value = [value]
    elif not all(isinstance(entry, list) for entry in value):
        place.remark("field 'exact_answer' mixes strings and lists; each string is an answer")
        value = [entry if isinstance(entry, list) else [entry] for entry in value]
    found = []
    for entity in value:
        given = _without_nulls(entity, place)
        if not all(isinstance(text, str) for text in given):
            place.remark(_NUMBER)
        found.append(tuple(map(text_of, given)))
    return tuple(filter(None, found))


def _without_nulls(values: list, place: Place) -> list:
    """Return the strings and numbers of an answer, leave out nulls, and refuse other values."""
    given = [value for value in values if value is not None]
    if not all(map(_is_text, given)):
        raise place.error("exact_answer", _EXPECTED)
    if len(given) < len(values):
        place.remark("an answer is null; it is left out")
    return given


def parse_list(text: object, place: Place | None = None) -> list | None:
    """Parse a list that pandas wrote as a string ("['BRAF']"); return None for any other value.

    If ``place`` is given, a list without commas (``"['a' 'b']"``) raises ``InputError``.
    """
    text = text.strip() if isinstance(text, str) else ""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        parts = value if isinstance(value, list) else []
        leaves = [leaf for part in parts for leaf in (part if isinstance(part, list) else [part])]
        if not leaves or not all(isinstance(leaf, str) for leaf in leaves):
            continue
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        if sum(token.type == tokenize.STRING for token in tokens) == len(leaves):
            return value
        if place is not None:
            problem = "is a list written as a string without commas; write it as a JSON list"
            raise place.error("exact_answer", problem)
    return None


def _is_java_int(value: object) -> bool:
    try:
        return -(2**31) <= int(float(text_of(value))) == float(text_of(value)) < 2**31
    except (TypeError, ValueError, OverflowError):
        return False


def _fits(value: object, shape: Callable | list | dict | None) -> bool:
    """Return whether a JSON value matches a predicate, [shape of entries], or {key: shape}."""
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(entry, shape[0]) for entry in value)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(
            _fits(part, shape.get(key, shape[...])) for key, part in value.items()
        )
    return shape(value)


# What the organizers' program (edition 5) can read; ``...`` stands for every other key.
_READABLE = {
    **dict.fromkeys(("id", "type", "body"), _is_text),
    "concepts": [_is_text],
    "documents": [_is_text],
    "triples": [
        dict.fromkeys("so", lambda value: value is None or _is_text(value))
        | {"p": _is_text, ...: lambda _: True}
    ],
    "snippets": [
        dict.fromkeys(("document", "text", "beginSection", "endSection"), _is_text)
        | dict.fromkeys(("offsetInBeginSection", "offsetInEndSection"), _is_java_int)
        | {...: lambda _: False}
    ],
    "exact_answer": lambda value: isinstance(value, str) or _fits(value, [[_is_text]]),
    ...: lambda _: True,
}


def unreadable_fields(item: dict) -> list[str]:
    """Return the fields that make the organizers' program fail; it reads even unneeded fields."""
    return [name for name in item if not _fits({name: item[name]}, _READABLE)]


def write_answers(path: str | Path, answers: Mapping[str, Sequence[str]]) -> Path:
    """Write the ranked answers of factoid questions, best first and at most five per question."""
    questions = [
        {
            "id": question_id,
            "type": "factoid",
            "exact_answer": [[text] for text in ranked[:MAX_ANSWERS]],
            "ideal_answer": "",
        }
        for question_id, ranked in answers.items()
    ]
    return write_json(path, {"questions": questions})


@dataclass
class Golds:
    """A golden file as the organizers' program reads it (edition 5)."""

    scored: list[tuple[str | None, tuple[str, ...]]]  # factoid questions: id, all synonyms
    items: list[tuple[str | None, dict]]  # every question, unchanged: id (or None), fields
    remarks: Remarks


@dataclass
class Answers:
    """An answer file as the organizers' program reads it: the first entry of each id counts."""

    ranked: dict[str, list[str]]  # question id -> ranked answers
    texts: dict[str, str]  # entries whose exact_answer is a string, which scores 0 in the program
    items: list[tuple[str | None, dict]]  # every entry, unchanged, as in ``Golds``
    remarks: Remarks


def read_golds(path: str | Path) -> Golds:
    """Read the fields that scoring needs from a golden file: ``id``, ``type``, ``exact_answer``.

    If the organizers' program would fail, we either repair the data and add a remark or raise
    ``InputError``.
    """
    golds = Golds([], [], Remarks())
    seen, answered = {}, False
    for place, item in _entries(path, golds.remarks):
        golds.items.append((place.id, item))
        kind = text_of(item.get("type"))
        if kind not in TYPES:
            known = ", ".join(TYPES)
            place.remark(f"field 'type' is {kind!r}, which is not scored; use one of {known}")
        if kind != "factoid":
            continue
        answered |= "exact_answer" in item
        answer = item.get("exact_answer", [])
        if answer is None:
            raise place.error("exact_answer", "is null or NaN; fill it in or remove the question")
        if isinstance(answer, str) and not parse_list(answer, place):
            what = "field 'exact_answer' is a string, which is not a gold answer in the official "
            place.remark(what + "program; make it a list of lists")
            answer = []
        texts = tuple(chain(*_entities(answer, place)))
        if _LIST_AS_TEXT in golds.remarks.found:
            problem = "is a list written as a string, which the official program scores as 0"
            raise place.error(
                "exact_answer", f"{problem} or cannot read; write it as a JSON list of lists"
            )
        if place.id in seen:
            differ = " with different gold answers" if seen[place.id] != texts else ""
            place.remark(f"a question occurs twice{differ}; it counts twice")
        seen[place.id] = texts
        golds.scored.append((place.id, texts))
    if not golds.scored:
        raise _none_of(path, len(golds.items), "factoid")
    if not answered:
        raise _no_golds(path, "factoid", golds.scored[0][0])
    return golds


def _entries(path: str | Path, remarks: Remarks) -> Iterator[tuple[Place, dict]]:
    """Yield the location and content of each question in a golden file or an answer file."""
    data = read_json(path, remarks, strict=False)
    if isinstance(data, list):
        remarks.add("the file is a bare list; it is read as the list 'questions'", "")
    for number, (place, item) in enumerate(_items(data, path, remarks), 1):
        for key in unreadable_fields(item):
            what = f"field {key!r} stops the official program, even in an ignored entry; "
            what += "scoring continues here as described in the other remarks; correct the field"
            remarks.add(what, place.id or f"number {number}")
        yield place, item


def parse_answers(path: str | Path, ids: Collection[str] | None = None) -> Answers:
    """Read a system's factoid answers as the official evaluator does.

    Only the first string of each inner list counts. Empty inner lists are dropped, so later answers
    move up; "" and duplicates keep their rank. Numbers count exactly as written. The question type
    comes from the golden file, not from the entry. We check only entries in ``ids`` (None: all).
    """
    found = Answers({}, {}, [], Remarks())
    for place, item in _entries(path, found.remarks):
        name = place.id
        found.items.append((name, item))
        if name is None:
            found.remarks.add("an entry has no id; it is ignored", place.where.rpartition(" ")[2])
        elif name in found.ranked:
            place.remark("duplicate id; only the answers of its first entry count")
        else:
            found.ranked[name] = []
            if ids is None or name in ids:
                _rank(found, item.get("exact_answer"), place)
    return found


def _rank(found: Answers, answer: object, place: Place) -> None:
    """Add the ranked answers of one entry to ``found``."""
    ranked = found.ranked[place.id]
    if _is_text(answer):
        found.texts[place.id] = text_of(answer)
        kind = "number, which counts as wrong"
        if isinstance(answer, str):
            kind = "string, which the official program scores as 0"
        place.remark(f"field 'exact_answer' is a {kind}; make it a list of lists")
        return
    answer = [] if answer is None else answer
    if not isinstance(answer, list):
        raise place.error("exact_answer", _EXPECTED)
    if any(map(_is_text, answer)):
        place.remark("field 'exact_answer' is not a list of lists; each string is an answer")
    for entry in answer:
        given = _without_nulls(entry if isinstance(entry, list) else [entry], place)
        if given and not isinstance(given[0], str):
            place.remark(_NUMBER)
        ranked += map(text_of, given[:1])
    if not ranked:
        place.remark("an entry has no answer; it counts as wrong")
    elif len(ranked) > MAX_ANSWERS:
        place.remark("more than the allowed 5 answers; a correct one counts at any rank")


def read_answers(path: str | Path) -> tuple[dict[str, list[str]], list[str]]:
    """Return the ranked answers of every entry by id, and one line per kind of remark."""
    found = parse_answers(path)
    return found.ranked, found.remarks.lines(path)
