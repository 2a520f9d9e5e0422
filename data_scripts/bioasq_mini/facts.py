"""The facts of BioASQ-mini, and the split into a training side and a test side.

Facts are split by object: if two facts of a relation share an object, they are on the same side, so
no test answer is also a training answer in the same relation.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from helpers.config import InputError
from helpers.data.mini import Entity

HERE = Path(__file__).parent
TEST_SHARE = 0.3  # share of each relation's facts on the test side


@dataclass(frozen=True)
class Fact:
    """A subject of a relation and its objects, on one side of the split.

    ``other_names`` holds other names of the subject. Questions use ``subject``.
    """

    relation: str
    subject: str
    entities: tuple[Entity, ...]
    side: str = ""
    other_names: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The id of the factoid question about this fact."""
        return question_id("factoid", self.relation, self.subject)

    @property
    def names(self) -> list[str]:
        """All names of all objects."""
        return [name for entity in self.entities for name in entity]

    @property
    def subjects(self) -> tuple[str, ...]:
        """All names of the subject, with the one that questions use first."""
        return (self.subject, *self.other_names)


def question_id(kind: str, relation: str, subject: str) -> str:
    """Return 24 hex digits: 0000 and a hash of the question's type, relation and subject."""
    return "0000" + hashlib.sha256(f"{kind}|{relation}|{subject}".encode()).hexdigest()[:20]


@cache
def facts() -> tuple[Fact, ...]:
    """Return all facts, each with its side. Facts that share an object are on the same side."""
    rows = defaultdict(list)
    for path in sorted(HERE.glob("facts_*.tsv")):
        for row in _table(path):
            names = (row["object"].strip(), *_listed(row["synonyms"]))
            rows[row["relation"]].append((row["subject"].strip(), tuple(dict.fromkeys(names))))
    if not rows:
        raise InputError(f"{HERE}: no facts_*.tsv found; restore the files from the repository")
    return tuple(fact for relation in sorted(rows) for fact in split(relation, rows[relation]))


def _table(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _listed(cell: str | None) -> list[str]:
    return [name.strip() for name in (cell or "").split("|") if name.strip()]


@cache
def other_names() -> dict[str, tuple[str, ...]]:
    """Map subjects to their other names."""
    rows = _table(HERE / "subjects.tsv")
    return {row["subject"].strip(): tuple(_listed(row["other_names"])) for row in rows}


@cache
def of_relation(relation: str) -> tuple[Fact, ...]:
    """Return the facts of one relation."""
    return tuple(fact for fact in facts() if fact.relation == relation)


@cache
def known_objects(relation: str) -> tuple[Entity, ...]:
    """Return every object of a relation with its synonyms, that is, all candidate answers."""
    found = (e for f in of_relation(relation) for e in f.entities)
    return tuple(dict.fromkeys(found))


def split(relation: str, rows: Sequence[tuple[str, Entity]]) -> list[Fact]:
    """Make the facts of one relation from its (subject, names of the object) rows."""
    entities = {}
    for group in _joined([{n.lower() for n in names} for _, names in rows]):
        merged = tuple(dict.fromkeys(name for i in group for name in rows[i][1]))
        entities.update(dict.fromkeys(group, merged))
    subjects = defaultdict(dict)
    for i, (subject, _) in enumerate(rows):
        subjects[subject][entities[i]] = None
    drafts = [_fact(relation, s, tuple(e)) for s, e in subjects.items()]
    # Facts that must stay together move to the test side as a group: the smallest groups first,
    # and groups of equal size in hash order.
    groups = _joined([{*fact.subjects, *fact.entities} for fact in drafts])
    groups.sort(key=lambda group: (len(group), min(drafts[i].id for i in group)))
    # At least three objects must remain for training: an answer and two distractors.
    room = max(3, round(TEST_SHARE * len(drafts)))
    left = len({entity for fact in drafts for entity in fact.entities})
    test: set[int] = set()
    for group in groups:
        objects = len({entity for i in group for entity in drafts[i].entities})
        if len(group) <= room - len(test) and left - objects >= 3:
            test.update(group)
            left -= objects
    return [
        Fact(f.relation, f.subject, f.entities, "test" if i in test else "train", f.other_names)
        for i, f in enumerate(drafts)
    ]


def _fact(relation: str, subject: str, entities: tuple[Entity, ...]) -> Fact:
    names = [name for entity in entities for name in entity]
    others = other_names().get(subject, ())  # without those that contain an object of the fact
    return Fact(
        relation, subject, entities, other_names=tuple(o for o in others if not clash([o], names))
    )


def _joined(keys: list[set]) -> list[list[int]]:
    """Group the indices whose key sets overlap, directly or through other key sets."""
    groups: list[tuple[set, list[int]]] = []
    for index, key in enumerate(keys):
        all_keys, members, apart = set(key), [index], []
        for group in groups:
            if group[0] & key:
                all_keys |= group[0]
                members = [*group[1], *members]
            else:
                apart.append(group)
        groups = [*apart, (all_keys, members)]
    return [sorted(members) for _, members in groups]


@cache
def words(name: str) -> str:
    """Return the lowercase words of a name, with a space on each side."""
    return " " + " ".join(re.findall(r"\w+", name.lower())) + " "


def clash(one: Iterable[str], two: Iterable[str]) -> bool:
    """Check whether a name in either list contains one from the other list as whole words."""
    pairs = [(words(a), words(b)) for a in one for b in two]
    return any(a in b or b in a for a, b in pairs)
