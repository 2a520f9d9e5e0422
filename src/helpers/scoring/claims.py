"""Published scores, the errors found in them, and verdicts on whether our runs reproduce them.

Each row of ``CLAIMS`` keeps the digits that its source prints, because they show whether a figure
can be a proportion of n questions at all. Each correction is listed with its reason.

A verdict compares a row with our runs on the *same* questions, so only the random seed differs
between training runs. We therefore derive the margin from the variation over seeds, not over
questions. ``RULE`` is generated from the requirements below, so the text and the code agree.
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

# Number of factoid questions in each of the five BioASQ-7b test batches, 162 in total.
TEST_7B = {"7B1": 39, "7B2": 25, "7B3": 29, "7B4": 34, "7B5": 35}
QUESTIONS_7B = {  # batch -> ``questions_mark`` of its question ids
    "7B1": "4cff2c27806ac5cc", "7B2": "aa480efaca00d4c2", "7B3": "76d975c0355da4ce",
    "7B4": "6691dccc98a820ea", "7B5": "d784b785772cb272",
}  # fmt: skip
SQUAD_TRAIN, SQUAD_DEV = 87_599, 10_570  # numbers of questions in SQuAD v1.1
UNPUBLISHED = "unpublished"


def questions_mark(ids: Iterable[str]) -> str:
    """Return 16 hex digits of the SHA-256 of the sorted ids, to identify a set of questions."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Protocol:
    """How a published row was produced, as far as its source states it."""

    training: str
    context: str  # "snippet", "appended", "abstract" or UNPUBLISHED
    epochs: str
    averaging: str
    precision: str = UNPUBLISHED


@dataclass(frozen=True)
class Claim:
    """One published row. ``reason`` explains corrected labels or anything unusual about the row."""

    key: str
    system: str
    protocol: Protocol
    source: str
    figures: str  # in the order and with the decimal places of the source
    labels: str = "SAcc/LAcc/MRR"  # as printed
    right_labels: str = ""  # "" if the printed labels are correct
    reason: str = ""
    unit: int = 100  # 100 if the figures are percentages, 1 if they are fractions
    data: str = "BioASQ-7b factoid test"
    batches: Mapping[str, int] = field(default_factory=lambda: TEST_7B)  # name -> question count
    models: tuple[str, ...] = ()  # the model's names, reduced to lowercase letters and digits
    parameters: int = 0  # number of weights, 0 if the source does not state it
    unusable: str = ""  # why no run can be compared with the row, or ""

    @property
    def printed(self) -> dict[str, str]:
        return dict(zip(self.labels.split("/"), self.figures.split("/"), strict=True))

    @property
    def corrected(self) -> dict[str, str]:
        """The row's figures under the correct labels, in the order of ``MEASURES``."""
        labels = (self.right_labels or self.labels).split("/")
        row = dict(zip(labels, self.figures.split("/"), strict=True))
        return {measure: row[measure] for measure in (*MEASURES, "F1") if measure in row}

    @property
    def n(self) -> int:
        return sum(self.batches.values())  # number of questions, or 0 if they are unknown

    def value(self, measure: str) -> float | None:
        """Return the corrected figure (0 to 1), or ``None`` if the source does not state it."""
        digits = self.corrected.get(measure)
        return None if digits is None else float(Fraction(digits) / self.unit)


