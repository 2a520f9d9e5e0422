"""From logits to ranked answers."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.features import make_tokenizer, make_windows
from helpers.prediction import (
    Candidate,
    nbest,
    pair_exact_match,
    rank_answers,
    read_nbest,
    tidy,
    write_nbest,
)
from helpers.squad import Example, Span

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "q", *"abcdefghij", "##x"]
TOKENIZER = make_tokenizer(VOCAB)


def example(context, question_id="0", number=1):
    return Example(f"{question_id}_{number:03d}", question_id, "q", context, (), number, "")


def candidate(text, probability, start=0):
    return Candidate(text, start, start + len(text), 0.0, 0.0, probability)


def brute_force(windows, logits, examples, size, max_answer):
    """Every span of every window, the slow way: text -> best sum, best first."""
    result = []
    for index, item in enumerate(examples):
        best = {}
        for row in np.flatnonzero(windows.pair == index):
            a, b = windows.bounds[row], windows.bounds[row + 1]
            for s, e in itertools.product(range(a, b), range(a, b)):
                if 0 <= e - s < max_answer and windows.can_start[s] and windows.can_end[e]:
                    text = item.context[windows.chars[s, 0] : windows.chars[e, 1]]
                    value = float(logits[s, 0]) + float(logits[e, 1])
                    best[text] = max(best.get(text, -np.inf), value)
        result.append(sorted(best.values(), reverse=True)[:size])
    return result


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from("abcdefghij"), max_size=30).map(" ".join), min_size=1, max_size=3
    ),
    st.integers(0, 1000),
)
def test_nbest_finds_what_a_search_of_all_spans_finds(contexts, seed):
    examples = [example(c, number=i) for i, c in enumerate(contexts)]
    windows = make_windows(examples, TOKENIZER, max_length=16, step=5)
    logits = np.random.default_rng(seed).normal(size=(len(windows.ids), 2)).astype(np.float32)
    found = nbest(windows, logits, examples, size=7, max_answer=4)
    for got, wanted, item in zip(
        found, brute_force(windows, logits, examples, 7, 4), examples, strict=True
    ):
        assert len({c.text for c in got}) == len(got)
        np.testing.assert_allclose([c.start_logit + c.end_logit for c in got], wanted, rtol=1e-6)
        assert all(item.context[c.start : c.end] == c.text for c in got)
        if got:
            assert sum(c.probability for c in got) == pytest.approx(1)


def test_probability_is_the_softmax_of_start_plus_end_over_all_windows():
    examples = [example("a b c d e f g h i j")]
    windows = make_windows(examples, TOKENIZER, max_length=9, step=3)
    assert len(windows) > 1
    logits = np.full((len(windows.ids), 2), -9.0, np.float32)
    row = {VOCAB[i]: at for at, i in enumerate(windows.ids) if windows.can_start[at]}
    logits[row["b"]] = 2, 2
    logits[row["i"]] = 3, 2
    best = nbest(windows, logits, examples, size=2)[0]
    assert [c.text for c in best] == ["i", "b"]
    assert best[0].probability == pytest.approx(np.e / (1 + np.e))


def test_no_answer_begins_or_ends_inside_a_word():
    examples = [example("ax b")]  # tokens a ##x b
    windows = make_windows(examples, TOKENIZER)
    found = nbest(windows, np.zeros((len(windows.ids), 2), np.float32), examples)[0]
    assert {c.text for c in found} == {"ax", "b", "ax b"}


def test_an_empty_context_has_no_answer():
    examples = [example("")]
    windows = make_windows(examples, TOKENIZER)
    assert nbest(windows, np.zeros((len(windows.ids), 2), np.float32), examples) == [[]]
    assert rank_answers(examples, [[]]) == {"0": []}


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("TNF-α", "TNF-α"),
        ("TNF-α,", "TNF-α"),
        ("TNF-α.", "TNF-α"),
        ("TNF-α.,", "TNF-α."),  # one only
        ("(CFTR)", "CFTR"),
        ("[CFTR]", "CFTR"),
        ("(CFTR", ""),
        ("CFTR)", ""),
        (")CFTR(", ""),
        ("IL-2 (human)", "IL-2 (human)"),
        ("(a", ""),
        ("", ""),
        (".", ""),
        ("()", ""),
        ("(a]", ""),
    ],
)
def test_tidy(text, tidied):
    assert tidy(text) == tidied


def test_merge_adds_equal_texts_and_keeps_the_most_probable_writing():
    examples = [example("x", "1", 1), example("x", "1", 2)]
    found = [
        [candidate("CFTR", 0.4), candidate("HBB", 0.6)],
        [candidate("cftr.", 0.5), candidate("DMD", 0.1)],
    ]
    by_sum = rank_answers(examples, found)["1"]
    assert [text for text, _ in by_sum] == ["cftr", "HBB", "DMD"]
    assert by_sum[0][1] == pytest.approx(0.9)
    by_max = rank_answers(examples, found, merge="max")["1"]
    assert by_max == [("HBB", 0.6), ("cftr", 0.5), ("DMD", 0.1)]


def test_only_five_answers_of_at_most_a_hundred_characters_are_kept():
    found = [candidate("x" * 101, 0.9), *(candidate(f"a{i}", 0.1 - i / 100) for i in range(8))]
    ranked = rank_answers([example("x")], [found])["0"]
    assert [text for text, _ in ranked] == ["a0", "a1", "a2", "a3", "a4"]


@given(
    st.lists(st.tuples(st.text("abAB(). ,", max_size=6), st.floats(0, 1)), min_size=1, max_size=12),
    st.sampled_from(["sum", "max"]),
)
def test_ranked_answers_are_distinct_and_ordered(items, merge):
    ranked = rank_answers([example("x")], [[candidate(t, p) for t, p in items]], merge=merge)["0"]
    assert len({text.lower() for text, _ in ranked}) == len(ranked) <= 5
    assert [s for _, s in ranked] == sorted((s for _, s in ranked), reverse=True)
    assert all(text for text, _ in ranked)


def test_nbest_survives_the_file(tmp_path):
    examples = [example("TNF-α a", "7", 1), example("b", "7", 2)]
    found = [[candidate("TNF-α", 0.9), candidate("a", 0.1, 6)], []]
    rows = read_nbest(write_nbest(tmp_path / "nbest.jsonl", examples, found))
    assert [c for _, c in rows] == found
    assert [(e.id, e.context) for e, _ in rows] == [("7_001", "TNF-α a"), ("7_002", "b")]


def test_pair_exact_match_counts_only_pairs_that_hold_an_answer():
    examples = [example("CFTR x", "1", 1), example("cftr HBB", "1", 2), example("HBB", "1", 3)]
    found = [[candidate("cftr", 1.0)], [candidate("HBB", 1.0)], [candidate("HBB", 1.0)]]
    golds = {"1_001": [Span(0, 4, "CFTR")], "1_002": [Span(0, 4, "cftr")]}
    assert pair_exact_match(examples, found, golds) == (1, 2)
