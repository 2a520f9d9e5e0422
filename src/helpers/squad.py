"""BioASQ questions to SQuAD examples: contexts, spans, and a reason for every dropped question.

The span rule is in ``helpers.spans``, the file format in ``helpers.squad_file``.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from helpers.bioasq import Question, read_json, read_questions, role_of
from helpers.config import CONTEXTS, InputError
from helpers.outputs import check_outputs
from helpers.spans import Span, ceiling, extra_cause, find_spans, fold, needles, strict
from helpers.squad_file import (
    Drop,
    Example,
    by_occurrence,
    read_squad,
    write_drops,
    write_ids,
    write_squad,
)

__all__ = [
    "Drop", "Example", "Span", "by_occurrence", "ceiling", "convert", "convert_files",
    "extra_cause", "find_abstract", "find_spans", "read_abstracts", "read_squad", "split_dev",
    "write_drops", "write_ids", "write_squad",
]  # fmt: skip


GOLDEN = "holds answers, so it is a golden file: more snippets than participants were given"


def convert(
    questions: Iterable[Question],
    *,
    context: str = "snippet",
    test: bool = False,
    abstracts: Mapping[str, str] | None = None,
) -> tuple[list[Example], list[Drop]]:
    """Turn questions into question-context pairs, and list the questions that gave none.

    ``context``: "snippet" (each snippet), "appended" (the distinct snippets joined by a blank) or
    "abstract" (each distinct document of the snippets, looked up in ``abstracts`` by its address
    or the address's last part). For training only distinct contexts with a span are kept; with
    ``test`` every context is, repeated snippets too, with spans where golds are known. A row's
    number in its id is its context's place in the question, so it does not depend on ``test``.
    """
    if context not in CONTEXTS:
        raise InputError(f"context: {context!r} is not one of {', '.join(CONTEXTS)}")
    if context == "abstract" and not abstracts:
        raise InputError("context 'abstract' needs abstracts; give a JSON file {document: text}")
    examples, drops = [], []
    for question in questions:
        contexts = _contexts(question, context, abstracts or {})
        wanted = needles(question.synonyms())
        folded = [fold(text) for text, _, _ in contexts]
        kept, seen = [], set()
        for row, (text, snippet, document) in enumerate(contexts):
            found = strict(folded[row], wanted)
            if not test and (not found or text in seen):
                continue
            seen.add(text)
            kept.append(
                Example(
                    f"{question.id}_{row + 1:03d}",
                    question.id,
                    question.body,
                    text,
                    tuple(Span(start, end, text[start:end]) for start, end in found),
                    snippet,
                    document,
                )
            )
        examples += kept
        if not kept:
            reason, detail = _why(question, context, wanted, folded, contexts)
            drops.append(Drop(question.id, question.body, reason, detail))
    return examples, drops


def _contexts(
    question: Question, context: str, abstracts: Mapping[str, str]
) -> list[tuple[str, int, str]]:
    snippets = question.snippets
    if context == "snippet":
        return [(snippet.text, n, snippet.document) for n, snippet in enumerate(snippets)]
    if context == "appended":
        joined = " ".join(dict.fromkeys(snippet.text for snippet in snippets))
        return [(joined, -1, "")] if joined else []
    places: dict[str, int] = {}
    for n, snippet in enumerate(snippets):
        places.setdefault(snippet.document, n)
    if not snippets:
        places = dict.fromkeys(question.documents, -1)
    found = ((document, n, find_abstract(abstracts, document)) for document, n in places.items())
    return [(text, n, document) for document, n, text in found if text]


def find_abstract(abstracts: Mapping[str, str], document: str) -> str:
    """The text for a document address, by the address or by its last part; "" when unknown."""
    return document and (abstracts.get(document) or abstracts.get(_last_part(document), ""))


def _last_part(document: str) -> str:
    return document.rstrip("/").rsplit("/", 1)[-1]


def read_abstracts(path: str | Path) -> dict[str, str]:
    """Read ``{document address or PubMed id: text}``; http and https addresses are the same."""
    data = read_json(path)
    if not isinstance(data, dict) or not data:
        raise InputError(f"{path}: not an abstracts file; expected {{document: text}}")
    abstracts = {}
    for document, text in data.items():
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{path}: document {document!r} has no text; add it or remove it")
        abstracts[document] = text
        abstracts.setdefault(_last_part(document), text)
    return abstracts


def _why(
    question: Question,
    context: str,
    wanted: set[str],
    folded: Sequence[str],
    contexts: Sequence[tuple[str, int, str]],
) -> tuple[str, str]:
    if not contexts and context == "abstract":
        return "no abstract", f"none of its documents is in the abstracts: {_documents(question)}"
    if not contexts:
        return "no snippets", ""
    if not wanted:
        return "no exact answer", ""
    for text, (original, _, _) in zip(folded, contexts, strict=True):
        for needle in sorted(wanted):
            start = text.find(needle)
            if start >= 0:
                end = start + len(needle)
                return "answer only inside a word", original[max(0, start - 20) : end + 20]
    return "answer in no context", " | ".join(question.synonyms())


def _documents(question: Question) -> str:
    return ", ".join(dict.fromkeys(s.document for s in question.snippets)) or "no documents"


def split_dev(
    examples: Sequence[Example], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Hold out whole questions: (train, dev), each in the given order.

    The questions with the smallest hash of seed and id are held out, so the choice depends on
    neither the order of the examples nor the platform. Unless ``fraction`` is 0, at least one
    question stays on each side.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"dev fraction {fraction} must be at least 0 and below 1")
    ids = {example.question_id for example in examples}
    if fraction and len(ids) < 2:
        raise InputError(
            f"dev fraction {fraction}: {len(ids)} question cannot be split; set it to 0"
        )
    count = min(max(round(fraction * len(ids)), 1), len(ids) - 1) if fraction else 0
    ranked = sorted(ids, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    held = set(ranked[:count])
    train = [example for example in examples if example.question_id not in held]
    return train, [example for example in examples if example.question_id in held]


def convert_files(
    files: Sequence[str | Path],
    output: str | Path,
    *,
    context: str = "snippet",
    abstracts: str | Path | None = None,
    drops: str | Path | None = None,
    ids: str | Path | None = None,
    dev_fraction: float = 0.0,
    seed: int = 0,
    version: str = "1.1",
    test: bool = False,
) -> str:
    """Convert BioASQ files into ``output`` (and ``<output>_dev.json``); a one-line summary.

    Everything is read and converted before the first file is written. Without ``test``, golden
    files are refused: their questions are test questions. Raises ``InputError``.
    """
    check_outputs((output,))  # its name is taken apart next
    if test and dev_fraction:
        raise InputError("dev fraction: a test input is not split; leave out one of the two")
    output = Path(output)
    dev_output = output.with_name(f"{output.stem}_dev{output.suffix}") if dev_fraction else None
    check_outputs((output, dev_output, drops, ids), (*files, abstracts))
    questions = _read_all(files, test)
    texts = read_abstracts(abstracts) if abstracts else None
    examples, dropped = convert(questions, context=context, test=test, abstracts=texts)
    if not examples:
        reasons = ", ".join(sorted({drop.reason for drop in dropped}))
        raise InputError(f"{files[0]}: no question could be converted ({reasons})")
    train, dev = split_dev(examples, dev_fraction, seed)
    rows = train if test else by_occurrence(train)
    if test and any(question.exact_answer for question in questions):
        names = ", ".join(str(file) for file in files)
        print(f"{names}: {GOLDEN}", file=sys.stderr)

    if drops:
        write_drops(drops, dropped)
    if ids:
        write_ids(ids, rows + dev)
    if dev_output:
        write_squad(dev_output, dev, version=version)
    write_squad(output, rows, version=version)
    return _summary(len(questions), rows, dev, dropped)


def _read_all(files: Sequence[str | Path], test: bool) -> list[Question]:
    questions: dict[str, Question] = {}
    for file in files:
        if not test and role_of(file) == "golden":
            raise InputError(
                f"{file}: a golden file holds test questions; add --test, "
                "or rename it if you mean to train on it"
            )
        for question in read_questions(file, answers="any" if test else "required"):
            if question.id in questions:
                raise InputError(
                    f"{file}: question {question.id!r}: id is also in another file; drop one file"
                )
            questions[question.id] = question
    return list(questions.values())


def _summary(total: int, rows: list[Example], dev: list[Example], dropped: list[Drop]) -> str:
    held = f", held out: {len(dev)} pairs" if dev else ""
    reasons = Counter(drop.reason for drop in dropped).most_common()
    why = "".join(f"; {reason}: {count}" for reason, count in reasons)
    kept = total - len(dropped)
    return f"{len(rows)} rows{held}; {kept} of {total} questions, {len(dropped)} dropped{why}"
