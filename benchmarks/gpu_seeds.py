"""The part "seeds" of the GPU benchmark."""

from __future__ import annotations

import statistics
import time

from gpu_common import Run, free, precision_of, synchronize, train

from helpers.config import Settings, from_parameters
from helpers.model import checkpoints
from helpers.model.decoding import rank_answers
from helpers.run.stages import ConvertedRun, convert_run, find_run_files
from helpers.scoring.metrics import MEASURES, BatchScore, as_line, pooled, score_batch

_SEEDS = 10  # maximum number of seeds; the time usually runs out first


def seeds(run: Run) -> dict:
    """Train and score the profile bioasq-cpu with several seeds at two precisions.

    Each seed is trained in float32 and in half precision before the next, so the scores remain
    paired when the time runs out.
    """
    options = run.options
    if not (options.model and options.bioasq_dir):
        run.say("skipped because it needs --model and --bioasq-dir")
        return {"skipped": "no --model or no --bioasq-dir"}
    common = {"bioasq_dir": options.bioasq_dir, "device": options.device}
    settings = from_parameters("bioasq-cpu", **common)
    converted = convert_run(find_run_files(settings), settings)
    precisions, rows, longest = ("32", run.fast()), [], 0.0
    for seed in range(_SEEDS):
        if rows and run.left() < 1.05 * longest:
            break
        begun = time.monotonic()
        for precision in precisions:
            chosen = from_parameters("bioasq-cpu", seed=seed, precision=precision, **common)
            rows.append(_one(run, converted, chosen))
        longest = max(longest, time.monotonic() - begun)
    summary = {p: _summary([r for r in rows if r["precision"] == p]) for p in precisions}
    for precision, found in summary.items():
        run.say(f"{precision}, {len(rows) // 2} seeds: {_words(found)}")
    pairs = zip(rows[::2], rows[1::2], strict=True)
    differences = [{m: b[m] - a[m] for m in MEASURES} for a, b in pairs]
    paired = _summary(differences)
    run.say(f"{precisions[1]} minus 32, per seed: {_words(paired)}")
    return {"rows": rows, "summary": summary, "difference": paired}


def _one(run: Run, converted: ConvertedRun, settings: Settings) -> dict:
    """Train one model and score its answers to the five test batches."""
    reader = checkpoints.load(run.options.model, settings)
    with precision_of(reader.compute):
        windows = reader.windows(converted.train, training=True)
        begun = time.perf_counter()
        recorder = train(reader, windows)
        synchronize(run.device)
        trained = time.perf_counter()
        scores: list[BatchScore] = []
        for batch in converted.batches:
            ranked = rank_answers(batch.examples, reader.predict(batch.examples, progress=False))
            answers = {name: [text for text, _ in best] for name, best in ranked.items()}
            gold = {question.id: question.synonyms() for question in batch.golds}
            scores.append(score_batch(batch.name, gold, answers))
        predicted = time.perf_counter()
    total = pooled(scores)
    row = {
        "seed": settings.seed, "precision": reader.compute.precision, "steps": recorder.steps,
        "train_seconds": trained - begun, "predict_seconds": predicted - trained,
        "last_losses": [row[1] for row in recorder.rows[-50:]],
        **{name: 100 * getattr(total, name.lower()) for name in MEASURES},
        "batches": [score.as_row() for score in scores],
    }  # fmt: skip
    seconds = f"training {row['train_seconds']:.1f} s, prediction {row['predict_seconds']:.1f} s"
    run.say(f"seed {settings.seed}, {row['precision']}: {as_line(total)}; {seconds}")
    del reader
    free(run.device)
    return row


def _summary(rows: list[dict]) -> dict:
    """Return the mean and the standard deviation of each measure over seeds."""
    found = {}
    for name in MEASURES:
        values = [row[name] for row in rows]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        found[name] = {"mean": statistics.fmean(values), "deviation": deviation}
    return found


def _words(summary: dict) -> str:
    """Return a summary in words."""
    parts = []
    for name, found in summary.items():
        spread = "" if found["deviation"] is None else f" ± {found['deviation']:.1f}"
        parts.append(f"{name} {found['mean']:.1f}{spread}")
    return ", ".join(parts)
