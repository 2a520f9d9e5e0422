"""The stages of a run, and which settings decide the output of each.

A stage's record in the manifest (``notes`` of the manifest, under the stage's name) holds these
settings, the hashes of what the stage read, one hash of all that it made, and the code and machine
that ran it. The records say what is behind a score, whatever the current settings are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.config import InputError, Settings

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
