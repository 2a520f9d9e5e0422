"""Several runs in one table: one row for each way of making a run, its seeds taken together.

Runs that differ in nothing but the seed are one row: mean and spread over seeds, and an interval
over questions. Published rows stand below with their sources. The rows are plain data
(``results.json``), and the tables of docs/results.md and of a terminal are written from them.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.config import InputError, Settings
from helpers.data.bioasq import read_json
from helpers.io import sha256
from helpers.run import reproduce
from helpers.run.folder import MANIFEST, NEUTRAL, as_recorded
from helpers.run.scores import OWN, RANKS
from helpers.scoring.claims import CLAIMS, Claim, counts_that_print_as, judge, summarize
from helpers.scoring.metrics import MEASURES, question_values
from helpers.scoring.uncertainty import (
    exact_interval,
    paired_difference,
    sources,
)

_NOT_A_WAY = ("seed", *NEUTRAL)
_NAMES = {"minilm": "all-MiniLM-L6-v2, 22M"}
_CONTEXTS = {"snippet": "snippets", "appended": "snippets, joined", "abstract": "full abstracts"}
BEGIN, END = "<!-- results:", "<!-- end of results -->"


@dataclass(frozen=True)
class RunResult:
    """What a finished run's folder says."""

    folder: Path
    manifest: dict  # with the settings, code and machine that made the scores
    scores: dict
    ranks: dict[str, dict[str, int]]  # system -> question id -> rank of the first right answer
    strata: dict[str, str]  # question id -> batch

    @property
    def way(self) -> tuple:
        """Everything that decides the result but the seed."""
        settings = self.manifest["settings"]
        weights = self.manifest.get("notes", {}).get("checkpoint", {}).get("files", {})
        made = (sorted(reproduce.inputs(self.manifest).values()), self.manifest["kit"]["version"],
                sorted(weights.values()))  # fmt: skip
        # Settings that early versions had do not count, except for looser matches.
        counted = {*vars(Settings()), *(["rungs"] if settings.get("rungs") else [])} - {*_NOT_A_WAY}
        return tuple((k, v) for k, v in settings.items() if k in counted), str(made)


def read(folder: str | Path) -> RunResult:
    """Read a run's folder; ``InputError`` when it is not one or has not been scored."""
    folder = Path(folder)
    for name in (MANIFEST, "scores.json", RANKS):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: has no {name}; give the folder of a finished run")
    manifest, scores, ranks = (read_json(folder / n) for n in (MANIFEST, "scores.json", RANKS))
    try:
        found = RunResult(
            folder,
            as_recorded(folder, manifest),
            scores,
            {name: _flat(batches) for name, batches in ranks.items()},
            {question: batch for batch, asked in ranks[OWN].items() for question in asked},
        )
        found.way, manifest["settings"]["seed"], manifest["hardware"], scores["enriched"]
        for name in ("scores.json", RANKS):
            entry = manifest["files"].get(name)
            if entry and entry["sha256"] != sha256(folder / name):
                changed = f"{folder / name}: has changed since it was recorded"
                raise InputError(f"{changed}; run notebook 05_reproduce_metrics again")
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder}: written by another version of the kit, or damaged ({error!r}); run it again"
        ) from None
    return found


def same_but_seed(folder: str | Path) -> list[RunResult]:
    """The finished runs beside this one, itself included, that differ from it in the seed only."""
    own, found = read(folder), []
    for other in sorted(own.folder.resolve().parent.iterdir()):
        if not other.is_symlink() and (other / RANKS).is_file() and (other / MANIFEST).is_file():
            try:
                run = read(other)
            except InputError:
                continue
            if run.way == own.way:
                found.append(run)
    seeds = {run.manifest["settings"]["seed"]: run for run in found}
    seeds[own.manifest["settings"]["seed"]] = own  # this run, should a copy of it lie beside it
    return [seeds[seed] for seed in sorted(seeds)]


def group(runs: Sequence[RunResult]) -> list[list[RunResult]]:
    """Runs of one way together, in the order in which the ways first appear.

    Raises ``InputError`` when two runs of one way have the same seed.
    """
    ways: dict[tuple, list[RunResult]] = {}
    for run in runs:
        ways.setdefault(run.way, []).append(run)
    for members in ways.values():
        seeds: dict[int, Path] = {}
        for run in members:
            seed = run.manifest["settings"]["seed"]
            if seed in seeds:
                raise InputError(
                    f"{run.folder}: is {seeds[seed]} again, seed {seed}; give one of the two"
                )
            seeds[seed] = run.folder
        members.sort(key=lambda run: run.manifest["settings"]["seed"])
    return list(ways.values())


