"""From BioASQ files given by name to one SQuAD file: what ``data_scripts/bioasq_to_squad.py`` does.

``conversion`` does the same for all files of a run.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from helpers.config import InputError
from helpers.data.bioasq import is_squad, parse_questions, read_json
from helpers.data.convert import convert
from helpers.data.layout import role_of
from helpers.data.leaks import find_leaks, read_tests, refuse_leaks, wordings
from helpers.data.pubmed import Abstracts, gather_abstracts
from helpers.data.schema import Oddities, Question
from helpers.data.split import split_dev
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
from helpers.io import all_or_none, check_outputs

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
