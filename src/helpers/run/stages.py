"""Code that the notebooks of a run share: compute settings, conversion and the SQuAD step.

``convert_run`` reads and converts all files before ``write_run`` writes the SQuAD files. Therefore,
a problem in the last input does not leave a partly written folder.

The SQuAD step trains on SQuAD questions before BioASQ and measures EM and F1. NVIDIA's checkpoint
BioMegatron345mUncasedSQuADv1 is the base model after this step. A run that starts from the base
model, or from any plain encoder, therefore needs this step first. The step is skipped if
``squad_epochs`` is 0.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.config import InputError, Settings
from helpers.data import squad
from helpers.data.bioasq import Remarks, raw_questions, read_json, read_questions
from helpers.data.convert import convert, pairs_of
from helpers.data.layout import BioasqFiles, TestBatch, find_files, read_batches, run_abstracts
from helpers.data.leaks import Leak, find_leaks, refuse_shared, split_dev
from helpers.data.mini import DATA
from helpers.data.squad import Drop, Example, question_texts, read_squad
from helpers.fetch import fetch
from helpers.fetch.registry import REGISTRY
from helpers.io import sha256
from helpers.model import training
from helpers.model.checkpoints import save_nemo
from helpers.model.compute import decide
from helpers.model.decoding import Reader, squad_em_and_f1
from helpers.run.folder import Run

SQUAD_MODEL = "model/squad_step.nemo"  # the model after the SQuAD step, in the run folder


@dataclass(frozen=True)
class ConvertedRun:
    """The result of the conversion. ``train`` has one row per occurrence of an answer, and ``dev``
    has one row per pair. ``steps`` counts the training questions that remain after each step, and
    ``pair_steps`` counts the question-context pairs. ``leaks`` are training questions that are also
    test questions. ``inputs`` maps each file that was read to its SHA-256."""

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
        """Map each part to its numbers of questions, pairs and rows."""
        parts = {"train": self.train, "dev": self.dev} | {b.name: b.examples for b in self.batches}
        return {name: _counts(rows) for name, rows in parts.items()}


def settle_compute(run: Run) -> Settings:
    """Decide where and how to compute, record and print the decision, and return the settings.

    ``precision="auto"`` is resolved only once, so that training, prediction and a repetition of the
    run use the same precision. ``device="auto"`` is resolved in every notebook, because a run may
    continue on a different machine.
    """
    found = decide(run.settings)
    run.settings = replace(run.settings, precision=found.precision)
    dropout = run.settings.dropout
    run.compute = found.describe() | {"training_attention": found.attention(dropout)}
    run.note("compute", run.compute)
    print(found.line(dropout))
    return run.settings


def find_run_files(settings: Settings) -> BioasqFiles:
    """Find the files in ``bioasq_dir``; if it is empty in the profile "mini", use BioASQ-mini.

    Every other profile requires real files, because scores on teaching data under its name would
    look like real results.
    """
    if settings.profile != "mini" and not settings.bioasq_dir:
        raise InputError(
            f"profile {settings.profile} needs your BioASQ files; set bioasq_dir to their folder "
            "(BIOASQ_DIR=… with make, --bioasq-dir with helpers.batch)"
        )
    folder = Path(settings.bioasq_dir).expanduser() if settings.bioasq_dir else DATA
    files = find_files(folder, context=settings.context)
    return files.with_golden_snippets() if settings.snippets == "golden" else files


def convert_run(files: BioasqFiles, settings: Settings) -> ConvertedRun:
    """Read and convert all files of a run; write nothing.

    The organizers' training file is converted by the strict rule. A file in SQuAD format is
    used as is, except that rows without an answer are dropped. Training questions with the same
    id or text as a test question are dropped unless ``allow_leak`` is set. Near-duplicates are
    listed among the leaks but kept, because only a person can judge them. Raises ``InputError`` if
    a file contains an error, or if no training question remains.
    """
    inputs = {str(path.resolve()): sha256(path) for path in files.inputs(settings.context)}
    batches, test_drops = read_batches(files, settings.context)
    for path, batch in zip(files.tests, batches, strict=True):
        if not batch.examples:
            raise InputError(
                f"{path}: no question has a context with the setting context={settings.context!r}; "
                "choose another context"
            )
    tests = questions_of_tests(batches)
    pairs, drops, leaks, steps, pair_steps = _read_training(files, tests, settings)
    if not pairs:
        reasons = ", ".join(sorted({drop.reason for drop in drops}))
        raise InputError(f"{files.train}: no question is left to train on ({reasons})")
    train, dev = split_dev(pairs, settings.dev_fraction, settings.seed)
    return ConvertedRun(
        files=files,
        settings=settings,
        inputs=inputs,
        train=tuple(squad.one_span_rows(train)),
        dev=tuple(squad.by_pair(dev)),
        batches=tuple(batches),
        drops=(*drops, *test_drops),
        steps=tuple(steps.items()),
        pair_steps=tuple(pair_steps.items()),
        leaks=tuple(leaks),
    )


def questions_of_tests(batches: Iterable[TestBatch]) -> dict[str, str]:
    """Map the id of each question in the test batches to its text."""
    found: dict[str, str] = {}
    for batch in batches:
        found |= question_texts(batch.examples) | {q.id: q.body for q in batch.golds}
    return found


def _read_training(files: BioasqFiles, tests: Mapping[str, str], settings: Settings):
    """Return pairs, drops, leaks, and the numbers of questions and pairs left after each step."""
    if files.train_is_squad:
        rows = read_squad(files.train)
        asked = question_texts(rows)
        steps = {"in the SQuAD file": len(asked)}
    else:
        data = read_json(files.train)
        questions = read_questions(files.train, answers="required", data=data)
        asked = {question.id: question.body for question in questions}
        steps = {"all types": len(raw_questions(data, files.train)), "factoid": len(asked)}
    leaks = find_leaks(asked, tests)
    drops = [
        Drop(leak.question_id, leak.question, "also a test question", leak.how)
        for leak in leaks
        if leak.certain and not settings.allow_leak
    ]
    leaked = {drop.question_id for drop in drops}
    steps["not in a test batch"] = len(asked) - len(leaked)
    if files.train_is_squad:
        pairs, unanswered = squad.answered_rows(
            [row for row in rows if row.question_id not in leaked]
        )
        steps["with an answer"] = _counts(pairs)["questions"]
        pair_steps = {
            "question and context": _counts(rows)["pairs"],
            "with an answer": _counts(pairs)["pairs"],
        }
    else:
        questions = [question for question in questions if question.id not in leaked]
        abstracts = run_abstracts(files, questions, settings.context)
        pairs, unanswered = convert(questions, context=settings.context, abstracts=abstracts)
        given = [
            (question.id, pair.context)
            for question in questions
            for pair in pairs_of(question, settings.context, abstracts.texts)
        ]
        answered = [q for q in questions if any(map(str.strip, q.synonyms()))]
        steps["with an exact answer"] = len(answered)
        steps["answer found in a context"] = _counts(pairs)["questions"]
        pair_steps = {
            "question and context": len(given),
            "distinct": len(set(given)),
            "answer found in the context": len(pairs),
        }
    pair_steps["rows: one per occurrence"] = sum(len(pair.spans) for pair in pairs)
    return pairs, drops + unanswered, leaks, steps, pair_steps


def _counts(rows: Sequence[Example]) -> dict[str, int]:
    return {
        "questions": len({row.question_id for row in rows}),
        "pairs": len({(row.question_id, row.context) for row in rows}),
        "rows": len(rows),
    }


def write_run(converted: ConvertedRun, run: Run) -> dict:
    """Write the SQuAD files, id maps, drops and leaks into ``squad/`` in the run folder.

    Removes files from an earlier conversion that this one does not write. Records everything as
    the stage "data", with the settings of the conversion. Returns the stage's details, which
    include the paths of the original files.
    """
    run = Run(run.folder, converted.settings)
    run.begin("data")
    files, counts = converted.files, converted.counts()
    parts = {"train": converted.train, "dev": converted.dev}
    parts = {name: rows for name, rows in parts.items() if rows}
    parts |= {batch.name: batch.examples for batch in converted.batches}
    written = {}
    for name, entries in (("drops", converted.drops), ("leaks", converted.leaks)):
        written[squad.write_drops(run.path(f"squad/{name}.jsonl"), entries)] = len(entries)
    for name, rows in parts.items():
        written[squad.write_squad(run.path(f"squad/{name}.json"), rows)] = len(rows)
        written[squad.write_ids(run.path(f"squad/{name}.ids.jsonl"), rows)] = len(rows)
    for path in (run.folder / "squad").iterdir():
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
    """Questions for training, questions for evaluation (possibly none), and their source files."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    files: dict[str, str]  # path -> SHA-256


