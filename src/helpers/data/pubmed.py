"""Get the abstracts for the questions, first from the user's files and then from PubMed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

from tqdm import tqdm

from helpers.config import InputError
from helpers.data.bioasq import Question
from helpers.data.convert import Abstracts, documents_of, find_abstract, pmid_of, read_abstracts
from helpers.fetch.download import Again, check_busy, hopeless, in_words, locked, offline, writing
from helpers.fetch.registry import cache_folder
from helpers.io import progress_stream

ENDPOINT = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils"
BATCH = 200  # ids per request
ATTEMPTS = 5  # per request, with pauses of 1, 2, 4 and 8 seconds
TIMEOUTS = (10, 60)  # seconds to connect, and between parts of a response
STAMP = "last_request"  # file next to the cache, updated at each request
_REMEDY = "try again later, or give the abstracts as a file abstracts.json"
TOOL = "biomegatron-bioasq-kit"


@dataclass(frozen=True)
class Article:
    """PubMed's record for an id; ``why`` explains a missing abstract and is otherwise empty."""

    pmid: str
    title: str = ""
    abstract: str = ""
    retracted: bool = False
    why: str = ""

    @property
    def text(self) -> str:
        """Join title and abstract with a space, as dmis-lab does; return "" without an abstract."""
        return f"{self.title} {self.abstract}".strip() if self.abstract else ""


def fetch_articles(pmids: Iterable[str], *, fetch: bool = True) -> dict[str, Article]:
    """Return articles by PubMed id, first from the cache and then from PubMed.

    Without ``fetch``, or if ``HELPERS_OFFLINE`` is set, we open no connection and omit the ids that
    are missing from the cache. Otherwise, every id gets an entry. Raises ``InputError`` if PubMed
    cannot be reached, rejects the API key, or sends no articles. The cache keeps all articles
    received so far, so the next call continues from there.
    """
    wanted = list(dict.fromkeys(pmids))
    path = cache_folder() / "pubmed" / "articles.jsonl"
    known = _read_cache(path, wanted)
    if not fetch or offline() or len(known) == len(wanted):
        return known
    with locked(path.parent, "PubMed"):
        known = _read_cache(path, wanted)  # another process may have added articles
        missing = [pmid for pmid in wanted if pmid not in known]
        service = _Service(path.with_name(STAMP))
        with (
            service.session,
            tqdm(desc="PubMed", total=len(missing), unit="abstract", file=progress_stream()) as bar,
        ):
            for low in range(0, len(missing), BATCH):
                try:
                    found = service.ask(missing[low : low + BATCH])
                except InputError as error:
                    raise InputError(
                        f"{error}; {low} of {len(missing)} abstracts arrived and are in the cache"
                    ) from None
                with writing(path.parent), path.open("a", encoding="utf-8") as file:
                    file.write("\n")  # if a process was killed, the last line may be incomplete
                    for article in found.values():
                        file.write(json.dumps(asdict(article), ensure_ascii=False) + "\n")
                known |= found
                bar.update(len(found))
    return {pmid: known[pmid] for pmid in wanted}


