"""A run's ``scores.json``: its answers against the golden files, with ceiling and pair match.

Everything is read from the run folder: answers, n-best, and the contexts that were really given
to the model, so the ceiling is that of the same input.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helpers.config import InputError
from helpers.data.bioasq import Question, read_answers, read_golds, read_questions
from helpers.data.spans import ceiling, find_spans
from helpers.data.squad import read_squad
from helpers.io import write_json
from helpers.model.decoding import pair_exact_match, read_nbest
from helpers.run.folder import STAGES, Run, as_recorded
from helpers.scoring import metrics
from helpers.scoring.claims import questions_mark

SCHEMA_VERSION = 1
RANKS = "ranks.json"
OWN = "run"  # the run's own answers, beside its baselines
FETCH, CONVERT, TRAIN, PREDICT = (
    STAGES[name].notebook for name in ("checkpoint", "data", "model", "answers")
)


@dataclass(frozen=True)
class Batch:
    """A test batch: its golden questions, the contexts read, and every question's hit rank."""

    name: str
    questions: tuple[Question, ...]
    golds: tuple[tuple[str | None, tuple[str, ...]], ...]  # id and synonyms, as they are scored
    contexts: dict[str, list[str]]
    ranks: dict[str, int]  # question id -> rank of the first right answer, 0 for none
    score: metrics.BatchScore


def read_batches(run: Run, answers: str = "answers") -> list[Batch]:
    """Score the run's answer files, batch by batch. ``answers`` is a folder of the run.

    Raises ``InputError`` when golden and answer files do not belong together, and ``ValueError``
    when a score breaks SAcc <= MRR <= LAcc <= ceiling, which would be a mistake of ours.
    """
    data = run.noted("data", CONVERT)
    missing = run.settings.missing  # recorded with the scores; all else was recorded before
    batches = []
    for name, gold in zip(data["batches"], data["golds"], strict=True):
        wanted = read_golds(gold).scored
        known = {q.id: q for q in read_questions(gold, answers="required")}
        questions = tuple(known[key] for key, _ in wanted if key in known)
        contexts: dict[str, list[str]] = {}
        for example in read_squad(run.need(f"squad/{name}.json", CONVERT)):
            contexts.setdefault(example.question_id, []).append(example.context)
        strangers = sorted(set(contexts) - set(known))
        if strangers:
            raise InputError(
                f"{gold}: has no answer to question {strangers[0]} of test input {name}; "
                "do the golden file and the test input belong together?"
            )
        given, _ = read_answers(run.need(f"{answers}/{name}.json", PREDICT))
        score = metrics.score_batch(name, wanted, given, missing)
        possible, count = ceiling(questions, contexts)
        if missing == "wrong":  # with questions dropped, hits and ceiling have other denominators
            metrics.check_bounds(score, possible / count)
        ranks = metrics.hit_ranks(wanted, given, missing)
        batches.append(Batch(name, questions, tuple(wanted), contexts, ranks, score))
    return batches


def read_systems(run: Run) -> dict[str, list[Batch]]:
    """The run's own batches (key ``OWN``), and those of each system of ``baselines/``."""
    run.noted("baselines", PREDICT)
    files = run.manifest()["files"].items()
    names = {Path(n).parent.name for n, entry in files if entry.get("stage") == "baselines"}
    return {OWN: read_batches(run)} | {
        name: read_batches(run, f"baselines/{name}") for name in sorted(names)
    }


