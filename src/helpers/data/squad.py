"""SQuAD files: examples in and out, the id map, the drop report."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from helpers.config import InputError
from helpers.data.bioasq import Oddities, is_squad, read_json
from helpers.data.spans import Span
from helpers.io import write_text

_ROW = re.compile(r"(.+)_(\d{3,})", re.DOTALL)  # <question id>_<row>, as in dmis-lab's files


@dataclass(frozen=True)
class Example:
    """One question-context pair. ``snippet`` is an index into the question's snippets, or -1.

    ``parts`` are the snippets of a joined context: index, document, and offset of the text in the
    context. ``impossible`` says that the file it was read from marks its context as without answer.
    """

    id: str
    question_id: str
    question: str
    context: str
    spans: tuple[Span, ...] = ()
    snippet: int = -1
    document: str = ""
    parts: tuple[tuple[int, str, int], ...] = ()
    impossible: bool = False


@dataclass(frozen=True)
class Drop:
    """A question that gave no example, and why.

    ``nearest`` quotes what comes nearest to an answer, from the snippet of that index (-1: the
    joined snippets); ``likeness`` is 0 to 1, see ``misses.nearest``.
    """

    question_id: str
    question: str
    reason: str
    detail: str = ""
    nearest: str = ""
    snippet: int = -1
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


def one_span_rows(rows: Sequence[Example]) -> list[Example]:
    """``by_occurrence`` for the rows of a SQuAD file: rows that are so already keep their ids."""
    return list(rows) if all(len(row.spans) < 2 for row in rows) else by_occurrence(rows)


def by_pair(rows: Iterable[Example]) -> list[Example]:
    """One row a question-context pair, with the spans of all its rows and the first one's id."""
    pairs: dict[tuple[str, str], Example] = {}
    for row in rows:
        first = pairs.setdefault((row.question_id, row.context), row)
        spans = sorted({*first.spans, *row.spans}, key=lambda span: (span.start, span.end))
        pairs[row.question_id, row.context] = replace(first, spans=tuple(spans))
    return list(pairs.values())


