"""The tables of notebook 05, as rows to look at: shares in percent, texts ready to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist

from helpers.run.folder import Run
from helpers.run.scores import CONVERT, OWN, PREDICT, Batch
from helpers.scoring import claims, official, verdicts
from helpers.scoring.uncertainty import (
    MEASURES,
    bootstrap_interval,
    exact_interval,
    paired_difference,
    question_values,
    questions_to_tell,
    seeds_to_tell,
)

Rows = list[dict]
ALL = tuple(claim.key for claim in claims.CLAIMS)
# Rows that notebook 05 shows: the cards, the one exact target, and those nearest to a run of ours.
SHOWN = ("card", "card-biobert", "notebook-7b-4", "paper-345m", "dmis-biobert",
         "dmis-biobert-squad")  # fmt: skip


def claim_figures(keys: Sequence[str] = SHOWN) -> Rows:
    """Published rows as printed and as corrected, and whether SAcc ≤ MRR ≤ LAcc as printed."""
    return [
        {
            "claim": claim.key,
            "system": claim.system,
            "as printed": _figures(claim.printed),
            "order kept": _order(claim),
            "as corrected": _figures(claim.corrected),
            "reason, or what else to know": claim.reason,
        }
        for claim in map(claims.get, keys)
    ]


def claim_protocols(keys: Sequence[str] = SHOWN) -> Rows:
    """How published rows were made, as far as their sources say."""
    return [
        {
            "claim": claim.key,
            "trained on": claim.protocol.training,
            "context": claim.protocol.context,
            "epochs": claim.protocol.epochs,
            "averaging": claim.protocol.averaging,
            "questions": claim.n or "unknown",
            "source": claim.source,
        }
        for claim in map(claims.get, keys)
    ]


def granularity(keys: Sequence[str] = SHOWN) -> Rows:
    """Which printed accuracies can be k of 162, or of 34 for the rows on batch 7b-4."""
    return [
        {
            "claim": row["claim"],
            "measure": row["measure"],
            "printed": row["printed"],
            "of": row["n"],
            "right answers needed": f"{row['exact']:.2f}",
            "whole numbers that print so": _shown(row["counts"]),
        }
        for row in claims.granularity([claims.get(key) for key in keys])
        if row["n"] == (34 if "7b-4" in row["claim"] else 162)
    ]


def question_worth(share: float = 0.48) -> Rows:
    """What one question moves a score by, and how sure ``share`` is on so many questions."""
    rows = []
    for name, n in {"all five batches of 7b": 162, **claims.TEST_7B}.items():
        low, high = exact_interval(round(share * n), n)
        interval = f"{low:.1%} to {high:.1%}"
        rows.append({"questions of": name, "number": n, "one question (points)": f"{100 / n:.2f}",
                     f"95% interval at {share:.0%}": interval})  # fmt: skip
    return rows


def systems_compared(systems: Mapping[str, Sequence[Batch]]) -> Rows:
    """The run and each baseline on the same questions, and how much better the run is.

    ``systems`` is what ``scores.read_systems`` gives. With missing questions dropped, only those
    that both systems answer are compared.
    """
    own, strata = _ranks(systems[OWN]), _strata(systems[OWN])
    rows = []
    for name, batches in systems.items():
        theirs = _ranks(batches)
        asked = [question for question in own if question in theirs]
        values = [question_values([ranks[q] for q in asked]) for ranks in (theirs, own)]
        row = {"system": name, "questions": len(asked)}
        row |= {measure: _percent(values[0][measure]) for measure in MEASURES}
        if name != OWN:
            labels = [strata[question] for question in asked]
            change = paired_difference(values[0]["SAcc"], values[1]["SAcc"], labels)
            row["this run, points of SAcc more"] = f"{100 * change.mean:+.1f}"
            row["95% interval"] = f"{100 * change.low:+.1f} to {100 * change.high:+.1f}"
            row["permutation p"] = f"{change.p:.4f}"
        rows.append(row)
    return rows


def intervals(batches: Sequence[Batch]) -> Rows:
    """The run's scores with two kinds of 95% interval over questions."""
    strata, rows = _strata(batches), []
    for measure, values in question_values(list(_ranks(batches).values())).items():
        low, high = bootstrap_interval(values, list(strata.values()))
        row = {"measure": measure, "score": _percent(values)}
        row["bootstrap over questions"] = f"{low:.1%} to {high:.1%}"
        exact = "no share of questions"
        if measure != "MRR":
            exact = "{:.1%} to {:.1%}".format(*exact_interval(int(sum(values)), len(values)))
        rows.append({**row, "exact binomial": exact})
    return rows


