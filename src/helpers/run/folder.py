"""The run folder and its ``manifest.json``, which records the stages and the origin of their files.

Notebooks pass files to each other through this folder and never share kernel state. Each stage
adds a record to the manifest's ``notes``: the settings that determine its output, the hashes of
what it read, one hash of everything it wrote, and the code and machine that ran it. The next stage
checks these records, so a notebook that runs out of order or with different settings stops with an
error message.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from helpers.config import InputError, Settings
from helpers.data.bioasq import read_json
from helpers.data.mini import moved
from helpers.io import check_outputs, hold, sha256, write_json, write_text
from helpers.run import provenance

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
LATEST = "latest"
_LOCK, _PATIENCE = ".manifest.lock", 60  # seconds
PROVENANCE = ("kit", "python", "packages", "hardware")  # in the manifest and in each record
_RECORD = ("settings", "inputs", "sha256", *PROVENANCE)  # added to the details of each stage


@dataclass(frozen=True)
class Stage:
    """A stage: its notebook, the settings it depends on, and the stages whose output it reads.

    A setting that affects this stage only through an earlier stage belongs to the earlier stage.
    """

    notebook: str
    settings: tuple[str, ...]
    reads: tuple[str, ...] = ()


_WINDOWS = ("max_length", "step", "max_query")
_TRAINING = (*_WINDOWS, "seed", "warmup_fraction", "weight_decay", "dropout", "precision")
_PREDICTION = (*_WINDOWS, "nbest", "max_answer", "merge", "precision")
STAGES = {
    "checkpoint": Stage("01_download_checkpoint", ("model", "qkv_order")),
    "data": Stage("02_bioasq_to_squad", ("profile", "bioasq_dir", "context", "snippets",
                                         "dev_fraction", "seed", "allow_leak")),
    "squad_step": Stage(
        "03_fine_tune",
        (*_TRAINING, "squad_epochs", "squad_file", "squad_dev", "squad_batch_size",
         "squad_learning_rate", "dev_fraction", "nbest", "max_answer"),  # the last two affect F1
        ("checkpoint",),
    ),
    "model": Stage("03_fine_tune", (*_TRAINING, "epochs", "batch_size", "learning_rate"),
                   ("checkpoint", "squad_step", "data")),
    "answers": Stage("04_error_analysis", _PREDICTION, ("model", "data")),
    "baselines": Stage("04_error_analysis", (*_PREDICTION, "seed"),
                       ("checkpoint", "squad_step", "data")),
    "scores": Stage("05_reproduce_metrics", ("missing",),
                    ("answers", "baselines", "model", "data")),
}  # fmt: skip
# These settings change where and how results are computed and written, but not what is computed.
HARDWARE = ("device", "devices", "accumulate", "activation_checkpointing", "compile")
NEUTRAL = ("run", "runs_dir", "log_to", "wandb_mode", "evaluate_every", *HARDWARE)


def settings_of(stage: str, settings: Settings) -> dict[str, Any]:
    """Return the settings that determine the output of a stage, apart from the stages it reads."""
    found = {name: getattr(settings, name) for name in STAGES[stage].settings}
    if stage == "data" and not settings.dev_fraction:
        del found["seed"]  # the seed only determines which questions to hold out
    return found


def dependencies(stage: str) -> list[str]:
    """Return all stages that a stage reads, directly or indirectly, and then the stage itself."""
    return [name for read in STAGES[stage].reads for name in dependencies(read)] + [stage]


def checked_records(folder: Path, notes: Mapping, stage: str) -> Iterator[tuple[str, Mapping]]:
    """Yield (stage, record) for each stage that ``stage`` reads, and finally for ``stage`` itself.

    Raises ``InputError`` if a record is missing, or if a stage has run again since another stage
    read its output.
    """
    for name in dependencies(stage):
        record, rerun = notes.get(name, {}), f"run notebook {STAGES[name].notebook}"
        if "sha256" not in record:
            raise InputError(
                f"{folder / MANIFEST}: the stage {name!r} is not finished, or was recorded by an "
                f"older version of the kit; {rerun}"
            )
        for read in STAGES[name].reads:
            if record["inputs"].get(read) != notes[read]["sha256"]:
                raise InputError(
                    f"{folder}: the stage {read!r} has been run again since {name!r} read it; "
                    f"{rerun} again"
                )
        yield name, record


def as_recorded(folder: Path, manifest: Mapping, stage: str = "scores") -> dict[str, Any]:
    """Return a manifest with the settings, code and machine that produced ``stage``.

    The machine is the one that trained the model. A manifest from an older version of the kit has
    no stage records, so it keeps its own values, which describe the process that last opened the
    run. Raises ``InputError`` in the same cases as ``checked_records``.
    """
    notes = manifest.get("notes", {})
    found = {**manifest, "settings": {**dataclasses.asdict(Settings()), **manifest["settings"]}}
    if any("sha256" in notes.get(name, {}) for name in STAGES):
        for _, record in checked_records(folder, notes, stage):
            found["settings"] |= record["settings"]
            found |= {part: record[part] for part in PROVENANCE}
        found |= {"profile": found["settings"]["profile"], "hardware": notes["model"]["hardware"]}
    return found


class Run:
    """The folder of one run. Each method rereads the manifest, because notebooks share it."""

    def __init__(self, folder: Path, settings: Settings):
        if settings.run in (LATEST, f"{LATEST}.txt"):
            raise InputError(
                f"run: {settings.run!r} is reserved for the link to the newest run; "
                "choose another name"
            )
        self.folder = folder
        self.settings = settings
        self._hashes: dict[str, str] = {}  # stage -> its hash when this object read or finished it
        self._begun: set[str] = set()
        self.compute: dict[str, Any] = {}  # see ``stages.settle_compute``

    @classmethod
    def open(cls, settings: Settings) -> Run:
        """Start or continue the run in ``settings.run_dir``, as every notebook does.

        ``precision="auto"`` becomes the precision that an earlier notebook of this run chose.
        The folder is not created until the first file or note is written. If ``latest`` points to
        this run, the link is removed. Raises ``InputError`` if the kernel uses a different copy of
        the helpers, or if the folder is not writable.
        """
        check_kernel()
        run = cls(settings.run_dir, settings)
        check_outputs([run.folder / MANIFEST])
        if (run.folder / MANIFEST).exists():
            with run._changing() as known:
                run.settings = _with_precision(settings, known)
                known |= _new_manifest(run.settings, known)
        link = run.folder.parent / LATEST
        if link.is_symlink() and link.readlink() == Path(run.folder.name):
            link.unlink()
        text = link.with_suffix(".txt")
        if text.is_file() and text.read_text(encoding="utf-8").strip() == run.folder.name:
            text.unlink()
        return run

    @classmethod
    def find(cls, settings: Settings) -> Run:
        """Return an existing run without changing it, as the exercise notebooks do.

        A relative ``runs_dir`` is looked up in the current folder and then in the folders above it,
        so a notebook can be anywhere in the clone. The run's settings contain the absolute path.
        Raises ``InputError`` if there is no such run, or if the kernel uses other helpers.
        """
        roots = [Path.cwd(), *Path.cwd().parents]
        for root in roots:
            run = cls(root / settings.runs_dir / settings.run, settings)
            if (run.folder / MANIFEST).is_file():
                check_kernel(root)
                settings = dataclasses.replace(settings, runs_dir=str(run.folder.parent))
                run.settings = _with_precision(settings, run.manifest())
                return run
        places = [root / settings.runs_dir for root in roots]
        known = {path.parent.name for place in places for path in place.glob(f"*/{MANIFEST}")}
        raise InputError(
            f"run: there is no run {settings.run!r} in the folder {settings.runs_dir!r} of "
            f"{roots[0]} or of any folder above it "
            f"(found: {', '.join(sorted(known - {LATEST})) or 'none'}); run "
            "notebook 00 first, or choose another name"
        )

    def manifest(self) -> dict[str, Any]:
        """Return the current manifest on disk, or a new manifest if there is none yet."""
        path = self.folder / MANIFEST
        if not path.exists():
            return _new_manifest(self.settings, {})
        data = read_json(path)
        remedy = "choose another run name, or delete this folder"
        if not isinstance(data, dict) or not isinstance(data.get("files"), dict):
            raise InputError(f"{path}: is not a run manifest; {remedy}")
        if (found := data.get("schema_version")) != SCHEMA_VERSION:
            raise InputError(
                f"{path}: has schema version {found}, but this kit reads version "
                f"{SCHEMA_VERSION}; {remedy}"
            )
        return {"notes": {}, **data}

    def path(self, name: str) -> Path:
        """Return the path of the file ``name``, which may not exist yet, and create its folder."""
        path = self.folder / name
        self._name(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot create its folder ({error.strerror})") from None
        return path

    def begin(self, stage: str) -> None:
        """Remove a stage's record, so that partly written files never count as finished."""
        with self._changing() as known:
            files, notes = known["files"], known["notes"]
            known["files"] = {k: v for k, v in files.items() if v.get("stage") != stage}
            known["notes"] = {k: v for k, v in notes.items() if k != stage}
        self._begun.add(stage)

    def finish(self, stage: str, inputs: Mapping[str, str] | None = None, **facts: Any) -> None:
        """Record the settings, inputs and ``facts`` of a stage whose files have all been recorded.

        ``inputs`` maps files outside this folder to the SHA-256 that they had when they were read.
        Raises ``InputError`` if this object did not begin the stage or did not read all stages that
        it depends on. This happens if some cells ran with settings that differ from those of
        earlier cells.
        """
        spec = STAGES[stage]
        if stage not in self._begun or not self._hashes.keys() >= set(spec.reads):
            raise InputError(
                f"{self.folder}: the stage {stage!r} was not run from start to end with these "
                f"settings; run notebook {spec.notebook} from its first cell"
            )
        settings = settings_of(stage, self.settings)
        inputs = {name: self._hashes[name] for name in spec.reads} | dict(inputs or {})
        known = self.manifest()
        files = known["files"].items()
        written = sorted((n, entry["sha256"]) for n, entry in files if entry.get("stage") == stage)
        content = json.dumps([settings, sorted(inputs.values()), written], sort_keys=True)
        digest = self._hashes[stage] = hashlib.sha256(content.encode()).hexdigest()
        record = {"settings": settings, "inputs": inputs, "sha256": digest}
        record |= {part: known[part] for part in PROVENANCE}
        record["hardware"] = {**known["hardware"], "gpus": provenance.gpu_names()}
        if (
            self.compute and "precision" in spec.settings and facts
        ):  # a skipped SQuAD step computes nothing
            facts["compute"] = self.compute
        self.note(stage, {**facts, **record})

    def record(self, path: str | Path, made_by: str, **extra: Any) -> Path:
        """Record a finished file, or every file in a folder, in the manifest.

        ``made_by`` is a stage or, for a file that no later stage reads, the notebook or script that
        wrote the file. ``extra`` contains metadata about the file as JSON values. The new entries
        for a folder replace its old entries.
        """
        path = Path(path)
        name = self._name(path)
        if not path.exists() or name in (".", MANIFEST):
            raise InputError(
                f"{path}: cannot be recorded, because it is not a file in the run folder"
            )
        found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path}: cannot be recorded, because the folder contains no files")
        if made_by in STAGES:
            extra["stage"], made_by = made_by, STAGES[made_by].notebook
        new = {
            self._name(file): {
                **extra,
                "bytes": file.stat().st_size,
                "sha256": sha256(file),
                "made_by": made_by,
                "made_at": _now(),
            }
            for file in found
        }
        with self._changing() as known:
            commit = {"commit": known.get("kit", {}).get("commit")}
            old = {k: v for k, v in known["files"].items() if not k.startswith(f"{name}/")}
            known["files"] = old | {name: entry | commit for name, entry in new.items()}
        return path

    def need(self, name: str, notebook: str) -> Path:
        """Return the path of a recorded file or folder that ``notebook`` writes.

        Raises an ``InputError`` that names the notebook to run if a file is missing, has changed
        since it was recorded, or comes from a stage that ``noted`` would reject.
        """
        path = self.folder / name
        files = self.manifest()["files"]
        keys = [key for key in files if key == name or key.startswith(f"{name}/")]
        if not keys:
            state = "exists but is not recorded" if path.exists() else "is missing"
            raise self._not_made(f"{path}: {state}", notebook)
        rerun = f"run notebook {notebook} again"
        for key in keys:
            file, entry = self.folder / key, files[key]
            if not file.is_file():
                raise InputError(f"{file}: is recorded but no longer exists; {rerun}")
            if file.stat().st_size != entry["bytes"] or sha256(file) != entry["sha256"]:
                raise InputError(f"{file}: no longer matches its recorded SHA-256; {rerun}")
            if "made_for" in entry:
                raise InputError(f"{file}: was recorded by an older version of the kit; {rerun}")
        for stage in {files[key]["stage"] for key in keys if "stage" in files[key]}:
            self.noted(stage, notebook)
        return path

    def take_over(self, source: Run, notebooks: Sequence[str]) -> None:
        """Copy into this run the files and records that these notebooks wrote in ``source``.

        This folder must not have a manifest yet. The manifest is written last, so an interrupted
        copy does not count as a run.
        """
        known = source.manifest()
        files = {n: entry for n, entry in known["files"].items() if entry["made_by"] in notebooks}
        for name in files:
            shutil.copy2(source.folder / name, self.path(name))
        kept = [stage for stage, spec in STAGES.items() if spec.notebook in notebooks]
        notes = {k: note for k, note in known["notes"].items() if k in (*kept, "environment")}
        self._save({**_new_manifest(self.settings, {}), "files": files, "notes": notes})

    def note(self, key: str, value: Any) -> None:
        """Record a value that is not in any file in this folder, such as the checkpoint path."""
        with self._changing() as known:
            known["notes"][key] = value

    def noted(self, key: str, notebook: str) -> Any:
        """Return a value recorded by ``note``, or the details of a finished stage.

        A stage is checked together with all stages that it read. They must all be finished, and
        their settings and inputs must not have changed. Otherwise, this method raises an
        ``InputError`` that names the notebook to run.
        """
        notes = self.manifest()["notes"]
        if key not in notes:
            raise self._not_made(f"{self.folder / MANIFEST}: has no entry {key!r}", notebook)
        if key not in STAGES:
            return notes[key]
        self._check_settings(key, notes)
        for stage, record in checked_records(self.folder, notes, key):
            for path, digest in record["inputs"].items():
                if path not in STAGES and Path(path).is_file() and _hash_now(path) != digest:
                    raise InputError(
                        f"{path}: is not the file that this run read; "
                        f"run notebook {STAGES[stage].notebook} again"
                    )
        self._hashes[key] = notes[key]["sha256"]
        facts = {k: v for k, v in notes[key].items() if k not in _RECORD}
        return facts | {k: [*map(moved, v)] for k, v in facts.items() if k in ("golds", "tests")}

    def _check_settings(self, key: str, notes: Mapping[str, Any]) -> None:
        """Raise ``InputError`` if the settings of a stage, or of a stage it reads, have changed."""
        changed: dict[str, str] = {}  # setting -> how it differs
        notebooks = set()
        for stage in (name for name in dependencies(key) if "sha256" in notes.get(name, {})):
            for name, now in settings_of(stage, self.settings).items():
                before = notes[stage]["settings"].get(name, getattr(Settings, name))
                if before != now:
                    how = f"was made with {name}={before!r}, but now it is {now!r}"
                    changed.setdefault(name, f"the stage {stage!r} {how}")
                    notebooks.add(STAGES[stage].notebook)
        if changed:
            raise InputError(
                f"{self.folder}: {'; '.join(changed.values())}; run notebook {min(notebooks)} and "
                "those after it again, or give this run another name and start with notebook 00"
            )

    def _not_made(self, what: str, notebook: str) -> InputError:
        """Return the error for a missing result of ``notebook``, or for a missing run."""
        if (self.folder / MANIFEST).exists():
            return InputError(f"{what}; run notebook {notebook} first")
        found = {path.parent.name for path in self.folder.parent.glob(f"*/{MANIFEST}")} - {LATEST}
        others = f" (found: {', '.join(sorted(found))})" if found else ""
        return InputError(
            f"{self.folder.parent}: there is no run {self.folder.name!r} here yet{others}; "
            "run notebook 00 first"
        )

    def point_latest(self) -> None:
        """Point the link ``latest`` to this folder; if that fails, write a text file."""
        link = self.folder.parent / LATEST
        new = link.with_name(f".{LATEST}.{os.getpid()}")
        try:
            new.symlink_to(self.folder.name, target_is_directory=True)
            os.replace(new, link)
            link.with_suffix(".txt").unlink(missing_ok=True)
        except (OSError, NotImplementedError):
            new.unlink(missing_ok=True)
            write_text(link.with_suffix(".txt"), f"{self.folder.name}\n")

    def _name(self, path: Path) -> str:
        try:
            return path.resolve().relative_to(self.folder.resolve()).as_posix()
        except ValueError:
            raise InputError(f"{path}: is outside the run folder {self.folder}") from None

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """Yield the manifest, and save it after the block. Only one process at a time can do so."""
        check_outputs([self.folder / MANIFEST])
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = hold(self.folder / _LOCK, _PATIENCE)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror})") from None
        if held is None:
            raise InputError(
                f"{self.folder / MANIFEST}: another process is changing it; try again later"
            )
        with held:
            try:
                known = self.manifest()
                yield known
                self._save(known)
            finally:
                (self.folder / _LOCK).unlink(missing_ok=True)

    def _save(self, manifest: dict[str, Any]) -> None:
        write_json(self.folder / MANIFEST, manifest)


