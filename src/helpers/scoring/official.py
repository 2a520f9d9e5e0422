"""Run the organizers' evaluator on our files and compare its figures with ours.

``BioASQEvaluation.jar`` is part of https://github.com/BioASQ/Evaluation-Measures (folder
``flat/BioASQEvaluation/dist``; keep its folder ``lib`` next to it). Its class ``EvaluatorTask1b``
reads a golden file and an answer file, prints one line of figures, and crashes on some files that
the organizers did not write. We first run it on exact copies. If it stops, we edit the parts of the
copies that it cannot read, and we list every change. Our scores come from the original files, so
the two programs can disagree.

The version that scored task 7b leaves unanswered questions out of the means. If it can read the
files as they are, our figures leave out these questions as well (``missing="dropped"``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.config import InputError
from helpers.data.bioasq import Answers, Golds, some_ids, unreadable_fields
from helpers.scoring import metrics
from helpers.scoring.evaluate import STOPS, Pair, pair_up, read_pair

MAIN = "evaluation.EvaluatorTask1b"
EDITION = 5  # the program's name for the rules of BioASQ 5 and later, which include task 7b
# Positions in the program's line of figures. Since 2018, the line also has three yes/no F1 scores.
FACTOID = {"SAcc": 1, "MRR": 3, "LAcc": 2}
TOLERANCE = 1e-9
_SECONDS = 120


@dataclass(frozen=True)
class Comparison:
    """One batch scored by both programs; ``official`` and ``ours`` hold scores (0 to 1)."""

    batch: str
    official: dict[str, float]
    ours: dict[str, float]
    repairs: tuple[str, ...]  # one sentence for each thing changed in or left out of the copies

    @property
    def agrees(self) -> bool:
        """True if all figures agree within ``TOLERANCE``."""
        return all(abs(self.official[m] - self.ours[m]) <= TOLERANCE for m in FACTOID)

    def line(self) -> str:
        """Return one line for a terminal, with both programs' figures in full precision."""
        figures = "  ".join(f"{m} {self.official[m]!r} {self.ours[m]!r}" for m in FACTOID)
        return f"{self.batch:<10}  {figures}  {'agree' if self.agrees else 'DIFFER'}"


def compare_files(
    jar: str | Path,
    gold_files: Sequence[str | Path],
    answer_files: Sequence[str | Path],
    *,
    missing: str = "wrong",
    edition: int = EDITION,
    names: Sequence[str] = (),
) -> list[Comparison]:
    """Score each pair of golden file and answer file with the organizers' program and with ours.

    Raise ``InputError`` if Java or the jar is missing, if a file cannot be read or if the program
    fails. In the last case, the message quotes the program.
    """
    pairs = pair_up(gold_files, answer_files)
    metrics.check_missing(missing)
    if edition != EDITION:
        raise InputError(
            f"edition: {edition} has different rules (before BioASQ 5, systems sent synonyms), so "
            f"its figures are not comparable with ours; specify {EDITION}"
        )
    # By default, the file encoding and lowercasing depend on the settings of this machine.
    command = [_java(), "-Dfile.encoding=UTF-8", "-Duser.language=en", "-cp", _checked_jar(jar),
               MAIN, "-phaseB", "-e", str(edition)]  # fmt: skip
    names = names or [Path(path).stem for path in gold_files]
    return [
        Comparison(name, *_compare(command, pair, missing))
        for name, pair in zip(names, pairs, strict=True)
    ]


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if java is None:
        where = f"in JAVA_HOME ({home})" if home else "on the PATH"
        raise InputError(f"java: not found {where}; install a Java runtime (8 or later)")
    return java


def _checked_jar(jar: str | Path) -> str:
    path = Path(jar).expanduser().resolve()
    if not path.is_file():
        raise InputError(
            f"{jar}: no such file; specify BioASQEvaluation.jar from the organizers' repository "
            "BioASQ/Evaluation-Measures, with the folder lib next to it"
        )
    if os.pathsep in str(path):
        raise InputError(f"{jar}: Java does not allow {os.pathsep!r} in a jar's path; move the jar")
    return str(path)


