"""Published scores with their sources, what is wrong with some of them, and verdicts on them.

A row of ``CLAIMS`` keeps the digits that its source prints, because they show whether a figure can
be a share of n questions at all. Corrections stay visible, each with its reason.

A verdict compares a row with our runs on the *same* questions, so only the seed differs from one
training to the next. We therefore allow a margin that follows from the spread over seeds, not over
questions. ``RULE`` is written from the tables of tests below, so text and code agree.
"""

from __future__ import annotations

import hashlib
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import PureWindowsPath

from helpers.scoring.metrics import MEASURES

# Gold factoids of the five BioASQ-7b test batches, 162 in all.
TEST_7B = {"7B1": 39, "7B2": 25, "7B3": 29, "7B4": 34, "7B5": 35}
QUESTIONS_7B = {  # the ``questions_mark`` of each batch
    "7B1": "4cff2c27806ac5cc", "7B2": "aa480efaca00d4c2", "7B3": "76d975c0355da4ce",
    "7B4": "6691dccc98a820ea", "7B5": "d784b785772cb272",
}  # fmt: skip
SQUAD_TRAIN, SQUAD_DEV = 87_599, 10_570  # questions of SQuAD v1.1
UNPUBLISHED = "unpublished"


def questions_mark(ids: Iterable[str]) -> str:
    """16 hex digits that identify a set of questions: from the SHA-256 of their sorted ids."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Protocol:
    """How a row was made, as far as its source says."""

    training: str
    context: str  # "snippet", "appended", "abstract" or UNPUBLISHED
    epochs: str
    averaging: str


@dataclass(frozen=True)
class Claim:
    """One published row. ``reason`` says why labels are corrected, or what else to know."""

    key: str
    system: str
    protocol: Protocol
    source: str
    figures: str  # in the order, and with the digits, of the source
    labels: str = "SAcc/LAcc/MRR"  # as printed
    right_labels: str = ""  # "" when the printed ones are right
    reason: str = ""
    unit: int = 100  # 100: figures in percent, 1: fractions
    data: str = "BioASQ-7b factoid test"
    batches: Mapping[str, int] = field(default_factory=lambda: TEST_7B)  # name -> questions
    models: tuple[str, ...] = ()  # names of the same model: lower case, letters and digits only
    parameters: int = 0  # number of weights, 0 when the source does not say
    unusable: str = ""  # why no run can be compared with the row, "" when one can

    @property
    def printed(self) -> dict[str, str]:
        return dict(zip(self.labels.split("/"), self.figures.split("/"), strict=True))

    @property
    def corrected(self) -> dict[str, str]:
        """The row under the right labels, in the order of ``MEASURES``."""
        labels = (self.right_labels or self.labels).split("/")
        row = dict(zip(labels, self.figures.split("/"), strict=True))
        return {measure: row[measure] for measure in (*MEASURES, "F1") if measure in row}

    @property
    def n(self) -> int:
        return sum(self.batches.values())  # questions, 0 when the source does not say which

    def value(self, measure: str) -> float | None:
        """The corrected figure as a fraction of 1, ``None`` when the source does not give it."""
        digits = self.corrected.get(measure)
        return None if digits is None else float(Fraction(digits) / self.unit)


_NOTEBOOK = Protocol(
    "SQuAD v1.1, then BioASQ-7b train (dmis-lab's Full-Abstract files)", "abstract", "5 on BioASQ",
    "called weighted; how the batches were weighted is unpublished",
)  # fmt: skip
_ONE_BATCH = replace(_NOTEBOOK, averaging="one batch, the official evaluator's own line")
_PAPER = Protocol("SQuAD v1.1, then BioASQ-7b train", UNPUBLISHED, "10 on SQuAD, 30 on BioASQ",
                  UNPUBLISHED)  # fmt: skip
_PAPER_NO_SQUAD = replace(_PAPER, training="BioASQ-7b train only", epochs="30 on BioASQ")
_PAPER_SQUAD = Protocol("SQuAD v1.1 train", "SQuAD paragraph", "10 on SQuAD", UNPUBLISHED)
_README = Protocol("BioASQ-7b train", "snippet", "3", "pooled over the 162 questions")
_README_SQUAD = replace(_README, training="SQuAD, then BioASQ-7b train")

_CARD = "NGC model card {} (NVIDIA)"
_NEMO = "NVIDIA NeMo, examples/nlp/biobert_notebooks/biobert_qa.ipynb"
_TABLE_2 = "Shin et al. 2020, BioMegatron, arXiv 2010.06060, table 2"
_DMIS = "dmis-lab/biobert-pytorch, question-answering/README.md"

_BIOMEGATRON, _BIOBERT = "BioMegatron 345M uncased, SQuAD v1.1", "BioBERT base cased, SQuAD v1.1"
_345M = ("biomegatron345muncasedsquadv1",)
# The weights: 24 layers of 1024, the vocabulary padded to 30,592 rows, span head.
_345M_CHECKPOINT = {"models": _345M, "parameters": 334_166_018}
_BIOBERT_CHECKPOINT = {"models": ("biobertbasecasedsquadv1",)}
_SWAPPED = {
    "labels": "SAcc/MRR/LAcc",
    "right_labels": "SAcc/LAcc/MRR",
    "reason": "The labels of MRR and LAcc are swapped. MRR cannot exceed LAcc: a question with a "
    "right answer adds 1 to the lenient hits and at most 1 to the reciprocal ranks; all others add "
    "nothing. NVIDIA's notebook and the evaluator itself print SAcc, LAcc, MRR in this order.",
}
_TWO_VERSIONS = (
    "NeMo's history has two versions of this table; in commit 01714e6 the names of the two systems "
    "are swapped. The figures are those of the model cards, rounded, so we follow the cards."
)

CLAIMS = (
    Claim("card", _BIOMEGATRON, _NOTEBOOK, _CARD.format("BioMegatron345mUncasedSQuADv1"),
          "48/63.88/53.87", **_345M_CHECKPOINT, **_SWAPPED),
    Claim("card-biobert", _BIOBERT, _NOTEBOOK, _CARD.format("BioBERTBaseCasedSQuADv1"),
          "39/59.86/47.03", **_BIOBERT_CHECKPOINT, **_SWAPPED),
    Claim("notebook", _BIOMEGATRON, _NOTEBOOK, _NEMO, "0.48/0.64/0.54", unit=1,
          reason=_TWO_VERSIONS, **_345M_CHECKPOINT),
    Claim("notebook-biobert", _BIOBERT, _NOTEBOOK, _NEMO, "0.39/0.6/0.47", unit=1,
          reason=_TWO_VERSIONS, **_BIOBERT_CHECKPOINT),
    Claim("notebook-7b-4", _BIOMEGATRON, _ONE_BATCH, _NEMO,
          "0.6470588235/0.8235294118/0.7254901961", unit=1, **_345M_CHECKPOINT,
          data="BioASQ-7b factoid test, batch 4", batches={"7B4": TEST_7B["7B4"]},
          reason="The only exact target: 22 and 28 of the batch's 34 questions."),
    Claim("notebook-7b-4-biobert", _BIOBERT, _ONE_BATCH, _NEMO,
          "0.45161290322580644/0.6774193548387096/0.5403225806451613", unit=1,
          **_BIOBERT_CHECKPOINT, data="said to be BioASQ-7b factoid test, batch 4", batches={},
          unusable="the questions behind it are unknown",
          reason="14 and 21 of 31 questions, but the batch has 34: the figures belong to another "
          "batch, or three questions were dropped. They are not a target."),
    Claim("paper-biobert-base", "BioBERT-Base 110M", _PAPER, _TABLE_2, "30.8/64.1/41.1"),
    Claim("paper-biobert-large", "BioBERT-Large 345M", _PAPER, _TABLE_2, "42.8/62.8/50.1"),
    Claim("paper-345m", "BioMegatron 345M uncased", _PAPER, _TABLE_2, "46.2/62.6/52.5",
          models=_345M),
    Claim("paper-800m", "BioMegatron 800M", _PAPER, _TABLE_2, "45.2/58.6/50.4"),
    Claim("paper-1.2b", "BioMegatron 1.2B", _PAPER, _TABLE_2, "47.4/60.9/52.4"),
    Claim("paper-345m-no-squad", "BioMegatron 345M, without the SQuAD step", _PAPER_NO_SQUAD,
          _TABLE_2, "33.1/50.4/39.8", models=("biomegatron345muncased",)),
    Claim("paper-megatron", "Megatron 345M of general text", _PAPER, _TABLE_2, "38.5/52.6/43.7"),
    Claim("paper-squad", "BioMegatron 345M", _PAPER_SQUAD, _TABLE_2, "90.4", labels="F1",
          data="SQuAD v1.1 dev", batches={}, models=_345M),
    Claim("dmis-bert", "BERT", _README, _DMIS, "24.69/39.51/30.91"),
    Claim("dmis-biobert", "BioBERT v1.1 base", _README, _DMIS, "31.48/45.68/37.13",
          models=("biobertbasecasedv11",),
          reason="The same README gives 33.33/45.68/38.53 for its example command with seed 0."),
    Claim("dmis-biobert-squad", "BioBERT v1.1 base, SQuAD", _README_SQUAD, _DMIS,
          "40.12/59.26/48.34", models=("biobertbasecasedv11squad",)),
)  # fmt: skip


def get(key: str) -> Claim:
    """The claim with this key; ``KeyError`` names the known ones."""
    known = {claim.key: claim for claim in CLAIMS}
    if key in known:
        return known[key]
    raise KeyError(f"{key!r}; known: {', '.join(known)}")


def in_order(figures: Mapping[str, str]) -> bool:
    """Whether SAcc ≤ MRR ≤ LAcc, which holds for every ranking of every system."""
    return Fraction(figures["SAcc"]) <= Fraction(figures["MRR"]) <= Fraction(figures["LAcc"])


def counts_that_print_as(digits: str, n: int, unit: int = 100) -> list[int]:
    """Every k of 0..n for which k/n, rounded or cut off, is printed as ``digits``.

    "48" allows 78 of 162 (48.148); "48.00" allows no k. An empty list proves that the figure is not
    a share of n questions, though it may be a mean of rounded shares. Others prove nothing.
    """
    printed = Fraction(digits)
    # The official evaluator prints all digits of a double, so the last ones are rounding errors.
    step = max(Fraction(1, 10 ** len(digits.partition(".")[2])), Fraction(unit, 2**53))
    shares = ((k, Fraction(k * unit, n)) for k in range(n + 1))
    return [k for k, share in shares if -step / 2 <= share - printed < step]


# Points, on 162 questions. Measured: 0.8 to 2.2 for the trained rows of docs/results, 1.4 pooled.
SEED_SD = 1.5
MIN_SEEDS = 3  # to call a claim reproduced


def margin(questions: int, seeds: int) -> float:
    """How far the mean over seeds may lie from a claim on so many questions, in points.

    The claim is one training with an unknown seed: it varies by ``SEED_SD``, a mean over m seeds of
    the same procedure by ``SEED_SD`` / √m, their difference by ``SEED_SD`` · √(1 + 1/m). It stays
    within twice that in 95% of all cases. We take the spread on n questions to be √(162/n) times
    that on 162.
    """
    return 2 * SEED_SD * math.sqrt(162 / questions * (1 + 1 / seeds))


def widest(questions: int) -> float:
    """The standard deviation over seeds, in points, above which the margin has no basis."""
    return 2 * SEED_SD * math.sqrt(162 / questions)


OUTCOMES = {
    "reproduced": f"there are at least {MIN_SEEDS} seeds, the mean of every figure is within the "
    f"margin, and no figure's standard deviation over seeds is above {widest(162):g} points",
    "compatible": "every mean is within the margin, but there are fewer seeds or the spread is "
    "wider; one or two seeds cannot show more than this",
    "not reproduced": "the mean of at least one figure is outside the margin",
    "not comparable": "the runs and the claim differ in something that the table below lists",
}


@dataclass(frozen=True)
class Requirement:
    """One thing in which a run must agree with a claim before their figures are compared."""

    subject: str
    must: str
    why: str
    differs: Callable[[Claim, Mapping], object]  # of the claim and the run's scores.json
    text: str = "{found}"  # says what differs; ``found`` is what ``differs`` returned

    def difference(self, claim: Claim, run: Mapping) -> str:
        """What differs, "" if nothing."""
        found = self.differs(claim, run)
        return self.text.format(claim=claim, run=run, found=found) if found else ""


def _rows(claim: Claim, run: Mapping) -> list[Mapping]:
    return [row for row in run["batches"] if row["batch"] in claim.batches]


def _other_questions(claim: Claim, run: Mapping) -> str | None:
    sizes = {row["batch"]: row["n"] for row in run["batches"]}
    same = {row["batch"]: row["n"] for row in _rows(claim, run)} == claim.batches != {}
    # A claim on one batch can be compared with a run on all; a claim on all needs exactly those.
    if not same or (len(claim.batches) > 1 and sizes != claim.batches):
        need = f", {claim.n} questions" if claim.n else ""
        return (f"different data (the run has {', '.join(sizes)}, {sum(sizes.values())} questions; "
                f"the claim is on {claim.data}{need})")  # fmt: skip
    if any(row.get("questions") != QUESTIONS_7B[row["batch"]] for row in _rows(claim, run)):
        return f"different data (the batches do not hold the questions of {claim.data})"


def _other_model(claim: Claim, run: Mapping) -> str | None:
    model, weights = str(run["model"] or ""), run["parameters"] or 0
    # A folder, a .nemo file and another spelling of a name are the same model.
    name = re.sub(r"[\W_]", "", PureWindowsPath(model).name.lower().removesuffix(".nemo"))
    if run["squad_step"]:  # all of SQuAD v1.1 turns a base model into NVIDIA's ...SQuADv1
        questions = run["squad_step"]["train_questions"]
        name += "squadv1" if questions == SQUAD_TRAIN else f"+{questions}squad"
        model += f" after {questions} SQuAD questions"
    if name not in claim.models:
        return f"different model (the run's is {model or 'not named'}, the claim's {claim.system})"
    if claim.parameters and abs(weights / claim.parameters - 1) >= 0.001:  # padding takes 0.0002
        return (f"different model (the run's has {weights:,} weights, "
                f"{claim.system} {claim.parameters:,})")  # fmt: skip


def _other_context(claim: Claim, run: Mapping) -> str | None:
    have, wanted = run["context"] or "not named", claim.protocol.context
    if wanted == UNPUBLISHED:
        return "its source does not say which context was read"
    if have != wanted:
        return f"different context (the run's is {have}, the claim's {wanted})"


def _other_squad_questions(claim: Claim, run: Mapping) -> str | None:
    questions = ((run["squad_step"] or {}).get("judged") or {}).get("questions")
    have = f"{questions} questions" if questions else "none"
    if questions != SQUAD_DEV:
        wanted = f"the claim is on {claim.data}, {SQUAD_DEV} questions"
        return f"different data ({wanted}; the run: {have})"


# Fields of scores.json that early versions did not write.
_ABSENT = {"merge": "sum"} | dict.fromkeys(
    ("profile", "model", "parameters", "squad_step", "context", "enriched", "train_pairs",
     "epochs", "allow_leak", "rungs"))  # fmt: skip
_MODEL = Requirement(
    "model", "has the claim's name and, where the source gives it, number of weights",
    "another model is a different experiment", _other_model,
)  # fmt: skip
BIOASQ_TESTS = (
    Requirement("source", "is compared only if the claim's questions are known",
                "a figure on unknown questions cannot be checked",
                lambda claim, run: claim.unusable),
    Requirement("profile", "does not use profile `mini`", "BioASQ-mini is teaching data",
                lambda claim, run: run["profile"] == "mini",
                "different data (profile mini is teaching data)"),
    Requirement("questions",
                "has the claim's batches: the same names, numbers of questions and ids",
                "only scores on the same questions can be compared", _other_questions),
    Requirement("missing answers", "counts them as wrong", "dropping them raises a score",
                lambda claim, run: any(r["counted"] != r["n"] for r in _rows(claim, run)),
                "different protocol (the run drops missing questions instead of counting them "
                "as wrong)"),
    _MODEL,
    Requirement("context",
                "reads the text that the claim's source names: snippets or full abstracts",
                "an abstract contains more answers and more distracting text", _other_context),
    Requirement("golden snippets", "reads the official test input",
                "golden files contain more than twice as many snippets",
                lambda claim, run: run["enriched"],
                "different context (the run reads golden files, which contain extra snippets)"),
    Requirement("BioASQ step", "is trained on BioASQ", "every model behind a claim on BioASQ was",
                lambda claim, run: not run["train_pairs"],
                "different protocol (the run skips the BioASQ step that made the claim)"),
    Requirement("epochs", "is trained on BioASQ for the same number of epochs",
                "more epochs give different scores",
                lambda claim, run: run["train_pairs"]
                and str(run["epochs"]) != claim.protocol.epochs.split()[0],
                "different protocol (the run took {run[epochs]} epochs, "
                "the claim {claim.protocol.epochs})"),
    Requirement("leaks", "refuses training files with test questions", "a leak raises a score",
                lambda claim, run: run["allow_leak"],
                "different training data (the run was allowed to train on test questions)"),
    Requirement("matching", "is trained on verbatim answers only",
                "early versions of the kit could also train on looser matches",
                lambda claim, run: run["rungs"],
                "different training data (looser matches: {run[rungs]})"),
    Requirement("merging", "adds up the probabilities of equal answers",
                "the published script does so",
                lambda claim, run: run["merge"] != "sum",
                "different protocol (the run merges by {run[merge]}, the claim's script adds up)"),
)  # fmt: skip
SQUAD_TESTS = (
    Requirement("SQuAD questions",
                f"is scored on all {SQUAD_DEV:,} questions of SQuAD v1.1's dev set",
                "only scores on the same questions can be compared", _other_squad_questions),
    _MODEL,
    Requirement("SQuAD epochs", "is trained on SQuAD for the same number of epochs",
                "more epochs give different scores",
                lambda claim, run: run["squad_step"]
                and f"{run['squad_step']['epochs']} on SQuAD" != claim.protocol.epochs,
                "different protocol (the run took {run[squad_step][epochs]} epochs, "
                "the claim's {claim.protocol.epochs})"),
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """``outcome`` is a key of ``OUTCOMES``; ``sentence`` gives the figures or the differences."""

    claim: str
    outcome: str
    sentence: str
    differing: tuple[str, ...] = ()  # subjects of the requirements that the runs do not meet


def verdict(claim: Claim, runs: Sequence[Mapping]) -> Verdict:
    """What runs say about a claim, by ``RULE``.

    ``runs`` are the ``scores.json`` of runs that differ only in their seed. A seed that is given
    twice counts once.
    """
    runs = list({run.get("seed"): _ABSENT | run for run in runs}.values())
    squad = "F1" in claim.corrected
    found = {
        test.subject: text
        for run in runs
        for test in (SQUAD_TESTS if squad else BIOASQ_TESTS)
        if (text := test.difference(claim, run))
    }
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
    elif len(runs) < MIN_SEEDS:
        outcome, reason = "compatible", f"{MIN_SEEDS} seeds are needed for more"
    elif spread > widest(questions):
        outcome, reason = "compatible", f"a spread of {spread:.2f} points is too wide for more"
    else:
        outcome, reason = "reproduced", "all within it"
    return Verdict(claim.key, outcome, f"{sentence}; {reason}.")


def _percent(claim: Claim, scores: Mapping, measure: str) -> float:
    """A run's figure on the claim's questions, which may be one of the run's batches."""
    if measure == "F1":
        return 100 * scores["squad_step"]["judged"]["f1"]
    return 100 * sum(row["n"] * row[measure.lower()] for row in _rows(claim, scores)) / claim.n


