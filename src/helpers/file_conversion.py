"""From BioASQ files given by name to one SQuAD file: what ``data_scripts/bioasq_to_squad.py`` does.

``conversion`` does the same for all files of a run.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from helpers.abstracts import Abstracts, gather_abstracts
from helpers.bioasq import Question, read_questions, role_of
from helpers.config import InputError
from helpers.outputs import check_outputs
from helpers.squad import Drop, Example, by_occurrence, convert, split_dev
from helpers.squad_file import write_drops, write_ids, write_squad

GOLDEN = "holds answers, so it is a golden file: more snippets than participants were given"


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
) -> str:
    """Convert BioASQ files into ``output`` (and ``<output>_dev.json``); a one-line summary.

    ``abstracts`` is a file for context "abstract"; PubMed is asked for what it lacks.

    Everything is read and converted before the first file is written. Without ``test``, golden
    files are refused: their questions are test questions. Raises ``InputError``.
    """
    check_outputs((output,))  # its name is taken apart next
    if test and dev_fraction:
        raise InputError("dev fraction: a test input is not split; leave out one of the two")
    output = Path(output)
    dev_output = output.with_name(f"{output.stem}_dev{output.suffix}") if dev_fraction else None
    check_outputs((output, dev_output, drops, ids), (*files, abstracts))
    questions = _read_all(files, test)
    given = [abstracts] if abstracts else []
    texts = gather_abstracts(questions, given) if context == "abstract" else Abstracts({}, {})
    examples, dropped = convert(
        questions, context=context, test=test, abstracts=texts.texts, lacking=texts.lacking
    )
    if not examples:
        reasons = ", ".join(sorted({drop.reason for drop in dropped}))
        raise InputError(f"{files[0]}: no question could be converted ({reasons})")
    train, dev = split_dev(examples, dev_fraction, seed)
    rows = train if test else by_occurrence(train)
    if test and any(question.exact_answer for question in questions):
        names = ", ".join(str(file) for file in files)
        print(f"{names}: {GOLDEN}", file=sys.stderr)

    if drops:
        write_drops(drops, dropped)
    if ids:
        write_ids(ids, rows + dev)
    if dev_output:
        write_squad(dev_output, dev, version=version)
    write_squad(output, rows, version=version)
    return _summary(len(questions), rows, dev, dropped)


def _read_all(files: Sequence[str | Path], test: bool) -> list[Question]:
    questions: dict[str, Question] = {}
    for file in files:
        if not test and role_of(file) == "golden":
            raise InputError(
                f"{file}: a golden file holds test questions; add --test, "
                "or rename it if you mean to train on it"
            )
        for question in read_questions(file, answers="any" if test else "required"):
            if question.id in questions:
                raise InputError(
                    f"{file}: question {question.id!r}: id is also in another file; drop one file"
                )
            questions[question.id] = question
    return list(questions.values())


def _summary(total: int, rows: list[Example], dev: list[Example], dropped: list[Drop]) -> str:
    held = f", held out: {len(dev)} pairs" if dev else ""
    reasons = Counter(drop.reason for drop in dropped).most_common()
    why = "".join(f"; {reason}: {count}" for reason, count in reasons)
    kept = total - len(dropped)
    return f"{len(rows)} rows{held}; {kept} of {total} questions, {len(dropped)} dropped{why}"
