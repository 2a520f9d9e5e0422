"""The instant checks accept right functions and describe what is wrong with others."""

import numpy as np
import pytest
import torch

from helpers.data.spans import find_spans
from helpers.views import lessons


def pairs(context, synonyms):
    return [(span.start, span.end) for span in find_spans(context, synonyms)]


def test_a_right_function_passes(capsys):
    lessons.check_find_spans(pairs)
    assert capsys.readouterr().out == "pairs agrees with the package in all 208 cases.\n"


def test_a_plain_search_is_told_the_first_case_that_differs():
    def search(context, synonyms):
        starts = [(context.lower().find(text.lower()), len(text)) for text in synonyms]
        return sorted((start, start + size) for start, size in starts if start >= 0)

    with pytest.raises(lessons.NotYet, match=r"search\('TNF and TNF-alpha', \['TNF'\]\) must ret"):
        lessons.check_find_spans(search)


def test_a_function_without_return_and_one_that_crashes():
    with pytest.raises(lessons.NotYet, match="does your function end with `return`"):
        lessons.check_find_spans(lambda context, synonyms: None)
    with pytest.raises(lessons.NotYet, match="raised ZeroDivisionError: division by zero"):
        lessons.check_find_spans(lambda context, synonyms: 1 / 0)


def test_a_function_may_change_its_arguments():
    def clears(context, synonyms):
        found = pairs(context, synonyms)
        synonyms.clear()
        return found

    lessons.check_find_spans(clears)


def labels(offsets, start, end, low, high, before):
    touched = [n for n, (a, b) in enumerate(offsets) if a < end and b > start]
    if touched[0] < low or touched[-1] >= high:
        return 0, 0
    return touched[0] - low + before, touched[-1] - low + before


def test_right_token_labels_pass(capsys):
    lessons.check_token_labels(labels)
    assert "labels agrees with the package in all 1" in capsys.readouterr().out


@pytest.mark.parametrize("mistake", ["cut off", "no window", "no question", "touch"])
def test_token_labels_with_a_usual_mistake_are_told(mistake):
    def mine(offsets, start, end, low, high, before):
        if mistake == "cut off":  # labels the part of the answer that is in the window
            touched = [n for n in range(low, high) if offsets[n][0] < end and offsets[n][1] > start]
            return (touched[0] - low + before, touched[-1] - low + before) if touched else (0, 0)
        if mistake == "touch":  # a token that ends where the answer starts
            start -= 1
        if mistake == "no window":
            return labels(offsets, start, end, 0, len(offsets), before)
        before = 0 if mistake == "no question" else before
        return labels(offsets, start, end, low, high, before)

    with pytest.raises(lessons.NotYet, match="must return"):
        lessons.check_token_labels(mine)


def loss(logits, lengths, start, end):
    parts = zip(logits.split(lengths), start, end, strict=True)
    cross_entropy = torch.nn.functional.cross_entropy
    losses = [
        cross_entropy(own.T, torch.tensor([first, last])) for own, first, last in parts
    ]  # fmt: skip
    return torch.stack(losses).mean()


def test_a_right_span_loss_passes_as_a_tensor_or_a_number(capsys):
    lessons.check_span_loss(loss)
    lessons.check_span_loss(lambda *case: float(loss(*case)))
    assert "loss agrees with the package in all 204 cases." in capsys.readouterr().out


@pytest.mark.parametrize("mistake", ["padding", "overflow", "sum", "none", "per window"])
def test_a_span_loss_with_a_usual_mistake_is_told(mistake):
    def mine(logits, lengths, start, end):
        if mistake == "none":
            return None
        if mistake == "sum":
            return 2 * loss(logits, lengths, start, end)
        if mistake == "per window":
            return torch.zeros(2)
        if mistake == "overflow":
            logits = logits.exp().log()
        else:
            padded = torch.nn.utils.rnn.pad_sequence(logits.split(lengths), batch_first=True)
            logits, lengths = padded.flatten(0, 1), [max(lengths)] * len(lengths)
        return loss(logits, lengths, start, end)

    said = {"none": "returned nothing", "per window": "raised RuntimeError"}
    with pytest.raises(lessons.NotYet, match=said.get(mistake, "must return")):
        lessons.check_span_loss(mine)


def window_spans(start, end, size, longest):
    starts = np.argsort(-start, kind="stable")[:size]
    ends = np.argsort(-end, kind="stable")[:size]
    spans = [(i, j) for i in starts for j in ends if i <= j < i + longest]
    return sorted(spans, key=lambda span: -(start[span[0]] + end[span[1]]))[:size]


def test_best_spans_of_a_window(capsys):
    lessons.check_best_spans(window_spans)
    assert capsys.readouterr().out == "window_spans agrees with the package in all 205 cases.\n"


@pytest.mark.parametrize(
    ("condition", "case"),
    [
        (lambda i, j, longest: True, "0., 5"),  # ends before it starts
        (lambda i, j, longest: i <= j, "5., 1"),  # too long
        (lambda i, j, longest: i <= j <= i + longest, "5., 1"),  # one token too long
        (lambda i, j, longest: i < j < i + longest, "0.5, 1"),  # one token is a span, too
    ],
)
def test_wrong_spans_are_told_a_small_case(condition, case):
    def spans(start, end, size, longest):
        starts, ends = (np.argsort(-logits, kind="stable")[:size] for logits in (start, end))
        found = [(i, j) for i in starts for j in ends if condition(i, j, longest)]
        return sorted(found, key=lambda span: -(start[span[0]] + end[span[1]]))[:size]

    with pytest.raises(lessons.NotYet, match=rf"spans\(array\(\[{case}.* must return"):
        lessons.check_best_spans(spans)


def test_all_pairs_instead_of_the_best_starts_and_ends_are_noticed():
    def spans(start, end, size, longest):
        return window_spans(start, end, len(start), longest)[:size]

    with pytest.raises(lessons.NotYet, match=r"\], 1, 2\) must return|must return \[\]"):
        lessons.check_best_spans(spans)


def merge_snippets(nbests, merge):
    answers = {}
    for text, share in sorted((x for nbest in nbests for x in nbest), key=lambda x: -x[1]):
        spelled, score = answers.get(text.lower(), (text, 0.0))
        score = score + share if merge == "sum" else max(score, share)
        answers[text.lower()] = (spelled, score)
    return sorted(answers.values(), key=lambda x: -x[1])[:5]


def test_merging_snippets(capsys):
    lessons.check_merge(merge_snippets)
    assert capsys.readouterr().out == "merge_snippets agrees with the package in all 207 cases.\n"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda nbests, merge: merge_snippets(nbests, "sum"), r"'max'\) must return \[\('zinc'"),
        (lambda nbests, merge: merge_snippets(nbests[:1], merge), "'sum'"),
        (lambda nbests, merge: merge_snippets(nbests, merge)[:4], r"\('e', 0.2.* must return"),
        (
            lambda nbests, merge: [(t.lower(), s) for t, s in merge_snippets(nbests, merge)],
            r"must return \[\('Zinc', 0.89",
        ),
    ],
)
def test_wrong_merges_are_told_what_differs(wrong, told):
    with pytest.raises(lessons.NotYet, match=told):
        lessons.check_merge(wrong)
