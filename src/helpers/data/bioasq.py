"""The BioASQ JSON: read and check questions, read and write answers, find the files in a folder.

Golds stay exactly as their files have them, blanks included, because the official evaluator
compares them as they are. Everything wrong with a file is one ``InputError`` that names the file,
the question and the field.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from helpers.config import InputError
from helpers.data.schema import (
    LISTED,
    NUMBER,
    TYPES,
    Oddities,
    Question,
    entities,
    get,
    listed,
    place_of,
    read_question,
    stops,
    text_of,
    type_of,
)
from helpers.io import read_text, write_json

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
        for field in stops(item):
            odd.add(f"field {field!r} stops the official program, even in an ignored entry; "
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