class _Service:
    """A connection to efetch that respects NCBI's rate limit across all calls and processes."""

    last = -1e9  # time of the last request from this process, whatever the connection or cache

    def __init__(self, stamp: Path):
        import requests  # imported here because it is slow to import

        self.url = os.environ.get("NCBI_ENDPOINT", ENDPOINT).rstrip("/") + "/efetch.fcgi"
        self.fixed = {"db": "pubmed", "retmode": "xml", "tool": TOOL}
        names = {"api_key": "NCBI_API_KEY", "email": "NCBI_EMAIL"}
        self.fixed |= {key: os.environ[name] for key, name in names.items() if os.environ.get(name)}
        # We wait slightly longer than required, because delays can bring requests closer together.
        self.interval = 0.11 if "api_key" in self.fixed else 0.36
        self.stamp = stamp
        self.session = requests.Session()
        self.session.headers["User-Agent"] = TOOL

    def ask(self, pmids: list[str]) -> dict[str, Article]:
        """Return an article for each id; if PubMed does not know an id, its article has no text.

        An incomplete response may still be valid XML, and the cache is permanent. Therefore, we
        request the missing ids again until a response contains none of them.
        """
        found, missing = self._persist(pmids), []
        while (left := [pmid for pmid in pmids if pmid not in found]) and left != missing:
            missing = left
            found |= self._persist(missing)
        unknown = "PubMed has no article with this id"
        return {pmid: found.get(pmid) or Article(pmid, why=unknown) for pmid in pmids}

    def _persist(self, pmids: list[str]) -> dict[str, Article]:
        """Return the response to one request, trying at most ``ATTEMPTS`` times."""
        failures = 0
        while True:
            try:
                return self._attempt(pmids)
            except Again as reason:
                failures += 1
                if failures == ATTEMPTS:
                    failed = f"{reason}, {failures} times in a row"
                    raise InputError(f"PubMed ({self.url}): {failed}; {_REMEDY}") from None
                reason.wait(failures)

    def _attempt(self, pmids: list[str]) -> dict[str, Article]:
        import requests

        self._keep_to_the_rate()
        # NCBI asks for POST with long lists; POST also keeps the key out of URLs and logs.
        data = {**self.fixed, "id": ",".join(pmids)}
        try:
            response = self.session.post(self.url, data=data, timeout=TIMEOUTS)
        except requests.exceptions.RequestException as error:
            if hopeless(error):
                raise InputError(f"PubMed ({self.url}): {in_words(error)}; {_REMEDY}") from None
            raise Again(in_words(error)) from None
        check_busy(response)
        if response.status_code == 400 and "api key" in response.text.lower():
            raise InputError("NCBI_API_KEY: PubMed does not know this key; correct or unset it")
        if response.status_code == 400 and "ID list is empty" in response.text:
            return {}  # none of the ids exists
        if response.status_code != 200:
            raise InputError(f"PubMed ({self.url}): HTTP {response.status_code} {response.reason}")
        try:
            return read_articles(response.content)
        except ValueError as error:
            raise Again(str(error)) from None

    def _keep_to_the_rate(self) -> None:
        ago = time.monotonic() - _Service.last
        if self.stamp.exists():  # the first request with this cache creates it
            stamped = time.time() - self.stamp.stat().st_mtime
            ago = min(ago, stamped if stamped >= 0 else 0.0)  # negative if the clock was set back
        time.sleep(max(0.0, self.interval - ago))
        _Service.last, now = time.monotonic(), time.time_ns()
        with writing(self.stamp.parent):
            self.stamp.touch()
            os.utime(self.stamp, ns=(now, now))  # touch is accurate only to a clock tick


