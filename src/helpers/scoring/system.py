"""Score the answer files of any system, such as a language model or last year's submission.

The protocol is that of the kit's own runs, with the same matching, ceiling, intervals and causes.
``run.scores`` uses the same code for a run's answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from helpers.config import InputError
from helpers.data.bioasq import read_golds, read_questions
from helpers.data.layout import BioasqFiles, TestBatch, read_batches
from helpers.data.squad import Example
from helpers.scoring import errors, metrics, uncertainty
from helpers.scoring.evaluate import evaluate_files, read_pair

OUTSIDE = "outside"  # the "system" of a table row that no run of the kit produced
UNSTATED = "not stated"


@dataclass(frozen=True)
class ScoredBatch(TestBatch):
    """A test batch with its score and the rank of each question's first correct answer."""

    synonyms: tuple[tuple[str | None, tuple[str, ...]], ...]  # (question id, accepted answers)
    ranks: dict[str, int]  # question id -> rank of the first correct answer, 0 if there is none
    score: metrics.BatchScore


def score_answers(
    name: str,
    examples: Sequence[Example],
    gold_file: str | Path,
    answers: Mapping[str, Sequence],
    missing: str,
) -> ScoredBatch:
    """Score one batch. ``answers`` maps question ids to rankings, as in ``metrics.hit_ranks``."""
    synonyms = read_golds(gold_file).scored
    questions = {q.id: q for q in read_questions(gold_file, answers="required")}
    golds = tuple(questions[key] for key, _ in synonyms if key in questions)
    ranks = metrics.hit_ranks(synonyms, answers, missing)
    score = metrics.score_batch(name, synonyms, answers, missing)
    return ScoredBatch(name, tuple(examples), golds, tuple(synonyms), ranks, score)


@dataclass(frozen=True)
class System:
    """A system's answers to some batches, with their scores and what went wrong."""

    name: str
    batches: list[ScoredBatch]
    errors: pd.DataFrame  # the result of ``errors.table``; without n-best lists
    golden: bool  # whether the ceiling comes from the golden files' snippets
    remarks: list[str]  # what ``evaluate_files`` found unusual in the files

    def scores(self) -> dict:
        """Return the scores in the format of ``scores.json``, as far as it applies."""
        found = metrics.summary([batch.score for batch in self.batches])
        counts = [batch.ceiling for batch in self.batches]
        for row, (possible, questions) in zip(found["batches"], counts, strict=True):
            row["ceiling"] = possible / questions
        for name in ("weighted", "pooled"):
            found[name]["ceiling"] = self._ceiling()
        return {"schema_version": 1, "name": self.name, **found, "remarks": self.remarks}

    def row(self, context: str = UNSTATED, training: str = UNSTATED) -> dict:
        """Return the system's row in the format of ``run.compare.rows``."""
        ranks, strata = {}, {}
        for batch in self.batches:
            ranks |= batch.ranks
            strata |= dict.fromkeys(batch.ranks, batch.name)
        measures = {
            measure: {
                "mean": found.mean,
                "sd": None,
                "low": found.question_low,
                "high": found.question_high,
                "by_seed": list(found.seeds),
            }
            for measure, found in uncertainty.sources([ranks], strata).items()
        }
        return {
            "name": self.name, "system": OUTSIDE, "profile": "", "context": context,
            "enriched": False, "training": training, "n": len(ranks), "measures": measures,
            "batches": sorted(set(strata.values())),
            "ceiling": self._ceiling(), "source": "answer files from outside the kit",
        }  # fmt: skip

    def _ceiling(self) -> float:
        possible, questions = map(sum, zip(*(b.ceiling for b in self.batches), strict=True))
        return possible / questions

    def lines(self) -> list[str]:
        """Return the scores, ceiling, intervals and causes as lines for a terminal."""
        scores = [batch.score for batch in self.batches]
        row, snippets = self.row(), "the golden files' snippets" if self.golden else "the texts"
        intervals = (
            f"{measure} {100 * found['low']:.1f} to {100 * found['high']:.1f}"
            for measure, found in row["measures"].items()
        )
        return [
            *map(metrics.as_line, [*scores, metrics.weighted(scores)]),
            f"extractive ceiling: {100 * row['ceiling']:.2f} (an answer is in {snippets})",
            f"95% intervals over questions: {', '.join(intervals)}",
            *(f"{count:>5}  {cause}" for cause, count in self.causes().items()),
        ]

    def causes(self) -> dict[str, int]:
        """Count the questions by what went wrong, the most frequent cause first."""
        axes = [axis for axis in ("failure", "gold_place", "cause") if axis in self.errors]
        rows = self.errors[axes].replace("", "right").agg("; gold answer ".join, axis="columns")
        return rows.value_counts().to_dict()


def read_system(
    name: str,
    gold_files: Sequence[str | Path],
    answer_files: Sequence[str | Path],
    test_files: Sequence[str | Path] = (),
    missing: str = "wrong",
) -> System:
    """Read and score a system's answer files.

    Args:
        name: the system's name in tables.
        gold_files: BioASQ golden files, one per batch.
        answer_files: the answers in the BioASQ format, one file per golden file, in the same order.
        test_files: the test inputs that participants received, in the same order. They determine
            the ceiling. Without them, we use the golden files, which have more snippets.
        missing: how a question without an entry counts, one of ``config.MISSING``.

    Raises ``InputError`` if files do not belong together or are not in the BioASQ format.
    """
    evaluation = evaluate_files(gold_files, answer_files, missing)
    if "squad" in evaluation.scores:
        raise InputError("gold: these are SQuAD files; specify BioASQ golden files")
    if test_files and len(test_files) != len(gold_files):
        raise InputError(
            f"{len(gold_files)} golden files but {len(test_files)} test inputs; "
            "specify one test input per gold file, in the same order"
        )
    names = tuple(row["batch"] for row in evaluation.scores["batches"])
    golds, tests = (tuple(map(Path, files)) for files in (gold_files, test_files or gold_files))
    files = BioasqFiles(None, False, tests, golds, names, enriched=not test_files, abstracts=())
    batches, tables = [], []
    for asked, gold, given in zip(
        read_batches(files, "snippet")[0], gold_files, answer_files, strict=True
    ):
        answers = read_pair(gold, given)[1].ranked
        batches.append(score_answers(asked.name, asked.examples, gold, answers, missing))
        # An answer file has no n-best lists, so causes that need them do not occur.
        ranked = {question: [(text, 0.0) for text in texts] for question, texts in answers.items()}
        nothing = [[] for _ in asked.examples]
        tables.append(errors.table(asked.golds, asked.examples, nothing, ranked, asked.name))
    found = pd.concat(tables, ignore_index=True)
    return System(name, batches, found, not test_files, evaluation.remarks)
