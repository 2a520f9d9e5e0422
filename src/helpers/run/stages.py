"""The conversion stage of a run: training rows, held-out pairs and test inputs, as SQuAD files.

``convert_run`` reads everything and decides, ``write_run`` writes, so a problem in the last file
leaves no half-written folder behind.

The step before BioASQ ("step A"): fine-tune on SQuAD questions and judge it by EM and F1.

NVIDIA's checkpoint BioMegatron345mUncasedSQuADv1 is the base model after this step, so a run that
starts from the base model, or from any plain encoder, takes it first. Settings without
``squad_epochs`` have no such step.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.config import InputError, Settings
from helpers.data.bioasq import Remarks, raw_questions, read_json, read_questions
from helpers.data.convert import contexts_of, convert
from helpers.data.layout import BioasqFiles, TestBatch, find_files, read_batches, run_abstracts
from helpers.data.leaks import Leak, compare_parts, find_leaks, refuse_shared, split_dev
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


@dataclass(frozen=True)
class ConvertedRun:
    """Everything the conversion makes. ``train`` has one row an occurrence of the answer, ``dev``
    one a pair. ``steps`` counts the training questions left after each step, with its name,
    ``pair_steps`` the question-context pairs; ``leaks`` are questions that the tests ask too;
    ``inputs`` maps the files read to their SHA-256."""

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
    """The files of ``settings.bioasq_dir``, or BioASQ-mini's when it is empty and profile "mini".

    Any other profile is for real files: teaching data under its name would look like a result.
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
    """Read and convert all files of a run; nothing is written.

    The organizers' training file is converted by the strict rule; a ready
    SQuAD file is taken as it is, without the rows that have no answer. Training questions that a
    test batch asks too, by id or by wording, are dropped unless ``allow_leak`` is set: some public
    training files of later years contain them. Near-equal wordings are listed among the leaks and
    stay, since only a reader can tell. Raises ``InputError`` for anything that a file has wrong,
    and when no training question is left.
    """
    inputs = {str(path.resolve()): sha256(path) for path in files.inputs(settings.context)}
    batches, test_drops = read_batches(files, settings.context)
    empty = [batch.name for batch in batches if not batch.examples]
    if empty:
        raise InputError(
            f"{files.tests[files.batches.index(empty[0])]}: no question has a text to read under "
            f"context {settings.context!r}; choose another context"
        )
    if files.train is None:
        raise InputError("no training file among these files; add one to the folder")
    read = _train_squad if files.train_is_squad else _train_bioasq
    pairs, drops, leaks, steps, pair_steps = read(files, asked(batches), settings)
    if not pairs:
        reasons = ", ".join(sorted({drop.reason for drop in drops}))
        raise InputError(f"{files.train}: no question is left to train on ({reasons})")
    train, dev = split_dev(pairs, settings.dev_fraction, settings.seed)
    return ConvertedRun(
        files,
        settings,
        inputs,
        tuple(one_span_rows(train)),
        tuple(by_pair(dev)),
        tuple(batches),
        (*drops, *test_drops),
        tuple(steps),
        tuple(pair_steps),
        tuple(leaks),
    )


def write_run(converted: ConvertedRun, run: Run) -> dict:
    """Write the SQuAD files, id maps, drops and leaks into ``squad/`` of the run's folder.

    Files of an earlier conversion that this one does not make are removed. All is recorded as the
    stage "data", under the settings that converted it; its facts, which are returned, say where
    the originals lie.
    """
    run = Run(run.folder, converted.settings)
    run.begin("data")
    parts = {"train": converted.train, "dev": converted.dev}
    parts = {name: rows for name, rows in parts.items() if rows}
    parts |= {batch.name: batch.examples for batch in converted.batches}
    written = {}
    for name, entries in (("drops", converted.drops), ("leaks", converted.leaks)):
        path = run.path(f"{FOLDER}/{name}.jsonl")
        written[write_drops(path, entries)] = len(entries)
    for name, rows in parts.items():
        path, ids = run.path(f"{FOLDER}/{name}.json"), run.path(f"{FOLDER}/{name}.ids.jsonl")
        write_squad(path, rows)
        write_ids(ids, rows)
        written |= {path: len(rows), ids: len(rows)}
    for path in run.path(f"{FOLDER}/drops.jsonl").parent.iterdir():
        if path.suffix in (".json", ".jsonl") and path not in written:
            path.unlink()
    for path, rows in written.items():
        run.record(path, "data", rows=rows)
    run.finish("data", converted.inputs, **_facts(converted))
    return _facts(converted)


