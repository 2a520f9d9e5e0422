"""The texts of BioASQ-mini's documents, for the context setting "abstract".

For a few questions, the first document has 140 to 250 words and contains its snippets at the
specified offsets. Every other document has a brief text, which contains its snippets and a few true
statements of other facts of this relation. Like a real abstract, a brief text is longer than a
snippet and contains more wrong candidates, but it is small enough for a repository. The offsets of
snippets in such documents do not refer to the brief text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from random import Random

from bioasq_mini.facts import Fact, of_relation
from bioasq_mini.sentences import Item, Made, draft, patterns, sentence

LONG = {"train": 12, "test": 10}  # questions with a long text
STATEMENTS = 3  # maximum number of other facts that a brief text states


def document_texts(items: Iterable[Item]) -> dict[str, str]:
    """Map the URL of each document to its text, with the long texts first."""
    items = list(items)
    texts = {item.snippets[0].document: item.abstract for item in items if item.abstract}
    for item in items:
        for address in dict.fromkeys(made.document for made in [*item.snippets, *item.extra]):
            if address not in texts:
                texts[address] = _brief(item, address)
    return texts


def add_long_abstract(item: Item) -> None:
    """Write a text of 140 to 250 words for the first snippet's document, and set the offsets."""
    rng = Random(f"abstract|{item.fact.id}")
    own = _of_document(item, item.snippets[0].document)
    frame = patterns()["abstract"]
    parts = [sentence(frame["open"], item, rng), *dict.fromkeys(made.text for made in own)]
    related = list(_related(item, rng))
    for other in related * 2:  # in small relations, facts are stated twice, in different words
        if len(" ".join([*parts, frame["close"]]).split()) >= 160:
            break
        parts.append(_statement(other, rng))
    item.abstract = " ".join([*parts, frame["close"]])
    for made in own:
        made.begin, made.section = item.abstract.index(made.text), "abstract"


def _brief(item: Item, address: str) -> str:
    rng = Random(f"brief|{address}")
    others = [_statement(other, rng) for other in islice(_related(item, rng), STATEMENTS)]
    place = rng.randint(0, len(others))
    own = dict.fromkeys(made.text for made in _of_document(item, address))
    return " ".join([*others[:place], *own, *others[place:]])


def _of_document(item: Item, address: str) -> list[Made]:
    return [made for made in [*item.snippets, *item.extra] if made.document == address]


def _related(item: Item, rng: Random) -> Iterator[Item]:
    """Return questions of the same relation and side with different answers, in random order."""
    same = [f for f in of_relation(item.fact.relation) if f.side == item.fact.side]
    drafts = (draft(f) for f in rng.sample(same, len(same)) if _differs(f, item.fact))
    return (other for other in drafts if other)


def _differs(one: Fact, other: Fact) -> bool:
    return one.entities != other.entities


def _statement(item: Item, rng: Random) -> str:
    return sentence(rng.choice(("<so1>.", "<os1>.")), item, rng)
