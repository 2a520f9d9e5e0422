"""From logits to ranked answers."""

import os
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import reference_google
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_examples, tiny_reader

from helpers.data.spans import Span
from helpers.data.squad import Example, read_squad
from helpers.model.decoding import (
    Candidate,
    dev_scores,
    nbest,
    pair_exact_match,
    rank_answers,
    read_nbest,
    tidy,
    write_nbest,
)
from helpers.model.features import gather, make_windows
from helpers.model.texts import make_tokenizer

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "q", *"abcdefghij", "##x"]
TOKENIZER = make_tokenizer(VOCAB)


def example(context, question_id="0", number=1):
    return Example(f"{question_id}_{number:03d}", question_id, "q", context, (), number, "")


def candidate(text, probability, start=0):
    return Candidate(text, start, start + len(text), 0.0, 0.0, probability)


PIECES = ["ab", "##a", "##ab", "##b", "##2", "ca", "-", ",", "(", ")", "#", "α", "2", "中", "ss"]
RICH = [*VOCAB, *PIECES]
# Blanks of all kinds, signs that the tokenizer drops, accents, letters that change their length or
# stand in no vocabulary; tokens inside words and texts that repeat come by themselves.
CHARACTERS = "aabbAB22--,().# \t\n\u00a0\u202f\u2028\u200b\u0301\x07αéèßİ中🧬xq"
CONTEXTS = st.text(CHARACTERS, max_size=70) | st.lists(
    st.sampled_from(["ab", "AB-ab", "(ca)", "abab", "Ab,", "🧬ab-ab", "α2", "x"]), max_size=25
).map(" ".join)


def google(windows, logits, example, vocab, *, size, max_answer, lower=True, **lengths):
    """The reference's n-best of the only example of ``windows``, which it must cut alike."""
    found = reference_google.windows(
        example.question, example.context, set(vocab), lower, *lengths.values()
    )
    rows = [slice(a, b) for a, b in pairwise(windows.bounds.tolist())]
    if found:  # without a token that code has no window, and this one an empty one
        assert [w.tokens for w in found] == [[vocab[i] for i in windows.ids[row]] for row in rows]
    columns = [logits[row].astype(float).T.tolist() for row in rows[: len(found)]]
    return reference_google.write_predictions(
        example.context, found, columns, lower, size, max_answer
    )


def as_google(candidates):
    return [(c.text, c.start_logit, c.end_logit, c.probability) for c in candidates]


@settings(max_examples=200, deadline=None)
@given(
    CONTEXTS, st.integers(0, 10**6), st.integers(9, 40), st.integers(1, 12), st.integers(1, 25),
    st.integers(1, 12), st.booleans(), st.booleans(),
)  # fmt: skip
def test_nbest_is_googles(context, seed, max_length, step, size, max_answer, ties, cased):
    pair, lengths = example(context), {"max_length": max_length, "step": step, "max_query": 4}
    vocab = [*RICH, "A", "AB", "##A", "##B", "É"] if cased else RICH
    windows = make_windows([pair], make_tokenizer(vocab), **lengths)
    logits = np.random.default_rng(seed).normal(size=(len(windows.ids), 2)).astype(np.float32)
    logits = np.round(logits) if ties else 4 * logits
    limits = {"size": size, "max_answer": max_answer}
    wanted = google(windows, logits, pair, vocab, lower=not cased, **limits, **lengths)
    assert as_google(nbest(windows, logits, [pair], **limits)[0]) == wanted


