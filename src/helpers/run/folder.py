"""A run's folder and its ``manifest.json``: what lies in it, what made it, on which machine.

Notebooks pass each other files through here, never kernel state. Each stage of a run records the
settings that decide its output and the hashes of what it read. The next stage checks both, so a
notebook run out of order or under other settings gets a clear message instead of a false score.

The stages of a run, and which settings decide the output of each.

A stage's record in the manifest (``notes`` of the manifest, under the stage's name) holds these
settings, the hashes of what the stage read, one hash of all that it made, and the code and machine
that ran it. The records say what is behind a score, whatever the current settings are.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from helpers import __version__
from helpers.config import InputError, Settings
from helpers.data.bioasq import read_json
from helpers.io import check_outputs, sha256, write_json, write_text
from helpers.run import provenance

MANIFEST = "manifest.json"
HEADER = ("kit", "python", "packages", "hardware")  # of a manifest; a record keeps them too


@dataclass(frozen=True)
class Stage:
    """The notebook that runs it, the settings that decide its output, the stages it reads.

    Settings that act only through a stage it reads are that stage's.
    """

    notebook: str
    settings: tuple[str, ...]
    reads: tuple[str, ...] = ()


_WINDOWS = ("max_length", "step", "max_query")
_LEARNING = (*_WINDOWS, "seed", "warmup_fraction", "weight_decay", "dropout")
_ANSWERING = (*_WINDOWS, "nbest", "max_answer", "merge")
STAGES = {
    "checkpoint": Stage("01_download_checkpoint", ("model", "qkv_order")),
    "data": Stage(
        "02_bioasq_to_squad",
        ("profile", "bioasq_dir", "context", "snippets", "dev_fraction", "seed",
         "allow_leak"),
    ),
    "squad_step": Stage(
        "03_fine_tune",
        (*_LEARNING, "squad_epochs", "squad_file", "squad_dev", "squad_batch_size",
         "squad_learning_rate", "dev_fraction", "nbest", "max_answer"),  # the last two: its F1
        ("checkpoint",),
    ),
    "model": Stage(
        "03_fine_tune",
        (*_LEARNING, "epochs", "batch_size", "learning_rate"),
        ("checkpoint", "squad_step", "data"),
    ),
    "answers": Stage("04_error_analysis", _ANSWERING, ("model", "data")),
    "baselines": Stage(
        "04_error_analysis", (*_ANSWERING, "seed"), ("checkpoint", "squad_step", "data")
    ),
    "scores": Stage(
        "05_reproduce_metrics", ("missing",), ("answers", "baselines", "model", "data")
    ),
}  # fmt: skip
# Settings that decide no stage's output, each with the reason.
NEUTRAL = {
    "run": "names the folder",
    "runs_dir": "says where the folder is",
    "wandb_mode": "logging only",
}


def as_recorded(folder: Path, manifest: Mapping, stage: str = "scores") -> dict[str, Any]:
    """A run's manifest with the settings, code and machine that made ``stage``.

    The header of a manifest has those of whoever opened the run last. The machine is the one that
    trained the model. A manifest of an older kit, without records, has only its header. Raises
    ``InputError`` when the stage is not finished, or what it read has been made again since.
    """
    notes = manifest.get("notes", {})
    found = {**manifest, "settings": {**vars(Settings()), **manifest["settings"]}}
    if any("sha256" in notes.get(name, {}) for name in STAGES):
        for _, record in chain(folder, notes, stage):
            found["settings"] |= record["settings"]
            found |= {part: record[part] for part in HEADER}
        found |= {"profile": found["settings"]["profile"], "hardware": notes["model"]["hardware"]}
    return found


def upstream(stage: str) -> list[str]:
    """All stages that a stage reads, in their order, and last the stage itself."""
    return [name for read in STAGES[stage].reads for name in upstream(read)] + [stage]


def chain(folder: Path, notes: Mapping, stage: str) -> Iterator[tuple[str, Mapping]]:
    """A stage's record and those of all stages that it read, these first; each must be there."""
    record, run_it = notes.get(stage, {}), f"run notebook {STAGES[stage].notebook}"
    if "sha256" not in record:
        raise InputError(
            f"{folder / MANIFEST}: the stage {stage!r} is not finished, or was recorded by an "
            f"older version of the kit; {run_it}"
        )
    for name in STAGES[stage].reads:
        yield from chain(folder, notes, name)
        if record["inputs"].get(name) != notes[name]["sha256"]:
            raise InputError(f"{folder}: the stage {name!r} has been run again since {stage!r} "
                             f"read it; {run_it} again")  # fmt: skip
    yield stage, record


