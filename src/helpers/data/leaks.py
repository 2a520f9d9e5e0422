"""Detect test questions in a training file, and hold out some of the training questions.

Some public training files contain questions from the test set of an earlier year. On those
questions, the scores of a system trained on such a file measure only memorization.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from helpers.config import InputError
from helpers.data.bioasq import some_ids
from helpers.data.squad import Example, question_texts, read_any

NEAR = 0.8  # minimum similarity of near-duplicate questions
BY_ID, BY_WORDING, BY_LIKENESS = "same id", "same wording", "near-equal wording"
ANSWER_TYPES = ("number", "symbol", "word", "phrase", "none")
FUNCTION_WORDS = frozenset(
    ["a", "an", "and", "are", "at", "be", "by", "can", "do", "does", "for", "from", "has", "have",
     "how", "in", "is", "it", "of", "on", "or", "that", "the", "these", "this", "to", "was", "were",
     "what", "when", "where", "which", "who", "whose", "why", "with"]
)  # fmt: skip
_INNER_HYPHEN = re.compile(r"(?<=[^\W\d_])[-‐‑–](?=\w)")  # only after a letter: 1-2 is not 12
_LOOKALIKES = str.maketrans(
    dict.fromkeys("‐‑‒–—−", "-") | dict.fromkeys("‘’‛′`´", "'") | dict.fromkeys("“”„‟″", '"')
    | dict.fromkeys("\u200b\ufeff\xad")
)  # fmt: skip


@dataclass(frozen=True)
class Leak:
    """A training question that is also a test question; ``likeness`` is a similarity (0 to 1)."""

    question_id: str
    question: str
    test_id: str
    test_question: str
    how: str
    likeness: float

    @property
    def certain(self) -> bool:
        """Return whether the id or the text is the same; a person must judge all other cases."""
        return self.how != BY_LIKENESS


def find_leaks(train: Mapping[str, str], tests: Mapping[str, str]) -> list[Leak]:
    """Return the training questions that are also test questions, in the order of ``train``.

    Both arguments map question ids to question texts. Near-duplicates are questions whose content
    words have a weighted Jaccard coefficient of at least ``NEAR``. The weight of a word is
    log(N / number of questions with this word), where N is the total number of questions plus 1.
    Singular and plural forms count as one word. Words with digits must be identical, because type 1
    is not type 2. A hyphenated word counts as two words, or as one word if that makes the questions
    more similar (co-expressed, coexpressed).
    """
    similarity, joined = _Similarity(train, tests), _Similarity(train, tests, joined=True)
    # We reverse the order so that the first of several test questions with the same text counts.
    by_wording = {normalize(text): test_id for test_id, text in reversed(tests.items())}
    leaks = []
    for question_id, text in train.items():
        test_id, how, score = by_wording.get(normalize(text)), BY_WORDING, 1.0
        if question_id in tests:
            test_id, how = question_id, BY_ID
            score = similarity.jaccard(_words(text), _words(tests[question_id]))
        elif test_id is None:
            how, (score, test_id) = BY_LIKENESS, similarity.nearest(text)
            if score < NEAR:
                score, test_id = joined.nearest(text)
                if score < NEAR:
                    continue
        leaks.append(Leak(question_id, text, test_id, tests[test_id], how, round(score, 3)))
    return leaks


def most_alike(train: Mapping[str, str], tests: Mapping[str, str], count: int) -> list[Leak]:
    """Return the ``count`` training questions that are most similar to a test question."""
    similarity = _Similarity(train, tests)
    found = sorted((*similarity.nearest(text), name) for name, text in train.items())[::-1]
    return [
        Leak(name, train[name], test_id, tests[test_id], "alike", round(score, 3))
        for score, test_id, name in found[:count]
        if test_id
    ]


class _Similarity:
    """The similarity between training and test questions, based on their shared content words.

    An inverted index of the test questions makes it unnecessary to compare all pairs of questions.
    """

    def __init__(self, train: Mapping[str, str], tests: Mapping[str, str], joined: bool = False):
        self.joined = joined
        self.tests = {test_id: _words(text, joined) for test_id, text in tests.items()}
        counts = Counter(chain(*self.tests.values()))
        counts.update(chain.from_iterable(_words(text, joined) for text in train.values()))
        total = len(train) + len(tests) + 1
        self.weight = {word: math.log(total / n) for word, n in counts.items()}
        self.index: dict[str, list[str]] = defaultdict(list)
        for test_id, words in self.tests.items():
            for word in words:
                self.index[word].append(test_id)

    def nearest(self, text: str) -> tuple[float, str]:
        """Return (similarity, id) of the most similar test question, or (0, "") if none."""
        words = _words(text, self.joined)
        # Near-duplicates share most of their weight, so they share some of their rarest words.
        rare = sorted(words, key=self.weight.__getitem__, reverse=True)[:4]
        found = (
            (self.jaccard(words, self.tests[test_id]), test_id)
            for test_id in {test_id for word in rare for test_id in self.index.get(word, ())}
            if _digits(self.tests[test_id]) == _digits(words)
        )
        return max(found, default=(0.0, ""))

    def jaccard(self, one: frozenset[str], two: frozenset[str]) -> float:
        both = sum(self.weight[word] for word in one | two)
        return sum(self.weight[word] for word in one & two) / both if both else 0.0


def normalize(text: str) -> str:
    """Lowercase a text; unify look-alike characters and spaces; remove final punctuation."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(text.translate(_LOOKALIKES).split()).rstrip("?!.:;,… ")


