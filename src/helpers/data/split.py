"""A part of the training questions held out: by question and wording, alike in types, by a seed."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from helpers.config import InputError
from helpers.data.leaks import plain
from helpers.data.squad import Example

TYPES = ("number", "symbol", "word", "phrase", "none")


def answer_type(answer: str) -> str:
    """The kind of an answer by its form: "number", "symbol", "word", "phrase", "none" for "".

    A number begins with a digit ("95 %", "14 days"); a symbol is one word with a capital or a
    digit behind its first letter (BRCA1, mTOR, TNF-α); a word is any other single word.
    """
    text = answer.strip()
    if not text:
        return "none"
    if re.match(r"[<>~≤≥±]?\s*\d", text):
        return "number"
    if len(text.split()) > 1:
        return "phrase"
    return "symbol" if re.search(r"[\dA-Z]", text[1:]) else "word"


def type_counts(examples: Iterable[Example]) -> Counter[str]:
    """How many questions have which answer type."""
    return Counter(_types(examples).values())


def split_dev(
    examples: Sequence[Example], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Hold out whole questions: (train, dev), each in the given order.

    Questions of one wording (see ``leaks.plain``) stay on one side: editions 7b to 10b ask some
    questions again under another id. Within an answer type the groups with the smallest hash of
    seed and id are held out, and each type gives its share, so the choice depends on neither the
    order of the examples nor the platform. Unless ``fraction`` is 0, at least one question stays
    on each side.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"dev fraction {fraction} must be at least 0 and below 1")
    if not fraction:
        return list(examples), []
    types = _types(examples)
    groups = _groups(examples)
    if len(groups) < 2:
        wording = f"{len(types)} questions of one wording" if len(types) > 1 else "1 question"
        raise InputError(f"dev fraction {fraction}: {wording} cannot be split; set it to 0")
    count = min(max(round(fraction * len(types)), 1), len(types) - 1)
    by_type = defaultdict(list)
    for names in groups:
        digest, name = min((hashlib.sha256(f"{seed}:{n}".encode()).digest(), n) for n in names)
        by_type[types[name]].append((digest, names))
    # The n-th of a type's N groups stands at (n + 1/2) / N: the smallest places of all types
    # together hold each type's share, to within one question.
    places = [
        ((n + 0.5) / len(ranked), digest, names)
        for ranked in map(sorted, by_type.values())
        for n, (digest, names) in enumerate(ranked)
    ]
    ordered = [names for _, _, names in sorted(places)]
    held: set[str] = set()
    for names in ordered[:-1]:
        if len(held) + len(names) / 2 < count:  # nearer to the count with the group than without
            held.update(names)
    held = held or set(min(ordered, key=len))
    train = [example for example in examples if example.question_id not in held]
    return train, [example for example in examples if example.question_id in held]


def _groups(examples: Iterable[Example]) -> list[tuple[str, ...]]:
    """Question ids that belong together, because some of their rows ask the same, sorted."""
    above: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while above.setdefault(node, node) != node:
            above[node] = node = above[above[node]]
        return node

    for example in examples:
        above[root(("wording", plain(example.question)))] = root(("id", example.question_id))
    groups = defaultdict(list)
    for kind, name in sorted(above):
        if kind == "id":
            groups[root((kind, name))].append(name)
    return [tuple(names) for names in groups.values()]


def _types(examples: Iterable[Example]) -> dict[str, str]:
    """Question id -> answer type, by the alphabetically first of its spans' texts.

    Not by the first row's, so that the order of the examples does not matter.
    """
    texts: dict[str, str] = {}
    for example in examples:
        known = texts.setdefault(example.question_id, "")
        for span in example.spans:
            known = min(known, span.text) if known else span.text
        texts[example.question_id] = known
    return {name: answer_type(text) for name, text in texts.items()}
