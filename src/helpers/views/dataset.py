"""What lies in a folder of BioASQ files, and what each context setting would make of it."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from helpers.config import CONTEXTS, InputError
from helpers.data.batches import TestBatch, read_batches, run_abstracts
from helpers.data.bioasq import read_questions
from helpers.data.convert import convert
from helpers.data.layout import BioasqFiles, ready_tests
from helpers.data.leaks import most_alike, wordings
from helpers.data.schema import TYPES, Oddities, Question
from helpers.data.spans import ceiling, extra_cause, find_spans, needles
from helpers.data.squad import Drop, Example, read_squad
from helpers.run.conversion import ConvertedRun, asked
from helpers.views import markup

STRICT = "strict rule"
text_table = markup.text_table
_MOST = 30  # unread files that are listed; somebody may name a whole home folder
DROP_COLUMNS = [column.name for column in fields(Drop)]


def describe_files(files: BioasqFiles) -> list[dict]:
    """A row a file: role, name, format, and how many questions of each type it holds."""
    roles = [("train", files.train, files.train_is_squad)] if files.train else []
    if not files.enriched:
        roles += [("test input", path, files.tests_are_squad) for path in files.tests]
    roles += [("golden", path, False) for path in files.golds]
    return [_describe(role, path, squad) for role, path, squad in roles]


def _describe(role: str, path: Path, squad: bool) -> dict:
    if squad:  # which holds factoids only, each in several rows
        types = Counter(factoid=len({row.question_id for row in read_squad(path)}))
    else:
        types = Counter(question.type for question in read_questions(path, kind=None))
    row = {"role": role, "file": path.name, "format": "SQuAD" if squad else "BioASQ"}
    return row | {"questions": types.total()} | {kind: types[kind] for kind in TYPES}


def oddities(files: BioasqFiles) -> list[dict]:
    """What was repaired in the files, or is worth knowing: one row per file and kind.

    Files of the folder that are not read come last, the first ``_MOST`` with the reason.
    """
    paths = {files.train: files.train_is_squad} if files.train else {}
    paths |= {} if files.enriched else dict.fromkeys(files.tests, files.tests_are_squad)
    rows = []
    for path, squad in (paths | dict.fromkeys(files.golds, False)).items():
        odd = Oddities()
        read_squad(path, odd) if squad else read_questions(path, odd=odd)
        rows += [
            {"file": path.name, "oddity": what, "questions": len(ids)}
            for what, ids in odd.found.items()
        ]
    unread = [(path.name, f"not read: {why}") for path, why in files.ignored]
    if len(unread) > _MOST:
        unread[_MOST:] = [(f"{len(unread) - _MOST} more files", "not read")]
    return rows + [{"file": name, "oddity": why, "questions": "–"} for name, why in unread]


def published_spans(files: BioasqFiles) -> list[dict]:
    """How the strict rule compares with the spans of a ready SQuAD training file, row by row.

    Empty for a BioASQ training file. Every span that the rule finds beyond the file's is counted
    under its cause, see ``spans.extra_cause``.
    """
    if not files.train_is_squad:
        return []
    answers, annotated = defaultdict(set), defaultdict(set)
    for row in read_squad(files.train):
        annotated[row.question_id, row.context].update(row.spans)
        answers[row.question_id].update(span.text for span in row.spans)
    counts: Counter[str] = Counter()
    for (name, context), published in annotated.items():
        found = set(find_spans(context, answers[name]))
        counts["spans in the file"] += len(published)
        counts["of these found again by the strict rule"] += len(published & found)
        for span in found - published:
            cause = extra_cause(span, context, answers[name]) or "unexplained"
            counts[f"found beyond the file: {cause}"] += 1
    return [{"what": what, "spans": count} for what, count in counts.items()]


def coverage(batches: Sequence[TestBatch]) -> list[dict]:
    """A row per batch, and one for all: questions, those whose answer the strict rule finds in a
    given text, and the extractive ceiling, which also counts answers inside a word.
    """
    rows = []
    for batch in batches:
        found = sum(
            any(find_spans(text, needles(question.synonyms())) for text in texts)
            for question in batch.golds
            if (texts := batch.contexts.get(question.id, ()))
        )
        row = {"batch": batch.name, "questions": len(batch.golds), STRICT: found}
        rows.append(row | {"ceiling": batch.ceiling[0]})
    return [*rows, {name: "all" if name == "batch" else sum(row[name] for row in rows)
                    for name in rows[0]}]  # fmt: skip


def reading(converted: ConvertedRun) -> dict[str, dict[str, list[int]]]:
    """Words of each distinct context and contexts of each question, in training and in the test."""
    tests = [row for batch in converted.batches for row in batch.examples]
    parts = {}
    for name, rows in (("train", [*converted.train, *converted.dev]), ("test", tests)):
        pairs = {(row.question_id, row.context) for row in rows}
        counts = Counter(question_id for question_id, _ in pairs)
        words = [len(context.split()) for _, context in pairs]
        parts[name] = {"words": words, "contexts": list(counts.values())}
    return parts


def leak_rows(converted: ConvertedRun, alike: int = 5) -> list[dict]:
    """The leaks and, to be judged by eye, the ``alike`` most similar pairs that are none."""
    train = wordings([*converted.train, *converted.dev])
    known = {leak.question_id for leak in converted.leaks}
    rest = {name: text for name, text in train.items() if name not in known}
    rows = [*converted.leaks, *most_alike(rest, asked(converted.batches), alike)]
    return [
        {"sign": leak.how if leak in converted.leaks else "none", "likeness": leak.likeness,
         "training question": leak.question, "test question": leak.test_question}
        for leak in rows
    ]  # fmt: skip


def telling_example(
    questions: list[Question], files: BioasqFiles, context: str = "snippet"
) -> tuple[Question, Example]:
    """A question that shows much at once, and its most telling snippet with the spans in it.

    Wanted: several snippets, several synonyms, more than one of them in one snippet. Where no
    snippet holds an answer, the run's ``context`` is tried; a question without any text comes with
    an empty one.
    """
    examples, _ = convert(questions)
    if not examples and context == "abstract":
        texts = run_abstracts(files, questions, context)
        examples, _ = convert(questions, context=context, abstracts=texts.texts)
    if not examples:
        first = questions[0]
        shown, _ = convert([first], test=True)
        return first, (shown or [Example(f"{first.id}_001", first.id, first.body, "")])[0]
    by_id = {question.id: question for question in questions}
    ranked = []
    for example in examples:
        question = by_id[example.question_id]
        texts = {span.text.casefold() for span in example.spans}
        much = min(len(question.synonyms()), 3) + min(len(question.snippets), 3) + 2 * len(texts)
        ranked.append((-much, len(question.snippets), len(example.context), example.id))
    chosen = min(ranked)[-1]
    example = next(example for example in examples if example.id == chosen)
    return by_id[example.question_id], example


def compare_contexts(files: BioasqFiles) -> list[dict]:
    """What each possible context setting gives the system in the test: a row a setting.

    "abstract" is there when a file or PubMed's cache has abstracts (none are fetched), and once
    more for each ready SQuAD test file of full abstracts among the files. SQuAD test inputs were
    made for one context: no rows.
    """
    rows = []
    for context in () if files.tests_are_squad else CONTEXTS:
        try:
            batches, _ = read_batches(files, context, fetch=False)
        except InputError:
            if context != "abstract":
                raise
            continue
        golds = [question for batch in batches for question in batch.golds]
        rows.append(_given(context, golds, [row for batch in batches for row in batch.examples]))
    if rows:
        folder = Path(os.path.commonpath([path.parent for path in files.golds]))
        edition = re.match(r"mini|\d+b", files.batches[0].lower())[0]
        for path in ready_tests(folder, "abstract", edition):
            rows.append(_given(f"abstract: {path.name}", golds, read_squad(path)))
    return rows


def _given(name: str, golds: Sequence[Question], examples: Sequence[Example]) -> dict:
    contexts = defaultdict(list)
    for example in examples:
        contexts[example.question_id].append(example.context)
    hits, total = ceiling(golds, contexts)
    words = [len(example.context.split()) for example in examples] or [0]
    return {
        "context": name,
        "questions": total,
        "with a text": len(contexts),
        "texts": len(examples),
        "mean words": sum(words) / len(words),
        "longest": max(words),
        "ceiling (questions)": hits,
        "ceiling (%)": 100 * hits / total if total else 0.0,
    }
