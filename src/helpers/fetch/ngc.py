"""NVIDIA's model registry NGC: the newest version of a model, and its files.

Public models need no account. NGC has changed its addresses over the years, and guests were
locked out at times, so each of the three known forms is tried, and the reasons are kept. Shapes
of the answers as NGC's own command line and NeMo's code read them; from here only the local
server of the tests was ever asked.

Environment: ``NGC_ENDPOINT`` (a mirror, or a test's server), ``NGC_API_KEY`` (sent to that host
only, never after a redirect to another one, and never over plain http except to this machine).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, urlsplit

from helpers.fetch.download import NotHere, download, get_json

ENDPOINT = "https://api.ngc.nvidia.com"


def endpoint() -> str:
    """The registry's address, without a slash at its end."""
    return (os.environ.get("NGC_ENDPOINT") or ENDPOINT).rstrip("/")


def headers() -> dict[str, str]:
    """Credentials, where there are any and the endpoint may have them."""
    key, address = os.environ.get("NGC_API_KEY", ""), urlsplit(endpoint())
    safe = address.scheme == "https" or address.hostname in ("127.0.0.1", "localhost", "::1")
    return {"Authorization": f"Bearer {key}"} if key and safe else {}


def newest_version(model: str) -> str:
    """The newest complete version of ``org/model``. Raises ``NotHere``.

    Newest by the date of creation where every version has one, else by number.
    """
    org, name = model.split("/")
    answer = _first(
        f"{endpoint()}/v2/models/{org}/{name}/versions",
        f"{endpoint()}/v2/models/org/{org}/{name}/versions",
    )
    versions = answer.get("modelVersions") or answer.get("versions") or []
    found = []
    for version in versions if isinstance(versions, list) else []:
        known = version.get("versionId") or version.get("id") if isinstance(version, dict) else None
        if known is not None and version.get("status", "UPLOAD_COMPLETE") == "UPLOAD_COMPLETE":
            found.append((str(version.get("createdDate") or ""), str(known)))
    if not found:
        raise NotHere(f"{endpoint()}: its list for {model} names no complete version")
    dated = all(date for date, _ in found)
    return max(found, key=lambda item: (item[0] if dated else "", _natural(item[1])))[1]


def list_files(model: str, version: str) -> dict[str, int | None]:
    """A version's files, name -> bytes where NGC tells them. Raises ``NotHere`` without a list."""
    org, name = model.split("/")
    answer = _first(
        f"{endpoint()}/v2/models/{org}/{name}/versions/{version}/files",
        f"{endpoint()}/v2/models/org/{org}/{name}/{version}/files",
    )
    listed = answer.get("modelFiles") or answer.get("filepath") or []
    files = {}
    for file in listed if isinstance(listed, list) else []:
        name, size = (
            (file.get("path"), file.get("sizeInBytes")) if isinstance(file, dict) else (file, None)
        )
        if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+", name):
            files = {}
            break
        files[name] = size if isinstance(size, int) and size > 0 else None
    if not files:
        raise NotHere(f"{endpoint()}: no list of plain file names for {model} {version}")
    return files


def get_file(
    model: str, version: str, file: str, part: Path, size: int | None = None, hashed: bool = False
) -> None:
    """Fetch one file into ``part`` by the first address form that has it. Raises ``NotHere``.

    ``size`` and ``hashed`` as in ``download``.
    """
    org, name = model.split("/")
    path = quote(file)
    _first_download(
        part,
        size,
        hashed,
        f"{endpoint()}/v2/models/{org}/{name}/versions/{version}/files/{path}",
        f"{endpoint()}/v2/models/org/{org}/{name}/{version}/files?redirect=true&path={path}",
    )


def get_zip(model: str, version: str, part: Path) -> None:
    """Fetch all files of a version as one zip. Raises ``NotHere``."""
    org, name = model.split("/")
    _first_download(
        part, None, False, f"{endpoint()}/v2/models/{org}/{name}/versions/{version}/zip"
    )


def _first(*addresses: str) -> dict:
    reasons = []
    for address in addresses:
        try:
            answer = get_json(address, headers())
        except NotHere as reason:
            reasons.append(str(reason))
        else:
            return answer if isinstance(answer, dict) else {}
    raise NotHere("; ".join(reasons))


def _first_download(part: Path, size: int | None, hashed: bool, *addresses: str) -> None:
    reasons = []
    for address in addresses:
        try:
            return download(address, part, size, headers(), hashed=hashed)
        except NotHere as reason:
            reasons.append(str(reason))
    raise NotHere("; ".join(reasons))


def _natural(version: str) -> list[tuple[int, str]]:
    return [(int(n or 0), text) for n, text in re.findall(r"(\d*)(\D*)", version)]
