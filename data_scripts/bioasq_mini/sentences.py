"""The facts of BioASQ-mini and the sentences made from them (see ``generate``).

Facts are split by object: if two facts of a relation share an object, they are on the same side.
Each sentence states facts from the table or mentions entities without stating a fact, so the
sentences are exactly as accurate as the table. The other facts in a sentence have the same relation
and side as the fact that the question is about.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

from helpers.config import InputError
from helpers.data.mini import Entity

HERE = Path(__file__).parent
TEST_SHARE = 0.3  # share of each relation's facts on the test side


@dataclass(frozen=True)
class Fact:
    """A subject of a relation and its objects, on one side of the split."""

    relation: str
    subject: str
    entities: tuple[Entity, ...]
    side: str = ""

    @property
    def id(self) -> str:
        """The id of the factoid question about this fact."""
        return question_id("factoid", self.relation, self.subject)


@dataclass
class Made:
    """A generated snippet: its text, its pattern, and whether it contains the answer."""

    text: str
    pattern: str
    answers: bool
    document: str = ""
    begin: int = 0
    section: str = "abstract"


@dataclass
class Item:
    """A generated question.

    ``kind`` is "answerable", "no-snippet" or "wording" (see the README of ``mini_data``).
    ``others`` holds the two distractors, each with the facts that have it as their object.
    """

    fact: Fact
    others: list[tuple[Entity, list[Fact]]]
    body: str
    kind: str = "answerable"
    type: str = "factoid"
    snippets: list[Made] = field(default_factory=list)
    extra: list[Made] = field(default_factory=list)  # in the golden file only
    gold: list = field(default_factory=list)
    abstract: str = ""

    @property
    def id(self) -> str:
        return question_id(self.type, self.fact.relation, self.fact.subject)


def question_id(kind: str, relation: str, subject: str) -> str:
    """Return 24 hex digits: 0000 and a hash of the question's type, relation and subject."""
    return "0000" + hashlib.sha256(f"{kind}|{relation}|{subject}".encode()).hexdigest()[:20]


@cache
def patterns() -> dict:
    """Return the patterns: frames, neutral sentences, and each relation's clauses and questions."""
    return json.loads((HERE / "patterns.json").read_text(encoding="utf-8"))


