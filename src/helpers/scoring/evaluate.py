"""From gold files and answer files to scores, for ``data_scripts/evaluate.py``.

``metrics`` scores mappings; this module reads the files, pairs them up and reports everything odd
about them. It writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.config import InputError
from helpers.data import bioasq
from helpers.data.bioasq import Answers, Golds, Remarks, read_json, some_ids
from helpers.data.squad import read_squad
from helpers.scoring import metrics

Pair = tuple[str | Path, str | Path]  # gold file, answer file
STOPS = (
    "an answer whose type does not match its question stops the official program; it changes no "
    "factoid score here; correct it"
)


@dataclass
class Evaluation:
    """``scores`` is JSON-ready with fractions of 1; ``lines`` show it in percent, one per batch."""

    scores: dict
    lines: list[str]
    remarks: list[str]


def evaluate_files(
    gold_files: Sequence[str | Path], answer_files: Sequence[str | Path], missing: str = "wrong"
) -> Evaluation:
    """Score answer files against gold files, paired by position. Raises ``InputError``.

    The golds are BioASQ golden files (only factoids count; each file is a batch) or SQuAD v1.1
    files, whose answers are ``{row id: text}``.
    """
    pairs = pair_up(gold_files, answer_files)
    kinds = {bioasq.is_squad(read_json(path, strict=False)) for path in gold_files}
    if len(kinds) != 1:
        raise InputError("gold: give BioASQ files or SQuAD files, not both in one call")
    return (_squad if kinds.pop() else _bioasq)(pairs, missing)


def pair_up(gold_files: Sequence[str | Path], answer_files: Sequence[str | Path]) -> list[Pair]:
    """Gold and answer files as pairs; ``InputError`` unless there are as many of each."""
    if len(gold_files) != len(answer_files):
        raise InputError(
            f"{len(gold_files)} gold files but {len(answer_files)} answer files; "
            "give one answer file for each gold file, in the same order"
        )
    return list(zip(gold_files, answer_files, strict=True))


def read_pair(gold_file: str | Path, answer_file: str | Path) -> tuple[Golds, Answers]:
    """A golden file and the answers to its factoids; both note what is odd.

    The organizers' program also scores questions of other types. We do not, but note those at which
    it stops (``STOPS``).
    """
    golds = bioasq.read_golds(gold_file)
    scored = dict(golds.scored)
    answers = bioasq.parse_answers(answer_file, scored)
    entries = dict(reversed(answers.items))  # the first entry of an id counts
    for name, item in golds.items:
        if name not in entries or item.get("type") == "factoid":
            continue
        if name not in scored:
            answers.ranked.pop(name, None)
            answers.remarks.add("not a factoid in the golden file and ignored", name)
        given = entries[name].get("exact_answer", "")
        no_word = not isinstance(item.get("exact_answer"), str) or not isinstance(given, str)
        no_list = "exact_answer" not in item and isinstance(given, list) and any(given)
        if (item.get("type") == "yesno" and no_word) or (item.get("type") == "list" and no_list):
            answers.remarks.add(STOPS, name)
    return golds, answers


def _bioasq(pairs: Sequence[Pair], missing: str) -> Evaluation:
    for _, answer_file in pairs:
        if bioasq.is_squad(read_json(answer_file, strict=False)):
            raise InputError(
                f"{answer_file}: a SQuAD file; did --gold and --answers change places?"
            )
    scores, remarks, seen = [], [], {}
    for gold_file, answer_file in pairs:
        golds, answers = read_pair(gold_file, answer_file)
        gold, ranked = dict(golds.scored), answers.ranked
        remarks += golds.remarks.lines(gold_file) + answers.remarks.lines(answer_file)
        remarks += _about_ids(gold_file, gold, answer_file, ranked, missing)
        again = [name for name in gold if name in seen]
        if again:
            other = seen[again[0]]
            remarks.append(f"{gold_file}: {some_ids(again)} also in {other} and counted twice")
        seen |= dict.fromkeys(gold, gold_file)
        score = metrics.score_batch(_batch(gold_file), golds.scored, ranked, missing)
        if answers.texts:
            lists = {n: bioasq.parse_list(text) or [text] for n, text in answers.texts.items()}
            worth = metrics.score_batch("", golds.scored, ranked | lists, missing)
            line = metrics.as_line(worth).strip()
            remarks.append(f"{answer_file}: as lists of lists these texts would give: {line}")
        spaced = [name for name, texts in golds.scored if _spaced(ranked.get(name, ()), texts)]
        if spaced:
            remarks.append(
                f"{answer_file}: an answer equals a gold except for the space around them, so it "
                f"counts as wrong, as in the official program: {some_ids(dict.fromkeys(spaced))}"
            )
        scores.append(score)
    shown = [*scores, metrics.weighted(scores)]
    for score in shown:
        metrics.check_bounds(score)
    found = {"schema_version": 1, "missing": missing, **metrics.summary(scores), "remarks": remarks}
    return Evaluation(found, [metrics.as_line(score) for score in shown], remarks)


def _spaced(ranking: Sequence[str], golds: Sequence[str]) -> bool:
    """Whether an answer would be right, or right at a better rank, without space around texts."""
    bare = [[text.strip() for text in texts] for texts in (ranking, golds)]
    return metrics.hit_rank(*bare) != metrics.hit_rank(ranking, golds)


def _squad(pairs: Sequence[Pair], missing: str) -> Evaluation:
    rows, remarks, everything = [], [], []
    for gold_file, answer_file in pairs:
        odd, given = Remarks(), Remarks()
        answers = _predictions(answer_file, gold_file, given)
        gold = {row.id: [span.text for span in row.spans] for row in read_squad(gold_file, odd)}
        empty = next((name for name, golds in gold.items() if not golds), None)
        if empty is not None:
            raise InputError(
                f"{gold_file}: question {empty!r} has no answer to score against; EM and F1 are "
                "those of SQuAD v1.1, give a file in which every question has one"
            )
        remarks += odd.lines(gold_file) + given.lines(answer_file)
        remarks += _about_ids(gold_file, gold, answer_file, answers, missing)
        scores = list(metrics.squad_scores(gold, answers, missing).values())
        if not scores:
            raise InputError(f"{answer_file}: answers no question of {gold_file}; give its answers")
        rows.append(_squad_row(_batch(gold_file), len(gold), scores))
        everything += scores
    total = _squad_row("weighted", sum(row["n"] for row in rows), everything)
    lines = [
        f"{row['batch']:<10}  EM {100 * row['em']:6.2f} ({row['hits_exact']} of {row['counted']})"
        f"  F1 {100 * row['f1']:6.2f} (mean of {row['counted']})"
        for row in (*rows, total)
    ]
    found = {"schema_version": 1, "missing": missing, "squad": rows, "weighted": total}
    return Evaluation({**found, "remarks": remarks}, lines, remarks)


def _squad_row(batch: str, n: int, scores: Sequence[tuple[float, float]]) -> dict:
    exact, f1 = (sum(column) for column in zip(*scores, strict=True))
    counted = len(scores)
    return {
        "batch": batch, "n": n, "counted": counted, "hits_exact": int(exact),
        "em": exact / counted, "f1": f1 / counted,
    }  # fmt: skip


def _predictions(path: str | Path, gold_file: str | Path, odd: Remarks) -> dict[str, str]:
    data = read_json(path, odd, strict=False)
    if not isinstance(data, dict):
        raise InputError(f"{path}: not SQuAD answers; expected one object {{row id: text}}")
    if isinstance(data.get("questions"), list):
        raise InputError(
            f"{path}: BioASQ answers, but {gold_file} is a SQuAD file; "
            "give the golden file of the batch (7B1_golden.json)"
        )
    wrong = next((name for name, text in data.items() if not isinstance(text, str)), None)
    if wrong is not None:
        raise InputError(f"{path}: {wrong!r} is not a text; SQuAD answers are {{row id: text}}")
    return data


def _about_ids(gold_file, gold: Mapping, answer_file, answers: Mapping, missing: str) -> list[str]:
    absent = [name for name in gold if name not in answers]
    if len(absent) == len(gold) and answers:
        raise InputError(
            f"{answer_file}: answers no question of {gold_file}; "
            "give the files of both kinds in the same order"
        )
    fate = "counted as wrong" if missing == "wrong" else "dropped"
    unknown = [name for name in answers if name not in gold]
    bare = [name for name in gold if not gold[name]]
    remarks = (
        (absent, f"{answer_file}: without an entry and {fate}"),
        (unknown, f"{answer_file}: not in {gold_file} and ignored"),
        (bare, f"{gold_file}: without a gold answer and counted as wrong"),
    )
    return [f"{remark}: {some_ids(names)}" for names, remark in remarks if names]


def _batch(gold_file: str | Path) -> str:
    return re.sub(r"_golden\Z", "", Path(gold_file).stem, flags=re.IGNORECASE)
