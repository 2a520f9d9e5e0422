"""The tables of notebook 05: scores, intervals, published rows and verdicts.

Each function returns rows that are ready to display.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist, fmean

from helpers.data.bioasq import Question, read_answers
from helpers.run.compare import SharedRun, difference
from helpers.run.folder import Run
from helpers.run.scores import CONVERT, PREDICT, THIS_RUN
from helpers.scoring import arithmetic, claims, official
from helpers.scoring.metrics import MEASURES, question_values
from helpers.scoring.system import ScoredBatch
from helpers.scoring.uncertainty import bootstrap_interval, exact_interval, paired_difference

Rows = list[dict]
# The rows in notebook 05, with the most important ones first: the model card, the only target with
# exact counts, and a row from the paper.
FIRST = ("card", "notebook-7b-4", "paper-345m")
KEYS = (*FIRST, *(claim.key for claim in claims.CLAIMS if claim.key not in FIRST))


def published_rows(keys: Sequence[str] = KEYS) -> Rows:
    """Return the published scores as printed, and their protocol as far as the source states it."""
    return [
        {
            "claim": claim.key,
            "system": claim.system,
            "as printed": _printed(claim.printed),
            "context": claim.protocol.context,
            "epochs": claim.protocol.epochs,
            "questions": claim.n or "unknown",
            "source": claim.source,
        }
        for claim in map(claims.get, keys)
    ]


def corrections(keys: Sequence[str] = KEYS) -> Rows:
    """Return whether SAcc ≤ MRR ≤ LAcc holds for published scores, and the scores as corrected."""
    return [
        {
            "claim": claim.key,
            "as printed": _printed(claim.printed),
            "order kept": "yes" if arithmetic.in_order(claim.printed) else "NO",
            "as corrected": _printed(claim.corrected),
            "reason or note": claim.reason,
        }
        for claim in map(claims.get, keys)
        if "MRR" in claim.printed
    ]


def _printed(figures: Mapping[str, str]) -> str:
    return ", ".join(map(" ".join, figures.items()))


def granularity(keys: Sequence[str] = KEYS) -> Rows:
    """Return the counts of correct answers that fit each printed accuracy.

    There are 162 questions, or 34 for rows on batch 7b-4. MRR is omitted because it changes in
    steps of 1/(60 n), which are too small for the printed digits to exclude any value.
    """
    rows = []
    for claim, measure in itertools.product(map(claims.get, keys), ("SAcc", "LAcc")):
        if printed := claim.corrected.get(measure):
            n = 34 if "7b-4" in claim.key else 162
            counts = arithmetic.counts_that_print_as(printed, n, claim.unit)
            some = ", ".join(map(str, counts)) or "none"
            # If a figure has few digits, many neighboring counts fit.
            fitting = some if len(counts) <= 3 else f"{counts[0]} to {counts[-1]}"
            rows.append({"claim": claim.key, "measure": measure, "printed": printed, "questions": n,
                         "right answers needed": f"{claim.value(measure) * n:.2f}",
                         "counts that fit": fitting})  # fmt: skip
    return rows


@functools.cache
def averages(averaging: str, decimals: int | None, fixed: bool) -> Rows:
    """Return whether a rule of rounding and averaging can give the figures on the model card.

    ``averaging`` and ``decimals`` are as in ``arithmetic.Averages``. ``fixed`` fixes batch 7B4 at
    its published numbers of right answers. The card's 48 is read as 48.00.
    """
    card, exact = claims.get("card"), claims.get("notebook-7b-4")
    place, n = list(claims.TEST_7B).index("7B4"), claims.TEST_7B["7B4"]
    nearby = [f"{60 + number / 100:.2f}" for number in range(801)]
    rows = []
    for measure in ("SAcc", "LAcc"):
        (count,) = arithmetic.counts_that_print_as(exact.corrected[measure], n, exact.unit)
        known, figure = {place: count} if fixed else None, f"{100 * card.value(measure):.2f}"
        rule = arithmetic.Averages(list(claims.TEST_7B.values()), averaging, decimals, known)
        ways = rule.ways(figure)
        totals = f"{min(ways)} to {max(ways)}" if len(ways) > 1 else "".join(map(str, ways))
        every = sum(map(rule.splits, ways))
        rows.append(
            {
                "figure": f"{measure} {figure}",
                "possible": "yes" if ways else "no",
                "right of 162": totals or "–",
                "distributions that give it": f"{sum(ways.values()):,} of {every:,}",
                "figures from 60.00 to 68.00 that are possible": f"{sum(rule.possible(nearby))} "
                f"of {len(nearby)}",
            }
        )
    return rows


def question_effect(
    run: Run, systems: Mapping[str, Sequence[ScoredBatch]], batch: str, question: Question
) -> Rows:
    """Return each system's answers to one question, the first right rank, and the points gained."""
    rows = []
    for name, batches in systems.items():
        folder = "answers" if name == THIS_RUN else f"baselines/{name}"
        answers, _ = read_answers(run.need(f"{folder}/{batch}.json", PREDICT))
        ranks = _ranks(batches)
        rank = ranks.get(question.id, 0)
        row = {"system": name, "answers in order": " | ".join(answers.get(question.id, ()))}
        row["rank of the first right one"] = rank or "none"
        for measure, (value,) in question_values([rank]).items():
            row[f"{measure} (points)"] = f"{100 * value / len(ranks):.2f}"
        rows.append(row)
    return rows