def test_nbest_of_many_pairs_is_that_of_each():
    contexts = ["ab AB-ab (ca)", "", "a b c d e f g h i j " * 4, "🧬", "ab AB-ab (ca)"]
    examples = [example(c, number=i) for i, c in enumerate(contexts)]
    windows = make_windows(examples, make_tokenizer(RICH), max_length=16, step=5)
    logits = np.random.default_rng(0).normal(size=(len(windows.ids), 2)).astype(np.float32)
    together = nbest(windows, logits, examples, size=7, max_answer=4)
    for index, pair in enumerate(examples):
        rows = np.flatnonzero(windows.pair == index)
        low, high = windows.bounds[rows[0]], windows.bounds[rows[-1] + 1]
        alone = make_windows([pair], make_tokenizer(RICH), max_length=16, step=5)
        assert nbest(alone, logits[low:high], [pair], size=7, max_answer=4) == [together[index]]
    assert [bool(found) for found in together] == [True, False, True, True, True]


@pytest.mark.skipif(not os.environ.get("BIOASQ_DIR"), reason="BIOASQ_DIR is not set: no real texts")
@pytest.mark.parametrize("name", ["test-factoid-7b-full-abstract", "train-factoid-7b"])
def test_nbest_of_real_texts_is_googles(name):
    rows = read_squad(Path(os.environ["BIOASQ_DIR"]) / f"BioASQ-{name}.json")[::40][:60]
    letters = sorted({c for row in rows for c in (row.context + row.question).lower()})
    words = Counter(w for row in rows for w in row.context.lower().split() if w.isascii())
    pieces = [w for w, _ in words.most_common(400) if w.isalnum()]
    pieces += [f"##{w[-3:]}" for w in pieces] + letters + [f"##{c}" for c in letters]
    vocab = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces]))
    lengths = {"max_length": 384, "step": 128, "max_query": 64}
    for number, pair in enumerate(rows):
        windows = make_windows([pair], make_tokenizer(vocab), **lengths)
        noise = np.random.default_rng(number).normal(size=(len(windows.ids), 2))
        logits = (3 * noise).astype(np.float32)
        wanted = google(windows, logits, pair, vocab, size=20, max_answer=30, **lengths)
        assert as_google(nbest(windows, logits, [pair])[0]) == wanted, pair.id


def test_an_answer_may_end_where_another_window_shows_more():
    context = "a b c d e f g h i j"  # two windows: tokens 0 to 5 and 4 to 9; 5 is the second's
    pair = example(context)
    windows = make_windows([pair], TOKENIZER, max_length=10, step=4)
    logits = np.full((len(windows.ids), 2), -9.0, np.float32)
    seen = [windows.ids[a:b].tolist() for a, b in pairwise(windows.bounds)]
    assert [[VOCAB[i] for i in ids[3:-1]] for ids in seen] == [[*"abcdef"], [*"efghij"]]
    start, end = 3 + 3, 3 + 5  # "d" to "f" in the first window; the second does not show "d"
    assert windows.can_start[start] and not windows.can_start[end]
    logits[start, 0] = logits[end, 1] = 9
    assert nbest(windows, logits, [pair])[0][0].text == "d e f"
    # A start is its best window's affair: the same "f" as a start of the first window is no one.
    logits[:] = -9
    logits[end] = 9
    assert nbest(windows, logits, [pair])[0][0].probability < 0.9


def test_only_the_best_starts_and_ends_of_a_window_are_paired():
    pair = example("a b c")
    windows = make_windows([pair], TOKENIZER)
    logits = np.zeros((len(windows.ids), 2), np.float32)
    logits[0] = logits[1] = 5  # [CLS] and the question take two of three places
    logits[3, 0], logits[4, 1], logits[5] = 4, 4, 3
    found = nbest(windows, logits, [pair], size=3)[0]
    assert [(c.text, c.start, c.end) for c in found] == [("a b", 0, 3)]
    assert found[0].probability == 1


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


