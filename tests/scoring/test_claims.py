"""The published rows: their figures, labels and sources."""

import pytest

from helpers.scoring import claims
from helpers.scoring.arithmetic import counts_that_print_as, in_order
from helpers.scoring.claims import CLAIMS, get

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


def test_which_published_accuracies_are_shares_of_162_or_34_questions():
    counts = {
        (c.key, measure, n): counts_that_print_as(c.corrected[measure], n, c.unit)
        for c in CLAIMS
        for measure in ("SAcc", "LAcc")
        for n in (162, 34)
        if measure in c.corrected
    }
    assert not counts["card", "LAcc", 162]
    assert get("card").value("LAcc") * 162 == pytest.approx(103.4856)
    assert get("card").value("SAcc") * 162 == pytest.approx(77.76)
    pooled = [
        c.key
        for c in CLAIMS
        if counts.get((c.key, "SAcc", 162)) and counts.get((c.key, "LAcc", 162))
    ]
    assert pooled == [
        "notebook", "notebook-biobert",  # two digits rule nothing out
        "paper-biobert-base", "dmis-bert", "dmis-biobert", "dmis-biobert-squad",
    ]  # fmt: skip
    assert counts["notebook-7b-4", "SAcc", 34] == [22]
    assert counts["notebook-7b-4", "LAcc", 34] == [28]
    assert all(k <= n for (_, _, n), found in counts.items() for k in found)
