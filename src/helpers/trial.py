"""What training on looser matches does to the dev score: the same questions, with and without.

Half of BioASQ-mini's training golds are first written as golds often are that differ from the
text: another hyphen, a Greek letter's name, a plural, a remark in brackets, a full stop. The user's
own training golds stay as they are. Dev golds are never touched, and the dev score is the official
one: an answer is right when it equals a gold, upper or lower case.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

from helpers import training
from helpers.bioasq import Question, read_questions, write_json
from helpers.config import RUNGS, InputError, Settings, from_parameters
from helpers.ladder import Ladder
from helpers.layout import find_files
from helpers.metrics import score_batch
from helpers.mini_text import DATA
from helpers.outputs import check_outputs
from helpers.prediction import Reader, rank_answers
from helpers.squad import Example, by_occurrence, convert, split_dev

VARIANTS = {"strict rule": (), "all rungs": RUNGS}
SHARE = 0.5  # of the golds that ``blunted`` rewrites
FIXED = ("dev_fraction", "context", "rungs", "seed")  # settings that a trial chooses itself
_NAMES = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "κ": "kappa"}


def blunted(questions: Sequence[Question], seed: int) -> list[Question]:
    """The questions, ``SHARE`` of them with golds that the strict rule will hardly find."""
    rng = Random(f"blunt|{seed}")
    chosen = set(rng.sample(range(len(questions)), round(SHARE * len(questions))))
    return [_blunt(q, rng) if n in chosen else q for n, q in enumerate(questions)]


def _blunt(question: Question, rng: Random) -> Question:
    edit = rng.choice((_other_hyphen, _other_letter, _plural, _with_remark, _with_stop))
    entities = tuple(tuple(map(edit, entity)) for entity in question.exact_answer)
    return replace(question, exact_answer=entities)


def _other_hyphen(text: str) -> str:
    if "-" in text:
        return text.replace("-", " ")
    return text.replace(" ", "-") if " " in text else _plural(text)


def _other_letter(text: str) -> str:
    for letter, name in _NAMES.items():
        if letter in text:
            return text.replace(letter, name)
        if name in text.lower():
            return text.lower().replace(name, letter)
    return _plural(text)


def _plural(text: str) -> str:
    return text[:-1] if text.endswith("s") and not text.isupper() else text + "s"


def _with_remark(text: str) -> str:
    return f"{text} (as it is called)"


def _with_stop(text: str) -> str:
    return f'"{text}".'


def compare_files(
    load: Callable[[Settings], Reader],
    bioasq_dir: str | Path | None,
    seeds: Sequence[int],
    output: str | Path,
    **parameters,
) -> list[dict]:
    """``compare_training`` for each seed on the training file of a folder, or on BioASQ-mini's.

    ``load`` makes a fresh reader for the settings; ``parameters`` are names of
    ``config.Settings`` but for ``FIXED``. The rows of the seeds done so far are in ``output``, so
    a run that is stopped keeps them. Everything is checked before training starts; raises
    ``InputError``.
    """
    for name in (name for name in FIXED if name in parameters):
        raise InputError(
            f"--set {name}: a trial chooses it (both kinds of match, snippets, a fifth held out, "
            "--seeds); leave it out"
        )
    train = DATA / "BioASQ-training-mini.json"
    if bioasq_dir:
        files = find_files(bioasq_dir)
        train = files.train
        if files.train_is_squad:
            raise InputError(
                f"{train}: holds only what somebody's rule has found; the organisers' own "
                "training file is needed to compare rules"
            )
    check_outputs([output], [train])
    values = {"wandb_mode": "disabled", **parameters}
    every = [from_parameters(**{**values, "seed": seed}) for seed in seeds]
    questions = read_questions(train, answers="required")
    rows: list[dict] = []
    for settings in every:
        rows += compare_training(
            partial(load, settings),
            questions,
            settings,
            blunt=not bioasq_dir,
        )
        write_json(output, rows)
    return rows


def compare_training(
    load: Callable[[], Reader],
    questions: Sequence[Question],
    settings: Settings,
    *,
    blunt: bool,
    dev_fraction: float = 0.2,
) -> list[dict]:
    """Train once a variant and score the same held-out questions: a row a variant.

    ``load`` makes a fresh reader. Held out are questions in whose snippets the strict rule finds
    an untouched gold, the same ones for every variant. Scores are fractions of 1.
    """
    whole, _ = convert(questions)
    _, held = split_dev(whole, dev_fraction, settings.seed)
    held_ids = {example.question_id for example in held}
    dev = [question for question in questions if question.id in held_ids]
    rest = [question for question in questions if question.id not in held_ids]
    rest = blunted(rest, settings.seed) if blunt else rest
    asked, _ = convert(dev, test=True)
    rows = []
    for name, rungs in VARIANTS.items():
        pairs, lost = convert(rest, rungs=rungs)
        reader = load()
        with tempfile.TemporaryDirectory() as folder:
            done = training.fine_tune(reader, by_occurrence(pairs), Path(folder) / "training")
        row = {"matches": name, "seed": settings.seed, "questions": len(rest) - len(lost)}
        row |= {"pairs": len(pairs), "by a rung": sum(bool(pair.rung) for pair in pairs)}
        rows.append(row | _score(reader, dev, asked) | {"seconds": round(done.seconds, 1)})
    return rows


def _score(reader: Reader, dev: Sequence[Question], asked: Sequence[Example]) -> dict:
    ranked = rank_answers(asked, reader.predict(asked), merge=reader.settings.merge)
    answers = {name: [text for text, _ in found] for name, found in ranked.items()}
    score = score_batch("dev", {q.id: q.synonyms() for q in dev}, answers)
    return {"dev questions": score.n, "sacc": score.sacc, "mrr": score.mrr, "lacc": score.lacc}


def recovered(questions: Sequence[Question], seed: int) -> tuple[int, int, int]:
    """Of blunted questions: all, those the strict rule still finds, those that all rungs find."""
    found = [0, 0]
    for question in blunted(questions, seed):
        texts = [snippet.text for snippet in question.snippets]
        for n, rungs in enumerate(VARIANTS.values()):
            ladder = Ladder(question.synonyms(), rungs)
            found[n] += any(ladder.find(text).spans for text in texts)
    return len(questions), *found