def _facts(converted: ConvertedRun) -> dict:
    files, counts = converted.files, converted.counts()
    return {
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


def _counts(rows: Sequence[Example]) -> dict[str, int]:
    return {
        "questions": len({row.question_id for row in rows}),
        "pairs": len({(row.question_id, row.context) for row in rows}),
        "rows": len(rows),
    }


def asked(batches: Iterable[TestBatch]) -> dict[str, str]:
    """Question id -> wording of everything that the test batches ask."""
    questions: dict[str, str] = {}
    for batch in batches:
        questions |= question_texts(batch.examples) | {q.id: q.body for q in batch.golds}
    return questions


def _certain(leaks: Sequence[Leak], settings: Settings) -> list[Drop]:
    """The leaks that are dropped: by id and by wording, unless they are allowed."""
    certain = () if settings.allow_leak else (k for k in leaks if k.certain)
    return [Drop(k.question_id, k.question, "also a test question", k.how) for k in certain]


def _train_bioasq(files: BioasqFiles, asked: dict[str, str], settings: Settings):
    data = read_json(files.train)
    total = len(raw_questions(data, files.train))
    factoids = read_questions(files.train, answers="required", data=data)
    leaks = find_leaks({q.id: q.body for q in factoids}, asked)
    drops = _certain(leaks, settings)
    leaked = {drop.question_id for drop in drops}
    questions = [question for question in factoids if question.id not in leaked]
    texts = run_abstracts(files, questions, settings.context)
    pairs, dropped = convert(questions, context=settings.context, abstracts=texts)
    steps = [
        ("all types", total),
        ("factoid", len(factoids)),
        ("not in a test batch", len(questions)),
        ("with an exact answer", sum(1 for q in questions if any(map(str.strip, q.synonyms())))),
        ("answer found in a context", _counts(pairs)["questions"]),
    ]
    given = [(q.id, c.text) for q in questions
             for c in contexts_of(q, settings.context, texts.texts)]  # fmt: skip
    pair_steps = [
        ("question and context", len(given)),
        ("distinct", len(set(given))),
        ("answer found in the context", len(pairs)),
        ("rows: one an occurrence", sum(len(pair.spans) for pair in pairs)),
    ]
    return pairs, drops + dropped, leaks, steps, pair_steps


def _train_squad(files: BioasqFiles, asked: dict[str, str], settings: Settings):
    rows = read_squad(files.train)
    questions = question_texts(rows)
    leaks = find_leaks(questions, asked)
    drops = _certain(leaks, settings)
    leaked = {drop.question_id for drop in drops}
    kept, without = answered_rows([row for row in rows if row.question_id not in leaked])
    steps = [
        ("in the SQuAD file", len(questions)),
        ("not in a test batch", len(questions) - len(leaked)),
        ("with an answer", _counts(kept)["questions"]),
    ]
    pair_steps = [
        ("question and context", _counts(rows)["pairs"]),
        ("with an answer", _counts(kept)["pairs"]),
        ("rows: one an occurrence", sum(len(row.spans) for row in kept)),
    ]
    return kept, drops + without, leaks, steps, pair_steps


SQUAD_MODEL = "model/squad_step.nemo"  # the model after the step, in the run's folder
SQUAD_STEP = "squad_step"


@dataclass(frozen=True)
class SquadData:
    """Questions to learn from, questions to judge by (maybe none), and the files they are from."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    files: dict[str, str]  # path -> SHA-256


def check_squad_step(settings: Settings) -> None:
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


def read_squad_data(settings: Settings) -> SquadData:
    """Read the step's questions; every one needs an answer.

    Without ``squad_dev`` the questions of ``dev_fraction`` of the paragraphs are held out; with a
    fraction of 0 none are, and the step is not judged.
    """
    check_squad_step(settings)
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


def run_squad_step(reader: Reader, folder: Run) -> dict:
    """Take the step with the reader's model, in place, and record it in the run's manifest.

    Keeps the model as ``model/squad_step.nemo``. A step taken before with the same data, settings
    and weights is not repeated. Returns the recorded facts; without a step there are none.
    """
    settings = reader.settings
    check_squad_step(settings)
    folder.begin(SQUAD_STEP)
    if not settings.squad_epochs:
        folder.path(SQUAD_MODEL).unlink(missing_ok=True)  # of other settings
        folder.finish(SQUAD_STEP)
        return {}
    data = read_squad_data(settings)
    own = replace(
        settings,
        epochs=settings.squad_epochs,
        batch_size=settings.squad_batch_size,
        learning_rate=settings.squad_learning_rate,
    )
    done = training.fine_tune(
        replace(reader, settings=own), data.train, folder.path("training_squad"), resume=None
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
    """A file of the user's, or the one file of a data set in the registry."""
    own = Path(name).expanduser()
    if own.is_file():
        return own.resolve()
    files = list(fetch.fetch(name).files) if _in_registry(name) else []
    if len(files) != 1 or not files[0].endswith(".json"):
        raise InputError(f"{name}: is no file of questions; give one, or squad-train or squad-dev")
    return fetch.fetch(name).folder / files[0]


def _answered(path: Path) -> list[Example]:
    remarks = Remarks()
    rows = read_squad(path, remarks)
    remarks.print(path)
    bare = next((row.id for row in rows if not row.spans), None)
    if bare is not None:
        raise InputError(
            f"{path}: question {bare!r} has no answer; the SQuAD step wants v1.1, where every "
            "question has one"
        )
    return rows
