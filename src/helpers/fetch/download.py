"""Download one URL: resume partial files, fail fast if the host is unreachable.

Nothing here decides whether the bytes are the right ones; ``fetch`` checks them before use.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm  # not tqdm.auto, whose bar freezes at 0% in a saved notebook

from helpers.config import InputError

CHUNK = 1 << 16  # bytes; what a cut connection can lose
TIMEOUTS = (5, 30)  # seconds: to connect, between two pieces of an answer
ATTEMPTS = 4  # in a row that brought nothing; each that brought a piece starts the count anew
PROGRESS = 1 << 20  # bytes that make such a piece
RETRY_STATUS = (408, 429, 500, 502, 503, 504)
_PAGE = "a web page came (a login, a proxy's notice?) and not the file"
LONGEST_PAUSE = 20.0  # seconds between two attempts, whatever the server asks for


class NotHere(Exception):
    """A source cannot give a file; the message is the reason, as shown to the user."""


class _Again(Exception):
    """This attempt failed, another may not."""

    def __init__(self, reason: str, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause


@contextmanager
def writing(folder: Path):
    """Turn what the disk refuses into an ``InputError`` that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}); make room, or choose "
            "another folder through --to or the environment's HELPERS_CACHE"
        ) from None


def offline() -> bool:
    """True when ``HELPERS_OFFLINE`` forbids every network connection."""
    return os.environ.get("HELPERS_OFFLINE", "").lower() not in ("", "0", "false", "no")


def download(
    url: str,
    part: Path,
    size: int | None = None,
    headers: dict | None = None,
    *,
    hashed: bool = False,
) -> None:
    """Bring ``part`` to the whole of ``url``, continuing with what it already holds.

    ``size`` is the number of bytes expected, ``None`` when only the server knows. ``hashed`` says
    that the caller compares a SHA-256 afterwards; without it, what was begun goes on only while
    the server's ETag or date stays the same. ``headers`` may hold credentials: requests drops them
    when a redirect leads to another host. A host that cannot be reached is not tried twice. Raises
    ``NotHere`` with the reason; what arrived until then stays in ``part``.
    """
    if offline():
        raise NotHere("HELPERS_OFFLINE is set")
    failures, best = 0, _size(part)
    while True:
        try:
            _attempt(url, part, size, headers or {}, hashed)
            _tag(part).unlink(missing_ok=True)
            return
        except _Again as reason:
            failures = 1 if _size(part) >= best + PROGRESS else failures + 1
            best = max(best, _size(part))
            if failures >= ATTEMPTS:
                raise NotHere(f"{url}: {reason}, {failures} times in a row") from None
            pause = 2.0 ** (failures - 1) if reason.pause is None else reason.pause
            time.sleep(min(pause, LONGEST_PAUSE))


def get_json(url: str, headers: dict | None = None) -> Any:
    """The JSON behind an address. Raises ``NotHere`` with the reason."""
    with writing(Path(tempfile.gettempdir())):
        scratch = tempfile.TemporaryDirectory()
    with scratch as folder:
        answer = Path(folder) / "answer.json"
        download(url, answer, headers=headers)
        try:
            return json.loads(answer.read_bytes())
        except ValueError:
            raise NotHere(f"{url}: the answer is not JSON") from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tag(part: Path) -> Path:
    """Where the server's mark of a half-fetched file is kept."""
    return part.with_name(part.name + ".etag")


def _attempt(url: str, part: Path, size: int | None, headers: dict, hashed: bool) -> None:
    import requests  # here, since importing it takes longer than most of the kit

    tag = _tag(part).read_text() if _tag(part).exists() else ""
    if not tag and not (hashed and size is not None):
        part.unlink(missing_ok=True)  # nothing says that it is a piece of what is there now
    elif size is not None and _size(part) > size:
        part.unlink()
    have = _size(part)
    if have and have == size:
        return
    headers = headers | {"Accept-Encoding": "identity", "User-Agent": "biomegatron-bioasq-kit"}
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": tag} if tag else {})
    try:
        answer = requests.get(url, headers=headers, stream=True, timeout=TIMEOUTS)
    except requests.exceptions.RequestException as error:
        if hopeless(error):
            raise NotHere(f"{url}: {in_words(error)}") from None
        raise _Again(in_words(error)) from None
    with answer:
        have, size = _check_answer(url, answer, part, have, size)
        with writing(part.parent):
            _tag(part).write_text(_validator(answer.headers))
        try:
            _save(url, answer, part, have, size)
        except requests.exceptions.RequestException as error:
            raise _Again(f"cut after {_of(part, size)} bytes ({in_words(error)})") from None
    if size is not None and _size(part) < size:
        raise _Again(f"cut after {_of(part, size)} bytes")


