"""The tables of notebook 05: published rows, intervals, verdicts, and the effects of the protocol.

The functions return rows that are ready to display. ``protocol_effects`` measures how each choice
of protocol changes the score of one run. Averaging, missing questions and merging are computed from
the run's files. Other texts (golden or joined snippets, abstracts) need a new prediction with the
same model, which is made only if it is quick.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

from tqdm import tqdm

from helpers.config import CONTEXTS, MERGES, MISSING, SNIPPETS, InputError, Settings
from helpers.data.layout import BioasqFiles, TestBatch, find_files, read_batches, ready_tests
from helpers.data.mini import DATA
from helpers.data.squad import Example, read_squad
from helpers.model import checkpoints
from helpers.model.decoding import Candidate, rank_answers, read_nbest
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
# Rows that notebook 05 shows: the cards, the one exact target, and the rows closest to our runs.
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
    """How the published rows were obtained, as far as their sources say."""
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
    """Which printed accuracies can be k of 162, or of 34 for the rows on batch 7b-4.

    MRR is left out: it changes in steps of 1/(60 n), too fine for printed digits to exclude any.
    """
    rows = []
    for claim, measure in itertools.product(map(claims.get, keys), ("SAcc", "LAcc")):
        if printed := claim.corrected.get(measure):
            n = 34 if "7b-4" in claim.key else 162
            counts = claims.counts_that_print_as(printed, n, claim.unit)
            rows.append({"claim": claim.key, "measure": measure, "printed": printed, "of": n,
                         "right answers needed": f"{claim.value(measure) * n:.2f}",
                         "whole numbers that print so": _shown(counts)})  # fmt: skip
    return rows


def question_worth(share: float = 0.48) -> Rows:
    """How much one question changes a score, and the interval of ``share`` on so many questions."""
    rows = []
    for name, n in {"all five batches of 7b": 162, **claims.TEST_7B}.items():
        low, high = exact_interval(round(share * n), n)
        interval = f"{low:.1%} to {high:.1%}"
        rows.append({"questions of": name, "number": n, "one question (points)": f"{100 / n:.2f}",
                     f"95% interval at {share:.0%}": interval})  # fmt: skip
    return rows


def systems_compared(systems: Mapping[str, Sequence[ScoredBatch]]) -> Rows:
    """The run and each baseline on the same questions, and the run's lead with its interval.

    ``systems`` comes from ``scores.read_systems``. If missing questions are dropped, only questions
    that both systems answer are compared.
    """
    own, strata = _ranks(systems[THIS_RUN]), _strata(systems[THIS_RUN])
    rows = []
    for name, batches in systems.items():
        theirs = _ranks(batches)
        asked = [question for question in own if question in theirs]
        values = [question_values([ranks[q] for q in asked]) for ranks in (theirs, own)]
        row = {"system": name, "questions": len(asked)}
        row |= {measure: _percent(values[0][measure]) for measure in MEASURES}
        if name != THIS_RUN:
            labels = [strata[question] for question in asked]
            change = paired_difference(values[0]["SAcc"], values[1]["SAcc"], labels)
            row["lead of this run in SAcc (points)"] = f"{100 * change.mean:+.1f}"
            row["95% interval"] = f"{100 * change.low:+.1f} to {100 * change.high:+.1f}"
            row["permutation p"] = f"{change.p:.4f}"
        rows.append(row)
    return rows


def intervals(batches: Sequence[ScoredBatch]) -> Rows:
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
    """The organizers' figures and ours on the run's answer files, and whether all of them agree.

    ``jar`` is the path of their BioASQEvaluation.jar. Without it, one row says so, and the second
    value is None.
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
    """The margin on 162 questions per number of seeds, and how often the rule then says no.

    ``truths`` are possible true mean accuracies of our training over all seeds. The last columns
    give the probability that the mean over so many seeds lies outside the margin of ``claim``.
    """
    rows = []
    for seeds in (1, 2, 3, 5, 10):
        allowed = claims.margin(162, seeds)
        row = {"seeds": seeds, "margin (points)": f"{allowed:.1f}",
               "in questions of 162": f"{1.62 * allowed:.1f}"}  # fmt: skip
        for truth in truths:
            mean = NormalDist(100 * (truth - claim), claims.SEED_SD / math.sqrt(seeds))
            chance = mean.cdf(-allowed) + 1 - mean.cdf(allowed)
            row[f'"not reproduced" if the truth is {truth:.0%}'] = f"{chance:.0%}"
        rows.append(row)
    return rows


