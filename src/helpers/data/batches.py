"""The test batches of a run: what the system may read, and the golden questions behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.config import InputError
from helpers.data.bioasq import read_golds, read_questions
from helpers.data.convert import convert
from helpers.data.layout import BioasqFiles
from helpers.data.pubmed import Abstracts, gather_abstracts
from helpers.data.schema import Question
from helpers.data.spans import ceiling, find_spans
from helpers.data.squad import Drop, Example, read_squad


@dataclass(frozen=True)
class TestBatch:
    """One test batch: what the system reads (``examples``, no spans) and the golden questions."""

    __test__ = False  # not a test of pytest's

    name: str
    examples: tuple[Example, ...]
    golds: tuple[Question, ...]

    @property
    def contexts(self) -> dict[str, list[str]]:
        """The texts given to the system, by question id."""
        contexts: dict[str, list[str]] = {}
        for example in self.examples:
            contexts.setdefault(example.question_id, []).append(example.context)
        return contexts

    @property
    def ceiling(self) -> tuple[int, int]:
        """(k, n): golden questions with an answer verbatim in a context that is given."""
        return ceiling(self.golds, self.contexts)

    @property
    def golden_ceiling(self) -> tuple[int, int]:
        """The same if the golden file's snippets were given."""
        return ceiling(self.golds, {q.id: [s.text for s in q.snippets] for q in self.golds})

    @property
    def golden_strict(self) -> int:
        """Golden questions with an answer by the strict rule in a snippet of the golden file."""
        found = (
            any(find_spans(s.text, map(str.strip, q.synonyms())) for s in q.snippets)
            for q in self.golds
        )
        return sum(found)

    @property
    def golden_snippets(self) -> int:
        """How many snippets the golden file holds for the batch."""
        return sum(len(question.snippets) for question in self.golds)


def read_batches(
    files: BioasqFiles, context: str, *, fetch: bool = True
) -> tuple[list[TestBatch], list[Drop]]:
    """The test batches under a context setting, and the questions that they lose, with reasons.

    With ``fetch`` false, abstracts come from files and from the cache only.
    """
    golds = [read_questions(path, answers="required") for path in files.golds]
    for path in files.golds:
        read_golds(path)  # scoring reads them like this: refuse now what it would after training
    if files.tests_are_squad:
        inputs = [read_squad(path) for path in files.tests]
        parts = [(rows, [], {row.question_id for row in rows}) for rows in inputs]
    else:
        answers = "any" if files.enriched else "forbidden"
        asked = [read_questions(path, answers=answers) for path in files.tests]
        texts = run_abstracts(files, [q for batch in asked for q in batch], context, fetch=fetch)
        parts = [(*_convert(batch, context, texts), {q.id for q in batch}) for batch in asked]
    batches, drops = [], []
    for name, test, gold_path, gold, part in zip(
        files.batches, files.tests, files.golds, golds, parts, strict=True
    ):
        examples, dropped, ids = part
        if not ids & {question.id for question in gold}:
            raise InputError(
                f"{test}: shares no question with {gold_path}; put files of one batch together"
            )
        dropped += [_absent(q, test) for q in gold if q.id not in ids]
        # A test input says nothing of the answer, even where a golden file stands in for it.
        blind = tuple(replace(example, spans=()) for example in examples)
        batches.append(TestBatch(name, blind, tuple(gold)))
        drops += [replace(drop, reason=f"{name}: {drop.reason}") for drop in dropped]
    return batches, drops


def run_abstracts(
    files: BioasqFiles, questions: Sequence[Question], context: str, *, fetch: bool = True
) -> Abstracts:
    """The abstracts of the questions when ``context`` asks for them, else none."""
    if context != "abstract":
        return Abstracts({}, {})
    return gather_abstracts(questions, files.abstracts, fetch=fetch, source=files.golds[0].parent)


def _convert(questions: Sequence[Question], context: str, texts: Abstracts):
    return convert(
        questions, context=context, test=True, abstracts=texts.texts, lacking=texts.lacking
    )


def _absent(question: Question, test: Path) -> Drop:
    return Drop(question.id, question.body, "not in the test input", test.name)
