"""The instant checks accept right functions and describe what is wrong with others."""

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


def test_a_function_without_code_says_so():
    def waits(context, synonyms):
        raise lessons.NotYet("this cell is waiting for your code")

    with pytest.raises(lessons.NotYet, match="^this cell is waiting for your code$"):
        lessons.check_find_spans(waits)
