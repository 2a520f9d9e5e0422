"""Which counts a printed figure can come from, against plain enumeration."""

import itertools
from collections import Counter
from fractions import Fraction

import pytest

from helpers.scoring.arithmetic import Averages, counts_that_print_as
from helpers.scoring.claims import TEST_7B, get

SIZES = list(TEST_7B.values())
FROM_60_TO_68 = [f"{60 + n / 100:.2f}" for n in range(801)]


@pytest.mark.parametrize(
    ("digits", "n", "unit", "counts"),
    [
        ("63.88", 162, 100, []),
        ("59.86", 162, 100, []),
        ("48", 162, 100, [77, 78, 79]),  # without decimals it could be: 48.15 prints as 48
        ("48.00", 162, 100, []),
        ("31.48", 162, 100, [51]),
        ("0.6470588235", 34, 1, [22]),
        ("0.8235294118", 34, 1, [28]),
        ("0.45161290322580644", 34, 1, []),
        ("0.45161290322580644", 31, 1, [14]),
        ("0.6774193548387096", 31, 1, [21]),  # cut off, not rounded: 0.67741935483870967...
        ("66.66", 3, 100, [2]),
        ("66.67", 3, 100, [2]),
        ("66.65", 3, 100, []),
        ("66.68", 3, 100, []),
        ("50", 100, 100, [50]),  # 51 does not become 50, cut off or not
        ("100", 5, 100, [5]),
        ("0", 5, 100, [0]),
    ],
)
def test_counts_that_print_as(digits, n, unit, counts):
    assert counts_that_print_as(digits, n, unit) == counts


def in_plain_python(sizes, averaging, decimals, known, figure):
    """Every distribution that prints as ``figure``, with two decimals: total -> how many."""
    found = Counter()
    for right in itertools.product(*(range(n + 1) for n in sizes)):
        if any(right[place] != count for place, count in known.items()):
            continue
        shares = [Fraction(k, n) for k, n in zip(right, sizes, strict=True)]
        shares = [s if decimals is None else round(s, decimals) for s in shares]
        weights = sizes if averaging == "weighted" else [1] * len(sizes)
        mean = sum(w * s for w, s in zip(weights, shares, strict=True)) / sum(weights)
        found[sum(right)] += (
            Fraction(figure) - Fraction(1, 200)
            <= 100 * mean
            < (Fraction(figure) + Fraction(1, 200))
        )
    return {total: count for total, count in found.items() if count}


@pytest.mark.parametrize("averaging", ["weighted", "macro"])
@pytest.mark.parametrize("decimals", [None, 1, 2, 3])
@pytest.mark.parametrize(("sizes", "known"), [([7, 5, 6, 9], {}), ([7, 5, 6, 9], {3: 4}), ([9], {}),
                                              ([4, 8], {0: 3})])  # fmt: skip
def test_the_enumeration_agrees_with_plain_python(averaging, decimals, sizes, known):
    rule = Averages(sizes, averaging, decimals, known)
    figures = ["48.00", "50.00", "63.88", "62.96", "44.44", "0.00", "100.00"]
    for figure in figures:
        ways = in_plain_python(sizes, averaging, decimals, known, figure)
        assert rule.ways(figure) == dict(sorted(ways.items())), figure
    assert rule.possible(figures) == [bool(rule.ways(figure)) for figure in figures]


def test_the_card_under_rounded_and_weighted_batches():
    for count, figure, right, ways, splits in (
        (22, "48.00", 78, 77, 20_660),
        (28, "63.88", 104, 68, 18_857),
    ):
        rule = Averages(SIZES, "weighted", 2, {3: count})
        assert rule.ways(figure) == {right: ways}
        assert rule.splits(right) == splits
        known = (range(n + 1) if place != 3 else [count] for place, n in enumerate(SIZES))
        assert sum(sum(counts) == right for counts in itertools.product(*known)) == splits
    free = Averages(SIZES)
    assert free.ways("63.88") == {103: 621, 104: 546}
    assert (free.splits(103), free.splits(104)) == (441_855, 423_180)
    assert free.ways("39.00") == {63: 7_440} and free.ways("59.86") == {97: 21_507}
    assert free.splits(-1) == free.splits(163) == 0
    assert sum(map(free.splits, range(163))) == 40 * 26 * 30 * 35 * 36


def test_the_rule_is_weak_evidence():
    fixed = Averages(SIZES, "weighted", 2, {3: 28})
    assert sum(fixed.possible(FROM_60_TO_68)) == 783
    assert all(Averages(SIZES).possible(FROM_60_TO_68))
    assert all(Averages(SIZES, "macro", None).possible(FROM_60_TO_68))


def test_an_unrounded_weighted_mean_is_a_share_of_162():
    rule = Averages(SIZES, "weighted", None)
    for figure in FROM_60_TO_68:
        assert list(rule.ways(figure)) == [
            k for k in range(163) if f"{100 * k / 162:.2f}" == figure
        ]  # fmt: skip


def test_how_weak_it_is_for_other_numbers_of_questions():
    """If 48 means 48.00, no single number of questions fits both figures of a card."""
    for key, printed, two_decimals in (("card", [108, 144], []),
                                       ("card-biobert", [142, 147, 152], [])):  # fmt: skip
        pair = [get(key).corrected[measure] for measure in ("SAcc", "LAcc")]
        for digits, expected in ((pair, printed), ([f"{pair[0]}.00", pair[1]], two_decimals)):
            fits = (n for n in range(100, 163) if all(counts_that_print_as(d, n) for d in digits))
            assert list(fits) == expected
    assert counts_that_print_as("63.88", 144) == [92]


def test_an_unknown_averaging():
    with pytest.raises(ValueError, match="averaging: 'mean' is not one of weighted, macro"):
        Averages(SIZES, "mean")
