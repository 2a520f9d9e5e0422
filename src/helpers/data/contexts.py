"""What the model reads beside a question: each snippet, the snippets joined, or full abstracts.

The three settings are dmis-lab's (snippet-as-is, appended-snippet, full-abstract); a score is
comparable only with scores made under the same one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.config import InputError
from helpers.data.bioasq import read_json
from helpers.data.schema import Question

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
