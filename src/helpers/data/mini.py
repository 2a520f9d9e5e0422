"""BioASQ-mini, the teaching data that ships with the kit, and its lexical baseline.

Scores on it are not comparable with any published result. ``data_scripts/bioasq_mini`` creates the
files. For each relation, ``relations.json`` lists the questions and all objects with synonyms.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from helpers.data.bioasq import Question, read_json
from helpers.data.spans import find_spans, fold

DATA = Path(__file__).parents[1] / "mini_data"
Entity = tuple[str, ...]  # an object's main name, then its synonyms
STOP = frozenset(
    ["a", "an", "and", "are", "as", "at", "be", "by", "does", "for", "from", "has", "in", "into",
     "is", "it", "of", "on", "or", "that", "the", "this", "through", "to", "what", "where", "which",
     "who", "with", "used"]
)  # fmt: skip


def moved(path: str) -> str:
    """Return the current path of a BioASQ-mini file if the clone moved after ``path`` was saved."""
    here = DATA / Path(path).name
    return str(here) if not Path(path).exists() and here.is_file() else path


@cache
def _known() -> dict[str, dict[str, list]]:
    return read_json(DATA / "relations.json")


@cache
def relations() -> dict[str, str]:
    """Map each factoid question id to its relation."""
    return {name: relation for relation, known in _known().items() for name in known["questions"]}


def known_objects(relation: str) -> list[Entity]:
    """Return all objects of a relation with their synonyms, as candidates of the answer type."""
    return [tuple(names) for names in _known().get(relation, {}).get("objects", ())]


def lexical_baseline(questions: Iterable[Question]) -> dict[str, list[str]]:
    """Rank the candidates of the answer type by their distance from words in the question.

    Candidates are the objects of the question's relation that occur in its snippets. The distance
    is the number of words to the nearest content word from the question, averaged over the snippets
    that contain the candidate. Returns ranked names by question id, with an empty list for a
    question that is not in BioASQ-mini.
    """
    answers = {}
    for question in questions:
        distances = defaultdict(list)
        for snippet in question.snippets:
            for entity, found in nearness(question, snippet.text).items():
                distances[entity].append(found)
        ranked = sorted((sum(n for n, _ in d) / len(d), min(d)[1]) for d in distances.values())
        answers[question.id] = [name for _, name in ranked]
    return answers


def nearness(question: Question, text: str) -> dict[Entity, tuple[int, str]]:
    """Map each candidate in ``text`` to (distance to the nearest question word, name in text)."""
    words = [(m.start(), m.end(), m.group().lower()) for m in re.finditer(r"\w+", text)]
    wanted = set(re.findall(r"\w+", question.body.lower())) - STOP
    found = {}
    for entity in known_objects(relations().get(question.id, "")):
        for span in find_spans(text, entity):
            inside = [i for i, w in enumerate(words) if w[0] < span.end and w[1] > span.start]
            near = [
                min(abs(i - k) for k in inside)
                for i, word in enumerate(words)
                if word[2] in wanted and i not in inside
            ]
            best = (min(near, default=len(words)), span.text)
            found[entity] = min(best, found.get(entity, best))
    return found


def gold_defects(questions: Iterable[Question]) -> list[dict[str, str]]:
    """List gold answers that make correct answers count as wrong: one row per question and defect.

    A row has the id, the question, the defect, the gold answers joined into one string, and
    ``better``, an answer that should also count. The defects are "extra spaces" (in a name that is
    otherwise correct), "sentence" (the answer is only a part of the gold answer), and "missing
    synonym" (a snippet uses a name of the answer that is not a gold answer).
    """
    rows = []
    for question in questions:
        golds = question.synonyms()
        objects = known_objects(relations().get(question.id, ""))
        clean = [" ".join(gold.split()) for gold in golds]
        known = {fold(gold) for gold in clean}
        better = {
            "extra spaces": [tidy for gold, tidy in zip(golds, clean, strict=True) if gold != tidy]
        }
        better["sentence"] = [
            span.text
            for gold in clean
            if gold.endswith(".") and len(gold.split()) > 3
            for entity in objects
            for span in find_spans(gold, entity)
        ]
        names = [n for entity in objects if known & set(map(fold, entity)) for n in entity]
        missing = [n for n in names if fold(n) not in known]
        better["missing synonym"] = [
            span.text for snippet in question.snippets for span in find_spans(snippet.text, missing)
        ]
        rows += [
            {
                "id": question.id,
                "question": question.body,
                "defect": defect,
                "gold": " | ".join(golds),
                "better": found[0],
            }
            for defect, found in better.items()
            if found
        ]
    return rows
