"""Instant checks of the functions that participants write in the notebooks.

Each check calls a participant's function and the package's with the same arguments: first a fixed
set that covers the difficult cases, then random ones. If all results agree, it prints one line.
Otherwise, it raises ``NotYet`` with the first case that differs. Random cases always come from the
same seed, so that a check gives the same message each time it runs.
"""

from __future__ import annotations

import copy
import functools
import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from helpers.config import InputError
from helpers.data.spans import Span, find_spans
from helpers.data.squad import Example
from helpers.model.decoding import Candidate, best_spans, rank_answers
from helpers.model.features import Batch, Windows, make_windows
from helpers.model.texts import make_tokenizer
from helpers.scoring import metrics

SEED = 0  # for the random cases
_RANDOM_CASES = 200
_VOCAB = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "which", "gene", "?", "the", "a", "in", "mutated", "so",
    "##d", "##1", "tp", "##53", "tn", "##f", "-", "alpha", "(", ")", "il", "6",
]  # fmt: skip


class NotYet(InputError):
    """A participant's function does not yet do what the lesson asks for."""

    def _render_traceback_(self) -> list[str]:  # IPython calls this instead of its own renderer
        return [f"Not yet: {self}"]


def explain_missing_names() -> None:
    """Replace the traceback with a one-line message when a notebook cell uses an undefined name.

    This happens in a check if the cell before it has no code yet. An undefined name inside a
    function keeps its usual traceback. Does nothing outside IPython.
    """
    from IPython import get_ipython

    def show(shell, kind, error, traceback, tb_offset=None):
        cell = traceback.tb_next  # the first frame is IPython's own
        if cell is not None and cell.tb_next is None:
            remedy = "is there a cell above without your code, or one that you have not run?"
            kind, error = NotYet, NotYet(f"the name {error.name!r} does not exist; {remedy}")
        shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)

    if shell := get_ipython():
        shell.set_custom_exc((NameError,), show)


def check_find_spans(mine: Callable) -> None:
    """Check ``mine(context, synonyms) -> [(start, end), ...]`` from notebook 02.

    Raises ``NotYet`` unless ``mine`` returns the offsets that ``spans.find_spans`` returns.
    """
    given = [
        ("TNF and TNF-alpha", ["TNF"]),
        ("Mutations of CAT lower catalase activity.", ["cat"]),
        ("The p53 gene is mutated.", ["p5"]),
        ("interferon (IFN)", ["IFN", "interferon"]),
        ("TNF-alpha", ["TNF", "TNF-alpha"]),
        ("Anti_TNF and CD4+ cells", ["TNF", "CD4+"]),
        ("TNF is TNF.", ["tnf", "TNF"]),
        ("No answer here.", ["insulin"]),
    ]
    rng = random.Random(SEED)
    words = ["tnf", "TNF", "TNFs", "il-6", "IL", "6", "(IL-6)", "alpha", "alphas", "and"]
    for _ in range(_RANDOM_CASES):
        context = " ".join(rng.choices(words, k=rng.randint(1, 8)))
        given.append((context, rng.sample(["TNF", "il-6", "alpha", "IL"], rng.randint(1, 3))))
    compare(
        mine,
        lambda context, terms: [(span.start, span.end) for span in find_spans(context, terms)],
        given,
    )


