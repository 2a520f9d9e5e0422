"""What lies in a folder of BioASQ files, and what each context setting would make of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from helpers.batches import read_batches
from helpers.bioasq import BioasqFiles, Question, read_questions
from helpers.config import CONTEXTS, InputError
from helpers.squad import Example, convert, read_squad

TYPES = ("factoid", "list", "yesno", "summary")


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


def telling_example(questions: list[Question]) -> tuple[Question, Example]:
    """A question that shows much at once, and its most telling snippet with the spans in it.

    Wanted: several snippets, several synonyms, more than one of them in one snippet.
    """
    examples, _ = convert(questions)
    if not examples:
        return questions[0], convert(questions[:1], test=True)[0][0]
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


def text_table(frame):
    """A pandas table for the eye: text to the left, and shown as it is, ``<`` and ``&`` too."""
    left = {"selector": "th, td", "props": "text-align: left; vertical-align: top"}
    return frame.style.format(escape="html").set_table_styles([left])


def compare_contexts(files: BioasqFiles) -> list[dict]:
    """What each possible context setting gives the system in the test: a row a setting.

    "abstract" is there when a file or PubMed's cache has abstracts; none are fetched. SQuAD test
    inputs were made for one context: no rows.
    """
    rows = []
    for context in () if files.tests_are_squad else CONTEXTS:
        try:
            rows.append(_compare(files, context))
        except InputError:
            if context != "abstract":
                raise
    return rows


def _compare(files: BioasqFiles, context: str) -> dict:
    batches, _ = read_batches(files, context, fetch=False)
    examples = [example for batch in batches for example in batch.examples]
    hits, total = map(sum, zip(*(batch.ceiling for batch in batches), strict=True))
    words = [len(example.context.split()) for example in examples] or [0]
    return {
        "context": context,
        "questions": total,
        "with a text": len({example.question_id for example in examples}),
        "texts": len(examples),
        "mean words": sum(words) / len(words),
        "longest": max(words),
        "ceiling (questions)": hits,
    }
