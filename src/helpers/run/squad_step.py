"""The step before BioASQ ("step A"): fine-tune on SQuAD questions and judge it by EM and F1.

NVIDIA's checkpoint BioMegatron345mUncasedSQuADv1 is the base model after this step, so a run that
starts from the base model, or from any plain encoder, takes it first. Settings without
``squad_epochs`` have no such step.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.config import InputError, Settings
from helpers.data.leaks import compare_parts, refuse_shared
from helpers.data.schema import Oddities
from helpers.data.split import split_dev
from helpers.data.squad import Example, read_squad
from helpers.fetch import fetch
from helpers.fetch.files import sha256
from helpers.fetch.registry import REGISTRY
from helpers.model import training
from helpers.model.checkpoints import save_nemo
from helpers.model.decoding import Reader, squad_em_and_f1
from helpers.run.folder import Run

MODEL = "model/squad_step.nemo"  # the model after the step, in the run's folder
STAGE = "squad_step"


@dataclass(frozen=True)
class SquadData:
    """Questions to learn from, questions to judge by (maybe none), and the files they are from."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    files: dict[str, str]  # path -> SHA-256


def check(settings: Settings) -> None:
    """Raise ``InputError`` when the step's settings do not fit together or name no file."""
    for name in ("squad_file", "squad_dev"):
        value = getattr(settings, name)
        if value and not settings.squad_epochs:
            raise InputError(f"{name}: is given, but squad_epochs is 0; set squad_epochs=2 as well")
        if value and not _in_registry(value) and not Path(value).expanduser().is_file():
            raise InputError(f"{name}: {value}: no such file; give one in the SQuAD v1.1 format")
    if settings.squad_epochs and not settings.squad_file:
        raise InputError(
            f"profile {settings.profile} has a SQuAD step and no questions for it; set "
            "squad_file=FILE (SQuAD v1.1 format), or squad_file=squad-train to fetch SQuAD's own"
        )


def read(settings: Settings) -> SquadData:
    """Read the step's questions; every one needs an answer.

    Without ``squad_dev`` the questions of ``dev_fraction`` of the paragraphs are held out; with a
    fraction of 0 none are, and the step is not judged.
    """
    check(settings)
    files = [_local(settings.squad_file)]
    rows = _answered(files[0])
    if settings.squad_dev:
        files.append(_local(settings.squad_dev))
        train, dev = rows, _answered(files[1])
        # SQuAD's own two files share wordings ("What did he write?") over other texts; to say so
        # would be noise, so only questions that are asked again over the same text count here.
        shared, _ = compare_parts(train, dev)
        for remark in refuse_shared(*files, shared, allow=settings.allow_leak):
            print(remark, file=sys.stderr)
    else:
        # Whole paragraphs: a text seen in training must not be in the examination.
        groups = [replace(row, question_id=row.context) for row in rows]
        held = {row.id for row in split_dev(groups, settings.dev_fraction, settings.seed)[1]}
        train = [row for row in rows if row.id not in held]
        dev = [row for row in rows if row.id in held]
    return SquadData(tuple(train), tuple(dev), {str(path): sha256(path) for path in files})


def run(reader: Reader, folder: Run) -> dict:
    """Take the step with the reader's model, in place, and record it in the run's manifest.

    Keeps the model as ``model/squad_step.nemo``. A step taken before with the same data, settings
    and weights is not repeated. Returns the recorded facts; without a step there are none.
    """
    settings = reader.settings
    check(settings)
    folder.begin(STAGE)
    if not settings.squad_epochs:
        folder.path(MODEL).unlink(missing_ok=True)  # of other settings
        folder.finish(STAGE)
        return {}
    data = read(settings)
    own = replace(
        settings,
        epochs=settings.squad_epochs,
        batch_size=settings.squad_batch_size,
        learning_rate=settings.squad_learning_rate,
    )
    done = training.fine_tune(
        replace(reader, settings=own), data.train, folder.path("training_squad"), resume=None
    )
    folder.record(save_nemo(reader, folder.path(MODEL)), STAGE)
    facts = {
        "files": data.files,
        "train_questions": len(data.train),
        "epochs": settings.squad_epochs,
        "seconds": round(done.seconds, 1),
        "judged": squad_em_and_f1(reader, data.dev) if data.dev else {},
    }
    folder.finish(STAGE, data.files, **facts)
    return facts


def _in_registry(name: str) -> bool:
    return name.lower() in map(str.lower, REGISTRY)


def _local(name: str) -> Path:
    """A file of the user's, or the one file of a data set in the registry."""
    own = Path(name).expanduser()
    if own.is_file():
        return own.resolve()
    files = list(fetch.fetch(name).files) if _in_registry(name) else []
    if len(files) != 1 or not files[0].endswith(".json"):
        raise InputError(f"{name}: is no file of questions; give one, or squad-train or squad-dev")
    return fetch.fetch(name).folder / files[0]


def _answered(path: Path) -> list[Example]:
    odd = Oddities()
    rows = read_squad(path, odd)
    odd.tell(path)
    bare = next((row.id for row in rows if not row.spans), None)
    if bare is not None:
        raise InputError(
            f"{path}: question {bare!r} has no answer; the SQuAD step wants v1.1, where every "
            "question has one"
        )
    return rows