def power(first: float = 0.46, second: float = 0.48, disagree: float = 0.2) -> Rows:
    """What it takes to distinguish two strict accuracies at 95%, with a power of four in five."""
    points, sd = 100 * abs(second - first), claims.SEED_SD
    paired, own = questions_to_tell(first, second, disagree), questions_to_tell(first, second)
    seeds = seeds_to_tell(points, sd)
    best = NormalDist().cdf(points / sd - NormalDist().inv_cdf(0.975))
    return [
        {"compared": what, "needed": needed}
        for what, needed in (
            (f"two models on the same questions, {disagree:.0%} of them answered by just one",
             f"{paired:,} questions, {paired / 162:.0f} times the five batches of 7b"),
            ("two models, each on its own questions",
             f"{own:,} questions each, {own / 162:.0f} times the five batches"),
            (f"two ways of training on the same 162 questions, one seed varying by {sd:g} points",
             f"{seeds} seeds of each"),
            ("seeds of ours and one published run, on the same 162 questions",
             f"out of reach: {best:.0%} of the time at best, with any number of our seeds"),
        )
    ]  # fmt: skip


def judge(found: Sequence[claims.Verdict]) -> Rows:
    """The verdicts that are based on figures, and always the one on the card."""
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
    if len(counts) > 3:  # neighbors, because the figure has few digits
        return f"{counts[0]} to {counts[-1]}"
    return ", ".join(map(str, counts)) or "none"


def _ranks(batches: Sequence[ScoredBatch]) -> dict[str, int]:
    return {question: rank for batch in batches for question, rank in batch.ranks.items()}


def _strata(batches: Sequence[ScoredBatch]) -> dict[str, str]:
    return {question: batch.name for batch in batches for question in batch.ranks}


def _percent(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.1%}"


SILENT = 0.25  # share of questions left unanswered in one row: those with the least probability


@dataclass(frozen=True)
class Effect:
    """One setting of one switch. ``score`` is None if it was not tried; ``note`` says why."""

    switch: str
    setting: str
    score: metrics.BatchScore | metrics.Average | None
    own: bool = False  # the run's own setting
    note: str = ""


def protocol_effects(
    run: Run, batches: Sequence[ScoredBatch], most_seconds: float = 180
) -> list[Effect]:
    """Each switch in each of its settings, with everything else as in the run.

    ``batches`` come from ``scores.read_batches``. Other texts are predicted only if that takes at
    most ``most_seconds``. Scores are weighted by batch, except for the switch about averaging.
    """
    nbest = {b.name: read_nbest(run.need(f"nbest/{b.name}.jsonl", PREDICT)) for b in batches}
    return [
        *_averaging(batches),
        *_missing(run, batches, nbest),
        *_merging(run, batches, nbest),
        *_inputs(run, batches, most_seconds),
    ]


def effect_table(found: Sequence[Effect]) -> list[dict]:
    """The effects as rows in percent, with the change from the run's own score."""
    base = {effect.switch: effect.score for effect in found if effect.own}
    rows = []
    for effect in found:
        row = {"switch": effect.switch, "setting": effect.setting}
        for measure in ("sacc", "mrr", "lacc"):
            if effect.score is None:
                row |= {measure: "–", f"{measure} change": "–"}
                continue
            value = 100 * getattr(effect.score, measure)
            change = value - 100 * getattr(base[effect.switch], measure)
            row |= {measure: f"{value:.1f}"}
            row |= {f"{measure} change": "this run" if effect.own else f"{change:+.1f}"}
        rows.append({**row, "note": effect.note})
    return rows


def _averaging(batches: Sequence[ScoredBatch]) -> list[Effect]:
    scores = [batch.score for batch in batches]
    notes = {
        "weighted": "by the number of questions in the batch",
        "pooled": "always equal to weighted",
        "macro": "each batch has the same weight",
    }
    found = (metrics.weighted(scores), metrics.pooled(scores), metrics.macro(scores))
    return [Effect("averaging", s.batch, s, s.batch == "weighted", notes[s.batch]) for s in found]


def _missing(run: Run, batches: Sequence[ScoredBatch], nbest) -> list[Effect]:
    ranked = {name: _ranked(rows, run.settings.merge) for name, rows in nbest.items()}
    given = {name: _texts(best) for name, best in ranked.items()}
    sure = {
        q: best[0][1] if best else 0.0 for found in ranked.values() for q, best in found.items()
    }
    silent = set(sorted(sure, key=lambda q: (sure[q], q))[: round(SILENT * len(sure))])
    note = f"as if the run had left out the {len(silent)} answers with the lowest probability"
    found = [
        Effect("missing", missing, _score(batches, given, missing), missing == run.settings.missing)
        for missing in MISSING
    ]
    return found + [
        Effect("missing", f"{m}, some silent", _score(batches, given, m, silent), note=note)
        for m in MISSING
    ]