SCHEMA_VERSION = 1
LATEST = "latest"
_RECORD = ("settings", "inputs", "sha256", *HEADER)  # what a stage's note holds beside its facts
PACKAGES = (
    "torch", "nemo_toolkit", "transformers", "tokenizers", "lightning", "safetensors", "numpy",
    "scipy", "pandas", "matplotlib", "papermill", "wandb",
)  # fmt: skip


class Run:
    """One run's folder. The manifest is read anew at every step, since notebooks share it."""

    def __init__(self, folder: Path, settings: Settings):
        if settings.run in (LATEST, f"{LATEST}.txt"):
            raise InputError(f"run: {settings.run!r} is kept for the link to the newest run")
        self.folder = folder
        self.settings = settings
        self._read: dict[str, str] = {}  # stage -> the hash it had when this object read it
        self._begun: set[str] = set()

    @classmethod
    def open(cls, settings: Settings) -> Run:
        """Begin or continue the run in the folder ``settings.run_dir``; every notebook does.

        A new folder appears with the first file or note, so that a start that fails leaves none.
        A run that goes on is not finished: ``latest`` no longer leads to it. Raises ``InputError``
        in a kernel with another copy of the helpers, or when the folder cannot be written.
        """
        check_kernel()
        run = cls(settings.run_dir, settings)
        check_outputs([run.folder / MANIFEST])
        known = run.manifest()
        if (run.folder / MANIFEST).exists():
            run._save({**known, **_header(settings, known)})
        _forget_latest(run.folder)
        return run

    def manifest(self) -> dict[str, Any]:
        """The manifest as it is on disk now; that of a new run when there is none yet."""
        path = self.folder / MANIFEST
        if not path.exists():
            return _header(self.settings, {})
        data = read_json(path)
        remedy = "choose another run name, or delete this folder"
        if not isinstance(data, dict) or not isinstance(data.get("files"), dict):
            raise InputError(f"{path}: is not a run's manifest; {remedy}")
        if data.get("schema_version") != SCHEMA_VERSION:
            found = data.get("schema_version")
            raise InputError(f"{path}: has schema {found}, this kit {SCHEMA_VERSION}; {remedy}")
        return data

    def path(self, name: str) -> Path:
        """Where the file ``name`` of this run goes; its folder is made. It may not exist yet."""
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise InputError(f"{name}: lies outside the run's folder {self.folder}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot make its folder ({error.strerror})") from None
        return path

    def begin(self, stage: str) -> None:
        """Forget a stage's record before its files are written again.

        If the notebook is then stopped, nothing half-written counts as finished.
        """
        known = self.manifest()
        files, notes = known["files"], known.get("notes", {})
        files = {name: entry for name, entry in files.items() if entry.get("stage") != stage}
        notes = {name: note for name, note in notes.items() if name != stage}
        self._save({**known, "files": files, "notes": notes})
        self._begun.add(stage)

    def finish(self, stage: str, inputs: Mapping[str, str] | None = None, **facts: Any) -> None:
        """Record a stage whose files are all recorded: its settings, what it read, and ``facts``.

        ``inputs`` maps files outside this folder to their SHA-256 when they were read. The stages
        that it reads are recorded with the hash they had when this object read them. Raises
        ``InputError`` when this object did not begin the stage or did not read what it needs:
        then a cell was run again under other settings than the cells before it.
        """
        spec = STAGES[stage]
        if stage not in self._begun or not self._read.keys() >= set(spec.reads):
            raise InputError(
                f"{self.folder}: the stage {stage!r} was not run from start to end under these "
                f"settings; run notebook {spec.notebook} from its first cell"
            )
        settings = {name: getattr(self.settings, name) for name in spec.settings}
        inputs = {name: self._read[name] for name in spec.reads} | dict(inputs or {})
        known = self.manifest()
        files = known["files"].items()
        made = sorted((n, entry["sha256"]) for n, entry in files if entry.get("stage") == stage)
        told = json.dumps([settings, sorted(inputs.values()), made], sort_keys=True)
        digest = self._read[stage] = hashlib.sha256(told.encode()).hexdigest()
        record = {"settings": settings, "inputs": inputs, "sha256": digest}
        record |= {part: known[part] for part in HEADER}
        record["hardware"] = {**known["hardware"], "gpus": provenance.gpus()}
        self.note(stage, {**facts, **record})

    def record(self, path: str | Path, made_by: str, **extra: Any) -> Path:
        """Enter a finished file, or every file of a folder, into the manifest.

        ``made_by`` is a stage, or a notebook or script for files that no later stage reads.
        ``extra`` are facts about the file that JSON can hold (a count, a context). Recording a
        folder forgets what it held before.
        """
        path = Path(path)
        name = self._name(path)
        if not path.exists() or name in (".", MANIFEST):
            raise InputError(f"{path}: cannot be recorded, it is not a file or folder of the run")
        known = self.manifest()
        files = known["files"]
        if path.is_dir():
            files = {key: entry for key, entry in files.items() if not key.startswith(f"{name}/")}
        found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path}: cannot be recorded, it holds no file")
        if made_by in STAGES:
            extra["stage"], made_by = made_by, STAGES[made_by].notebook
        for file in found:
            files[self._name(file)] = {
                **extra,
                "bytes": file.stat().st_size,
                "sha256": sha256(file),
                "made_by": made_by,
                "made_at": _now(),
                "commit": known.get("kit", {}).get("commit"),
            }
        self._save({**known, "files": files})
        return path

    def need(self, name: str, notebook: str) -> Path:
        """The path of a recorded file or folder that ``notebook`` makes, checked.

        Raises ``InputError`` naming the notebook to run when it is missing, has changed since it
        was recorded, or when its stage, or one that this stage read, does not fit (``noted``).
        """
        path = self.folder / name
        files = self.manifest()["files"]
        keys = [key for key in files if key == name or key.startswith(f"{name}/")]
        if not keys:
            there = "is there but not recorded" if path.exists() else "is missing"
            raise self._not_made(f"{path}: {there}", notebook)
        again = f"run notebook {notebook} again"
        for key in keys:
            file, entry = self.folder / key, files[key]
            if not file.is_file():
                raise InputError(f"{file}: is recorded but gone; {again}")
            if file.stat().st_size != entry["bytes"] or sha256(file) != entry["sha256"]:
                raise InputError(f"{file}: no longer matches its recorded SHA-256; {again}")
            if "made_for" in entry:
                raise InputError(f"{file}: was recorded by an older version of the kit; {again}")
        for stage in {files[key]["stage"] for key in keys if "stage" in files[key]}:
            self.noted(stage, notebook)
        return path

    def read_json(self, name: str, notebook: str) -> Any:
        """The content of a recorded JSON file that ``notebook`` makes, checked like ``need``."""
        return read_json(self.need(name, notebook))

    def note(self, key: str, value: Any) -> None:
        """Keep a fact that is no file of this folder, such as where the checkpoint lies."""
        known = self.manifest()
        self._save({**known, "notes": {**known.get("notes", {}), key: value}})

    def noted(self, key: str, notebook: str) -> Any:
        """A fact kept by ``note``, or the facts of a finished stage.

        A stage is checked with all that it read: it must be finished, made under these settings,
        and made from what is there now. Raises ``InputError`` naming the notebook to run.
        """
        notes = self.manifest().get("notes", {})
        if key not in notes:
            raise self._not_made(f"{self.folder / MANIFEST}: says nothing of {key!r}", notebook)
        if key not in STAGES:
            return notes[key]
        self._check_settings(key, notes)
        for stage, record in chain(self.folder, notes, key):
            again = f"run notebook {STAGES[stage].notebook} again"
            for path in (path for path in record["inputs"] if path not in STAGES):
                if Path(path).is_file() and _sha256_now(path) != record["inputs"][path]:
                    raise InputError(f"{path}: is not the file that this run read; {again}")
        self._read[key] = notes[key]["sha256"]
        return {k: v for k, v in notes[key].items() if k not in _RECORD}

    def _check_settings(self, key: str, notes: Mapping[str, Any]) -> None:
        """Raise ``InputError`` with every setting in which a stage, or one it reads, differs."""
        changed: dict[str, str] = {}  # setting -> how it differs
        notebooks = set()
        for stage in (stage for stage in upstream(key) if "sha256" in notes.get(stage, {})):
            for setting in STAGES[stage].settings:
                before = notes[stage]["settings"].get(setting, getattr(Settings, setting))
                now = getattr(self.settings, setting)
                if before != now:
                    how = f"was made with {setting}={before!r}, now it is {now!r}"
                    changed.setdefault(setting, f"the stage {stage!r} {how}")
                    notebooks.add(STAGES[stage].notebook)
        if changed:
            raise InputError(
                f"{self.folder}: {'; '.join(changed.values())}; run notebook {min(notebooks)} "
                "again and those after it, or give this run another name and begin with notebook 00"
            )

    def _not_made(self, what: str, notebook: str) -> InputError:
        """The error for something that ``notebook`` makes, or that the whole run is missing."""
        if (self.folder / MANIFEST).exists():
            return InputError(f"{what}; run notebook {notebook} first")
        found = {path.parent.name for path in self.folder.parent.glob(f"*/{MANIFEST}")} - {LATEST}
        there = f" (there are: {', '.join(sorted(found))})" if found else ""
        return InputError(
            f"{self.folder.parent}: there is no run {self.folder.name!r} here yet{there}; "
            "run notebook 00 first"
        )

    def point_latest(self) -> None:
        """Let ``latest`` beside the folder lead to it; a text file where links are refused."""
        link = self.folder.parent / LATEST
        fresh = link.with_name(f".{LATEST}.{os.getpid()}")
        try:
            fresh.symlink_to(self.folder.name, target_is_directory=True)
            os.replace(fresh, link)
            link.with_suffix(".txt").unlink(missing_ok=True)
        except (OSError, NotImplementedError):
            fresh.unlink(missing_ok=True)
            write_text(link.with_suffix(".txt"), f"{self.folder.name}\n")

    def _name(self, path: Path) -> str:
        try:
            return path.resolve().relative_to(self.folder.resolve()).as_posix()
        except ValueError:
            raise InputError(f"{path}: lies outside the run's folder {self.folder}") from None

    def _save(self, data: dict[str, Any]) -> None:
        write_json(self.folder / MANIFEST, data)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _sha256_now(path: str) -> str:
    """SHA-256 of a file that is asked for often: it is read again only when it has changed."""
    stat = os.stat(path)
    return _sha256_as_of(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=256)