def _with_precision(settings: Settings, manifest: Mapping[str, Any]) -> Settings:
    """Return the settings, with the precision that an earlier notebook chose for ``auto``."""
    if settings.precision == "auto" and "compute" in manifest["notes"]:
        chosen = manifest["notes"]["compute"]["precision"]
        return dataclasses.replace(settings, precision=chosen)
    return settings


def check_kernel(root: Path | None = None) -> None:
    """Raise ``InputError`` if this process runs in a clone but not with the clone's helpers.

    ``root`` is the folder to check (default: the current folder, or the one above ``notebooks``).
    """
    here, ours = Path.cwd(), Path(__file__).resolve().parents[1]
    root = root or (here.parent if here.name == "notebooks" else here)
    expected = root / "src" / "helpers"
    if (expected / "__init__.py").is_file() and expected.resolve() != ours:
        python = root / ".venv" / "bin" / "python"
        wanted = python if python.exists() else f"the Python in which {root} is installed"
        raise InputError(
            f"this kernel runs {sys.executable} with the helpers in {ours}, but this clone is "
            f"{root}; choose the kernel of {wanted} (in JupyterLab: Kernel, Change Kernel; "
            "docs/setup.md explains how to register it)"
        )


def _new_manifest(settings: Settings, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest for a run being opened; ``known`` is the old manifest, or empty."""
    return {
        "schema_version": SCHEMA_VERSION,
        "created": known.get("created", _now()),
        "opened": _now(),
        "profile": settings.profile,
        "settings": dataclasses.asdict(settings),
        # Keep the GPUs that an earlier notebook found, because torch may not be imported yet.
        **provenance.describe(gpus=known.get("hardware", {}).get("gpus")),
        "notes": known.get("notes", {}),
        "files": known.get("files", {}),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _hash_now(path: str) -> str:
    """Return the SHA-256 of a file, rereading the file only if it has changed."""
    stat = os.stat(path)
    return _hash_of_version(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=256)
def _hash_of_version(path: str, changed_at: int, size: int) -> str:
    return sha256(path)
