"""Abstracts from PubMed, against a real server on this machine with answers of the real shapes."""

import json
import os
import runpy
import socket
from pathlib import Path

import pytest
from pubmed_server import HEAD, PubmedServer, journal, send

from helpers.config import InputError
from helpers.data import pubmed
from helpers.data.bioasq import Question, Snippet
from helpers.data.convert import documents_of, pairs_of, pmid_of
from helpers.data.pubmed import fetch_articles, read_articles

IDS = [f"9000000{n}" for n in range(1, 9)]
MISSING = "99999999"


@pytest.fixture
def server(tmp_path, monkeypatch):
    with PubmedServer() as running:
        monkeypatch.setenv("NCBI_ENDPOINT", running.url + "/")
        monkeypatch.setenv("HELPERS_CACHE", str(tmp_path / "cache"))
        for name in ("NCBI_API_KEY", "NCBI_EMAIL", "HELPERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(pubmed.time, "sleep", sleeper := Sleeper(pubmed.time.sleep))
        running.sleeps = sleeper.asked
        yield running


class Sleeper:
    """Sleeps in earnest for the rate, and not at all for the pauses after a failure."""

    def __init__(self, sleep):
        self.sleep, self.asked = sleep, []

    def __call__(self, seconds):
        self.asked.append(seconds)
        if seconds < 0.5:
            self.sleep(seconds)


def question(*documents, listed=()):
    snippets = tuple(Snippet("s", document) for document in documents)
    return Question("q", "Which?", "factoid", snippets, tuple(listed), (("p53",),))


def cache(tmp_path):
    return tmp_path / "cache" / "pubmed" / "articles.jsonl"


def test_every_shape_of_an_article(server):
    found = fetch_articles([*IDS, MISSING])
    texts = {pmid: article.text for pmid, article in found.items()}
    assert texts == {
        "90000001": "A plain title. Blood pressure fell by 5 mmHg (p < 0.05) in CD4+ mice. "
        "It rose again.",
        "90000002": "A structured abstract. BACKGROUND: TNF-α is known. RESULTS: It rose. "
        "Registered.",
        "90000003": "",
        "90000004": "[A translated title]. In English.",
        "90000005": "",
        "90000006": "The society's own abstract. Kept apart, in English.",
        "90000007": "RETRACTED: A result. It was not so.",
        "90000008": "A chapter Of a chapter.",
        MISSING: "",
    }
    assert [pmid for pmid, article in found.items() if article.retracted] == ["90000007"]
    assert {pmid: article.why for pmid, article in found.items() if article.why} == {
        "90000003": "PubMed has no abstract for it",
        "90000005": "PubMed has the abstract only in chi, fre",
        MISSING: "PubMed has no article with this id",
    }


def test_batches_and_the_rate_without_a_key(server, monkeypatch, capsys):
    monkeypatch.setattr(pubmed, "BATCH", 2)
    monkeypatch.setenv("NCBI_EMAIL", "someone@example.org")
    assert len(fetch_articles([*IDS, MISSING, IDS[0]])) == 9
    times = [at for at, _ in server.requests]
    # The last is asked for again, since nothing came.
    assert [fields["id"].count(",") + 1 for _, fields in server.requests] == [2, 2, 2, 2, 1, 1]
    assert all(times[n + 3] - times[n] >= 1 for n in range(len(times) - 3))
    for _, fields in server.requests:
        assert fields["tool"] == pubmed.TOOL and fields["email"] == "someone@example.org"
        assert "api_key" not in fields
    assert "PubMed: 100%" in capsys.readouterr().err


def test_ten_requests_a_second_with_a_key(server, monkeypatch):
    monkeypatch.setattr(pubmed, "BATCH", 1)
    monkeypatch.setenv("NCBI_API_KEY", "secret")
    server.key = "secret"
    fetch_articles(IDS)
    times = [at for at, _ in server.requests]
    assert all(fields["api_key"] == "secret" for _, fields in server.requests)
    assert times[-1] - times[0] >= 0.7 and max(server.sleeps) <= 0.11


def test_the_rate_holds_over_calls_and_caches(server, monkeypatch, tmp_path):
    for n, pmid in enumerate(IDS):
        if n > 3:  # one process, several caches
            monkeypatch.setenv("HELPERS_CACHE", str(tmp_path / f"cache{n}"))
        fetch_articles([pmid])
        if n < 3:  # what another process knows of the last request
            monkeypatch.setattr(pubmed._Service, "last", -1e9)
    times = [at for at, _ in server.requests]
    assert len(times) == 8 and all(times[n + 3] - times[n] >= 1 for n in range(5))


@pytest.mark.fault("a clock that is set back")
def test_a_clock_that_was_set_back_costs_one_pause(server, tmp_path):
    stamp = cache(tmp_path).with_name(pubmed.STAMP)
    stamp.parent.mkdir(parents=True)
    stamp.touch()
    os.utime(stamp, (4e9, 4e9))
    assert fetch_articles(IDS[:1])
    assert max(server.sleeps) < 0.4


@pytest.mark.parametrize("cut", [[], IDS[:1], IDS[:2]])
def test_an_answer_cut_short_is_not_what_the_cache_remembers(server, cut):
    parts = "".join(server.articles[pmid] for pmid in cut)
    server.faults = [f"{HEAD}<PubmedArticleSet>{parts}</PubmedArticleSet>"]
    found = fetch_articles([*IDS[:2], MISSING])
    assert found[IDS[0]].text and found[IDS[1]].text
    assert found[MISSING].why == "PubMed has no article with this id"
    asked = [fields["id"].split(",") for _, fields in server.requests]
    assert asked[1] == [pmid for pmid in (*IDS[:2], MISSING) if pmid not in cut]
    assert asked[-1] == [MISSING] and len(asked) == (2 if len(cut) == 2 else 3)
    assert fetch_articles([*IDS[:2], MISSING]) == found
    assert len(server.requests) == len(asked)


def test_nothing_is_asked_once_all_is_there(server):
    server.faults = [f"{HEAD}<PubmedArticleSet></PubmedArticleSet>"]
    assert all(article.title for article in fetch_articles(IDS[:2]).values())
    assert [fields["id"] for _, fields in server.requests] == [",".join(IDS[:2])] * 2


@pytest.mark.fault("keys and passwords in the environment")
def test_a_wrong_key_is_told_at_once_and_never_shown(server, monkeypatch):
    monkeypatch.setenv("NCBI_API_KEY", "wrong-key")
    with pytest.raises(InputError, match="NCBI_API_KEY: .*unset it") as caught:
        fetch_articles(IDS)
    assert "wrong-key" not in str(caught.value) and len(server.requests) == 1


@pytest.mark.parametrize(
    "fault",
    [
        429, 500, 503, "hang up", "", "<html><body>Bad gateway</body></html>",
        HEAD + "<PubmedArticleSet><PubmedArticle><Medline",
        '<?xml version="1.0"?><eFetchResult><ERROR>Unable to obtain query</ERROR></eFetchResult>',
    ],
)  # fmt: skip
def test_a_passing_fault_is_tried_again(server, fault):
    server.faults = [fault, fault]
    assert fetch_articles(IDS[:1])[IDS[0]].text
    assert len(server.requests) == 3
    assert max(server.sleeps) == 2 or fault == 429  # which says itself how long to wait


def test_a_lasting_fault_keeps_what_came_and_goes_on_from_there(server, monkeypatch):
    monkeypatch.setattr(pubmed, "BATCH", 3)
    server.faults = [None, *[503] * pubmed.ATTEMPTS]
    with pytest.raises(InputError) as caught:
        fetch_articles(IDS)
    message = str(caught.value)
    assert "HTTP 503, 5 times in a row" in message and "3 of 8 abstracts arrived" in message
    assert "\n" not in message
    server.requests.clear()
    assert len(fetch_articles(IDS)) == 8
    assert [fields["id"] for _, fields in server.requests] == [
        ",".join(IDS[3:6]), ",".join(IDS[6:])
    ]  # fmt: skip


def test_nobody_there_is_one_line(server, monkeypatch):
    monkeypatch.setenv("NCBI_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="connection refused.*abstracts.json") as caught:
        fetch_articles(IDS)
    assert "\n" not in str(caught.value) and max(server.sleeps) < 1  # not tried again


def test_ids_none_of_which_exists_in_both_shapes_of_the_answer(server):
    assert fetch_articles([MISSING])[MISSING].why.endswith("with this id")
    answer = "<ERROR>ID list is empty! Possibly it has no correct IDs.</ERROR>"
    server.answer = lambda handler, fields: send(handler, 400, answer)
    assert fetch_articles(["99999998"])["99999998"].why.endswith("with this id")


def test_the_cache_answers_without_a_socket(server, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    first = fetch_articles([*IDS, MISSING])
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert fetch_articles([MISSING, *IDS]) == first
    assert fetch_articles(["99999997"], fetch=False) == {}
    monkeypatch.setenv("HELPERS_OFFLINE", "1")
    assert fetch_articles([*IDS, MISSING, "99999997"]) == first
    assert len(server.requests) == 2


def test_a_cache_cut_off_in_the_middle_is_read_as_far_as_it_goes(server, tmp_path):
    fetch_articles(IDS[:2])
    path = cache(tmp_path)
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:-30], encoding="utf-8")
    server.requests.clear()
    found = fetch_articles(IDS[:3])
    assert [fields["id"] for _, fields in server.requests] == [",".join(IDS[1:3])]
    assert fetch_articles(IDS[:3]) == found
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "line",
    [
        '{"pmid": ["90000001"]}', '{"pmid": "90000001"}', '["90000001"]', "7", "null",
        '{"pmid": "90000001", "title": "T", "abstract": null, "retracted": false, "why": ""}',
        '{"pmid": "90000001", "title": "T", "abstract": "", "retracted": false, "why": ""}',
        '{"pmid": "90000001", "title": "T", "abstract": "A", "retracted": "no", "why": ""}',
    ],
)  # fmt: skip
def test_cache_lines_of_another_shape_are_passed_over(server, tmp_path, line):
    path = cache(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n", encoding="utf-8")
    assert fetch_articles(IDS[:1])[IDS[0]].title == "A plain title."
    assert len(server.requests) == 1


def test_an_answer_with_other_articles_is_no_harm():
    xml = f"{HEAD}<PubmedArticleSet>{journal('7', 'T', '')}</PubmedArticleSet>".encode()
    assert set(read_articles(xml)) == {"7"}
    with pytest.raises(ValueError, match="not XML"):
        read_articles(b"{}")


@pytest.mark.parametrize(
    ("document", "pmid"),
    [
        ("http://www.ncbi.nlm.nih.gov/pubmed/90000001", "90000001"),
        ("https://www.ncbi.nlm.nih.gov/pubmed/90000001/", "90000001"),
        ("https://pubmed.ncbi.nlm.nih.gov/90000001/", "90000001"),
        (" 090000001", "90000001"),
        ("https://www.ncbi.nlm.nih.gov/pmc/articles/PMC1", ""),
        ("https://example.org/bioasq-mini/a/5", ""),
        ("", ""),
    ],
)
def test_pubmed_ids_in_addresses(document, pmid):
    assert pmid_of(document) == pmid


def test_one_document_under_several_addresses_is_read_once():
    base = "www.ncbi.nlm.nih.gov/pubmed/90000001"
    one = question(f"http://{base}", f"https://{base}/", "https://e.org/a", "http://e.org/a/")
    assert documents_of(one) == [(f"http://{base}", 0), ("https://e.org/a", 2)]
    assert documents_of(question(listed=["1", "2", "1"])) == [("1", -1), ("2", -1)]


def test_files_first_then_pubmed_with_a_reason_for_every_gap(server, save):
    path = save("abstracts.json", {"https://e.org/a": "From the file.", IDS[0]: "Mine."})
    address = "http://www.ncbi.nlm.nih.gov/pubmed/"
    one = question("https://e.org/a", "https://e.org/b", *(address + i for i in IDS), MISSING)
    found = pubmed.gather_abstracts([one], [path])
    assert found.texts[IDS[0]] == "Mine." and found.texts[IDS[3]].endswith("In English.")
    assert IDS[0] not in server.requests[0][1]["id"]
    assert found.unavailable == {
        "https://e.org/b": "not in the abstracts file and not a PubMed address",
        address + IDS[2]: "PubMed has no abstract for it",
        address + IDS[4]: "PubMed has the abstract only in chi, fre",
        MISSING: "PubMed has no article with this id",
    }
    assert found.remarks == (f"abstracts: retracted articles, used anyway: {IDS[6]}",)


def test_an_abstract_is_found_under_every_address_it_was_asked_for(server):
    one = question(f"https://pubmed.ncbi.nlm.nih.gov/0{IDS[0]}/ ", "https://e.org/" + IDS[1])
    found = pubmed.gather_abstracts([one])
    texts = [pair.context for pair in pairs_of(one, "abstract", found.texts)]
    assert len(texts) == 1 and texts[0].startswith("A plain title.")
    assert list(found.unavailable.values()) == ["not a PubMed address"]


def test_offline_with_nothing_at_all_says_what_to_do(server, monkeypatch):
    monkeypatch.setenv("HELPERS_OFFLINE", "1")
    with pytest.raises(InputError, match="unset HELPERS_OFFLINE.*abstracts.json") as caught:
        pubmed.gather_abstracts([question(IDS[0])])
    assert "\n" not in str(caught.value) and not server.requests
    monkeypatch.delenv("HELPERS_OFFLINE")
    with pytest.raises(InputError, match="not a PubMed address"):
        pubmed.gather_abstracts([question("https://e.org/a")])


def test_the_command_line_fetches_abstracts(server, save, tmp_path, capsys):
    script = Path(__file__).parents[2] / "data_scripts" / "bioasq_to_squad.py"
    data = {
        "id": "q", "type": "factoid", "body": "Which?", "exact_answer": [["TNF-α"]],
        "snippets": [{"text": "s", "document": f"https://pubmed.ncbi.nlm.nih.gov/{IDS[1]}/"}],
    }  # fmt: skip
    source = save("training7b.json", {"questions": [data, {**data, "id": "p", "snippets": [
        {"text": "s", "document": f"http://www.ncbi.nlm.nih.gov/pubmed/{IDS[2]}"}]}]})  # fmt: skip
    out, drops = tmp_path / "out.json", tmp_path / "drops.jsonl"
    arguments = [source, "--output", out, "--context", "abstract", "--drops", drops]
    assert runpy.run_path(str(script))["main"](list(map(str, arguments))) == 0
    (paragraph,) = json.loads(out.read_text("utf-8"))["data"][0]["paragraphs"]
    assert paragraph["context"].startswith("A structured abstract. BACKGROUND: TNF-α")
    assert paragraph["qas"][0]["answers"] == [{"text": "TNF-α", "answer_start": 35}]
    (drop,) = map(json.loads, drops.read_text("utf-8").splitlines())
    assert drop["reason"] == "no abstract" and "PubMed has no abstract for it" in drop["detail"]
