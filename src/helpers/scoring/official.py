"""The organizers' own evaluator, run on our files and compared with our figures.

``BioASQEvaluation.jar`` is part of https://github.com/BioASQ/Evaluation-Measures (folder
``flat/BioASQEvaluation/dist``, to be kept with its ``lib``). Its class ``EvaluatorTask1b`` reads a
golden and an answer file and prints one line of figures. It was written for the organizers' own
files and ends in a stack trace on some others. So it is run on exact copies first. Only if it
stops does it get copies in which what it cannot read is changed, and every change is listed. Our
scores come from the files as they are, so the two programs can disagree.

The program of 7b leaves unanswered questions out of the means; where it reads the files as they
are, our figures beside it are computed in the same way (``missing="dropped"``).
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

from helpers.config import MISSING, InputError
from helpers.data.bioasq import Answers, Golds, some_ids, unreadable_fields
from helpers.scoring import metrics
from helpers.scoring.evaluate import STOPS, read_pair

MAIN = "evaluation.EvaluatorTask1b"
EDITION = 5  # what the program calls the rules of BioASQ 5 and later, task 7b among them
# Places in its line of figures. Versions since 2018 print three more, F1 of yes/no questions.
FACTOID = {"SAcc": 1, "MRR": 3, "LAcc": 2}
TOLERANCE = 1e-9
_SECONDS = 120


@dataclass(frozen=True)
class Comparison:
    """One batch by both programs. ``official`` and ``ours`` map a measure to a fraction of 1."""

    batch: str
    official: dict[str, float]
    ours: dict[str, float]
    repairs: tuple[str, ...]  # what was changed in copies or left out, one sentence each

    @property
    def agrees(self) -> bool:
        """Whether all figures are the same within ``TOLERANCE``."""
        return all(abs(self.official[m] - self.ours[m]) <= TOLERANCE for m in FACTOID)

    def line(self) -> str:
        """Both programs' figures in full, for a terminal."""
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
    """Score each pair of golden and answer file with the organizers' program and with ours.

    Raises ``InputError`` when Java or the jar is missing, when a file cannot be read, or when the
    program fails; its message then holds the program's own words.
    """
    if len(gold_files) != len(answer_files):
        raise InputError(
            f"{len(gold_files)} gold files but {len(answer_files)} answer files; "
            "give one answer file for each gold file, in the same order"
        )
    if missing not in MISSING:
        raise InputError(f"missing: {missing!r} is not one of {', '.join(MISSING)}")
    if edition != EDITION:
        raise InputError(
            f"edition: {edition} has other rules (before BioASQ 5 systems sent synonyms) and would "
            f"not be comparable with our figures; give {EDITION}"
        )
    # The program takes the files by their place behind -e, reads them in the machine's own
    # encoding, and lowers their case by the machine's own language; ours are UTF-8 and neither.
    command = [
        _java(), "-Dfile.encoding=UTF-8", "-Duser.language=en", "-cp", str(_checked_jar(jar)), MAIN,
        "-phaseB", "-e", str(edition),
    ]  # fmt: skip
    found = []
    names = names or [Path(path).stem for path in gold_files]
    for name, *pair in zip(names, gold_files, answer_files, strict=True):
        official, ours, repairs = _compare(command, tuple(pair), missing)
        found.append(Comparison(name, official, ours, tuple(repairs)))
    return found


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if java is None:
        where = f"in JAVA_HOME ({home})" if home else "on the PATH"
        raise InputError(f"java: not found {where}; install a Java runtime (8 or later)")
    return java


def _checked_jar(jar: str | Path) -> Path:
    path = Path(jar).expanduser().resolve()
    if not path.is_file():
        raise InputError(
            f"{jar}: no such file; give BioASQEvaluation.jar from the organizers' repository "
            "BioASQ/Evaluation-Measures, with the folder lib beside it"
        )
    if os.pathsep in str(path):
        raise InputError(f"{jar}: Java reads {os.pathsep!r} as the end of a path; move the jar")
    return path


