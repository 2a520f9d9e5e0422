"""From gold files and answer files to scores: what ``data_scripts/evaluate.py`` does.

``metrics`` knows mappings only; this module reads the files, pairs them up and says what was odd
about their ids. It writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers.config import InputError
from helpers.data.bioasq import (
    Answers,
    Golds,
    Remarks,
    is_squad,
    parse_answers,
    parse_list,
    read_golds,
    read_json,
    some_ids,
)
from helpers.data.squad import read_squad
from helpers.scoring import metrics

STOPS = (
    "an answer of another type than its question stops the official program; it changes no factoid "
    "score here; correct it"
)


@dataclass
class Evaluation:
    """``scores`` is JSON-ready with fractions of 1; ``lines`` show it in percent, one a batch."""

    scores: dict
    lines: list[str]
    remarks: list[str] = field(default_factory=list)


def evaluate_files(
    gold_files: Sequence[str | Path],
    answer_files: Sequence[str | Path],
    missing: str = "wrong",
) -> Evaluation:
    """Score answer files against gold files, which pair up by position.

    The golds are BioASQ golden files (factoids only), each a batch named after its file, or SQuAD
    v1.1 files, answered by ``{row id: text}``. Raises ``InputError``.
    """
    if len(gold_files) != len(answer_files):
        raise InputError(
            f"{len(gold_files)} gold files but {len(answer_files)} answer files; "
            "give one answer file for each gold file, in the same order"
        )
    kinds = {is_squad(read_json(path, strict=False)) for path in gold_files}
    if len(kinds) != 1:
        raise InputError("gold: give BioASQ files or SQuAD files, not both in one call")
    squad = kinds.pop()
    for gold_file, answer_file in zip(gold_files, answer_files, strict=True):
        given = read_json(answer_file, strict=False)
        if squad and isinstance(given, dict) and isinstance(given.get("questions"), list):
            raise InputError(
                f"{answer_file}: BioASQ answers, but {gold_file} is a SQuAD file; "
                "give the golden file of the batch (7B1_golden.json)"
            )
        if not squad and is_squad(given):
            raise InputError(
                f"{answer_file}: a SQuAD file; did --gold and --answers change places?"
            )
    score = _squad if squad else _bioasq
    return score(gold_files, answer_files, missing)


def _bioasq(gold_files, answer_files, missing: str) -> Evaluation:
    scores, remarks, seen = [], [], {}
    for gold_file, answer_file in zip(gold_files, answer_files, strict=True):
        golds, answers = read_pair(gold_file, answer_file)
        gold = dict(golds.scored)
        remarks += golds.remarks.lines(gold_file) + answers.remarks.lines(answer_file)
        remarks += _about_ids(gold_file, gold, answer_file, answers.ranked, missing)
        again = [name for name in gold if name in seen]
        if again:
            other = seen[again[0]]
            remarks.append(f"{gold_file}: {some_ids(again)} also in {other} and counted twice")
        seen.update(dict.fromkeys(gold, gold_file))
        score = metrics.score_batch(_batch(gold_file), golds.scored, answers.ranked, missing)
        if answers.texts:
            whole = {
                name: [part if isinstance(part, str) else part[0]
                       for part in parse_list(text) or [text] if part]
                for name, text in answers.texts.items()
            }  # fmt: skip
            worth = metrics.score_batch("", golds.scored, answers.ranked | whole, missing)
            remarks.append(
                f"{answer_file}: as lists of lists these texts would give: "
                + metrics.as_line(worth).strip()
            )
        spaced = [name for name, texts in golds.scored if _spaced(answers.ranked.get(name), texts)]
        if spaced:
            remarks.append(
                f"{answer_file}: an answer equals a gold but for the space around them, so it "
                f"counts as wrong, as in the official program: {some_ids(dict.fromkeys(spaced))}"
            )
        scores.append(score)
    means = metrics.summary(scores)
    for score in (*scores, metrics.weighted(scores)):
        metrics.check_bounds(score)
    return Evaluation(
        {"schema_version": 1, "missing": missing, **means, "remarks": remarks},
        [metrics.as_line(score) for score in (*scores, metrics.weighted(scores))],
        remarks,
    )


def _spaced(ranking: Sequence[str] | None, golds: Sequence[str]) -> bool:
    """Whether an answer would be right, or right at a better rank, without space around texts."""
    bare = [[text.strip() for text in texts] for texts in (ranking or (), golds)]
    return metrics.hit_rank(*bare) != metrics.hit_rank(ranking or (), golds)


def read_pair(gold_file: str | Path, answer_file: str | Path) -> tuple[Golds, Answers]:
    """A golden file and the answers to its factoids, with everything odd noted.

    Questions of other types are not scored here; the organizers' program scores them too, and
    those at which it stops are noted (``STOPS``).
    """
    golds = read_golds(gold_file)
    scored = dict(golds.scored)
    answers = parse_answers(answer_file, scored)
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


def _squad(gold_files, answer_files, missing: str) -> Evaluation:
    rows, remarks, everything = [], [], []
    for gold_file, answer_file in zip(gold_files, answer_files, strict=True):
        about_golds, about_answers = Remarks(), Remarks()
        golds = read_squad(gold_file, about_golds)
        gold = {row.id: [span.text for span in row.spans] for row in golds}
        empty = next((name for name, golds in gold.items() if not golds), None)
        if empty is not None:
            raise InputError(
                f"{gold_file}: question {empty!r} has no answer to score against; EM and F1 are "
                "those of SQuAD v1.1, give a file in which every question has one"
            )
        answers = _predictions(answer_file, about_answers)
        remarks += about_golds.lines(gold_file) + about_answers.lines(answer_file)
        remarks += _about_ids(gold_file, gold, answer_file, answers, missing)
        pairs = list(metrics.squad_scores(gold, answers, missing).values())
        if not pairs:
            raise InputError(f"{answer_file}: answers no question of {gold_file}; give its answers")
        rows.append(_squad_row(_batch(gold_file), len(gold), pairs))
        everything += pairs
    total = _squad_row("weighted", sum(row["n"] for row in rows), everything)
    scores = {"schema_version": 1, "missing": missing, "squad": rows, "weighted": total}
    lines = [
        f"{row['batch']:<10}  EM {100 * row['em']:6.2f} ({row['hits_exact']} of {row['counted']})"
        f"  F1 {100 * row['f1']:6.2f} (mean of {row['counted']})"
        for row in (*rows, total)
    ]
    return Evaluation({**scores, "remarks": remarks}, lines, remarks)


def _squad_row(batch: str, n: int, pairs: Sequence[tuple[float, float]]) -> dict:
    exact, f1 = (sum(column) for column in zip(*pairs, strict=True))
    counted = len(pairs)
    return {
        "batch": batch, "n": n, "counted": counted, "hits_exact": int(exact),
        "em": exact / counted, "f1": f1 / counted,
    }  # fmt: skip


def _predictions(path: str | Path, remarks: Remarks) -> dict[str, str]:
    data = read_json(path, remarks, strict=False)
    if not isinstance(data, dict):
        raise InputError(f"{path}: not SQuAD answers; expected one object {{row id: text}}")
    wrong = next((name for name, text in data.items() if not isinstance(text, str)), None)
    if wrong is not None:
        raise InputError(f"{path}: {wrong!r} is no text; SQuAD answers are {{row id: text}}")
    return data


def _about_ids(gold_file, gold, answer_file, answers, missing: str) -> list[str]:
    absent = [name for name in gold if name not in answers]
    unknown = [name for name in answers if name not in gold]
    bare = [name for name in gold if not gold[name]]
    fate = "counted as wrong" if missing == "wrong" else "dropped"
    remarks = []
    if len(absent) == len(gold) and answers:
        raise InputError(
            f"{answer_file}: answers no question of {gold_file}; "
            "give the files of both kinds in the same order"
        )
    if absent:
        remarks.append(f"{answer_file}: without an entry and {fate}: {some_ids(absent)}")
    if unknown:
        remarks.append(f"{answer_file}: not in {gold_file} and ignored: {some_ids(unknown)}")
    if bare:
        remarks.append(f"{gold_file}: without a gold answer and counted as wrong: {some_ids(bare)}")
    return remarks


def _batch(gold_file: str | Path) -> str:
    stem = Path(gold_file).stem
    return stem[: -len("_golden")] if stem.lower().endswith("_golden") else stem
