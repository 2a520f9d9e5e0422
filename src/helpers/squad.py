"""BioASQ questions to SQuAD examples: contexts, spans, and a reason for every dropped question.

The strict rule is in ``helpers.spans``, looser ones in ``ladder``, the file format in
``squad_file``, the reasons in ``misses``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tqdm import tqdm

from helpers.bioasq import Question
from helpers.config import CONTEXTS, RUNGS, InputError
from helpers.contexts import Context, contexts_of, find_abstract, read_abstracts
from helpers.ladder import Ladder, Match
from helpers.misses import why_dropped
from helpers.spans import Span, ceiling, extra_cause, find_spans
from helpers.split import split_dev
from helpers.squad_file import (
    Drop,
    Example,
    by_occurrence,
    by_pair,
    one_span_rows,
    read_squad,
    write_drops,
    write_ids,
    write_squad,
)

__all__ = [
    "Drop", "Example", "Span", "by_occurrence", "by_pair", "ceiling", "convert", "extra_cause",
    "find_abstract", "find_spans", "one_span_rows", "read_abstracts", "read_squad", "split_dev",
    "write_drops", "write_ids", "write_squad",
]  # fmt: skip


def convert(
    questions: Iterable[Question],
    *,
    context: str = "snippet",
    test: bool = False,
    abstracts: Mapping[str, str] | None = None,
    lacking: Mapping[str, str] | None = None,
    rungs: Sequence[str] = (),
    negatives: bool = False,
) -> tuple[list[Example], list[Drop]]:
    """Turn questions into question-context pairs, and list the questions that gave none.

    ``context`` is a setting of ``contexts_of``; ``abstracts`` maps a document's address, or its
    PubMed id, to the text, ``lacking`` says why a document has none. ``rungs`` are looser matches
    for contexts in which the strict rule finds nothing, see ``ladder``. For training only distinct
    contexts with a span are kept; with ``negatives`` also the others of a question that has a
    span, unless some rung of the whole ladder finds an answer in them. With ``test`` every context
    is kept, repeated snippets too, with spans where golds are known. A row's number in its id is
    its context's place in the question, so it does not depend on ``test``.
    """
    if context not in CONTEXTS:
        raise InputError(f"context: {context!r} is not one of {', '.join(CONTEXTS)}")
    if context == "abstract" and not abstracts:
        raise InputError(
            "context 'abstract' needs abstracts, and none were given; give a file abstracts.json "
            "with {document address or PubMed id: text} (--abstracts FILE), or another context"
        )
    examples, drops = [], []
    # A bar only where it takes more than a few seconds.
    for question in tqdm(questions, desc="converting", unit="question", delay=3, mininterval=1):
        contexts = contexts_of(question, context, abstracts)
        ladder = Ladder(question.synonyms(), rungs)
        found = [ladder.find(c.text) for c in contexts]
        answered = any(match.spans for match in found)
        kept = _kept(question, contexts, found, negatives and answered) if not test else found
        examples += [
            _example(question, row, contexts[row - 1], match)
            for row, match in enumerate(kept, 1)
            if match is not None
        ]
        if not (contexts if test else answered):
            drops.append(why_dropped(question, context, contexts, lacking or {}))
    return examples, drops


def _kept(
    question: Question, contexts: Sequence[Context], found: Sequence[Match], negatives: bool
) -> list[Match | None]:
    """The matches of the contexts to train on; None for the others."""
    anything = Ladder(question.synonyms(), RUNGS) if negatives else None
    kept: list[Match | None] = []
    seen = set()
    for context, match in zip(contexts, found, strict=True):
        wanted = match.spans or (anything and not anything.climb(context.text).spans)
        kept.append(match if wanted and context.text not in seen else None)
        seen.add(context.text)
    return kept


def _example(question: Question, row: int, context: Context, match: Match) -> Example:
    spans = tuple(Span(start, end, context.text[start:end]) for start, end in match.spans)
    return Example(
        f"{question.id}_{row:03d}",
        question.id,
        question.body,
        context.text,
        spans,
        context.snippet,
        context.document,
        match.rung,
        context.parts,
    )
