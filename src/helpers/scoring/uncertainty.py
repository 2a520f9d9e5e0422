"""Measure the uncertainty of scores: intervals, paired tests and the variation over seeds.

A score varies for two reasons. A different sample of *questions* would have given a different
score; the bootstrap and the exact binomial interval estimate by how much. A different *random seed*
trains a different model on the same data; only more training runs show by how much. Neither kind of
variation includes the other, so we report them separately.

The functions take one value per question: 0 or 1 for an accuracy, the reciprocal rank for MRR.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from helpers.config import InputError
from helpers.scoring.metrics import MEASURES, question_values

# Importing ``scipy.stats`` takes up to a second, so only the two functions that use it import it.
_FEW = 64  # up to this many distinct values, drawing counts is faster than drawing questions
_CHUNK = 100  # number of resamples drawn at once when drawing questions, to limit memory use
_ALPHA, _BETA = map(statistics.NormalDist().inv_cdf, (0.975, 0.8))  # two-sided 5%, power 80%


def bootstrap_interval(
    values: Sequence[float],
    strata: Sequence | None = None,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of the mean of ``values`` [questions], resampling questions.

    ``strata`` [questions] names the batch of each question; every resample then draws as many
    questions from each batch as the data contain. Pass hits (0 or 1) for an accuracy, reciprocal
    ranks for MRR, or the differences between two systems for a paired difference.
    """
    values = _checked(values)
    labels = np.zeros(len(values)) if strata is None else np.asarray(strata)
    if labels.shape != values.shape:
        raise ValueError(f"expected one value and one stratum per question: {len(values)} values")
    rng = np.random.default_rng(seed)
    totals = np.zeros(resamples)
    for label in np.unique(labels):  # scipy's bootstrap would reject a batch with a single question
        own = values[labels == label]
        distinct, counts = np.unique(own, return_counts=True)
        if len(distinct) <= _FEW:  # for hits and ranks, the counts drawn are multinomial
            totals += rng.multinomial(len(own), counts / len(own), size=resamples) @ distinct
            continue
        for start in range(0, resamples, _CHUNK):
            rows = totals[start : start + _CHUNK]
            rows += own[rng.integers(len(own), size=(len(rows), len(own)))].sum(1)
    low, high = np.quantile(totals / len(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"expected one value per question, got an array of shape {values.shape}")
    return values


def exact_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of the proportion ``hits / n`` (Biometrika 26, 1934).

    It covers the true proportion in at least ``level`` of all samples. It also works for 0 hits and
    n hits, for which all bootstrap resamples are identical.
    """
    from scipy.stats import binomtest

    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} hits of {n} questions are impossible")
    low, high = binomtest(hits, n).proportion_ci(level, method="exact")
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """The second system's mean minus the first's on the same questions (-1 to 1)."""

    mean: float
    low: float
    high: float
    p: float  # two-sided, from the paired permutation test


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    strata: Sequence | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Compare two systems by question; return the mean difference, its 95% interval and p value.

    Each resample keeps both systems' values for a question together, so a question that is hard for
    both does not count as a difference.
    """
    first, second = _checked(first), _checked(second)
    if first.shape != second.shape:
        raise ValueError(f"not the same questions: {len(first)} and {len(second)} values")
    differences = second - first
    low, high = bootstrap_interval(differences, strata, resamples=resamples, seed=seed)
    p = permutation_test(first, second, resamples=resamples, seed=seed)
    return Difference(float(differences.mean()), low, high, p)


def permutation_test(
    first: Sequence[float], second: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> float:
    """Return the two-sided p value of the paired permutation test for a difference of means.

    If the two systems were equally good, we could swap their values for any question. The p value
    is the proportion of all possible swaps that give a difference at least as large as the observed
    one. If more than ``resamples`` swaps are possible, we estimate the p value from that many
    random swaps and the observed values (Phipson and Smyth 2010), so it is never 0.
    """
    from scipy.stats import permutation_test as sign_flips

    def size(differences: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(differences.sum(axis=axis)).round(9)  # equal sums may differ in rounding

    differences = _checked(second) - _checked(first)
    changed = differences[differences != 0]
    if len(changed) < 2:  # a single swap changes only the sign, which a two-sided test ignores
        return 1.0
    test = sign_flips(
        (changed,), size, permutation_type="samples", alternative="greater", vectorized=True,
        n_resamples=resamples, batch=1000, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(test.pvalue)


def seed_spread(means: Sequence[float]) -> tuple[float, float]:
    """Return the mean and sample standard deviation over seeds; the latter is NaN for one seed."""
    return statistics.fmean(means), statistics.stdev(means) if len(means) > 1 else math.nan


def questions_to_tell(first: float, second: float, disagree: float | None = None) -> int:
    """Return the number of questions per system needed to detect a difference in accuracy.

    A two-sided test at the 5% level then detects the difference in 80% of cases. With
    ``disagree``, both systems answer the same questions, and exactly one of them is correct on that
    proportion of the questions (McNemar's test; Connor, Biometrics 43, 1987). Without it, the two
    systems answer different questions.
    """
    change = abs(second - first)
    if disagree is None:
        spread = first * (1 - first) + second * (1 - second)
        return math.ceil((_ALPHA + _BETA) ** 2 * spread / change**2)
    spread = _ALPHA * math.sqrt(disagree) + _BETA * math.sqrt(disagree - change**2)
    return math.ceil((spread / change) ** 2)


@dataclass(frozen=True)
class Sources:
    """The sources of uncertainty of one measure, on a scale from 0 to 1."""

    seeds: tuple[float, ...]  # one score per seed
    mean: float
    seed_sd: float  # standard deviation over seeds; NaN for one seed
    question_low: float  # interval of the mean over seeds, from resampled questions
    question_high: float


def sources(
    runs: Sequence[Mapping[str, int]], strata: Mapping[str, str] | None = None
) -> dict[str, Sources]:
    """Map each measure to its ``Sources``, which separate the effects of seeds and questions.

    ``runs`` has one mapping per seed, from question id to the rank of the first correct answer. All
    runs have the same questions. ``strata`` maps question ids to batches.
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