_NOTEBOOK = Protocol(
    "SQuAD v1.1, then BioASQ-7b train (dmis-lab's Full-Abstract files)", "abstract", "5 on BioASQ",
    "called weighted, but the weights of the batches are unpublished", "float32",
)  # fmt: skip
_ONE_BATCH = replace(_NOTEBOOK, averaging="one batch, as printed by the official evaluator")
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
# The weights: 24 layers of width 1024, a vocabulary padded to 30,592 rows, and the span head.
_345M_CHECKPOINT = {"models": _345M, "parameters": 334_166_018}
_BIOBERT_CHECKPOINT = {"models": ("biobertbasecasedsquadv1",)}
_SWAPPED = {
    "labels": "SAcc/MRR/LAcc",
    "right_labels": "SAcc/LAcc/MRR",
    "reason": "The labels of MRR and LAcc are swapped. MRR cannot exceed LAcc, because a question "
    "with a right answer adds 1 to the lenient hits and at most 1 to the sum of reciprocal ranks. "
    "NVIDIA's notebook and the evaluator itself print SAcc, LAcc and MRR in this order.",
}
_TWO_VERSIONS = (
    "NeMo's history has two versions of this table. In commit 01714e6, the systems' names are "
    "swapped. The figures are rounded from the model cards, so we follow the cards."
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
          reason="The only exact target: 22 (SAcc) and 28 (LAcc) of the batch's 34 questions."),
    Claim("notebook-7b-4-biobert", _BIOBERT, _ONE_BATCH, _NEMO,
          "0.45161290322580644/0.6774193548387096/0.5403225806451613", unit=1,
          **_BIOBERT_CHECKPOINT, data="labeled BioASQ-7b factoid test, batch 4", batches={},
          unusable="the questions that it was scored on are unknown",
          reason="The figures equal 14 (SAcc) and 21 (LAcc) of 31 questions, but the batch has 34. "
          "They belong to another batch, or three questions were dropped. They are not a target."),
    Claim("paper-biobert-base", "BioBERT-Base 110M", _PAPER, _TABLE_2, "30.8/64.1/41.1"),
    Claim("paper-biobert-large", "BioBERT-Large 345M", _PAPER, _TABLE_2, "42.8/62.8/50.1"),
    Claim("paper-345m", "BioMegatron 345M uncased", _PAPER, _TABLE_2, "46.2/62.6/52.5",
          models=_345M),
    Claim("paper-800m", "BioMegatron 800M", _PAPER, _TABLE_2, "45.2/58.6/50.4"),
    Claim("paper-1.2b", "BioMegatron 1.2B", _PAPER, _TABLE_2, "47.4/60.9/52.4"),
    Claim("paper-345m-no-squad", "BioMegatron 345M, without the SQuAD step", _PAPER_NO_SQUAD,
          _TABLE_2, "33.1/50.4/39.8", models=("biomegatron345muncased",)),
    Claim("paper-megatron", "Megatron 345M trained on general text", _PAPER, _TABLE_2,
          "38.5/52.6/43.7"),
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
    """Return the claim with this key; if it is unknown, raise a ``KeyError`` listing all keys."""
    known = {claim.key: claim for claim in CLAIMS}
    if key in known:
        return known[key]
    raise KeyError(f"{key!r} is unknown; choose one of {', '.join(known)}")


# Standard deviation over seeds, in percentage points on 162 questions. We chose it when
# earlier runs had 0.8 to 2.2 (1.4 pooled). The trained rows in docs/results have 0.7 to 2.0 (1.2
# pooled).
SEED_SD = 1.5
MIN_SEEDS = 3  # fewer seeds cannot show that a claim is reproduced


def margin(questions: int, seeds: int) -> float:
    """Return the allowed difference, in points, between a mean over seeds and a claim.

    The claim comes from one training run with an unknown seed, so its standard deviation is
    ``SEED_SD``. For a mean over m seeds of the same procedure, it is ``SEED_SD`` / √m, and for the
    difference between the two, it is ``SEED_SD`` · √(1 + 1/m). In about 95% of cases, the
    difference is at most twice its standard deviation. We assume that the standard deviation on n
    questions is √(162/n) times the one on 162 questions.
    """
    return 2 * SEED_SD * math.sqrt(162 / questions * (1 + 1 / seeds))


def widest(questions: int) -> float:
    """Return the standard deviation over seeds, in points, above which the margin is invalid."""
    return 2 * SEED_SD * math.sqrt(162 / questions)


OUTCOMES = {
    "reproduced": f"there are at least {MIN_SEEDS} seeds, the mean of every figure is within the "
    f"margin, and no figure's standard deviation over seeds is above {widest(162):g} points",
    "compatible": "every mean is within the margin, but there are fewer seeds or the standard "
    "deviation is larger. With one or two seeds, no stronger verdict is possible",
    "not reproduced": "the mean of at least one figure is outside the margin",
    "not comparable": "the runs do not meet all of the requirements in the table below",
}


@dataclass(frozen=True)
class Requirement:
    """A requirement that a run must meet before we compare its figures with those of a claim."""

    subject: str
    must: str
    why: str
    differs: Callable[[Claim, Mapping], object]  # takes the claim and the run's scores.json
    text: str = "{found}"  # describes what differs; ``found`` is what ``differs`` returned

    def difference(self, claim: Claim, run: Mapping) -> str:
        """Return a description of what differs, or "" if nothing differs."""
        found = self.differs(claim, run)
        return self.text.format(claim=claim, run=run, found=found) if found else ""


def _rows(claim: Claim, run: Mapping) -> list[Mapping]:
    return [row for row in run["batches"] if row["batch"] in claim.batches]


def _other_questions(claim: Claim, run: Mapping) -> str | None:
    sizes = {row["batch"]: row["n"] for row in run["batches"]}
    same = {row["batch"]: row["n"] for row in _rows(claim, run)} == claim.batches != {}
    # A claim about a single batch requires only that the run include that batch. A claim about
    # several batches requires that the run contain exactly those batches.
    if not same or (len(claim.batches) > 1 and sizes != claim.batches):
        need = f"{claim.n} questions of " if claim.n else ""
        return (f"different data (the run has {sum(sizes.values())} questions in "
                f"{', '.join(sizes)}; the claim is on {need}{claim.data})")  # fmt: skip
    if any(row.get("questions") != QUESTIONS_7B[row["batch"]] for row in _rows(claim, run)):
        return f"different data (the batches do not contain the questions of {claim.data})"


