"""The tables of notebook 05, as rows to look at: shares in percent, texts ready to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from helpers import claims, official, verdicts
from helpers.runs import Run
from helpers.scores import CONVERT, OWN, PREDICT, Batch
from helpers.uncertainty import (
    MEASURES,
    bootstrap_interval,
    exact_interval,
    paired_difference,
    question_values,
)

Rows = list[dict]


def claim_figures() -> Rows:
    """Every published row as printed and as corrected, and whether SAcc ≤ MRR ≤ LAcc as printed."""
    return [
        {
            "claim": claim.key,
            "system": claim.system,
            "as printed": _figures(claim.printed),
            "order kept": _order(claim),
            "as corrected": _figures(claim.corrected),
            "reason, or what else to know": claim.reason,
        }
        for claim in claims.CLAIMS
    ]


def claim_protocols() -> Rows:
    """How every published row was made, as far as its source says."""
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
        for claim in claims.CLAIMS
    ]


def granularity() -> Rows:
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
        for row in claims.granularity()
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


def official_check(run: Run) -> tuple[Rows, bool | None]:
    """The organisers' program beside ours on the run's answer files, and whether all agree.

    Without a configured jar: one row that says so, and None.
    """
    if not run.settings.official_jar:
        remedy = 'give it: overrides = "official_jar=/path/to/BioASQEvaluation.jar"'
        return [
            {"batch": "all", "official": "not run: no jar is configured", "to run it": remedy}
        ], None
    data = run.noted("data", CONVERT)
    answers = [run.need(f"answers/{name}.json", PREDICT) for name in data["batches"]]
    found = official.compare_files(
        run.settings.official_jar, data["golds"], answers,
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
        for measure in official.FACTOID
    ]
    return rows, all(batch.agrees for batch in found)


def judge(scores: Mapping, batches: Sequence[Batch]) -> Rows:
    """The verdict on every published row, by ``verdicts.RULE``."""
    ranks = {batch.name: batch.ranks for batch in batches}
    rows = []
    for claim in claims.CLAIMS:
        found = verdicts.verdict(claim, scores, verdicts.run_intervals(claim, ranks))
        rows.append({"claim": claim.key, "system": claim.system, "verdict": found.outcome,
                     "why": found.sentence})  # fmt: skip
    return rows


def _figures(row: Mapping[str, str]) -> str:
    return ", ".join(f"{measure} {digits}" for measure, digits in row.items())


def _order(claim: claims.Claim) -> str:
    if "MRR" not in claim.printed:
        return "–"
    return "yes" if claims.in_order(claim.printed) else "NO"


def _shown(counts: Sequence[int]) -> str:
    if len(counts) > 3:  # neighbours, from a figure with one digit
        return f"{counts[0]} to {counts[-1]}"
    return ", ".join(map(str, counts)) or "none"


def _ranks(batches: Sequence[Batch]) -> dict[str, int]:
    return {question: rank for batch in batches for question, rank in batch.ranks.items()}


def _strata(batches: Sequence[Batch]) -> dict[str, str]:
    return {question: batch.name for batch in batches for question in batch.ranks}


def _percent(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.1%}"
