"""Intervals, tests for pairs of runs, and the two sources of spread."""

import math
import subprocess
import sys
import time

import numpy as np
import pytest

from helpers.config import InputError
from helpers.scoring import uncertainty
from helpers.scoring.metrics import question_values


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


def brute_force(hits, n, level=0.95):
    """Clopper and Pearson's limits by bisection on the binomial sums themselves."""

    def at_least(k, p):
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))

    def solve(function, target):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if function(middle) < target else (low, middle)
        return low

    tail = (1 - level) / 2
    lower = solve(lambda p: at_least(hits, p), tail) if hits else 0.0
    upper = solve(lambda p: at_least(hits + 1, p), 1 - tail) if hits < n else 1.0
    return lower, upper


@pytest.mark.parametrize(
    ("hits", "n"), [(0, 34), (34, 34), (1, 25), (22, 34), (51, 162), (78, 162), (0, 1), (1, 1)]
)
def test_exact_interval_solves_the_binomial_sums(hits, n):
    assert uncertainty.exact_interval(hits, n) == pytest.approx(brute_force(hits, n), abs=1e-9)
    assert uncertainty.exact_interval(hits, n, 0.5) == pytest.approx(
        brute_force(hits, n, 0.5), abs=1e-9
    )


def test_exact_interval_knows_the_rule_of_three_and_refuses_nonsense():
    assert uncertainty.exact_interval(0, 100)[1] == pytest.approx(1 - 0.025 ** (1 / 100))
    for hits, n in ((3, 2), (-1, 5), (0, 0)):
        with pytest.raises(ValueError, match="hits of"):
            uncertainty.exact_interval(hits, n)


def exact_permutation_p(first, second):
    differences = np.subtract(second, first)
    signs = np.array(np.meshgrid(*[[1, -1]] * len(differences))).reshape(len(differences), -1)
    sums = differences @ signs
    return float(np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-12))


@pytest.mark.parametrize("seed", range(4))
def test_permutation_test_agrees_with_every_exchange(seed):
    rng = np.random.default_rng(seed)
    ranks = rng.integers(0, 6, size=(2, 12))
    first, second = (question_values(row)["MRR"] for row in ranks.tolist())
    expected = exact_permutation_p(first, second)
    found = uncertainty.permutation_test(first, second)  # at most 2 ** 12 swaps: all are tried
    assert found == pytest.approx(expected, abs=1e-12)
    assert uncertainty.permutation_test(second, first) == found
    drawn = uncertainty.permutation_test(first, second, resamples=1000)
    error = math.sqrt(expected * (1 - expected) / 1000)
    assert drawn == pytest.approx(expected, abs=4 * error + 0.001)
    assert uncertainty.permutation_test(first, second, resamples=1000) == drawn  # the same seed


def test_permutation_test_of_hits_is_the_sign_test():
    # 9 questions only the second gets right, 1 only the first: two-sided sign test 22 / 1024.
    first, second = [1.0] + [0.0] * 9 + [1.0] * 50, [0.0] + [1.0] * 9 + [1.0] * 50
    assert uncertainty.permutation_test(first, second) == 22 / 1024
    assert uncertainty.permutation_test(first, second, resamples=1000) == pytest.approx(
        22 / 1024, abs=0.02
    )


def test_sums_that_differ_only_by_rounding_count_as_equal():
    first, second = [0.0, 0.0, 0.0, 1.0], [1 / 3, 1 / 3, 1 / 3, 0.0]
    for resamples in (10_000, 9):
        assert uncertainty.permutation_test(first, second, resamples=resamples) == 1.0


def test_one_changed_question_proves_nothing():
    assert uncertainty.permutation_test([0.0, 1.0], [1.0, 1.0]) == 1.0


def test_equal_systems_differ_by_nothing():
    hits = [1.0, 0.0, 1.0]
    change = uncertainty.paired_difference(hits, hits)
    assert (change.mean, change.low, change.high, change.p) == (0, 0, 0, 1.0)


def test_pairing_takes_out_what_both_find_hard():
    rng = np.random.default_rng(1)
    first = (rng.random(200) < 0.5).astype(float)
    second = first.copy()
    second[np.flatnonzero(first == 0)[:12]] = 1  # better on 12 questions, worse on none
    change = uncertainty.paired_difference(first, second, ["a"] * 100 + ["b"] * 100)
    assert change.mean == pytest.approx(0.06) and 0 < change.low < 0.06 < change.high
    assert change.p < 0.001
    alone = uncertainty.bootstrap_interval(first)
    assert alone[1] - alone[0] > 2 * (change.high - change.low)
    with pytest.raises(ValueError, match="not the same questions"):
        uncertainty.paired_difference(first, second[:-1])


def test_spread_over_seeds():
    assert uncertainty.seed_spread([0.2, 0.3, 0.4]) == pytest.approx((0.3, 0.1))
    mean, sd = uncertainty.seed_spread([0.2])
    assert mean == 0.2 and math.isnan(sd)


def test_seeds_and_questions_are_separate_sources():
    strata = {f"q{k}": "ab"[k % 2] for k in range(40)}
    half = {q: int(k < 20) for k, q in enumerate(strata)}
    still = uncertainty.sources([half, half, half], strata)
    assert still["SAcc"].seeds == (0.5, 0.5, 0.5) and still["SAcc"].seed_sd == 0
    assert still["SAcc"].question_low < 0.5 < still["SAcc"].question_high
    # Seeds that disagree on everything, and each right on half: questions hardly matter then.
    other = {q: 1 - rank for q, rank in half.items()}
    moving = uncertainty.sources([half, other], strata)
    assert moving["SAcc"].question_low == moving["SAcc"].question_high == 0.5
    more = dict.fromkeys(strata, 1)
    assert uncertainty.sources([half, more], strata)["LAcc"].seed_sd == pytest.approx(0.5 / 2**0.5)
    with pytest.raises(InputError, match="the same questions"):
        uncertainty.sources([half, dict(list(half.items())[:-1])], strata)


def test_ten_thousand_resamples_take_well_under_a_second():
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, 6, size=(2, 162)).tolist()
    first, second = (question_values(row)["MRR"] for row in ranks)
    strata = np.repeat(list("abcde"), [39, 25, 29, 34, 35])
    uncertainty.paired_difference(first, second, strata, resamples=10)  # imports scipy.stats
    started = time.perf_counter()
    uncertainty.paired_difference(first, second, strata, resamples=10_000)
    assert time.perf_counter() - started < 1


def test_questions_to_tell_find_the_difference_four_times_out_of_five():
    rng = np.random.default_rng(0)
    n = uncertainty.questions_to_tell(0.46, 0.48)
    right = rng.binomial(n, [[0.46], [0.48]], (2, 20_000)) / n
    error = np.sqrt((right * (1 - right)).sum(axis=0) / n)
    assert (abs(right[1] - right[0]) > 1.96 * error).mean() == pytest.approx(0.8, abs=0.02)
    # On the same questions, one of the two alone right on 20% of them: 9% and 11%.
    paired = uncertainty.questions_to_tell(0.46, 0.48, 0.2)
    assert paired < n / 2
    only = rng.multinomial(paired, [0.09, 0.11, 0.8], 20_000)
    found = abs(only[:, 1] - only[:, 0]) > 1.96 * np.sqrt(only[:, 0] + only[:, 1])
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def test_importing_it_does_not_wait_for_scipy():
    code = "import sys, helpers.scoring.uncertainty; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
