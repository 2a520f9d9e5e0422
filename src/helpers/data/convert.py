"""Convert BioASQ questions to SQuAD examples, and give a reason for every dropped question.

A context is the text that the model reads with a question: one snippet, all snippets joined, or a
full abstract. The three settings come from dmis-lab (snippet-as-is, appended-snippet,
full-abstract). Scores are comparable only if they were obtained under the same setting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import accumulate, product
from operator import itemgetter
from pathlib import Path

from tqdm import tqdm

from helpers.config import CONTEXTS, InputError
from helpers.data.bioasq import Question, read_json
from helpers.data.spans import fold, gold_spans, lacks_answer, search_terms
from helpers.data.squad import Drop, Example
from helpers.io import progress_stream

_PUBMED = re.compile(
    r"(?:https?://)?(?:(?:www\.)?ncbi\.nlm\.nih\.gov/pubmed/|pubmed\.ncbi\.nlm\.nih\.gov/)?"
    r"0*([1-9]\d{0,8})/?",
    re.I,
)
_WORDS = re.compile(r"\S+")
_EDGES = " .,;:()[]"
_LONGEST = 12  # maximum number of words to compare with an answer
_MOST = 200  # maximum number of characters to compare; a real name is shorter


@dataclass(frozen=True)
class Abstracts:
    """Texts by document address or PubMed id, and a reason for each missing text."""

    texts: Mapping[str, str] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def convert(
    questions: Iterable[Question],
    *,
    context: str = "snippet",
    test: bool = False,
    abstracts: Abstracts | None = None,
    negatives: bool = False,
) -> tuple[list[Example], list[Drop]]:
    """Turn questions into question-context pairs, and list the questions that yield none.

    ``context`` is a setting of ``pairs_of``. For training, we keep only distinct contexts with a
    span. With ``negatives``, if any context of a question has a span, we also keep the question's
    contexts that do not contain the answer in any spelling (``spans.lacks_answer``). With ``test``,
    we keep every context, including repeated snippets, and add spans if gold answers are known.
    The number in a row's id is the position of its context among all contexts of the question, so
    it does not depend on ``test``.
    """
    if context not in CONTEXTS:
        raise InputError(f"context: {context!r} is not one of {', '.join(CONTEXTS)}")
    abstracts = abstracts if abstracts and context == "abstract" else Abstracts()
    if context == "abstract" and not abstracts.texts:
        raise InputError(
            "context 'abstract' needs abstracts, but none were given; give a file abstracts.json "
            "with {document address or PubMed id: text} (--abstracts FILE), or change the context"
        )
    examples, drops = [], []
    # A progress bar appears only if the conversion takes more than a few seconds.
    for question in tqdm(
        questions,
        desc="converting",
        unit="question",
        delay=3,
        mininterval=1,
        file=progress_stream(),
    ):
        golds, seen = question.synonyms(), set()
        pairs = pairs_of(question, context, abstracts.texts)
        found = [gold_spans(pair.context, golds) for pair in pairs]
        for pair, spans in zip(pairs, found, strict=True):
            wanted = spans or (negatives and any(found) and lacks_answer(pair.context, golds))
            if test or (wanted and pair.context not in seen):
                examples.append(replace(pair, spans=tuple(spans)))
            seen.add(pair.context)
        if not (pairs if test else any(found)):
            drops.append(why_dropped(question, pairs, abstracts))
    return examples, drops


def pairs_of(question: Question, context: str, abstracts: Mapping[str, str]) -> list[Example]:
    """Pair a question with its contexts under a setting from ``config.CONTEXTS``, without spans.

    Under "snippet", each nonempty snippet is a context. Under "appended", the distinct snippets,
    joined by spaces, form one context. Under "abstract", the text of each distinct document is a
    context (see ``documents_of`` and ``find_abstract``).
    """
    if context == "abstract":
        texts = [(find_abstract(abstracts, d), n, d, ()) for d, n in documents_of(question)]
    else:
        texts = [(s.text, n, s.document, ()) for n, s in enumerate(question.snippets)]
    texts = [text for text in texts if text[0].strip()]
    if context == "appended" and texts:
        distinct = list(dict.fromkeys(text for text, *_ in texts))
        starts = accumulate((len(text) + 1 for text in distinct), initial=0)
        offsets = dict(zip(distinct, starts, strict=False))
        parts = tuple((n, document, offsets[text]) for text, n, document, _ in texts)
        texts = [(" ".join(distinct), -1, "", parts)]
    return [
        Example(f"{question.id}_{row:03d}", question.id, question.body, text, (), *source)
        for row, (text, *source) in enumerate(texts, 1)
    ]


def documents_of(question: Question) -> list[tuple[str, int]]:
    """Return the distinct documents of the snippets, each with the index of its first snippet.

    If there are no snippets, we return the documents listed for the question, each with index -1.
    Two addresses with the same ``_key`` count as one document.
    """
    listed = [(snippet.document, n) for n, snippet in enumerate(question.snippets)]
    distinct: dict[str, tuple[str, int]] = {}
    for document, n in listed or [(document, -1) for document in question.documents]:
        distinct.setdefault(_key(document), (document, n))
    return list(distinct.values())


def pmid_of(document: str) -> str:
    """Return the PubMed id from a document address (old or new host) or a bare id, or else ""."""
    match = _PUBMED.fullmatch(document.strip())
    return match[1] if match else ""


def _key(document: str) -> str:
    """Return a key shared by all addresses of a document: http or https, old or new PubMed host."""
    return pmid_of(document) or re.sub(r"^https?://", "", document.strip()).rstrip("/")


def find_abstract(abstracts: Mapping[str, str], document: str) -> str:
    """Return the text for a document under any of its addresses, or "" if there is none."""
    return document and (abstracts.get(document) or abstracts.get(_key(document), ""))


def read_abstracts(path: str | Path) -> dict[str, str]:
    """Read ``{document address or PubMed id: text}``, and also store each text under its ``_key``.

    An address on a host other than PubMed must be complete, because its number alone would be read
    as a PubMed id.
    """
    data = read_json(path)
    if not isinstance(data, dict) or not data:
        raise InputError(f"{path}: not an abstracts file; expected {{document: text}}")
    abstracts = {}
    for document, text in data.items():
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{path}: document {document!r} has no text; add text or remove it")
        abstracts[document] = text
        abstracts.setdefault(_key(document), text)
    return abstracts


def why_dropped(question: Question, pairs: Sequence[Example], abstracts: Abstracts) -> Drop:
    """Return the drop report entry for a question without a span in any of its contexts."""
    drop = partial(Drop, question.id, question.body)
    golds = sorted(search_terms(question.synonyms()))
    if not pairs and abstracts.texts:
        why = abstracts.unavailable
        names = [d for d, _ in documents_of(question) if d]
        names = ", ".join(f"{d} ({why[d]})" if d in why else d for d in names) or "no documents"
        return drop("no abstract", f"none of its documents has one: {names}")
    if not pairs or not golds:
        return drop("no exact answer" if pairs else "no snippets")
    for pair, gold in product(pairs, golds):
        start = fold(pair.context).find(gold)
        if start >= 0:
            end = start + len(gold)
            around = _whole_words(pair.context, max(0, start - 20), end + 20)
            word = next(m[0] for m in _WORDS.finditer(pair.context) if m.end() >= end).strip(_EDGES)
            inside = (word, pair.snippet, _similarity(gold, word))
            closest = max(inside, nearest([gold], [pair]), key=itemgetter(2))
            detail = f"{gold}: {around}"
            return drop("answer only inside a word", detail, *closest)
    return drop("answer in no context", " | ".join(question.synonyms()), *nearest(golds, pairs))


def nearest(golds: Sequence[str], pairs: Sequence[Example]) -> tuple[str, int, float]:
    """Return the text most similar to an answer, its snippet, and its similarity (0 to 1).

    The text has as many words as the answer, one more, or one fewer.
    """
    best = ("", -1, 0.0)
    for gold, pair in product(golds, pairs):
        words = min(len(gold.split()), _LONGEST)
        places = [match.span() for match in _WORDS.finditer(pair.context)]
        for size in {words, max(words - 1, 1), words + 1}:
            for first, last in zip(places, places[size - 1 :] or places[-1:], strict=False):
                text = pair.context[first[0] : last[1]].strip(_EDGES)
                best = max(best, (text, pair.snippet, _similarity(gold, text)), key=itemgetter(2))
    return best


def _whole_words(text: str, start: int, end: int) -> str:
    """Return the words of a text that begin or end between two positions, with "…" at cuts."""
    places = [m.span() for m in _WORDS.finditer(text) if m.end() > start and m.start() < end]
    low, high = places[0][0], places[-1][1]
    return "… " * (low > 0) + text[low:high] + " …" * (high < len(text.rstrip()))


def _similarity(one: str, two: str) -> float:
    """Return the Dice coefficient of the character trigrams of two texts."""
    first, second = _trigrams(one[:_MOST]), _trigrams(two[:_MOST])
    return round(2 * len(first & second) / max(len(first) + len(second), 1), 3)


@lru_cache(maxsize=1 << 14)
def _trigrams(text: str) -> frozenset[str]:
    padded = f" {' '.join(fold(text).split())} "
    return frozenset(padded[n : n + 3] for n in range(len(padded) - 2))
