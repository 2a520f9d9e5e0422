"""The instant checks accept right functions and describe what is wrong with others."""

import numpy as np
import pytest

from helpers.data.spans import find_spans
from helpers.views import lessons


def pairs(context, synonyms):
    return [(span.start, span.end) for span in find_spans(context, synonyms)]


def test_a_right_function_passes(capsys):
    lessons.check_find_spans(pairs)
    assert capsys.readouterr().out == "pairs agrees with the package in all 205 cases.\n"


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
