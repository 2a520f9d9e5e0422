"""The instant checks accept right functions and describe what is wrong with others."""

import inspect

import numpy as np
import pytest
import torch

from helpers.data.spans import find_spans
from helpers.scoring.arithmetic import Averages, counts_that_print_as
from helpers.scoring.claims import TEST_7B
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

    with pytest.raises(lessons.NotYet, match=rf"spans\(start=array\(\[{case}.* must return"):
        lessons.check_best_spans(spans)


def test_all_pairs_instead_of_the_best_starts_and_ends_are_noticed():
    def spans(start, end, size, longest):
        return window_spans(start, end, len(start), longest)[:size]

    with pytest.raises(lessons.NotYet, match=r"size=1, longest=2\) must return|must return \[\]"):
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


def test_a_function_without_code_says_so():
    def waits(context, synonyms):
        raise lessons.NotYet("your code is missing")

    with pytest.raises(lessons.NotYet, match="^your code is missing$"):
        lessons.check_find_spans(waits)


def test_numbers_of_numpy_and_torch_are_shown_as_numbers():
    with pytest.raises(
        lessons.NotYet, match=r"must return \[\(0, 1\)\], but returned \[\(1, 2\)\]"
    ):
        lessons.compare(
            lambda tokens: [(np.int64(1), torch.tensor(2))],
            lambda tokens: [(np.int64(0), np.int64(1))],
            [(np.zeros(2),)],
        )


@pytest.fixture
def cell(capsys):
    """``cell(code)`` runs a cell in IPython and returns what it prints."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    lessons.explain_missing_names()

    def run(code):
        result = shell.run_cell(code)
        return result.error_in_exec, capsys.readouterr().out

    yield run
    InteractiveShell.clear_instance()


def test_a_name_without_code_is_explained_in_one_line(cell):
    error, shown = cell("print(threshold)")
    assert isinstance(error, NameError)  # so nbgrader gives no points
    assert shown.startswith("Not yet: the name 'threshold' does not exist; is there a cell above")
    assert shown.count("\n") == 1


def test_a_misspelled_name_in_a_function_keeps_its_traceback(cell):
    _, shown = cell("def f(length):\n    return lenght\nf(1)")
    assert "NameError" in shown and "lenght" in shown and "Not yet" not in shown
