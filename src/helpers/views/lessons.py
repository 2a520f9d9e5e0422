"""Instant checks of the functions that participants write in the notebooks.

Each check calls a participant's function and the package's with the same arguments, first with
given ones that cover the difficult cases and then with random ones. If all results agree, it prints
one line. Otherwise, it raises ``NotYet`` with the first case that differs. Random cases always come
from the same seed, so that a check gives the same message each time it runs.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from helpers.config import InputError
from helpers.data.spans import find_spans
from helpers.scoring import metrics

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


def check_scores(mine: Callable) -> None:
    """Check ``mine(gold, answers) -> (SAcc, MRR, LAcc)`` from notebook 05.

    Both arguments map question ids to lists of lists, as in the BioASQ files. Raises ``NotYet``
    unless the result is that of ``metrics.score_batch``. The ids of the given cases name the rule.
    """
    given = [
        ("case is ignored", [["CFTR"]], [["cftr"]]),
        ("a period counts", [["insulin"]], [["insulin."]]),
        ("spaces count", [["zinc"]], [["zinc "]]),
        ("all inner lists of synonyms count", [["TNF"], ["TNF-α", "cachectin"]], [["Cachectin"]]),
        ("only the first string of an inner list counts", [["zinc"]], [["iron", "zinc"]]),
        ("each inner list is one rank", [["zinc"]], [["iron", "Fe"], ["copper"], ["zinc"]]),
        ("repeated answers keep their ranks", [["zinc"]], [["iron"], ["iron"], ["zinc"]]),
        ("an empty string keeps its rank", [["zinc"]], [[""], ["zinc"]]),
        ("an empty inner list has no rank", [["zinc"]], [[], ["zinc"]]),
        ("only the first right answer counts", [["zinc"]], [["zinc"], ["iron"], ["zinc"]]),
        ("a sixth answer counts", [["zinc"]], [[str(n)] for n in range(5)] + [["zinc"]]),
        ("no answer is a wrong answer", [["zinc"]], []),
    ]  # fmt: skip
    cases = [({rule: gold}, {rule: answers}) for rule, gold, answers in given]
    cases.append(({"q1": [["zinc"]], "a question without an entry counts": [["iron"]]},
                  {"q1": [["zinc"]], "not in the golden file": [["iron"]]}))  # fmt: skip
    rng = random.Random(0)
    words = ["zinc", "Zinc", "iron", "IRON", "iron ", "copper", "TNF-α", ""]
    for _ in range(_RANDOM_CASES):
        names = [f"q{n}" for n in range(1, rng.randint(2, 6))]
        gold = {q: [rng.choices(words, k=rng.randint(1, 2))] for q in names}
        answers = {
            q: [rng.choices(words, k=rng.randint(0, 2)) for _ in range(rng.randint(1, 5))]
            for q in names
        }
        for name in rng.sample(names, rng.randint(0, len(names) - 1)):
            del answers[name]
        cases.append((gold, answers))
    compare(mine, _scores, cases)


def _scores(gold: dict, answers: dict) -> tuple[float, float, float]:
    pooled = {name: [text for group in groups for text in group] for name, groups in gold.items()}
    score = metrics.score_batch("", pooled, answers)
    return score.sacc, score.mrr, score.lacc


PROVED, POSSIBLE, REFUTED = "proved", "possible", "refuted"
_ABOUT_THE_CARD = (  # in the order of notebook 05: the verdict on each statement, and why
    (PROVED, "MRR cannot exceed LAcc"),
    (REFUTED, "103 of 162 prints as 63.58, and 104 of 162 prints as 64.20"),
    (POSSIBLE, "this rule can give 63.88, but also every other figure from 60.00 to 68.00"),
    (POSSIBLE, "this rule can give 63.88, but also nearly every other figure"),
    (POSSIBLE, "it is only true if the two-decimal rule is true and 7B4 has 28 right answers"),
    (POSSIBLE, "92 of 144 is 63.888…, which gives 63.88 if it is truncated"),
    (PROVED, "NVIDIA's notebook prints all digits of the official program, and only 28/34 fits"),
)  # fmt: skip


def check_card(mine: Sequence[str]) -> None:
    """Check a participant's verdicts on the seven statements about the model card in notebook 05.

    Each is "proved", "possible" or "refuted". Raises ``NotYet`` for the first verdict that differs
    from ours, with the reason.
    """
    if len(mine) != len(_ABOUT_THE_CARD):
        raise NotYet(f"{len(_ABOUT_THE_CARD)} verdicts are needed, but there are {len(mine)}")
    for number, (found, (right, why)) in enumerate(zip(mine, _ABOUT_THE_CARD, strict=True), 1):
        if found not in (PROVED, POSSIBLE, REFUTED):
            raise NotYet(
                f"statement {number}: use {PROVED}, {POSSIBLE} or {REFUTED}, not {found!r}"
            )
        if found != right:
            raise NotYet(f"statement {number} is {right}, not {found}: {why}")
    print(f"All {len(mine)} verdicts agree with ours.")


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
