import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.config import InputError
from helpers.scoring import metrics
from helpers.scoring.metrics import BatchScore, check_bounds, hit_rank, ranked_strings, score_batch

GOLD = {"q1": ("Insulin",), "q2": ("TNF-α", "tumour necrosis factor"), "q3": ("95 %",)}


@pytest.mark.parametrize(
    ("exact_answer", "ranking"),
    [
        ([["a", "b"], ["c"]], ["a", "c"]),  # only the first string of an inner list counts
        ([[], ["a"], [], ["b"]], ["a", "b"]),  # empty inner lists are dropped, later ones move up
        ([[""], ["a"]], ["", "a"]),  # an empty string holds its rank
        ([["a"], ["a"], ["b"]], ["a", "a", "b"]),  # so does a repeated answer
        ([["a"]] * 7, ["a"] * 7),  # no cut at five
        (["a", "", "b"], ["a", "", "b"]),  # rankings that are flat already
        ([], []),
        (None, []),
    ],
)
def test_ranking_of_a_systems_answer(exact_answer, ranking):
    assert ranked_strings(exact_answer) == ranking


@pytest.mark.parametrize(
    ("answer", "gold", "rank"),
    [
        ("INSULIN", ("insulin",), 1),
        ("tnf-Α", ("TNF-α",), 1),  # a capital alpha, not an A
        ("insulin ", ("insulin",), 0),  # nothing is trimmed
        ("insulin ", ("Insulin ",), 1),  # on either side
        ("the insulin", ("insulin",), 0),
        ("insulin.", ("insulin",), 0),
        ("T cell", ("T  cell",), 0),
        ("", ("",), 1),
        ("İ", ("i̇",), 1),  # lower case of 'İ' is two characters, in Java too
        ("strasse", ("straße",), 0),  # lower case, not case folding
        ("ΟΔΟΣ", ("οδος",), 1),  # a capital sigma at a word's end becomes the final one
        ("ΟΔΟΣ", ("οδοσ",), 0),
        ("b", ("a", "b"), 1),  # any synonym
        ("insulin", (), 0),
    ],
)
def test_match_is_lower_case_equality_and_nothing_else(answer, gold, rank):
    assert hit_rank([answer], gold) == rank


def test_a_string_is_not_mistaken_for_a_list():
    with pytest.raises(TypeError, match="insulin"):
        hit_rank(["i"], "insulin")
    with pytest.raises(TypeError, match="insulin"):
        ranked_strings("insulin")


def test_scores_by_hand():
    answers = {"q1": [["insulin"]], "q2": [["IL-6"], [], ["TUMOUR NECROSIS FACTOR"]], "q9": [["x"]]}
    score = score_batch("b", GOLD, answers)
    assert score == BatchScore("b", 3, 3, hits_strict=1, hits_lenient=2, reciprocal_sum=1.5)
    assert (score.sacc, score.lacc, score.mrr) == (1 / 3, 2 / 3, 0.5)
    assert score.as_row() == {
        "batch": "b", "n": 3, "counted": 3, "hits_strict": 1, "hits_lenient": 2,
        "sacc": 1 / 3, "lacc": 2 / 3, "mrr": 0.5,
    }  # fmt: skip


def test_values_of_ranks():
    values = metrics.question_values([1, 2, 0])
    assert values == {"SAcc": [1.0, 0.0, 0.0], "MRR": [1.0, 0.5, 0.0], "LAcc": [1.0, 1.0, 0.0]}


def test_first_hit_counts_once():
    score = score_batch("b", {"q": ("a", "b")}, {"q": ["x", "b", "a", "b"]})
    assert (score.hits_strict, score.hits_lenient, score.reciprocal_sum) == (0, 1, 0.5)


def test_missing_question_is_wrong_or_dropped_and_an_empty_one_always_wrong():
    answers = {"q1": ["insulin"], "q2": []}
    wrong = score_batch("b", GOLD, answers)
    assert (wrong.n, wrong.counted, wrong.sacc) == (3, 3, 1 / 3)
    dropped = score_batch("b", GOLD, answers, "dropped")
    assert (dropped.n, dropped.counted, dropped.sacc) == (3, 2, 1 / 2)
    none = score_batch("b", GOLD, {"q2": None}, "dropped")
    assert (none.counted, none.lacc) == (1, 0)


