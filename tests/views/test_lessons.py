"""The instant checks accept right functions and describe what is wrong with others."""

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
