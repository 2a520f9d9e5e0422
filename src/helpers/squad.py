"""BioASQ questions to SQuAD examples: contexts, spans, and a reason for every dropped question.

The span rule is in ``helpers.spans``, the file format in ``helpers.squad_file``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from helpers.bioasq import Question
from helpers.config import CONTEXTS, InputError
from helpers.contexts import (
    Context,
    contexts_of,
    documents_of,
    find_abstract,
    read_abstracts,
)
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
    "Drop", "Example", "Span", "by_occurrence", "ceiling", "convert", "extra_cause",
    "find_abstract", "find_spans", "read_abstracts", "read_squad", "split_dev",
    "write_drops", "write_ids", "write_squad",
]  # fmt: skip


def convert(
    questions: Iterable[Question],
    *,
    context: str = "snippet",
    test: bool = False,
    abstracts: Mapping[str, str] | None = None,
    lacking: Mapping[str, str] | None = None,
) -> tuple[list[Example], list[Drop]]:
    """Turn questions into question-context pairs, and list the questions that gave none.

    ``context`` is a setting of ``contexts_of``; ``abstracts`` maps a document's address, or its
    last part, to the text, ``lacking`` says why a document has none. For training only distinct
    contexts with a span are kept; with ``test`` every context is, repeated snippets too, with
    spans where golds are known. A row's number in its id is its context's place in the question,
    so it does not depend on ``test``.
    """
    if context not in CONTEXTS:
        raise InputError(f"context: {context!r} is not one of {', '.join(CONTEXTS)}")
    if context == "abstract" and not abstracts:
        raise InputError("context 'abstract' needs abstracts; give a JSON file {document: text}")
    examples, drops = [], []
    for question in questions:
        contexts = contexts_of(question, context, abstracts)
        wanted = needles(question.synonyms())
        folded = [fold(c.text) for c in contexts]
        kept, seen = [], set()
        for row, c in enumerate(contexts):
            found = strict(folded[row], wanted)
            if not test and (not found or c.text in seen):
                continue
            seen.add(c.text)
            spans = tuple(Span(start, end, c.text[start:end]) for start, end in found)
            name = f"{question.id}_{row + 1:03d}"
            kept.append(
                Example(name, question.id, question.body, c.text, spans, c.snippet, c.document)
            )
        examples += kept
        if not kept:
            reason, detail = _why(question, context, wanted, folded, contexts, lacking or {})
            drops.append(Drop(question.id, question.body, reason, detail))
    return examples, drops


def _why(
    question: Question,
    context: str,
    wanted: set[str],
    folded: Sequence[str],
    contexts: Sequence[Context],
    lacking: Mapping[str, str],
) -> tuple[str, str]:
    if not contexts and context == "abstract":
        documents = [d for d, _ in documents_of(question) if d]
        told = (f"{d} ({lacking[d]})" if d in lacking else d for d in documents)
        return "no abstract", f"none of its documents has one: {', '.join(told) or 'no documents'}"
    if not contexts:
        return "no snippets", ""
    if not wanted:
        return "no exact answer", ""
    for text, original in zip(folded, contexts, strict=True):
        for needle in sorted(wanted):
            start = text.find(needle)
            if start >= 0:
                end = start + len(needle)
                return "answer only inside a word", original.text[max(0, start - 20) : end + 20]
    return "answer in no context", " | ".join(question.synonyms())


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