def test_nothing_to_score_is_an_input_error():
    with pytest.raises(InputError, match="every question lacks an entry"):
        score_batch("b", GOLD, {"elsewhere": ["x"]}, "dropped")
    with pytest.raises(InputError, match="no question"):
        score_batch("b", {}, {})
    with pytest.raises(InputError, match="ignored"):
        score_batch("b", GOLD, {}, "ignored")


def test_averages_by_hand():
    small, large = BatchScore("1", 2, 2, 2, 2, 2.0), BatchScore("2", 8, 8, 0, 4, 1.0)
    assert metrics.pooled([small, large]) == BatchScore("pooled", 10, 10, 2, 6, 3.0)
    weighted, macro = metrics.weighted([small, large]), metrics.macro([small, large])
    assert (weighted.sacc, weighted.lacc, weighted.mrr) == pytest.approx((0.2, 0.6, 0.3))
    assert (macro.sacc, macro.lacc, macro.mrr) == (0.5, 0.75, 0.5625)
    assert (macro.hits_strict, macro.n) == (2, 10)
    summary = metrics.summary([small, large])
    assert [row["batch"] for row in summary["batches"]] == ["1", "2"]
    assert summary["macro"]["lacc"] == 0.75
    assert list(summary) == ["batches", "weighted", "pooled", "macro"]


def test_dropped_questions_weigh_nothing():
    scores = [BatchScore("1", 10, 1, 1, 1, 1.0), BatchScore("2", 3, 3, 0, 0, 0.0)]
    assert metrics.weighted(scores).sacc == 0.25
    assert metrics.weighted(scores).n == 13


@pytest.mark.parametrize(
    ("text", "java"),  # as Java 17 printed them; Python's own lower() differs on those marked
    [
        ("ΑΣ", "ας"), ("Σ", "σ"), ("ΑΣ ΣΑ", "ας σα"), ("Α\u0301Σ", "α\u0301ς"), ("ΑΣΑΣ", "ασας"),
        ("A-Σ", "a-ς"), ("AΣ-B", "aσ-b"), ("A1Σ", "a1ς"), ("AΣ1B", "aσ1b"), ("A_Σ", "a_ς"),  # *
        ("AΣ:B", "aς:b"), ("A·Σ", "a·σ"),  # *
        ("A--Σ", "a--σ"), ("A.Σ", "a.ς"), ("AΣ\u0345", "aσ\u0345"), ("A-\u200bΣ", "a-\u200bς"),
        ("İ", "i\u0307"), ("ẞ", "ß"), ("ß", "ß"), ("𐐀", "𐐨"), ("\ud801", "\ud801"), ("Ǆ", "ǆ"),
    ],
)  # fmt: skip
def test_lower_case_is_that_of_java(text, java):
    assert metrics.lower(text) == java


def test_a_question_that_stands_twice_counts_twice():
    gold = [("q1", ("a",)), ("q2", ("b",)), ("q1", ("c",))]
    score = score_batch("b", gold, {"q1": ["a"], "q2": ["x"]})
    assert (score.n, score.counted, score.hits_strict) == (3, 3, 1)
    assert metrics.hit_ranks(gold, {"q1": ["a"], "q2": ["x"]}) == {"q1": 1, "q2": 0}


def test_no_batch_is_an_error():
    for average in (metrics.pooled, metrics.weighted, metrics.macro):
        with pytest.raises(ValueError, match="no batch"):
            average([])


def test_line_shows_the_counts():
    line = metrics.as_line(BatchScore("7B4", 34, 34, 22, 28, 34 * 0.7254901961))
    assert line.split() == "7B4 SAcc 64.71 (22 of 34) MRR 72.55 (mean of 34) LAcc 82.35 (28 of 34)".split()  # fmt: skip  # noqa: E501
    assert "9 of 10 questions dropped" in metrics.as_line(BatchScore("b", 10, 1, 1, 1, 1.0))


def test_bounds_catch_exchanged_labels_and_a_beaten_ceiling():
    score = BatchScore("b", 100, 100, 48, 64, 54.0)
    check_bounds(score)
    check_bounds(score, ceiling=0.64)
    with pytest.raises(ValueError, match=r"b: LAcc 64\.00 is above ceiling 63\.00"):
        check_bounds(score, ceiling=0.63)
    card = metrics.Average("card", 162, 162, 0, 0, sacc=0.48, lacc=0.5387, mrr=0.6388)
    with pytest.raises(ValueError, match=r"MRR 63\.88 is above LAcc 53\.87"):
        check_bounds(card)
    with pytest.raises(ValueError, match="SAcc"):
        check_bounds(BatchScore("b", 2, 2, 2, 2, 1.0))
    with pytest.raises(ValueError, match="MRR"):
        check_bounds(BatchScore("b", 2, 2, 0, 1, math.nan))