def _merging(run: Run, batches: Sequence[ScoredBatch], nbest) -> list[Effect]:
    found = []
    for merge in MERGES:
        given = {name: _texts(_ranked(rows, merge)) for name, rows in nbest.items()}
        score = _score(batches, given, run.settings.missing)
        found.append(Effect("merge", merge, score, merge == run.settings.merge))
    return found


def _inputs(run: Run, batches: Sequence[ScoredBatch], most_seconds: float) -> list[Effect]:
    settings, own = run.settings, metrics.weighted([batch.score for batch in batches])
    size = sum(len(text) for b in batches for texts in b.contexts.values() for text in texts)
    rate = run.noted("answers", PREDICT)["seconds"] / max(size, 1)
    enriched = run.noted("data", CONVERT)["enriched"]
    # Without test inputs, the golden files' snippets are the only ones.
    kinds = (True,) if _files(settings, settings.context).enriched else (False, True)
    rows = [("snippets", SNIPPETS[golden], settings.context, golden) for golden in kinds]
    rows += [("context", context, context, enriched) for context in CONTEXTS]
    found, reader = [], None
    for switch, name, context, golden in rows:
        if (context, golden) == (settings.context, enriched):
            found.append(Effect(switch, name, own, True))
            continue
        try:
            others = _read(settings, context, golden)
        except InputError as error:
            found.append(Effect(switch, name, None, note=f"not possible: {error}"))
            continue
        seconds = rate * sum(len(e.context) for batch in others for e in batch.examples)
        if seconds > most_seconds:
            note = f"not tried: about {seconds:.0f} seconds here, more than {most_seconds:g}"
            found.append(Effect(switch, name, None, note=note))
            continue
        if reader is None:
            reader = checkpoints.load(run.need("model/model.nemo", TRAIN), settings)
        given, pairs = {}, 0
        for batch in tqdm(others, desc=f"{switch}: {name}", unit="batch"):
            best = reader.predict(batch.examples, progress=False)
            ranked = _ranked(list(zip(batch.examples, best, strict=True)), settings.merge)
            given[batch.name] = _texts(ranked)
            pairs += len(best)
        note = f"{pairs} texts predicted again with the model trained on {settings.context}"
        bare = sum(not given[b.name].get(q.id) for b in batches for q in b.golds)
        note += f"; {bare} questions have no text" if bare else ""
        found.append(Effect(switch, name, _score(batches, given, settings.missing), note=note))
    return found


def _read(settings: Settings, context: str, golden: bool) -> list[TestBatch]:
    """The test batches with other texts; ready SQuAD files replace missing abstracts."""
    files = _files(settings, context)
    files = files.with_golden_snippets() if golden else files
    ready = ready_tests(_folder(settings), context)
    if context != "abstract" or files.abstracts or golden or not ready:
        return read_batches(files, context, fetch=False)[0]  # a table is no reason to download
    by_question: dict[str, list[Example]] = {}
    for example in (example for path in ready for example in read_squad(path)):
        by_question.setdefault(example.question_id, []).append(example)
    return [
        replace(b, examples=tuple(e for q in b.golds for e in by_question.get(q.id, ())))
        for b in read_batches(files, "snippet")[0]
    ]


def _files(settings: Settings, context: str) -> BioasqFiles:
    return find_files(_folder(settings), context=context, need_train=False)


def _folder(settings: Settings) -> Path:
    return Path(settings.bioasq_dir).expanduser() if settings.bioasq_dir else DATA


def _score(
    batches: Sequence[ScoredBatch],
    given: dict[str, dict],
    missing: str,
    silent: Set[str] = frozenset(),
) -> metrics.Average:
    """``given``: batch -> question id -> ranking. Questions in ``silent`` get no entry."""
    scores = []
    for batch in batches:
        asked = {name for name, _ in batch.synonyms if name is not None} - silent
        answers = {name: given[batch.name].get(name, []) for name in asked}
        scores.append(metrics.score_batch(batch.name, batch.synonyms, answers, missing))
    return metrics.weighted(scores)


def _ranked(rows: Sequence[tuple[Example, list[Candidate]]], merge: str) -> dict:
    examples, candidates = [example for example, _ in rows], [found for _, found in rows]
    return rank_answers(examples, candidates, merge=merge)


def _texts(ranked: dict) -> dict[str, list[str]]:
    return {question: [text for text, _ in best] for question, best in ranked.items()}
