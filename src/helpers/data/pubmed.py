"""The abstracts that questions need: from the user's files first, then from PubMed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from xml.etree import ElementTree

from tqdm import tqdm

from helpers.config import InputError
from helpers.data.bioasq import Question
from helpers.data.convert import documents_of, find_abstract, pmid_of, read_abstracts
from helpers.fetch.download import (
    LONGEST_PAUSE,
    RETRY_STATUS,
    asked_pause,
    hopeless,
    in_words,
    locked,
    offline,
)
from helpers.fetch.registry import cache_folder

ENDPOINT = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils"
BATCH = 200  # ids a request
ATTEMPTS = 5  # of one request, with pauses of 1, 2, 4 and 8 seconds
TIMEOUTS = (10, 60)  # seconds: to connect, between two pieces of an answer
_REMEDY = "try again later, or give the abstracts as a file abstracts.json"
STAMP = "last_request"  # a file beside the cache: when it was changed
TOOL = "biomegatron-bioasq-kit"


@dataclass(frozen=True)
class Article:
    """What PubMed says of an id. ``why`` tells why there is no abstract, "" when there is one."""

    pmid: str
    title: str = ""
    abstract: str = ""
    retracted: bool = False
    why: str = ""

    @property
    def text(self) -> str:
        """Title and abstract joined by a blank, "" without an abstract.

        dmis-lab's full-abstract files for 7b are made like this: all 407 contexts begin with the
        title, and sections keep their labels ("BACKGROUND: ...").
        """
        return f"{self.title} {self.abstract}".strip() if self.abstract else ""


def fetch_articles(
    pmids: Iterable[str], *, fetch: bool = True, progress: bool = True
) -> dict[str, Article]:
    """Articles by PubMed id, from the cache and then from PubMed.

    Every id gets an entry; without ``fetch`` and under ``HELPERS_OFFLINE`` no connection is
    opened and ids that the cache lacks are left out. Raises
    ``InputError`` when PubMed cannot be reached, refuses the key, or answers something else than
    articles; what had come until then is in the cache, so the next call goes on from there.
    """
    wanted = list(dict.fromkeys(pmids))
    path = cache_folder() / "pubmed" / "articles.jsonl"
    known = _read_cache(path, wanted)
    if not fetch or offline() or len(known) == len(wanted):
        return known
    with locked(path.parent, "PubMed"):
        known = _read_cache(path, wanted)  # another process may have asked meanwhile
        missing = [pmid for pmid in wanted if pmid not in known]
        bar = tqdm(desc="PubMed", total=len(missing), unit="abstract", disable=not progress)
        with bar, _Service(path.with_name(STAMP)) as service:
            for low in range(0, len(missing), BATCH):
                batch = missing[low : low + BATCH]
                try:
                    found = service.ask(batch)
                except InputError as error:
                    raise InputError(
                        f"{error}; {low} of {len(missing)} abstracts arrived and are kept"
                    ) from None
                _append_cache(path, found.values())
                known |= found
                bar.update(len(batch))
    return {pmid: known[pmid] for pmid in wanted}


class _Again(Exception):
    """This attempt failed and another may not; ``pause`` is what the server asks for."""

    def __init__(self, reason: str, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause


class _Service:
    """A connection to efetch that keeps to NCBI's rate, counted over all calls and processes."""

    last = -1e9  # of any connection of this process, whatever its cache

    def __init__(self, stamp: Path):
        import requests  # here, since importing it takes longer than most of the kit

        self.url = os.environ.get("NCBI_ENDPOINT", ENDPOINT).rstrip("/") + "/efetch.fcgi"
        self.fixed = {"db": "pubmed", "retmode": "xml", "tool": TOOL}
        names = {"api_key": "NCBI_API_KEY", "email": "NCBI_EMAIL"}
        self.fixed |= {key: os.environ[name] for key, name in names.items() if os.environ.get(name)}
        # A little less often than allowed, since requests can catch up with each other on the way.
        self.interval = 0.11 if "api_key" in self.fixed else 0.36
        self.stamp = stamp
        self.session = requests.Session()
        self.session.headers["User-Agent"] = TOOL

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.session.close()

    def ask(self, pmids: list[str]) -> dict[str, Article]:
        """An article for each id; one that PubMed does not know has none of the texts.

        An answer may be cut short and still be whole XML, and what the cache says once stays said.
        So ids that it lacks are asked for again, until an answer brings none of them.
        """
        found, missing = self._persist(pmids), []
        while (left := [pmid for pmid in pmids if pmid not in found]) and left != missing:
            missing = left
            found |= self._persist(missing)
        return {pmid: found.get(pmid) or _unknown(pmid) for pmid in pmids}

    def _persist(self, pmids: list[str]) -> dict[str, Article]:
        """One answer to a request, whatever it takes."""
        for attempt in range(ATTEMPTS):
            try:
                return self._attempt(pmids)
            except _Again as reason:
                failed, pause = reason, 2.0**attempt if reason.pause is None else reason.pause
            if attempt + 1 < ATTEMPTS:
                time.sleep(min(pause, LONGEST_PAUSE))
        raise InputError(f"PubMed ({self.url}): {failed}, {ATTEMPTS} times in a row; {_REMEDY}")

    def _attempt(self, pmids: list[str]) -> dict[str, Article]:
        import requests

        self._keep_to_the_rate()
        # By POST, as NCBI asks for long lists; it also keeps the key out of addresses and logs.
        data = {**self.fixed, "id": ",".join(pmids)}
        try:
            answer = self.session.post(self.url, data=data, timeout=TIMEOUTS)
        except requests.exceptions.RequestException as error:
            if hopeless(error):
                raise InputError(f"PubMed ({self.url}): {in_words(error)}; {_REMEDY}") from None
            raise _Again(in_words(error)) from None
        if answer.status_code in RETRY_STATUS:
            pause = asked_pause(answer.headers.get("Retry-After", ""))
            raise _Again(f"HTTP {answer.status_code}", pause)
        if answer.status_code == 400 and "api key" in answer.text.lower():
            raise InputError("NCBI_API_KEY: PubMed does not know this key; correct it or unset it")
        if answer.status_code == 400 and "ID list is empty" in answer.text:
            return {}  # none of them exists
        if answer.status_code != 200:
            raise InputError(f"PubMed ({self.url}): HTTP {answer.status_code} {answer.reason}")
        try:
            return read_articles(answer.content)
        except ValueError as error:
            raise _Again(str(error)) from None

    def _keep_to_the_rate(self) -> None:
        ago = time.monotonic() - _Service.last
        try:
            stamped = time.time() - self.stamp.stat().st_mtime
            ago = min(ago, stamped if stamped >= 0 else 0.0)  # a clock set back: wait once
        except OSError:
            pass  # the first request of this cache
        time.sleep(max(0.0, self.interval - ago))
        _Service.last, now = time.monotonic(), time.time_ns()
        try:
            self.stamp.touch()
            os.utime(self.stamp, ns=(now, now))  # touch alone is only as exact as a clock tick
        except OSError as error:
            raise InputError(f"{self.stamp}: cannot be written ({error.strerror})") from None


