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

SEED = 0  # of the random cases
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
    rng = random.Random(SEED)
    words = ["tnf", "TNF", "TNFs", "il-6", "IL", "6", "(IL-6)", "alpha", "alphas", "and"]
    for _ in range(_RANDOM_CASES):
        context = " ".join(rng.choices(words, k=rng.randint(1, 8)))
        given.append((context, rng.sample(["TNF", "il-6", "alpha", "IL"], rng.randint(1, 3))))
    compare(
        mine,
        lambda context, terms: [(span.start, span.end) for span in find_spans(context, terms)],
        given,
    )


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
        except NotYet:  # the function has no code yet
            raise
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