def score_run(
    run: Run, seconds: dict[str, float], systems: dict[str, list[Batch]] | None = None
) -> dict:
    """All of ``scores.json``; fractions of 1, seconds as given. Writes nothing.

    ``systems`` is what ``read_systems`` gives, to spare reading twice. The settings named are
    those that the stages recorded.
    """
    used = as_recorded(run.folder, run.manifest(), "answers")["settings"]
    systems = systems or read_systems(run)
    batches = systems[OWN]
    result = {
        "schema_version": SCHEMA_VERSION,
        **{name: used[name] for name in ("profile", "model", "seed", "context", "merge")},
        "missing": run.settings.missing,
        "train_pairs": run.noted("model", TRAIN)["train_pairs"],
        **{name: used[name] for name in ("epochs", "allow_leak")},
        "parameters": run.noted("checkpoint", FETCH)["parameters"],
        "enriched": run.noted("data", CONVERT)["enriched"],
        "squad_step": run.noted("squad_step", TRAIN),  # empty: no such step
        **metrics.summary([b.score for b in batches]),
        "seconds": seconds,
    }
    extras = [_extras(run, batch) for batch in batches]
    for row, extra, batch in zip(result["batches"], extras, batches, strict=True):
        row |= _fractions(extra) | {"questions": questions_mark(q.id for q in batch.questions)}
    total = {name: sum(extra[name] for extra in extras) for name in extras[0]}
    result["pooled"] |= _fractions(total)
    result["weighted"] |= _fractions(total)
    names = ("ceiling", "pair_em")
    result["macro"] |= {
        name: sum(row[name] for row in result["batches"]) / len(batches) for name in names
    }
    result["baselines"] = {
        name: metrics.pooled([b.score for b in rows]).as_row()
        for name, rows in systems.items()
        if name != OWN
    }
    return result


def write_scores(run: Run, scores: dict, systems: dict[str, list[Batch]]) -> Path:
    """Write and record ``scores.json`` and ``ranks.json``, the stage "scores".

    The latter holds system -> batch -> question id -> rank of its first right answer (0: none),
    all that a paired comparison with another run needs.
    """
    run.begin("scores")
    ranks = {name: {batch.name: batch.ranks for batch in rows} for name, rows in systems.items()}
    run.record(write_json(run.path(RANKS), ranks), "scores")
    path = run.record(write_json(run.path("scores.json"), scores), "scores")
    run.finish("scores")
    return path


def table(scores: dict) -> str:
    """The score table as plain text, for a terminal."""
    head = f"{'batch':<10}{'n':>5}{'SAcc':>16}{'MRR':>8}{'LAcc':>16}{'ceiling':>9}{'pair EM':>9}"
    lines = [head]
    for row in [*scores["batches"], scores["weighted"], scores["macro"]]:
        strict, lenient = (
            f"{100 * row[name]:.2f} ({row[hits]})"
            for name, hits in (("sacc", "hits_strict"), ("lacc", "hits_lenient"))
        )
        lines.append(
            f"{row['batch']:<10}{row['n']:>5}{strict:>16}{100 * row['mrr']:>8.2f}{lenient:>16}"
            f"{100 * row['ceiling']:>9.2f}{100 * row['pair_em']:>9.2f}"
        )
    for name, row in scores["baselines"].items():
        strict = f"{100 * row['sacc']:.2f} ({row['hits_strict']})"
        lenient = f"{100 * row['lacc']:.2f} ({row['hits_lenient']})"
        lines.append(f"{name:<10}{row['n']:>5}{strict:>16}{100 * row['mrr']:>8.2f}{lenient:>16}")
    if scores["enriched"]:
        lines.append(
            "enriched: no test inputs were there, the golden files' snippets were read instead; "
            "not the official task"
        )
    return "\n".join(lines)


def _extras(run: Run, batch: Batch) -> dict[str, int]:
    """Counts behind the ceiling and the pair exact match of one batch."""
    possible, questions = ceiling(batch.questions, batch.contexts)
    synonyms = {q.id: [s.strip() for s in q.synonyms()] for q in batch.questions}
    rows = read_nbest(run.need(f"nbest/{batch.name}.jsonl", PREDICT))
    examples, candidates = [e for e, _ in rows], [c for _, c in rows]
    golds = {e.id: find_spans(e.context, synonyms.get(e.question_id, ())) for e in examples}
    hits, pairs = pair_exact_match(examples, candidates, golds)
    return {"possible": possible, "questions": questions, "pair_hits": hits, "pairs": pairs}


def _fractions(counts: dict[str, int]) -> dict:
    return {
        "ceiling": counts["possible"] / counts["questions"],
        "hits_ceiling": counts["possible"],
        "pair_em": counts["pair_hits"] / counts["pairs"] if counts["pairs"] else 0.0,
        "pairs": counts["pairs"],
    }
