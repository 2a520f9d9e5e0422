"""Make BioASQ-mini, a small data set in the exact BioASQ format, from a table of facts.

Each question asks for the object of a fact. All of its snippets name the same two *distractors*,
which are objects of other facts of the same kind, so voting over the snippets does not reveal the
answer. Every random choice uses ``random.Random`` seeded with a string, so the files are the same
on every machine. The module ``sentences`` reads the facts and writes the sentences.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from random import Random

from bioasq_mini.abstracts import LONG, add_long_abstract, document_texts
from bioasq_mini.facts import Fact, facts, known_objects
from bioasq_mini.kinds import KINDS, set_kind, suits
from bioasq_mini.sentences import Deck, Item, Made, draft, sentence, without_answer
from helpers.data.mini import DATA
from helpers.io import write_json

BATCHES = (39, 25, 29, 34, 35)  # factoid questions per test batch, as in BioASQ 7b
TRAIN = 480  # factoid questions; the remaining facts serve as distractors
OTHERS = {"train": 18, "test": 20}  # questions of other types
PASSAGES = 0.4  # share of questions whose snippets are passages
# How many snippets of a question contain the answer, and how many do not.
SNIPPETS = {
    "train": [(2, 1), (3, 0), (3, 1), (4, 0)],
    "test": [(1, 1), (2, 0), (2, 1), (2, 1), (3, 0), (3, 1)],
    "no-snippet": [(0, 2), (0, 3)],
    "off-topic": [(0, 1), (0, 2)],
    "vote": [(1, 2), (1, 3)],
}
ADDRESS = "https://example.org/bioasq-mini"


def make(folder: str | Path = DATA) -> list[Path]:
    """Write all files of BioASQ-mini into ``folder`` and return their paths."""
    return [write_json(Path(folder) / name, data) for name, data in files().items()]


def check(folder: str | Path = DATA) -> list[str]:
    """Compare the files in ``folder`` with what ``make`` writes; return the differences."""
    differences = []
    with tempfile.TemporaryDirectory() as fresh:
        for path in make(fresh):
            shipped = Path(folder) / path.name
            if not shipped.is_file():
                differences.append(f"{shipped.name}: missing")
            elif shipped.read_bytes() != path.read_bytes():
                differences.append(f"{shipped.name}: differs from the generated file")
    return differences


def files() -> dict[str, object]:
    """Map each file name to the content of that file, in BioASQ's JSON layout."""
    train, batches = build()
    content: dict[str, object] = {
        "BioASQ-training-mini.json": {"questions": [_golden(item) for item in train]}
    }
    for number, batch in enumerate(batches, 1):
        inputs = [_question(item, item.snippets) for item in batch]
        content[f"BioASQ-mini-PhaseB-testset{number}.json"] = {"questions": inputs}
        content[f"mini{number}_golden.json"] = {"questions": [_golden(item) for item in batch]}
    items = [*train, *(item for batch in batches for item in batch)]
    content["abstracts.json"] = document_texts(items)
    content["relations.json"] = _relations()
    return content


def _relations() -> dict[str, dict[str, list]]:
    """Map each relation to the ids of its factoid questions and its objects with synonyms."""
    found: dict[str, dict[str, list]] = {}
    for fact in facts():
        objects = known_objects(fact.relation)
        entry = found.setdefault(fact.relation, {"questions": [], "objects": objects})
        entry["questions"].append(fact.id)
    return found


def build() -> tuple[list[Item], list[list[Item]]]:
    """Build the training questions and the five test batches."""
    numbers = {"train": TRAIN, "test": sum(BATCHES)}
    drafts = [_draft(fact) for fact in sorted(facts(), key=lambda fact: fact.id)]
    sides = {}
    for side, number in numbers.items():
        able = [item for item in drafts if item and item.fact.side == side]
        asked, spare = _round_robin(able, number)
        others = spare[: OTHERS[side]]
        for index, item in enumerate(others):
            item.type = ("yesno", "list", "yesno", "summary")[index % 4]
        _assign_kinds(asked, side)
        _finish([*asked, *others], side)
        sides[side] = (asked, others)
    train = _shuffled([item for part in sides["train"] for item in part], "order|train")
    test, others = sides["test"]
    batches = _deal(sorted(test, key=lambda i: (i.kind, i.fact.relation, i.passage, i.id)))
    return train, [
        _shuffled([*batch, *others[n :: len(BATCHES)]], f"order|{n}")
        for n, batch in enumerate(batches)
    ]


def _draft(fact: Fact) -> Item | None:
    return draft(fact, Random(f"passage|{fact.id}").random() < PASSAGES)


def _assign_kinds(items: list[Item], side: str) -> None:
    """Give each kind its number of suitable questions. The remaining questions are "plain"."""
    free = sorted(items, key=lambda item: Random(f"kind|{item.id}").random())
    for kind, (number, share) in KINDS.items():
        number = number if side == "test" else round(share * len(items))
        for item in [item for item in free if suits(kind, item)][:number]:
            set_kind(kind, item)
            free.remove(item)