# Small alphabets, so that hits, repeats, case variants and missing questions all occur.
texts = st.sampled_from(["a", "A", "b", "B", "c", "", " a", "σ", "Σ", "ς"])
question_ids = st.sampled_from([f"q{n}" for n in range(6)])
golds = st.dictionaries(question_ids, st.lists(texts, max_size=3), min_size=1)
rankings = st.lists(st.one_of(texts, st.lists(texts, max_size=2)), max_size=7)
answer_files = st.dictionaries(question_ids, rankings)
batches = st.lists(st.tuples(golds, answer_files), min_size=1, max_size=4)


def scored(files):
    return [score_batch(str(n), gold, answers) for n, (gold, answers) in enumerate(files)]


@given(batches)
def test_scores_are_bounded(files):
    scores = scored(files)
    for score in (*scores, metrics.pooled(scores), metrics.weighted(scores), metrics.macro(scores)):
        assert 0 <= score.sacc <= score.mrr + 1e-12 <= score.lacc + 2e-12 <= 1 + 3e-12
        check_bounds(score)


@given(batches)
def test_weighted_is_pooled(files):
    scores = scored(files)
    weighted, pooled = metrics.weighted(scores).as_row(), metrics.pooled(scores).as_row()
    assert {**weighted, "batch": "pooled"} == pytest.approx(pooled, abs=1e-12)


@given(batches, st.randoms())
def test_batch_order_does_not_matter(files, random):
    scores = scored(files)
    mixed = random.sample(scores, len(scores))
    for average in (metrics.pooled, metrics.weighted, metrics.macro):
        assert average(mixed).as_row() == pytest.approx(average(scores).as_row(), abs=1e-12)


@given(golds, answer_files, question_ids, texts)
def test_an_added_answer_never_lowers_a_score(gold, answers, question, text):
    before = score_batch("b", gold, answers)
    after = score_batch("b", gold, {**answers, question: [*answers.get(question, []), text]})
    assert after.sacc >= before.sacc
    assert after.lacc >= before.lacc
    assert after.mrr >= before.mrr - 1e-12


@given(golds, answer_files)
def test_dropping_missing_questions_never_lowers_a_score(gold, answers):
    if not gold.keys() & answers.keys():
        return
    wrong, dropped = score_batch("b", gold, answers), score_batch("b", gold, answers, "dropped")
    assert dropped.lacc >= wrong.lacc
    assert (dropped.hits_strict, dropped.hits_lenient) == (wrong.hits_strict, wrong.hits_lenient)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  T-cell, a\tmarker.", "tcell marker"),
        ("a the an", ""),
        ("theatre an' the anthem", "theatre anthem"),
        ("TNF-α", "tnfα"),
        ("a.b", "ab"),  # punctuation goes before the articles
        ("95 %", "95"),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation
        ("a\u00a0gene", "gene"),
    ],
)
def test_normalize_answer(text, normal):
    assert metrics.normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "golds", "em", "f1"),
    [
        ("The insulin", ["insulin."], 1, 1),
        ("human insulin", ["insulin"], 0, 2 / 3),
        ("insulin insulin", ["insulin"], 0, 2 / 3),  # a token is shared as often as in both
        ("a b c", ["x", "b c d"], 0, 0.8),  # the article is gone, the best gold counts
        ("kinase", ["insulin"], 0, 0),
        ("the", ["a"], 1, 0),  # both normalize to nothing: equal, yet no token is shared
        ("", ["insulin"], 0, 0),
    ],
)
def test_squad_em_f1(prediction, golds, em, f1):
    assert metrics.squad_em_f1(prediction, golds) == (em, pytest.approx(f1))


def test_squad_needs_golds():
    for golds in ([], "insulin"):
        with pytest.raises(ValueError, match="gold"):
            metrics.squad_em_f1("insulin", golds)


def test_squad_scores_missing():
    gold = {"a_001": ["insulin"], "b_001": ["kinase"]}
    assert metrics.squad_scores(gold, {"a_001": "insulin"}) == {"a_001": (1, 1), "b_001": (0, 0)}
    assert metrics.squad_scores(gold, {"a_001": "insulin"}, "dropped") == {"a_001": (1, 1)}
    with pytest.raises(InputError, match="skip"):
        metrics.squad_scores(gold, {}, "skip")