def _compare(command: list[str], pair: tuple, missing: str) -> tuple[dict, dict, list[str]]:
    """Figures of both programs on one pair of files, and what was changed or left out for it."""
    gold_file, answer_file = pair
    golds, answers = read_pair(gold_file, answer_file)
    scored, given = dict(golds.scored), answers.ranked
    if not given.keys() & scored.keys():
        raise InputError(
            f"{answer_file}: answers none of the questions of {gold_file}; pair up the files by "
            "their order"
        )
    absent = [name for name in scored if name not in given]
    with tempfile.TemporaryDirectory(prefix="bioasq-official-") as folder:
        copies = Path(folder) / "golden.json", Path(folder) / "answers.json"
        for file, copy in zip(pair, copies, strict=True):
            shutil.copyfile(file, copy)  # Java may not be able to open the file under its own name
        try:
            official, rule = _run(command, *copies), "dropped"
            repairs = []
            if absent and missing != rule:
                repairs.append(
                    f"{answer_file}: missing, and left out of the means by the official program, "
                    f"so here by ours too: {some_ids(absent)}"
                )
        except InputError as error:
            rule = missing
            repairs = [f"{answer_file}: the program cannot read the files as they are ({error})"]
            repairs += golds.remarks.lines(gold_file) + answers.remarks.lines(answer_file)
            if absent:
                what = "an empty answer put in" if missing == "wrong" else "left out"
                repairs.append(f"{answer_file}: missing, {what}: {some_ids(absent)}")
            _repair(golds, answers, absent, missing, copies)
            official = _run(command, *copies)
    score = metrics.score_batch("", golds.scored, given, rule)
    return official, {"SAcc": score.sacc, "MRR": score.mrr, "LAcc": score.lacc}, repairs


def _repair(golds: Golds, answers: Answers, absent: list, missing: str, copies: tuple) -> None:
    """Write copies in which only what stops the program is changed or left out."""
    synonyms, rows = iter(golds.scored), []
    for name, item in golds.items:
        row = {key: value for key, value in item.items() if key not in unreadable_fields(item)}
        if row.get("type") == "factoid":
            _, texts = next(synonyms)
            if "exact_answer" not in row:
                row["exact_answer"] = [list(texts)]
            if missing == "dropped" and name in absent:
                continue
        rows.append(row)
    copies[0].write_text(json.dumps({"questions": rows}))
    rows = [{"id": name, "exact_answer": []} for name in absent if missing == "wrong"]
    for name, item in answers.items:
        row = {key: value for key, value in item.items() if key not in unreadable_fields(item)}
        if "exact_answer" in unreadable_fields(item) and name in answers.ranked:
            row["exact_answer"] = [[text] for text in answers.ranked[name]]
        if name is not None and name not in answers.remarks.found.get(STOPS, ()):
            rows.append(row)
    copies[1].write_text(json.dumps({"questions": rows}))


def _run(command: list[str], golden: Path, answers: Path) -> dict[str, float]:
    java, jar = command[0], command[command.index("-cp") + 1]
    try:
        done = subprocess.run(
            [*command, str(golden), str(answers)],
            capture_output=True, encoding="utf-8", errors="replace", timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{jar}: gave no result in {_SECONDS} seconds; is it the evaluator?"
        ) from None
    except OSError as error:
        raise InputError(f"{java}: cannot be started ({error.strerror})") from None
    said = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    try:
        figures = [float(word) for word in said[-1].split()]
    except (IndexError, ValueError):
        figures = []
    # It logs some errors, goes on with half a file, prints figures, and ends with status 0.
    if done.returncode or "Exception" in done.stderr or len(figures) <= max(FACTOID.values()):
        raise InputError(f"{jar}: {_why(done)}")
    return {measure: figures[place] for measure, place in FACTOID.items()}


def _why(done: subprocess.CompletedProcess) -> str:
    """The program's failure on one line."""
    lines = [line.strip() for line in f"{done.stderr}\n{done.stdout}".splitlines() if line.strip()]
    if not lines:
        return "it printed nothing; is it the evaluator?"
    lacking = next((line for line in lines if "NoClassDefFoundError" in line), "")
    if lacking:
        return f"lacks a library ({lacking.rpartition(' ')[2]}); keep the folder lib beside the jar"
    words = next((line for line in lines if "Exception" in line or "Error" in line), lines[-1])
    if "find or load main class" in words:
        return f"has no class {MAIN}, so it is not the evaluator's jar; give BioASQEvaluation.jar"
    words = words.removeprefix('Exception in thread "main" ')
    return f"the evaluator failed: {words[:300]}"