def _other_model(claim: Claim, run: Mapping) -> str | None:
    model, weights = str(run["model"] or ""), run["parameters"] or 0
    # A folder, a .nemo file and a different spelling of a name can refer to the same model.
    name = re.sub(r"[\W_]", "", PureWindowsPath(model).name.lower().removesuffix(".nemo"))
    if run["squad_step"]:  # NVIDIA's name for a model trained on all of it ends in SQuADv1
        questions = run["squad_step"]["train_questions"]
        name += "squadv1" if questions == SQUAD_TRAIN else f"+{questions}squad"
        model += f" after {questions} SQuAD questions"
    if name not in claim.models:
        return f"different model ({model or 'not named'} in the run, {claim.system} in the claim)"
    if claim.parameters and abs(weights / claim.parameters - 1) >= 0.001:  # padding adds 0.0002
        return (f"different model (the run's model has {weights:,} weights, but "
                f"{claim.system} has {claim.parameters:,})")  # fmt: skip


def _other_context(claim: Claim, run: Mapping) -> str | None:
    have, wanted = run["context"] or "not named", claim.protocol.context
    if wanted == UNPUBLISHED:
        return "the claim's source does not say which context the model read"
    if have != wanted:
        return f"different context ({have} in the run, {wanted} in the claim)"


def _other_precision(claim: Claim, run: Mapping) -> str | None:
    parts = run["compute"] or {}
    used = {part: (parts.get(part) or {}).get("precision", "32") for part in ("train", "predict")}
    if claim.protocol.precision == "float32" and set(used.values()) != {"32"}:
        return (f"different precision ({used['train']} in training and {used['predict']} in "
                "prediction, float32 in the claim)")  # fmt: skip


def _other_squad_questions(claim: Claim, run: Mapping) -> str | None:
    questions = ((run["squad_step"] or {}).get("judged") or {}).get("questions")
    have = f"{questions} questions" if questions else "none"
    if questions != SQUAD_DEV:
        wanted = f"the claim is on {claim.data} with {SQUAD_DEV} questions"
        return f"different data ({wanted}; the run has {have})"


# Fields of scores.json that early versions did not write.
_ABSENT = {"merge": "sum"} | dict.fromkeys(
    ("profile", "model", "parameters", "squad_step", "context", "enriched", "train_pairs",
     "epochs", "allow_leak", "rungs", "compute"))  # fmt: skip