def _compare(command: list[str], pair: Pair, missing: str) -> tuple[dict, dict, tuple[str, ...]]:
    """Return both programs' figures for a pair of files, and what was changed or left out."""
    gold_file, answer_file = pair
    golds, answers = read_pair(gold_file, answer_file)
    asked = dict(golds.scored)
    absent = [name for name in asked if name not in answers.ranked]
    if len(absent) == len(asked):
        raise InputError(
            f"{answer_file}: answers no question in {gold_file}; "
            "specify the gold and answer files in the same order"
        )
    repairs, rule = [], "dropped"
    left = "left out of the means by the official program and therefore also by ours"
    with tempfile.TemporaryDirectory(prefix="bioasq-official-") as folder:
        copies = Path(folder) / "golden.json", Path(folder) / "answers.json"
        for file, copy in zip(pair, copies, strict=True):
            shutil.copyfile(file, copy)  # Java may not be able to open the file under its own name
        try:
            official = _run(command, copies)
        except InputError as error:
            rule, left = missing, "given an empty answer" if missing == "wrong" else "left out"
            repairs = [f"{answer_file}: the program cannot read the files as they are ({error})"]
            repairs += golds.remarks.lines(gold_file) + answers.remarks.lines(answer_file)
            _repair(golds, answers, absent, missing, copies)
            official = _run(command, copies)
    if absent and (repairs or missing == "wrong"):
        repairs.append(f"{answer_file}: missing, so {left}: {some_ids(absent)}")
    score = metrics.score_batch("", golds.scored, answers.ranked, rule)
    return official, {m: getattr(score, m.lower()) for m in FACTOID}, tuple(repairs)


def _repair(golds: Golds, answers: Answers, absent: list, missing: str, copies: tuple) -> None:
    """Write copies of the files, changing or omitting only what stops the program."""

    def readable(item: dict) -> dict:
        bad = unreadable_fields(item)
        return {key: value for key, value in item.items() if key not in bad}

    synonyms, rows = iter(golds.scored), []
    for name, item in golds.items:
        row = readable(item)
        if row.get("type") == "factoid":
            _, texts = next(synonyms)
            row.setdefault("exact_answer", [list(texts)])
            if missing == "dropped" and name in absent:
                continue
        rows.append(row)
    copies[0].write_text(json.dumps({"questions": rows}))
    rows = [{"id": name, "exact_answer": []} for name in absent if missing == "wrong"]
    for name, item in answers.items:
        row = readable(item)
        if "exact_answer" in unreadable_fields(item) and name in answers.ranked:
            row["exact_answer"] = [[text] for text in answers.ranked[name]]
        if name is not None and name not in answers.remarks.found.get(STOPS, ()):
            rows.append(row)
    copies[1].write_text(json.dumps({"questions": rows}))


def _run(command: list[str], files: Sequence[Path]) -> dict[str, float]:
    java, jar = command[0], command[command.index("-cp") + 1]
    try:
        done = subprocess.run(
            [*command, *map(str, files)],
            capture_output=True, encoding="utf-8", errors="replace", timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{jar}: returned no result within {_SECONDS} seconds; is it the evaluator?"
        ) from None
    except OSError as error:
        raise InputError(f"{java}: cannot be started ({error.strerror})") from None
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    try:
        figures = [float(word) for word in lines[-1].split()]
    except (IndexError, ValueError):
        figures = []
    # After some errors, the program stops reading a file but still prints scores and exits with 0.
    if done.returncode or "Exception" in done.stderr or len(figures) <= max(FACTOID.values()):
        raise InputError(f"{jar}: {_why([*done.stderr.splitlines(), *lines])}")
    return {measure: figures[place] for measure, place in FACTOID.items()}


def _why(said: Sequence[str]) -> str:
    """Return a one-line description of the program's failure."""
    lines = [line.strip() for line in said if line.strip()]
    if not lines:
        return "it printed nothing; is it the evaluator?"
    for line in (line for line in lines if "NoClassDefFoundError" in line):
        name = line.rpartition(" ")[2]
        return f"lacks a library ({name}); keep the folder lib next to the jar"
    words = next((line for line in lines if "Exception" in line or "Error" in line), lines[-1])
    if "find or load main class" in words:
        return f"has no class {MAIN}, so it is not the evaluator's jar; use BioASQEvaluation.jar"
    words = words.removeprefix('Exception in thread "main" ')
    return f"the evaluator failed: {words[:300]}"
