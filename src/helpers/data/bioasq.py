"""The BioASQ JSON: read and check questions, read and write answers, find the files in a folder.

Golds stay exactly as their files have them, blanks included, because the official evaluator
compares them as they are. Everything wrong with a file is one ``InputError`` that names the file,
the question and the field.

One question of a BioASQ file: what its fields must be, what is repaired, what is refused.

The organizers' files changed over the years: golds are flat lists or lists of lists, keys are
null or missing, offsets are at times strings. What can mean one thing only is repaired and
listed; anything else is an ``InputError`` with the file, the question and the field. Golds stay
exactly as written, blanks included, because the official evaluator compares them as they are.
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from helpers.config import InputError
from helpers.io import read_text, write_json

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


_HALF = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
MAX_ANSWERS = 5  # the task allows five; the evaluator itself has no limit


class _Number(float):
    """A fraction in JSON that remembers how it was written, as the organizers' program does."""

    written: str

    def __new__(cls, written: str) -> _Number:
        number = super().__new__(cls, written)
        number.written = written
        return number

    def __str__(self) -> str:
        return self.written


def read_json(path: str | Path, odd: Oddities | None = None, *, strict: bool = True) -> Any:
    """Parse a UTF-8 JSON file (a byte order mark is allowed), or raise ``InputError``.

    ``NaN`` is read as null, and JSON lines as a list of objects. ``odd`` notes ``NaN`` and repeated
    keys (the last one counts; the lists of a repeated 'questions' are joined). Without ``strict``,
    half a character and text after the end are allowed, as the organizers' program allows them.
    Text that is not JSON, or not UTF-8, is refused; the program at times reads on silently.
    """
    path = Path(path)

    def constant(name: str) -> None:
        if name != "NaN":
            raise InputError(f"{path}: holds {name}, which is no JSON number; repair the file")
        if odd is not None:
            odd.add("NaN is no JSON, read as null", "")

    decoder = json.JSONDecoder(
        strict=False,  # line breaks inside a text have one meaning only
        parse_float=_Number,
        parse_constant=constant,
        object_pairs_hook=None if odd is None else lambda pairs: _as_dict(pairs, odd),
    )
    text = read_text(path)
    if not text.strip():
        raise InputError(f"{path}: is empty; download it again")
    try:
        data, end = decoder.raw_decode(text, len(text) - len(text.lstrip(" \t\r\n")))
        if text[end:].strip():
            rows = _json_lines(text, decoder)
            if rows:
                data = rows
            elif strict:
                raise json.JSONDecodeError("Extra data", text, end)
            elif odd is not None:
                odd.add(f"what follows the first value (from character {end}) is ignored", "")
        half = _HALF.search(text) if strict else None
        if half:  # mostly pairs, which are whole characters
            json.dumps(data, ensure_ascii=False).encode("utf-8")
        return data
    except InputError:
        raise
    except UnicodeEncodeError:
        line = text.count("\n", 0, half.start()) + 1
        raise InputError(
            f"{path}: holds half a character (from line {line}: {half[0]} without its other half); "
            "repair the text"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not JSON (line {error.lineno}, column {error.colno}: {error.msg}); "
            "unpack or download it again"
        ) from None
    except ValueError:  # Python reads no whole number of more than 4300 digits
        raise InputError(
            f"{path}: holds a number of thousands of digits; repair or remove it"
        ) from None
    except RecursionError:
        raise InputError(f"{path}: JSON nested too deeply to be a BioASQ file") from None


def _json_lines(text: str, decoder: json.JSONDecoder) -> list[dict]:
    """The rows of JSON lines, as the library datasets writes SQuAD; empty for anything else."""
    try:
        rows = [decoder.decode(line) for line in text.split("\n") if line.strip()]
    except json.JSONDecodeError:
        return []
    ours = len(rows) > 1 and all(isinstance(row, dict) and "questions" not in row for row in rows)
    return rows if ours else []


def _as_dict(pairs: list[tuple[str, Any]], odd: Oddities) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        name = next(name for name, count in counts.items() if count > 1)
        where = text_of(found.get("id")) or ""
        odd.add(f"key {name!r} stands twice in one object, the last one counts", where)
        known = [value for key, value in pairs if key == "type" and value in TYPES]
        found |= {"type": known[-1]} if known else {}
        lists = [value for key, value in pairs if key == "questions" and isinstance(value, list)]
        found |= {"questions": list(chain(*lists))} if lists else {}
    return found


def is_squad(data: object) -> bool:
    """Whether parsed JSON has one of SQuAD's shapes: ``{"data": [...]}``, or what is in its list.

    That is a list of articles, of paragraphs, or of rows that bring their own context, as the
    libraries datasets and simpletransformers have them. A list 'questions' makes it BioASQ's.
    """
    if isinstance(data, dict):
        if isinstance(data.get("questions"), list):
            return False
        return isinstance(data.get("data"), list) or ("context" in data and "question" in data)
    first = data[0] if isinstance(data, list) and data else None
    return isinstance(first, dict) and ("paragraphs" in first or "context" in first)


