"""Whole stages from file to file, for the command lines and for one's own scripts.

The notebooks walk the same path in smaller steps.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers import io
from helpers.config import InputError, Settings, from_parameters
from helpers.data import bioasq, convert, layout, leaks, schema, squad
from helpers.data.file_conversion import GOLDEN
from helpers.data.pubmed import Abstracts, gather_abstracts
from helpers.data.squad import Example
from helpers.fetch import fetch
from helpers.io import check_outputs
from helpers.model import checkpoints, decoding, training
from helpers.model.decoding import Candidate, Reader, rank_answers, write_nbest
from helpers.model.prepare import prepare

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
            f"{schema.some_ids(other)}; they stay, judge them by eye",
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
    odd = schema.Oddities()
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
    odd = schema.Oddities()
    questions = bioasq.read_questions(path, odd=odd)
    odd.tell(path)
    texts = Abstracts({}, {})
    if settings.context == "abstract":
        texts = gather_abstracts(questions, [abstracts] if abstracts else [], source=path)
    examples, drops = convert.convert(
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
    odd = schema.Oddities()
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
