"""BioASQ questions to SQuAD examples: contexts, spans, and a reason for every dropped question.

The strict rule is in ``spans``, the file format in ``squad``, the reasons for dropped questions in
``misses``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tqdm import tqdm

from helpers.config import CONTEXTS, InputError
from helpers.data.contexts import Context, contexts_of
from helpers.data.misses import why_dropped
from helpers.data.schema import Question
from helpers.data.spans import Span, fold, lacks, needles, strict
from helpers.data.squad import (
    Drop,
    Example,
)


def convert(
    questions: Iterable[Question],
    *,
    context: str = "snippet",
    test: bool = False,
    abstracts: Mapping[str, str] | None = None,
    lacking: Mapping[str, str] | None = None,
    negatives: bool = False,
) -> tuple[list[Example], list[Drop]]:
    """Turn questions into question-context pairs, and list the questions that gave none.

    ``context`` is a setting of ``contexts_of``; ``abstracts`` maps a document's address, or its
    PubMed id, to the text, ``lacking`` says why a document has none. For training, only distinct
    contexts with a span are kept; with ``negatives`` also the other contexts of a question that
    has a span, if they lack the answer in any writing (``spans.lacks``). With ``test`` every
    context is kept, repeated snippets too, with spans where golds are known. A row's number in its
    id is its context's place in the question, so it does not depend on ``test``.
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
        wanted = needles(question.synonyms())
        found = [strict(fold(c.text), wanted) for c in contexts]
        answered = any(found)
        kept = _kept(question, contexts, found, negatives and answered) if not test else found
        examples += [
            _example(question, row, contexts[row - 1], places)
            for row, places in enumerate(kept, 1)
            if places is not None
        ]
        if not (contexts if test else answered):
            drops.append(why_dropped(question, context, contexts, lacking or {}))
    return examples, drops


def _kept(
    question: Question, contexts: Sequence[Context], found: Sequence[list], negatives: bool
) -> list[list | None]:
    """The places of answers in each context to train on; None for the other contexts."""
    kept: list[list | None] = []
    seen = set()
    for context, places in zip(contexts, found, strict=True):
        wanted = places or (negatives and lacks(context.text, question.synonyms()))
        kept.append(places if wanted and context.text not in seen else None)
        seen.add(context.text)
    return kept


def _example(question: Question, row: int, context: Context, places: Sequence) -> Example:
    spans = tuple(Span(start, end, context.text[start:end]) for start, end in places)
    return Example(
        f"{question.id}_{row:03d}",
        question.id,
        question.body,
        context.text,
        spans,
        context.snippet,
        context.document,
        context.parts,
    )
