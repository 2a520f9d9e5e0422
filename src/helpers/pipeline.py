"""Whole stages from file to file, for the command lines and for one's own scripts.

The notebooks walk the same path in smaller steps.

From BioASQ files given by name to one SQuAD file: what ``data_scripts/bioasq_to_squad.py`` does.

``conversion`` does the same for all files of a run.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from helpers import io
from helpers.config import InputError, Settings, from_parameters
from helpers.data import bioasq, layout, leaks, squad
from helpers.data.bioasq import Oddities, Question, is_squad, parse_questions, read_json
from helpers.data.convert import convert
from helpers.data.layout import role_of
from helpers.data.leaks import find_leaks, read_tests, refuse_leaks, split_dev, wordings
from helpers.data.pubmed import Abstracts, gather_abstracts
from helpers.data.squad import (
    Drop,
    Example,
    by_occurrence,
    by_pair,
    one_span_rows,
    parse_squad,
    write_drops,
    write_ids,
    write_squad,
)
from helpers.fetch import fetch
from helpers.io import all_or_none, check_outputs
from helpers.model import checkpoints, decoding, training
from helpers.model.checkpoints import prepare
from helpers.model.decoding import Candidate, Reader, rank_answers, write_nbest

_BIOASQ_ROW = re.compile(r"[0-9a-f]{24}_\d{3,}")


def load_reader(checkpoint: str | Path, settings: Settings) -> Reader:
    """Fetch a checkpoint by name, or take a path, and load it with its tokenizer."""
    return checkpoints.load(prepare(fetch.fetch(checkpoint).folder, settings), settings)


def convert_checkpoint(checkpoint: str | Path, output: str | Path, qkv_order: str = "") -> Path:
    """Write any checkpoint that can be read as a transformers folder, and print what it holds.

    ``qkv_order`` names the row order of a Megatron checkpoint, else it is found by trying.
    """
    checkpoints.check_replaceable(Path(output))
    settings = from_parameters(qkv_order=qkv_order, max_length=16)  # nothing is read with it
    reader = checkpoints.load(prepare(checkpoint, settings), settings)
    checkpoints.save_transformers(reader, output, with_head=not reader.fresh_head)
    if found := reader.origin.get("qkv"):
        tried = ", ".join(f"{order} scores {score:.2f}" for order, score in found["scores"].items())
        print(f"query-key-value order {found['order']}, by {found['measure']} ({tried or 'given'})")
    if reader.fresh_head:
        print("no span head in it: fine-tune it before asking questions")
    print(f"transformers folder: {output}")
    return Path(output)


def fine_tune_files(
    checkpoint: str | Path,
    train: str | Path,
    output: str | Path,
    *,
    dev: str | Path | None = None,
    against: Sequence[str | Path] = (),
    resume: bool = False,
    **parameters,
) -> Reader:
    """Fine-tune on a SQuAD file; write ``model.nemo``, ``transformers/`` and ``training/``.

    ``parameters`` are names of ``config.Settings``. Everything is read and checked before
    training starts. Questions that the test files also ask, by id or by wording, are refused
    unless ``allow_leak`` is set, and near-equal wordings remarked on; test files are those of
    ``against``, or else of ``bioasq_dir``. So are questions of ``dev`` in the wording of ``train``
    with its text or its id; the wording alone is remarked on. Returns the trained reader, after
    printing its dev scores if there is a file.
    """
    output = Path(output).resolve()
    settings = from_parameters(**{"run": output.name or "model", **parameters})
    if settings.squad_epochs:
        raise InputError(
            "squad_epochs: one call trains on one file; train on the SQuAD file first, then on "
            "this one with --checkpoint MODEL.nemo, and set squad_epochs=0"
        )
    check_outputs([output / "model.nemo"])
    parts = output / "training", output / "transformers"
    for path in (path for path in (train, dev) if path):
        if any(Path(path).resolve().is_relative_to(part) for part in parts):
            raise InputError(f"{path}: lies where the model's files go; choose another --output")
    examples = _answered(train)
    held_out = _answered(dev) if dev else None
    _check_leaks(train, examples, against, settings)
    if held_out:
        _compare(train, examples, dev, held_out, settings.allow_leak)
    training.check_replaceable(parts[0])
    checkpoints.check_replaceable(parts[1])
    reader = load_reader(checkpoint, settings)
    done = training.fine_tune(reader, examples, output / "training", resume=resume)
    save_model(reader, output)
    print(f"{done.steps} steps over {done.windows} windows in {done.seconds:.0f} s; see {output}")
    if held_out:
        scores = decoding.dev_scores(reader, held_out, progress=True)
        print("dev: " + ", ".join(f"{name} {_shown(value)}" for name, value in scores.items()))
    return reader


def _check_leaks(train, examples: list[Example], against, settings: Settings) -> None:
    if not against and settings.bioasq_dir:
        found = layout.find_files(settings.bioasq_dir, need_train=False)
        against = [*found.golds, *found.tests]
    found = leaks.find_leaks(leaks.wordings(examples), leaks.read_tests(against))
    for remark in leaks.refuse_leaks(train, found, allow=settings.allow_leak):
        print(remark, file=sys.stderr)


def _compare(train, examples, dev, held_out: list[Example], allow: bool) -> None:
    """Refuse a training question in the file held out; an equal wording alone is only told."""
    same, other = leaks.compare_parts(examples, held_out)
    for remark in leaks.refuse_shared(train, dev, same, allow=allow):
        print(remark, file=sys.stderr)
    if other:
        print(
            f"{dev}: wordings that {train} has too, over other texts and under other ids: "
            f"{bioasq.some_ids(other)}; they stay, judge them by eye",
            file=sys.stderr,
        )


def save_model(reader: Reader, folder: str | Path) -> tuple[Path, Path]:
    """Write ``model.nemo`` and a ``transformers`` folder; returns both paths."""
    folder = Path(folder)
    return (
        checkpoints.save_nemo(reader, folder / "model.nemo"),
        checkpoints.save_transformers(reader, folder / "transformers"),
    )


def predict_files(
    checkpoint: str | Path,
    questions: str | Path,
    output: str | Path,
    *,
    abstracts: str | Path | None = None,
    nbest: str | Path | None = None,
    **parameters,
) -> Path:
    """Answer a BioASQ file, or a SQuAD file, and write the answers under ``output``.

    A BioASQ file, or a SQuAD file whose row ids are BioASQ's ``<24 hex digits>_<number>``, gives a
    BioASQ answer file. Any other SQuAD file gives ``{row id: text}``, as SQuAD's own script reads.
    A question without any text gets an empty answer, and a line on standard error says so.
    """
    settings = from_parameters(**parameters)
    check_outputs((output, nbest), (questions, abstracts))
    if abstracts and settings.context != "abstract":
        raise InputError(f"{abstracts}: read only with --context abstract; add it, or leave it out")
    is_squad = bioasq.is_squad(bioasq.read_json(questions))
    if is_squad and abstracts:
        raise InputError(
            f"{questions}: a SQuAD file has its texts; leave out --abstracts and --context"
        )
    reader = load_reader(checkpoint, settings)
    if reader.fresh_head:
        raise InputError(f"{checkpoint}: it has no span head; fine-tune it first (fine_tune.py)")
    asked: list[str] = []
    odd = bioasq.Oddities()
    if is_squad:
        examples = squad.read_squad(questions, odd)
        odd.tell(questions)
    else:
        examples, asked = read_inputs(questions, settings, abstracts)
    candidates = reader.predict(examples)
    if nbest:
        write_nbest(nbest, examples, candidates)
    print(f"{len(examples)} texts read; answers in {output}")
    if is_squad and not all(_BIOASQ_ROW.fullmatch(e.id) for e in examples):
        best = {e.id: c[0].text if c else "" for e, c in zip(examples, candidates, strict=True)}
        return io.write_json(output, best)
    return write_ranked(output, examples, candidates, settings.merge, asked)


def read_inputs(
    path: str | Path, settings: Settings, abstracts: str | Path | None = None
) -> tuple[list[Example], list[str]]:
    """Test questions as examples under the settings' context, and the ids of all of them.

    Questions without any text are named on standard error; when all are, it is an ``InputError``.
    """
    odd = bioasq.Oddities()
    questions = bioasq.read_questions(path, odd=odd)
    odd.tell(path)
    texts = Abstracts({}, {})
    if settings.context == "abstract":
        texts = gather_abstracts(questions, [abstracts] if abstracts else [], source=path)
    examples, drops = convert(
        questions, context=settings.context, test=True, abstracts=texts.texts, lacking=texts.lacking
    )
    if not examples:
        raise InputError(f"{path}: no question has a text ({drops[0].reason}); add snippets")
    if any(question.exact_answer for question in questions):
        print(f"{path}: {GOLDEN}", file=sys.stderr)
    if drops:
        names = ", ".join(drop.question_id for drop in drops)
        print(f"{path}: no text, so no answer, for question {names}", file=sys.stderr)
    return examples, [question.id for question in questions]


def write_ranked(
    path: str | Path,
    examples: Sequence[Example],
    candidates: Sequence[Sequence[Candidate]],
    merge: str,
    asked: Sequence[str] = (),
) -> Path:
    """Merge the n-bests of each question and write the BioASQ answer file.

    ``asked`` are ids that get an entry in any case, an empty one when nothing was found.
    """
    answers: dict[str, list[str]] = {question: [] for question in asked}
    for question, best in rank_answers(examples, candidates, merge=merge).items():
        answers[question] = [text for text, _ in best]
    return bioasq.write_answers(path, answers)


def _answered(path: str | Path) -> list[Example]:
    odd = bioasq.Oddities()
    examples = squad.read_squad(path, odd)
    odd.tell(path)
    if not any(e.spans for e in examples):
        raise InputError(f"{path}: no row has an answer; give a training file, not a test input")
    without = sum(not e.spans for e in examples)
    if without:
        print(f"{path}: {without} of {len(examples)} rows have no answer", file=sys.stderr)
    return examples


def _shown(value: float) -> str:
    return f"{100 * value:.1f}" if isinstance(value, float) else str(value)


GOLDEN = "holds answers, so it is a golden file: more snippets than participants were given"
TRAINED_ON = (
    "a golden file, converted as training data (--test makes test data of it); give the files of "
    "your test to --against, so that no test question is trained on"
)


def convert_files(
    files: Sequence[str | Path],
    output: str | Path,
    *,
    context: str = "snippet",
    abstracts: str | Path | None = None,
    drops: str | Path | None = None,
    ids: str | Path | None = None,
    dev_fraction: float = 0.0,
    seed: int = 0,
    version: str = "1.1",
    test: bool = False,
    negatives: bool = False,
    against: Sequence[str | Path] = (),
    allow_leak: bool = False,
) -> str:
    """Convert BioASQ files into ``output`` (and ``<output>_dev.json``); a one-line summary.

    ``abstracts`` is a file for context "abstract"; PubMed is asked for what it lacks. ``negatives``
    is that of ``convert``, for version "2.0" only. Questions that a file of ``against`` asks
    too, by id or by wording, are refused unless ``allow_leak``; near-equal wordings are only
    remarked on. A file may be a SQuAD file, dmis-lab's or ours: its rows are checked and written
    anew, answers or not with ``test``, those with an answer without (with ``negatives`` all of an
    answered question). Rows of one answer each keep their ids.

    A golden file is training data without ``test``, which a remark says: the test batches of
    earlier editions are later editions' training data. Everything is read and converted before the
    first file is written. Raises ``InputError``; if no question can be converted, only after it has
    written the remarks and ``drops``.
    """
    check_outputs((output,))  # its name is taken apart next
    if test and dev_fraction:
        raise InputError("dev fraction: a test input is not split; leave out one of the two")
    if negatives and (test or version != "2.0"):
        raise InputError(
            "negatives: only SQuAD 2.0 training files have them; add --squad-version 2"
        )
    if abstracts and context != "abstract":
        raise InputError(f"{abstracts}: read only with --context abstract; add it, or leave it out")
    output = Path(output)
    dev_output = output.with_name(f"{output.stem}_dev{output.suffix}") if dev_fraction else None
    check_outputs((output, dev_output, drops, ids), (*files, abstracts, *against))
    questions, rows, remarks = _read_all(files, test)
    asked = {q.id: q.body for q in questions} | wordings(rows)
    leaks = find_leaks(asked, read_tests(against))
    remarks += refuse_leaks(files[0], leaks, allow=allow_leak)
    total = len(questions) + len(wordings(rows))
    if not questions and context != "snippet":
        raise InputError(f"{files[0]}: a SQuAD file has its texts and answers; leave out --context")
    examples, dropped = _squad_rows(rows, test, negatives)
    given = {row.question_id for row in rows}
    if questions:
        texts = Abstracts({}, {})
        if context == "abstract":
            own = [abstracts] if abstracts else []
            texts = gather_abstracts(questions, own, source=files[0])
        found, lost = convert(
            questions, context=context, test=test, abstracts=texts.texts, lacking=texts.lacking,
            negatives=negatives,
        )  # fmt: skip
        examples, dropped = examples + found, dropped + lost
        remarks += texts.remarks
    train, dev = split_dev(examples, dev_fraction, seed) if examples else ([], [])
    if test and any(question.exact_answer for question in questions):
        remarks.append(f"{', '.join(str(file) for file in files)}: {GOLDEN}")
    for remark in remarks:
        print(remark, file=sys.stderr)
    if not examples:
        if drops:
            write_drops(drops, dropped)
        reasons = ", ".join(sorted({drop.reason for drop in dropped}))
        raise InputError(f"{files[0]}: no question could be converted ({reasons})")
    if not test:
        ready = one_span_rows([row for row in train if row.question_id in given])
        train = ready + by_occurrence(row for row in train if row.question_id not in given)
        dev = by_pair(dev)
    unknown = _unanswered(questions, rows) if test else ()
    with all_or_none():
        if drops:
            write_drops(drops, dropped)
        if ids:
            write_ids(ids, train + dev)
        if dev_output:
            write_squad(dev_output, dev, version=version)
        write_squad(output, train, version=version, unknown=unknown)
    return _summary(total, train, dev, dropped)


def _unanswered(questions: Sequence[Question], rows: Sequence[Example]) -> set[str]:
    """Ids of questions whose answer the input does not tell, so nobody knows what has none."""
    answered = {row.question_id for row in rows if row.spans}
    answered |= {q.id for q in questions if any(map(str.strip, q.synonyms()))}
    return ({row.question_id for row in rows} | {q.id for q in questions}) - answered


def _read_all(
    files: Sequence[str | Path], test: bool
) -> tuple[list[Question], list[Example], list[str]]:
    """The questions of the BioASQ files, the rows of the SQuAD files, and what was repaired."""
    questions: dict[str, Question] = {}
    rows: list[Example] = []
    remarks: list[str] = []
    for file in files:
        if not test and role_of(file) == "golden":
            remarks.append(f"{file}: {TRAINED_ON}")
        odd = Oddities()
        data = read_json(file, odd)
        if is_squad(data):
            found = parse_squad(data, file, odd)
            ids = wordings(found)
        else:
            answers = "any" if test else "required"
            read = parse_questions(data, file, answers=answers, odd=odd)
            ids = {question.id: question for question in read}
        again = min(ids.keys() & (questions.keys() | wordings(rows).keys()), default=None)
        if again is not None:
            raise InputError(
                f"{file}: question {again!r}: id is also in another file; drop one file"
            )
        if is_squad(data):
            rows += found
        else:
            questions |= ids
        remarks += odd.lines(file)
    return list(questions.values()), rows, remarks


def _squad_rows(
    rows: list[Example], test: bool, negatives: bool
) -> tuple[list[Example], list[Drop]]:
    """The rows to write and, for training, the questions none of whose rows has an answer.

    With ``negatives`` an answered question keeps its rows without an answer.
    """
    if test:
        return rows, []
    answered = {row.question_id for row in rows if row.spans}
    bare = {row.question_id: row for row in rows if row.question_id not in answered}
    drops = [Drop(name, row.question, "no answer in the SQuAD file") for name, row in bare.items()]
    kept = [r for r in rows if r.spans or (negatives and r.question_id in answered)]
    return kept, drops


def _summary(total: int, rows: list[Example], dev: list[Example], dropped: list[Drop]) -> str:
    held = f", held out: {len(dev)} pairs" if dev else ""
    reasons = Counter(drop.reason for drop in dropped).most_common()
    why = "".join(f"; {reason}: {count}" for reason, count in reasons)
    kept = total - len(dropped)
    return f"{len(rows)} rows{held}; {kept} of {total} questions, {len(dropped)} dropped{why}"