def check_squad_step(settings: Settings) -> None:
    """Raise ``InputError`` if the step's settings contradict each other or a file is missing."""
    known = [name.lower() for name in REGISTRY]
    for name in ("squad_file", "squad_dev"):
        value = getattr(settings, name)
        if value and not settings.squad_epochs:
            raise InputError(f"{name}: is set, but squad_epochs is 0; set squad_epochs=2 as well")
        if value and value.lower() not in known and not Path(value).expanduser().is_file():
            raise InputError(f"{name}: {value}: no such file; specify one in SQuAD v1.1 format")
    if settings.squad_epochs and not settings.squad_file:
        raise InputError(
            f"profile {settings.profile} has a SQuAD step but no questions for it; set "
            "squad_file=FILE (SQuAD v1.1 format), or squad_file=squad-train to download SQuAD"
        )


def read_squad_data(settings: Settings) -> SquadData:
    """Read the questions for the SQuAD step, each of which must have an answer.

    Without ``squad_dev``, the questions about a fraction ``dev_fraction`` of the paragraphs are
    held out. If the fraction is 0, no questions are held out and the step is not evaluated.
    """
    path, train = _read_answered(settings.squad_file)
    files = [path]
    if settings.squad_dev:
        path, dev = _read_answered(settings.squad_dev)
        files.append(path)
        # The two official SQuAD files contain identical questions ("What did he write?") about
        # different contexts. Such a question is a leak only if its context or id is also the same.
        allowed, _ = refuse_shared(files[0], train, files[1], dev, allow=settings.allow_leak)
        for remark in allowed:
            print(remark, file=sys.stderr)
    else:
        # Hold out whole paragraphs, so that the evaluation uses no text seen in training.
        paragraphs = [replace(row, question_id=row.context) for row in train]
        held = {row.id for row in split_dev(paragraphs, settings.dev_fraction, settings.seed)[1]}
        dev = [row for row in train if row.id in held]
        train = [row for row in train if row.id not in held]
    return SquadData(tuple(train), tuple(dev), {str(path): sha256(path) for path in files})


