"""Read and write SQuAD files, the id map, and the drop report."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

from helpers.config import InputError
from helpers.data.bioasq import Place, Question, Remarks, is_squad, read_json, read_questions
from helpers.data.spans import Span
from helpers.io import write_json, write_text

_ROW = re.compile(r"(?<=.)_\d{3,}\Z", re.DOTALL)  # follows the question id, as in dmis-lab's files


@dataclass(frozen=True)
class Example:
    """One question-context pair; ``snippet`` is an index into the question's snippets, or -1."""

    id: str
    question_id: str
    question: str
    context: str
    spans: tuple[Span, ...] = ()
    snippet: int = -1
    document: str = ""
    parts: tuple[tuple[int, str, int], ...] = ()  # joined context: snippet, document, offset
    impossible: bool = False  # the file states that the context has no answer


@dataclass(frozen=True)
class Drop:
    """Why a question yielded no example; ``convert.nearest`` fills the last three fields."""

    question_id: str
    question: str
    reason: str
    detail: str = ""
    nearest: str = ""  # the text most similar to an answer; see ``convert.nearest``
    snippet: int = -1  # index of the snippet with this text, or -1 for joined snippets
    likeness: float = 0.0  # similarity to the answer, from 0 to 1


def by_occurrence(examples: Iterable[Example]) -> list[Example]:
    """Return one row per span, or per example without spans, renumbered within each question.

    The public 7b training file has this form, with one row for each occurrence of an answer.
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
    """Return ``by_occurrence(rows)`` if any row has several spans, or else the unchanged rows."""
    return list(rows) if all(len(row.spans) < 2 for row in rows) else by_occurrence(rows)


def by_pair(rows: Iterable[Example]) -> list[Example]:
    """Merge the rows of each question-context pair: keep the first id and all spans."""
    pairs: dict[tuple[str, str], Example] = {}
    for row in rows:
        first = pairs.setdefault((row.question_id, row.context), row)
        spans = tuple(sorted({*first.spans, *row.spans}))
        pairs[row.question_id, row.context] = replace(first, spans=spans)
    return list(pairs.values())


def by_question(examples: Sequence[Example], candidates: Sequence[Sequence]) -> dict[str, list]:
    """Group (example, n-best list) pairs by question id, in the original order."""
    pairs: dict[str, list] = {}
    for example, nbest in zip(examples, candidates, strict=True):
        pairs.setdefault(example.question_id, []).append((example, nbest))
    return pairs


def question_texts(examples: Iterable[Example]) -> dict[str, str]:
    """Map question ids to question texts."""
    return {example.question_id: example.question for example in examples}


def answered_rows(
    rows: Sequence[Example], *, negatives: bool = False
) -> tuple[list[Example], list[Drop]]:
    """Return the rows of a SQuAD file to train on, and the questions without any answered row.

    With ``negatives``, we also keep the unanswered rows of questions that have an answered row.
    """
    answered = {row.question_id for row in rows if row.spans}
    kept = [row for row in rows if row.spans or (negatives and row.question_id in answered)]
    without = question_texts(row for row in rows if row.question_id not in answered)
    return kept, [Drop(name, text, "no answer in the SQuAD file") for name, text in without.items()]


def write_squad(
    path: str | Path,
    rows: Iterable[Example],
    *,
    version: str = "1.1",
    unknown: Collection[str] = (),
) -> Path:
    """Write a SQuAD file; ``answers`` is always present, but empty if there is no span.

    ``version`` "2.0" adds the field ``is_impossible``, which is true for rows without a span. We
    omit the field if it is unknown whether there is an answer, that is, if the row has no span, is
    not marked ``impossible``, and has a question id in ``unknown``.
    """

    def as_json(row: Example) -> dict:
        answers = [{"text": span.text, "answer_start": span.start} for span in row.spans]
        fields = {"id": row.id, "question": row.question, "answers": answers}
        known = row.spans or row.impossible or row.question_id not in unknown
        return fields | ({"is_impossible": not answers} if version == "2.0" and known else {})

    paragraphs = [
        {"context": context, "qas": [as_json(row) for row in group]}
        for (_, context), group in groupby(rows, lambda row: (row.question_id, row.context))
    ]
    data = [{"title": "BioASQ", "paragraphs": paragraphs}]
    return write_json(path, {"version": version, "data": data})


def read_squad(
    path: str | Path, remarks: Remarks | None = None, data: object = None
) -> list[Example]:
    """Read a SQuAD v1.1 or v2.0 file, from the kit or dmis-lab: one example per row of ``qas``.

    We also read the flat rows and column-wise answers that the datasets and simpletransformers
    libraries write. ``answers`` may be missing; each answer must be in its context at the given
    offset. Ids must be unique. The question id is the row id without the final ``_<3 digits>`` if
    all rows with this prefix ask the same question, as in BioASQ files. Otherwise (train_0001,
    train_0002, ...), each row is a separate question. If you have already read the file, pass its
    parsed JSON as ``data``.
    """
    remarks = Remarks() if remarks is None else remarks
    data = read_json(path, remarks) if data is None else data
    if not is_squad(data):
        raise InputError(f"{path}: not a SQuAD file (no top-level list 'data'); give one")
    examples: dict[str, Example] = {}
    for where, row, context in _rows(data, path):
        example = _read_row(row, context, Place(where, None, remarks), path)
        if examples.setdefault(example.id, example) is not example:
            raise InputError(
                f"{path}: question {example.id!r}: id occurs twice; rename one of them"
            )
    if not examples:
        raise InputError(f"{path}: contains no questions; rebuild it")
    rows = list(examples.values())
    wordings = Counter(name for name, _ in {(row.question_id, row.question) for row in rows})
    return [row if wordings[row.question_id] == 1 else replace(row, question_id=row.id)
            for row in rows]  # fmt: skip


def read_any(
    path: str | Path, *, answers: str = "any", remarks: Remarks | None = None
) -> tuple[list[Question], list[Example]]:
    """Read the questions of a BioASQ file or the rows of a SQuAD file; the other list is empty."""
    remarks = Remarks() if remarks is None else remarks
    data = read_json(path, remarks)
    if is_squad(data):
        return [], read_squad(path, remarks, data)
    return read_questions(path, answers=answers, remarks=remarks, data=data), []


def _rows(data: object, path: str | Path) -> Iterator[tuple[str, object, object]]:
    """Yield the location, content, and context of every row, at any depth in the file."""
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


def _check_object(item: object, where: str) -> None:
    if not isinstance(item, dict):
        raise InputError(f"{where} is not an object; rebuild it in SQuAD format")


def _part(item: object, name: str, where: str) -> list:
    _check_object(item, where)
    if not isinstance(item.get(name), list):
        raise InputError(f"{where}: field {name!r} is not a list; rebuild it in SQuAD format")
    return item[name]


def _read_row(row: object, context: object, place: Place, path: str | Path) -> Example:
    _check_object(row, place.where)
    row_id, question = row.get("id"), row.get("question")
    row_id = str(row_id) if type(row_id) is int else row_id  # as in COVID-QA
    if row_id:
        place = replace(place, where=f"{path}: question {row_id!r}", id=row_id)
    for name, text in (("id", row_id), ("question", question), ("context", context)):
        if not isinstance(text, str) or not text.strip():
            raise place.error(name, "is empty or not a string; fix or remove the row")
    spans = _read_answers(row.get("answers"), context, place)
    impossible = row.get("is_impossible")
    if impossible not in (None, True, False):
        raise place.error("is_impossible", "is neither true nor false; fix the row")
    if impossible and spans:
        problem = "is true, but 'answers' is not empty; remove the answers or the flag"
        raise place.error("is_impossible", problem)
    if impossible is False and not spans:
        place.remark("field 'is_impossible' is false, but there is no answer")
    question_id = _ROW.sub("", row_id)
    return Example(row_id, question_id, question, context, spans, impossible=bool(impossible))


def _read_answers(answers: object, context: str, place: Place) -> tuple[Span, ...]:
    if isinstance(answers, dict):  # columns, as the datasets library writes them
        texts, starts = answers.get("text"), answers.get("answer_start")
        if isinstance(texts, str):  # a single answer, as written by simpletransformers
            texts, starts = [texts], [starts]
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            problem = "is an object without lists 'text' and 'answer_start' of equal length"
            raise place.error("answers", f"{problem}; rebuild the row")
        pairs = zip(texts, starts, strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
    if not isinstance(answers or [], list):
        raise place.error("answers", "is not a list; rebuild the row")
    spans = set()
    for answer in answers or []:
        if not isinstance(answer, dict):
            raise place.error("answers", "must contain objects; rebuild the row")
        start, text = answer.get("answer_start"), answer.get("text")
        if not isinstance(text, str):
            raise place.error("text", "of an answer is not a string; rebuild the row")
        if type(start) is not int:
            problem = f"of answer {text!r} is not an integer; rebuild the row"
            raise place.error("answer_start", problem)
        spans.add(_locate(text, start, context, place))
    return tuple(sorted(spans))


def _locate(text: str, start: int, context: str, place: Place) -> Span:
    """Return an answer's span without outer whitespace; ``start`` may point to whitespace."""
    bare = text.strip()
    if not bare:
        raise InputError(f"{place.where}: answer {text!r} has no text; remove or rebuild it")
    rest = context[max(start, 0) :]
    at = start if rest.startswith(bare) else start + len(rest) - len(rest.lstrip())
    if start < 0 or not context.startswith(bare, at):
        found = context.find(bare)
        hint = f" (it first occurs at character {found})" if found >= 0 else ""
        raise InputError(
            f"{place.where}: answer {text!r} is not at character {start} of its context{hint}; "
            "rebuild it"
        )
    if bare != text:
        place.remark("an answer has leading or trailing whitespace, which is removed")
    elif at != start:
        place.remark("field 'answer_start' points to whitespace before the answer; we skip it")
    return Span(at, at + len(bare), bare)


def write_ids(path: str | Path, rows: Iterable[Example]) -> Path:
    """Write the id map as JSON lines: row id -> question, snippet, document, span offsets.

    Offsets are character positions in the row's context. A row with a joined context also lists its
    ``snippets``.
    """

    def as_json(row: Example) -> dict:
        line = {name: getattr(row, name) for name in ("id", "question_id", "snippet", "document")}
        line["spans"] = [[span.start, span.end] for span in row.spans]
        parts = [{"snippet": n, "document": name, "offset": at} for n, name, at in row.parts]
        return line | ({"snippets": parts} if parts else {})

    return _write_lines(path, map(as_json, rows))


def write_drops(path: str | Path, drops: Iterable) -> Path:
    """Write dropped questions (with reasons) or leaks as JSON lines, one line per question."""
    return _write_lines(path, map(asdict, drops))


def _write_lines(path: str | Path, rows: Iterable[dict]) -> Path:
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
