"""Which counts of right answers can a printed score come from?

All functions take figures as strings, because their digits show how they were rounded. The results
need no model and no data: they follow from the number of questions in each batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import reduce

import numpy as np

AVERAGINGS = ("weighted", "macro")  # weights: the number of questions, or the same for each batch


def in_order(figures: Mapping[str, str]) -> bool:
    """Return whether SAcc ≤ MRR ≤ LAcc, which holds for every ranking of every system."""
    return Fraction(figures["SAcc"]) <= Fraction(figures["MRR"]) <= Fraction(figures["LAcc"])


def counts_that_print_as(digits: str, n: int, unit: int = 100) -> list[int]:
    """Return every k from 0 to n for which k/n, rounded or truncated, prints as ``digits``.

    "48" allows 78 of 162 (48.148); "48.00" allows no k. An empty list proves that the figure is not
    a proportion of n questions, although it may be a mean of rounded proportions. A non-empty
    list proves nothing.
    """
    printed = Fraction(digits)
    # The official evaluator prints all digits of a double; the last ones may be rounding errors.
    step = max(Fraction(1, 10 ** len(digits.partition(".")[2])), Fraction(unit, 2**53))
    shares = ((k, Fraction(k * unit, n)) for k in range(n + 1))
    return [k for k, share in shares if -step / 2 <= share - printed < step]


class Averages:
    """All averages of the accuracies of several batches, under one rule of rounding and averaging.

    There is one average for each distribution of right answers over the batches: 39 million for
    the five batches of 7b. We do not list them all. We list the sums of the last two batches and
    the sums of the other batches. For each sum of the last two, we look up which of the other sums
    complete it (meet in the middle). All sums are exact integers.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        averaging: str = "weighted",
        decimals: int | None = 2,
        known: Mapping[int, int] | None = None,
    ):
        """Set the rounding and averaging rule.

        Args:
            sizes: the number of questions in each batch.
            averaging: one of ``AVERAGINGS``.
            decimals: how many decimals of each batch's accuracy, as a fraction of 1 (0.65 has
                two), are kept before averaging, or None if the accuracy is not rounded.
            known: maps the position of a batch to its number of right answers. All other batches
                can have any number.
        """
        if averaging not in AVERAGINGS:
            raise ValueError(f"averaging: {averaging!r} is not one of {', '.join(AVERAGINGS)}")
        counts = [range(n + 1) for n in sizes]
        for place, count in (known or {}).items():
            counts[place] = range(count, count + 1)
        parts = []  # per batch, its contribution to the average (in percent) for each count
        for n, possible in zip(sizes, counts, strict=True):
            weight = Fraction(n, sum(sizes)) if averaging == "weighted" else Fraction(1, len(sizes))
            shares = (Fraction(k, n) for k in possible)
            rounded = (x if decimals is None else round(x, decimals) for x in shares)
            parts.append([100 * weight * share for share in rounded])
        self._unit = math.lcm(*(share.denominator for part in parts for share in part))
        sums = [np.array([int(x * self._unit) for x in part], dtype=np.int64) for part in parts]
        rights = [np.array(possible) for possible in counts]
        order = np.argsort(first := _all_sums(sums[:-2]))
        self._first, self._first_right = first[order], _all_sums(rights[:-2])[order]
        self._last, self._last_right = _all_sums(sums[-2:]), _all_sums(rights[-2:])
        self._splits = reduce(np.convolve, [np.ones(len(c), dtype=np.int64) for c in counts])
        self._fewest = sum(possible[0] for possible in counts)

    def splits(self, right: int) -> int:
        """Return how many distributions have ``right`` right answers in total."""
        place = right - self._fewest
        return int(self._splits[place]) if 0 <= place < len(self._splits) else 0

    def ways(self, figure: str) -> dict[int, int]:
        """Map totals of right answers to the number of distributions that give ``figure``.

        ``figure`` is a percentage such as "63.88". Totals with no such distribution are left out.
        """
        starts, ends = self._ranges([figure])
        totals = np.concatenate(
            [
                self._first_right[start:end] + right
                for start, end, right in zip(starts[0], ends[0], self._last_right, strict=True)
            ]
        )
        found, times = np.unique(totals, return_counts=True)
        return dict(zip(found.tolist(), times.tolist(), strict=True))

    def possible(self, figures: Sequence[str]) -> list[bool]:
        """Return for each figure whether at least one distribution gives it when printed."""
        starts, ends = self._ranges(figures)
        return (ends > starts).any(axis=1).tolist()

    def _ranges(self, figures: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ranges of ``_first`` that complete each last sum: [figures, last sums]."""
        low, high = [], []
        for figure in figures:
            half = Fraction(1, 2 * 10 ** len(figure.partition(".")[2]))
            low.append(math.ceil((Fraction(figure) - half) * self._unit))
            high.append(math.ceil((Fraction(figure) + half) * self._unit))
        bounds = (np.array(bound)[:, None] - self._last for bound in (low, high))
        starts, ends = (np.searchsorted(self._first, bound) for bound in bounds)
        return starts, ends


def _all_sums(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Return every sum of one element per part, as one array."""
    return reduce(
        lambda sums, part: np.add.outer(sums, part).ravel(), parts, np.zeros(1, dtype=np.int64)
    )
