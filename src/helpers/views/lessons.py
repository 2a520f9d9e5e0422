"""Instant checks of the functions that participants write in the notebooks.

Each check calls a participant's function and the package's with the same arguments, first with
given ones that cover the difficult cases and then with random ones. If all results agree, it prints
one line. Otherwise, it raises ``NotYet`` with the first case that differs. Random cases always come
from the same seed, so that a check gives the same message each time it runs.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable

import numpy as np

from helpers.config import InputError
from helpers.data.spans import find_spans
from helpers.data.squad import Example
from helpers.model.decoding import Candidate, best_spans, rank_answers
from helpers.model.features import Windows

_RANDOM_CASES = 200


class NotYet(InputError):
    """A participant's function does not do what the lesson asks for yet."""

    def _render_traceback_(self) -> list[str]:  # IPython calls this instead of its own renderer
        return [f"Not yet: {self}"]


def check_find_spans(mine: Callable) -> None:
    """Check ``mine(context, synonyms) -> [(start, end), ...]`` from notebook 02.

    Raises ``NotYet`` unless it returns the offsets that ``spans.find_spans`` returns.
    """
    given = [
        ("TNF and TNF-alpha", ["TNF"]),
        ("Mutations of CAT lower catalase activity.", ["cat"]),
        ("The p53 gene is mutated.", ["p5"]),
        ("interferon (IFN)", ["IFN", "interferon"]),
        ("No answer here.", ["insulin"]),
    ]
    rng = random.Random(0)
    words = ["tnf", "TNF", "TNFs", "il-6", "IL", "6", "(IL-6)", "alpha", "alphas", "and"]
    for _ in range(_RANDOM_CASES):
        context = " ".join(rng.choices(words, k=rng.randint(1, 8)))
        given.append((context, rng.sample(["TNF", "il-6", "alpha", "IL"], rng.randint(1, 3))))
    compare(
        mine,
        lambda context, terms: [(span.start, span.end) for span in find_spans(context, terms)],
        given,
    )


def check_best_spans(mine: Callable) -> None:
    """Check ``mine(start, end, size, longest) -> [(first, last), ...]`` from notebook 04.

    The first two arguments hold one logit per token of a window without a question, ``[tokens]``.
    Raises ``NotYet`` unless the spans are those of ``decoding.best_spans``, the best one first.
    """
    given = [
        ([0.5, 1.0, 0.0], [0.0, 3.0, 1.0], 2, 3),
        ([0.0, 5.0], [4.0, 1.0], 2, 2),  # the best end is before the best start
        ([5.0, 1.0, 0.0], [0.5, 2.0, 4.0], 3, 2),  # the best start and the best end are too far
        ([3.0, 1.0], [1.0, 3.5], 1, 2),  # one best start and one best end
        ([0.0, 9.0], [9.0, 0.0], 1, 2),  # no span is left
    ]
    rng = np.random.default_rng(0)
    for _ in range(_RANDOM_CASES):
        tokens = int(rng.integers(1, 12))
        logits = rng.normal(size=(2, tokens))
        given.append((*logits, int(rng.integers(1, 7)), int(rng.integers(1, 6))))
    compare(mine, _top_spans, [(np.array(a), np.array(b), *rest) for a, b, *rest in given])


def _top_spans(start: np.ndarray, end: np.ndarray, size: int, longest: int) -> list:
    n = len(start)
    none, inside = np.zeros(n, np.int64), np.ones(n, bool)
    window = Windows(
        ids=none, token_types=none, positions=none, chars=none, token=none, can_start=inside,
        literal=inside, unique=inside, bounds=np.array([0, n]), pair=none[:1], start=none[:1],
        end=none[:1], detokenizers=(),
    )  # fmt: skip
    _, first, last = best_spans(window, np.stack([start, end], axis=1), size, longest)
    order = np.argsort(-(start[first] + end[last]), kind="stable")[:size]
    return list(zip(first[order].tolist(), last[order].tolist(), strict=True))


def check_merge(mine: Callable) -> None:
    """Check ``mine(nbests, merge) -> [(answer, score), ...]`` from notebook 04.

    ``nbests`` has one list of (text, share) per snippet, the best one first. Raises ``NotYet``
    unless the result is that of ``decoding.rank_answers``.
    """
    votes = [[("iron", 0.5), ("zinc", 0.25)], [("iron", 0.5)], [("zinc", 0.625)]]
    given = [
        (votes, "sum"),
        (votes, "max"),
        ([[("zinc", 0.3)], [("Zinc", 0.6)]], "sum"),  # case is ignored; spelled as in the best one
        ([[("TNF", 0.5), ("tnf", 0.2)]], "sum"),  # twice in one list
        ([[(letter, 0.3 - n / 50) for n, letter in enumerate("abcdefg")]], "sum"),  # only five
        ([[], [("zinc", 0.7)]], "max"),
        ([], "sum"),
    ]
    rng = random.Random(0)
    words = ["zinc", "Zinc", "ZINC", "iron", "Iron", "copper", "TNF", "tnf", "iodine", "p53"]
    for n in range(_RANDOM_CASES):
        lists = [rng.sample(words, rng.randint(0, 6)) for _ in range(rng.randint(1, 4))]
        nbests = [[(text, rng.random()) for text in texts] for texts in lists]
        nbests = [sorted(nbest, key=lambda item: -item[1]) for nbest in nbests]
        given.append((nbests, ("sum", "max")[n % 2]))
    compare(mine, _merged, given)


def _merged(nbests: list, merge: str) -> list:
    examples = [Example(f"q_{n:03d}", "q", "", "") for n in range(len(nbests))]
    lists = [[Candidate(text, 0, 0, 0.0, 0.0, p) for text, p in nbest] for nbest in nbests]
    return rank_answers(examples, lists, merge=merge).get("q", [])


def compare(mine: Callable, right: Callable, cases: Iterable[tuple]) -> None:
    """Call both functions with each tuple of arguments, and compare the results.

    ``mine`` receives copies, because it may change its arguments. Floating-point numbers may differ
    by 1e-6. Raises ``NotYet`` if the results differ or if ``mine`` raises an exception.
    """
    cases = list(cases)
    for arguments in cases:
        call = f"{mine.__name__}({', '.join(map(_short, arguments))})"
        try:
            found = mine(*copy.deepcopy(arguments))
        except Exception as error:
            raise NotYet(f"{call} raised {type(error).__name__}: {error}") from error
        expected = right(*arguments)
        if found is None:
            raise NotYet(f"{call} returned nothing; does your function end with `return`?")
        if not _equal(found, expected):
            raise NotYet(f"{call} must return {_short(expected)}, but returned {_short(found)}")
    print(f"{mine.__name__} agrees with the package in all {len(cases)} cases.")


def _equal(found, expected) -> bool:
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(found, (list, tuple))
            and len(found) == len(expected)
            and all(map(_equal, found, expected))
        )
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and list(found) == list(expected)
            and all(_equal(found[key], value) for key, value in expected.items())
        )
    if isinstance(expected, (float, np.floating)):
        return isinstance(found, (int, float, np.number)) and abs(found - expected) < 1e-6
    return bool(np.all(found == expected))


def _short(value, most: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= most else text[:most] + " …"