def check_token_labels(mine: Callable) -> None:
    """Check ``mine(offsets, start, end, low, high, before) -> (first, last)`` from notebook 03.

    Raises ``NotYet`` unless ``mine`` returns the same labels as ``features.make_windows``.
    """
    rng = random.Random(SEED)
    answers = [("the SOD1 gene", "SOD1"), ("mutated in TP53", "TP53"), ("a TNF-alpha", "TNF-alpha")]
    answers.append(("mutated (IL-6) gene", "IL-6"))  # the neighboring tokens touch the answer
    words = ["SOD1", "TP53", "TNF-alpha", "gene", "mutated", "in", "(IL-6)", "the", "a"]
    for _ in range(_RANDOM_CASES // 8):
        context = rng.choices(words, k=rng.randint(2, 12))
        first = rng.randrange(len(context))
        part = context[first : first + rng.randint(1, 4)]
        answers.append((" ".join(context), " ".join(part)))
    right = {case: labels for answer in answers for case, labels in _labeled(*answer)}
    compare(mine, lambda *case: right[case], right)


def _labeled(context: str, answer: str) -> Iterator[tuple[tuple, tuple[int, int]]]:
    """Yield the arguments and the labels of each window of a context, cut after four tokens."""
    start = context.index(answer)
    span = Span(start, start + len(answer), answer)
    pair = Example("0_001", "0", "which gene ?", context, (span,))
    tokens = make_tokenizer(_VOCAB)
    whole, cut = (
        make_windows([pair], tokens, max_length=n, step=2, training=True) for n in (64, 10)
    )
    offsets = tuple(map(tuple, whole.chars[whole.token >= 0].tolist()))
    for low, high, *label in zip(cut.bounds, cut.bounds[1:], cut.start, cut.end, strict=False):
        inside = np.flatnonzero(cut.token[low:high] >= 0)
        token = cut.token[low:high][inside]
        numbers = int(token[0]), int(token[-1]) + 1, int(inside[0])
        yield (offsets, span.start, span.end, *numbers), tuple(map(int, label))


def check_span_loss(mine: Callable) -> None:
    """Check ``mine(logits, lengths, start, end) -> loss`` from notebook 03.

    Raises ``NotYet`` unless ``mine`` returns what ``step.span_loss`` returns for the same batch.
    """
    from helpers.model.step import span_loss  # imports Lightning

    def right(logits, lengths, start, end):
        nothing = torch.zeros(len(logits), dtype=torch.long)
        labels = torch.tensor(start), torch.tensor(end)
        return span_loss(logits, Batch.pack(nothing, nothing, nothing, lengths, *labels)).item()

    @functools.wraps(mine)
    def as_number(*arguments):
        found = mine(*arguments)
        return found.item() if isinstance(found, torch.Tensor) else found

    generator = torch.Generator().manual_seed(SEED)

    def case(lengths, start, end, scale=1.0):
        logits = torch.randn(sum(lengths), 2, generator=generator, dtype=torch.float64)
        return scale * logits, lengths, start, end

    cases = [
        case([4], [1], [2], scale=0.0),  # all logits are 0: the loss is ln 4
        case([3, 6], [1, 2], [2, 2]),  # windows of different lengths share no softmax
        case([5], [0], [0]),  # [CLS] is the label of a window without the answer
        case([5], [3], [4], scale=1000.0),  # exp(1000) is infinite
    ]
    for _ in range(_RANDOM_CASES):
        lengths = torch.randint(1, 9, (3,), generator=generator).tolist()
        start, end = ([int(0.99 * n * torch.rand(1, generator=generator)) for n in lengths]
                      for _ in range(2))  # fmt: skip
        cases.append(case(lengths, start, end))
    compare(as_number, right, cases)


def check_best_spans(mine: Callable) -> None:
    """Check ``mine(start, end, size, longest) -> [(first, last), ...]`` from notebook 04.

    The first two arguments hold one logit per token of a window without a question, ``[tokens]``.
    Raises ``NotYet`` unless the spans are those of ``decoding.best_spans``, the best one first.
    """
    given = [
        ([0.5, 1.0, 0.0], [0.0, 3.0, 1.0], 2, 3),
        ([0.0, 5.0], [4.0, 1.0], 2, 2),  # the best end is before the best start
        ([5.0, 1.0, 0.0], [0.5, 2.0, 4.0], 3, 2),  # the best start and end are too far apart
        ([3.0, 1.0], [1.0, 3.5], 1, 2),  # one best start and one best end
        ([0.0, 9.0], [9.0, 0.0], 1, 2),  # no span is left
    ]
    rng = np.random.default_rng(SEED)
    for _ in range(_RANDOM_CASES):
        tokens = int(rng.integers(1, 12))
        logits = rng.normal(size=(2, tokens))
        given.append((*logits, int(rng.integers(1, 7)), int(rng.integers(1, 6))))
    compare(mine, _top_spans, [(np.array(a), np.array(b), *rest) for a, b, *rest in given])


def _top_spans(start: np.ndarray, end: np.ndarray, size: int, longest: int) -> list:
    n = len(start)
    none, inside = np.zeros(n, np.int64), np.ones(n, bool)
    window = Windows(
        ids=none, token_types=none, positions=none, chars=none, token=none, can_start=inside,
        literal=inside, unique=inside, bounds=np.array([0, n]), pair=none[:1], start=none[:1],
        end=none[:1], detokenizers=(),
    )  # fmt: skip
    _, first, last = best_spans(window, np.stack([start, end], axis=1), size, longest)
    order = np.argsort(-(start[first] + end[last]), kind="stable")[:size]
    return list(zip(first[order].tolist(), last[order].tolist(), strict=True))


def check_merge(mine: Callable) -> None:
    """Check ``mine(nbests, merge) -> [(answer, score), ...]`` from notebook 04.

    ``nbests`` has one list of (text, share) per snippet, the best one first. Raises ``NotYet``
    unless the result is that of ``decoding.rank_answers``.
    """
    votes = [[("iron", 0.5), ("zinc", 0.25)], [("iron", 0.5)], [("zinc", 0.625)]]
    given = [
        (votes, "sum"),
        (votes, "max"),
        ([[("zinc", 0.3)], [("Zinc", 0.6)]], "sum"),  # case is ignored; the best spelling is kept
        ([[("TNF", 0.5), ("tnf", 0.2)]], "sum"),  # twice in one list
        ([[(letter, 0.3 - n / 50) for n, letter in enumerate("abcdefg")]], "sum"),  # only five
        ([[], [("zinc", 0.7)]], "max"),
        ([], "sum"),
    ]
    rng = random.Random(SEED)
    words = ["zinc", "Zinc", "ZINC", "iron", "Iron", "copper", "TNF", "tnf", "iodine", "p53"]
    for n in range(_RANDOM_CASES):
        lists = [rng.sample(words, rng.randint(0, 6)) for _ in range(rng.randint(1, 4))]
        nbests = [[(text, rng.random()) for text in texts] for texts in lists]
        nbests = [sorted(nbest, key=lambda item: -item[1]) for nbest in nbests]
        given.append((nbests, ("sum", "max")[n % 2]))
    compare(mine, _merged, given)


def _merged(nbests: list, merge: str) -> list:
    examples = [Example(f"q_{n:03d}", "q", "", "") for n in range(len(nbests))]
    lists = [[Candidate(text, 0, 0, 0.0, 0.0, p) for text, p in nbest] for nbest in nbests]
    return rank_answers(examples, lists, merge=merge).get("q", [])


def check_scores(mine: Callable) -> None:
    """Check ``mine(gold, answers) -> (SAcc, MRR, LAcc)`` from notebook 05.

    Both arguments map question ids to lists of lists, as in the BioASQ files. Raises ``NotYet``
    unless the result is that of ``metrics.score_batch``. In each given case, the question id states
    the rule.
    """
    given = [
        ("case is ignored", [["CFTR"]], [["cftr"]]),
        ("a period counts", [["insulin"]], [["insulin."]]),
        ("spaces count", [["zinc"]], [["zinc "]]),
        ("all inner lists of synonyms count", [["TNF"], ["TNF-α", "cachectin"]], [["Cachectin"]]),
        ("only the first string of an inner list counts", [["zinc"]], [["iron", "zinc"]]),
        ("each inner list is one rank", [["zinc"]], [["iron", "Fe"], ["copper"], ["zinc"]]),
        ("repeated answers keep their ranks", [["zinc"]], [["iron"], ["iron"], ["zinc"]]),
        ("an empty string keeps its rank", [["zinc"]], [[""], ["zinc"]]),
        ("an empty inner list has no rank", [["zinc"]], [[], ["zinc"]]),
        ("only the first right answer counts", [["zinc"]], [["zinc"], ["iron"], ["zinc"]]),
        ("a sixth answer counts", [["zinc"]], [[str(n)] for n in range(5)] + [["zinc"]]),
        ("no answer is a wrong answer", [["zinc"]], []),
    ]  # fmt: skip
    cases = [({rule: gold}, {rule: answers}) for rule, gold, answers in given]
    cases.append(({"q1": [["zinc"]], "a question without an entry counts": [["iron"]]},
                  {"q1": [["zinc"]], "not in the golden file": [["iron"]]}))  # fmt: skip
    rng = random.Random(SEED)
    words = ["zinc", "Zinc", "iron", "IRON", "iron ", "copper", "TNF-α", ""]
    for _ in range(_RANDOM_CASES):
        names = [f"q{n}" for n in range(1, rng.randint(2, 6))]
        gold = {q: [rng.choices(words, k=rng.randint(1, 2))] for q in names}
        answers = {
            q: [rng.choices(words, k=rng.randint(0, 2)) for _ in range(rng.randint(1, 5))]
            for q in names
        }
        for name in rng.sample(names, rng.randint(0, len(names) - 1)):
            del answers[name]
        cases.append((gold, answers))
    compare(mine, _scores, cases)


def _scores(gold: dict, answers: dict) -> tuple[float, float, float]:
    pooled = {name: [text for group in groups for text in group] for name, groups in gold.items()}
    score = metrics.score_batch("", pooled, answers)
    return score.sacc, score.mrr, score.lacc


PROVED, POSSIBLE, REFUTED = "proved", "possible", "refuted"
_ABOUT_THE_CARD = (  # in the order of notebook 05: the verdict on each statement, and why
    (PROVED, "MRR cannot exceed LAcc"),
    (REFUTED, "103 of 162 prints as 63.58, and 104 of 162 prints as 64.20"),
    (POSSIBLE, "this rule can give 63.88, but also every other figure from 60.00 to 68.00"),
    (POSSIBLE, "this rule can give 63.88, but also nearly every other figure"),
    (POSSIBLE, "it is only true if the two-decimal rule is true and 7B4 has 28 right answers"),
    (POSSIBLE, "92 of 144 is 63.888…, which gives 63.88 if it is truncated"),
    (PROVED, "NVIDIA's notebook prints all digits of the official program, and only 28/34 fits"),
)  # fmt: skip


def check_card(mine: Sequence[str]) -> None:
    """Check a participant's verdicts on the seven statements about the model card in notebook 05.

    Each is "proved", "possible" or "refuted". Raises ``NotYet`` for the first verdict that differs
    from ours, with the reason.
    """
    if len(mine) != len(_ABOUT_THE_CARD):
        raise NotYet(f"{len(_ABOUT_THE_CARD)} verdicts are needed, but there are {len(mine)}")
    for number, (found, (right, why)) in enumerate(zip(mine, _ABOUT_THE_CARD, strict=True), 1):
        if found not in (PROVED, POSSIBLE, REFUTED):
            raise NotYet(
                f"statement {number}: use {PROVED}, {POSSIBLE} or {REFUTED}, not {found!r}"
            )
        if found != right:
            raise NotYet(f"statement {number} is {right}, not {found}: {why}")
    print(f"All {len(mine)} verdicts agree with ours.")


def compare(mine: Callable, right: Callable, cases: Iterable[tuple]) -> None:
    """Call both functions with each tuple of arguments, and compare the results.

    ``mine`` receives copies, because it may change its arguments. Floating-point numbers may differ
    by 1e-6. Raises ``NotYet`` if the results differ or if ``mine`` raises an exception.
    """
    cases = list(cases)
    for arguments in cases:
        call = f"{mine.__name__}({_shown(mine, arguments)})"
        try:
            found = mine(*copy.deepcopy(arguments))
        except NotYet:  # the function has no code yet
            raise
        except Exception as error:
            raise NotYet(f"{call} raised {type(error).__name__}: {error}") from error
        expected = right(*arguments)
        if found is None:
            raise NotYet(f"{call} returned nothing; does your function end with `return`?")
        if not _equal(found, expected):
            expected, found = _short(_plain(expected)), _short(_plain(found))
            raise NotYet(f"{call} must return {expected}, but returned {found}")
    print(f"{mine.__name__} agrees with the package in all {len(cases)} cases.")


def _shown(mine: Callable, arguments: tuple) -> str:
    """Return the arguments as text, with their names if there are more than two."""
    texts = [_short(value) for value in arguments]
    try:
        names = list(inspect.signature(mine).bind(*arguments).arguments)
    except (TypeError, ValueError):  # too few parameters, or a function without a signature
        names = []
    if len(names) == len(texts) > 2:
        texts = [f"{name}={text}" for name, text in zip(names, texts, strict=True)]
    return ", ".join(texts)


def _equal(found, expected) -> bool:
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(found, (list, tuple))
            and len(found) == len(expected)
            and all(map(_equal, found, expected))
        )
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and list(found) == list(expected)
            and all(_equal(found[key], value) for key, value in expected.items())
        )
    if isinstance(expected, (float, np.floating)):
        return isinstance(found, (int, float, np.number)) and abs(found - expected) < 1e-6
    return bool(np.all(found == expected))


def _plain(value):
    """Convert NumPy and torch values to plain Python values, which print as bare numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return {key: _plain(v) for key, v in value.items()} if isinstance(value, dict) else value


def _short(value, most: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= most else text[:most] + " …"
