"""The instant checks accept right functions and describe what is wrong with others."""

import inspect

import pytest

from helpers.data.spans import find_spans
from helpers.scoring.arithmetic import Averages, counts_that_print_as
from helpers.scoring.claims import TEST_7B
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


def scores(gold, answers):
    """The solution of notebook 05."""
    ranks = []
    for question, groups in gold.items():
        accepted = {text.lower() for group in groups for text in group}
        given = [group[0].lower() for group in answers.get(question, []) if group]
        ranks.append(next((i for i, text in enumerate(given, 1) if text in accepted), 0))
    values = [(rank == 1, 1 / rank if rank else 0, rank > 0) for rank in ranks]
    return tuple(sum(column) / len(ranks) for column in zip(*values, strict=True))


def test_right_scores_pass(capsys):
    lessons.check_scores(scores)
    assert capsys.readouterr().out == "scores agrees with the package in all 213 cases.\n"


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("text.lower()", "text", "case is ignored"),
        ("group[0].lower()", "group[0].strip(' .').lower()", "a period counts"),
        ("group[0].lower()", "group[0].strip().lower()", "spaces count"),
        ("for group in groups for text in group", "for text in groups[0]",
         "all inner lists of synonyms count"),
        ("[group[0].lower() for group in answers.get(question, []) if group]",
         "[text.lower() for group in answers.get(question, []) for text in group]",
         "only the first string of an inner list counts"),
        ("[group[0].lower() for group in answers.get(question, []) if group]",
         "list(dict.fromkeys(g[0].lower() for g in answers.get(question, []) if g))",
         "repeated answers keep their ranks"),
        ("if group]", "if group and group[0]]", "an empty string keeps its rank"),
        ("[group[0].lower() for group in answers.get(question, []) if group]",
         "[(group or [''])[0].lower() for group in answers.get(question, [])]",
         "an empty inner list has no rank"),
        ("enumerate(given, 1)", "enumerate(given[:5], 1)", "a sixth answer counts"),
        ("answers.get(question, [])", "answers[question]",
         "a question without an entry counts"),
        ("/ len(ranks)", "/ len(answers)", None),
    ],
)  # fmt: skip
def test_each_wrong_score_is_told_the_rule(right, wrong, rule):
    space = {}
    source = inspect.getsource(scores)
    assert right in source
    exec(source.replace(right, wrong), space)
    with pytest.raises(lessons.NotYet, match=rule):
        lessons.check_scores(space["scores"])


CARD = [verdict for verdict, _ in lessons._ABOUT_THE_CARD]


def test_right_verdicts_on_the_card_pass(capsys):
    lessons.check_card(CARD)
    assert capsys.readouterr().out == "All 7 verdicts agree with ours.\n"


@pytest.mark.parametrize("number", range(1, 8))
def test_each_wrong_verdict_is_told_the_reason(number):
    before, (own, *after) = CARD[: number - 1], CARD[number - 1 :]
    for verdict in {"proved", "possible", "refuted"} - {own}:
        with pytest.raises(lessons.NotYet, match=f"^statement {number} is {own}, not {verdict}: "):
            lessons.check_card([*before, verdict, *after])
    with pytest.raises(lessons.NotYet, match=f"statement {number}: use proved, possible or ref"):
        lessons.check_card([*before, ..., *after])
    with pytest.raises(lessons.NotYet, match="7 verdicts are needed, but there are 6"):
        lessons.check_card(before + after)


def test_the_verdicts_are_true():
    """The statements about the card, against the arithmetic."""
    sizes = list(TEST_7B.values())
    assert not counts_that_print_as("63.88", 162)
    assert Averages(sizes, "macro", None, {3: 28}).ways("63.88")
    assert list(Averages(sizes, "weighted", 2, {3: 28}).ways("63.88")) == [104]
    assert counts_that_print_as("63.88", 144)
    assert counts_that_print_as("0.8235294118", 34, 1) == [28]
