"""The two stages of a run that are more than one call: the conversion and the SQuAD step.

Conversion: ``convert_run`` reads all files and decides, ``write_run`` writes the SQuAD files, so a
problem in the last input leaves no half-written folder.

The SQuAD step trains on SQuAD questions before BioASQ and measures EM and F1. NVIDIA's checkpoint
BioMegatron345mUncasedSQuADv1 is the base model after this step, so a run that starts from the base
model, or from any plain encoder, takes it first. Settings without ``squad_epochs`` skip it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.config import InputError, Settings
from helpers.data.bioasq import Remarks, raw_questions, read_json, read_questions
from helpers.data.convert import convert, pairs_of
from helpers.data.layout import BioasqFiles, TestBatch, find_files, read_batches, run_abstracts
from helpers.data.leaks import Leak, find_leaks, refuse_shared, split_dev
from helpers.data.mini import DATA
from helpers.data.squad import (
    Drop,
    Example,
    answered_rows,
    by_pair,
    one_span_rows,
    question_texts,
    read_squad,
    write_drops,
    write_ids,
    write_squad,
)
from helpers.fetch import fetch
from helpers.fetch.registry import REGISTRY
from helpers.io import sha256
from helpers.model import training
from helpers.model.checkpoints import save_nemo
from helpers.model.decoding import Reader, squad_em_and_f1
from helpers.run.folder import Run

FOLDER = "squad"  # in the run's folder
SQUAD_MODEL = "model/squad_step.nemo"  # the model after the SQuAD step, in the run's folder
SQUAD_STEP = "squad_step"


@dataclass(frozen=True)
class ConvertedRun:
    """The result of the conversion. ``train`` has one row per occurrence of an answer, ``dev`` one
    per pair. ``steps`` counts the training questions that remain after each step, ``pair_steps``
    the question-context pairs. ``leaks`` are training questions that the tests also ask.
    ``inputs`` maps the files that were read to their SHA-256."""

    files: BioasqFiles
    settings: Settings
    inputs: dict[str, str]
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    batches: tuple[TestBatch, ...]
    drops: tuple[Drop, ...]
    steps: tuple[tuple[str, int], ...]
    pair_steps: tuple[tuple[str, int], ...]
    leaks: tuple[Leak, ...]

    def counts(self) -> dict[str, dict[str, int]]:
        """Questions, pairs and rows of each part, by its name."""
        parts = {"train": self.train, "dev": self.dev} | {b.name: b.examples for b in self.batches}
        return {name: _counts(rows) for name, rows in parts.items()}


def find_run_files(settings: Settings) -> BioasqFiles:
    """The files of ``settings.bioasq_dir``, or BioASQ-mini's if it is empty and the profile "mini".

    Every other profile needs real files: scores on teaching data under its name would look like a
    result.
    """
    if settings.profile != "mini" and not settings.bioasq_dir:
        raise InputError(
            f"profile {settings.profile} needs the folder with your BioASQ files: give bioasq_dir "
            "(BIOASQ_DIR=… with make, --bioasq-dir with helpers.batch)"
        )
    folder = Path(settings.bioasq_dir).expanduser() if settings.bioasq_dir else DATA
    files = find_files(folder, context=settings.context)
    return files.with_golden_snippets() if settings.snippets == "golden" else files


def convert_run(files: BioasqFiles, settings: Settings) -> ConvertedRun:
    """Read and convert all files of a run; write nothing.

    The organizers' training file is converted by the strict rule. A ready SQuAD file is used as it
    is, without the rows that have no answer. Training questions that a test batch also asks, by id
    or by wording, are dropped unless ``allow_leak`` is set: some public training files of later
    years contain them. Questions with a near-equal wording are listed among the leaks and kept,
    because only a reader can judge them. Raises ``InputError`` for anything wrong in a file, and
    when no training question remains.
    """
    inputs = {str(path.resolve()): sha256(path) for path in files.inputs(settings.context)}
    batches, test_drops = read_batches(files, settings.context)
    for path, batch in zip(files.tests, batches, strict=True):
        if not batch.examples:
            raise InputError(
                f"{path}: no question has a text to read under context {settings.context!r}; "
                "choose another context"
            )
    if files.train is None:
        raise InputError("no training file among these files; add one to the folder")
    read = _read_squad_training if files.train_is_squad else _read_bioasq_training
    pairs, drops, leaks, steps, pair_steps = read(files, questions_of_tests(batches), settings)
    if not pairs:
        reasons = ", ".join(sorted({drop.reason for drop in drops}))
        raise InputError(f"{files.train}: no question is left to train on ({reasons})")
    train, dev = split_dev(pairs, settings.dev_fraction, settings.seed)
    return ConvertedRun(
        files=files,
        settings=settings,
        inputs=inputs,
        train=tuple(one_span_rows(train)),
        dev=tuple(by_pair(dev)),
        batches=tuple(batches),
        drops=(*drops, *test_drops),
        steps=tuple(steps.items()),
        pair_steps=tuple(pair_steps.items()),
        leaks=tuple(leaks),
    )


def questions_of_tests(batches: Iterable[TestBatch]) -> dict[str, str]:
    """Question id -> wording of everything that the test batches ask."""
    found: dict[str, str] = {}
    for batch in batches:
        found |= question_texts(batch.examples) | {q.id: q.body for q in batch.golds}
    return found


def _read_bioasq_training(files: BioasqFiles, tests: Mapping[str, str], settings: Settings):
    """Pairs, drops, leaks, and the questions and pairs that remain after each step."""
    data = read_json(files.train)
    total = len(raw_questions(data, files.train))
    factoids = read_questions(files.train, answers="required", data=data)
    leaks, drops = _find_leaks({q.id: q.body for q in factoids}, tests, settings)
    leaked = {drop.question_id for drop in drops}
    questions = [question for question in factoids if question.id not in leaked]
    abstracts = run_abstracts(files, questions, settings.context)
    pairs, unanswered = convert(questions, context=settings.context, abstracts=abstracts)
    given = [
        (question.id, pair.context)
        for question in questions
        for pair in pairs_of(question, settings.context, abstracts.texts)
    ]
    steps = {
        "all types": total,
        "factoid": len(factoids),
        "not in a test batch": len(questions),
        "with an exact answer": sum(any(map(str.strip, q.synonyms())) for q in questions),
        "answer found in a context": _counts(pairs)["questions"],
    }
    pair_steps = {
        "question and context": len(given),
        "distinct": len(set(given)),
        "answer found in the context": len(pairs),
        "rows: one per occurrence": sum(len(pair.spans) for pair in pairs),
    }
    return pairs, drops + unanswered, leaks, steps, pair_steps


def _read_squad_training(files: BioasqFiles, tests: Mapping[str, str], settings: Settings):
    """The same from a file that is already in the SQuAD format."""
    rows = read_squad(files.train)
    questions = question_texts(rows)
    leaks, drops = _find_leaks(questions, tests, settings)
    leaked = {drop.question_id for drop in drops}
    kept, unanswered = answered_rows([row for row in rows if row.question_id not in leaked])
    steps = {
        "in the SQuAD file": len(questions),
        "not in a test batch": len(questions) - len(leaked),
        "with an answer": _counts(kept)["questions"],
    }
    pair_steps = {
        "question and context": _counts(rows)["pairs"],
        "with an answer": _counts(kept)["pairs"],
        "rows: one per occurrence": sum(len(row.spans) for row in kept),
    }
    return kept, drops + unanswered, leaks, steps, pair_steps


def _find_leaks(
    questions: Mapping[str, str], tests: Mapping[str, str], settings: Settings
) -> tuple[list[Leak], list[Drop]]:
    """All leaks, and those to drop: by id or by wording, unless they are allowed."""
    leaks = find_leaks(questions, tests)
    drops = [
        Drop(leak.question_id, leak.question, "also a test question", leak.how)
        for leak in leaks
        if leak.certain and not settings.allow_leak
    ]
    return leaks, drops


def _counts(rows: Sequence[Example]) -> dict[str, int]:
    return {
        "questions": len({row.question_id for row in rows}),
        "pairs": len({(row.question_id, row.context) for row in rows}),
        "rows": len(rows),
    }


def write_run(converted: ConvertedRun, run: Run) -> dict:
    """Write the SQuAD files, id maps, drops and leaks into ``squad/`` of the run's folder.

    Files of an earlier conversion that this one does not write are removed. Everything is recorded
    as the stage "data", with the settings of the conversion. Returns the stage's facts, which name
    the original files.
    """
    run = Run(run.folder, converted.settings)
    run.begin("data")
    files, counts = converted.files, converted.counts()
    parts = {"train": converted.train, "dev": converted.dev}
    parts = {name: rows for name, rows in parts.items() if rows}
    parts |= {batch.name: batch.examples for batch in converted.batches}
    written = {}
    for name, entries in (("drops", converted.drops), ("leaks", converted.leaks)):
        written[write_drops(run.path(f"{FOLDER}/{name}.jsonl"), entries)] = len(entries)
    for name, rows in parts.items():
        path, ids = run.path(f"{FOLDER}/{name}.json"), run.path(f"{FOLDER}/{name}.ids.jsonl")
        write_squad(path, rows)
        write_ids(ids, rows)
        written |= {path: len(rows), ids: len(rows)}
    for path in (run.folder / FOLDER).iterdir():
        if path.suffix in (".json", ".jsonl") and path not in written:
            path.unlink()
    for path, count in written.items():
        run.record(path, "data", rows=count)
    facts = {
        "train": str(files.train.resolve()),
        "train_is_squad": files.train_is_squad,
        "tests": [str(path.resolve()) for path in files.tests],
        "golds": [str(path.resolve()) for path in files.golds],
        "batches": list(files.batches),
        "enriched": files.enriched,
        "train_pairs": counts["train"]["pairs"],
        "train_rows": counts["train"]["rows"],
        "dev_pairs": counts["dev"]["pairs"],
        "dropped": len(converted.drops),
        "leaks": len(converted.leaks),
    }
    run.finish("data", converted.inputs, **facts)
    return facts


@dataclass(frozen=True)
class SquadData:
    """Questions to train on, questions to evaluate on (maybe none), and the files they are from."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    files: dict[str, str]  # path -> SHA-256