def read_questions(
    path: str | Path,
    *,
    kind: str | None = "factoid",
    answers: str = "any",
    odd: Oddities | None = None,
) -> list[Question]:
    """Read the questions of one type (``None``: all) from a BioASQ file, in file order.

    ``answers`` is ``"required"`` for a training or golden file, ``"forbidden"`` for a test input,
    ``"any"`` otherwise. An ``exact_answer`` that is there but empty is accepted when required: the
    converter reports that question instead of refusing the file. What ``schema`` repairs is noted
    in ``odd``; the golds of other question types are not read.
    """
    return parse_questions(read_json(path, odd), path, kind=kind, answers=answers, odd=odd)


def parse_questions(
    data: object,
    path: str | Path,
    *,
    kind: str | None = "factoid",
    answers: str = "any",
    odd: Oddities | None = None,
) -> list[Question]:
    """``read_questions`` for the parsed content of ``path``."""
    if answers not in ("any", "required", "forbidden"):
        raise ValueError(f"answers={answers!r}")
    odd = Oddities() if odd is None else odd
    raw = raw_questions(data, path)
    if not raw:
        raise InputError(f"{path}: its list 'questions' is empty; give a file that has some")
    questions, without = [], []
    seen: dict[str, dict] = {}
    for number, item in enumerate(raw, 1):
        if not isinstance(item, dict):
            raise InputError(f"{path}: question {number} is not an object; the file is damaged")
        where = place_of(path, item, number)
        question_id = get(item, "id", str, where)
        if question_id in seen and seen[question_id] != item:
            raise InputError(f"{where}: id occurs twice with other content; keep one of the two")
        if question_id in seen:
            odd.add("a question stands twice, word by word, and is read once", question_id)
            continue
        seen[question_id] = item
        question_type = type_of(item, where, odd)
        if kind is not None and question_type != kind:
            continue
        if item.get("exact_answer") is None:
            without.append(question_id)
        elif answers == "forbidden":
            raise InputError(
                f"{where}: field 'exact_answer' in a test input; "
                "this is a training or golden file, give the test input"
            )
        questions.append(read_question(item, question_type, where, odd))
    if not questions:
        raise InputError(
            f"{path}: none of its {len(raw)} questions is a {kind or 'question'}; "
            "give a file that has some"
        )
    if answers == "required" and len(without) == len(questions):
        raise InputError(
            f"{path}: no question has 'exact_answer' (first: {without[0]!r}); "
            "this is a test input, give the training or golden file"
        )
    if answers == "required" and without:
        raise InputError(
            f"{path}: question {without[0]!r}: field 'exact_answer' is missing, null or NaN "
            f"(in {len(without)} of {len(questions)}); add it or remove the question"
        )
    return questions


def raw_questions(data: object, path: str | Path) -> list:
    """The list of questions in parsed JSON, as it is."""
    if is_squad(data):
        raise InputError(f"{path}: a SQuAD file; a BioASQ file with 'questions' is needed here")
    if isinstance(data, list) and data and all(isinstance(item, dict) for item in data):
        data = {"questions": data}  # some copies have lost the outer object
    if not isinstance(data, dict) or not isinstance(data.get("questions"), list):
        raise InputError(f"{path}: not a BioASQ file (no list 'questions' at the top); give one")
    return data["questions"]


def write_answers(path: str | Path, answers: Mapping[str, Sequence[str]]) -> Path:
    """Write ranked factoid answers (question id -> best first, at most five kept)."""
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

    scored: list[tuple[str | None, tuple[str, ...]]]  # the factoids: id, all synonyms
    items: list[tuple[str | None, dict]]  # all questions as they are: id (None without one), fields
    odd: Oddities


@dataclass
class Answers:
    """A system's file as the organizers' program reads it: the first entry of each id counts."""

    ranked: dict[str, list[str]]  # question id -> ranked texts
    texts: dict[str, str]  # entries whose exact_answer is a text, for which the program gives 0
    items: list[tuple[str | None, dict]]  # all entries as they are, as in ``Golds``
    odd: Oddities


