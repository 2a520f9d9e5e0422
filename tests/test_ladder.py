"""The ladder of looser matches: what each rung equates, what none does, and the offsets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.config import RUNGS, InputError, parse_rungs
from helpers.ladder import MEANING, Ladder
from helpers.spans import find_spans

ALL = RUNGS


def climb(gold, text, rungs=ALL):
    match = Ladder([gold], rungs).find(text)
    return match.rung, [text[start:end] for start, end in match.spans]


@pytest.mark.parametrize(
    ("rung", "gold", "text", "found"),
    [
        ("", "TNF", "Of tnf, TNF.", ["tnf", "TNF"]),
        ("unicode", "Sjogren syndrome", "of Sjögren syndrome.", ["Sjögren syndrome"]),
        ("unicode", "Sjögren", "Sjo\u0308gren disease", ["Sjo\u0308gren"]),
        ("unicode", "fibrosis", "(ﬁbrosis)", ["ﬁbrosis"]),
        ("unicode", "CD4+ cells", "CD4⁺ cells", ["CD4⁺ cells"]),
        ("unicode", "µ-opioid", "the μ-opioid one", ["μ-opioid"]),
        ("unicode", "Parkinson's", "Parkinson’s disease", ["Parkinson’s"]),
        ("unicode", "straße", "STRASSE", ["STRASSE"]),
        ("unicode", "protein", "pro\u00adtein", ["pro\u00adtein"]),
        ("greek", "TNF-alpha", "anti-TNF-α therapy", ["TNF-α"]),
        ("greek", "β-catenin", "Beta-catenin, BETA-CATENIN", ["Beta-catenin", "BETA-CATENIN"]),
        ("greek", "IFNγ", "IFNgamma", ["IFNgamma"]),
        ("hyphen", "IL-2", "IL2, il 2 and IL\u20112", ["IL2", "il 2", "IL\u20112"]),
        ("hyphen", "beta catenin", "β-catenin", ["β-catenin"]),
        ("hyphen", "a  necrosis factor", "a necrosis\nfactor", ["a necrosis\nfactor"]),
        ("plural", "antibody", "two antibodies.", ["antibodies"]),
        ("plural", "viruses", "a virus", ["virus"]),
        ("plural", "Rare diseases", "a rare disease", ["rare disease"]),
        ("plural", "genes", "one gene", ["gene"]),
        ("plural", "SNP", "SNPs", ["SNPs"]),
        ("brackets", "tumor necrosis factor (TNF)", "TNF rose", ["TNF"]),
        ("brackets", "aspirin (oral)", "of aspirin", ["aspirin"]),
        ("brackets", "BRCA1 [human gene]", "BRCA1", ["BRCA1"]),
        ("punctuation", "“warfarin”.", "with warfarin,", ["warfarin"]),
        ("punctuation", "Warfarin.", "warfarin x", ["warfarin"]),
        ("numerals", "type II", "of type 2 diabetes", ["type 2"]),
        ("numerals", "factor 8", "Factor VIII", ["Factor VIII"]),
        ("numerals", "collagen XIX", "collagen-19", ["collagen-19"]),
    ],
)  # fmt: skip
def test_each_rung_finds_its_kind(rung, gold, text, found):
    assert climb(gold, text) == (rung, found)
    if rung:
        below = ALL[: ALL.index(rung)]
        assert climb(gold, text, below) == ("", [])


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("pha", "TNF-α"),  # not from the middle of a letter's name
        ("alp", "α"),
        ("TNF", "TNFα"),  # a letter touches it, also when it becomes a name
        ("IL-2", "IL-21, AIL 2"),
        ("AIDS", "an aid"),  # capitals are an abbreviation
        ("II", "2"),  # too short to be looked for loosely
        ("1", "I think"),
        ("5 %", "5"),
        ("aspirin (oral)", "oral"),  # a remark, no abbreviation
        ("vitamin C", "vitamin 100"),
        ("basis", "bases"),
        ("", "anything"),
        ("( )", "( )x"),
        ("cat", "catalase"),
        # numbers: what keeps two digits apart is never left out
        ("110", "of 1-10 days"),
        ("1000", "10-00"),
        ("type 12", "type 1-2"),
        ("type 12", "type 1 2"),
        ("type 1 2", "type 1-2"),
        ("type 1-10", "type II-10"),
        ("IL-1", "IL 1.5"),
        ("IL-2", "IL 2,000"),
        ("5 mg doses", "1.5-mg doses"),
        ("106 cells", "10⁶ cells"),
        ("102-fold", "10₂ fold"),
        ("11/2 cups", "1½ cups"),
        # an accent that is a character of its own is part of its word
        ("gren disease", "Sjo\u0308gren-disease"),
    ],
)
def test_what_no_rung_equates(gold, text):
    assert climb(gold, text) == ("", [])


@pytest.mark.parametrize(
    ("gold", "text", "found"),
    [
        ("type 1-2", "type 1 – 2 of", "type 1 – 2"),
        ("10^6 cells", "10⁶ cells", "10⁶ cells"),
        ("H2O", "H₂O", "H₂O"),
        ("IL-2", "IL 2, and", "IL 2"),
        ("IL-2", "of IL 2.", "IL 2"),
        ("the cafe", "the cafe\u0301 x", "the cafe\u0301"),
        ("aids", "AID", "AID"),  # a word in capitals is not shortened, but is what others become
    ],
)
def test_numbers_and_accents_that_are_equal(gold, text, found):
    assert climb(gold, text)[1] == [found]


def test_a_span_never_ends_between_a_letter_and_its_accent():
    assert climb("cafe", "cafe\u0301", ()) == ("", [])
    assert climb("cafe", "cafe\u0301") == ("unicode", ["cafe\u0301"])
    assert climb("cafe\u0301", "a cafe\u0301.", ()) == ("", ["cafe\u0301"])


@pytest.mark.parametrize(
    ("gold", "text", "rungs"),
    [
        ("type II cells", "type 2 CELLS", ("numerals",)),
        ("TYPE II CELLS", "type 2 cells", ("numerals",)),
        ("(x) TNF alpha inhibitors", "TNF-α INHIBITORS", ("greek", "hyphen", "brackets")),
        ("optical coherence tomography.", "OPTICAL COHERENCE TOMOGRAPHY", ("punctuation",)),
    ],
)
def test_more_rungs_find_no_less(gold, text, rungs):
    assert climb(gold, text, rungs)[1] == [text] == climb(gold, text)[1]


PAIRS = [
    ("cells", "CELLS"), ("CELLS", "cells"), ("cell", "cells"), ("II", "2"), ("IV", "iv"),
    ("α", "alpha"), ("TNF-α", "TNF alpha"), ("Sjögren", "SJOGREN"), ("antibody", "antibodies"),
    ("IL-2", "IL2"), ("(x)", ""), ("tomography.", "TOMOGRAPHY"), ("10⁶", "10^6"), ("1-2", "1 – 2"),
    ("ﬁbrosis", "fibrosis"), ("“drug”", "drug"), ("type", "TYPE"), ("SNPs", "SNP"),
]  # fmt: skip


@given(
    st.lists(st.sampled_from(PAIRS), min_size=1, max_size=4),
    st.lists(st.integers(0, 1), min_size=4, max_size=4),
    st.sets(st.sampled_from(ALL)),
    st.sets(st.sampled_from(ALL)),
)
def test_what_some_rungs_find_any_more_rungs_find(words, sides, some, more):
    gold = " ".join(one for one, _ in words)
    text = "of " + " ".join(pair[side] for pair, side in zip(words, sides, strict=False)) + ", x"
    fewer, larger = ([r for r in ALL if r in names] for names in (some, some | more))
    if Ladder([gold], fewer).find(text).spans:
        assert Ladder([gold], larger).find(text).spans


def test_rungs_are_switched_one_by_one():
    assert climb("TNF alpha", "TNF-α", ("greek",)) == ("", [])
    assert climb("TNF alpha", "TNF-α", ("greek", "hyphen")) == ("hyphen", ["TNF-α"])
    assert climb("viruses", "a virus", ("plural",)) == ("plural", ["virus"])
    assert climb("TNF", "TNF", ()) == ("", ["TNF"])


def test_every_rung_has_a_meaning():
    assert tuple(MEANING) == RUNGS


def test_names_in_a_setting():
    assert parse_rungs("") == parse_rungs("strict") == ()
    assert parse_rungs("all") == ALL
    assert parse_rungs("plural, Greek") == ("greek", "plural")
    with pytest.raises(InputError, match="'grek' is unknown; give all, strict, or any of unicode"):
        parse_rungs("greek,grek")


TEXT = st.text("aAsSeEyIVX12 -–αβµöﬁ²().,’ßİςé\u0301_/", max_size=16)


@given(TEXT, st.lists(TEXT, max_size=3))
def test_offsets_are_of_the_original_text_and_strict_spans_stay(text, golds):
    match = Ladder(golds, ALL).find(text)
    strict = [(span.start, span.end) for span in find_spans(text, [g.strip() for g in golds])]
    if strict:
        assert match == Ladder(golds).find(text) and list(match.spans) == strict
    for start, end in match.spans:
        assert 0 <= start < end <= len(text)
        assert not text[start - 1 : start].isalnum() and not text[end : end + 1].isalnum()
    assert bool(match.rung) <= bool(match.spans)


@given(st.text(max_size=20), st.text(max_size=8))
def test_any_text_at_all(text, gold):
    for start, end in Ladder([gold], ALL).find(text).spans:
        assert text[start:end]