def _validator(headers) -> str:
    """What If-Range may send: a strong ETag (a weak one promises no equal bytes), or a date."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _of(part: Path, size: int | None) -> str:
    return f"{_size(part)}" if size is None else f"{_size(part)} of {size}"


def _check_answer(url: str, answer, part: Path, have: int, size: int | None):
    """Refuse what is not the file; return where the answer's body starts, and the whole size."""
    status = answer.status_code
    if status in RETRY_STATUS:
        raise _Again(f"HTTP {status}", asked_pause(answer.headers.get("Retry-After", "")))
    start = answer.headers.get("Content-Range", "")
    if status == 416 or (status == 206 and not start.startswith(f"bytes {have}-")):
        part.unlink(missing_ok=True)
        raise _Again("the server would not continue where the last attempt stopped", 0)
    if status not in (200, 206):
        raise NotHere(f"{url}: HTTP {status} {answer.reason or ''}".rstrip())
    if "text/html" in answer.headers.get("Content-Type", ""):
        raise NotHere(f"{url}: {_PAGE}")
    if status == 200:
        have = 0  # the server ignores ranges, so this is the whole file again
    length = answer.headers.get("Content-Length", "")
    if length.isdigit() and size is None:
        size = have + int(length)
        check_disk(part.parent, int(length))
    elif length.isdigit() and have + int(length) != size:
        raise NotHere(f"{url}: {have + int(length)} bytes are offered where {size} are expected")
    elif size is None and not _shows_its_end(answer.headers):
        raise NotHere(f"{url}: the server does not say how long it is, so a cut would not show")
    return have, size


def _shows_its_end(headers) -> bool:
    """Whether a cut shows without a length: chunks are counted, JSON has to be closed."""
    chunked = "chunked" in headers.get("Transfer-Encoding", "")
    return chunked or "json" in headers.get("Content-Type", "")


def asked_pause(after: str) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date."""
    if after.isascii() and after.isdecimal():
        return float(after)
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except ValueError:
        return None


def check_disk(folder: Path, needed: int) -> None:
    """Raise ``InputError`` unless ``needed`` bytes and a little more fit into ``folder``."""
    free = shutil.disk_usage(folder).free
    if free < needed * 1.05:
        raise InputError(
            f"{folder}: {needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free; make "
            "room, or choose another folder through --to or the environment's HELPERS_CACHE"
        )


def _save(url: str, answer, part: Path, have: int, size: int | None) -> None:
    title = url.rsplit("/", 1)[-1].rsplit("path=", 1)[-1]
    bar = tqdm(desc=title, total=size, initial=have, unit="B", unit_scale=True)
    with writing(part.parent):
        part.touch()
        os.truncate(part, have)
    with bar, open(part, "ab") as out:
        for chunk in answer.iter_content(CHUNK):
            if not have and re.match(rb"\s*<(!doctype\s+)?html", chunk[:100], re.IGNORECASE):
                raise NotHere(f"{url}: {_PAGE}")
            have += len(chunk)
            if size is not None and have > size:
                part.unlink()
                _tag(part).unlink(missing_ok=True)
                raise NotHere(f"{url}: more than the expected {size} bytes came")
            with writing(part.parent):
                out.write(chunk)
                out.flush()
            bar.update(len(chunk))


def hopeless(error: Exception) -> bool:
    """True where no connection came about: name unknown, refused, timed out, TLS, bad address."""
    import requests
    import urllib3

    if isinstance(error, requests.exceptions.ReadTimeout):
        return False
    if not isinstance(error, requests.exceptions.ConnectionError):
        return True
    # urllib3 wraps what happened before the request was sent in MaxRetryError; a server that
    # hung up afterwards is a ProtocolError, and worth another attempt.
    return bool(error.args) and isinstance(error.args[0], urllib3.exceptions.MaxRetryError)


def in_words(error: Exception) -> str:
    """What went wrong with a connection, in a few words for the user."""
    text = str(error)
    for sign, words in {
        "NameResolution": "the host's name is unknown (no network?)",
        "ConnectTimeout": "no connection within the time limit",
        "Connection refused": "connection refused",
        "CERTIFICATE": "its TLS certificate is not trusted here",
        "Read timed out": "no answer within the time limit",
    }.items():
        if sign in text or sign in repr(error):
            return words
    return f"{type(error).__name__}: {' '.join(text.split())[:160]}"