def _read_answered(name: str) -> tuple[Path, list[Example]]:
    """Return the path and questions of a user's file, or of a one-file data set in the registry."""
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        found = fetch.fetch(name)
        path = found.folder / next(iter(found.files))
        if len(found.files) > 1 or path.suffix != ".json":
            remedy = "specify one, or use squad-train or squad-dev"
            raise InputError(f"{name}: is not a question file; {remedy}")
    remarks = Remarks()
    rows = read_squad(path, remarks)
    remarks.print(path)
    if unanswered := [row.id for row in rows if not row.spans]:
        raise InputError(
            f"{path}: question {unanswered[0]!r} has no answer; the SQuAD step needs SQuAD "
            "v1.1 format, in which every question has an answer"
        )
    return path, rows


def run_squad_step(reader: Reader, folder: Run) -> dict:
    """Train the reader's model on SQuAD in place, and record the stage in the manifest.

    Saves the model as ``model/squad_step.nemo``. Skips the training if it has already finished
    with the same data, settings and weights. Returns the recorded details, or an empty dict if
    the run has no SQuAD step.
    """
    settings = reader.settings
    check_squad_step(settings)
    folder.begin("squad_step")
    if not settings.squad_epochs:
        folder.path(SQUAD_MODEL).unlink(missing_ok=True)  # left over from different settings
        folder.finish("squad_step")
        return {}
    data = read_squad_data(settings)
    step_settings = replace(
        settings,
        epochs=settings.squad_epochs,
        batch_size=settings.squad_batch_size,
        learning_rate=settings.squad_learning_rate,
    )
    learner = replace(reader, settings=step_settings)  # shares the same model
    done = training.fine_tune(learner, data.train, folder.path("training_squad"), resume=None)
    folder.record(save_nemo(reader, folder.path(SQUAD_MODEL)), "squad_step")
    facts = {
        "files": data.files,
        "train_questions": len(data.train),
        "epochs": settings.squad_epochs,
        "seconds": round(done.seconds, 1),
        "judged": squad_em_and_f1(reader, data.dev) if data.dev else {},
    }
    folder.finish("squad_step", data.files, **facts)
    return facts
