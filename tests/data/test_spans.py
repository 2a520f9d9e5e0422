"""The strict rule: occurrences, word boundaries, case, offsets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.data.bioasq import Question
from helpers.data.spans import Span, ceiling, extra_cause, find_spans, fold, lacks_answer


def found(context, *synonyms):
    return [(span.start, span.text) for span in find_spans(context, synonyms)]


@pytest.mark.parametrize(
    ("context", "synonyms", "expected"),
    [
        ("p53 and P53.", ["p53"], [(0, "p53"), (8, "P53")]),
        ("p53 p530 xp53 p53_a _p53", ["p53"], [(0, "p53")]),
        ("anti-PD-1/PD-L1", ["PD-1"], [(5, "PD-1")]),
        # punctuation at the synonym's edge
        ("(IFN-γ)", ["(IFN-γ)"], [(0, "(IFN-γ)")]),
        ("x(IFN-γ) y", ["(IFN-γ)", "IFN-γ"], [(2, "IFN-γ")]),
        ("p53+ cells, p53+cells", ["p53+"], [(0, "p53+")]),
        ("(p53+)(p53+)", ["p53+"], [(1, "p53+"), (7, "p53+")]),
        # neighbors that are letters or digits outside ASCII
        ("αIFN IFNα IFN² IFN", ["ifn"], [(15, "IFN")]),
        # overlaps: of two synonyms, of one with itself, and one inside another
        ("a b c", ["a b", "b c"], [(0, "a b"), (2, "b c")]),
        ("AA AA AA", ["aa aa"], [(0, "AA AA"), (3, "AA AA")]),
        ("type 1 AML", ["aml", "type 1 aml"], [(0, "type 1 AML"), (7, "AML")]),
        # repeated synonyms, blank ones, blanks at the edges, signs with a meaning in patterns
        ("TNF", ["TNF", "tnf", "TNF"], [(0, "TNF")]),
        ("a  b", ["", " ", "\t"], []),
        ("( TNF)", [" TNF"], [(1, " TNF")]),
        ("TNF (TNF) of TNF x", ["TNF "], [(0, "TNF ")]),
        ("(a|b)* [c] 95 % $", ["(a|b)*", "[c]", "95 %", "$"],
         [(0, "(a|b)*"), (7, "[c]"), (11, "95 %"), (16, "$")]),
        ("", ["a"], []),
        # a double blank inside a gold is searched as it stands
        ("tumour factor", ["tumour  factor"], []),
    ],
)  # fmt: skip
def test_strict_rule(context, synonyms, expected):
    assert found(context, *synonyms) == expected


def test_characters_whose_lower_case_is_special():
    assert "İ".lower() != "i" and len("İ".lower()) == 2  # why fold exists
    assert found("İİ İL-2, il-2", "IL-2") == [(9, "il-2")]
    assert found("İİ İL-2 and İl-2", "İL-2") == [(3, "İL-2"), (12, "İl-2")]
    assert found("ISI is not ısı", "isi") == [(0, "ISI")]
    assert found("GROẞ Groß gross", "groß") == [(0, "GROẞ"), (5, "Groß")]
    assert found("ΟΔΟΣ οδος οδοσ ΟΔΟΣ-Α", "Οδος") == [
        (0, "ΟΔΟΣ"), (5, "οδος"), (10, "οδοσ"), (15, "ΟΔΟΣ"),
    ]  # fmt: skip
    assert found("µ-opioid", "μ-opioid") == []  # micro sign and mu: the evaluator keeps them apart


@given(st.text())
def test_fold_moves_no_offset(text):
    assert len(fold(text)) == len(text)
    assert fold(fold(text)) == fold(text)


LETTERS = st.text("aAbIİıißẞΣσς_-( 1α", max_size=14)


@given(LETTERS, st.lists(st.text("aAbIİißΣσς-( 1", max_size=3), max_size=3))
def test_same_spans_as_trying_every_substring(context, synonyms):
    def same(one, other):
        pairs = zip(one.replace("ς", "σ"), other.replace("ς", "σ"), strict=False)
        return len(one) == len(other) and all(a.lower() == b.lower() for a, b in pairs)

    def word(index):
        return 0 <= index < len(context) and (context[index].isalnum() or context[index] == "_")

    expected = [
        Span(start, end, context[start:end])
        for start in range(len(context))
        for end in range(start + 1, len(context) + 1)
        if not word(start - 1)
        and not word(end)
        and any(same(context[start:end], synonym) for synonym in synonyms if synonym.strip())
    ]
    assert find_spans(context, synonyms) == expected


@given(st.text(max_size=30), st.text(max_size=5), st.text(max_size=30))
def test_a_synonym_between_blanks_is_always_found(before, synonym, after):
    context = f"{before} {synonym} {after}"
    texts = [span.text for span in find_spans(context, [synonym.strip()])]
    assert synonym.strip() in texts or not synonym.strip()
    possible, total = ceiling(
        [Question("q", "?", "factoid", exact_answer=((synonym,),))], {"q": [context]}
    )
    assert (possible, total) == (int(bool(synonym.strip())), 1)


def test_ceiling_ignores_word_boundaries_and_counts_questions_without_context():
    def question(name, *golds):
        return Question(name, "?", "factoid", exact_answer=(golds,))

    questions = [
        question("1", "AML", "x y z"),
        question("2", "AML"),
        question("3"),
        question("4", "a"),
    ]
    contexts = {"1": ["none", "preamls"], "2": ["am l"], "3": ["AML"]}
    assert ceiling(questions, contexts) == (1, 4)


def test_ceiling_counts_what_decoding_writes_with_single_blanks():
    questions = [Question("1", "?", "factoid", exact_answer=(("acute AML",),))]
    assert ceiling(questions, {"1": ["an acute \n AML"]}) == (1, 1)


def test_causes_of_extra_spans():
    context = "NF1, type NF1-like; nf1 (NF1 gene) [NF1] NF1"
    causes = [extra_cause(span, context, {"NF1"}) for span in find_spans(context, ["NF1"])]
    expected = ["", "next", "case", "", "next", ""]
    assert [cause.partition(" ")[0] for cause in causes] == expected


@pytest.mark.parametrize(
    ("gold", "text", "lacking"),
    [
        ("TNF-alpha", "anti-tnf-α drugs", False),
        ("IL-2", "of IL2s", False),
        ("Sjögren", "Sjogren's", False),
        ("antigens", "one antigen", False),
        ("factor VIII (FVIII)", "FVIII was low", False),
        ("factor VIII (FVIII)", "factor VIII was low", False),
        ("p53", "ap53", False),  # inside a word: not sure enough
        ("p53", "the p 63 gene", True),
        ("1-2", "type 12", True),
        ("p5", "p 5", True),  # too short to be looked for in other writing
    ],
)
def test_a_text_lacks_an_answer_in_any_writing(gold, text, lacking):
    assert lacks_answer(text, [gold]) == lacking