def stem(word: str) -> str:
    """Return the common stem of singular and plural forms, such as therapi, diseas, virus, gene."""
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if len(word) > 4 and word.endswith("e"):
        word = word[:-1]
    return word[:-1] + "i" if len(word) > 3 and word.endswith("y") else word


def _words(text: str, joined: bool = False) -> frozenset[str]:
    """Return the stems of the content words; ``joined`` keeps each hyphenated word as one word."""
    text = _INNER_HYPHEN.sub("", text) if joined else text
    words = re.findall(r"\w+", text.casefold())
    return frozenset(stem(word) for word in words if word not in FUNCTION_WORDS)


def _digits(words: Iterable[str]) -> set[str]:
    return {word for word in words if any(map(str.isdigit, word))}


def read_tests(paths: Iterable[str | Path]) -> dict[str, str]:
    """Map the ids of factoid questions to their texts, from BioASQ or SQuAD test files."""
    tests: dict[str, str] = {}
    for path in paths:
        questions, rows = read_any(path)
        tests |= {question.id: question.body for question in questions} | question_texts(rows)
    return tests


def refuse_leaks(path: str | Path, leaks: Sequence[Leak], *, allow: bool = False) -> list[str]:
    """Raise ``InputError`` for leaks with the same id or text unless they are allowed.

    Near-duplicates never cause an error, because the public 7b training file contains one. Returns
    remarks.
    """
    remarks = []
    if certain := [leak for leak in leaks if leak.certain]:
        remarks.append(_refuse(f"{path}: {summary(certain)}", allow))
    if near := [leak for leak in leaks if not leak.certain]:
        remarks.append(f"{path}: possibly {summary(near)}; they are kept, so please check them")
    return remarks


def _refuse(found: str, allow: bool) -> str:
    """Raise an ``InputError`` with the description ``found``, or return a remark if ``allow``."""
    if allow:
        return f"{found}; allowed by allow_leak"
    raise InputError(
        f"{found}; the scores of a model trained on them measure only memorization; "
        "remove them, or allow them on purpose (--allow-leak or allow_leak=true)"
    )


def summary(leaks: Sequence[Leak]) -> str:
    """Summarize the leaks on one line: the first ids, the counts by kind, and the first pair."""
    kinds = Counter(leak.how for leak in leaks)
    counts = [f"{kinds[how]} by {how}" for how in (BY_ID, BY_WORDING, BY_LIKENESS) if kinds[how]]
    names, first = some_ids([leak.question_id for leak in leaks]), leaks[0]
    pair = f"{first.question!r}, in the test file {first.test_question!r}"
    return f"also test questions: {names}: {', '.join(counts)}; the first: {pair}"


