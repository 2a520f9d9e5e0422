"""The hidden checks of lessons and exercises. Submissions import this file during grading.

Participants do not receive it: it is neither in a notebook nor in a folder that nbgrader releases.
Each check gets the participant's global variables and raises ``AssertionError`` or ``NotYet`` with
a message in the participant's terms. The feedback shows the message but not the code of the check.
``course.py`` chooses a new seed for the random inputs of each course (``HIDDEN_CHECKS_SEED``).
"""

from __future__ import annotations

import functools
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from helpers.views import lessons
from helpers.views.lessons import NotYet

SEED = int(os.environ.get("HIDDEN_CHECKS_SEED", "1"))
lessons.SEED = SEED  # so that the checks of the lessons use other random cases
_CASES = 100

Names = Mapping[str, Any]


def check(name: str, names: Names) -> None:
    """Run the hidden checks of an exercise ("02.1") or of a lesson (the name of its function).

    ``names`` contains the participant's global variables. Raises ``NotYet`` if a check fails, if
    the participant's code raises an exception, or if nbgrader interrupts it.
    """
    try:
        CHECKS[name](names)
        return
    except NotYet:
        raise
    except AssertionError as error:
        message = str(error)
    except KeyboardInterrupt:
        message = "did not finish in time"
    except Exception as error:
        message = f"raised {type(error).__name__}: {error}"
    raise NotYet(f"{name}: {message}")  # without a traceback, which would show the check


def value(names: Names, name: str) -> Any:
    """Return one of the participant's variables. Raises ``NotYet`` if it does not exist."""
    if name not in names:
        raise NotYet(f"`{name}` is not defined")
    return names[name]


def _lesson(check_lesson: str, name: str) -> Callable[[Names], None]:
    """Return the check of a lesson, which calls the instant check with other random cases."""
    return lambda names: getattr(lessons, check_lesson)(value(names, name))


def _close(names: Names, name: str, expected: float) -> None:
    found = value(names, name)
    assert abs(found - expected) < 1e-6, f"`{name}` must be {expected:.4f}, but is {found:.4f}"


# Notebook 01


def _count_weights(names: Names) -> None:
    from helpers.model.encoder import EncoderConfig
    from helpers.views.measure import meta_model

    def right(vocab_size, hidden, layers, feed_forward, positions, token_types):
        sizes = {"vocab_size": vocab_size, "hidden": hidden, "layers": layers, "heads": 1}
        more = {"feed_forward": feed_forward, "positions": positions, "token_types": token_types}
        weights = meta_model(EncoderConfig(**sizes, **more)).parameters()
        return sum(weight.numel() for weight in weights)

    rng = random.Random(SEED)
    limits = (500, 40, 5, 90, 70, 4)
    cases = [tuple(rng.randint(1, most) for most in limits) for _ in range(10)]
    lessons.compare(value(names, "count_weights"), right, cases)


def _wordpiece(names: Names) -> None:
    from helpers.model.texts import make_tokenizer

    def right(word, vocab):
        tokenizer = make_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(vocab)])
        return tokenizer.encode(word, add_special_tokens=False).tokens

    rng = random.Random(SEED)
    cases = []
    for _ in range(_CASES):
        pieces = {"".join(rng.choices("ab", k=rng.randint(1, 3))) for _ in range(6)}
        word = "".join(rng.choices("ab", k=rng.randint(1, 8)))
        cases.append((word, {rng.choice(["", "##"]) + piece for piece in pieces}))
    lessons.compare(value(names, "wordpiece"), right, cases)


def _repaired(names: Names) -> None:
    import torch

    from helpers.model.row_order import to_ours

    mine = value(names, "repaired")

    @functools.wraps(mine)
    def as_lists(rows, heads):
        return mine(torch.tensor(rows), heads).tolist()

    rng = random.Random(SEED)
    cases = []
    for _ in range(10):
        heads, size, width = (rng.randint(1, 4) for _ in range(3))
        rows = torch.arange(float(3 * heads * size * width)).view(-1, width)
        cases.append((rows.tolist(), heads))
    lessons.compare(as_lists, lambda r, h: to_ours(torch.tensor(r), h, "2.0").tolist(), cases)


# Notebook 02


def _loose_spans(names: Names) -> None:
    cases = {
        ("IL6 and IL 6, but not IL-66", "IL-6"): [(0, 3), (8, 12)],
        ("Free kappa light chains or a κ-light chain", "κ light chain"): [(5, 23), (29, 42)],
        ("NF-κB and NF kappa B", "NF-kappa B"): [(0, 5), (10, 20)],
        ("a preTNF-α and TNF-αx", "TNF-alpha"): [],
        ("ALPHA-synuclein", "alpha synuclein"): [(0, 15)],
    }
    lessons.compare(
        value(names, "loose_spans"),
        lambda context, golds: cases[context, golds[0]],
        [(context, [gold]) for context, gold in cases],
    )


