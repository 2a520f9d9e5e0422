"""Published figures with their sources, and what is wrong with some of them.

Every row is kept as printed, with its digits, because the digits tell whether a figure can be a
share of n questions at all. Rows come from the model cards, NVIDIA's NeMo notebook, the BioMegatron
paper and dmis-lab's README; each names its own. A correction never replaces a figure silently:
the printed row, the corrected row and the reason stand side by side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

MEASURES = ("SAcc", "MRR", "LAcc")
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
