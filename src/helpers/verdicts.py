"""What a run says about a published row: reproduced, not reproduced, or not comparable.

The rule is written down before any run is looked at, so it cannot be bent afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from helpers.claims import QUESTIONS_7B, SQUAD_DEV, SQUAD_TRAIN, UNPUBLISHED, Claim
from helpers.uncertainty import bootstrap_interval, exact_interval, question_values

OUTCOMES = ("reproduced", "not reproduced", "not comparable")
RULE = (
    "Not comparable: the profile is mini; or the run and the claim differ in questions (by name, "
    "number and ids), model (by name and, for BioMegatron, number of weights), steps of training, "
    "epochs, context or merging; or the run may have seen test questions, matched loosely, or read "
    "golden snippets; or the claim's source leaves the context open; or a figure cannot be judged. "
    "Otherwise reproduced when every figure of the claim lies in the run's 95% interval over "
    "questions (exact binomial for SAcc and LAcc, bootstrap stratified by batch for MRR), widened "
    "by half a unit of the claim's last printed digit; else not reproduced. What no source says is "
    "not asked: how the model cards averaged over batches (the run's pooled score stands against "
    "it), their seeds, and which training rows they had."
)


@dataclass(frozen=True)
class Verdict:
    """``outcome`` is one of ``OUTCOMES``; ``sentence`` says why."""

    claim: str
    outcome: str
    sentence: str


def verdict(
    claim: Claim,
    scores: Mapping,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> Verdict:
    """What a run, given as its ``scores.json``, says about a claim, by ``RULE``.

    ``intervals`` gives the run's interval (fractions of 1) for "SAcc", "LAcc" and "MRR" on the
    claim's questions, as ``run_intervals`` makes them; a claim with a figure that has none is not
    comparable.
    """
    squad = "F1" in claim.corrected
    differences = _squad_differences(claim, scores) if squad else _differences(claim, scores)
    if differences:
        sentence = f"Not comparable with {claim.key}: {'; '.join(differences)}."
        return Verdict(claim.key, "not comparable", sentence)
    if squad:
        intervals = {"F1": scores["squad_step"]["judged"]["f1_interval"]}
    intervals = intervals or {}
    inside, outside = [], []
    for measure in claim.corrected:
        value = claim.value(measure)
        if value is None:
            continue
        if measure not in intervals:
            sentence = f"Not comparable with {claim.key}: the run's {measure} has no interval."
            return Verdict(claim.key, "not comparable", sentence)
        low, high = intervals[measure]
        slack = 0.5 / 10 ** len(claim.corrected[measure].partition(".")[2]) / claim.unit
        text = f"{measure} {100 * value:.2f} against {100 * low:.2f} to {100 * high:.2f}"
        (inside if low - slack <= value <= high + slack else outside).append(text)
    if outside:
        sentence = f"Outside the run's 95% interval: {'; '.join(outside)}."
        return Verdict(claim.key, "not reproduced", sentence)
    sentence = f"Inside the run's 95% interval: {'; '.join(inside)}."
    return Verdict(claim.key, "reproduced", sentence)


def run_intervals(
    claim: Claim, ranks: Mapping[str, Mapping[str, int]]
) -> dict[str, tuple[float, float]]:
    """A run's 95% intervals on the claim's questions, as ``RULE`` has them.

    ``ranks``: batch -> question id -> rank of the first right answer (0: none). Empty when the run
    lacks a batch of the claim's.
    """
    if not claim.batches or not all(name in ranks for name in claim.batches):
        return {}
    strata = [name for name in claim.batches for _ in ranks[name]]
    values = question_values([rank for name in claim.batches for rank in ranks[name].values()])
    return {
        "SAcc": exact_interval(int(sum(values["SAcc"])), len(strata)),
        "LAcc": exact_interval(int(sum(values["LAcc"])), len(strata)),
        "MRR": bootstrap_interval(values["MRR"], strata),
    }


def _differences(claim: Claim, scores: Mapping) -> list[str]:
    if claim.unusable:
        return [claim.unusable]
    found = []
    if scores.get("profile") == "mini":
        found.append("other data (profile mini is teaching data)")
    batches = {row["batch"]: row for row in scores["batches"]}
    wanted = claim.batches
    ran = {name: row["n"] for name, row in batches.items()}
    # A claim on one batch can be read off a run on all five; a claim on all needs just those.
    same = wanted and {name: ran.get(name) for name in wanted} == dict(wanted)
    if not same or (len(wanted) > 1 and len(ran) != len(wanted)):
        have = f"{', '.join(ran)}, {sum(ran.values())} questions"
        need = f", {claim.n} questions" if claim.n else ""
        found.append(f"other data (the run has {have}; the claim is on {claim.data}{need})")
    elif any(batches[name].get("questions") != QUESTIONS_7B[name] for name in wanted):
        found.append(f"other data (the batches hold other questions than {claim.data})")
    elif any(batches[name]["counted"] != batches[name]["n"] for name in wanted):
        found.append("other protocol (the run drops missing questions instead of failing them)")
    found += _other_model(claim, scores)
    context = scores.get("context", "")
    if claim.protocol.context == UNPUBLISHED:
        found.append("its source does not say which context was read")
    elif context != claim.protocol.context:
        have = context or "not named"
        found.append(f"other context (the run's is {have}, the claim's {claim.protocol.context})")
    if scores.get("enriched"):
        found.append("other context (the run reads golden files, which hold extra snippets)")
    if not scores.get("train_pairs"):
        found.append("other protocol (the run skips the BioASQ step that made the claim)")
    elif str(scores.get("epochs")) != claim.protocol.epochs.split()[0]:
        found.append(
            f"other protocol (the run took {scores.get('epochs')} epochs, the claim "
            f"{claim.protocol.epochs})"
        )
    if scores.get("allow_leak"):
        found.append("other training data (the run was allowed to train on test questions)")
    if scores.get("rungs"):
        found.append(f"other training data (matched by the rungs {scores['rungs']})")
    if scores.get("merge", "sum") != "sum":
        found.append(
            f"other protocol (the run merges by {scores['merge']}, the claim's script adds up)"
        )
    return found


def _squad_differences(claim: Claim, scores: Mapping) -> list[str]:
    step = scores.get("squad_step") or {}
    judged = step.get("judged") or {}
    if judged.get("questions") != SQUAD_DEV:
        have = f"{judged['questions']} questions" if judged else "none"
        return [
            f"other data (the claim is on {claim.data}, {SQUAD_DEV} questions; the run: {have})"
        ]
    found = _other_model(claim, scores)
    if f"{step['epochs']} on SQuAD" != claim.protocol.epochs:
        found.append(
            f"other protocol (the run took {step['epochs']} epochs, the claim's "
            f"{claim.protocol.epochs})"
        )
    return found


def _other_model(claim: Claim, scores: Mapping) -> list[str]:
    model, name = str(scores.get("model") or ""), _plain(str(scores.get("model") or ""))
    step = scores.get("squad_step") or {}
    if step:  # a base model after all of SQuAD v1.1 is what NVIDIA published as ...SQuADv1
        questions = step["train_questions"]
        name += "squadv1" if questions == SQUAD_TRAIN else f"+{questions}squad"
        model += f" after {questions} SQuAD questions"
    if name in claim.models:
        weights = scores.get("parameters") or 0
        # A vocabulary that is not padded takes 0.02% less.
        if not claim.parameters or abs(weights / claim.parameters - 1) < 0.001:
            return []
        return [
            f"other model (the run's has {weights:,} weights, {claim.system} {claim.parameters:,})"
        ]
    return [f"other model (the run's is {model or 'not named'}, the claim's {claim.system})"]


def _plain(model: str) -> str:
    # "BioMegatron345mUncasedSQuADv1", a folder or a .nemo file of that name: one and the same.
    name = model.replace("\\", "/").rstrip("/").rpartition("/")[2].lower().removesuffix(".nemo")
    return "".join(character for character in name if character.isalnum())