def check_squad_step(settings: Settings) -> None:
    """Raise ``InputError`` when the step's settings contradict each other or name no file."""
    for name in ("squad_file", "squad_dev"):
        value = getattr(settings, name)
        if value and not settings.squad_epochs:
            raise InputError(f"{name}: is given, but squad_epochs is 0; set squad_epochs=2 as well")
        if value and not _in_registry(value) and not Path(value).expanduser().is_file():
            raise InputError(f"{name}: {value}: no such file; give one in the SQuAD v1.1 format")
    if settings.squad_epochs and not settings.squad_file:
        raise InputError(
            f"profile {settings.profile} has a SQuAD step but no questions for it; set "
            "squad_file=FILE (SQuAD v1.1 format), or squad_file=squad-train to fetch SQuAD's own"
        )


def read_squad_data(settings: Settings) -> SquadData:
    """Read the questions of the SQuAD step, each of which needs an answer.

    Without ``squad_dev``, the questions of ``dev_fraction`` of the paragraphs are held out. With a
    fraction of 0 there are none, and the step is not evaluated.
    """
    check_squad_step(settings)
    files = [_local(settings.squad_file)]
    train = _read_answered(files[0])
    if settings.squad_dev:
        files.append(_local(settings.squad_dev))
        dev = _read_answered(files[1])
        # SQuAD's own two files share wordings ("What did he write?") about different texts. Only a
        # question about the same text, or with the same id, is a leak.
        allowed, _ = refuse_shared(files[0], train, files[1], dev, allow=settings.allow_leak)
        for remark in allowed:
            print(remark, file=sys.stderr)
    else:
        # Hold out whole paragraphs: the evaluation must not use a text seen in training.
        paragraphs = [replace(row, question_id=row.context) for row in train]
        held = {row.id for row in split_dev(paragraphs, settings.dev_fraction, settings.seed)[1]}
        dev = [row for row in train if row.id in held]
        train = [row for row in train if row.id not in held]
    return SquadData(tuple(train), tuple(dev), {str(path): sha256(path) for path in files})


