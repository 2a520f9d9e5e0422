"""Whole stages from file to file, for the command lines and for one's own scripts.

The notebooks walk the same path in smaller steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from helpers import bioasq, checkpoints, fetch, squad, training
from helpers.config import InputError, Settings, from_parameters
from helpers.prediction import Candidate, Reader, rank_answers, write_nbest
from helpers.squad import Example

_BIOASQ_ROW = re.compile(r"[0-9a-f]{24}_\d{3,}")


def load_reader(checkpoint: str | Path, settings: Settings) -> Reader:
    """Fetch a checkpoint by name, or take a path, and load it with its tokenizer."""
    return checkpoints.load(fetch.fetch(checkpoint).folder, settings)


def fine_tune_files(
    checkpoint: str | Path,
    train: str | Path,
    output: str | Path,
    *,
    dev: str | Path | None = None,
    resume: bool = False,
    **parameters,
) -> Reader:
    """Fine-tune on a SQuAD file; write ``model.nemo``, ``transformers/`` and ``training/``.

    ``parameters`` are names of ``config.Settings``. Everything is read and checked before
    training starts. Returns the trained reader, after printing its dev scores if there is a file.
    """
    output = Path(output)
    settings = from_parameters(run=output.name, **parameters)
    examples = _answered(train)
    held_out = _answered(dev) if dev else None
    reader = load_reader(checkpoint, settings)
    done = training.fine_tune(reader, examples, output / "training", resume=resume)
    save_model(reader, output)
    print(f"{done.steps} steps over {done.windows} windows in {done.seconds:.0f} s; see {output}")
    if held_out:
        scores = training.dev_scores(reader, held_out, progress=True)
        print("dev: " + ", ".join(f"{name} {_shown(value)}" for name, value in scores.items()))
    return reader


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
    """
    settings = from_parameters(**parameters)
    is_squad = bioasq.is_squad(bioasq.read_json(questions))
    examples = (
        squad.read_squad(questions) if is_squad else read_inputs(questions, settings, abstracts)
    )
    reader = load_reader(checkpoint, settings)
    if reader.fresh_head:
        raise InputError(f"{checkpoint}: it has no span head; fine-tune it first (fine_tune.py)")
    candidates = reader.predict(examples)
    if nbest:
        write_nbest(nbest, examples, candidates)
    if is_squad and not all(_BIOASQ_ROW.fullmatch(e.id) for e in examples):
        best = {e.id: c[0].text if c else "" for e, c in zip(examples, candidates, strict=True)}
        return bioasq.write_json(output, best)
    return write_ranked(output, examples, candidates, settings.merge)


def read_inputs(
    path: str | Path, settings: Settings, abstracts: str | Path | None = None
) -> list[Example]:
    """Test questions as examples under the settings' context, every context kept."""
    texts = squad.read_abstracts(abstracts) if abstracts else None
    questions = bioasq.read_questions(path)
    return squad.convert(questions, context=settings.context, test=True, abstracts=texts)[0]


def write_ranked(
    path: str | Path,
    examples: Sequence[Example],
    candidates: Sequence[Sequence[Candidate]],
    merge: str,
) -> Path:
    """Merge the n-bests of each question and write the BioASQ answer file."""
    ranked = rank_answers(examples, candidates, merge=merge)
    return bioasq.write_answers(path, {q: [text for text, _ in best] for q, best in ranked.items()})


def _answered(path: str | Path) -> list[Example]:
    examples = squad.read_squad(path)
    if not any(e.spans for e in examples):
        raise InputError(f"{path}: no row has an answer; give a training file, not a test input")
    return examples


def _shown(value: float) -> str:
    return f"{100 * value:.1f}" if isinstance(value, float) else str(value)
