"""The abstracts that questions need: from the user's files first, then from PubMed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from helpers.config import InputError
from helpers.data.bioasq import Question
from helpers.data.contexts import documents_of, find_abstract, pmid_of, read_abstracts
from helpers.data.pubmed import fetch_articles
from helpers.fetch.download import offline


@dataclass(frozen=True)
class Abstracts:
    """``texts`` by address or PubMed id, ``lacking``: document -> why it has no text."""

    texts: dict[str, str]
    lacking: dict[str, str]
    remarks: tuple[str, ...] = ()


def gather_abstracts(
    questions: Iterable[Question],
    files: Iterable[str | Path] = (),
    *,
    fetch: bool = True,
    progress: bool = True,
    source: str | Path = "",
) -> Abstracts:
    """Texts for all documents that the questions' contexts come from.

    ``files`` are read as ``read_abstracts`` does, and only documents they lack are asked of
    PubMed; without ``fetch``, or under ``HELPERS_OFFLINE``, of its cache alone. A PubMed text is
    the title and the abstract, as in dmis-lab's full-abstract files. Raises ``InputError``, which
    names ``source``, the questions' file, when not one document has a text.
    """
    files = tuple(files)
    texts: dict[str, str] = {}
    for path in files:
        texts |= read_abstracts(path)
    documents = dict.fromkeys(d for q in questions for d, _ in documents_of(q) if d)
    unknown = ("not in the abstracts file and " if files else "") + "no PubMed address"
    lacking = {d: unknown for d in documents if not find_abstract(texts, d)}
    asked = {document: pmid for document in lacking if (pmid := pmid_of(document))}
    articles = fetch_articles(asked.values(), fetch=fetch, progress=progress)
    for document, pmid in asked.items():
        article = articles.get(pmid)
        if article and article.text:
            texts[pmid] = article.text
            del lacking[document]
        elif article:
            lacking[document] = article.why
        else:
            lacking[document] = "not in the cache, and HELPERS_OFFLINE is set"
    if len(lacking) == len(documents) and (documents or not texts):
        raise InputError(_nothing(lacking, files, source))
    retracted = [pmid for pmid, article in articles.items() if article.retracted]
    remarks = [f"abstracts: retracted, and read all the same: {', '.join(retracted[:9])}"]
    return Abstracts(texts, lacking, tuple(remarks) if retracted else ())


def _nothing(lacking: dict[str, str], files: tuple, source: str | Path) -> str:
    where = ", ".join(str(path) for path in files) or str(source) or "the questions"
    if not lacking:
        return (
            f"{source or where}: context 'abstract' needs abstracts, and no question names a "
            "document; add 'document' to the snippets, or choose another context"
        )
    document, why = next(iter(lacking.items()))
    remedy = "give a file abstracts.json with {document address or PubMed id: text}"
    if offline():
        remedy = f"unset HELPERS_OFFLINE to ask PubMed, or {remedy}"
    return (
        f"{where}: context 'abstract' needs abstracts, and none of {len(lacking)} documents has "
        f"one ({document}: {why}); {remedy}"
    )