def systems_compared(systems: Mapping[str, Sequence[ScoredBatch]]) -> Rows:
    """Compare the run with each baseline on the same questions; add intervals for the differences.

    ``systems`` comes from ``scores.read_systems``. If missing questions are dropped, only questions
    that both systems answer are compared.
    """
    own, strata = _ranks(systems[THIS_RUN]), _strata(systems[THIS_RUN])
    rows = []
    for name, batches in systems.items():
        theirs = _ranks(batches)
        shared = [question for question in own if question in theirs]
        baseline, run = (question_values([ranks[q] for q in shared]) for ranks in (theirs, own))
        row = {"system": name, "questions": len(shared)}
        row |= {measure: f"{fmean(baseline[measure]):.1%}" for measure in MEASURES}
        if name != THIS_RUN:
            labels = [strata[question] for question in shared]
            lead = paired_difference(baseline["SAcc"], run["SAcc"], labels)
            row["this run's lead in SAcc (points)"] = f"{100 * lead.mean:+.1f}"
            row["95% interval"] = f"{100 * lead.low:+.1f} to {100 * lead.high:+.1f}"
            row["permutation p-value"] = f"{lead.p:.4f}"
        rows.append(row)
    return rows


def squad_step(real: Mapping[tuple[str, str], Sequence[SharedRun]]) -> Rows:
    """Return the effect of the SQuAD step in the runs that come with the kit.

    ``real`` comes from ``compare.read_shared_ranks``. If runs are missing, the only row says so.
    """
    names = [(profile, THIS_RUN) for profile in ("bioasq-cpu", "squad-then-bioasq-cpu")]
    if not all(name in real for name in names):
        return [{"runs": "none: docs/results/ranks.json lacks them", "measure": "–"}]
    return runs_compared(*(real[name] for name in names))


def runs_compared(first: Sequence[SharedRun], second: Sequence[SharedRun]) -> Rows:
    """Compare two configurations on the same questions: averaged over seeds, then seed by seed."""
    seeds = [(f"seed {b.seed}", [a], [b]) for a, b in zip(first, second, strict=True)]
    rows = []
    for name, befores, afters in [("mean over seeds", first, second), *seeds]:
        sides = [[run.ranks for run in runs] for runs in (befores, afters)]
        for measure in MEASURES:
            change = difference(*sides, first[0].strata, measure)
            rows.append(
                {
                    "runs": name,
                    "measure": measure,
                    "difference (points)": f"{100 * change.mean:+.1f}",
                    "95% interval": f"{100 * change.low:+.1f} to {100 * change.high:+.1f}",
                    "permutation p-value": f"{change.p:.3f}",
                }
            )
    return rows


