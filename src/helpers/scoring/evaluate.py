"""Score answer files against gold files, for ``data_scripts/evaluate.py``.

This module reads the files, pairs them and reports anything unusual in them; ``metrics`` computes
the scores. Nothing is written to disk.
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
    "correct these answers, whose wrong type stops the official program but changes no factoid "
    "score here"
)


@dataclass
class Evaluation:
    """JSON-ready scores (0 to 1), one line of percentages per batch, and remarks."""

    scores: dict
    lines: list[str]
    remarks: list[str]


def evaluate_files(
    gold_files: Sequence[str | Path], answer_files: Sequence[str | Path], missing: str = "wrong"
) -> Evaluation:
    """Score answer files against gold files, paired by position; raise ``InputError`` on failure.

    The gold files are BioASQ golden files (only factoids count, and each file is a batch) or SQuAD
    v1.1 files, whose answer files contain ``{row id: text}``.
    """
    pairs = pair_up(gold_files, answer_files)
    kinds = {bioasq.is_squad(read_json(path, strict=False)) for path in gold_files}
    if len(kinds) != 1:
        raise InputError("gold: specify either BioASQ files or SQuAD files, not both")
    return (_squad if kinds.pop() else _bioasq)(pairs, missing)


def pair_up(gold_files: Sequence[str | Path], answer_files: Sequence[str | Path]) -> list[Pair]:
    """Pair gold and answer files by position; raise ``InputError`` if their numbers differ."""
    if len(gold_files) != len(answer_files):
        raise InputError(
            f"{len(gold_files)} gold files but {len(answer_files)} answer files; "
            "specify one answer file per gold file, in the same order"
        )
    return list(zip(gold_files, answer_files, strict=True))


def read_pair(gold_file: str | Path, answer_file: str | Path) -> tuple[Golds, Answers]:
    """Read a golden file and the answers to its factoids, with remarks on anything unusual.

    The organizers' program also scores questions of other types. We do not, but we report answers
    that stop the program (``STOPS``).
    """
    golds = bioasq.read_golds(gold_file)
    scored = dict(golds.scored)
    answers = bioasq.parse_answers(answer_file, scored)
    entries = dict(reversed(answers.items))  # only the first entry per id counts
    for name, item in golds.items:
        if name not in entries or item.get("type") == "factoid":
            continue
        if name not in scored:
            answers.ranked.pop(name, None)
            answers.remarks.add("not a factoid in the golden file, so ignored", name)
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
                f"{answer_file}: this is a SQuAD file; did you swap --gold and --answers?"
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
            remarks.append(f"{gold_file}: also in {other}, so counted twice: {some_ids(again)}")
        seen |= dict.fromkeys(gold, gold_file)
        score = metrics.score_batch(_batch(gold_file), golds.scored, ranked, missing)
        if answers.texts:
            lists = {n: bioasq.parse_list(text) or [text] for n, text in answers.texts.items()}
            worth = metrics.score_batch("", golds.scored, ranked | lists, missing)
            line = metrics.as_line(worth).strip()
            remarks.append(
                f"{answer_file}: read as lists of lists, these strings would give {line}"
            )
        spaced = [name for name, texts in golds.scored if _spaced(ranked.get(name, ()), texts)]
        if spaced:
            remarks.append(
                f"{answer_file}: an answer differs from a gold answer only in surrounding space, "
                "so it counts as wrong, as in the official program: "
                f"{some_ids(dict.fromkeys(spaced))}"
            )
        scores.append(score)
    shown = [*scores, metrics.weighted(scores)]
    for score in shown:
        metrics.check_bounds(score)
    found = {"schema_version": 1, "missing": missing, **metrics.summary(scores), "remarks": remarks}
    return Evaluation(found, [metrics.as_line(score) for score in shown], remarks)


def _spaced(ranking: Sequence[str], golds: Sequence[str]) -> bool:
    """Return whether stripping surrounding space would change the first correct answer's rank."""
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
                f"{gold_file}: question {empty!r} has no gold answer; specify a file in which "
                "every question has one, because EM and F1 follow SQuAD v1.1"
            )
        remarks += odd.lines(gold_file) + given.lines(answer_file)
        remarks += _about_ids(gold_file, gold, answer_file, answers, missing)
        scores = list(metrics.squad_scores(gold, answers, missing).values())
        if not scores:
            raise InputError(
                f"{answer_file}: answers no question in {gold_file}; specify the file that does"
            )
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
        raise InputError(f"{path}: not SQuAD answers; expected one JSON object {{row id: text}}")
    if isinstance(data.get("questions"), list):
        raise InputError(
            f"{path}: contains BioASQ answers, but {gold_file} is a SQuAD file; "
            "specify the golden file of the batch (such as 7B1_golden.json)"
        )
    wrong = next((name for name, text in data.items() if not isinstance(text, str)), None)
    if wrong is not None:
        raise InputError(f"{path}: the answer to {wrong!r} is not a string; use {{row id: text}}")
    return data


def _about_ids(gold_file, gold: Mapping, answer_file, answers: Mapping, missing: str) -> list[str]:
    absent = [name for name in gold if name not in answers]
    if len(absent) == len(gold) and answers:
        raise InputError(
            f"{answer_file}: answers no question in {gold_file}; "
            "specify the gold and answer files in the same order"
        )
    fate = "counted as wrong" if missing == "wrong" else "dropped"
    unknown = [name for name in answers if name not in gold]
    bare = [name for name in gold if not gold[name]]
    remarks = (
        (absent, f"{answer_file}: no entry, so {fate}"),
        (unknown, f"{answer_file}: not in {gold_file}, so ignored"),
        (bare, f"{gold_file}: no gold answer, so counted as wrong"),
    )
    return [f"{remark}: {some_ids(names)}" for names, remark in remarks if names]


def _batch(gold_file: str | Path) -> str:
    return re.sub(r"_golden\Z", "", Path(gold_file).stem, flags=re.IGNORECASE)
