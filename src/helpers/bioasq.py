"""The BioASQ JSON: read and check questions, read and write answers, find the files in a folder.

Golds stay exactly as their files have them, blanks included, because the official evaluator
compares them as they are. Everything wrong with a file is one ``InputError`` that names the file,
the question and the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.config import InputError
from helpers.layout import BioasqFiles, find_files, role_of
from helpers.outputs import read_text, write_json
from helpers.schema import (
    TYPES,
    Oddities,
    Question,
    Snippet,
    get,
    place_of,
    read_question,
    some_ids,
    type_of,
)

__all__ = [
    "MAX_ANSWERS", "TYPES", "BioasqFiles", "Oddities", "Question", "Snippet", "find_files",
    "is_squad", "parse_questions", "raw_questions", "read_answers", "read_json", "read_questions",
    "role_of", "some_ids", "write_answers", "write_json",
]  # fmt: skip

_HALF = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
MAX_ANSWERS = 5  # the task allows five; the evaluator itself has no limit


def read_json(path: str | Path) -> Any:
    """Parse a UTF-8 JSON file, or raise ``InputError``; JSON lines are read as a list of objects.

    A byte order mark is allowed.
    """
    text = read_text(path)
    if not text.strip():
        raise InputError(f"{path}: is empty; download it again")
    try:
        data = _parse(text)
        half = _HALF.search(text)
        if half:  # mostly pairs, which are whole characters
            json.dumps(data, ensure_ascii=False).encode("utf-8")
        return data
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


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        try:  # JSON lines, which the library datasets writes
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        except json.JSONDecodeError:
            rows = []
        if len(rows) < 2 or not all(isinstance(row, dict) for row in rows):
            raise
        return rows


def is_squad(data: object) -> bool:
    """Whether parsed JSON has one of SQuAD's shapes: ``{"data": [...]}``, or what is in its list.

    That is a list of articles, of paragraphs, or of rows that bring their own context, as the
    libraries datasets and simpletransformers have them.
    """
    if isinstance(data, dict):
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
    return parse_questions(read_json(path), path, kind=kind, answers=answers, odd=odd)


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
            f"{path}: question {without[0]!r}: field 'exact_answer' is missing "
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


def read_answers(path: str | Path) -> tuple[dict[str, list[str]], list[str]]:
    """Read a system's factoid answers as the official evaluator does: id -> ranked strings.

    Only the first string of each inner list counts; empty inner lists are dropped, so later
    answers move up; "" and duplicates hold their rank (BioASQ evaluator, edition 5). The second
    value lists what was out of the ordinary, one remark a kind. Non-factoid entries are skipped.
    """
    ranked: dict[str, list[str]] = {}
    odd: dict[str, list[str]] = {}
    for number, item in enumerate(raw_questions(read_json(path), path), 1):
        if not isinstance(item, dict):
            raise InputError(f"{path}: question {number} is not an object; the file is damaged")
        where = place_of(path, item, number)
        question_id = get(item, "id", str, where)
        if item.get("type", "factoid") != "factoid":
            continue
        if question_id in ranked:
            odd.setdefault("id occurs again, its first answers count", []).append(question_id)
            continue
        answer = item.get("exact_answer")
        if isinstance(answer, str):
            answer = [answer]
        if isinstance(answer, list) and any(isinstance(entry, str) for entry in answer):
            flat = "'exact_answer' is not a list of lists, each string counts"
            odd.setdefault(flat, []).append(question_id)
            answer = [[entry] if isinstance(entry, str) else entry for entry in answer]
        if not isinstance(answer or [], list) or not all(
            isinstance(entry, list) and all(isinstance(text, str) for text in entry)
            for entry in answer or []
        ):
            raise InputError(f"{where}: field 'exact_answer' must be a list of lists of strings")
        ranked[question_id] = [entry[0] for entry in answer or [] if entry]
        if not ranked[question_id]:
            odd.setdefault("no answer, counted as wrong", []).append(question_id)
        elif len(ranked[question_id]) > MAX_ANSWERS:
            odd.setdefault("more answers than the 5 the task allows", []).append(question_id)
    return ranked, [f"{path}: {what}: {some_ids(ids)}" for what, ids in odd.items()]
