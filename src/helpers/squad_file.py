"""SQuAD files: examples in and out, the id map, the drop report."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

from helpers.bioasq import is_squad, read_json
from helpers.config import InputError
from helpers.outputs import write_text
from helpers.spans import Span

_ROW = re.compile(r"(.+)_(\d{3,})", re.DOTALL)  # <question id>_<row>, as in dmis-lab's files


@dataclass(frozen=True)
class Example:
    """One question-context pair. ``snippet`` is an index into the question's snippets, or -1.

    ``rung`` names the looser match that found the spans, "" for the strict rule.
    """

    id: str
    question_id: str
    question: str
    context: str
    spans: tuple[Span, ...] = ()
    snippet: int = -1
    document: str = ""
    rung: str = ""


@dataclass(frozen=True)
class Drop:
    """A question that gave no example, and why.

    ``nearest`` quotes what comes nearest to an answer, from the snippet of that index (-1: the
    joined snippets); ``rung`` is the looser match that would accept it, "" when none does;
    ``likeness`` is 0 to 1, see ``misses.nearest``.
    """

    question_id: str
    question: str
    reason: str
    detail: str = ""
    nearest: str = ""
    snippet: int = -1
    rung: str = ""
    likeness: float = 0.0


def by_occurrence(examples: Iterable[Example]) -> list[Example]:
    """One example a span, numbered anew within the question; an example without spans stays one.

    So the public 7b training file is built: an answer weighs as often as it occurs.
    """
    numbers: Counter[str] = Counter()
    rows = []
    for example in examples:
        for spans in [(span,) for span in example.spans] or [()]:
            numbers[example.question_id] += 1
            row_id = f"{example.question_id}_{numbers[example.question_id]:03d}"
            rows.append(replace(example, id=row_id, spans=spans))
    return rows


def by_pair(rows: Iterable[Example]) -> list[Example]:
    """One row a question-context pair, with the spans of all its rows and the first one's id."""
    pairs: dict[tuple[str, str], Example] = {}
    for row in rows:
        first = pairs.setdefault((row.question_id, row.context), row)
        spans = sorted({*first.spans, *row.spans}, key=lambda span: (span.start, span.end))
        pairs[row.question_id, row.context] = replace(first, spans=tuple(spans))
    return list(pairs.values())


def write_squad(
    path: str | Path, examples: Iterable[Example], *, rows: str = "pair", version: str = "1.1"
) -> Path:
    """Write a SQuAD file; ``answers`` is always present, as ``[]`` where there is no span.

    ``rows="pair"``: one row an example, all its spans as answers. ``rows="occurrence"``: one row a
    span, see ``by_occurrence``. ``version`` "2.0" adds ``is_impossible``, true without a span.
    """
    if rows not in ("pair", "occurrence") or version not in ("1.1", "2.0"):
        raise ValueError(f"rows={rows!r}, version={version!r}")
    if rows == "occurrence":
        examples = by_occurrence(examples)
    paragraphs = [
        f'    {{\n     "context": {_quoted(context)},\n     "qas": [\n'
        + ",\n".join(_row(example, version) for example in group)
        + "\n     ]\n    }"
        for (_, context), group in groupby(examples, lambda row: (row.question_id, row.context))
    ]
    inside = "[\n" + ",\n".join(paragraphs) + "\n   ]" if paragraphs else "[]"
    return write_text(
        path,
        f'{{\n "version": {_quoted(version)},\n "data": [\n  {{\n   "title": "BioASQ",\n'
        f'   "paragraphs": {inside}\n  }}\n ]\n}}\n',
    )


# Laid out as ``write_json`` does it, but by hand: json's own indentation is pure Python and took
# half the time of a whole conversion.
_quoted = json.JSONEncoder(ensure_ascii=False).encode


def _row(example: Example, version: str) -> str:
    answers = ",\n".join(
        f'        {{\n         "text": {_quoted(s.text)},\n         "answer_start": {s.start}\n'
        "        }"
        for s in example.spans
    )
    fields = [
        f'"id": {_quoted(example.id)}',
        f'"question": {_quoted(example.question)}',
        f'"answers": [\n{answers}\n       ]' if answers else '"answers": []',
    ]
    if version == "2.0":
        fields.append(f'"is_impossible": {"false" if example.spans else "true"}')
    inside = ",\n".join(f"       {field}" for field in fields)
    return f"      {{\n{inside}\n      }}"


def read_squad(path: str | Path) -> list[Example]:
    """Read a SQuAD v1.1 or v2.0 file, ours or dmis-lab's: one example per row of ``qas``.

    ``answers`` may be missing. Each answer is compared with its context character by character,
    and ids must be unique. A row's question is its id up to ``_<3 digits>``.
    """
    return parse_squad(read_json(path), path)


def parse_squad(data: object, path: str | Path) -> list[Example]:
    """``read_squad`` for the parsed content of ``path``."""
    if not is_squad(data):
        raise InputError(f"{path}: not a SQuAD file (no list 'data' at the top)")
    examples, seen = [], set()
    try:
        for article in data["data"]:
            for paragraph in article["paragraphs"]:
                for row in paragraph["qas"]:
                    example = _read_row(path, row, paragraph["context"], article.get("title", ""))
                    if example.id in seen:
                        raise InputError(f"{path}: question {example.id!r}: id occurs twice")
                    seen.add(example.id)
                    examples.append(example)
    except (KeyError, TypeError, AttributeError) as error:
        after = f" after question {examples[-1].id!r}" if examples else ""
        raise InputError(f"{path}: not in SQuAD format{after} ({error}); rebuild it") from None
    if not examples:
        raise InputError(f"{path}: has no questions; rebuild it")
    return examples


def _read_row(path: str | Path, row: dict, context: str, title: str) -> Example:
    where = f"{path}: question {row.get('id')!r}"
    for name, text in (("id", row["id"]), ("question", row["question"]), ("context", context)):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: field {name!r} is empty or no text; fix or remove the row")
    spans = set()
    for answer in row.get("answers") or ():
        start, text = answer["answer_start"], answer["text"]
        if not text or start < 0 or context[start : start + len(text)] != text:
            raise InputError(
                f"{where}: answer {text!r} is not at character {start} of its context; rebuild it"
            )
        spans.add((start, start + len(text), text))
    match = _ROW.fullmatch(row["id"])
    question_id = match[1] if match else row["id"]
    ordered = tuple(Span(*span) for span in sorted(spans))
    return Example(row["id"], question_id, row["question"], context, ordered, -1, title)


def write_ids(path: str | Path, examples: Iterable[Example]) -> Path:
    """Write the id map as JSON lines: row id -> question, snippet, document, span offsets.

    Offsets are characters of the row's context. Rows whose spans a looser match found name it.
    """
    return _write_lines(
        path,
        (
            {
                "id": example.id,
                "question_id": example.question_id,
                "snippet": example.snippet,
                "document": example.document,
                "spans": [[span.start, span.end] for span in example.spans],
            }
            | ({"rung": example.rung} if example.rung else {})
            for example in examples
        ),
    )


def write_drops(path: str | Path, drops: Iterable) -> Path:
    """Write the dropped questions and their reasons (or the leaks) as JSON lines, one each."""
    return _write_lines(path, map(asdict, drops))


def _write_lines(path: str | Path, rows: Iterable[dict]) -> Path:
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