def official_check(run: Run, jar: str | Path = "") -> tuple[Rows, bool | None]:
    """The organizers' program beside ours on the run's answer files, and whether all agree.

    ``jar`` is their BioASQEvaluation.jar. Without it: one row that says so, and None.
    """
    if not jar:
        row = {"batch": "all", "official": "not run: no jar was given"}
        return [row | {"to run it": 'set jar = "/path/to/BioASQEvaluation.jar" above'}], None
    data = run.noted("data", CONVERT)
    answers = [run.need(f"answers/{name}.json", PREDICT) for name in data["batches"]]
    found = official.compare_files(
        jar, data["golds"], answers,
        missing=run.settings.missing, names=data["batches"],
    )  # fmt: skip
    rows = [
        {
            "batch": batch.batch,
            "measure": measure,
            "official": repr(batch.official[measure]),
            "ours": repr(batch.ours[measure]),
            "agree to 1e-9": "yes" if batch.agrees else "NO",
            "repairs in the copy": "; ".join(batch.repairs) or "none",
        }
        for batch in found
        for measure in MEASURES
    ]
    return rows, all(batch.agrees for batch in found)


def margins(claim: float = 0.48, truths: Sequence[float] = (0.46, 0.44, 0.42)) -> Rows:
    """The margin on 162 questions by number of seeds, and how often the rule then says no.

    ``truths`` are the mean accuracies over all seeds that our training might really have; the last
    columns give the chance that the mean over so many seeds lies outside the margin of ``claim``.
    """
    rows = []
    for seeds in (1, 2, 3, 5, 10):
        allowed = verdicts.margin(162, seeds)
        row = {"seeds": seeds, "margin (points)": f"{allowed:.1f}",
               "in questions of 162": f"{1.62 * allowed:.1f}"}  # fmt: skip
        for truth in truths:
            mean = NormalDist(100 * (truth - claim), verdicts.SEED_SD / math.sqrt(seeds))
            chance = mean.cdf(-allowed) + 1 - mean.cdf(allowed)
            row[f'"not reproduced" if the truth is {truth:.0%}'] = f"{chance:.0%}"
        rows.append(row)
    return rows


def power(first: float = 0.46, second: float = 0.48, disagree: float = 0.2) -> Rows:
    """What it takes to tell two strict accuracies apart, four times out of five, at 95%."""
    points, sd = 100 * abs(second - first), verdicts.SEED_SD
    paired, own = questions_to_tell(first, second, disagree), questions_to_tell(first, second)
    seeds = seeds_to_tell(points, sd)
    best = NormalDist().cdf(points / sd - NormalDist().inv_cdf(0.975))
    return [
        {"compared": what, "needed": needed}
        for what, needed in (
            (f"two models on the same questions, of which {disagree:.0%} are right for just one",
             f"{paired:,} questions, {paired / 162:.0f} times the five batches of 7b"),
            ("two models, each on questions of its own",
             f"{own:,} questions each, {own / 162:.0f} times the five batches"),
            (f"two ways of training on the same 162 questions, one seed varying by {sd:g} points",
             f"{seeds} seeds of each"),
            ("seeds of ours and one published run, on the same 162 questions",
             f"out of reach: {best:.0%} of the time at best, with any number of our seeds"),
        )
    ]  # fmt: skip


def judge(found: Sequence[verdicts.Verdict]) -> Rows:
    """The verdicts that rest on figures, and always the one on the card."""
    return [
        {"claim": one.claim, "system": claims.get(one.claim).system, "verdict": one.outcome,
         "why": one.sentence}
        for one in found
        if one.claim == "card" or not one.differing
    ]  # fmt: skip


def _figures(row: Mapping[str, str]) -> str:
    return ", ".join(f"{measure} {digits}" for measure, digits in row.items())


def _order(claim: claims.Claim) -> str:
    if "MRR" not in claim.printed:
        return "–"
    return "yes" if claims.in_order(claim.printed) else "NO"


def _shown(counts: Sequence[int]) -> str:
    if len(counts) > 3:  # neighbors, from a figure with one digit
        return f"{counts[0]} to {counts[-1]}"
    return ", ".join(map(str, counts)) or "none"


def _ranks(batches: Sequence[Batch]) -> dict[str, int]:
    return {question: rank for batch in batches for question, rank in batch.ranks.items()}


def _strata(batches: Sequence[Batch]) -> dict[str, str]:
    return {question: batch.name for batch in batches for question in batch.ranks}


def _percent(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.1%}"
