import json
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest

from helpers.scoring import claims, metrics
from helpers.scoring.claims import CLAIMS, counts_that_print_as, get, granularity, in_order
from helpers.views import tables

SIZES = claims.TEST_7B


def test_every_row_of_the_facts_is_there():
    percent = {
        (c.key, *(f"{100 * c.value(m):.1f}" for m in ("SAcc", "LAcc", "MRR")))
        for c in CLAIMS
        if "SAcc" in c.corrected
    }
    assert percent == {
        ("card", "48.0", "63.9", "53.9"),
        ("card-biobert", "39.0", "59.9", "47.0"),
        ("notebook", "48.0", "64.0", "54.0"),
        ("notebook-biobert", "39.0", "60.0", "47.0"),
        ("notebook-7b-4", "64.7", "82.4", "72.5"),
        ("notebook-7b-4-biobert", "45.2", "67.7", "54.0"),
        ("paper-biobert-base", "30.8", "64.1", "41.1"),
        ("paper-biobert-large", "42.8", "62.8", "50.1"),
        ("paper-345m", "46.2", "62.6", "52.5"),
        ("paper-800m", "45.2", "58.6", "50.4"),
        ("paper-1.2b", "47.4", "60.9", "52.4"),
        ("paper-345m-no-squad", "33.1", "50.4", "39.8"),
        ("paper-megatron", "38.5", "52.6", "43.7"),
        ("dmis-bert", "24.7", "39.5", "30.9"),
        ("dmis-biobert", "31.5", "45.7", "37.1"),
        ("dmis-biobert-squad", "40.1", "59.3", "48.3"),
    }
    assert get("paper-squad").value("F1") == 0.904
    assert get("paper-squad").value("SAcc") is None
    assert len({c.key for c in CLAIMS}) == len(CLAIMS) == 17


def test_rows_say_where_they_come_from():
    for claim in CLAIMS:
        assert claim.source and claim.system and claim.protocol.training, claim.key
        assert sorted(claim.printed.values()) == sorted(claim.corrected.values()), claim.key
        assert claim.reason or claim.printed == claim.corrected, claim.key
        assert claim.value("ROUGE") is None
    assert sum(SIZES.values()) == get("card").n == 162


def test_only_the_cards_break_the_order_and_the_correction_mends_it():
    broken = {c.key for c in CLAIMS if "MRR" in c.printed and not in_order(c.printed)}
    assert broken == {"card", "card-biobert"} == {c.key for c in CLAIMS if c.printed != c.corrected}
    assert all(in_order(c.corrected) for c in CLAIMS if "MRR" in c.corrected)
    assert list(get("card").printed.items()) == [
        ("SAcc", "48"),
        ("MRR", "63.88"),
        ("LAcc", "53.87"),
    ]


def test_the_notebook_is_the_card_rounded():
    for card, notebook in (("card", "notebook"), ("card-biobert", "notebook-biobert")):
        for measure in claims.MEASURES:
            assert round(get(card).value(measure), 2) == get(notebook).value(measure)


def test_corrected_rows_are_in_the_order_of_the_scores():
    for claim in CLAIMS:
        assert list(claim.corrected) in (["SAcc", "MRR", "LAcc"], ["F1"]), claim.key


def test_unknown_key():
    with pytest.raises(KeyError, match="card-biobert"):
        get("BioMegatron")


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


def test_granularity_of_the_published_rows():
    rows = {(r["claim"], r["measure"], r["n"]): r for r in granularity()}
    assert not rows["card", "LAcc", 162]["possible"]
    assert rows["card", "LAcc", 162]["exact"] == pytest.approx(103.4856)
    assert rows["card", "SAcc", 162]["exact"] == pytest.approx(77.76)
    possible = {key: row["possible"] for key, row in rows.items()}
    pooled = [
        c.key
        for c in CLAIMS
        if possible.get((c.key, "SAcc", 162)) and possible.get((c.key, "LAcc", 162))
    ]
    assert pooled == [
        "notebook", "notebook-biobert",  # two digits rule nothing out
        "paper-biobert-base", "dmis-bert", "dmis-biobert", "dmis-biobert-squad",
    ]  # fmt: skip
    for measure, k in (("SAcc", 22), ("LAcc", 28)):
        assert rows["notebook-7b-4", measure, 34]["counts"] == [k]
    assert all(Fraction(k, r["n"]) <= 1 for r in rows.values() for k in r["counts"])


@pytest.fixture(scope="module")
def notebook_05():
    """What the cells of notebook 05 on the rounded batches leave behind, and what they print."""
    path = Path(__file__).parents[2] / "notebooks" / "05_reproduce_metrics.ipynb"
    cells = {c["id"]: "".join(c["source"]) for c in json.loads(path.read_text("utf-8"))["cells"]}
    printed = []
    space = {"pd": pd, "tables": tables, "print": printed.append}
    for name in ("splits", "splits-table"):
        exec(cells[name], space)
    return space, printed


def test_the_enumeration_names_the_targets(notebook_05):
    space, _ = notebook_05
    rows = [tuple(row.values()) for row in space["rows"]]
    assert rows == [
        ("card", "SAcc", 22, "48", 78, "77 of 20,660"),
        ("card", "LAcc", 28, "63.88", 104, "68 of 18,857"),
        ("card", "LAcc", "–", "63.88", 103, "621 of 441,855"),
        ("card", "LAcc", "–", "63.88", 104, "546 of 423,180"),
        ("card-biobert", "SAcc", "–", "39", 63, "7,440 of 514,540"),
        ("card-biobert", "LAcc", "–", "59.86", 97, "21,507 of 548,614"),
    ]
    total, figure = space["cases"][22]
    assert total.shape == figure.shape == (40, 26, 30, 1, 36)
    for counts in ((0, 0, 0, 0, 0), (39, 25, 29, 0, 35), (20, 7, 13, 0, 1)):  # against plain Python
        right = [*counts[:3], 22, counts[4]]
        batches = [n * round(k / n, 2) for k, n in zip(right, SIZES.values(), strict=True)]
        assert total[counts] == sum(right)
        assert figure[counts] == round(10_000 * sum(batches) / 162)


def test_the_enumeration_says_how_weak_it_is(notebook_05):
    _, printed = notebook_05
    assert printed[0].startswith("7B4 held at 28: 783 of the 801 figures")
    assert printed[1].startswith("7B4 free: 801 of the 801 figures")
    sizes = [
        {of.split(" of ")[1] for of in line.split(": ")[1].split(", ")} for line in printed[2:]
    ]
    assert "85 of 142" in printed[5] and "92 of 144" in printed[3]
    assert not sizes[0] & sizes[1] and not sizes[2] & sizes[3]  # with two decimals, no n fits
    for key, fitting in (("card", [108, 144]), ("card-biobert", [142, 147, 152])):  # as printed
        pair = [get(key).corrected[measure] for measure in ("SAcc", "LAcc")]
        found = [n for n in range(100, 163) if all(counts_that_print_as(d, n) for d in pair)]
        assert found == fitting


def test_the_sixth_answer_of_the_exercise_counts():
    gold, wrong = {"q3": ["insulin"]}, ["Insulin.", "a", "b", "c", "d"]
    assert metrics.hit_ranks(gold, {"q3": wrong}) == {"q3": 0}
    assert metrics.hit_ranks(gold, {"q3": [*wrong, "insulin"]}) == {"q3": 6}
