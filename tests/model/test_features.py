"""Windows and batches: positions, offsets and the order of batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.normalizers import NFKC, Lowercase, Replace, Sequence

from helpers.config import InputError
from helpers.data.spans import Span, find_spans
from helpers.data.squad import Example
from helpers.model.features import (
    _cut,
    gather,
    make_windows,
    prediction_batches,
    read_ranges,
    training_batches,
)
from helpers.model.texts import make_tokenizer, read_vocab

WORDS = ["which", "gene", "is", "mutated", "in", "cftr", "the", "tnf", "α", "-", ",", ".", "(", ")"]
PIECES = ["cystic", "fib", "##rosis", "##s", "a", "b", "c", "d", "e", "f", "g", "h", "?"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *PIECES]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(VOCAB)


def example(question, context, *answers):
    return Example("0_001", "0", question, context, tuple(find_spans(context, answers)), 0, "")


def texts(windows, row):
    return [VOCAB[i] for i in windows.ids[windows.bounds[row] : windows.bounds[row + 1]]]


def test_one_window_reads_cls_question_sep_context_sep(tokenizer):
    windows = make_windows([example("Which gene?", "CFTR in fibrosis.")], tokenizer)
    assert texts(windows, 0) == ("[CLS] which gene ? [SEP] cftr in fib ##rosis . [SEP]".split())
    assert windows.token_types.tolist() == [0] * 5 + [1] * 6
    assert windows.positions.tolist() == list(range(11))
    assert windows.chars[5:10].tolist() == [[0, 4], [5, 7], [8, 11], [11, 16], [16, 17]]


def test_answers_begin_on_tokens_of_the_context_only(tokenizer):
    windows = make_windows([example("Which gene?", "CFTR in fibrosis.")], tokenizer)
    assert windows.can_start.tolist() == [False] * 5 + [True] * 5 + [False]
    assert windows.token.tolist() == [-1] * 5 + [0, 1, 2, 3, 4] + [-1]


def test_training_gives_one_row_per_occurrence(tokenizer):
    pair = example("Which gene?", "CFTR , the CFTR gene", "cftr")
    windows = make_windows([pair], tokenizer, training=True)
    assert len(windows) == 2
    assert windows.pair.tolist() == [0, 0]
    assert windows.start.tolist() == [5, 8]
    assert windows.end.tolist() == [5, 8]


def test_windows_step_from_start_to_start_and_a_span_outside_points_at_cls(tokenizer):
    context = " ".join("abcdefgh"[i % 8] for i in range(40)) + " cftr"
    windows = make_windows([example("gene", context, "cftr")], tokenizer, max_length=24, step=6,
                           training=True)  # fmt: skip
    # 20 context tokens fit, 41 are there: starts 0, 6, 12, 18, 24
    assert len(windows) == 5
    starts = [windows.chars[windows.bounds[i] + 3, 0] // 2 for i in range(5)]
    assert starts == [0, 6, 12, 18, 24]
    assert windows.start.tolist() == [0, 0, 0, 0, 3 + 40 - 24]
    assert texts(windows, 4)[windows.start[4]] == "cftr"


def test_read_ranges_are_what_each_window_contains(tokenizer):
    context = "a b c d e f g h"
    pairs = [example("gene", context), example("gene", ""), example("gene", "fibrosis a")]
    windows = make_windows(pairs, tokenizer, max_length=8, step=3)  # 4 context tokens fit
    assert read_ranges(windows) == [[(0, 7), (6, 13), (12, 15)], [], [(0, 10)]]
    apart = make_windows(pairs[2:], tokenizer, max_length=5, step=1)  # a word is cut in two
    assert read_ranges(apart) == [[(0, 3), (3, 8), (9, 10)]]


def test_the_question_is_cut_at_max_query(tokenizer):
    windows = make_windows([example("a b c d e", "f g")], tokenizer, max_query=2)
    assert texts(windows, 0) == "[CLS] a b [SEP] f g [SEP]".split()


def test_a_question_without_room_is_named(tokenizer):
    with pytest.raises(InputError, match="0_001.*max_length"):
        make_windows([example("a b c d e", "f")], tokenizer, max_length=8)


def test_nothing_to_read_is_an_error_and_an_empty_context_is_not(tokenizer):
    with pytest.raises(InputError, match="no examples"):
        make_windows([], tokenizer)
    windows = make_windows([example("gene", "")], tokenizer)
    assert texts(windows, 0) == "[CLS] gene [SEP] [SEP]".split()
    assert not windows.can_start.any()


def test_greek_letters_and_case_keep_original_offsets(tokenizer):
    context = "The TNF-α gene"
    windows = make_windows([example("gene", context, "TNF-α")], tokenizer, training=True)
    first, last = windows.start[0], windows.end[0]
    assert context[windows.chars[first, 0] : windows.chars[last, 1]] == "TNF-α"


@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 70))
def test_every_token_has_exactly_one_best_window(tokens, room, step):
    seen = np.zeros(tokens, int)
    previous = -1
    for low, high, first, last in _cut(tokens, room, step):
        assert 0 <= low < high <= tokens
        assert high - low <= room
        assert low <= first <= last <= high
        assert low > previous
        previous = low
        seen[first:last] += 1
    assert (seen == 1).all()


def test_the_best_window_has_most_context_on_the_poorer_side():
    # windows 0:20, 6:26, ...; token 19 sees 0 to its right in the first and 6 in the second
    cuts = _cut(41, 20, 6)
    owner = next(i for i, (_, _, a, b) in enumerate(cuts) if a <= 19 < b)
    low, high = cuts[owner][:2]
    assert min(19 - low, high - 1 - 19) == max(
        min(19 - a, b - 1 - 19) for a, b, _, _ in cuts if a <= 19 < b
    )


@given(st.lists(st.integers(3, 384), min_size=1, max_size=200), st.integers(1, 32))
def test_an_epoch_holds_every_row_once(lengths, size):
    plan = training_batches(lengths, size, seed=3, epoch=1)
    assert sorted(r for batch in plan for r in batch) == list(range(len(lengths)))
    assert max(map(len, plan)) <= size
    assert plan == training_batches(lengths, size, seed=3, epoch=1)


def test_epochs_and_seeds_differ():
    lengths = list(range(3, 203))
    plans = [training_batches(lengths, 8, s, e) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert plans[0] != plans[1] != plans[2] != plans[0]


@given(st.lists(st.integers(3, 384), min_size=1, max_size=200))
def test_prediction_batches_keep_to_the_budget(lengths):
    plan = prediction_batches(lengths, tokens=1000)
    assert sorted(r for batch in plan for r in batch) == list(range(len(lengths)))
    assert all(sum(lengths[r] for r in batch) <= 1000 for batch in plan)


def test_gather_keeps_each_window_whole(tokenizer):
    examples = [example("gene", "a b c", "b"), example("which gene", "d", "d")]
    windows = make_windows(examples, tokenizer, training=True)
    batch = gather(windows, [1, 0])
    assert batch.lengths == (6, 7)
    assert [VOCAB[i] for i in batch.ids[:6]] == "[CLS] which gene [SEP] d [SEP]".split()
    assert batch.start.tolist() == [4, 4]
    assert batch.positions.tolist() == [*range(6), *range(7)]


def test_a_vocabulary_must_be_berts(tmp_path):
    with pytest.raises(InputError, match="no such vocabulary"):
        read_vocab(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"lacks \[CLS\]"):
        read_vocab(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    assert read_vocab(tmp_path / "vocab.txt") == VOCAB


def test_span_in_an_overlap_is_a_target_in_each_window_that_shows_it_whole(tokenizer):
    context = " ".join("abcdefgh"[i % 8] for i in range(40))
    pair = Example("0_001", "0", "gene", context, (Span(24, 29, context[24:29]),), 0, "")
    windows = make_windows([pair], tokenizer, max_length=24, step=6, training=True)
    for row, target in enumerate(windows.start):
        first = windows.chars[windows.bounds[row] + 3, 0] // 2
        shown = first <= 12 and 14 < first + 20
        assert (target > 0) == shown


LETTERS = "aAbéİßας中2#-,.() \t\n\r\x07\x1c\x85\u00a0\u00ad\u0301\u200b\u202f\u2028\u3000🧬"
TEXTS = st.text(LETTERS) | st.lists(
    st.sampled_from(["[MASK]", "a[SEP]b", "abab", "ab-ab", "Ab,", "\u0301a", "a" * 101, "\u200b"])
).map(" ".join)
RICH = make_tokenizer([*VOCAB, "ab", "##a", "##b", "##ab", "é", "2", "#", "中"])
OTHER = Tokenizer.from_str(RICH.to_str())  # Its tokens may depend on the words around them.
OTHER.normalizer = Sequence([NFKC(), Replace("a b", "ab"), Lowercase()])


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=5), st.sampled_from([RICH, OTHER]))
def test_tokenizing_words_gives_the_tokens_of_whole_texts(contexts, tokenizer):
    windows = make_windows([example("gene", text) for text in contexts], tokenizer, max_length=999)
    for row, text in enumerate(contexts):
        whole = tokenizer.encode(text, add_special_tokens=False)
        inside = slice(windows.bounds[row] + 3, windows.bounds[row + 1] - 1)
        assert windows.ids[inside].tolist() == whole.ids
        assert list(map(tuple, windows.chars[inside].tolist())) == whole.offsets


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.sampled_from([RICH, OTHER]))
def test_simple_answers_have_the_offsets_of_their_tokens(text, tokenizer):
    windows = make_windows([example("gene", text)], tokenizer, max_length=999)
    literal, unique, chars = (a[3:-1] for a in (windows.literal, windows.unique, windows.chars))
    for first in np.flatnonzero(unique):
        for last in range(first, len(chars)):
            if literal[first : last + 1].all():
                start, end, _ = windows.detokenizers[0].decode(first, last)
                assert (start, end) == (chars[first, 0], chars[last, 1])


def test_most_tokens_of_plain_words_are_literal_and_unique(tokenizer):
    text = "CFTR in fib-fibrosis\u200b, a 🧬 \u200b b"
    windows = make_windows([example("gene", text)], tokenizer)
    shown = list(zip(texts(windows, 0), windows.literal, windows.unique, strict=True))[3:-1]
    assert [token for token, literal, _ in shown if not literal] == [
        *["fib", "-", "fib", "##rosis", ","], "[UNK]", "b"
    ]  # fmt: skip
    assert [n for n, (_, _, unique) in enumerate(shown) if not unique] == [4]  # the second "fib"
    training = make_windows([example("gene", text, "cftr")], tokenizer, training=True)
    assert not training.literal.any() and not training.unique.any() and not training.detokenizers
