"""What lies in a folder of BioASQ files, and what each context setting would make of it."""

from __future__ import annotations

import json
import os
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from helpers import markup
from helpers.batches import TestBatch, read_batches, run_abstracts
from helpers.bioasq import TYPES, BioasqFiles, Oddities, Question, read_questions
from helpers.config import CONTEXTS, RUNGS, InputError
from helpers.conversion import ConvertedRun, asked
from helpers.ladder import Ladder
from helpers.layout import ready_tests
from helpers.leaks import most_alike, wordings
from helpers.squad import Drop, Example, ceiling, convert, extra_cause, find_spans, read_squad

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
    """A row a batch, and one for all: questions, those whose answer the strict rule finds in a
    given text, those found with each further rung, and the extractive ceiling.

    Counts grow from rung to rung. The ceiling asks for the gold as it is written, so a rung may
    pass it: such an answer is found, but the official evaluator does not accept it.
    """
    rows = []
    for batch in batches:
        lowest: Counter[str] = Counter()
        for question in batch.golds:
            ladder = Ladder(question.synonyms(), RUNGS)
            found = map(ladder.find, batch.contexts.get(question.id, ()))
            rungs = {match.rung for match in found if match.spans}
            lowest[min(rungs, key=_order, default="none")] += 1
        sums = [sum(lowest[name] for name in ("", *RUNGS[:n])) for n in range(len(RUNGS) + 1)]
        row = {"batch": batch.name, "questions": len(batch.golds)}
        row |= dict(zip((STRICT, *RUNGS), sums, strict=True))
        rows.append(row | {"ceiling": batch.ceiling[0]})
    return [*rows, {name: "all" if name == "batch" else sum(row[name] for row in rows)
                    for name in rows[0]}]  # fmt: skip


def _order(rung: str) -> int:
    return ("", *RUNGS).index(rung)


def rung_examples(questions: Iterable[Question], count: int = 20) -> list[dict]:
    """Places that a rung finds and the strict rule does not, to be judged by eye.

    They are taken from the rungs in turn, so that a rare rung is not crowded out, and each
    wording of an answer is shown once.
    """
    by_rung: dict[str, dict[tuple, dict]] = defaultdict(dict)
    for question in questions:
        ladder = Ladder(question.synonyms(), RUNGS)
        for text in (snippet.text for snippet in question.snippets):
            match = ladder.find(text)
            if match.rung:
                start, end = match.spans[0]
                before, after = text[max(0, start - 40) : start], text[end : end + 40]
                row = {"rung": match.rung, "question": question.body}
                row |= {"gold": " | ".join(question.synonyms())}
                row |= {"found": f"{before}[{text[start:end]}]{after}"}
                by_rung[match.rung].setdefault((question.id, text[start:end].lower()), row)
    turns = [
        (n, _order(rung), row)
        for rung, rows in by_rung.items()
        for n, row in enumerate(rows.values())
    ]
    chosen = sorted(turns, key=lambda turn: turn[:2])[:count]
    return [row for _, _, row in sorted(chosen, key=lambda turn: (turn[1], turn[0]))]


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


def trials() -> list[dict]:
    """Measured dev scores with and without looser matches, from ``rung_trials.json``.

    A row a data set and variant: means over seeds in percent, SAcc with its standard deviation.
    The command that makes them is ``data_scripts/compare_rungs.py``.
    """
    data = json.loads((Path(__file__).parent / "rung_trials.json").read_text(encoding="utf-8"))
    rows = []
    for name, trial in data.items():
        for variant in dict.fromkeys(row["matches"] for row in trial["rows"]):
            runs = [row for row in trial["rows"] if row["matches"] == variant]
            mean = {key: statistics.mean(row[key] for row in runs) for key in _TRIAL}
            row = {"data": name, "matches": variant, "seeds": len(runs)}
            row |= {key: round(mean[key]) for key in _TRIAL[:3]}
            row |= {key: round(100 * mean[key], 1) for key in _TRIAL[3:]}
            spread = "–"  # one run has none
            if len(runs) > 1:
                spread = f"{100 * statistics.stdev(run['sacc'] for run in runs):.1f}"
            rows.append(row | {"± of SAcc": spread})
    return rows


_TRIAL = ("pairs", "by a rung", "dev questions", "sacc", "mrr", "lacc")


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