def read_articles(xml: bytes) -> dict[str, Article]:
    """Parse an efetch response; raise ``ValueError`` if it is damaged or an error message."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ValueError(f"the response is damaged or not XML ({error})") from None
    if root.tag != "PubmedArticleSet":
        raise ValueError(f"the response contains no articles ({_text(root)[:100] or root.tag})")
    citations = chain(
        root.iterfind("*/MedlineCitation[PMID]"), root.iterfind("*/BookDocument[PMID]")
    )
    return {article.pmid: article for article in map(_article, citations)}


def _article(citation: ElementTree.Element) -> Article:
    # A book has its abstract at the top level, and a journal article has it inside <Article>.
    body = citation.find("Article")
    body = citation if body is None else body
    title = _text(body.find("ArticleTitle")) or _text(citation.find("Book/BookTitle"))
    abstract, why = _sections(body.find("Abstract")), ""
    if not abstract:
        others = citation.findall("OtherAbstract")
        english = (other for other in others if other.get("Language", "eng") == "eng")
        abstract = next(filter(None, map(_sections, english)), "")
        languages = sorted({other.get("Language", "eng") for other in others})
        only = f"PubMed has the abstract only in {', '.join(languages)}"
        why = "" if abstract else only if others else "PubMed has no abstract for it"
    kinds = {_text(kind) for kind in body.iterfind("PublicationTypeList/PublicationType")}
    notices = citation.find("CommentsCorrectionsList/CommentsCorrections[@RefType='RetractionIn']")
    retracted = "Retracted Publication" in kinds or notices is not None
    return Article(_text(citation.find("PMID")), title, abstract, retracted, why)


def _sections(abstract: ElementTree.Element | None) -> str:
    """Join the parts of an abstract, with their labels if it is structured."""
    parts = []
    for part in abstract.iterfind("AbstractText") if abstract is not None else ():
        text, label = _text(part), part.get("Label", "").strip()
        # NCBI writes UNLABELLED for a part that has no heading in the printed version.
        parts.append(f"{label}: {text}" if label and text and label != "UNLABELLED" else text)
    return " ".join(filter(None, parts))


def _text(element: ElementTree.Element | None) -> str:
    """Return the text of an element without markup such as <i> and with normalized whitespace."""
    return "" if element is None else " ".join("".join(element.itertext()).split())


def _read_cache(path: Path, wanted: Iterable[str]) -> dict[str, Article]:
    """Return the requested articles from the cache, and skip lines that do not contain an article.

    Such lines remain if a process was killed while writing or if a different version wrote them.
    """
    wanted, known = set(wanted), {}
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); remove it") from None
    for line in lines:
        try:
            article = Article(**json.loads(line))
        except (
            ValueError,
            TypeError,
            RecursionError,
        ):  # TypeError: not an object, or unexpected fields
            continue
        types = [type(value) for value in astuple(article)]
        valid = types == [str, str, str, bool, str] and (article.abstract or article.why)
        if valid and article.pmid in wanted:
            known[article.pmid] = article
    return known


def gather_abstracts(
    questions: Iterable[Question],
    files: Iterable[str | Path | None] = (),
    *,
    context: str = "abstract",
    fetch: bool = True,
    source: str | Path = "",
) -> Abstracts:
    """Get the texts of all documents of the questions, or none if ``context`` is not "abstract".

    We read ``files`` with ``read_abstracts`` and request only the missing documents from PubMed.
    Without ``fetch``, or if ``HELPERS_OFFLINE`` is set, we look for them only in the cache. A text
    from PubMed consists of the title and the abstract (``Article.text``). Raises an ``InputError``
    that names the abstracts file or the question file (``source``) if no document has a text.
    """
    if context != "abstract":
        return Abstracts()
    files = [path for path in files if path]
    texts: dict[str, str] = {}
    for path in files:
        texts |= read_abstracts(path)
    documents = dict.fromkeys(d for q in questions for d, _ in documents_of(q) if d)
    unknown = ("not in the abstracts file and " if files else "") + "not a PubMed address"
    unavailable = {d: unknown for d in documents if not find_abstract(texts, d)}
    pmids = {document: pmid for document in unavailable if (pmid := pmid_of(document))}
    articles = fetch_articles(pmids.values(), fetch=fetch)
    not_fetched = Article("", why="not in the cache, and HELPERS_OFFLINE is set")
    for document, pmid in pmids.items():
        article = articles.get(pmid, not_fetched)
        if article.text:
            texts[pmid] = article.text
            del unavailable[document]
        else:
            unavailable[document] = article.why
    if len(unavailable) == len(documents) and (documents or not texts):
        raise _no_abstract(unavailable, ", ".join(map(str, files)), source)
    retracted = ", ".join([pmid for pmid, article in articles.items() if article.retracted][:9])
    remarks = (f"abstracts: retracted articles, used anyway: {retracted}",) if retracted else ()
    return Abstracts(texts, unavailable, remarks)


def _no_abstract(unavailable: dict[str, str], files: str, source: str | Path) -> InputError:
    need = "context 'abstract' needs abstracts, but"
    if not unavailable:
        return InputError(
            f"{source or files or 'the questions'}: {need} no question names a document; "
            "add 'document' to the snippets or choose a different context"
        )
    document, why = next(iter(unavailable.items()))
    return InputError(
        f"{files or source or 'the questions'}: {need} none of {len(unavailable)} documents has "
        f"one ({document}: {why}); {'unset HELPERS_OFFLINE to use PubMed, or ' * offline()}give a "
        "file abstracts.json with {document address or PubMed id: text}"
    )
