"""What finished runs say about a published row, by a rule that was written down beforehand.

A verdict compares figures on the *same* questions, so resampling the questions is the wrong
yardstick: the questions are fixed, and what differs from one training to the next is the seed.
The rule therefore compares the mean over seeds with the claim, by a margin derived from the spread
over seeds. ``BIOASQ_TESTS`` and ``SQUAD_TESTS`` say what must agree first; ``RULE`` is written from
them, so the prose and the decision cannot drift apart.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from helpers.scoring.claims import (
    CLAIMS,
    MEASURES,
    QUESTIONS_7B,
    SQUAD_DEV,
    SQUAD_TRAIN,
    UNPUBLISHED,
    Claim,
)

# Points, on 162 questions. Measured: 0.8 to 2.2 for the trained rows of docs/results, 1.4 pooled.
SEED_SD = 1.5
ENOUGH = 3  # seeds


def margin(questions: int, seeds: int) -> float:
    """How far the mean over seeds may lie from a claim on so many questions, in points.

    The claim is one training with an unknown seed. If ours is the same procedure, the claim varies
    by ``SEED_SD`` and a mean over m seeds by ``SEED_SD`` / √m, so their difference varies by
    ``SEED_SD`` · √(1 + 1/m) and stays within twice that in 95% of all cases. On n questions instead
    of 162 the spread over seeds is taken to be √(162/n) times as large.
    """
    return 2 * SEED_SD * math.sqrt(162 / questions * (1 + 1 / seeds))


def widest(questions: int) -> float:
    """The standard deviation over seeds, in points, above which the margin has lost its basis."""
    return 2 * SEED_SD * math.sqrt(162 / questions)


OUTCOMES = {
    "reproduced": f"at least {ENOUGH} seeds, the mean of every figure within the margin, and no "
    f"figure's standard deviation over seeds above {widest(162):g} points",
    "compatible": "every mean within the margin, but fewer seeds or a wider spread; one or two "
    "seeds can show no more than this",
    "not reproduced": "the mean of at least one figure lies outside the margin",
    "not comparable": "the runs and the claim differ in what the table below lists",
}


@dataclass(frozen=True)
class Requirement:
    """One thing in which a run must agree with a claim before their figures are compared."""

    subject: str
    must: str
    why: str
    differs: Callable[[Claim, Mapping], str]  # claim, scores.json -> what differs, "" if nothing


@dataclass(frozen=True)
class Verdict:
    """``outcome`` is a key of ``OUTCOMES``, ``sentence`` gives the figures or the differences.

    ``differing`` are the subjects of the tests that failed.
    """

    claim: str
    outcome: str
    sentence: str
    differing: tuple[str, ...] = ()


def verdict(claim: Claim, runs: Sequence[Mapping]) -> Verdict:
    """What runs say about a claim, by ``RULE``.

    ``runs`` are the ``scores.json`` of runs that differ in nothing but the seed. A seed that is
    given twice counts once.
    """
    runs = list({run.get("seed"): run for run in runs}.values())
    squad = "F1" in claim.corrected
    tests = SQUAD_TESTS if squad else BIOASQ_TESTS
    found = {t.subject: text for run in runs for t in tests if (text := t.differs(claim, run))}
    if found:
        sentence = f"Not comparable with {claim.key}: {'; '.join(found.values())}."
        return Verdict(claim.key, "not comparable", sentence, tuple(found))
    questions = SQUAD_DEV if squad else claim.n
    allowed, texts, outside, spread = margin(questions, len(runs)), [], [], 0.0
    for measure in claim.corrected:
        figures = [_percent(claim, run, measure) for run in runs]
        printed, mean = 100 * claim.value(measure), statistics.fmean(figures)
        texts.append(f"{measure} {mean:.2f} against {printed:.2f} ({mean - printed:+.2f})")
        if len(figures) > 1:
            spread = max(spread, statistics.stdev(figures))
        if abs(mean - printed) > allowed + 1e-9:
            outside.append(measure)
    seeds = "1 seed" if len(runs) == 1 else f"mean of {len(runs)} seeds"
    sentence = f"{', '.join(texts)}; {seeds}, margin {allowed:.2f} points"
    if outside:
        outcome, reason = "not reproduced", f"outside it: {', '.join(outside)}"
    elif len(runs) < ENOUGH:
        outcome, reason = "compatible", f"{ENOUGH} seeds are needed for more"
    elif spread > widest(questions):
        outcome, reason = "compatible", f"a spread of {spread:.2f} points is too wide for more"
    else:
        outcome, reason = "reproduced", "all within it"
    return Verdict(claim.key, outcome, f"{sentence}; {reason}.")


def judge(runs: Sequence[Mapping], claims: Sequence[Claim] = CLAIMS) -> list[Verdict]:
    """The verdict on every published row; ``runs`` as in ``verdict``."""
    return [verdict(claim, runs) for claim in claims]


def summary(found: Sequence[Verdict]) -> list[str]:
    """Verdicts as lines of text: those with figures, then the others by what differs."""
    lines, others = [], {}
    for one in found:
        if one.differing:
            others.setdefault(", ".join(one.differing), []).append(one.claim)
        else:
            lines.append(f"{one.claim}: {one.outcome}. {one.sentence}")
    for subjects, keys in others.items():
        lines.append(f"not comparable (different: {subjects}): {', '.join(keys)}")
    return lines


def _percent(claim: Claim, scores: Mapping, measure: str) -> float:
    """A run's figure on the claim's questions; one batch can be read off a run on all five."""
    if measure == "F1":
        return 100 * scores["squad_step"]["judged"]["f1"]
    rows = [row for row in scores["batches"] if row["batch"] in claim.batches]
    return 100 * sum(row["n"] * row[measure.lower()] for row in rows) / claim.n


def _questions(claim: Claim, scores: Mapping) -> str:
    ran = {row["batch"]: row["n"] for row in scores["batches"]}
    marks = {row["batch"]: row.get("questions") for row in scores["batches"]}
    wanted = claim.batches
    same = wanted and {name: ran.get(name) for name in wanted} == dict(wanted)
    # A claim on one batch can be read off a run on all; a claim on all needs just those.
    if not same or (len(wanted) > 1 and len(ran) != len(wanted)):
        have = f"{', '.join(ran)}, {sum(ran.values())} questions"
        need = f", {claim.n} questions" if claim.n else ""
        return f"other data (the run has {have}; the claim is on {claim.data}{need})"
    if any(marks[name] != QUESTIONS_7B[name] for name in wanted):
        return f"other data (the batches hold other questions than {claim.data})"
    return ""


def _missing(claim: Claim, scores: Mapping) -> str:
    rows = [row for row in scores["batches"] if row["batch"] in claim.batches]
    if any(row["counted"] != row["n"] for row in rows):
        return "other protocol (the run drops missing questions instead of failing them)"
    return ""


def _model(claim: Claim, scores: Mapping) -> str:
    model, name = str(scores.get("model") or ""), _plain(str(scores.get("model") or ""))
    step = scores.get("squad_step") or {}
    if step:  # a base model after all of SQuAD v1.1 is what NVIDIA published as ...SQuADv1
        questions = step["train_questions"]
        name += "squadv1" if questions == SQUAD_TRAIN else f"+{questions}squad"
        model += f" after {questions} SQuAD questions"
    if name not in claim.models:
        return f"other model (the run's is {model or 'not named'}, the claim's {claim.system})"
    weights = scores.get("parameters") or 0
    # A vocabulary that is not padded takes 0.02% less.
    if claim.parameters and abs(weights / claim.parameters - 1) >= 0.001:
        return (
            f"other model (the run's has {weights:,} weights, {claim.system} {claim.parameters:,})"
        )
    return ""


def _plain(model: str) -> str:
    # "BioMegatron345mUncasedSQuADv1", a folder or a .nemo file of that name: one and the same.
    name = model.replace("\\", "/").rstrip("/").rpartition("/")[2].lower().removesuffix(".nemo")
    return "".join(character for character in name if character.isalnum())


def _context(claim: Claim, scores: Mapping) -> str:
    have, wanted = scores.get("context") or "not named", claim.protocol.context
    if wanted == UNPUBLISHED:
        return "its source does not say which context was read"
    return "" if have == wanted else f"other context (the run's is {have}, the claim's {wanted})"


def _epochs(claim: Claim, scores: Mapping) -> str:
    have, wanted = scores.get("epochs"), claim.protocol.epochs
    same = not scores.get("train_pairs") or str(have) == wanted.split()[0]
    return "" if same else f"other protocol (the run took {have} epochs, the claim {wanted})"


def _squad_questions(claim: Claim, scores: Mapping) -> str:
    judged = (scores.get("squad_step") or {}).get("judged") or {}
    if judged.get("questions") == SQUAD_DEV:
        return ""
    have = f"{judged['questions']} questions" if judged else "none"
    return f"other data (the claim is on {claim.data}, {SQUAD_DEV} questions; the run: {have})"


def _squad_epochs(claim: Claim, scores: Mapping) -> str:
    step, wanted = scores.get("squad_step") or {}, claim.protocol.epochs
    same = not step or f"{step['epochs']} on SQuAD" == wanted
    return (
        ""
        if same
        else f"other protocol (the run took {step['epochs']} epochs, the claim's {wanted})"
    )


def _when(differs: Callable[[Mapping], bool], text: str) -> Callable[[Claim, Mapping], str]:
    """A test that looks at the run alone; ``text`` may name fields of ``scores.json``."""
    return lambda claim, scores: text.format_map(scores) if differs(scores) else ""


_MODEL = Requirement(
    "model", "is the claim's by name and, where the source gives it, by number of weights",
    "another model is another experiment", _model,
)  # fmt: skip
BIOASQ_TESTS = (
    Requirement(
        "source", "is compared only if the claim's questions are known",
        "a figure on unknown questions cannot be checked", lambda claim, scores: claim.unusable,
    ),
    Requirement(
        "profile", "is not of profile `mini`", "BioASQ-mini is teaching data",
        _when(lambda s: s.get("profile") == "mini", "other data (profile mini is teaching data)"),
    ),
    Requirement(
        "questions", "has the claim's batches: their names, numbers of questions and ids",
        "only scores on the same questions can be compared", _questions,
    ),
    Requirement(
        "missing answers", "counts them as wrong", "dropping them raises a score", _missing
    ),
    _MODEL,
    Requirement(
        "context", "reads the text that the claim's source names: snippets or full abstracts",
        "an abstract holds more answers, and more text to get lost in", _context,
    ),
    Requirement(
        "golden snippets", "reads the official test input",
        "golden files hold more than twice as many snippets",
        _when(lambda s: s.get("enriched"),
              "other context (the run reads golden files, which hold extra snippets)"),
    ),
    Requirement(
        "BioASQ step", "is trained on BioASQ", "so was every model behind a claim on BioASQ",
        _when(lambda s: not s.get("train_pairs"),
              "other protocol (the run skips the BioASQ step that made the claim)"),
    ),
    Requirement(
        "epochs", "is trained on BioASQ for as many epochs", "more epochs give other scores",
        _epochs,
    ),
    Requirement(
        "leaks", "refuses training files with test questions", "a leak raises a score",
        _when(lambda s: s.get("allow_leak"),
              "other training data (the run was allowed to train on test questions)"),
    ),
    Requirement(
        "matching", "is trained on verbatim answers only",
        "early versions of the kit also had looser matches, which are other training data",
        _when(lambda s: s.get("rungs"), "other training data (looser matches: {rungs})"),
    ),
    Requirement(
        "merging", "adds up the probabilities of equal answers", "the published script does so",
        _when(lambda s: s.get("merge", "sum") != "sum",
              "other protocol (the run merges by {merge}, the claim's script adds up)"),
    ),
)  # fmt: skip
SQUAD_TESTS = (
    Requirement(
        "SQuAD questions", f"is scored on all {SQUAD_DEV:,} questions of SQuAD v1.1's dev set",
        "only scores on the same questions can be compared", _squad_questions,
    ),
    _MODEL,
    Requirement(
        "SQuAD epochs", "is trained on SQuAD for as many epochs", "more epochs give other scores",
        _squad_epochs,
    ),
)  # fmt: skip


def rule() -> str:
    """The rule in Markdown, written from the outcomes and tests."""
    steps = ", ".join(f"{margin(162, seeds):.1f} with {seeds}" for seeds in (1, 2, 3, 10))
    lines = [
        f"**Margin.** The mean over seeds may lie {widest(162):g} · √(1 + 1/seeds) points from the "
        f"claim, in each of {', '.join(MEASURES)}: {steps} seeds. This is twice the standard "
        f"deviation of the difference between one unseeded run, which the claim is, and a mean "
        f"over seeds, when one seed varies by {SEED_SD:g} points; one question is 0.62 points. "
        "On n questions instead of 162 it is √(162/n) times as wide.",
        "",
        *(f"- **{outcome}**: {text}." for outcome, text in OUTCOMES.items()),
        "",
        "| compared | a run … | because |",
        "|---|---|---|",
    ]
    tests = dict.fromkeys(BIOASQ_TESTS + SQUAD_TESTS)
    lines += [f"| {test.subject} | {test.must} | {test.why} |" for test in tests]
    lines += [
        "",
        "Not compared, because the sources do not give it or `scores.json` does not hold it: the "
        "training rows, the learning rate, the batch size, and how the model cards averaged over "
        "batches (the run's pooled score is compared with the figure under its corrected label).",
    ]
    return "\n".join(lines)


RULE = rule()
