"""One address to one file: resumed where it stopped, and given up at once where it is hopeless.

Nothing here decides whether the bytes are the right ones; ``fetch`` checks them before use.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tqdm import tqdm  # not tqdm.auto, whose bar freezes at 0% in a saved notebook

CHUNK = 1 << 16  # bytes; what a cut connection can lose
TIMEOUTS = (5, 30)  # seconds: to connect, between two pieces of an answer
ATTEMPTS = 4  # in a row that brought nothing; each that brought a piece starts the count anew
PROGRESS = 1 << 20  # bytes that make such a piece
RETRY_STATUS = (408, 429, 500, 502, 503, 504)
LONGEST_PAUSE = 20.0  # seconds between two attempts, whatever the server asks for


class NotHere(Exception):
    """A source cannot give a file; the message is the reason, as shown to the user."""


class _Again(Exception):
    """This attempt failed, another may not."""

    def __init__(self, reason: str, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause


def offline() -> bool:
    """True when ``HELPERS_OFFLINE`` forbids every network connection."""
    return os.environ.get("HELPERS_OFFLINE", "").lower() not in ("", "0", "false", "no")


def download(url: str, part: Path, size: int) -> None:
    """Bring ``part`` to the ``size`` bytes of ``url``, continuing with what it already holds.

    A host that cannot be reached is not tried twice. Raises ``NotHere`` with the reason; what
    arrived until then stays in ``part`` for the next call.
    """
    if offline():
        raise NotHere("HELPERS_OFFLINE is set")
    failures, best = 0, _size(part)
    while True:
        try:
            _attempt(url, part, size)
            return
        except _Again as reason:
            failures = 1 if _size(part) >= best + PROGRESS else failures + 1
            best = max(best, _size(part))
            if failures >= ATTEMPTS:
                raise NotHere(f"{url}: {reason}, {failures} times in a row") from None
            pause = 2.0 ** (failures - 1) if reason.pause is None else reason.pause
            time.sleep(min(pause, LONGEST_PAUSE))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _attempt(url: str, part: Path, size: int) -> None:
    import requests  # here, since importing it takes longer than most of the kit

    if _size(part) > size:
        part.unlink()
    have = _size(part)
    if have == size > 0:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "biomegatron-bioasq-kit"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        answer = requests.get(url, headers=headers, stream=True, timeout=TIMEOUTS)
    except requests.exceptions.RequestException as error:
        if _hopeless(error):
            raise NotHere(f"{url}: {_in_words(error)}") from None
        raise _Again(_in_words(error)) from None
    with answer:
        have = _check_answer(url, answer, part, have, size)
        try:
            _save(url, answer, part, have, size)
        except requests.exceptions.RequestException as error:
            raise _Again(f"cut after {_size(part)} of {size} bytes ({_in_words(error)})") from None
    if _size(part) < size:
        raise _Again(f"cut after {_size(part)} of {size} bytes")


def _check_answer(url: str, answer, part: Path, have: int, size: int) -> int:
    """Refuse what is not the file; return the byte at which the answer's body starts."""
    status = answer.status_code
    if status in RETRY_STATUS:
        wait = answer.headers.get("Retry-After", "")
        raise _Again(f"HTTP {status}", float(wait) if wait.isdigit() else None)
    start = answer.headers.get("Content-Range", "")
    if status == 416 or (status == 206 and not start.startswith(f"bytes {have}-")):
        part.unlink(missing_ok=True)
        raise _Again("the server would not continue where the last attempt stopped", 0)
    if status not in (200, 206):
        raise NotHere(f"{url}: HTTP {status} {answer.reason or ''}".rstrip())
    if "text/html" in answer.headers.get("Content-Type", ""):
        raise NotHere(f"{url}: a web page came (a login, a proxy's notice?) and not the file")
    if status == 200:
        have = 0  # the server ignores ranges, so this is the whole file again
    length = answer.headers.get("Content-Length", "")
    if length.isdigit() and have + int(length) != size:
        raise NotHere(f"{url}: {have + int(length)} bytes are offered where {size} are expected")
    return have


def _save(url: str, answer, part: Path, have: int, size: int) -> None:
    bar = tqdm(desc=url.rsplit("/", 1)[-1], total=size, initial=have, unit="B", unit_scale=True)
    with bar, open(part, "ab") as out:
        out.truncate(have)
        for chunk in answer.iter_content(CHUNK):
            have += len(chunk)
            if have > size:
                part.unlink()
                raise NotHere(f"{url}: more than the expected {size} bytes came")
            out.write(chunk)
            bar.update(len(chunk))


def _hopeless(error: Exception) -> bool:
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


def _in_words(error: Exception) -> str:
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
