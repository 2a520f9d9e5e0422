"""The sentences and passages of BioASQ-mini, made from its facts (see ``generate``).

Each sentence states facts from the table or mentions entities without stating a fact, so the
sentences are exactly as accurate as the table. The other facts in a snippet are on the same side of
the split as the fact that the question is about.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random

from bioasq_mini.facts import HERE, Fact, clash, facts, known_objects, of_relation, question_id
from bioasq_mini.facts import words as words_of
from helpers.data.mini import Entity

DISTRACTORS = (3, 4, 5)  # per question with passages; all other questions have two
DRESSED = 0.2  # share of objects that are written with the words in the relation's "dress"
_SIZES = {1: "one", 2: "two", 3: "frames"}  # key of the patterns with this number of facts
OTHER_NAME = 0.3  # share of distractors whose subject appears under another name


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

    ``kind`` is a key of ``generate.KINDS``. ``others`` holds the distractors, each with the facts
    that have it as their object. If ``written`` is not empty, the snippets write the answer only as
    one of these names. ``subject`` is the subject's name in the snippets, which may differ from the
    name in the question.
    """

    fact: Fact
    others: list[tuple[Entity, list[Fact]]] = field(default_factory=list)
    body: str = ""
    kind: str = "plain"
    type: str = "factoid"
    subject: str = ""
    written: tuple[str, ...] = ()
    passage: bool = False  # snippets of several sentences instead of one
    snippets: list[Made] = field(default_factory=list)
    extra: list[Made] = field(default_factory=list)  # in the golden file only
    gold: list | str = field(default_factory=list)
    abstract: str = ""

    @property
    def id(self) -> str:
        return question_id(self.type, self.fact.relation, self.fact.subject)

    @property
    def relation(self) -> dict:
        """The patterns of the relation."""
        return patterns()["relations"][self.fact.relation]


@cache
def patterns() -> dict:
    """Return the patterns: frames, passages, neutral sentences, and each relation's clauses."""
    return json.loads((HERE / "patterns.json").read_text(encoding="utf-8"))


def draft(fact: Fact, passage: bool = False) -> Item | None:
    """Return a question with distractors, or None if no unambiguous question is possible."""
    rng = Random(f"item|{fact.id}")
    if any(words_of(name) in words_of(fact.subject) for name in fact.names):
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
    most = rng.choice(DISTRACTORS) if passage else 2
    for entity in rng.sample(sorted(pool), len(pool)):
        taken = [*fact.names, *fact.subjects, *(name for e, _ in others for name in e)]
        sources = [f for f in pool[entity] if not clash(taken, [*f.subjects, *f.names])]
        if sources:
            others.append((entity, sources))
        if len(others) == most:
            break
    if len(others) < 2:
        return None
    body = rng.choice(patterns()["relations"][fact.relation]["questions"])
    # The question may use one name of the subject and its snippets another.
    subject = fact.subject
    if fact.other_names and rng.random() < 0.25:
        subject = rng.choice(fact.other_names)
    body = body.replace("{s}", fact.subject)
    return Item(fact, others, body, subject=subject, passage=passage)


