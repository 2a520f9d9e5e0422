"""The effects of protocol choices on one run's scores, for notebook 05.

For different ways of averaging, merging and treating missing questions, we recompute the score
from the run's files. For different input texts (golden or joined snippets, abstracts), we
predict again with the same model if that is quick.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.config import CONTEXTS, MERGES, MISSING, SNIPPETS, InputError, Settings
from helpers.data.layout import BioasqFiles, TestBatch, find_files, read_batches, ready_tests
from helpers.data.mini import DATA
from helpers.data.squad import read_squad
from helpers.model import checkpoints
from helpers.model.decoding import rank_answers, read_nbest
from helpers.run.folder import Run
from helpers.run.scores import CONVERT, PREDICT, TRAIN
from helpers.scoring import metrics
from helpers.scoring.metrics import MEASURES
from helpers.scoring.system import ScoredBatch

SILENT = 0.25  # share of answers that the "left out" rows omit
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


def effect_table(found: Sequence[Effect]) -> list[dict]:
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
    # Every batch keeps its most confident answer; a batch without answers could not be scored.
    kept = {max(found, key=lambda name: (sure[name], name)) for found in ranked.values() if found}
    order = sorted(sure.keys() - kept, key=lambda name: (sure[name], name))
    silent = set(order[: round(SILENT * len(sure))])
    note = f"as if the run had left out the {len(silent)} answers with the lowest probability"
    found = [Effect("missing", how, _score(batches, ranked, how), how == own) for how in MISSING]
    for how in MISSING:
        score = _score(batches, ranked, how, silent)
        found.append(Effect("missing", f"{how}, {len(silent)} left out", score, note=note))
    return found


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
        print(f"{switch} {name}: predicting again, about {seconds:.0f} s", flush=True)
        for batch in others:
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
