"""The kinds of questions in BioASQ-mini, most of which cause a certain kind of error."""

from __future__ import annotations

import re
from random import Random

from bioasq_mini.sentences import Item, capital, short_form
from helpers.data.spans import plain

# The number of test questions and the share of training questions of each kind. The README of
# mini_data describes the kinds.
KINDS = {
    "plural": (8, 0.01),  # the snippets contain the gold answer only in the plural
    "variant": (7, 0.03),  # the snippets spell the gold answer differently
    "synonym": (8, 0.03),  # the snippets use a synonym that the gold answer lacks
    "abbreviation": (7, 0.04),  # the gold answer is only the short form of "long form (short form)"
    "dressed": (14, 0.09),  # the gold answer contains an additional word, such as "gene"
    "off-topic": (7, 0.02),  # no snippet contains any candidate of the right type
    "no-snippet": (8, 0.03),  # no snippet contains the answer, only distractors
    "sentence": (6, 0.02),  # the gold answer is a sentence
    "spaces": (6, 0.03),  # the only gold answer has extra spaces
    "vote": (12, 0.05),  # one snippet contains the answer, and more snippets do not
}
_COUNTABLE = r"(receptor|channel|transporter|kinase|mosquito|tick|flea|bug|mite)$"


def suits(kind: str, item: Item) -> bool:
    """Check whether a question can be of this kind."""
    if len(item.fact.entities) > 1:
        return kind in ("off-topic", "no-snippet", "vote")
    main = item.fact.entities[0][0]
    if kind == "plural":
        return bool(re.search(_COUNTABLE, main))
    if kind == "dressed":
        return "dress" in item.relation
    if kind in ("variant", "synonym"):
        return any(_unlike(item, kind))
    if kind == "abbreviation":
        return bool(short_form(item.fact.entities[0]))
    return True


def set_kind(kind: str, item: Item) -> None:
    """Set the kind, the gold answer if it differs from the fact, and how snippets write it."""
    item.kind = kind
    names = item.fact.entities[0]
    rng = Random(f"gold|{item.id}")
    if kind == "plural":
        item.gold, item.written = [[names[0]]], (_plural_of(names[0]),)
    elif kind in ("variant", "synonym"):
        gold, *item.written = next(filter(None, _unlike(item, kind)))
        item.gold, item.written = [[gold]], tuple(item.written)
    elif kind == "abbreviation":
        short = short_form(names)
        item.gold, item.written = [[short]], (f"{names[0]} ({short})",)
    elif kind == "dressed":
        item.gold, item.written = [[item.relation["dress"].replace("{o}", n) for n in names]], names
    elif kind == "sentence":
        clause = rng.choice(item.relation["so"])
        text = clause.replace("{s}|", item.fact.subject).replace("{o}", names[0])
        text = re.sub(r"\{[so]:([^/}]*)/[^}]*\}", r"\1", text)
        item.gold = [[capital(text) + "."]]
    elif kind == "spaces":
        forms = [names[0] + " ", " " + names[0], names[0].replace(" ", "  ", 1)]
        item.gold = [[rng.choice(forms[: 3 if " " in names[0] else 2])]]
        item.written = (names[0],)


def _unlike(item: Item, kind: str) -> list[tuple[str, ...]]:
    """Return (gold, other names that do not contain it) for each possible gold answer."""
    names = item.fact.entities[0]
    found = []
    for gold in names:
        others = [
            name
            for name in names
            if gold.lower() not in name.lower()
            and (plain(name) == plain(gold)) == (kind == "variant")
        ]
        if others:
            found.append((gold, *others))
    return found


def _plural_of(name: str) -> str:
    return name + ("es" if name.endswith("o") else "s")