def sentence(template: str, item: Item, rng: Random, numbers: Sequence[int] = ()) -> str:
    """Fill a template with clauses and names. Each name has the same form in the whole template.

    ``numbers`` are the facts that replace facts 1, 2, 3 of the template; fact 1 is the question's
    fact, and the others are those of its distractors.
    """
    if numbers:
        pattern = r"(<[a-z]+|\{[so])(\d+)"
        new = [str(number) for number in numbers]
        template = re.sub(
            pattern, lambda m: m[1] + "".join(new[int(d) - 1] for d in m[2]), template
        )
    relation = item.relation
    words = {"s1": item.subject or item.fact.subject, "o1": _answer(item, rng)}
    for number, (entity, sources) in enumerate(item.others, 2):
        words[f"s{number}"] = _subject(rng.choice(sources), rng)
        words[f"o{number}"] = _form(entity, rng)
    dressed = {
        slot: relation["dress"].replace("{o}", words[slot])
        for slot in words
        if slot[0] == "o" and "dress" in relation and _dressed(item, slot, rng)
    }
    drawn = {k: rng.sample(relation[k], len(relation[k])) for k in ("so", "os", "short")}

    def clause(match: re.Match) -> str:
        kind, numbers, aside = match.groups()
        if kind == "list":
            subjects, objects = (_enumeration(letter, numbers) for letter in "so")
            return relation["list"].replace("{S}", subjects).replace("{O}", objects)
        if kind not in drawn:
            text = relation[kind].replace("{d}", "{o2} or {o3}")
            return re.sub(r"\{([so])([:}])", rf"{{\g<1>{numbers}\2", text)
        text = drawn[kind].pop().replace("|", (aside or "|")[1:])
        # A capital O marks an object that may be dressed.
        return re.sub(
            r"\{([so])([:}])", lambda m: "{" + m[1].replace("o", "O") + numbers + m[2], text
        )

    def word(match: re.Match) -> str:
        slot, one, many = match.groups()
        name = words[slot.lower()]
        if slot[0] == "O":
            name = dressed.get(slot.lower(), name)
        if one:
            return many if _plural(name) else one
        if slot[0] == "s":
            return name
        if match.string[: match.start()].endswith("("):
            return name.split(" (")[0]
        return _article(name, relation) + name

    text = re.sub(r"<([a-z]+?)(\d+)(\|[^>]*)?>", clause, template)
    text = text.replace("{nouns}", relation["nouns"]).replace("{noun}", relation["noun"])
    if not numbers and rng.random() < 0.2 and text.endswith("."):
        text = f"{rng.choice(patterns()['leads'])} // {text}"
    parts = re.sub(r"\{([soO]\d)(?::([^/}]*)/([^}]*))?\}", word, text).split(" // ")
    return " ".join(capital(part) for part in parts)


def _answer(item: Item, rng: Random) -> str:
    return rng.choice(item.written) if item.written else _form(rng.choice(item.fact.entities), rng)


def _dressed(item: Item, slot: str, rng: Random) -> bool:
    if slot == "o1" and item.kind in ("dressed", "plural"):
        return item.kind == "dressed"
    return rng.random() < DRESSED


def _subject(fact: Fact, rng: Random) -> str:
    if fact.other_names and rng.random() < OTHER_NAME:
        return rng.choice(fact.other_names)
    return fact.subject


def _form(entity: Entity, rng: Random) -> str:
    name = entity[0] if rng.random() < 0.5 else rng.choice(entity)
    if name == entity[0] and short_form(entity) and rng.random() < 0.15:
        return f"{name} ({short_form(entity)})"
    return name


def short_form(entity: Entity) -> str:
    """Return the abbreviation that can follow the main name in parentheses, or an empty string."""
    short = [n for n in entity[1:] if len(n) <= 6 and n.upper() == n]
    return short[0] if short and "(" not in entity[0] else ""


def _enumeration(letter: str, numbers: str) -> str:
    *first, last = (f"{{{letter}{number}}}" for number in numbers)
    return f"{', '.join(first)} and {last}"


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


def states_answer(template: str, item: Item) -> bool:
    """Check whether a template states fact 1 so that a "dressed" answer can appear in it."""
    return item.kind != "dressed" or bool(re.search(r"<(so|os|short)1[|>]", template))


def usable(templates: Sequence[dict], item: Item) -> list[dict]:
    """Keep the templates that fit the relation and the side; only tests use "unseen" ones."""
    return [
        template
        for template in templates
        if (item.fact.side == "test" or not template["unseen"])
        and all(key in item.relation for key in template.get("needs", ()))
    ]


# --- Snippets ------------------------------------------------------------------------------------