def run_squad_step(reader: Reader, folder: Run) -> dict:
    """Train the reader's model on SQuAD, in place, and record the stage in the run's manifest.

    Saves the model as ``model/squad_step.nemo``. Training that was done before with the same data,
    settings and weights is not repeated. Returns the recorded facts, none without such a step.
    """
    settings = reader.settings
    check_squad_step(settings)
    folder.begin(SQUAD_STEP)
    if not settings.squad_epochs:
        folder.path(SQUAD_MODEL).unlink(missing_ok=True)  # of other settings
        folder.finish(SQUAD_STEP)
        return {}
    data = read_squad_data(settings)
    step_settings = replace(
        settings,
        epochs=settings.squad_epochs,
        batch_size=settings.squad_batch_size,
        learning_rate=settings.squad_learning_rate,
    )
    done = training.fine_tune(
        replace(reader, settings=step_settings),
        data.train,
        folder.path("training_squad"),
        resume=None,
    )
    folder.record(save_nemo(reader, folder.path(SQUAD_MODEL)), SQUAD_STEP)
    facts = {
        "files": data.files,
        "train_questions": len(data.train),
        "epochs": settings.squad_epochs,
        "seconds": round(done.seconds, 1),
        "judged": squad_em_and_f1(reader, data.dev) if data.dev else {},
    }
    folder.finish(SQUAD_STEP, data.files, **facts)
    return facts


def _in_registry(name: str) -> bool:
    return name.lower() in map(str.lower, REGISTRY)


def _local(name: str) -> Path:
    """The user's file of this name, or the only file of a data set in the registry."""
    path = Path(name).expanduser()
    if path.is_file():
        return path.resolve()
    files = list(fetch.fetch(name).files) if _in_registry(name) else []
    if len(files) != 1 or not files[0].endswith(".json"):
        raise InputError(f"{name}: is no file of questions; give one, or squad-train or squad-dev")
    return fetch.fetch(name).folder / files[0]


def _read_answered(path: Path) -> list[Example]:
    remarks = Remarks()
    rows = read_squad(path, remarks)
    remarks.print(path)
    for row in rows:
        if not row.spans:
            raise InputError(
                f"{path}: question {row.id!r} has no answer; the SQuAD step needs v1.1, where "
                "every question has one"
            )
    return rows