_MODEL = Requirement(
    "model", "uses the claim's model, with the number of weights that the source states, if any",
    "a different model makes it a different experiment", _other_model,
)  # fmt: skip
BIOASQ_TESTS = (
    Requirement("source", "exists only if the claim's questions are known",
                "a figure on unknown questions cannot be checked",
                lambda claim, run: claim.unusable),
    Requirement("profile", "does not use the profile `mini`", "BioASQ-mini is teaching data",
                lambda claim, run: run["profile"] == "mini",
                "different data (the profile mini uses teaching data)"),
    Requirement("questions",
                "has the same batches as the claim: names, question counts and question ids",
                "only scores on the same questions are comparable", _other_questions),
    Requirement("missing answers", "counts them as wrong", "dropping them raises the score",
                lambda claim, run: any(r["counted"] != r["n"] for r in _rows(claim, run)),
                "different protocol (the run drops missing questions instead of counting them "
                "as wrong)"),
    _MODEL,
    Requirement("context",
                "reads the context that the claim's source names (snippets or full abstracts)",
                "an abstract contains more answers and more distracting text", _other_context),
    Requirement("golden snippets", "reads the official test input",
                "golden files contain more than twice as many snippets",
                lambda claim, run: run["enriched"],
                "different context (the run reads golden files, which contain extra snippets)"),
    Requirement("BioASQ step", "is trained on BioASQ", "every claim's model was trained on it",
                lambda claim, run: not run["train_pairs"],
                "different protocol (the run skips the training on BioASQ)"),
    Requirement("epochs", "is trained on BioASQ for the same number of epochs",
                "more epochs give different scores",
                lambda claim, run: run["train_pairs"]
                and str(run["epochs"]) != claim.protocol.epochs.split()[0],
                "different protocol ({run[epochs]} epochs in the run, "
                "{claim.protocol.epochs} in the claim)"),
    Requirement("precision", "computes in float32 if the claim's source does",
                "a lower precision is a different recipe, even if scores hardly change",
                _other_precision),
    Requirement("leaks", "refuses training files that contain test questions",
                "a leak raises the score",
                lambda claim, run: run["allow_leak"],
                "different training data (the run was allowed to train on test questions)"),
    Requirement("matching", "is trained on verbatim answers only",
                "early versions of the kit could also train on looser matches",
                lambda claim, run: run["rungs"],
                "different training data (the run also used looser matches: {run[rungs]})"),
    Requirement("merging", "adds up the probabilities of equal answers",
                "the published script does the same",
                lambda claim, run: run["merge"] != "sum",
                "different protocol (merging by {run[merge]} in the run, by sum in the claim)"),
)  # fmt: skip
SQUAD_TESTS = (
    Requirement("SQuAD questions",
                f"is scored on all {SQUAD_DEV:,} questions of the SQuAD v1.1 dev set",
                "only scores on the same questions are comparable", _other_squad_questions),
    _MODEL,
    Requirement("SQuAD epochs", "is trained on SQuAD for the same number of epochs",
                "more epochs give different scores",
                lambda claim, run: run["squad_step"]
                and f"{run['squad_step']['epochs']} on SQuAD" != claim.protocol.epochs,
                "different protocol ({run[squad_step][epochs]} epochs in the run, "
                "{claim.protocol.epochs} in the claim)"),
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """The result for one claim: a key of ``OUTCOMES``, and a sentence that explains it."""

    claim: str
    outcome: str
    sentence: str
    differing: tuple[str, ...] = ()  # subjects of the requirements that the runs do not meet


def verdict(claim: Claim, runs: Sequence[Mapping]) -> Verdict:
    """Judge by ``RULE`` whether our runs reproduce a claim.

    ``runs`` has the contents of each run's ``scores.json``. The runs may differ only in their
    seed. If two runs have the same seed, only the last one counts.
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
        outcome, reason = "not reproduced", f"figures outside it: {', '.join(outside)}"
    elif len(runs) < MIN_SEEDS:
        outcome, reason = "compatible", f"{MIN_SEEDS} seeds are needed for a stronger verdict"
    elif spread > widest(questions):
        outcome, reason = "compatible", f"a standard deviation of {spread:.2f} points is too large"
    else:
        outcome, reason = "reproduced", "all figures are within it"
    return Verdict(claim.key, outcome, f"{sentence}; {reason}.")


def _percent(claim: Claim, scores: Mapping, measure: str) -> float:
    """Return a run's figure on the claim's questions, which may be only some of its batches."""
    if measure == "F1":
        return 100 * scores["squad_step"]["judged"]["f1"]
    return 100 * sum(row["n"] * row[measure.lower()] for row in _rows(claim, scores)) / claim.n


def judge(runs: Sequence[Mapping], claims: Sequence[Claim] = CLAIMS) -> list[Verdict]:
    """Return the verdict on every published row. ``runs`` is as in ``verdict``."""
    return [verdict(claim, runs) for claim in claims]


def summarize(found: Sequence[Verdict]) -> list[str]:
    """Return one line per verdict with figures, then one line per kind of difference."""
    lines, others = [], {}
    for one in found:
        if one.differing:
            others.setdefault(", ".join(one.differing), []).append(one.claim)
        else:
            lines.append(f"{one.claim}: {one.outcome}. {one.sentence}")
    for subjects, keys in others.items():
        lines.append(f"not comparable (different: {subjects}): {', '.join(keys)}")
    return lines


_MARGINS = ", ".join(f"{margin(162, seeds):.1f} with {seeds}" for seeds in (1, 2, 3))
_MARGINS += f", and {margin(162, 10):.1f} with 10"
_OUTCOME_LIST = "\n".join(f"- **{outcome}**: {text}." for outcome, text in OUTCOMES.items())
_TEST_ROWS = "\n".join(
    f"| {test.subject} | {test.must} | {test.why} |"
    for test in dict.fromkeys(BIOASQ_TESTS + SQUAD_TESTS)  # both contain the model requirement
)
RULE = f"""\
**Margin.** The mean over seeds may differ from the claim by at most {widest(162):g} · \
√(1 + 1/seeds) points in each of {", ".join(MEASURES)}. This is {_MARGINS} seeds. The claim \
comes from one run with an unknown seed, and the standard deviation over seeds is {SEED_SD:g} \
points. The margin is twice the standard deviation of the difference between such a run and a mean \
over seeds. One question is worth 0.62 points. For n questions instead of 162, the margin \
is √(162/n) times as wide.

{_OUTCOME_LIST}

| requirement | a comparable run … | because |
|---|---|---|
{_TEST_ROWS}

We do not compare the training rows, the learning rate, the batch size, or how the model \
cards averaged over batches, because the sources do not state them or `scores.json` does not \
contain them. We compare the run's pooled score with the figure under its corrected label."""