def rows(runs: Sequence[RunResult]) -> list[dict]:
    """One row a way, and one for each baseline of it, as plain data; shares are fractions of 1."""
    return [
        _row(members, system)
        for members in group(runs)
        for system in members[0].ranks
        if all(system in run.ranks for run in members)
    ]


def published(claims: Sequence[Claim] = CLAIMS) -> list[dict]:
    """The published rows on all 162 questions, in the same shape, without spread and seeds.

    The interval is the exact binomial one of a pooled run over 162 questions, and is there only
    where exactly one number of right answers prints as the figure.
    """
    found = []
    for claim in claims:
        if claim.n < 100 or claim.unit != 100 or claim.unusable:
            continue  # single batches, and the notebook's rounded copy of the cards
        measures = {}
        for measure in MEASURES:
            counts = counts_that_print_as(claim.corrected[measure], claim.n)
            exact = measure != "MRR" and len(counts) == 1
            low, high = exact_interval(counts[0], claim.n) if exact else (None, None)
            value = claim.value(measure)
            measures[measure] = {"mean": value, "sd": None, "low": low, "high": high}
        found.append(
            {
                "name": claim.system,
                "key": claim.key,
                "context": claim.protocol.context,
                "training": claim.protocol.training,
                "n": claim.n,
                "measures": measures,
                "printed": dict(claim.corrected),
                "source": claim.source,
            }
        )
    return found


def differences(runs: Sequence[RunResult]) -> list[dict]:
    """Every pair of ways on the same questions, the second less the first, seeds averaged.

    ``low`` and ``high`` are the paired bootstrap interval over questions, ``p`` is that of the
    paired permutation test; both leave the seeds as they are.
    """
    found = []
    for first, second in itertools.combinations(group(runs), 2):
        if first[0].strata != second[0].strata:
            continue
        labels = list(first[0].strata.values())
        for measure in MEASURES:
            one, two = (_mean_values(members, measure) for members in (first, second))
            change = paired_difference(one, two, labels)
            names = [members[0].manifest["profile"] for members in (first, second)]
            found.append({"first": names[0], "second": names[1], "measure": measure,
                          **vars(change)})  # fmt: skip
    return found


def verdicts_by_way(runs: Sequence[RunResult]) -> list[dict]:
    """The verdicts on all published rows, one entry per way, its seeds taken together."""
    found = []
    for members in group(runs):
        judged = judge([run.scores for run in members])
        found.append({
            "profile": members[0].manifest["profile"],
            "seeds": [run.manifest["settings"]["seed"] for run in members],
            "verdicts": {one.claim: one.outcome for one in judged},
            "summary": summarize(judged),
        })  # fmt: skip
    return found


def markdown(ours: Sequence[Mapping], theirs: Sequence[Mapping]) -> str:
    """The results table in Markdown, in percent."""
    head = "model | context read | trained on | SAcc | MRR | LAcc | ceiling | profile, or source"
    lines = [f"| {head} |", "|" + "---|" * len(head.split(" | "))]
    for row in ours:
        cells = [_cell(row["measures"][m], row["seeds"], row["system"] == OWN) for m in MEASURES]
        ceiling = f"{100 * row['ceiling']:.1f}"
        cells = [row["name"], _context(row), row["training"], *cells, ceiling]
        made = f"`{row['profile']}`" if row["system"] == OWN else "the same run"
        lines.append(f"| {' | '.join(cells)} | {made} |")
    for row in theirs:
        cells = [row["name"], _CONTEXTS.get(row["context"], row["context"]), row["training"]]
        cells += [row["printed"][m] for m in MEASURES]
        lines.append(f"| {' | '.join(cells)} | | {row['source']} |")
    return "\n".join(lines) + "\n"


def facts(ours: Sequence[Mapping]) -> str:
    """What made our rows, one item each: the command, seeds, code, machine, time."""
    lines = []
    for row in (row for row in ours if row["system"] == OWN):
        minutes, seconds = row["seconds"]["train"] / 60, row["seconds"]["predict"]
        lines.append(
            f"- `{row['command']}`: {row['n']} questions, merge by {row['merge']}, missing answers "
            f"{row['missing']}; commit {', '.join(row['commits'])}; {row['hardware']}; "
            f"{minutes:.0f} minutes of training and {seconds:.0f} seconds of prediction per seed."
        )
    return "\n".join(lines) + "\n"


