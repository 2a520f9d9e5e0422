"""Score the answers of a run against the golden files; write ``scores.json`` and the score table.

The answers, n-best lists and contexts come from the run folder. The ceiling therefore applies to
the same contexts that the model read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from helpers.config import InputError
from helpers.data.bioasq import read_answers
from helpers.data.spans import gold_spans
from helpers.data.squad import read_squad
from helpers.io import write_json
from helpers.model.decoding import pair_exact_match, read_nbest
from helpers.run.folder import STAGES, Run, as_recorded
from helpers.scoring import metrics
from helpers.scoring.claims import questions_mark
from helpers.scoring.system import ScoredBatch, score_answers

SCHEMA_VERSION = 1
RANKS = "ranks.json"
THIS_RUN = "run"  # the key of the run's own answers; the other keys are baselines
FETCH, CONVERT, TRAIN, PREDICT = (
    STAGES[name].notebook for name in ("checkpoint", "data", "model", "answers")
)
Systems = dict[str, list[ScoredBatch]]  # for the run (key ``THIS_RUN``) and each baseline


def read_batches(run: Run, answers: str = "answers") -> list[ScoredBatch]:
    """Score a run's answer files batch by batch; ``answers`` is their folder within the run.

    Raises ``InputError`` if a golden file does not match its test input, and ``ValueError``
    if a score violates SAcc <= MRR <= LAcc <= ceiling, which would be a bug in the kit.
    """
    data = run.noted("data", CONVERT)
    missing = run.settings.missing  # the only setting of the stage "scores"
    batches = []
    for name, gold in zip(data["batches"], data["golds"], strict=True):
        examples = tuple(read_squad(run.need(f"squad/{name}.json", CONVERT)))
        given, _ = read_answers(run.need(f"{answers}/{name}.json", PREDICT))
        batch = score_answers(name, examples, gold, given, missing)
        asked = {example.question_id for example in examples}
        unknown = sorted(asked - {question.id for question in batch.golds})
        if unknown:
            raise InputError(
                f"{gold}: has no answer to question {unknown[0]} of test input {name}; "
                "check that the golden file and the test input belong together"
            )
        if missing == "wrong":  # otherwise, hits and ceiling have different denominators
            possible, count = batch.ceiling
            metrics.check_bounds(batch.score, possible / count)
        batches.append(batch)
    return batches


def read_systems(run: Run) -> Systems:
    """Return the scored batches of the run (key ``THIS_RUN``) and of each of its baselines."""
    run.noted("baselines", PREDICT)
    files = run.manifest()["files"].items()
    names = {Path(n).parent.name for n, entry in files if entry.get("stage") == "baselines"}
    return {THIS_RUN: read_batches(run)} | {
        name: read_batches(run, f"baselines/{name}") for name in sorted(names)
    }


def score_run(run: Run, seconds: dict[str, float], systems: Systems) -> dict:
    """Return the contents of ``scores.json``: scores from 0 to 1, and recorded settings.

    ``systems`` is the result of ``read_systems``. This function writes no files.
    """
    used = as_recorded(run.folder, run.manifest(), "answers")["settings"]
    batches = systems[THIS_RUN]
    result = {
        "schema_version": SCHEMA_VERSION,
        **{name: used[name] for name in ("profile", "model", "seed", "context", "merge")},
        "missing": run.settings.missing,
        "train_pairs": run.noted("model", TRAIN)["train_pairs"],
        **{name: used[name] for name in ("epochs", "allow_leak")},
        "parameters": run.noted("checkpoint", FETCH)["parameters"],
        "enriched": run.noted("data", CONVERT)["enriched"],
        "squad_step": run.noted("squad_step", TRAIN),  # empty if the run has no such step
        "compute": {
            "train": run.noted("model", TRAIN).get("compute"),
            "predict": run.noted("answers", PREDICT).get("compute"),
        },
        **metrics.summary([batch.score for batch in batches]),
        "seconds": seconds,
    }
    counts = [(*batch.ceiling, *_pair_counts(run, batch)) for batch in batches]
    for row, count, batch in zip(result["batches"], counts, batches, strict=True):
        row |= _shares(*count) | {"questions": questions_mark(q.id for q in batch.golds)}
    total = _shares(*map(sum, zip(*counts, strict=True)))
    result["pooled"] |= total
    result["weighted"] |= total
    for name in ("ceiling", "pair_em"):
        result["macro"][name] = sum(row[name] for row in result["batches"]) / len(batches)
    result["baselines"] = {
        name: metrics.pooled([batch.score for batch in rows]).as_row()
        for name, rows in systems.items()
        if name != THIS_RUN
    }
    return result


def write_scores(run: Run, scores: dict, systems: Systems) -> Path:
    """Write and record ``scores.json`` and ``ranks.json`` as the stage "scores".

    ``ranks.json`` maps system -> batch -> question id -> rank of the first correct answer (0 if
    there is none). A paired comparison with another run requires no other data.
    """
    run.begin("scores")
    ranks = {name: {batch.name: batch.ranks for batch in rows} for name, rows in systems.items()}
    run.record(write_json(run.path(RANKS), ranks), "scores")
    path = run.record(write_json(run.path("scores.json"), scores), "scores")
    run.finish("scores")
    return path


def score_table(scores: Mapping) -> pd.DataFrame:
    """Return the score table as strings, in percent: one row per batch, average and baseline.

    The numbers of correct answers are in parentheses. Baselines have no separate ceiling.
    """
    rows = [*scores["batches"], scores["weighted"], scores["macro"]]
    rows += [{**row, "batch": f"{name} (baseline)"} for name, row in scores["baselines"].items()]
    found = pd.DataFrame(rows).set_index("batch")
    shares = 100 * found.reindex(columns=["sacc", "mrr", "lacc", "ceiling", "pair_em"])
    table = shares.map("{:.2f}".format, na_action="ignore").fillna("")
    for name, hits in (("sacc", "hits_strict"), ("lacc", "hits_lenient")):
        table[name] += found[hits].map(" ({})".format)
    table.columns = ["SAcc", "MRR", "LAcc", "ceiling", "pair EM"]
    table.insert(0, "n", found["n"].map(str))
    return table.rename_axis(index=None, columns="batch")


def score_text(scores: Mapping) -> str:
    """Format the score table as plain text for a terminal."""
    text = score_table(scores).to_string()
    if scores["enriched"]:
        text += (
            "\nenriched: there were no test inputs, so the model read the snippets in the golden "
            "files; this is not the official task"
        )
    return text


def _pair_counts(run: Run, batch: ScoredBatch) -> tuple[int, int]:
    """Count a batch's pairs whose best span is a gold answer, and all pairs that contain one."""
    synonyms = {question.id: question.synonyms() for question in batch.golds}
    nbest = read_nbest(run.need(f"nbest/{batch.name}.jsonl", PREDICT))
    examples, candidates = [e for e, _ in nbest], [c for _, c in nbest]
    spans = {e.id: gold_spans(e.context, synonyms.get(e.question_id, ())) for e in examples}
    return pair_exact_match(examples, candidates, spans)


def _shares(possible: int, questions: int, pair_hits: int, pairs: int) -> dict:
    return {
        "ceiling": possible / questions,
        "hits_ceiling": possible,
        "pair_em": pair_hits / pairs if pairs else 0.0,
        "pairs": pairs,
    }
