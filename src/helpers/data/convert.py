"""BioASQ questions to SQuAD examples: contexts, spans, and a reason for every dropped question.

The strict rule is in ``spans``, the file format in ``squad``, the reasons for dropped questions in
``misses``.

Why a question gave no example, and the place in its texts that comes nearest to an answer.

What the model reads beside a question: each snippet, the snippets joined, or full abstracts.

The three settings are dmis-lab's (snippet-as-is, appended-snippet, full-abstract); a score is
comparable only with scores made under the same one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from operator import itemgetter
from pathlib import Path

from tqdm import tqdm

from helpers.config import CONTEXTS, InputError
from helpers.data.bioasq import Question, read_json
from helpers.data.spans import Span, fold, lacks, needles, strict
from helpers.data.squad import (
    Drop,
    Example,
)

_PUBMED = re.compile(
    r"(?:https?://)?(?:(?:www\.)?ncbi\.nlm\.nih\.gov/pubmed/|pubmed\.ncbi\.nlm\.nih\.gov/)?"
    r"0*([1-9]\d{0,8})/?",
    re.I,
)


@dataclass(frozen=True)
class Context:
    """A text to read, the index of the (first) snippet it comes from or -1, and its document.

    ``parts`` of a joined text: index, document and offset of each snippet in it.
    """

    text: str
    snippet: int = -1
    document: str = ""
    parts: tuple[tuple[int, str, int], ...] = ()


def contexts_of(
    question: Question, context: str, abstracts: Mapping[str, str] | None = None
) -> list[Context]:
    """The texts of a question under a setting of ``config.CONTEXTS``, in the snippets' order.

    "snippet": each snippet that is not blank; "appended": the distinct ones joined by a blank;
    "abstract": the text of each distinct document, see ``documents_of`` and ``find_abstract``.
    """
    if context == "abstract":
        found = ((find_abstract(abstracts or {}, d), n, d) for d, n in documents_of(question))
        return [Context(text, n, document) for text, n, document in found if text]
    texts = [(s.text, n, s.document) for n, s in enumerate(question.snippets) if s.text.strip()]
    if context == "snippet":
        return [Context(*text) for text in texts]
    offsets: dict[str, int] = {}
    joined = ""
    for text, _, _ in texts:
        if text not in offsets:
            joined += " " * bool(offsets)
            offsets[text] = len(joined)
            joined += text
    parts = tuple((n, document, offsets[text]) for text, n, document in texts)
    return [Context(joined, parts=parts)] if joined else []


def documents_of(question: Question) -> list[tuple[str, int]]:
    """The distinct documents of the snippets, each with the index of its first snippet.

    Without snippets those listed for the question, with -1. Addresses that differ in http and
    https, or in PubMed's old and new host, are one document.
    """
    listed = [(snippet.document, n) for n, snippet in enumerate(question.snippets)]
    if not listed:
        listed = [(document, -1) for document in question.documents]
    places: dict[str, tuple[str, int]] = {}
    for document, n in listed:
        places.setdefault(_key(document), (document, n))
    return list(places.values())


def pmid_of(document: str) -> str:
    """The PubMed id in a document's address (http, https, old and new host) or bare; else ""."""
    match = _PUBMED.fullmatch(document.strip())
    return match[1] if match else ""


def _key(document: str) -> str:
    return pmid_of(document) or re.sub(r"^https?://", "", document.strip()).rstrip("/")


def find_abstract(abstracts: Mapping[str, str], document: str) -> str:
    """The text for a document, by its address as it is or as one of its PubMed id's; else ""."""
    return document and (abstracts.get(document) or abstracts.get(_key(document), ""))


def read_abstracts(path: str | Path) -> dict[str, str]:
    """Read ``{document address or PubMed id: text}``; http and https addresses are the same.

    So are all addresses of one PubMed id. Other addresses have to be whole: the last part of one,
    a number perhaps, may be a PubMed id by chance.
    """
    data = read_json(path)
    if not isinstance(data, dict) or not data:
        raise InputError(f"{path}: not an abstracts file; expected {{document: text}}")
    abstracts = {}
    for document, text in data.items():
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{path}: document {document!r} has no text; add it or remove it")
        abstracts[document] = text
        abstracts.setdefault(_key(document), text)
    return abstracts


_WORDS = re.compile(r"\S+")
_EDGE = " .,;:()[]"
_LONGEST = 12  # words of an answer that are compared


def why_dropped(
    question: Question, context: str, contexts: Sequence[Context], lacking: Mapping[str, str]
) -> Drop:
    """The drop report's entry for a question in none of whose contexts a span was found."""
    drop, golds = partial(Drop, question.id, question.body), needles(question.synonyms())
    if not contexts and context == "abstract":
        documents = [d for d, _ in documents_of(question) if d]
        why = ", ".join(f"{d} ({lacking[d]})" if d in lacking else d for d in documents)
        return drop("no abstract", f"none of its documents has one: {why or 'no documents'}")
    if not contexts or not golds:
        return drop("no exact answer" if contexts else "no snippets")
    for found, gold in product(contexts, sorted(golds)):
        start = fold(found.text).find(gold)
        if start >= 0:
            end = start + len(gold)
            word = next(m[0] for m in _WORDS.finditer(found.text) if m.end() >= end).strip(_EDGE)
            around = found.text[max(0, start - 20) : end + 20]
            likeness = _likeness(gold, word)
            return drop("answer only inside a word", around, word, found.snippet, likeness)
    return drop("answer in no context", " | ".join(question.synonyms()), *nearest(golds, contexts))


def nearest(golds: Iterable[str], contexts: Sequence[Context]) -> tuple[str, int, float]:
    """The words most like an answer, as many as it has: text, snippet, and likeness from 0 to 1."""
    best = ("", -1, 0.0)
    for gold, context in product(sorted(golds), contexts):
        size = min(len(gold.split()), _LONGEST)
        places = [match.span() for match in _WORDS.finditer(context.text)]
        for first, last in zip(places, places[size - 1 :] or places[-1:], strict=False):
            text = context.text[first[0] : last[1]].strip(_EDGE)
            best = max(best, (text, context.snippet, _likeness(gold, text)), key=itemgetter(2))
    return best


def _likeness(one: str, two: str) -> float:
    """Dice's coefficient of the three-letter pieces of two texts."""
    first, second = _pieces(one), _pieces(two)
    return round(2 * len(first & second) / max(len(first) + len(second), 1), 3)


@lru_cache(maxsize=1 << 14)
def _pieces(text: str) -> frozenset[str]:
    padded = f" {' '.join(fold(text).split())} "
    return frozenset(padded[n : n + 3] for n in range(len(padded) - 2))


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