@pytest.mark.parametrize(
    ("context", "first", "last", "text", "place"),
    [
        ("ax b", 1, 1, "x", (1, 2)),  # a part of a word stays one
        ("A-a", 2, 2, "A", (0, 1)),  # the first place that reads alike, its capitals too
        ("a  (b)", 0, 2, "a (b", (0, 5)),  # single blanks
        ("a\u00a0b", 0, 0, "a\u00a0b", (0, 3)),  # a blank that Google's words do not end at
        ("a\u200b b", 0, 1, "a\u200b b", (0, 4)),  # a sign without a token: words stay whole
        ("(🧬,a)", 1, 1, "(🧬,a)", (0, 5)),  # [UNK] is found nowhere
        ("(🧬,a)", 3, 3, "a", (3, 4)),  # but does not harm its neighbors
    ],
)
def test_the_text_of_an_answer_is_cut_as_google_cuts_it(context, first, last, text, place):
    windows = make_windows([example(context)], make_tokenizer(RICH))
    assert windows.detokenizers[0].decode(first, last) == (*place, text)


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
        ("TNF-α ,", "TNF-α "),  # and nothing else
        ("(CFTR).", "(CFTR)"),  # one rule only
        ("(CFTR,", "(CFTR"),
        ("(CFTR)", "CFTR"),
        ("(CFTR )", "CFTR "),
        ("[CFTR]", "[CFTR]"),  # round brackets only
        ("[11C]", "[11C]"),
        ("{a", "{a"),
        ("(1,3)-beta-(1,4)", "(1,3)-beta-(1,4)"),
        ("(R)-(+)", "(R)-(+)"),
        ("f(x))", "f(x))"),
        ("(f(x))", "(f(x))"),
        (")CFTR(", ")CFTR("),
        ("(CFTR", ""),
        ("CFTR)", ""),
        ("IL-2 (human)", "IL-2 (human)"),
        ("(a", ""),
        ("", ""),
        (".", ""),
        ("()", "()"),  # two characters are too few
        ("( )", " "),
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


def dmis_lab(found):
    """Sums by lower-cased text as ``transform_n2b_factoid.py`` makes them, in the order given."""
    sums = {}
    for text, probability in found:
        opened, closed = text.count("("), text.count(")")
        if text[-1:] in (",", ".", " "):
            text = text[:-1]
        elif len(text) >= 3 and (text[0], text[-1], opened, closed) == ("(", ")", 1, 1):
            text = text[1:-1]
        elif bool(opened) != bool(closed):
            text = ""
        if 0 < len(text) <= 100:
            sums[text.lower()] = sums.get(text.lower(), 0) + probability
    return sums


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.text("abAB()[]., ", max_size=6) | st.sampled_from(["x" * 100, "x" * 101]),
            st.floats(0, 1),
        ),
        max_size=20,
    ),
    st.randoms(),
)
def test_merged_sums_are_dmis_labs_whatever_order_its_loop_takes(items, random):
    ranked = rank_answers([example("x")], [[candidate(*item) for item in items]], keep=99)["0"]
    random.shuffle(items)
    wanted = dmis_lab(items)
    assert {text.lower(): score for text, score in ranked} == pytest.approx(wanted)
    assert len(ranked) == len(wanted)


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


@pytest.mark.parametrize("max_length", [48, 16])
def test_the_dev_loss_is_the_training_loss_of_the_same_windows(max_length):
    """Some pairs have two spans, one is repeated, one has no answer, and contexts are cut."""
    from helpers.model.step import logits_of, span_loss  # imports Lightning

    reader = tiny_reader(1, max_length=max_length, step=4)
    examples = tiny_examples(12)
    two = Span(0, len(examples[3].context.split()[0]), examples[3].context.split()[0])
    examples[3] = replace(examples[3], spans=(two, *examples[3].spans))
    dev = [*examples, replace(examples[5], id="0_999")]
    dev.append(replace(examples[7], id="1_999", context="the a of in", spans=()))
    windows = reader.windows(examples, training=True)
    batch = gather(windows, range(len(windows)))
    with torch.inference_mode():
        expected = span_loss(logits_of(reader.model, batch), batch)
    found = dev_scores(reader, dev)
    assert found["loss"] == pytest.approx(float(expected), abs=1e-5)
    assert (found["questions"], found["pairs"]) == (4, 12)
