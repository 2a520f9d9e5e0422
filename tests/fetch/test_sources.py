"""Checkpoints without published hashes: NGC, the hub, the user's own copy, and the lock file."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from ngc_server import NgcServer, cut, send, send_json, zipped

from helpers.config import InputError
from helpers.fetch import download, fetch, registry, sources
from helpers.fetch.download import File

NAME = "BioMegatron345mUncasedSQuADv1"
MODEL = "biomegatron345muncasedsquadv1"
CONTENT = {
    "MegatronBERT.pt": bytes(range(256)) * 2000,
    "TokenClassifier.pt": b"head",
    "config.json": b"{}",
    "vocab.txt": b"[PAD]\n[UNK]\n",
}


def fill(folder: Path, **changed: bytes) -> Path:
    folder.mkdir(parents=True)
    for name, body in CONTENT.items():
        (folder / name).write_bytes(changed.get(name.partition(".")[0], body))
    return folder


@pytest.fixture
def server(tmp_path, monkeypatch):
    fill(tmp_path / "ngc" / MODEL / "1")
    monkeypatch.setenv("HELPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HELPERS_LOCK", raising=False)
    monkeypatch.delenv("HELPERS_OFFLINE", raising=False)
    monkeypatch.delenv("NGC_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=lambda _: None))
    with NgcServer(tmp_path / "ngc") as running:
        monkeypatch.setenv("NGC_ENDPOINT", running.url)
        yield running


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / NAME


def held(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("forms", [{"files"}, {"redirect"}, {"zip"}])
@pytest.mark.parametrize("lists", [True, False])
def test_each_address_form_brings_all_files(server, cache, forms, lists):
    server.forms, server.lists_files = forms, lists
    if forms != {"zip"} and not lists:
        with pytest.raises(InputError, match="Tried: .*list of plain file names|HTTP 404"):
            fetch.fetch(NAME)
        return
    got = fetch.fetch(NAME.lower())
    assert got.name == NAME and got.folder == cache and held(cache) == CONTENT
    assert "version 1" in got.origin
    lock = json.loads(registry.lock_file().read_text())[NAME]
    assert lock["version"] == "1" and lock["files"]["vocab.txt"]["bytes"] == 12
    assert got.files["vocab.txt"] == hashlib.sha256(CONTENT["vocab.txt"]).hexdigest()
    server.requests.clear()
    assert fetch.fetch(NAME).origin == "cache" and not server.requests


def test_names_known_of_old_when_nothing_is_listed(server, tmp_path):
    fill(tmp_path / "ngc" / "biomegatron345muncased" / "0")
    server.lists_files, server.forms = False, {"files"}
    assert set(fetch.fetch("BioMegatron345mUncased").files) == {"MegatronBERT.pt", "vocab.txt"}


def test_newest_version_by_date_else_by_number(server, tmp_path, monkeypatch):
    fill(tmp_path / "ngc" / MODEL / "2", vocab=b"newer\n")
    assert sources.newest_version(f"nvidia/{MODEL}") == "2"
    answers = [
        ({"modelVersions": [{"versionId": "9"}, {"versionId": "10"}]}, "10"),
        ({"versions": [{"id": "1"}, {"id": "2", "status": "UPLOAD_PENDING"}]}, "1"),
    ]
    for answer, version in answers:
        monkeypatch.setattr(sources, "get_json", lambda *_, a=answer: a)
        assert sources.newest_version(f"nvidia/{MODEL}") == version
    for broken in ([], {"modelVersions": "x"}, {"modelVersions": [{"versionId": None}]}):
        monkeypatch.setattr(sources, "get_json", lambda *_, a=broken: a)
        with pytest.raises(download.NotHere, match="contains no complete version"):
            sources.newest_version(f"nvidia/{MODEL}")


@pytest.mark.fault("a download that breaks off")
def test_a_cut_download_goes_on_where_it_stopped(server, cache):
    server.faults = [cut(300_000)]
    fetch.fetch(NAME)
    asked = [h["Range"] for path, h in server.requests if "MegatronBERT" in path and "Range" in h]
    assert len(asked) == 1 and 0 < int(asked[0][6:-1]) <= 300_000
    assert held(cache) == CONTENT


@pytest.mark.fault("a server that stalls")
def test_a_stalled_download_goes_on(server, cache, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUTS", (1, 0.2))
    released = threading.Event()

    def stall(handler, body):
        send(handler, 200, body[:200_000], len(body), ETag=f'"{hash(body)}"')
        handler.wfile.flush()
        released.wait(5)

    server.faults = [stall]
    fetch.fetch(NAME)
    released.set()
    assert held(cache) == CONTENT and any("Range" in headers for _, headers in server.requests)


def test_retry_after_in_seconds_or_as_a_date(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_000_000_000.0)
    assert download.asked_pause("7") == 7
    assert download.asked_pause("Sun, 09 Sep 2001 01:46:50 GMT") == 10
    assert download.asked_pause("Sun, 09 Sep 2001 01:46:30 GMT") == 0
    assert download.asked_pause("soon") is None and download.asked_pause("") is None


def test_a_begun_file_that_changed_on_the_server_is_not_spliced(server, cache, tmp_path):
    server.forms = {"files"}
    server.faults = [cut(300_000), 503, 503, 503]
    with pytest.raises(InputError):
        fetch.fetch(NAME)
    changed = bytes(512_000)
    (tmp_path / "ngc" / MODEL / "1" / "MegatronBERT.pt").write_bytes(changed)
    fetch.fetch(NAME)
    assert held(cache)["MegatronBERT.pt"] == changed


def test_a_changed_file_is_noticed_by_its_tag(server, cache, tmp_path):
    server.forms = {"files"}
    server.faults = [cut(300_000), 503, 503, 503]
    with pytest.raises(InputError):
        fetch.fetch(NAME)
    server.requests.clear()
    assert fetch.fetch(NAME).folder == cache and held(cache) == CONTENT
    asked = [headers for path, headers in server.requests if path.endswith("MegatronBERT.pt")]
    assert "Range" in asked[0] and "If-Range" in asked[0]


def test_a_busy_answer_does_not_forget_what_was_fetched(server, cache, monkeypatch):
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=lambda _: None))
    server.faults = [cut(300_000), 429]
    fetch.fetch(NAME)
    asked = [h for path, h in server.requests if path.endswith("MegatronBERT.pt")]
    assert "Range" in asked[-1] and held(cache) == CONTENT


def without_length(handler, body):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(body[:1000])
    handler.close_connection = True


def a_page(handler, body):
    send(handler, 200, b"<!DOCTYPE html><html>log in</html>", Content_Type="application/binary")


def too_short(handler, body):
    send(handler, 200, body[:1000])


@pytest.mark.parametrize("fault", [without_length, a_page, too_short])
def test_at_the_first_fetch_too_a_wrong_answer_is_refused(server, cache, fault):
    server.forms = {"files"}
    server.faults = [fault] * 9
    with pytest.raises(InputError):
        fetch.fetch(NAME)
    assert not registry.lock_file().exists() and not list(cache.glob("*.pt"))


@pytest.mark.parametrize("names", [["holiday.txt"], ["vocab.txt"], ["MegatronBERT.pt"], []])
def test_what_cannot_be_a_checkpoint_is_not_recorded(server, cache, tmp_path, names):
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"text")
    with pytest.raises(InputError, match="not a checkpoint; it contains"):
        fetch.fetch(NAME, source=tmp_path / "own.zip")
    assert not registry.lock_file().exists()
    assert fetch.fetch(NAME).folder == cache and held(cache) == CONTENT


def test_two_files_of_one_name_leave_nothing_behind(server, cache, tmp_path):
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        for name in ("a/config.json", "b/config.json", "MegatronBERT.pt", "vocab.txt"):
            archive.writestr(name, b"{}")
    with pytest.raises(InputError, match=r"two files named config\.json"):
        fetch.fetch(NAME, source=tmp_path / "own.zip")
    assert fetch.fetch(NAME).folder == cache and held(cache) == CONTENT


def test_ngc_helps_out_after_a_first_fetch_from_a_folder(server, cache, tmp_path):
    fetch.fetch(NAME, source=fill(tmp_path / "own"))
    (cache / "vocab.txt").unlink()
    assert fetch.fetch(NAME).origin == "cache and NGC" and held(cache) == CONTENT


@pytest.mark.fault("other bytes than at the first download")
def test_other_bytes_than_at_the_first_fetch_are_refused(server, cache, tmp_path):
    fetch.fetch(NAME)
    shutil.rmtree(cache)
    (tmp_path / "ngc" / MODEL / "1" / "vocab.txt").write_bytes(b"[PAD]\n[OOV]\n")
    with pytest.raises(InputError) as refused:
        fetch.fetch(NAME)
    both = hashlib.sha256(b"[PAD]\n[OOV]\n").hexdigest(), registry.lock_file()
    assert all(str(part) in str(refused.value) for part in both)
    own = fill(tmp_path / "own", vocab=b"[PAD]\n[OOV]\n")
    with pytest.raises(InputError, match="wrong SHA-256.*recorded at the first fetch"):
        fetch.fetch(NAME, source=own)
    assert fetch.fetch(NAME, source=fill(tmp_path / "good")).folder == cache
    assert held(cache) == CONTENT


def test_recorded_files_come_from_the_zip_too(server, cache):
    fetch.fetch(NAME)
    shutil.rmtree(cache)
    server.forms = {"zip"}
    assert fetch.fetch(NAME).origin == "NGC" and held(cache) == CONTENT


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "nemo"])
def test_the_users_own_copy(server, cache, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HELPERS_OFFLINE", "1")
    own = fill(tmp_path / "own" / "inner")
    if kind == "zip":
        (tmp_path / "own.zip").write_bytes(zipped(own))
        own = tmp_path / "own.zip"
    elif kind == "tar":
        own = Path(shutil.make_archive(str(tmp_path / "own"), "gztar", own.parent))
    elif kind == "nemo":
        shutil.move(shutil.make_archive(str(tmp_path / "m"), "tar", own), tmp_path / "m.nemo")
        own = tmp_path / "m.nemo"
    got = fetch.fetch(NAME, source=own)
    if kind == "nemo":
        assert got.folder == cache / "m.nemo" and got.folder.read_bytes() == own.read_bytes()
    else:
        assert got.folder == cache and held(cache) == CONTENT
    assert fetch.fetch(NAME).origin == "cache"


def test_files_placed_by_hand_are_taken(server, cache, monkeypatch):
    monkeypatch.setenv("HELPERS_OFFLINE", "1")
    fill(cache)
    assert fetch.fetch(NAME).origin == "placed by hand"
    (cache / "vocab.txt").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"vocab\.txt has a wrong SHA-256"):
        fetch.fetch(NAME)
    assert (cache / "vocab.txt").read_bytes() == b"damaged"


def test_another_folder_must_be_empty_at_the_first_fetch(server, tmp_path):
    fill(tmp_path / "mine")
    with pytest.raises(InputError, match="is not empty; choose an empty folder"):
        fetch.fetch(NAME, to=tmp_path / "mine")
    assert fetch.fetch(NAME, to=tmp_path / "new").folder == tmp_path / "new"


@pytest.mark.fault("keys and passwords in the environment")
def test_the_key_goes_to_ngc_only(server, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("NGC_API_KEY", "secret")
    with NgcServer(tmp_path) as elsewhere:
        elsewhere.answer = lambda handler: send(
            handler, 200, CONTENT[handler.path.rsplit("/", 1)[-1]]
        )
        server.redirect_to = elsewhere.url.replace("127.0.0.1", "localhost")
        fetch.fetch(NAME)
        assert held(cache) == CONTENT
        assert all(h.get("Authorization") == "Bearer secret" for _, h in server.requests)
        assert elsewhere.requests
        assert not any("Authorization" in h for _, h in elsewhere.requests)
    monkeypatch.setenv("NGC_ENDPOINT", "http://mirror.example")
    assert sources.headers() == {}
    monkeypatch.setenv("NGC_ENDPOINT", "https://mirror.example")
    assert sources.headers() == {"Authorization": "Bearer secret"}


def test_all_reasons_and_the_way_by_hand(server, cache, monkeypatch):
    def page(handler, _):
        send(handler, 200, b"<html>sign in</html>", Content_Type="text/html; charset=utf-8")

    server.faults = [page, 403, page]
    with pytest.raises(InputError) as refused:
        fetch.fetch(NAME)
    said = str(refused.value)
    for words in ("web page", "HTTP 403", "/zip", "catalog.ngc.nvidia.com", str(cache), "API_KEY"):
        assert words in said
    assert "\n" not in said and not [n for n in held(cache) if n.endswith((".pt", ".json"))]


def test_offline_asks_nobody(server, monkeypatch):
    monkeypatch.setenv("HELPERS_OFFLINE", "1")

    def forbidden(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket", forbidden)
    for name in (NAME, "someone/bert"):
        with pytest.raises(InputError, match="HELPERS_OFFLINE is set"):
            fetch.fetch(name)


def test_a_hub_model_of_transformers_5_in_parts(server, tmp_path, monkeypatch):
    parts = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    files = dict.fromkeys(["config.json", "tokenizer.json", "model.safetensors.index.json", *parts])
    files = {name: name.encode() for name in files}
    listed = [{"rfilename": n, "size": len(b)} for n, b in files.items()]
    listed += [{"rfilename": "pytorch_model.bin", "size": 5}, {"rfilename": "onnx/model.onnx"}]

    def answer(handler):
        if "/api/models/" in handler.path:
            return send_json(handler, {"id": "someone/bert", "sha": "c" * 40, "siblings": listed})
        return send(handler, 200, files[handler.path.rsplit("/", 1)[-1]])

    server.answer = answer
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    assert held(fetch.fetch("someone/bert").folder) == files


def test_hub_names_are_resolved_to_a_commit(server, tmp_path, monkeypatch):
    weights, commit = b"weights" * 100, "c" * 40
    files = {"config.json": b"{}", "vocab.txt": b"[PAD]\n", "pytorch_model.bin": weights}
    digest = hashlib.sha256(weights).hexdigest()
    large = {"sha256": digest, "size": len(weights), "pointerSize": 134}
    listed = [{"rfilename": n, "size": len(b)} for n, b in files.items()]
    listed[-1]["lfs"] = large

    def answer(handler):
        if "/api/models/someone/bert/revision/main" in handler.path:
            return send_json(handler, {"id": "someone/bert", "sha": commit, "siblings": listed})
        name = handler.path.rsplit("/", 1)[-1]
        right = f"/someone/bert/resolve/{commit}/" in handler.path and name in files
        return send(handler, 200, files[name]) if right else send(handler, 404)

    server.answer = answer
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    got = fetch.fetch("someone/bert")
    assert got.folder == tmp_path / "cache" / "someone--bert" and held(got.folder) == files
    assert json.loads(registry.lock_file().read_text())["someone/bert"]["version"] == commit
    (got.folder / "vocab.txt").unlink()
    assert fetch.fetch("someone/bert").origin == "cache and hub"
    with pytest.raises(InputError, match="there is no folder no/where here"):
        fetch.fetch("no/where")
    large["sha256"] = "0" * 64
    registry.lock_file().unlink()
    shutil.rmtree(got.folder)
    with pytest.raises(InputError, match="wrong SHA-256"):
        fetch.fetch("someone/bert")


def test_damaged_lock_file_and_archive(server, tmp_path):
    registry.lock_file().parent.mkdir(parents=True)
    registry.lock_file().write_text(json.dumps({NAME: {"files": {"a": 1}}}))
    with pytest.raises(InputError, match="is damaged; remove it"):
        fetch.fetch(NAME)
    registry.lock_file().write_text("{}")
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("../evil", "x")
    with pytest.raises(InputError, match="not a plain path inside the archive"):
        fetch.fetch(NAME, source=bad)
    for other in (tmp_path / "none", registry.lock_file()):
        with pytest.raises(InputError, match="does not exist|is not a folder"):
            fetch.fetch(NAME, source=other)


def test_squad_from_a_mirror(server, tmp_path, monkeypatch):
    body = b'{"version": "1.1", "data": []}'
    file = File("dev-v1.1.json", hashlib.sha256(body).hexdigest(), len(body))
    entry = registry.REGISTRY["squad-dev"]
    monkeypatch.setitem(registry.REGISTRY, "squad-dev", registry.replace(entry, files=(file,)))
    monkeypatch.setenv("SQUAD_ENDPOINT", server.url + "/squad/")
    server.answer = lambda handler: send(handler, 200, body)
    got = fetch.fetch("squad-dev")
    assert (got.folder / "dev-v1.1.json").read_bytes() == body and got.origin == "web"
    assert server.requests[0][0] == "/squad/dev-v1.1.json"


@pytest.mark.fault("no network")
@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://hub.invalid", "not-an-address"])
def test_without_a_network_the_hub_is_given_up_on_one_line(server, monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("a second try"))
    with pytest.raises(InputError, match=f"hub: {address}: someone/bert: ") as refused:
        fetch.fetch("someone/bert")
    assert "\n" not in str(refused.value) and "By hand" in str(refused.value)
    assert ("the host name is unknown" in str(refused.value)) == ("invalid" in address)


@pytest.mark.parametrize("answer", [b"<html>log in</html>", b"{}", b"[]", b'{"siblings": [{}]}'])
def test_an_answer_that_is_not_the_hubs_is_refused_on_one_line(server, monkeypatch, answer):
    server.answer = lambda handler: send(handler, 200, answer)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    with pytest.raises(InputError, match="hub: ") as refused:
        fetch.fetch("someone/bert")
    assert "\n" not in str(refused.value)


@pytest.mark.fault("keys and passwords in the environment")
def test_a_password_in_a_mirrors_address_is_never_shown_or_stored(server, cache, monkeypatch):
    monkeypatch.setenv("NGC_ENDPOINT", server.url.replace("//", "//reader:secret@"))
    got = fetch.fetch(NAME)
    assert got.origin.endswith(f"({server.url})")
    assert "secret" not in registry.lock_file().read_text() + repr(got)
    shutil.rmtree(cache)
    registry.lock_file().unlink()
    shutil.rmtree(server.folder / MODEL / "1")
    with pytest.raises(InputError, match=server.url) as caught:
        fetch.fetch(NAME)
    assert "secret" not in str(caught.value)


@pytest.mark.fault("a server's answer without an end")
@pytest.mark.parametrize("header", [{"Transfer-Encoding": "chunked"}, {}])
def test_an_answer_without_an_end_is_given_up(header, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LISTING", 1000)
    sent = []

    def endless(handler):
        handler.send_response(200)
        for name, value in {"Content-Type": "application/json", **header}.items():
            handler.send_header(name, value)
        handler.end_headers()
        piece = b"3e8\r\n" + b"[" * 1000 + b"\r\n" if header else b"[" * 1000
        while len(sent) < 10_000:
            handler.wfile.write(piece)  # raises an exception as soon as nobody listens
            sent.append(len(piece))

    monkeypatch.setattr(server, "answer", endless)
    with pytest.raises(download.NotHere, match="more than 1000 bytes"):
        sources.newest_version(f"nvidia/{MODEL}")
    monkeypatch.setattr(server, "answer", endless)
    with pytest.raises(download.NotHere, match="more than 5000 bytes"):
        download.download(f"{server.url}/file", tmp_path / "part", most=5000)
    assert not (tmp_path / "part").exists()


@pytest.mark.fault("JSON nested too deeply")
def test_an_answer_nested_too_deeply_is_no_json(server, monkeypatch):
    deep = b"[" * 200_000
    monkeypatch.setattr(
        server, "answer", lambda handler: send(handler, 200, deep, Content_Type="application/json")
    )
    with pytest.raises(download.NotHere, match="the response is not JSON"):
        sources.newest_version(f"nvidia/{MODEL}")