def _unknown(pmid: str) -> Article:
    return Article(pmid, why="PubMed has no article of this id")


def read_articles(xml: bytes) -> dict[str, Article]:
    """Parse an answer of efetch; ``ValueError`` when it is none (damaged, or an error message)."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ValueError(f"the answer is damaged or no XML ({error})") from None
    if root.tag != "PubmedArticleSet":
        raise ValueError(f"the answer holds no articles ({_text(root)[:100] or root.tag})")
    articles = {}
    for entry in root:
        citation = entry.find("MedlineCitation")
        if citation is None:
            citation = entry.find("BookDocument")
        if citation is not None and citation.find("PMID") is not None:
            article = _article(citation)
            articles[article.pmid] = article
    return articles


def _article(citation: ElementTree.Element) -> Article:
    # In a book the abstract stands at the top, in a journal's article inside of <Article>.
    body = citation.find("Article")
    body = citation if body is None else body
    title = _text(body.find("ArticleTitle")) or _text(citation.find("Book/BookTitle"))
    abstract, why = _sections(body.find("Abstract")), ""
    if not abstract:
        others = citation.findall("OtherAbstract")
        english = (other for other in others if other.get("Language", "eng") == "eng")
        abstract = next(filter(None, map(_sections, english)), "")
        languages = sorted({other.get("Language", "eng") for other in others})
        only = f"PubMed has its abstract in {', '.join(languages)} only"
        why = "" if abstract else only if others else "PubMed has no abstract of it"
    kinds = {_text(kind) for kind in body.iterfind("PublicationTypeList/PublicationType")}
    notices = citation.find("CommentsCorrectionsList/CommentsCorrections[@RefType='RetractionIn']")
    retracted = "Retracted Publication" in kinds or notices is not None
    return Article(_text(citation.find("PMID")), title, abstract, retracted, why)


def _sections(abstract: ElementTree.Element | None) -> str:
    """The parts of an abstract in order; those of a structured one with their labels."""
    parts = []
    for part in abstract.iterfind("AbstractText") if abstract is not None else ():
        text, label = _text(part), part.get("Label", "").strip()
        # UNLABELLED is what NCBI writes for a part that has no heading in print.
        parts.append(f"{label}: {text}" if label and text and label != "UNLABELLED" else text)
    return " ".join(filter(None, parts))


def _text(element: ElementTree.Element | None) -> str:
    """All text inside, markup such as <i> and <sup> left out, white space as single blanks."""
    return "" if element is None else " ".join("".join(element.itertext()).split())


def _read_cache(path: Path, wanted: Iterable[str]) -> dict[str, Article]:
    wanted, known = set(wanted), {}
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                article = _cached(line)
                if article and article.pmid in wanted:
                    known[article.pmid] = article
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); remove it") from None
    return known


def _cached(line: str) -> Article | None:
    """The article in a line of the cache; None for one that is blank, cut off, or of other shape.

    A process may have been killed while it wrote, and other versions write other fields.
    """
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or set(entry) != {field.name for field in fields(Article)}:
        return None
    texts = [value for name, value in entry.items() if name != "retracted"]
    if not all(isinstance(text, str) for text in texts) or type(entry["retracted"]) is not bool:
        return None
    article = Article(**entry)
    return article if article.abstract or article.why else None


def _append_cache(path: Path, articles: Iterable[Article]) -> None:
    lines = "".join(json.dumps(asdict(a), ensure_ascii=False) + "\n" for a in articles)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" + lines)  # the blank line parts it from what a killed process left
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


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