def _best_windows(names: Names) -> None:
    def right(tokens, room, step):
        lows = [0]
        while lows[-1] + room < tokens:
            lows.append(lows[-1] + min(step, room))
        scores = np.full((len(lows), tokens), -1.0)
        for window, low in enumerate(lows):
            high = min(low + room, tokens)
            inside = np.arange(low, high)
            sides = np.minimum(inside - low, high - 1 - inside)
            scores[window, low:high] = sides + 0.01 * (high - low)
        return scores.argmax(axis=0).tolist()

    rng = random.Random(SEED)
    cases = [(rng.randint(1, 60), rng.randint(1, 30), rng.randint(1, 40)) for _ in range(_CASES)]
    lessons.compare(value(names, "best_windows"), right, [(5, 9, 1), (9, 9, 4), *cases])


def _costs(names: Names) -> None:
    from helpers.run import stages

    settings, files, reader = names["settings"], names["files"], names["reader"]
    found = {cost["context"]: cost for cost in value(names, "costs")}
    for context in ["snippet", "appended", *["abstract"] * bool(files.abstracts)]:
        assert context in found, f"`costs` has no row for the setting {context}"
        rows = stages.convert_run(files, replace(settings, context=context)).train
        windows = reader.windows(rows, training=True)
        tokens = int(windows.lengths.sum())
        padding = 100 * (1 - tokens / (len(windows) * settings.max_length))
        right = {"rows": len(rows), "windows": len(windows), "tokens": tokens}
        for key, number in {**right, "padding (%)": padding}.items():
            wrong = f"{context}: {key} must be {number:.1f}, but is {found[context].get(key)}"
            assert abs(found[context].get(key, -1) - number) < 0.01, wrong


# Notebook 03


def _swap_questions(names: Names) -> None:
    from helpers.data.squad import Example

    rng = random.Random(SEED)
    for count in (2, 3, 9):
        rows = [
            Example(f"{n}_{m:03d}", str(n), f"question {n}", f"context {n}.{m}")
            for n in range(count)
            for m in range(rng.randint(1, 3))
        ]
        swapped = value(names, "swap_questions")(rows)
        same = [replace(new, question=old.question) for new, old in zip(swapped, rows, strict=True)]
        assert same == rows, "only the questions may change, and no example may be missing"
        texts = {(row.question_id, row.question) for row in swapped}
        assert len(texts) == count, "examples with one question_id must get the same question"
        assert not texts & {(row.question_id, row.question) for row in rows}, (
            f"with {count} questions, at least one keeps its own text"
        )


def _optimism(names: Names) -> None:
    from scipy.stats import binom

    rng = random.Random(SEED)
    for _ in range(8):
        p, n, looks = rng.uniform(0.2, 0.8), rng.randint(20, 400), rng.randint(1, 30)
        best = np.sum(1 - binom.cdf(np.arange(n), n, p) ** looks)  # expected number of right ones
        found = value(names, "optimism")(p, n, looks)
        wrong = f"optimism({p:.3f}, {n}, {looks}) must be about {best / n - p:.3f}, not {found:.3f}"
        assert abs(found - (best / n - p)) < 0.006, wrong


def _learning_curve(names: Names) -> None:
    curve = list(map(tuple, value(names, "curve")))
    assert [count for count, _ in curve] == [64, 192], "`curve` needs the counts 64 and 192"
    both, alone = (value(names, "learning_curve")(counts) for counts in ([8, 24], [24]))
    assert tuple(both[1]) == tuple(alone[0]), "for each count, start from the untrained checkpoint"


# Notebook 04


def _first_dev_answers(names: Names):
    """Return ``confidence.first_answers`` of the dev questions at the fitted temperature."""
    from helpers.model.decoding import rank_answers
    from helpers.scoring import confidence

    dev, merge = names["dev"], names["settings"].merge
    lists = [confidence.at_temperature(nbest, names["temperature"]) for nbest in names["held_out"]]
    contexts = Counter(example.question_id for example in dev)
    ranked = rank_answers(dev, lists, merge=merge)
    return confidence.first_answers(ranked, _dev_golds(dev), contexts, merge)


def _dev_golds(dev: Sequence) -> dict[str, list[str]]:
    golds: dict[str, list[str]] = {}
    for example in dev:
        golds.setdefault(example.question_id, []).extend(span.text for span in example.spans)
    return golds


