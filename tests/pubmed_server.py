"""A local stand-in for PubMed's efetch, which sends responses in the same format.

    python tests/pubmed_server.py [--port N]

Set NCBI_ENDPOINT to the address that the server prints. The articles are invented. Their XML has
the parts of NLM's DTD (pubmed_250101.dtd) that the kit reads: structured and plain abstracts,
markup inside the text, a copyright notice, abstracts in other languages, a retracted article, a
book, and an article without an abstract.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

HEAD = (
    '<?xml version="1.0" ?>\n<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st '
    'January 2025//EN" "https://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_250101.dtd">\n'
)


def journal(pmid: str, title: str, inside: str, after: str = "", kinds: str = "") -> str:
    """Return the XML of a journal article, with ``inside`` in <Article> and ``after`` after it."""
    return (
        f'<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM" IndexingMethod="Manual">'
        f'<PMID Version="1">{pmid}</PMID><DateRevised><Year>2020</Year></DateRevised>'
        f'<Article PubModel="Print"><Journal><Title>A journal</Title></Journal>'
        f"<ArticleTitle>{title}</ArticleTitle>{inside}<Language>eng</Language>"
        f'<PublicationTypeList><PublicationType UI="D016428">Journal Article</PublicationType>'
        f"{kinds}</PublicationTypeList></Article>{after}</MedlineCitation><PubmedData>"
        f"<PublicationStatus>ppublish</PublicationStatus><ReferenceList><Reference><Citation>Of "
        f'others.</Citation><ArticleIdList><ArticleId IdType="pubmed">5</ArticleId>'
        f"</ArticleIdList></Reference></ReferenceList></PubmedData></PubmedArticle>"
    )


ARTICLES = {
    "90000001": journal(
        "90000001",
        "A plain <i>title</i>.",
        "<Abstract><AbstractText>Blood pressure fell by 5\u2009mmHg (<i>p</i> &lt; 0.05) in "
        "CD4<sup>+</sup> mice.\n   It rose again.</AbstractText><CopyrightInformation>Copyright of "
        "nobody.</CopyrightInformation></Abstract>",
    ),
    "90000002": journal(
        "90000002",
        "A structured abstract.",
        '<Abstract><AbstractText Label="BACKGROUND" NlmCategory="BACKGROUND">TNF-\u03b1 is known.'
        '</AbstractText><AbstractText Label="RESULTS" NlmCategory="RESULTS">It <b>rose</b>.'
        '</AbstractText><AbstractText Label="UNLABELLED">Registered.</AbstractText>'
        '<AbstractText Label="FUNDING"/></Abstract>',
    ),
    "90000003": journal("90000003", "A letter without an abstract.", ""),
    "90000004": journal(
        "90000004",
        "[A translated title].",
        "<Abstract><AbstractText>In English.</AbstractText></Abstract>"
        "<VernacularTitle>Un t\u00edtulo.</VernacularTitle>",
        '<OtherAbstract Type="Publisher" Language="spa"><AbstractText>En espa\u00f1ol.'
        "</AbstractText></OtherAbstract>",
    ),
    "90000005": journal(
        "90000005",
        "Only in other languages.",
        "",
        '<OtherAbstract Type="Publisher" Language="fre"><AbstractText>En fran\u00e7ais.'
        '</AbstractText></OtherAbstract><OtherAbstract Type="Publisher" Language="chi">'
        "<AbstractText>\u4e2d\u6587</AbstractText></OtherAbstract>",
    ),
    "90000006": journal(
        "90000006",
        "The society's own abstract.",
        "",
        '<OtherAbstract Type="AAMC" Language="eng"><AbstractText>Kept apart, in English.'
        "</AbstractText></OtherAbstract>",
    ),
    "90000007": journal(
        "90000007",
        "RETRACTED: A result.",
        "<Abstract><AbstractText>It was not so.</AbstractText></Abstract>",
        '<CommentsCorrectionsList><CommentsCorrections RefType="RetractionIn"><RefSource>The same '
        'journal.</RefSource><PMID Version="1">90000099</PMID></CommentsCorrections>'
        "</CommentsCorrectionsList>",
        '<PublicationType UI="D016441">Retracted Publication</PublicationType>',
    ),
    "90000008": (
        '<PubmedBookArticle><BookDocument><PMID Version="1">90000008</PMID><ArticleIdList>'
        '<ArticleId IdType="bookaccession">NBK0</ArticleId></ArticleIdList><Book><BookTitle>A '
        "book</BookTitle></Book><ArticleTitle>A chapter</ArticleTitle><Abstract><AbstractText>Of "
        "a chapter.</AbstractText></Abstract></BookDocument></PubmedBookArticle>"
    ),
}


class PubmedServer:
    """An HTTP server that answers efetch requests.

    Each request receives the next of the ``faults``, a status or a body, if any are left.
    ``requests`` contains (time of arrival in seconds, form fields) for each request.
    """

    def __init__(self, port: int = 0):
        self.articles = dict(ARTICLES)
        self.faults: list = []
        self.requests: list[tuple[float, dict[str, str]]] = []
        self.key = ""  # the only valid API key
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                fields = {name: values[0] for name, values in parse_qs(body).items()}
                outer.requests.append((time.monotonic(), fields))
                outer.answer(self, fields)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> PubmedServer:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler, fields: dict[str, str]) -> None:
        """Send a response in chunks, as NCBI does, or the next fault."""
        fault = self.faults.pop(0) if self.faults else None
        if fault == 429:
            limit = {"error": "API rate limit exceeded", "count": "4", "limit": "3"}
            return send(handler, 429, json.dumps(limit), Retry_After="0")
        if isinstance(fault, int):
            return send(handler, fault, "")
        if fault == "hang up":
            handler.close_connection = True
            return handler.connection.close()
        if fault is not None:
            return send(handler, 200, fault)
        if fields.get("api_key", self.key) != self.key:
            return send(handler, 400, '{"error":"API key invalid","api-key":"not shown"}')
        if handler.path != "/efetch.fcgi" or fields.get("db") != "pubmed":
            return send(handler, 404, "")
        found = [self.articles[i] for i in fields["id"].split(",") if i in self.articles]
        return send(handler, 200, f"{HEAD}<PubmedArticleSet>{''.join(found)}</PubmedArticleSet>")


def send(handler, status: int, text: str, **headers) -> None:
    """Send a response with a chunked body."""
    handler.send_response(status)
    kind = "text/xml; charset=UTF-8" if text.startswith("<") else "application/json"
    for name, value in {"Content_Type": kind, "Transfer_Encoding": "chunked", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    data = text.encode()
    for low in range(0, len(data), 1000):
        piece = data[low : low + 1000]
        handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port of the server (default: any free port)"
    )
    server = PubmedServer(parser.parse_args().port)
    print(server.url, flush=True)
    server.server.serve_forever()


if __name__ == "__main__":
    main()