def into_readme(path: Path, ours: Sequence[Mapping], theirs: Sequence[Mapping]) -> str:
    """The text of ``path`` with the table and its facts in place of what the two marks enclose."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a Markdown file") from None
    before, begin, rest = text.partition(BEGIN)
    comment, close, rest = rest.partition("-->\n")
    _, end, after = rest.partition(END)
    if not (begin and close and end):
        raise InputError(f"{path}: has no lines {BEGIN} … --> and {END}; put them around the table")
    block = f"\n{markdown(ours, theirs)}\n{facts(ours)}\n"
    return before + begin + comment + close + block + end + after


def _row(members: Sequence[RunResult], system: str) -> dict:
    first = members[0]
    settings, scores = first.manifest["settings"], first.scores
    found = sources([run.ranks[system] for run in members], first.strata)
    seeds = [run.manifest["settings"]["seed"] for run in members]
    commits = [commit[:7] for run in members for commit in _commits(run.manifest)]
    hardware = first.manifest["hardware"]
    gpus = ", ".join(hardware.get("gpus") or [])
    places = {"bioasq_dir": "DIR"} | {
        name: Path(settings[name]).name for name in ("squad_file", "squad_dev") if name in settings
    }
    said = {name: value for name, value in settings.items() if name not in _NOT_A_WAY}
    words = reproduce.options({**said, "seed": 0}, seed=False, places=places)
    return {
        "name": "lexical baseline"
        if system == "lexical"
        else _NAMES.get(settings["model"], Path(settings["model"]).name),
        "profile": first.manifest["profile"],
        "system": system,
        "context": settings["context"],
        "enriched": scores["enriched"],
        "training": _training(scores, system),
        "merge": settings["merge"],
        "missing": settings["missing"],
        "batches": sorted(set(first.strata.values())),
        "n": len(first.strata),
        "ceiling": scores["pooled"]["ceiling"],
        "seeds": seeds,
        "measures": {
            measure: {
                "mean": s.mean,
                "sd": s.seed_sd if len(seeds) > 1 else None,
                "low": s.question_low,
                "high": s.question_high,
                "by_seed": list(s.seeds),
            }
            for measure, s in found.items()
        },
        "command": shlex.join(
            ["python", "-m", "helpers.batch", "seeds", *words, "--seeds", *map(str, seeds)]
        ),
        "commits": list(dict.fromkeys(commits)),
        "hardware": f"{hardware['cores']} cores of {hardware['cpu']}"
        + (f", {gpus}" if gpus else ", no GPU"),
        "seconds": {
            name: sum(run.scores["seconds"][name] for run in members) / len(members)
            for name in ("train", "predict")
        },
    }


def _commits(manifest: Mapping) -> list[str]:
    """The code that trained the model, and that which scored it, where they are not the same."""
    now = str(manifest["kit"]["commit"])
    return [manifest["files"].get("model/model.nemo", {}).get("commit") or now, now]


def _training(scores: Mapping, system: str) -> str:
    step = scores.get("squad_step") or {}
    squad = f"{step['train_questions']:,} SQuAD questions" if step else ""
    if system == OWN:
        data = "BioASQ-mini" if scores["profile"] == "mini" else "BioASQ training"
        return ", then ".join(filter(None, [squad, f"{scores['train_pairs']:,} rows of {data}"]))
    return {"untrained": "nothing (random span head)", "squad-only": squad,
            "lexical": "no model: nearest name of the right type"}.get(system, system)  # fmt: skip


def _context(row: Mapping) -> str:
    name = _CONTEXTS[row["context"]]
    return f"{name} of golden files" if row["enriched"] else name


def _cell(measure: Mapping, seeds: Sequence[int], bold: bool) -> str:
    spread = f" ± {100 * measure['sd']:.1f}" if measure["sd"] is not None else ""
    score = f"{100 * measure['mean']:.1f}{spread}"
    interval = f"[{100 * measure['low']:.1f}, {100 * measure['high']:.1f}]"
    return f"**{score}** {interval}" if bold else f"{score} {interval}"


def _mean_values(members: Sequence[RunResult], measure: str) -> np.ndarray:
    ids = list(members[0].strata)
    table = [question_values([run.ranks[OWN][i] for i in ids])[measure] for run in members]
    return np.mean(table, axis=0)


def _flat(batches: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {question: rank for ranks in batches.values() for question, rank in ranks.items()}