def _when_sure(names: Names) -> None:
    from helpers.scoring import confidence

    first, after = _first_dev_answers(names), names["after"]
    curve = confidence.risk_coverage(first["confidence"], first["right"])
    allowed = curve[curve["risk"] <= 0.1]
    _close(names, "dev_coverage", allowed["coverage"].max() if len(allowed) else 0.0)
    answered = (first["confidence"] >= value(names, "threshold")).mean()
    assert abs(answered - names["dev_coverage"]) < 1e-6, (
        f"with this threshold, the coverage on the dev questions is {answered:.3f}"
    )
    given = after[after["confidence"] >= names["threshold"]]
    _close(names, "coverage", len(given) / len(after))
    _close(names, "risk", 1 - given["right"].mean() if len(given) else 0.0)


def _ways_to_vote(names: Names) -> None:
    from helpers.model.decoding import rank_answers
    from helpers.scoring.metrics import hit_rank

    def weighted(nbest):
        return [replace(c, probability=c.probability * nbest[0].probability) for c in nbest]

    parts = {
        "on_dev": (names["dev"], names["held_out"], _dev_golds(names["dev"])),
        "on_test": (names["examples"], names["candidates"], names["golds"]),
    }
    for name, (pairs, lists, golds) in parts.items():
        changed = list(map(weighted, lists))
        ways = {"sum": (lists, "sum"), "max": (lists, "max"), "weighted": (changed, "sum")}
        for way, (own, merge) in ways.items():
            ranked = rank_answers(pairs, own, merge=merge)
            firsts = {q: [text for text, _ in ranked.get(q, [])[:1]] for q in golds}
            right = sum(hit_rank(firsts[q], golds[q]) == 1 for q in golds) / max(len(golds), 1)
            found = value(names, name).get(way, -1)
            wrong = f"{name}[{way!r}] must be {right:.4f}, but is {found:.4f}"
            assert abs(found - right) < 1e-6, wrong


def _short_windows(names: Names) -> None:
    from helpers.model.decoding import rank_answers

    settings, reader, examples = names["settings"], names["reader"], names["examples"]
    small = replace(reader, settings=replace(settings, max_length=32, step=32, max_query=16))
    ranked = rank_answers(examples, small.predict(examples, progress=False), merge=settings.merge)
    for row in value(names, "short").to_dict("records"):
        right = (ranked.get(row["id"]) or [("", 0)])[0][0]
        wrong = f"the first answer to {row['question']!r} must be {right!r}, not {row['answer']!r}"
        assert (row["answer"] or "") == right, wrong


# Notebook 05


def _sibling_card(names: Names) -> None:
    from helpers.scoring import arithmetic, claims

    rule = arithmetic.Averages(list(claims.TEST_7B.values()), "weighted", 2)
    assert str(value(names, "lacc")) == "59.86", "`lacc` must be the largest figure"
    assert list(value(names, "fits")) == [], "`fits` must be empty"
    for name, figure in (("strict", "39.00"), ("lenient", "59.86")):
        found, right = dict(value(names, name)), rule.ways(figure)
        assert found == right, f"`{name}` must be {right}, but is {found}"


def _disagreements(names: Names) -> None:
    largest = value(names, "largest")
    assert largest == 12, f"`largest` must be 12, but is {largest}"


def _talkative_system(names: Names) -> None:
    files = names["files"]
    for name, least, most in (("talkative", 0, 0), ("short", 0.95, 1)):
        system = value(names, name)
        batches = [batch.name for batch in system.batches]
        assert len(batches) == len(files.golds), f"`{name}` needs one answer file per batch"
        pooled = system.scores()["pooled"]
        wrong = f"`{name}` has a strict accuracy of {pooled['sacc']:.3f}"
        assert least <= pooled["sacc"] <= most, wrong
        assert pooled["sacc"] == pooled["lacc"], f"`{name}` must give one answer per question"


CHECKS: dict[str, Callable[[Names], None]] = {
    "01.1": _count_weights,
    "01.2": _wordpiece,
    "01.3": _repaired,
    "my_find_spans": _lesson("check_find_spans", "my_find_spans"),
    "02.1": _loose_spans,
    "02.2": _best_windows,
    "02.3": _costs,
    "token_labels": _lesson("check_token_labels", "token_labels"),
    "span_loss": _lesson("check_span_loss", "span_loss"),
    "03.1": _swap_questions,
    "03.2": _optimism,
    "03.3": _learning_curve,
    "window_spans": _lesson("check_best_spans", "window_spans"),
    "merge_snippets": _lesson("check_merge", "merge_snippets"),
    "04.1": _when_sure,
    "04.2": _ways_to_vote,
    "04.3": _short_windows,
    "my_scores": _lesson("check_scores", "my_scores"),
    "card": _lesson("check_card", "card"),
    "05.1": _sibling_card,
    "05.2": _disagreements,
    "05.3": _talkative_system,
}