@cache
def facts() -> tuple[Fact, ...]:
    """Return all facts, each with its side. Facts that share an object are on the same side."""
    rows = defaultdict(list)
    for path in sorted(HERE.glob("facts_*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                names = [row["object"], *(row["synonyms"] or "").split("|")]
                names = tuple(dict.fromkeys(n.strip() for n in names if n.strip()))
                rows[row["relation"]].append((row["subject"].strip(), names))
    if not rows:
        raise InputError(f"{HERE}: no facts_*.tsv found; restore the files from the repository")
    return tuple(fact for relation in sorted(rows) for fact in _split(relation, rows[relation]))


@cache
def of_relation(relation: str) -> tuple[Fact, ...]:
    """Return the facts of one relation."""
    return tuple(fact for fact in facts() if fact.relation == relation)


@cache
def known_objects(relation: str) -> tuple[Entity, ...]:
    """Return every object of a relation with its synonyms, that is, all candidate answers."""
    found = (e for f in of_relation(relation) for e in f.entities)
    return tuple(dict.fromkeys(found))


def _split(relation: str, rows: list[tuple[str, Entity]]) -> list[Fact]:
    entities = {}
    for group in _joined([{n.lower() for n in names} for _, names in rows]):
        merged = tuple(dict.fromkeys(name for i in group for name in rows[i][1]))
        entities.update(dict.fromkeys(group, merged))
    subjects = defaultdict(dict)
    for i, (subject, _) in enumerate(rows):
        subjects[subject][entities[i]] = None
    drafts = [Fact(relation, s, tuple(e)) for s, e in subjects.items()]
    # Facts that must stay together move to the test side as a group: the smallest groups first,
    # and groups of equal size in hash order.
    groups = _joined([{fact.subject, *fact.entities} for fact in drafts])
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
        Fact(f.relation, f.subject, f.entities, "test" if i in test else "train")
        for i, f in enumerate(drafts)
    ]


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


# --- Sentences -----------------------------------------------------------------------------------


@cache
def _words(name: str) -> str:
    return " " + " ".join(re.findall(r"\w+", name.lower())) + " "


def _clash(one: Iterable[str], two: Iterable[str]) -> bool:
    """Check whether a name in one list contains a name in the other list, word by word."""
    pairs = [(_words(a), _words(b)) for a in one for b in two]
    return any(a in b or b in a for a, b in pairs)


def draft(fact: Fact) -> Item | None:
    """Return a question with two distractors, or None if no unambiguous question is possible."""
    rng = Random(f"item|{fact.id}")
    answer = [name for entity in fact.entities for name in entity]
    if any(_words(name) in _words(fact.subject) for name in answer):
        return None
    same = [f for f in of_relation(fact.relation) if f.subject != fact.subject]
    side = [f for f in same if f.side == fact.side and f.entities != fact.entities]
    if fact.side == "test" and len({f.entities for f in side}) < 2:
        side = same  # a relation with few objects borrows distractors from the training side
    pool = defaultdict(list)
    for other in side:
        for entity in other.entities:
            pool[entity].append(other)
    others: list[tuple[Entity, list[Fact]]] = []
    for entity in rng.sample(sorted(pool), len(pool)):
        taken = [*answer, fact.subject, *(name for e, _ in others for name in e)]
        sources = [
            f
            for f in pool[entity]
            if not _clash(taken, [f.subject, *(name for e in f.entities for name in e)])
        ]
        if sources:
            others.append((entity, sources))
        if len(others) == 2:
            break
    body = rng.choice(patterns()["relations"][fact.relation]["questions"])
    return Item(fact, others, body.replace("{s}", fact.subject)) if len(others) == 2 else None


def sentence(template: str, item: Item, rng: Random) -> str:
    """Fill a frame with clauses and names. Each name has the same form in the whole sentence."""
    relation = patterns()["relations"][item.fact.relation]
    words = {"s1": item.fact.subject, "o1": _form(rng.choice(item.fact.entities), rng)}
    for number, (entity, sources) in enumerate(item.others, 2):
        words[f"s{number}"] = rng.choice(sources).subject
        words[f"o{number}"] = _form(entity, rng)
    drawn = {k: rng.sample(relation[k], len(relation[k])) for k in ("so", "os", "short")}

    def clause(match: re.Match) -> str:
        kind, numbers, aside = match.groups()
        if kind == "list":
            subjects, objects = (_listed(letter, numbers) for letter in "so")
            return relation["list"].replace("{S}", subjects).replace("{O}", objects)
        text = drawn[kind].pop() if kind in drawn else relation[kind]
        text = text.replace("|", (aside or "|")[1:]).replace("{d}", "{o2} or {o3}")
        return re.sub(r"\{([so])([:}])", rf"{{\g<1>{numbers}\2", text)

    def word(match: re.Match) -> str:
        slot, one, many = match.groups()
        if one:
            return many if _plural(words[slot]) else one
        if slot[0] == "s":
            return words[slot]
        if match.string[: match.start()].endswith("("):
            return words[slot].split(" (")[0]
        return _article(words[slot], relation) + words[slot]

    text = re.sub(r"<([a-z]+?)(\d+)(\|[^>]*)?>", clause, template)
    text = text.replace("{nouns}", relation["nouns"])
    if rng.random() < 0.2 and text.endswith("."):
        text = f"{rng.choice(patterns()['leads'])} // {text}"
    parts = re.sub(r"\{([so]\d)(?::([^/}]*)/([^}]*))?\}", word, text).split(" // ")
    return " ".join(capital(part) for part in parts)


def _form(entity: Entity, rng: Random) -> str:
    name = entity[0] if rng.random() < 0.65 else rng.choice(entity)
    short = [n for n in entity[1:] if len(n) <= 6 and n.upper() == n]
    if name == entity[0] and short and "(" not in name and rng.random() < 0.15:
        return f"{name} ({short[0]})"
    return name


def _listed(letter: str, numbers: str) -> str:
    first, second, third = (f"{{{letter}{number}}}" for number in numbers)
    return f"{first}, {second} and {third}"


def _article(name: str, relation: dict) -> str:
    needs = relation.get("articles")
    return "the " if needs and re.search(needs, name) and not name.startswith("the ") else ""


def _plural(name: str) -> bool:
    last = name.split(" (")[0].split()[-1].lower()
    return last.endswith("s") and not re.search(patterns()["singular"], last)


def capital(sentence: str) -> str:
    # "p53", "mTOR" and "α-galactosidase" keep their lowercase first letter.
    first = re.match(r"[a-z]{2,}(?![A-Z0-9])", sentence)
    return sentence[0].upper() + sentence[1:] if first or sentence[:2] == "a " else sentence


class Deck:
    """A shuffled deck of frames. Each frame is used about equally often."""

    def __init__(self, side: str):
        self.rng, self.cards = Random(f"deck|{side}"), []
        self.frames = [f for f in patterns()["frames"] if side == "test" or not f["unseen"]]

    def answering(self, item: Item, number: int, rng: Random) -> list[Made]:
        """Make ``number`` sentences that contain the answer, each from a different frame."""
        relation = patterns()["relations"][item.fact.relation]
        used = {made.pattern for made in item.snippets}
        made = []
        while len(made) < number:
            fit = [
                frame
                for frame in self.cards
                if frame["id"] not in used and all(k in relation for k in frame.get("needs", []))
            ]
            if not fit:
                self.cards += self.rng.sample(self.frames, len(self.frames))
                continue
            self.cards.remove(fit[0])
            used.add(fit[0]["id"])
            made.append(Made(sentence(fit[0]["text"], item, rng), fit[0]["id"], True))
        return made

    def neutral(self, item: Item, number: int, rng: Random) -> list[Made]:
        """Make ``number`` sentences with the subject and the distractors but without the answer."""
        used = {made.pattern for made in item.snippets}
        free = [n for n in range(len(patterns()["neutral"])) if f"neutral-{n}" not in used]
        chosen = rng.sample(free, number)
        return [
            Made(sentence(patterns()["neutral"][n], item, rng), f"neutral-{n}", False)
            for n in chosen
        ]
