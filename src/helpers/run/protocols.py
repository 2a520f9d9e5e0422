"""The fine print as switches: what each choice of protocol does to the score of one run.

Averaging, missing questions and merging are computed from the run's files. Other texts (golden
instead of official snippets, joined snippets, abstracts) need another prediction with the same
model; it is made when it is quick, and named with its command when it is not.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from helpers.config import CONTEXTS, MERGES, MISSING, SNIPPETS, InputError, Settings
from helpers.data.batches import TestBatch, read_batches
from helpers.data.layout import BioasqFiles, find_files, ready_tests
from helpers.data.mini import DATA
from helpers.data.squad import Example, read_squad
from helpers.model import checkpoints
from helpers.model.decoding import Candidate, rank_answers, read_nbest
from helpers.run.folder import Run
from helpers.run.scores import CONVERT, PREDICT, TRAIN, Batch
from helpers.scoring import metrics

SILENT = 0.25  # share of the questions that the run is least sure of, for the row on silence


@dataclass(frozen=True)
class Effect:
    """One setting of one switch. ``score`` is None when it was not tried; ``note`` says why."""

    switch: str
    setting: str
    score: metrics.BatchScore | metrics.Average | None
    own: bool = False  # the run's own setting
    note: str = ""


def effects(run: Run, batches: Sequence[Batch], most_seconds: float = 180) -> list[Effect]:
    """Every switch in each of its settings, all else as in the run.

    ``batches`` are the run's, as ``scores.read_batches`` gives them. Other texts are only predicted
    when that takes at most ``most_seconds``. The score is weighted by
    batch (the same as pooled) but for the switch that is about averaging.
    """
    nbest = {b.name: read_nbest(run.need(f"nbest/{b.name}.jsonl", PREDICT)) for b in batches}
    return [
        *_averaging(batches),
        *_missing(run, batches, nbest),
        *_merging(run, batches, nbest),
        *_inputs(run, batches, most_seconds),
    ]


def table(found: Sequence[Effect]) -> list[dict]:
    """The effects as rows in percent, with the change of each score from the run's own."""
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


def _averaging(batches: Sequence[Batch]) -> list[Effect]:
    scores = [batch.score for batch in batches]
    notes = {
        "weighted": "by the batch's number of questions",
        "pooled": "always the same as weighted",
        "macro": "each batch weighs the same",
    }
    found = (metrics.weighted(scores), metrics.pooled(scores), metrics.macro(scores))
    return [Effect("averaging", s.batch, s, s.batch == "weighted", notes[s.batch]) for s in found]


def _missing(run: Run, batches: Sequence[Batch], nbest) -> list[Effect]:
    ranked = {name: _ranked(rows, run.settings.merge) for name, rows in nbest.items()}
    given = {name: _texts(best) for name, best in ranked.items()}
    sure = {
        q: best[0][1] if best else 0.0 for found in ranked.values() for q, best in found.items()
    }
    silent = set(sorted(sure, key=lambda q: (sure[q], q))[: round(SILENT * len(sure))])
    note = f"as if the run had kept quiet on the {len(silent)} answers it is least sure of"
    found = [
        Effect("missing", missing, _score(batches, given, missing), missing == run.settings.missing)
        for missing in MISSING
    ]
    return found + [
        Effect("missing", f"{m}, some silent", _score(batches, given, m, silent), note=note)
        for m in MISSING
    ]


def _merging(run: Run, batches: Sequence[Batch], nbest) -> list[Effect]:
    found = []
    for merge in MERGES:
        given = {name: _texts(_ranked(rows, merge)) for name, rows in nbest.items()}
        score = _score(batches, given, run.settings.missing)
        found.append(Effect("merge", merge, score, merge == run.settings.merge))
    return found


def _inputs(run: Run, batches: Sequence[Batch], most_seconds: float) -> list[Effect]:
    settings, own = run.settings, metrics.weighted([batch.score for batch in batches])
    size = sum(len(text) for b in batches for texts in b.contexts.values() for text in texts)
    rate = run.noted("answers", PREDICT)["seconds"] / max(size, 1)
    enriched = run.noted("data", CONVERT)["enriched"]
    # Without test inputs the golden files' snippets are all there is.
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
        note = f"{pairs} texts predicted anew, by the model trained on {settings.context}"
        bare = sum(not given[b.name].get(q.id) for b in batches for q in b.questions)
        note += f"; {bare} questions have no text" if bare else ""
        found.append(Effect(switch, name, _score(batches, given, settings.missing), note=note))
    return found


def _read(settings: Settings, context: str, golden: bool) -> list[TestBatch]:
    """The test batches with other texts; ready SQuAD files serve where abstracts are missing."""
    files = _files(settings, context)
    files = files.with_golden_snippets() if golden else files
    ready = ready_tests(_folder(settings), context)
    if context != "abstract" or files.abstracts or golden or not ready:
        return read_batches(files, context, fetch=False)[0]  # no download for a table's sake
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
    batches: Sequence[Batch], given: dict[str, dict], missing: str, silent: Set[str] = frozenset()
) -> metrics.Average:
    """``given``: batch -> question id -> ranking; a question of ``silent`` gets no entry at all."""
    scores = []
    for batch in batches:
        asked = {name for name, _ in batch.golds if name is not None} - silent
        answers = {name: given[batch.name].get(name, []) for name in asked}
        scores.append(metrics.score_batch(batch.name, batch.golds, answers, missing))
    return metrics.weighted(scores)


def _ranked(rows: Sequence[tuple[Example, list[Candidate]]], merge: str) -> dict:
    examples, candidates = [example for example, _ in rows], [found for _, found in rows]
    return rank_answers(examples, candidates, merge=merge)


def _texts(ranked: dict) -> dict[str, list[str]]:
    return {question: [text for text, _ in best] for question, best in ranked.items()}
