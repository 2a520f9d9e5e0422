"""The tables of notebook 05: published scores, intervals, verdicts, and protocol effects.

Each function returns rows that are ready to display. ``protocol_effects`` measures how each
protocol choice changes the score of one run. For the choice of averaging, of merging and of how to
treat missing questions, it recomputes the score from the run's files. For different input texts
(golden or joined snippets, abstracts), it predicts again with the same model if that is quick.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist, fmean

from tqdm import tqdm

from helpers.config import CONTEXTS, MERGES, MISSING, SNIPPETS, InputError, Settings
from helpers.data.layout import BioasqFiles, TestBatch, find_files, read_batches, ready_tests
from helpers.data.mini import DATA
from helpers.data.squad import read_squad
from helpers.model import checkpoints
from helpers.model.decoding import rank_answers, read_nbest
from helpers.run.folder import Run
from helpers.run.scores import CONVERT, PREDICT, THIS_RUN, TRAIN, ScoredBatch
from helpers.scoring import claims, metrics, official
from helpers.scoring.metrics import MEASURES, question_values
from helpers.scoring.uncertainty import (
    bootstrap_interval,
    exact_interval,
    paired_difference,
    questions_to_tell,
    seeds_to_tell,
)

Rows = list[dict]
ALL = tuple(claim.key for claim in claims.CLAIMS)
# Rows in notebook 05: the model cards, the only target with exact counts, and the rows closest to
# our runs.
SHOWN = ("card", "card-biobert", "notebook-7b-4", "paper-345m", "dmis-biobert",
         "dmis-biobert-squad")  # fmt: skip


def claim_figures(keys: Sequence[str] = SHOWN) -> Rows:
    """Return published scores as printed and as corrected, and whether SAcc ≤ MRR ≤ LAcc holds."""
    rows = []
    for claim in map(claims.get, keys):
        kept = "–"
        if "MRR" in claim.printed:
            kept = "yes" if claims.in_order(claim.printed) else "NO"
        rows.append(
            {
                "claim": claim.key,
                "system": claim.system,
                "as printed": ", ".join(map(" ".join, claim.printed.items())),
                "order kept": kept,
                "as corrected": ", ".join(map(" ".join, claim.corrected.items())),
                "reason or note": claim.reason,
            }
        )
    return rows


def claim_protocols(keys: Sequence[str] = SHOWN) -> Rows:
    """Return the protocol of each published row, as far as its source states it."""
    return [
        {
            "claim": claim.key,
            **vars(claim.protocol),
            "questions": claim.n or "unknown",
            "source": claim.source,
        }
        for claim in map(claims.get, keys)
    ]


def granularity(keys: Sequence[str] = SHOWN) -> Rows:
    """Return the counts of correct answers that fit each printed accuracy.

    There are 162 questions, or 34 for rows on batch 7b-4. MRR is omitted because it changes in
    steps of 1/(60 n), which are too small for the printed digits to exclude any value.
    """
    rows = []
    for claim, measure in itertools.product(map(claims.get, keys), ("SAcc", "LAcc")):
        if printed := claim.corrected.get(measure):
            n = 34 if "7b-4" in claim.key else 162
            counts = claims.counts_that_print_as(printed, n, claim.unit)
            some = ", ".join(map(str, counts)) or "none"
            # If a figure has few digits, many neighboring counts fit.
            fitting = some if len(counts) <= 3 else f"{counts[0]} to {counts[-1]}"
            rows.append({"claim": claim.key, "measure": measure, "printed": printed, "questions": n,
                         "right answers needed": f"{claim.value(measure) * n:.2f}",
                         "counts that fit": fitting})  # fmt: skip
    return rows


def question_worth(share: float = 0.48) -> Rows:
    """Return the points per question and the 95% interval around ``share`` for each test set."""
    return [
        {
            "test set": name,
            "questions": n,
            "points per question": f"{100 / n:.2f}",
            f"95% interval at {share:.0%}": _interval(exact_interval(round(share * n), n)),
        }
        for name, n in {"all five batches of 7b": 162, **claims.TEST_7B}.items()
    ]


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


def power(first: float = 0.46, second: float = 0.48, disagree: float = 0.2) -> Rows:
    """Return how many questions or seeds are needed to distinguish two strict accuracies.

    The significance level is 5% and the power is 80%. ``disagree`` is the share of questions that
    only one of two paired models answers correctly.
    """
    points, sd = 100 * abs(second - first), claims.SEED_SD
    paired, own = questions_to_tell(first, second, disagree), questions_to_tell(first, second)
    best = NormalDist().cdf(points / sd - NormalDist().inv_cdf(0.975))
    needs = {
        f"two models on the same questions, {disagree:.0%} of them answered correctly by only one":
            f"{paired:,} questions, {paired / 162:.0f} times the five batches of 7b",
        "two models on different questions":
            f"{own:,} questions each, {own / 162:.0f} times the five batches of 7b",
        "two training methods on the same 162 questions, with a standard deviation over seeds of "
        f"{sd:g} points": f"{seeds_to_tell(points, sd)} seeds per method",
        "our seeds and one published run on the same 162 questions":
            f"not possible: the power is at most {best:.0%}, regardless of the number of seeds",
    }  # fmt: skip
    return [{"compared": compared, "needed": needed} for compared, needed in needs.items()]


def judge(found: Sequence[claims.Verdict]) -> Rows:
    """Return the verdict on the model card and all other verdicts that are based on scores."""
    return [
        {"claim": one.claim, "system": claims.get(one.claim).system, "verdict": one.outcome,
         "why": one.sentence}
        for one in found
        if one.claim == "card" or not one.differing
    ]  # fmt: skip


def _ranks(batches: Sequence[ScoredBatch]) -> dict[str, int]:
    return {question: rank for batch in batches for question, rank in batch.ranks.items()}


def _strata(batches: Sequence[ScoredBatch]) -> dict[str, str]:
    return {question: batch.name for batch in batches for question in batch.ranks}


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.1%} to {ends[1]:.1%}"


SILENT = 0.25  # share of answers that the "some silent" rows omit
Ranked = dict[str, dict[str, list]]  # batch -> question id -> ranked (answer, score)


@dataclass(frozen=True)
class Effect:
    """One setting of a switch, with its score. If ``score`` is None, ``note`` explains why."""

    switch: str
    setting: str
    score: metrics.BatchScore | metrics.Average | None
    own: bool = False  # whether this is the run's own setting
    note: str = ""


def protocol_effects(
    run: Run, batches: Sequence[ScoredBatch], most_seconds: float = 180
) -> list[Effect]:
    """Score the run under each setting of each switch, with everything else unchanged.

    ``batches`` come from ``scores.read_batches``. The model predicts on different texts only if
    that takes at most ``most_seconds`` seconds. All scores except those of the switch ``averaging``
    are weighted by the number of questions in each batch.
    """
    ranked: dict[str, Ranked] = {merge: {} for merge in MERGES}
    for batch in batches:
        rows = read_nbest(run.need(f"nbest/{batch.name}.jsonl", PREDICT))
        examples, candidates = [example for example, _ in rows], [nbest for _, nbest in rows]
        for merge in MERGES:
            ranked[merge][batch.name] = rank_answers(examples, candidates, merge=merge)
    merge, missing = run.settings.merge, run.settings.missing
    return [
        *_averaging(batches),
        *_missing(batches, ranked[merge], missing),
        *(Effect("merge", name, _score(batches, answers, missing), name == merge)
          for name, answers in ranked.items()),
        *_inputs(run, batches, most_seconds),
    ]  # fmt: skip


def effect_table(found: Sequence[Effect]) -> Rows:
    """Return the effects as rows: scores in percent, changes from the run in percentage points."""
    base = {effect.switch: effect.score for effect in found if effect.own}
    rows = []
    for effect in found:
        row = {"switch": effect.switch, "setting": effect.setting}
        for measure in MEASURES:
            value = change = "–"
            if effect.score is not None:
                percent = 100 * getattr(effect.score, measure.lower())
                difference = percent - 100 * getattr(base[effect.switch], measure.lower())
                value = f"{percent:.1f}"
                change = "this run" if effect.own else f"{difference:+.1f}"
            row |= {measure: value, f"{measure} change": change}
        rows.append({**row, "note": effect.note})
    return rows


def _averaging(batches: Sequence[ScoredBatch]) -> list[Effect]:
    scores = [batch.score for batch in batches]
    notes = {
        "weighted": "by the number of questions in each batch",
        "pooled": "always equal to the weighted score",
        "macro": "each batch has the same weight",
    }
    found = (metrics.weighted(scores), metrics.pooled(scores), metrics.macro(scores))
    return [Effect("averaging", s.batch, s, s.batch == "weighted", notes[s.batch]) for s in found]


def _missing(batches: Sequence[ScoredBatch], ranked: Ranked, own: str) -> list[Effect]:
    best = {name: answers for found in ranked.values() for name, answers in found.items()}
    sure = {name: answers[0][1] if answers else 0.0 for name, answers in best.items()}
    # Every batch keeps its surest answer; a batch without any answer could not be scored.
    kept = {max(found, key=lambda name: (sure[name], name)) for found in ranked.values() if found}
    order = sorted(sure.keys() - kept, key=lambda name: (sure[name], name))
    silent = set(order[: round(SILENT * len(sure))])
    note = f"as if the run had left out the {len(silent)} answers with the lowest probability"
    return [
        Effect("missing", how, _score(batches, ranked, how), how == own) for how in MISSING
    ] + [
        Effect("missing", f"{how}, some silent", _score(batches, ranked, how, silent), note=note)
        for how in MISSING
    ]  # fmt: skip


def _inputs(run: Run, batches: Sequence[ScoredBatch], most_seconds: float) -> Iterator[Effect]:
    settings, own = run.settings, metrics.weighted([batch.score for batch in batches])
    size = sum(len(text) for b in batches for texts in b.contexts.values() for text in texts)
    rate = run.noted("answers", PREDICT)["seconds"] / max(size, 1)
    enriched = run.noted("data", CONVERT)["enriched"]
    # Without test inputs, the only snippets are those in the golden files.
    kinds = (True,) if _files(settings, settings.context).enriched else (False, True)
    rows = [("snippets", SNIPPETS[golden], settings.context, golden) for golden in kinds]
    rows += [("context", context, context, enriched) for context in CONTEXTS]
    reader = None
    for switch, name, context, golden in rows:
        if (context, golden) == (settings.context, enriched):
            yield Effect(switch, name, own, True)
            continue
        try:
            others = _read(settings, context, golden)
        except InputError as error:
            yield Effect(switch, name, None, note=f"not possible: {error}")
            continue
        seconds = rate * sum(len(e.context) for batch in others for e in batch.examples)
        if seconds > most_seconds:
            note = f"not tried: it would take about {seconds:.0f} s (limit: {most_seconds:g} s)"
            yield Effect(switch, name, None, note=note)
            continue
        reader = reader or checkpoints.load(run.need("model/model.nemo", TRAIN), settings)
        ranked: Ranked = {}
        for batch in tqdm(others, desc=f"{switch}: {name}", unit="batch"):
            nbests = reader.predict(batch.examples, progress=False)
            ranked[batch.name] = rank_answers(batch.examples, nbests, merge=settings.merge)
        texts = sum(len(batch.examples) for batch in others)
        note = f"predicted again on {texts} texts (model trained with context={settings.context})"
        bare = sum(not ranked[b.name].get(q.id) for b in batches for q in b.golds)
        note += f"; {bare} questions have no text" if bare else ""
        yield Effect(switch, name, _score(batches, ranked, settings.missing), note=note)


def _read(settings: Settings, context: str, golden: bool) -> list[TestBatch]:
    """Read the test batches with different texts; use SQuAD files in place of missing abstracts."""
    files = _files(settings, context)
    files = files.with_golden_snippets() if golden else files
    ready = ready_tests(_folder(settings), context)
    if context != "abstract" or files.abstracts or golden or not ready:
        return read_batches(files, context, fetch=False)[0]  # do not download files for a table
    examples = defaultdict(list)
    for path in ready:
        for example in read_squad(path):
            examples[example.question_id].append(example)
    return [
        replace(batch, examples=tuple(e for q in batch.golds for e in examples[q.id]))
        for batch in read_batches(files, "snippet")[0]
    ]


def _files(settings: Settings, context: str) -> BioasqFiles:
    return find_files(_folder(settings), context=context, need_train=False)


def _folder(settings: Settings) -> Path:
    return Path(settings.bioasq_dir).expanduser() if settings.bioasq_dir else DATA


def _score(
    batches: Sequence[ScoredBatch], ranked: Ranked, missing: str, silent: Set[str] = frozenset()
) -> metrics.Average:
    """Return the weighted score of the answers. Answers to questions in ``silent`` are omitted."""
    scores = []
    for batch in batches:
        asked = {name for name, _ in batch.synonyms if name is not None} - silent
        found = ranked[batch.name]
        answers = {name: [text for text, _ in found.get(name, [])] for name in asked}
        scores.append(metrics.score_batch(batch.name, batch.synonyms, answers, missing))
    return metrics.weighted(scores)
