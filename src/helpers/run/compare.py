"""Compare several runs in one table, with one row per configuration, averaged over its seeds.

Each row gives the mean and standard deviation over seeds and a confidence interval over questions.
Published rows follow, with their sources. All tables are generated from the same plain data
(``results.json``).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import operator
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.config import ROOT, InputError, Settings
from helpers.data.bioasq import read_json
from helpers.io import read_text, sha256
from helpers.run import reproduce
from helpers.run.folder import MANIFEST, NEUTRAL, as_recorded
from helpers.run.scores import RANKS, THIS_RUN
from helpers.scoring import uncertainty
from helpers.scoring.arithmetic import counts_that_print_as
from helpers.scoring.claims import CLAIMS, Claim, judge, summarize
from helpers.scoring.metrics import MEASURES, question_values
from helpers.scoring.uncertainty import exact_interval

_NAMES = {"minilm": "all-MiniLM-L6-v2, 22M"}
_CONTEXTS = {"snippet": "snippets", "appended": "snippets, joined", "abstract": "full abstracts"}
RESULTS = ROOT / "docs" / "results"  # output of the command ``table`` for our runs
BEGIN, END = "<!-- results:", "<!-- end of results -->"


@dataclass(frozen=True)
class RunResult:
    """The contents of a finished run folder."""

    folder: Path
    manifest: dict  # includes the settings, code and machine that produced the scores
    scores: dict
    ranks: dict[str, dict[str, int]]  # system -> question id -> rank of the first correct answer
    strata: dict[str, str]  # question id -> batch
    seed: int
    configuration: str  # everything that determines the result except the seed


def read(folder: str | Path) -> RunResult:
    """Read the folder of a finished run; raise ``InputError`` for any other folder."""
    folder = Path(folder)
    names = (MANIFEST, "scores.json", RANKS)
    for name in names:
        if not (folder / name).is_file():
            raise InputError(f"{folder}: has no {name}; specify the folder of a finished run")
    manifest, scores, by_batch = (read_json(folder / name) for name in names)
    try:
        ranks = {
            system: functools.reduce(operator.or_, batches.values(), {})
            for system, batches in by_batch.items()
        }
        strata = {q: name for name, batch in by_batch[THIS_RUN].items() for q in batch}
        manifest = as_recorded(folder, manifest)
        seed, configuration = manifest["settings"]["seed"], _configuration(manifest)
        manifest["hardware"], scores["enriched"]  # a KeyError is raised if either is missing
        for path in (folder / name for name in names[1:]):
            entry = manifest["files"].get(path.name)
            if entry and entry["sha256"] != sha256(path):
                raise InputError(
                    f"{path}: has changed since it was recorded; "
                    "run notebook 05_reproduce_metrics again"
                )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder}: was written by another version of the kit, or is damaged ({error!r}); "
            "repeat the run"
        ) from None
    return RunResult(folder, manifest, scores, ranks, strata, seed, configuration)


def _configuration(manifest: Mapping) -> str:
    settings = manifest["settings"]
    weights = manifest.get("notes", {}).get("checkpoint", {}).get("files", {})
    # Ignore settings that exist only in early versions, except "rungs" (looser answer matching).
    counted = {*vars(Settings()), *(["rungs"] if settings.get("rungs") else [])}
    counted -= {"seed", *NEUTRAL}
    given = {name: value for name, value in settings.items() if name in counted}
    files = sorted(reproduce.input_files(manifest).values())
    version = manifest["kit"]["version"]
    return json.dumps([given, files, sorted(weights.values()), version], sort_keys=True)


def runs_by_seed(folder: str | Path) -> list[RunResult]:
    """Return this run and the finished runs in its parent folder that differ only in the seed."""
    this = read(folder)
    found = {}
    for other in sorted(this.folder.resolve().parent.iterdir()):
        with contextlib.suppress(InputError):  # raised if ``other`` is not a finished run
            if not other.is_symlink() and (run := read(other)).configuration == this.configuration:
                found[run.seed] = run
    found[this.seed] = this  # this folder takes precedence over a copy of it
    return [found[seed] for seed in sorted(found)]


def read_row(path: str | Path) -> dict:
    """Read the row of another system, as ``data_scripts/score_system.py --json`` writes it."""
    data = read_json(path)
    if not isinstance(data, dict) or "row" not in data:
        raise InputError(f"{path}: has no field 'row'; specify a file from score_system.py --json")
    return data["row"]


def shared_rows(path: Path = RESULTS / "results.json") -> list[dict]:
    """Return the rows of the runs that come with the kit, in the format of ``rows``."""
    return read_json(path)["runs"] if path.is_file() else []


def group(runs: Sequence[RunResult]) -> list[list[RunResult]]:
    """Group the runs by configuration and sort each group by seed.

    Raises ``InputError`` if two runs have the same configuration and seed.
    """
    groups: dict[str, dict[int, RunResult]] = {}
    for run in runs:
        members = groups.setdefault(run.configuration, {})
        first = members.setdefault(run.seed, run)
        if first is not run:
            raise InputError(
                f"{run.folder}: repeats {first.folder} (seed {run.seed}); specify only one of them"
            )
    return [[members[seed] for seed in sorted(members)] for members in groups.values()]


def rows(runs: Sequence[RunResult]) -> list[dict]:
    """Return one row per configuration and per baseline, as plain data with scores from 0 to 1."""
    return [
        _row(members, system)
        for members in group(runs)
        for system in members[0].ranks
        if all(system in run.ranks for run in members)
    ]


def _row(members: Sequence[RunResult], system: str) -> dict:
    first, seeds, commits = members[0], [run.seed for run in members], []
    for run in members:  # the commits that trained and scored the model
        scored = str(run.manifest["kit"]["commit"])
        model = run.manifest["files"].get("model/model.nemo", {})
        commits += [(model.get("commit") or scored)[:7], scored[:7]]
    settings, hardware = first.manifest["settings"], first.manifest["hardware"]
    gpus = ", ".join(hardware.get("gpus") or []) or "no GPU"
    name = _NAMES.get(settings["model"], Path(settings["model"]).name)
    logging = ("log_to", "wandb_mode", "evaluate_every")
    portable = settings | {name: getattr(Settings, name) for name in logging}
    portable |= {name: Path(settings[name]).name for name in ("squad_file", "squad_dev")}
    portable["bioasq_dir"] = "DIR" if settings["bioasq_dir"] else ""
    options = reproduce.options(portable, seed=False)
    command = ["python", "-m", "helpers.batch", "seeds", *options, "--seeds", *map(str, seeds)]
    spread = uncertainty.sources([run.ranks[system] for run in members], first.strata)
    measures = {
        measure: {
            "mean": found.mean,
            "sd": found.seed_sd if len(seeds) > 1 else None,
            "low": found.question_low,
            "high": found.question_high,
            "by_seed": list(found.seeds),
        }
        for measure, found in spread.items()
    }
    cores = f"{hardware['cores']} core{'s' * (hardware['cores'] != 1)}"
    return {
        "name": "lexical baseline" if system == "lexical" else name,
        "profile": first.manifest["profile"],
        "system": system,
        "context": settings["context"],
        "enriched": first.scores["enriched"],
        "training": _training(first.scores, system),
        "merge": settings["merge"],
        "missing": settings["missing"],
        "batches": sorted(set(first.strata.values())),
        "n": len(first.strata),
        "ceiling": first.scores["pooled"]["ceiling"],
        "seeds": seeds,
        "measures": measures,
        "command": shlex.join(command),
        "commits": list(dict.fromkeys(commits)),
        "hardware": f"{cores} of {hardware['cpu']}, {gpus}",
        "seconds": {
            step: sum(run.scores["seconds"][step] for run in members) / len(members)
            for step in ("train", "predict")
        },
    }


def _training(scores: Mapping, system: str) -> str:
    """Describe the training data of one system in a run."""
    step = scores.get("squad_step") or {}
    squad = f"{step['train_questions']:,} SQuAD questions" if step else ""
    if system == THIS_RUN:
        data = "BioASQ-mini" if scores["profile"] == "mini" else "BioASQ training"
        return ", then ".join(filter(None, [squad, f"{scores['train_pairs']:,} rows of {data}"]))
    return {
        "untrained": "nothing (random span head)",
        "squad-only": squad,
        "lexical": "no model: nearest name of the right type",
    }.get(system, system)


def published() -> list[dict]:
    """Return the published rows for all 162 questions in the format of ``rows``, but without seeds.

    The interval is the exact binomial interval for a score pooled over 162 questions. A score has
    an interval only if exactly one number of correct answers rounds to that score.
    """
    # Skip single batches and the notebook's rounded copy of the model cards.
    used = [c for c in CLAIMS if c.n >= 100 and c.unit == 100 and not c.unusable]
    return [
        {
            "name": claim.system,
            "key": claim.key,
            "context": claim.protocol.context,
            "training": claim.protocol.training,
            "n": claim.n,
            "measures": {measure: _published_figure(claim, measure) for measure in MEASURES},
            "printed": dict(claim.corrected),
            "source": claim.source,
        }
        for claim in used
    ]


def _published_figure(claim: Claim, measure: str) -> dict:
    counts = counts_that_print_as(claim.corrected[measure], claim.n)
    exact = measure != "MRR" and len(counts) == 1
    low, high = exact_interval(counts[0], claim.n) if exact else (None, None)
    return {"mean": claim.value(measure), "sd": None, "low": low, "high": high}


def differences(runs: Sequence[RunResult]) -> list[dict]:
    """Compare each pair of configurations on the same questions, averaged over seeds.

    Each difference is the second configuration's score minus the first's, as in ``difference``.
    """
    found = []
    for first, second in itertools.combinations(group(runs), 2):
        strata = first[0].strata
        if strata != second[0].strata:
            continue
        sides = {"first": first[0].manifest["profile"], "second": second[0].manifest["profile"]}
        ranks = [[run.ranks[THIS_RUN] for run in members] for members in (first, second)]
        for measure in MEASURES:
            change = difference(*ranks, strata, measure)
            found.append({**sides, "measure": measure, **vars(change)})
    return found


def difference(
    first: Sequence[Mapping[str, int]],
    second: Sequence[Mapping[str, int]],
    strata: Mapping[str, str],
    measure: str,
) -> uncertainty.Difference:
    """Return the second system's score minus the first's, averaged over the seeds of each.

    Each seed maps question ids to ranks, and ``strata`` maps the ids to batches. ``low`` and
    ``high`` are the limits of the paired bootstrap interval over questions, and ``p`` is the
    p-value of the paired permutation test. Neither includes the variation between seeds.
    """
    means = (
        np.mean([question_values([run[q] for q in strata])[measure] for run in runs], axis=0)
        for runs in (first, second)
    )
    return uncertainty.paired_difference(*means, list(strata.values()))


def shared_ranks(runs: Sequence[RunResult]) -> dict:
    """Return the contents of ``ranks.json`` in docs/results: the ranks of runs, without questions.

    BioASQ does not allow anyone to share its questions, so there are no ids and no texts. Within
    each batch, the questions are in the order of the SHA-256 of their ids. This order is the same
    in all runs, which is all that a paired test requires.
    """
    order = {
        q: (batch, hashlib.sha256(q.encode()).hexdigest())
        for run in runs
        for q, batch in run.strata.items()
    }
    entries = []
    for run in itertools.chain(*group(runs)):
        for system, ranks in run.ranks.items():
            batches: dict[str, list[str]] = {}
            for question in sorted(ranks, key=order.get):
                batches.setdefault(run.strata[question], []).append(str(ranks[question]))
            texts = {batch: " ".join(found) for batch, found in batches.items()}
            names = {"profile": run.manifest["profile"], "system": system, "seed": run.seed}
            entries.append(names | {"ranks": texts})
    return {"about": "per question, the rank of the first right answer; 0 if there is none",
            "runs": entries}  # fmt: skip


@dataclass(frozen=True)
class SharedRun:
    """The ranks of one run or baseline, for questions identified only by a number."""

    profile: str
    system: str
    seed: int
    ranks: dict[str, int]  # such as "7B1-01" -> rank of the first right answer, or 0
    strata: dict[str, str]  # such as "7B1-01" -> "7B1"


def read_shared_ranks(path: Path = RESULTS / RANKS) -> dict[tuple[str, str], list[SharedRun]]:
    """Read the ranks that come with the kit: (profile, system) -> one entry per seed.

    Returns an empty dictionary if the file does not exist.
    """
    found: dict[tuple[str, str], list[SharedRun]] = {}
    for entry in read_json(path)["runs"] if path.is_file() else ():
        ranks, strata = {}, {}
        for batch, text in entry["ranks"].items():
            for number, rank in enumerate(text.split(), 1):
                ranks[f"{batch}-{number:02}"] = int(rank)
                strata[f"{batch}-{number:02}"] = batch
        names = entry["profile"], entry["system"]
        found.setdefault(names, []).append(SharedRun(*names, entry["seed"], ranks, strata))
    return found


def verdicts(runs: Sequence[RunResult]) -> list[dict]:
    """Return the verdicts on all published rows, with one entry per configuration."""
    found = []
    for members in group(runs):
        judged = judge([run.scores for run in members])
        found.append(
            {
                "profile": members[0].manifest["profile"],
                "seeds": [run.seed for run in members],
                "verdicts": {verdict.claim: verdict.outcome for verdict in judged},
                "summary": summarize(judged),
            }
        )
    return found


def markdown(ours: Sequence[Mapping], theirs: Sequence[Mapping]) -> str:
    """Format the results table as Markdown, in percent."""
    head = "model | context read | trained on | SAcc | MRR | LAcc | ceiling | profile, or source"
    lines = [f"| {head} |", "|" + "---|" * len(head.split(" | "))]
    for row in ours:
        trained = row["system"] == THIS_RUN
        cells = [
            row["name"],
            _context(row) + (" of golden files" if row["enriched"] else ""),
            row["training"],
            *(_cell(row["measures"][measure], bold=trained) for measure in MEASURES),
            f"{100 * row['ceiling']:.1f}",
            f"`{row['profile']}`" if trained else row.get("source", "the same run"),
        ]
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    for row in theirs:
        cells = [row["name"], _context(row), row["training"]]
        cells += [row["printed"][measure] for measure in MEASURES]
        lines.append(f"| {' | '.join(cells)} | | {row['source']} |")
    return "\n".join(lines) + "\n"


def _context(row: Mapping) -> str:
    return _CONTEXTS.get(row["context"], row["context"])


def _cell(measure: Mapping, bold: bool) -> str:
    spread = f" ± {100 * measure['sd']:.1f}" if measure["sd"] is not None else ""
    score = f"{100 * measure['mean']:.1f}{spread}"
    interval = f"[{100 * measure['low']:.1f}, {100 * measure['high']:.1f}]"
    return f"**{score}** {interval}" if bold else f"{score} {interval}"


def facts(ours: Sequence[Mapping]) -> str:
    """Format one list item per configuration: its command, commits, machine and times."""
    return "".join(
        f"- `{row['command']}`: {row['n']} questions, merge by {row['merge']}, missing answers "
        f"{row['missing']}; commit {', '.join(row['commits'])}; {row['hardware']}; "
        f"{row['seconds']['train'] / 60:.0f} minutes of training and "
        f"{row['seconds']['predict']:.0f} seconds of prediction per seed.\n"
        for row in ours
        if row["system"] == THIS_RUN
    )


def page(ours: Sequence, theirs: Sequence, changes: Sequence, verdicts: Sequence) -> str:
    """Format ``results.md``: the results, their origin, the paired differences and the verdicts."""
    text = f"{markdown(ours, theirs)}\n{facts(ours)}"
    for change in changes:
        mean, low, high = (f"{100 * change[name]:+.1f}" for name in ("mean", "low", "high"))
        text += (
            f"- {change['second']} minus {change['first']}, {change['measure']}: {mean} points, "
            f"95% interval {low} to {high}, permutation test p = {change['p']:.3f}\n"
        )
    for verdict in verdicts:
        text += f"\nVerdicts from {verdict['profile']}, seeds {verdict['seeds']}:\n\n"
        text += "".join(f"- {line}\n" for line in verdict["summary"])
    return text


def into_readme(path: Path, ours: Sequence[Mapping], theirs: Sequence[Mapping]) -> str:
    """Return the text of the Markdown file ``path``, with the part between the markers replaced."""
    block = f"\n{markdown(ours, theirs)}\n{facts(ours)}\n"
    marks = re.compile(rf"({BEGIN}.*?-->\n).*?({END})", re.DOTALL)
    text, count = marks.subn(lambda found: found[1] + block + found[2], read_text(path), count=1)
    if not count:
        raise InputError(
            f"{path}: lacks the lines {BEGIN} … --> and {END}; put them around the table"
        )
    return text