class Deck:
    """A shuffled deck of frames. All frames are used about equally often."""

    def __init__(self, side: str):
        self.rng, self.cards = Random(f"deck|{side}"), []

    def answering(self, item: Item, number: int, rng: Random) -> list[Made]:
        """Make ``number`` snippets that contain the answer, each from a different frame."""
        if item.passage:
            return [Made(passage(item, True, rng), "passage", True) for _ in range(number)]
        used = {made.pattern for made in item.snippets}
        made = []
        frames = usable(patterns()["frames"], item)
        frames = [frame for frame in frames if states_answer(frame["text"], item)]
        while len(made) < number:
            fit = [card for card in self.cards if card in frames and card["id"] not in used]
            if not fit:
                self.cards += self.rng.sample(frames, len(frames))
                continue
            self.cards.remove(fit[0])
            used.add(fit[0]["id"])
            numbers = rng.sample((1, 2, 3), 3) if fit[0].get("shuffled") else ()
            made.append(Made(sentence(fit[0]["text"], item, rng, numbers), fit[0]["id"], True))
        return made


def without_answer(item: Item, number: int, rng: Random) -> list[Made]:
    """Make ``number`` snippets with the subject and the distractors but without the answer."""
    if item.kind == "off-topic":
        return [Made(_off_topic(item, rng), "off-topic", False) for _ in range(number)]
    if item.passage:
        return [Made(passage(item, False, rng), "passage", False) for _ in range(number)]
    used = {made.pattern for made in item.snippets}
    free = [n for n in range(len(patterns()["neutral"])) if f"neutral-{n}" not in used]
    chosen = rng.sample(free, number)
    return [
        Made(sentence(patterns()["neutral"][n], item, rng), f"neutral-{n}", False) for n in chosen
    ]


def passage(item: Item, answers: bool, rng: Random) -> str:
    """Write several sentences with one to three facts each, in random order."""
    numbers = [*([1] if answers else []), *range(2, len(item.others) + 2)]
    rng.shuffle(numbers)
    templates = {size: usable(patterns()[_SIZES[size]], item) for size in _SIZES}
    used: set[str] = set()
    parts = []
    while numbers:
        size = min(rng.choice((1, 2, 2, 3)), len(numbers))
        chunk, numbers = numbers[:size], numbers[size:]
        fit = [t["text"] for t in templates[size] if t["text"] not in used and "single" not in t]
        if 1 in chunk and item.kind == "dressed":
            place = str(chunk.index(1) + 1)
            fit = [t for t in fit if re.search(rf"<(so|os|short){place}[|>]", t)]
        template = rng.choice(fit)
        used.add(template)
        parts.append(sentence(template, item, rng, chunk))
    if not answers:
        about = rng.choice(patterns()["about"])
        parts.insert(rng.randint(0, len(parts)), sentence(about, item, rng, (1,)))
    for other in same_subject(item)[:1]:
        text = sentence("<so1>.", Item(other, subject=item.subject), rng, (1,))
        parts.insert(rng.randint(0, len(parts)), text)
    return " ".join(parts)


def same_subject(item: Item) -> list[Fact]:
    """Return facts of other relations about the same subject, with objects of another type."""
    return [
        fact
        for fact in facts()
        if fact.relation != item.fact.relation
        and fact.subject == item.fact.subject
        and fact.side == item.fact.side
        and _apart(fact, item)
    ]


def _apart(fact: Fact, item: Item) -> bool:
    """Check that no object of a fact can be mistaken for an answer to the question."""
    known = [name for entity in known_objects(item.fact.relation) for name in entity]
    return not clash(fact.names, known)


def _off_topic(item: Item, rng: Random) -> str:
    """Return a text about the subject that mentions no candidate of the answer's type."""
    about = rng.choice(patterns()["about"])
    parts = [sentence(about, item, rng, (1,))]
    own = same_subject(item)
    there = [f for f in facts() if f.side == item.fact.side and f.relation != item.fact.relation]
    strange = [f for f in rng.sample(there, 40) if _apart(f, item)]
    for fact in [*own, *strange][: rng.choice((2, 3))]:
        other = Item(fact, subject=item.subject if fact in own else fact.subject)
        parts.append(sentence(rng.choice(("<so1>.", "<os1>.")), other, rng, (1,)))
    return " ".join(rng.sample(parts, len(parts)))
