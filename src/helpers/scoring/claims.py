"""Published figures with their sources, and what is wrong with some of them.

Every row is kept as printed, with its digits, because the digits tell whether a figure can be a
share of n questions at all. Rows come from the model cards, NVIDIA's NeMo notebook, the BioMegatron
paper and dmis-lab's README; each names its own. A correction never replaces a figure silently:
the printed row, the corrected row and the reason stand side by side.

What finished runs say about a published row, by a rule that was written down beforehand.

A verdict compares figures on the *same* questions, so resampling the questions is the wrong
yardstick: the questions are fixed, and what differs from one training to the next is the seed.
The rule therefore compares the mean over seeds with the claim, by a margin derived from the spread
over seeds. ``BIOASQ_TESTS`` and ``SQUAD_TESTS`` say what must agree first; ``RULE`` is written from
them, so the prose and the decision cannot drift apart.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from helpers.scoring.metrics import MEASURES

# Gold factoids of the five BioASQ-7b test batches, 162 in all.
TEST_7B = {"7B1": 39, "7B2": 25, "7B3": 29, "7B4": 34, "7B5": 35}
SQUAD_TRAIN, SQUAD_DEV = 87_599, 10_570  # questions of SQuAD v1.1
# The first 16 hex digits of the SHA-256 of each batch's sorted factoid ids, a line feed between.
QUESTIONS_7B = {
    "7B1": "4cff2c27806ac5cc", "7B2": "aa480efaca00d4c2", "7B3": "76d975c0355da4ce",
    "7B4": "6691dccc98a820ea", "7B5": "d784b785772cb272",
}  # fmt: skip
UNPUBLISHED = "unpublished"

_SWAPPED = (
    "The labels of MRR and LAcc are exchanged. MRR cannot exceed LAcc: a question with a right "
    "answer adds 1 to the lenient hits and at most 1 to the reciprocal ranks, any other "
    "adds nothing. NVIDIA's notebook and the evaluator itself print SAcc, LAcc, MRR in this order."
)


def questions_mark(ids: Iterable[str]) -> str:
    """What ``QUESTIONS_7B`` holds, for any questions: the same mark, the same questions."""
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
    """One published row, as printed and as corrected.

    ``printed`` keeps the source's order, labels and digits; ``corrected`` has the same digits under
    the right labels, in the order of ``MEASURES`` (equal to ``printed`` when nothing is wrong).
    ``reason`` says why the two differ, or what else to know.
    """

    key: str
    system: str
    protocol: Protocol
    source: str
    printed: Mapping[str, str]
    corrected: Mapping[str, str]
    reason: str = ""
    unit: int = 100  # 100: figures in percent, 1: fractions
    data: str = "BioASQ-7b factoid test"
    batches: Mapping[str, int] = field(default_factory=lambda: TEST_7B)  # name -> questions
    models: tuple[str, ...] = ()  # what a run's model may be called to be the same model
    parameters: int = 0  # its weights, 0 where the source does not say
    unusable: str = ""  # why no run can be held against the row, "" when one can

    @property
    def n(self) -> int:
        """Questions the row is about, 0 when its source does not say."""
        return sum(self.batches.values())

    def value(self, measure: str) -> float | None:
        """The corrected figure as a fraction of 1, ``None`` when the source does not give it."""
        digits = self.corrected.get(measure)
        return None if digits is None else float(Fraction(digits) / self.unit)


def _row(labels: str, figures: str) -> dict[str, str]:
    return dict(zip(labels.split("/"), figures.split("/"), strict=True))


def _claim(key, system, protocol, source, figures, labels="SAcc/LAcc/MRR", right=None, **more):
    row = _row(right or labels, figures)
    corrected = {measure: row[measure] for measure in (*MEASURES, "F1") if measure in row}
    return Claim(key, system, protocol, source, _row(labels, figures), corrected, **more)


_NOTEBOOK = Protocol(
    "SQuAD v1.1, then BioASQ-7b train (dmis-lab's Full-Abstract files)",
    "abstract",
    "5 on BioASQ",
    "called weighted; how the batches were weighed is unpublished",
)
_PAPER = Protocol("SQuAD v1.1, then BioASQ-7b train", UNPUBLISHED, "10 on SQuAD, 30 on BioASQ",
                  UNPUBLISHED)  # fmt: skip
_PAPER_NO_SQUAD = replace(_PAPER, training="BioASQ-7b train only", epochs="30 on BioASQ")
_README = Protocol("BioASQ-7b train", "snippet", "3", "pooled over the 162 questions")
_README_SQUAD = replace(_README, training="SQuAD, then BioASQ-7b train")

_CARD = "NGC model card {} (NVIDIA)"
_NEMO = "NVIDIA NeMo, examples/nlp/biobert_notebooks/biobert_qa.ipynb"
_TABLE_2 = "Shin et al. 2020, BioMegatron, arXiv 2010.06060, table 2"
_DMIS = "dmis-lab/biobert-pytorch, question-answering/README.md"
_CARD_LABELS = {"labels": "SAcc/MRR/LAcc", "right": "SAcc/LAcc/MRR", "reason": _SWAPPED}
_345M = ("biomegatron345muncasedsquadv1",)
_345M_WEIGHTS = 334_166_018  # 24 layers of 1024, the vocabulary padded to 30,592 rows, span head
_NO_RUN = "the questions behind it are unknown"
_ROWS = (
    "NeMo's history holds this table in two states; that of commit 01714e6 has the two systems' "
    "names exchanged. The figures are those of the model cards, rounded, and follow the cards here."
)

CLAIMS: tuple[Claim, ...] = (
    _claim("card", "BioMegatron 345M uncased, SQuAD v1.1", _NOTEBOOK,
           _CARD.format("BioMegatron345mUncasedSQuADv1"), "48/63.88/53.87",
           models=_345M, parameters=_345M_WEIGHTS, **_CARD_LABELS),
    _claim("card-biobert", "BioBERT base cased, SQuAD v1.1", _NOTEBOOK,
           _CARD.format("BioBERTBaseCasedSQuADv1"), "39/59.86/47.03",
           models=("biobertbasecasedsquadv1",), **_CARD_LABELS),
    _claim("notebook", "BioMegatron 345M uncased, SQuAD v1.1", _NOTEBOOK, _NEMO,
           "0.48/0.64/0.54", unit=1, models=_345M, parameters=_345M_WEIGHTS, reason=_ROWS),
    _claim("notebook-biobert", "BioBERT base cased, SQuAD v1.1", _NOTEBOOK, _NEMO,
           "0.39/0.6/0.47", unit=1, models=("biobertbasecasedsquadv1",), reason=_ROWS),
    _claim("notebook-7b-4", "BioMegatron 345M uncased, SQuAD v1.1",
           replace(_NOTEBOOK, averaging="one batch, the official evaluator's own line"), _NEMO,
           "0.6470588235/0.8235294118/0.7254901961", unit=1, models=_345M, parameters=_345M_WEIGHTS,
           data="BioASQ-7b factoid test, batch 4", batches={"7B4": TEST_7B["7B4"]},
           reason="The one exact target: 22 and 28 of the batch's 34 questions."),
    _claim("notebook-7b-4-biobert", "BioBERT base cased, SQuAD v1.1",
           replace(_NOTEBOOK, averaging="one batch, the official evaluator's own line"), _NEMO,
           "0.45161290322580644/0.6774193548387096/0.5403225806451613", unit=1,
           models=("biobertbasecasedsquadv1",), unusable=_NO_RUN, batches={},
           data="said to be BioASQ-7b factoid test, batch 4",
           reason="14 and 21 of 31 questions, though the batch has 34: left over from another "
           "batch, or three questions were dropped. No target."),
    _claim("paper-biobert-base", "BioBERT-Base 110M", _PAPER, _TABLE_2, "30.8/64.1/41.1"),
    _claim("paper-biobert-large", "BioBERT-Large 345M", _PAPER, _TABLE_2, "42.8/62.8/50.1"),
    _claim("paper-345m", "BioMegatron 345M uncased", _PAPER, _TABLE_2, "46.2/62.6/52.5",
           models=_345M),
    _claim("paper-800m", "BioMegatron 800M", _PAPER, _TABLE_2, "45.2/58.6/50.4"),
    _claim("paper-1.2b", "BioMegatron 1.2B", _PAPER, _TABLE_2, "47.4/60.9/52.4"),
    _claim("paper-345m-no-squad", "BioMegatron 345M, without the SQuAD step", _PAPER_NO_SQUAD,
           _TABLE_2, "33.1/50.4/39.8", models=("biomegatron345muncased",)),
    _claim("paper-megatron", "Megatron 345M of general text", _PAPER, _TABLE_2, "38.5/52.6/43.7"),
    _claim("paper-squad", "BioMegatron 345M", replace(_PAPER, training="SQuAD v1.1 train",
           epochs="10 on SQuAD", context="SQuAD paragraph"), _TABLE_2, "90.4", labels="F1",
           data="SQuAD v1.1 dev", batches={}, models=_345M),
    _claim("dmis-bert", "BERT", _README, _DMIS, "24.69/39.51/30.91"),
    _claim("dmis-biobert", "BioBERT v1.1 base", _README, _DMIS, "31.48/45.68/37.13",
           models=("biobertbasecasedv11",),
           reason="The same README gives 33.33/45.68/38.53 for its example command with seed 0."),
    _claim("dmis-biobert-squad", "BioBERT v1.1 base, SQuAD", _README_SQUAD, _DMIS,
           "40.12/59.26/48.34", models=("biobertbasecasedv11squad",)),
)  # fmt: skip


def get(key: str) -> Claim:
    """The claim with this key; ``KeyError`` names the known ones."""
    for claim in CLAIMS:
        if claim.key == key:
            return claim
    raise KeyError(f"{key!r}; known: {', '.join(claim.key for claim in CLAIMS)}")


def in_order(figures: Mapping[str, str]) -> bool:
    """Whether SAcc ≤ MRR ≤ LAcc, which holds for every ranking of every system."""
    return Fraction(figures["SAcc"]) <= Fraction(figures["MRR"]) <= Fraction(figures["LAcc"])


def counts_that_print_as(digits: str, n: int, unit: int = 100) -> list[int]:
    """Every k of 0..n for which k/n, rounded or cut off, is printed as ``digits``.

    "48" allows 78 of 162 (48.148), "48.00" and "63.88" allow no k of 162. An empty list proves that
    the figure is not the share of n questions, printed from all its digits; a mean of shares that
    were rounded before is another matter (notebook 05 enumerates it). A non-empty list proves
    nothing.
    """
    printed = Fraction(digits)
    # The official evaluator prints doubles in full, so the last digits are the double's rounding.
    step = max(Fraction(1, 10 ** len(digits.partition(".")[2])), Fraction(unit, 2**53))
    shares = ((k, Fraction(k * unit, n)) for k in range(n + 1))
    return [k for k, share in shares if -step / 2 <= share - printed < step]


def granularity(claims: Sequence[Claim] = CLAIMS, sizes: Sequence[int] = (162, 34)) -> list[dict]:
    """Which corrected accuracies can be k of n questions: one row per figure and size.

    Rows have ``claim``, ``measure``, ``printed``, ``n``, ``exact`` (the figure times n, what k
    would have to be), ``counts`` (the k that fit) and ``possible``. MRR is left out: a sum of
    1, 1/2, ... 1/5 over n moves in steps of 1/(60 n), too fine for printed digits to rule out.
    """
    return [
        {
            "claim": claim.key,
            "measure": measure,
            "printed": claim.corrected[measure],
            "n": n,
            "exact": claim.value(measure) * n,
            "counts": (counts := counts_that_print_as(claim.corrected[measure], n, claim.unit)),
            "possible": bool(counts),
        }
        for claim in claims
        for measure in ("SAcc", "LAcc")
        if measure in claim.corrected
        for n in sizes
    ]


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


def summarize(found: Sequence[Verdict]) -> list[str]:
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