def _deal(items: list[Item]) -> list[list[Item]]:
    """Divide sorted questions among the batches, so that each kind is spread over all of them."""
    places = sorted(
        ((index + 0.5) / size, number)
        for number, size in enumerate(BATCHES)
        for index in range(size)
    )
    batches: list[list[Item]] = [[] for _ in BATCHES]
    for (_, number), item in zip(places, items, strict=True):
        batches[number].append(item)
    return batches


def _round_robin(items: list[Item], number: int) -> tuple[list[Item], list[Item]]:
    """Take the first item of each relation, then the second, and so on.

    Return the first ``number`` items and the remaining ones.
    """
    seen: Counter = Counter()
    ranked = []
    for item in items:
        ranked.append((seen[item.fact.relation], item.fact.relation, item))
        seen[item.fact.relation] += 1
    ranked.sort(key=lambda entry: entry[:2])
    return [e[2] for e in ranked[:number]], [e[2] for e in ranked[number:]]


def _finish(items: list[Item], side: str) -> None:
    deck = Deck(side)
    for item in items:
        _fill(item, deck)
    able = [i for i in items if i.type == "factoid" and i.kind == "plain" and not i.passage]
    for item in able[:: len(able) // LONG[side]][: LONG[side]]:
        add_long_abstract(item)


def _shuffled(items: list, seed: str) -> list:
    return Random(seed).sample(items, len(items))


# --- One question --------------------------------------------------------------------------------


def _fill(item: Item, deck: Deck) -> None:
    """Give a question its snippets, their documents, and its gold answer."""
    rng = Random(f"fill|{item.fact.id}")
    with_answer, without = rng.choice(SNIPPETS.get(item.kind, SNIPPETS[item.fact.side]))
    item.snippets = deck.answering(item, with_answer, rng)
    item.snippets += without_answer(item, without, rng)
    rng.shuffle(item.snippets)
    if item.fact.side == "test":  # golden files have more snippets than test inputs
        item.extra = deck.answering(item, rng.choice((1, 2)), rng)
        item.extra += without_answer(item, rng.choice((1, 2)), rng)
    if rng.random() < 0.06 and len(item.snippets) < 4:
        first = item.snippets[0]
        item.snippets.append(Made(first.text, first.pattern, first.answers))
    number = 1
    for index, made in enumerate([*item.snippets, *item.extra]):
        number += index > 0 and rng.random() < 0.75  # otherwise, use the same document
        made.document = f"{ADDRESS}/{item.fact.relation}/{item.id[4:12]}-{number}"
        made.begin = rng.randrange(0, 900)
        made.section = "sections.0" if rng.random() < 0.05 else "abstract"
    item.gold = _gold(item, rng) if item.type == "factoid" else _other_type(item, rng)


def _gold(item: Item, rng: Random) -> list:
    """Return the exact answer as a nested list, sometimes flattened or with extra spaces."""
    if item.gold:
        return item.gold
    entities = [list(entity) for entity in item.fact.entities]
    names = entities[0]
    if len(names) > 1 and rng.random() < 0.05:
        spaced = rng.randrange(len(names))
        name = names[spaced]
        names[spaced] = name.replace(" ", "  ", 1) if " " in name else name + " "
    elif len(entities) == 1 and len(names) > 1 and rng.random() < 0.05:
        return [names[:1], names[1:]]  # one entity in two inner lists, as in some real questions
    if item.fact.side == "train" and len(entities) == 1 and rng.random() < 0.15:
        return names
    return entities


def _other_type(item: Item, rng: Random) -> list | str:
    """Rewrite the question to fit its non-factoid type, and return its exact answer."""
    relation = item.relation
    if item.type == "summary":
        item.body = f"What should be remembered about {item.fact.subject}?"
        return []
    if item.type == "list":
        item.body = sentence("Which {nouns} belong to {s1}, {s2} and {s3}?", item, rng)
        return [list(item.fact.entities[0]), *(list(entity) for entity, _ in item.others[:2])]
    # "no" is correct only in a relation in which each subject has a single object.
    wrong = "deny" in relation and rng.random() < 0.5
    asked = relation["yesno"].replace("{s}", "{s1}").replace("{o}", "{o2}" if wrong else "{o1}")
    item.body = sentence(asked, item, rng)
    return "no" if wrong else "yes"


def _question(item: Item, snippets: list[Made]) -> dict:
    return {
        "body": item.body,
        "documents": list(dict.fromkeys(made.document for made in snippets)),
        "id": item.id,
        "type": item.type,
        "snippets": [
            {
                "offsetInBeginSection": made.begin,
                "offsetInEndSection": made.begin + len(made.text),
                "text": made.text,
                "beginSection": made.section,
                "endSection": made.section,
                "document": made.document,
            }
            for made in snippets
        ],
    }


def _golden(item: Item) -> dict:
    rng = Random(f"ideal|{item.fact.id}")
    question = _question(item, [*item.snippets, *item.extra])
    question["ideal_answer"] = [sentence("<so1>.", item, rng)]
    if item.type != "summary":
        question["exact_answer"] = item.gold
    return question
