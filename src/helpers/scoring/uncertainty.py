"""How sure a score is: intervals over questions, tests for pairs of runs, spread over seeds.

Two things move a score. Another set of *questions* of the same kind would have given another one:
that is what resampling questions shows, and what the exact binomial interval computes. Another
*seed* trains another model on the same data: only training again shows it. Neither contains the
other, so they are kept apart.

Values are one number a question: 0 or 1 for an accuracy, the reciprocal rank for MRR. Everything
is drawn from counts of distinct values, so 10,000 resamples take milliseconds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, ndtri

from helpers.config import InputError

MEASURES = ("SAcc", "MRR", "LAcc")
_FEW = 64  # distinct values up to which counting beats drawing
_CHUNK = 100  # resamples drawn at once, so that memory stays small


def question_values(ranks: Sequence[int]) -> dict[str, list[float]]:
    """Each measure's value for each question, from the rank of its first right answer (0: none)."""
    return {
        "SAcc": [float(rank == 1) for rank in ranks],
        "MRR": [1 / rank if rank else 0.0 for rank in ranks],
        "LAcc": [float(rank > 0) for rank in ranks],
    }


def bootstrap_interval(
    values: Sequence[float],
    strata: Sequence | None = None,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` [questions] under resampling of questions.

    ``strata`` [questions] names each question's batch: every resample then holds as many questions
    of each batch as the data. Hits (0 or 1) give the interval of an accuracy, reciprocal ranks
    that of MRR, differences between two systems on the same questions that of a paired difference.

    Drawing n questions with replacement and counting how often each distinct value came up is one
    multinomial draw, so for the few values that hits and ranks have the cost does not grow with
    the questions. Where there are many, as of F1, questions are drawn.
    """
    means = _resampled_means(values, strata, resamples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def exact_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of the share ``hits`` of ``n`` (Biometrika 26, 1934).

    The shares p under which so few, and so many, hits each have a chance of at least
    (1 - level) / 2. It covers the true share in at least ``level`` of all samples, whatever it is,
    and stays honest where the bootstrap collapses: at 0 and at n hits.
    """
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} hits of {n} questions")
    tail = (1 - level) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return low, high


@dataclass(frozen=True)
class Difference:
    """The second system's mean less the first's on the same questions, fractions of 1."""

    mean: float
    low: float
    high: float
    p: float  # of the paired permutation test, two-sided


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    strata: Sequence | None = None,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Compare two systems question by question: mean difference, its interval and a p value.

    The interval resamples questions, each with both systems' values, so that a question both find
    hard does not count as a difference.
    """
    first, second = _values(first), _values(second)
    if first.shape != second.shape:
        raise ValueError(f"not the same questions: {len(first)} and {len(second)} values")
    differences = second - first
    low, high = bootstrap_interval(differences, strata, level=level, resamples=resamples, seed=seed)
    p = permutation_test(first, second, resamples=resamples, seed=seed)
    return Difference(float(differences.mean()), low, high, p)


def permutation_test(
    first: Sequence[float], second: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p value of the paired permutation test for a difference of means.

    If the two systems were alike, each question's two values could as well be exchanged. The p
    value is the share of random exchanges with a difference at least as large as the one found,
    that one counted in (Phipson and Smyth 2010), so it is never 0. Only the number of plus signs
    among equal absolute differences matters, which is one binomial draw for each of them.
    """
    differences = _values(second) - _values(first)
    sizes, counts = np.unique(np.abs(differences).round(12), return_counts=True)
    rng = np.random.default_rng(seed)
    plus = rng.binomial(counts, 0.5, size=(resamples, len(counts)))
    sums = (2 * plus - counts) @ sizes
    extreme = np.abs(sums) >= abs(differences.sum()) - 1e-9
    return float((1 + extreme.sum()) / (1 + resamples))


def seed_spread(means: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of one score a seed; the latter is NaN for one seed."""
    return statistics.fmean(means), statistics.stdev(means) if len(means) > 1 else math.nan


def questions_to_tell(
    first: float, second: float, disagree: float | None = None, *,
    level: float = 0.95, power: float = 0.8,
) -> int:  # fmt: skip
    """Questions needed for a test to find the difference between two accuracies, per system.

    ``power`` is the chance that a two-sided test at 1 - ``level`` finds it. With ``disagree``, both
    systems answer the same questions and exactly one of them is right on that share (McNemar's
    test; Connor, Biometrics 43, 1987); without it, each answers questions of its own.
    """
    alpha, beta = ndtri((1 + level) / 2), ndtri(power)
    change = abs(second - first)
    if disagree is None:
        spread = first * (1 - first) + second * (1 - second)
        return math.ceil((alpha + beta) ** 2 * spread / change**2)
    spread = alpha * math.sqrt(disagree) + beta * math.sqrt(disagree - change**2)
    return math.ceil((spread / change) ** 2)


def seeds_to_tell(change: float, seed_sd: float, *, level: float = 0.95, power: float = 0.8) -> int:
    """Seeds needed per system to find a difference ``change`` of mean scores, questions fixed.

    ``seed_sd`` is the standard deviation over seeds of each system, taken as known.
    """
    needed = (ndtri((1 + level) / 2) + ndtri(power)) * seed_sd / change
    return math.ceil(2 * needed**2)


@dataclass(frozen=True)
class Sources:
    """What moves one measure, fractions of 1. ``seeds`` is one score a seed."""

    seeds: tuple[float, ...]
    mean: float
    seed_sd: float  # standard deviation over seeds; NaN for one seed
    question_low: float  # interval of the mean over seeds, questions resampled
    question_high: float


def sources(
    runs: Sequence[Mapping[str, int]], strata: Mapping[str, str] | None = None
) -> dict[str, Sources]:
    """Seeds and questions as separate sources: one ``Sources`` a measure.

    ``runs`` holds, for each seed, question id -> rank of the first right answer; all runs must be
    on the same questions. Resampling the questions' means over seeds leaves the seeds as they
    are; the standard deviation over seeds leaves the questions as they are.
    """
    if not runs or any(set(run) != set(runs[0]) for run in runs):
        raise InputError("seeds: the runs do not count the same questions; use missing=wrong")
    ids = list(runs[0])
    labels = None if strata is None else [strata[name] for name in ids]
    table = [question_values([run[name] for name in ids]) for run in runs]
    found = {}
    for measure in MEASURES:
        values = np.array([row[measure] for row in table])  # [seeds, questions]
        means = values.mean(axis=1).tolist()
        interval = bootstrap_interval(values.mean(axis=0), labels)
        found[measure] = Sources(tuple(means), *seed_spread(means), *interval)
    return found


def _values(values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"one value a question; got an array of shape {values.shape}")
    return values


def _resampled_means(values, strata, resamples: int, seed: int) -> np.ndarray:
    values = _values(values)
    labels = np.zeros(len(values)) if strata is None else np.asarray(strata)
    if labels.shape != values.shape:
        raise ValueError(f"one value and one stratum a question; got {values.shape, labels.shape}")
    rng = np.random.default_rng(seed)
    totals = np.zeros(resamples)
    for label in np.unique(labels):
        own = values[labels == label]
        distinct, counts = np.unique(own, return_counts=True)
        if len(distinct) <= _FEW:
            draws = rng.multinomial(counts.sum(), counts / counts.sum(), size=resamples)
            totals += draws @ distinct
            continue
        for low in range(0, resamples, _CHUNK):
            rows = totals[low : low + _CHUNK]
            rows += own[rng.integers(len(own), size=(len(rows), len(own)))].sum(1)
    return totals / len(values)