def intervals(batches: Sequence[ScoredBatch]) -> Rows:
    """Return the run's scores with two kinds of 95% confidence interval over questions."""
    labels = list(_strata(batches).values())
    rows = []
    for measure, values in question_values(list(_ranks(batches).values())).items():
        exact = "none, because MRR is not a proportion"
        if measure != "MRR":
            exact = _interval(exact_interval(int(sum(values)), len(values)))
        rows.append(
            {
                "measure": measure,
                "score": f"{fmean(values):.1%}",
                "bootstrap over questions": _interval(bootstrap_interval(values, labels)),
                "exact binomial": exact,
            }
        )
    return rows


def official_check(run: Run, jar: str | Path = "") -> tuple[Rows, bool | None]:
    """Compare the organizers' scores with ours; return one row per score and whether all agree.

    ``jar`` is the path to the organizers' BioASQEvaluation.jar. Without it, the only row explains
    how to specify it, and the second value is None.
    """
    if not jar:
        row = {"batch": "all", "official": "not run: no jar was specified"}
        return [row | {"how to run it": 'set jar = "/path/to/BioASQEvaluation.jar" above'}], None
    data = run.noted("data", CONVERT)
    answers = [run.need(f"answers/{name}.json", PREDICT) for name in data["batches"]]
    found = official.compare_files(
        jar, data["golds"], answers, missing=run.settings.missing, names=data["batches"]
    )
    rows = [
        {
            "batch": batch.batch,
            "measure": measure,
            "official": repr(batch.official[measure]),
            "ours": repr(batch.ours[measure]),
            "agree to 1e-9": "yes" if batch.agrees else "NO",
            "changes to the copy": "; ".join(batch.repairs) or "none",
        }
        for batch in found
        for measure in MEASURES
    ]
    return rows, all(batch.agrees for batch in found)


def margins(claim: float = 0.48, truths: Sequence[float] = (0.46, 0.44, 0.42)) -> Rows:
    """Return the margin for 162 questions, and the rejection rates, for several numbers of seeds.

    ``truths`` are possible true mean accuracies of our training over all seeds. The last columns
    give the probability that the mean over that many seeds falls outside the margin around
    ``claim``.
    """
    rows = []
    for seeds in (1, 2, 3, 5, 10):
        margin = claims.margin(162, seeds)
        row = {"seeds": seeds, "margin (points)": f"{margin:.1f}",
               "margin (questions of 162)": f"{1.62 * margin:.1f}"}  # fmt: skip
        for truth in truths:
            mean = NormalDist(100 * (truth - claim), claims.SEED_SD / math.sqrt(seeds))
            chance = mean.cdf(-margin) + 1 - mean.cdf(margin)
            row[f'"not reproduced" if the true mean is {truth:.0%}'] = f"{chance:.0%}"
        rows.append(row)
    return rows


def judge(found: Sequence[claims.Verdict]) -> Rows:
    """Return one row per verdict, starting with the model card's."""
    verdicts = {one.claim: one for one in found}
    return [
        {"claim": key, "system": claims.get(key).system, "verdict": verdicts[key].outcome,
         "why": verdicts[key].sentence.removeprefix(f"Not comparable with {key}: ")}
        for key in KEYS
    ]  # fmt: skip


def _ranks(batches: Sequence[ScoredBatch]) -> dict[str, int]:
    return {question: rank for batch in batches for question, rank in batch.ranks.items()}


def _strata(batches: Sequence[ScoredBatch]) -> dict[str, str]:
    return {question: batch.name for batch in batches for question in batch.ranks}


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.1%} to {ends[1]:.1%}"