def read_golds(path: str | Path) -> Golds:
    """Read what scoring needs of a golden file; only ``id``, ``type``, ``exact_answer`` count.

    Where the organizers' program stops, the file is repaired with a remark, or refused.
    """
    golds = Golds([], [], Oddities())
    odd, seen, answered = golds.odd, {}, False
    for where, name, item in _entries(path, odd):
        golds.items.append((name, item))
        kind = text_of(item.get("type"))
        if kind != "factoid":
            if kind not in TYPES:
                odd.add(f"field 'type' is {kind!r}, which is not scored; write it as in "
                        + ", ".join(TYPES), name)  # fmt: skip
            continue
        answered |= "exact_answer" in item
        answer = item.get("exact_answer", [])
        if answer is None:
            raise InputError(
                f"{where}: field 'exact_answer' is null or NaN; add it or remove the question"
            )
        if isinstance(answer, str) and not listed(answer, where):
            odd.add("field 'exact_answer' is a text, which the official program does not take "
                    "for a gold answer; make it a list of lists", name)  # fmt: skip
            answer = []
        found = entities(answer, name, where, odd)
        if LISTED in odd.found:
            raise InputError(
                f"{where}: field 'exact_answer' is a list written as text, for which the official "
                "program gives 0 or stops; write it as a JSON list of lists"
            )
        texts = tuple(text for entity in found for text in entity)
        if name in seen:
            differ = " with different golds" if seen[name] != texts else ""
            odd.add(f"a question stands twice{differ} and counts twice", name)
        seen[name] = texts
        golds.scored.append((name, texts))
    if not golds.scored:
        raise InputError(
            f"{path}: none of its {len(golds.items)} questions is a factoid; "
            "give a file that has some"
        )
    if not answered:
        raise InputError(
            f"{path}: no factoid has 'exact_answer' (first: {golds.scored[0][0]!r}); "
            "this is a test input, give the training or golden file"
        )
    return golds


def _entries(path: str | Path, odd: Oddities):
    """Where it stands, id (None without one) and content of each question of either file."""
    data = read_json(path, odd, strict=False)
    if isinstance(data, list):
        odd.add("a bare list, read as the list 'questions'", "")
    for number, item in enumerate(raw_questions(data, path), 1):
        if not isinstance(item, dict):
            raise InputError(f"{path}: question {number} is not an object; the file is damaged")
        name = text_of(item.get("id"))
        for field_name in stops(item):
            odd.add(f"field {field_name!r} stops the official program, even in an ignored entry; "
                    "scoring goes on here as the other remarks say; correct the field",
                    name or f"number {number}")  # fmt: skip
        yield place_of(path, item, number), name, item


def parse_answers(path: str | Path, asked: Collection[str] | None = None) -> Answers:
    """Read a system's factoid answers as the official evaluator does.

    Only the first text of each inner list counts; empty inner lists are dropped, so later answers
    move up; "" and duplicates hold their rank; a number counts as it is written; an entry's own
    type is ignored, the golden file's counts. Entries of other ids than ``asked`` (None: of all)
    are not looked into.
    """
    found = Answers({}, {}, [], Oddities())
    for where, name, item in _entries(path, found.odd):
        found.items.append((name, item))
        if name is None:
            found.odd.add("an entry without an id, ignored", where.rpartition(" ")[2])
        elif name in found.ranked:
            found.odd.add("id occurs again, its first answers count", name)
        else:
            found.ranked[name] = []
            if asked is None or name in asked:
                _rank(found, name, where, item.get("exact_answer"))
    return found


def _rank(found: Answers, name: str, where: str, answer: object) -> None:
    odd = found.odd
    if text_of(answer) is not None:
        found.texts[name] = text_of(answer)
        kind = "number, which counts as wrong"
        if isinstance(answer, str):
            kind = "text, for which the official program gives 0"
        odd.add(f"field 'exact_answer' is a {kind}; make it a list of lists", name)
        return
    answer = [] if answer is None else answer
    if not isinstance(answer, list):
        raise _not_ranked(where)
    if any(text_of(entry) is not None for entry in answer):
        odd.add("'exact_answer' is not a list of lists, each string counts", name)
    for entry in answer:
        inner = entry if isinstance(entry, list) else [entry]
        given = [text for text in inner if text is not None]
        texts = [text_of(text) for text in given]
        if None in texts:
            raise _not_ranked(where)
        if len(texts) < len(inner):
            odd.add("an answer is null and left out", name)
        if texts[:1] != given[:1]:
            odd.add(NUMBER, name)
        found.ranked[name] += texts[:1]
    if not found.ranked[name]:
        odd.add("no answer, counted as wrong", name)
    elif len(found.ranked[name]) > MAX_ANSWERS:
        odd.add("more answers than the 5 the task allows; a right one counts at any rank", name)


def _not_ranked(where: str) -> InputError:
    return InputError(f"{where}: field 'exact_answer' must be a list of lists of strings")


def read_answers(path: str | Path) -> tuple[dict[str, list[str]], list[str]]:
    """``parse_answers`` of every entry: id -> ranked texts, and one remark per kind of oddity."""
    found = parse_answers(path)
    return found.ranked, found.odd.lines(path)
