"""Intervals, tests for pairs of runs, and the two sources of spread."""

import math

import numpy as np
import pytest

from helpers import uncertainty


def test_bootstrap_agrees_with_the_binomial():
    hits = [1.0] * 51 + [0.0] * 111  # the published BioBERT row: 51 of 162
    low, high = uncertainty.bootstrap_interval(hits)
    spread = 1.96 * math.sqrt(51 / 162 * 111 / 162 / 162)
    assert (low, high) == pytest.approx((51 / 162 - spread, 51 / 162 + spread), abs=0.008)
    assert uncertainty.bootstrap_interval(hits) == (low, high)  # the same seed, the same interval
    narrow = uncertainty.bootstrap_interval(hits, level=0.5)
    assert low < narrow[0] < 51 / 162 < narrow[1] < high


def test_bootstrap_agrees_with_plain_resampling():
    rng = np.random.default_rng(5)
    values = 1 / rng.integers(1, 6, size=60)
    batch = np.repeat(["a", "b", "c"], [10, 20, 30])
    plain = np.mean(
        np.concatenate(
            [rng.choice(values[batch == b], (20_000, (batch == b).sum())) for b in "abc"], axis=1
        ),
        axis=1,
    )
    expected = np.quantile(plain, [0.025, 0.975])
    assert uncertainty.bootstrap_interval(values, batch) == pytest.approx(expected, abs=0.005)


def test_stratified_resamples_keep_the_batches():
    # All the variation lies between the batches, so no resample can differ from the data.
    hits, batch = [1.0] * 10 + [0.0] * 30, ["a"] * 10 + ["b"] * 30
    assert uncertainty.bootstrap_interval(hits, batch) == (0.25, 0.25)
    low, high = uncertainty.bootstrap_interval(hits)
    assert low < 0.25 < high


def test_bootstrap_refuses_what_does_not_fit():
    for values, strata in (([], None), ([1, 0], ["a"]), ([[1, 0]], None)):
        with pytest.raises(ValueError, match="one value"):
            uncertainty.bootstrap_interval(values, strata)