def refuse_shared(
    train_file: str | Path,
    train: Iterable[Example],
    dev_file: str | Path,
    dev: Iterable[Example],
    *,
    allow: bool = False,
) -> tuple[list[str], list[str]]:
    """Raise ``InputError`` if ``dev`` repeats questions from ``train``, unless that is allowed.

    A question is repeated if its text occurs in both files with the same context or question id. A
    shared id alone does not count, because many files number their rows from 1. Returns remarks
    about allowed repetitions and about shared question texts with different contexts and ids ("What
    did he write?" can be asked about many contexts).
    """
    known: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in train:
        known[normalize(row.question)] |= {("id", row.question_id), ("text", row.context)}
    same, other = {}, {}
    for row in dev:
        if found := known.get(normalize(row.question)):
            again = not found.isdisjoint({("id", row.question_id), ("text", row.context)})
            (same if again else other)[row.id] = row.question
    allowed, kept = [], []
    if same:
        found = f"{dev_file}: repeats questions from {train_file} with the same context or id: "
        found += f"{some_ids(same)}; the first: {next(iter(same.values()))!r}"
        allowed = [_refuse(found, allow)]
    if other:
        found = f"{dev_file}: repeats questions from {train_file} with different contexts and ids: "
        kept = [f"{found}{some_ids(other)}; they are kept, so please check them"]
    return allowed, kept


def answer_type(answer: str) -> str:
    """Classify an answer by its form as a "number", "symbol", "word", "phrase", or "none".

    A number begins with a digit ("95 %", "14 days"). A symbol is a single word with a capital
    letter or a digit after its first letter (BRCA1, mTOR, TNF-α). A word is any other single word.
    An empty answer has the type "none".
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
    """Count the questions of each answer type."""
    return Counter(_types(examples).values())


def _types(examples: Iterable[Example]) -> dict[str, str]:
    """Map question ids to the type of the alphabetically first answer, regardless of row order."""
    texts: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        texts[example.question_id] += [span.text for span in example.spans]
    return {name: answer_type(min(found, default="")) for name, found in texts.items()}


def split_dev(
    examples: Sequence[Example], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Hold out whole questions and return (train, dev), both in the original order.

    Questions with the same text (see ``normalize``) stay together, because editions 7b to 10b
    repeat some questions under a different id. We hold out a proportional number of groups of each
    answer type and choose the groups with the smallest hashes of seed and id. The choice therefore
    depends neither on the order of the examples nor on the platform. Unless ``fraction`` is 0, each
    part has at least one question.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"dev fraction {fraction} must be at least 0 and below 1")
    if not fraction:
        return list(examples), []
    types, groups = _types(examples), _groups(examples)
    if len(groups) < 2:
        wording = f"{len(types)} questions with the same text" if len(types) > 1 else "1 question"
        raise InputError(f"dev fraction {fraction}: {wording} cannot be split; use 0")
    count = min(max(round(fraction * len(types)), 1), len(types) - 1)
    by_type = defaultdict(list)
    for names in groups:
        digest, name = min((hashlib.sha256(f"{seed}:{n}".encode()).digest(), n) for n in names)
        by_type[types[name]].append((digest, names))
    # The n-th of N groups of a type gets the position (n + 1/2) / N. If we take the groups with the
    # smallest positions, the share of each type is proportional, to within one question.
    places = [
        ((n + 0.5) / len(ranked), digest, names)
        for ranked in map(sorted, by_type.values())
        for n, (digest, names) in enumerate(ranked)
    ]
    ordered = [names for _, _, names in sorted(places)]
    held: set[str] = set()
    for names in ordered[:-1]:
        if len(held) + len(names) / 2 < count:  # the group brings us closer to the count
            held.update(names)
    held = held or set(min(ordered, key=len))
    train = [example for example in examples if example.question_id not in held]
    return train, [example for example in examples if example.question_id in held]


def _groups(examples: Iterable[Example]) -> list[list[str]]:
    """Group the ids of questions that have the same text."""
    group_of: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for row in examples:
        both = ("id", row.question_id), ("wording", normalize(row.question))
        small, large = sorted((group_of.setdefault(node, {node}) for node in both), key=len)
        if small is not large:
            large |= small
            group_of |= dict.fromkeys(small, large)
    groups = {id(group): group for group in group_of.values()}.values()
    return [[name for kind, name in sorted(group) if kind == "id"] for group in groups]