def write_squad(
    path: str | Path,
    examples: Iterable[Example],
    *,
    rows: str = "pair",
    version: str = "1.1",
    unknown: Collection[str] = (),
) -> Path:
    """Write a SQuAD file; ``answers`` is always present, as ``[]`` where there is no span.

    ``rows="pair"``: one row an example, all its spans as answers. ``rows="occurrence"``: one row a
    span, see ``by_occurrence``. ``version`` "2.0" adds ``is_impossible``, true without a span; not
    where nobody knows, which is so for rows without a span of questions whose ids are ``unknown``,
    unless they are ``impossible``.
    """
    if rows not in ("pair", "occurrence") or version not in ("1.1", "2.0"):
        raise ValueError(f"rows={rows!r}, version={version!r}")
    if rows == "occurrence":
        examples = by_occurrence(examples)
    paragraphs = [
        f'    {{\n     "context": {_quoted(context)},\n     "qas": [\n'
        + ",\n".join(
            _row(e, version == "2.0" and (e.spans or e.impossible or e.question_id not in unknown))
            for e in group
        )
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


def _row(example: Example, flagged: object) -> str:
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
    if flagged:
        fields.append(f'"is_impossible": {"false" if example.spans else "true"}')
    inside = ",\n".join(f"       {field}" for field in fields)
    return f"      {{\n{inside}\n      }}"


def read_squad(path: str | Path, odd: Oddities | None = None) -> list[Example]:
    """Read a SQuAD v1.1 or v2.0 file, ours or dmis-lab's: one example per row of ``qas``.

    The flat rows and column-wise answers of the libraries datasets and simpletransformers are read
    too. ``answers`` may be missing. Each answer is compared with its context character by
    character; space around it is no part of it (noted in ``odd``). Ids must be unique. A row's
    question is its id up to ``_<3 digits>`` where all rows with this beginning ask the same, as in
    BioASQ files; otherwise (train_0001, train_0002, ...) each row is a question of its own.
    """
    return parse_squad(read_json(path, odd), path, odd)


def parse_squad(data: object, path: str | Path, odd: Oddities | None = None) -> list[Example]:
    """``read_squad`` for the parsed content of ``path``."""
    if not is_squad(data):
        raise InputError(f"{path}: not a SQuAD file (no list 'data' at the top)")
    odd = Oddities() if odd is None else odd
    examples, seen = [], set()
    for where, row, context in _rows(data, path):
        example = _read_row(path, row, context, where, odd)
        if example.id in seen:
            raise InputError(
                f"{path}: question {example.id!r}: id occurs twice; rename one of them"
            )
        seen.add(example.id)
        examples.append(example)
    if not examples:
        raise InputError(f"{path}: has no questions; rebuild it")
    return _own_questions(examples)


def _rows(data: object, path: str | Path) -> Iterator[tuple[str, object, object]]:
    """(place, row, context) of every row, however deep the file has it."""
    if isinstance(data, dict):
        data = data.get("data", [data])
    for n, article in enumerate(data, 1):
        flat = isinstance(article, dict) and "paragraphs" not in article and "context" in article
        paragraphs = [article] if flat else _part(article, "paragraphs", f"{path}: article {n}")
        for m, paragraph in enumerate(paragraphs, 1):
            if flat and "qas" not in paragraph:
                yield f"{path}: row {n}", paragraph, paragraph["context"]
                continue
            where = f"{path}: paragraph {n}" if flat else f"{path}: article {n}, paragraph {m}"
            for k, row in enumerate(_part(paragraph, "qas", where), 1):
                yield f"{where}, row {k}", row, paragraph.get("context")


def _own_questions(examples: list[Example]) -> list[Example]:
    """The row id as the question's id where rows of one beginning ask different things."""
    wording: dict[str, str] = {}
    several = {
        row.question_id
        for row in examples
        if wording.setdefault(row.question_id, row.question) != row.question
    }
    if not several:
        return examples
    return [
        replace(row, question_id=row.id) if row.question_id in several else row for row in examples
    ]


def _part(item: object, name: str, where: str) -> list:
    if not isinstance(item, dict):
        raise InputError(f"{where} is not an object, so not in SQuAD format; rebuild it")
    if not isinstance(item.get(name), list):
        raise InputError(f"{where}: field {name!r} is not a list; rebuild it in SQuAD format")
    return item[name]


def _read_row(path: str | Path, row: object, context: object, where: str, odd: Oddities) -> Example:
    if not isinstance(row, dict):
        raise InputError(f"{where} is not an object, so not in SQuAD format; rebuild it")
    row_id = row.get("id")
    if type(row_id) is int:  # COVID-QA and others
        row_id = str(row_id)
    where = f"{path}: question {row_id!r}" if row_id else where
    for name, text in (("id", row_id), ("question", row.get("question")), ("context", context)):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: field {name!r} is empty or no text; fix or remove the row")
    match = _ROW.fullmatch(row_id)
    question_id = match[1] if match else row_id
    spans = _read_answers(row.get("answers"), context, where, partial(odd.add, question_id=row_id))
    impossible = row.get("is_impossible")
    if impossible not in (None, True, False):
        raise InputError(f"{where}: field 'is_impossible' is neither true nor false; fix the row")
    if impossible and spans:
        raise InputError(
            f"{where}: field 'is_impossible' is true, and 'answers' is not empty; "
            "remove the answers or the flag"
        )
    if impossible is False and not spans:
        odd.add("field 'is_impossible' is false, and there is no answer", row_id)
    return Example(
        row_id, question_id, row["question"], context, spans, impossible=bool(impossible)
    )


def _read_answers(
    answers: object, context: str, where: str, note: Callable[[str], None]
) -> tuple[Span, ...]:
    if isinstance(answers, dict):
        answers = _by_answer(answers, where)
    if not isinstance(answers or [], list):
        raise InputError(f"{where}: field 'answers' is not a list; rebuild the row")
    spans = set()
    for answer in answers or ():
        if not isinstance(answer, dict):
            raise InputError(f"{where}: field 'answers' holds no objects; rebuild the row")
        start, text = answer.get("answer_start"), answer.get("text")
        if not isinstance(text, str):
            raise InputError(f"{where}: field 'text' of an answer is no text; rebuild the row")
        if type(start) is not int:
            raise InputError(
                f"{where}: field 'answer_start' of answer {text!r} is no whole number; "
                "rebuild the row"
            )
        spans.add(_place(text, start, context, where, note))
    return tuple(Span(*span) for span in sorted(spans))


def _by_answer(columns: dict, where: str) -> list[dict]:
    """The answers of the library datasets, ``{"text": [...], "answer_start": [...]}``, as a list.

    simpletransformers and others have a single answer there, as an object.
    """
    texts, starts = columns.get("text"), columns.get("answer_start")
    if isinstance(texts, str):
        texts, starts = [texts], [starts]
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise InputError(
            f"{where}: field 'answers' is an object without two equally long lists 'text' and "
            "'answer_start'; rebuild the row"
        )
    return [{"text": text, "answer_start": at} for text, at in zip(texts, starts, strict=True)]


def _place(
    text: str, start: int, context: str, where: str, note: Callable[[str], None]
) -> tuple[int, int, str]:
    """Start, end and text of an answer without the space around it.

    ``answer_start`` may be the place of the leading space or of the first character behind it:
    nothing but space lies between, so only one place is meant.
    """
    bare = text.strip()
    if not bare:
        raise InputError(f"{where}: answer {text!r} holds no text; remove it or rebuild the row")
    behind = context[max(start, 0) :]
    at = start if behind.startswith(bare) else start + len(behind) - len(behind.lstrip())
    if start < 0 or not context.startswith(bare, at):
        found = context.find(bare)
        hint = f" (its first place there is {found})" if found >= 0 else ""
        raise InputError(
            f"{where}: answer {text!r} is not at character {start} of its context{hint}; rebuild it"
        )
    if bare != text:
        note("an answer has space around it, which is left out")
    elif at != start:
        note("field 'answer_start' points to space before the answer, which is skipped")
    return at, at + len(bare), bare


def write_ids(path: str | Path, examples: Iterable[Example]) -> Path:
    """Write the id map as JSON lines: row id -> question, snippet, document, span offsets.

    Offsets are characters of the row's context. A joined context has ``snippets``, the index,
    document and offset of each.
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
            | ({"snippets": [_snippet(*part) for part in example.parts]} if example.parts else {})
            for example in examples
        ),
    )


def _snippet(number: int, document: str, offset: int) -> dict:
    return {"snippet": number, "document": document, "offset": offset}


def write_drops(path: str | Path, drops: Iterable) -> Path:
    """Write the dropped questions and their reasons (or the leaks) as JSON lines, one each."""
    return _write_lines(path, map(asdict, drops))


def _write_lines(path: str | Path, rows: Iterable[dict]) -> Path:
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def by_question(examples: Sequence[Example], candidates: Sequence[Sequence]) -> dict[str, list]:
    """Question id -> its (example, n-best) pairs, in their order."""
    pairs: dict[str, list] = {}
    for example, nbest in zip(examples, candidates, strict=True):
        pairs.setdefault(example.question_id, []).append((example, nbest))
    return pairs