def judge(runs: Sequence[Mapping], claims: Sequence[Claim] = CLAIMS) -> list[Verdict]:
    """The verdict on every published row; ``runs`` as in ``verdict``."""
    return [verdict(claim, runs) for claim in claims]


def summarize(found: Sequence[Verdict]) -> list[str]:
    """Verdicts as lines of text: one per verdict with figures, then the others by what differs."""
    lines, others = [], {}
    for one in found:
        if one.differing:
            others.setdefault(", ".join(one.differing), []).append(one.claim)
        else:
            lines.append(f"{one.claim}: {one.outcome}. {one.sentence}")
    for subjects, keys in others.items():
        lines.append(f"not comparable (different: {subjects}): {', '.join(keys)}")
    return lines


_MARGINS = ", ".join(f"{margin(162, seeds):.1f} with {seeds}" for seeds in (1, 2, 3, 10))
_OUTCOME_LIST = "\n".join(f"- **{outcome}**: {text}." for outcome, text in OUTCOMES.items())
_TEST_ROWS = "\n".join(
    f"| {test.subject} | {test.must} | {test.why} |"
    for test in dict.fromkeys(BIOASQ_TESTS + SQUAD_TESTS)  # the one on the model is in both
)
RULE = f"""\
**Margin.** The mean over seeds may differ from the claim by at most {widest(162):g} · \
√(1 + 1/seeds) points in each of {", ".join(MEASURES)}: {_MARGINS} seeds. The claim is one run \
with an unknown seed, and the standard deviation over seeds is {SEED_SD:g} points. The margin is \
twice the standard deviation of the difference between such a run and a mean over seeds. One \
question is 0.62 points. For n questions instead of 162, the margin is √(162/n) times as wide.

{_OUTCOME_LIST}

| compared | a run … | because |
|---|---|---|
{_TEST_ROWS}

We do not compare the training rows, the learning rate, the batch size, or how the model \
cards averaged over batches: the sources do not give them or `scores.json` does not hold them. We \
compare the run's pooled score with the figure under its corrected label."""