def _sha256_as_of(path: str, changed_at: int, size: int) -> str:
    return sha256(path)


def _forget_latest(folder: Path) -> None:
    """Remove ``latest`` if it leads to this folder."""
    link = folder.parent / LATEST
    text = link.with_suffix(".txt")
    if link.is_symlink() and link.readlink() == Path(folder.name):
        link.unlink()
    if text.is_file() and text.read_text(encoding="utf-8").strip() == folder.name:
        text.unlink()


_HELPERS = Path(__file__).resolve().parents[1]


def check_kernel() -> None:
    """Raise ``InputError`` in a clone of the kit whose helpers are not these ones."""
    here = Path.cwd()
    root = here.parent if here.name == "notebooks" else here
    theirs = root / "src" / "helpers"
    if (theirs / "__init__.py").is_file() and theirs.resolve() != _HELPERS:
        python = root / ".venv" / "bin" / "python"
        wanted = python if python.exists() else f"the Python in which {root} is installed"
        raise InputError(
            f"this kernel runs {sys.executable} with the helpers in {_HELPERS}, but this clone is "
            f"{root}; choose the kernel of {wanted} (in JupyterLab: Kernel, Change Kernel; "
            "docs/setup.md says how to register it)"
        )


def _header(settings: Settings, known: dict[str, Any]) -> dict[str, Any]:
    gpus = provenance.gpus()
    if gpus is None:  # torch is not imported yet; an earlier notebook of this run may have looked
        gpus = known.get("hardware", {}).get("gpus")
    return {
        "schema_version": SCHEMA_VERSION,
        "kit": {
            "name": "biomegatron-bioasq-kit",
            "version": __version__,
            "commit": provenance.commit(),
            "source_sha256": provenance.source_hash(),
        },
        "created": known.get("created", _now()),
        "opened": _now(),
        "profile": settings.profile,
        "settings": dataclasses.asdict(settings),
        "python": platform.python_version(),
        "packages": {name: provenance.version(name) for name in PACKAGES},
        "hardware": {
            "platform": platform.platform(),
            "cpu": provenance.cpu_model(),
            "cores": provenance.cores(),
            "memory_bytes": provenance.memory(),
            "gpus": gpus,
        },
        "notes": known.get("notes", {}),
        "files": known.get("files", {}),
    }
