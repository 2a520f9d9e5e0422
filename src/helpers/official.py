"""The organisers' own evaluator, run on our files and compared with our figures.

``BioASQEvaluation.jar`` is part of https://github.com/BioASQ/Evaluation-Measures (folder
``flat/BioASQEvaluation/dist``, to be kept with its ``lib``). Its class ``EvaluatorTask1b`` reads a
golden and an answer file and prints one line of figures. It was written for the organisers' own
files and ends in a stack trace on others, so it gets a temporary copy of each pair of files in
which only what it cannot read is changed; every such repair is listed. The scores to compare with
come from the files as they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers import metrics
from helpers.bioasq import (
    Question,
    raw_questions,
    read_answers,
    read_json,
    read_questions,
    some_ids,
)
from helpers.config import MISSING, InputError
from helpers.outputs import write_json

MAIN = "evaluation.EvaluatorTask1b"
EDITION = 5  # what the program calls the rules of BioASQ 5 and later, task 7b among them
# Its line of figures, in this order. Versions since 2018 print three more, F1 of yes/no questions.
FACTOID = {"SAcc": 1, "LAcc": 2, "MRR": 3}
TOLERANCE = 1e-9
_SECONDS = 120


@dataclass(frozen=True)
class Comparison:
    """One batch by both programs. ``official`` and ``ours`` map a measure to a fraction of 1."""

    batch: str
    official: dict[str, float]
    ours: dict[str, float]
    repairs: tuple[str, ...]  # what had to be changed in the copies, one sentence each

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
    """Score each pair of golden and answer file with the organisers' program and with ours.

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
    java, jar = _java(), _checked_jar(jar)
    names = names or [Path(path).stem for path in gold_files]
    found = []
    with tempfile.TemporaryDirectory(prefix="bioasq-official-") as temporary:
        for name, gold_file, answer_file in zip(names, gold_files, answer_files, strict=True):
            golden, answers = Path(temporary) / "golden.json", Path(temporary) / "answers.json"
            ours, repairs = _prepare(name, gold_file, answer_file, golden, answers, missing)
            official = _run(java, jar, golden, answers, edition)
            found.append(Comparison(name, official, ours, repairs))
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
            f"{jar}: no such file; give BioASQEvaluation.jar from the organisers' repository "
            "BioASQ/Evaluation-Measures, with the folder lib beside it"
        )
    if os.pathsep in str(path):
        raise InputError(f"{jar}: Java reads {os.pathsep!r} as the end of a path; move the jar")
    return path


def _prepare(name, gold_file, answer_file, golden: Path, answers: Path, missing: str):
    """Write copies that the program can read; our scores of the originals and the repairs."""
    questions = read_questions(gold_file, answers="required")
    given, _ = read_answers(answer_file)
    gold = {question.id: question.synonyms() for question in questions}
    if not given.keys() & gold.keys():
        raise InputError(
            f"{answer_file}: answers none of the questions of {gold_file}; pair up the files by "
            "their order"
        )
    score = metrics.score_batch(name, gold, given, missing)
    kept = [q for q in questions if missing == "wrong" or q.id in given]
    repairs = _golden_copy(gold_file, kept, golden)
    repairs += _answer_copy(answer_file, [q.id for q in kept], answers)
    ours = {"SAcc": score.sacc, "LAcc": score.lacc, "MRR": score.mrr}
    return ours, tuple(repairs)


def _golden_copy(path: str | Path, questions: Sequence[Question], copy: Path) -> list[str]:
    """Only what scoring needs: a null or an unknown field anywhere else stops the program."""
    raw = {q["id"]: q.get("exact_answer") for q in raw_questions(read_json(path), path)}
    odd: dict[str, list[str]] = {}
    rows = []
    for question in questions:
        entities = [list(entity) for entity in question.exact_answer]
        if not entities:
            odd.setdefault("without an answer, an empty list put in", []).append(question.id)
        elif raw[question.id] != entities:
            what = "flat, with empty lists or with numbers: made a list of lists of texts"
            odd.setdefault(what, []).append(question.id)
        rows.append({"id": question.id, "type": "factoid", "exact_answer": entities or [[]]})
    write_json(copy, {"questions": rows})
    others = len(raw) - len(questions)
    left = [f"{path}: {others} questions that are not scored left out"] if others else []
    return left + [f"{path}: {what}: {some_ids(ids)}" for what, ids in odd.items()]


def _answer_copy(path: str | Path, asked: Sequence[str], copy: Path) -> list[str]:
    """The system's lists as they are, but for what would stop the program or be counted twice."""
    first: dict[str, dict] = {}
    odd: dict[str, list[str]] = {}
    for item in raw_questions(read_json(path), path):
        if item.get("type", "factoid") != "factoid" or item["id"] not in asked:
            odd.setdefault("not a question that is scored, left out", []).append(item["id"])
        elif item["id"] in first:
            odd.setdefault("occurs again, its first entry kept", []).append(item["id"])
        else:
            first[item["id"]] = item
    rows = []
    for question in asked:
        answer = first.get(question, {}).get("exact_answer")
        if question not in first:
            # Up to 2020 the program skipped such a question, later versions crash.
            odd.setdefault("missing, an empty answer put in", []).append(question)
        elif answer is None:
            odd.setdefault("null, an empty answer put in", []).append(question)
        elif isinstance(answer, str) or any(isinstance(entry, str) for entry in answer):
            odd.setdefault("flat, each string made a list", []).append(question)
            answer = [answer] if isinstance(answer, str) else answer
            answer = [[entry] if isinstance(entry, str) else entry for entry in answer]
        rows.append({"id": question, "type": "factoid", "exact_answer": answer or []})
    write_json(copy, {"questions": rows})
    return [f"{path}: {what}: {some_ids(ids)}" for what, ids in odd.items()]


def _run(java: str, jar: Path, golden: Path, answers: Path, edition: int) -> dict[str, float]:
    # The program takes the files by their place behind -e, reads them in the machine's own
    # encoding, and lowers their case by the machine's own language; ours are UTF-8 and neither.
    command = [
        java, "-Dfile.encoding=UTF-8", "-Duser.language=en", "-cp", str(jar), MAIN,
        "-phaseB", "-e", str(edition), str(golden), str(answers),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_SECONDS
        )
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
    others = [f for place, f in enumerate(figures) if place not in FACTOID.values() and f]
    if others:
        raise InputError(
            f"{jar}: {said[-1]!r} has figures of other question types; another program?"
        )
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
