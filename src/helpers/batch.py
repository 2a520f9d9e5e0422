"""Run the notebooks once, for several seeds, or as a sweep, and compare finished runs.

examples:
  python -m helpers.batch run --profile mini
  python -m helpers.batch run --profile bioasq-cpu --bioasq-dir DIR --set epochs=4 --until 03
  python -m helpers.batch seeds --seeds 0 1 2 --profile mini
  python -m helpers.batch sweep SWEEP.yaml --dry-run
  python -m helpers.batch predict MODEL questions/ answers/ --jobs 2
  python -m helpers.batch table runs/mini-seeds/seed-0 runs/mini-seeds/seed-1
  python -m helpers.batch same runs/mini runs/mini-again
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from helpers.config import PROFILES, InputError, Settings, from_parameters, parse_override
from helpers.data.bioasq import read_json
from helpers.io import write_json, write_text
from helpers.run import compare, reproduce, scores
from helpers.scoring.claims import TEST_7B, judge, summarize
from helpers.scoring.uncertainty import sources
from helpers.sweeps import engine, notebooks, page, plan, shards
from helpers.sweeps.sweep import Outcome, run_sweep
from helpers.views.machine import memory_needed

# On two cores, one process answered 1.3 times as many pairs per second as two with one core each
# (benchmarks/predict_shards.py).
_CORES_EACH = 8


def seeds(
    numbers: Sequence[int], parameters: Mapping, *, jobs: int = 0, scheduler: str = ""
) -> list[dict]:
    """Run a sweep over seeds, in ``<run>/seed-<n>``; print scores, spread and verdicts."""
    fixed = {k: v for k, v in parameters.items() if k not in ("profile", "run", "seed")}
    profile = parameters.get("profile", "mini")
    name = parameters.get("run") or f"{profile}-seeds"
    fields = {"name": name, "profile": profile, "settings": fixed, "grid": {"seed": [*numbers]}}
    planned = plan.make_sweep(fields)
    sweep(planned, jobs=jobs, scheduler=scheduler, retry=True)
    results = [read_json(run.folder / "scores.json") for run in planned.runs]
    print(f"\n{spread(results)}")
    print("\nverdicts across seeds:", *summarize(judge(results)), sep="\n- ")
    print(f"written to {write_json(planned.folder / 'seeds.json', results)}")
    return results


def sweep(
    planned: plan.Sweep, *, jobs: int = 0, scheduler: str = "", retry: bool = False
) -> list[Outcome]:
    """Run a sweep and write its page; return the outcome of each run.

    jobs, scheduler: see ``engine.workers``. retry: also repeat the runs that failed before.
    Raises an ``InputError`` that lists the failed runs, if any.
    """
    memory = max(memory_needed(run.settings) for run in planned.runs)
    workers = engine.workers(len(planned.runs), memory, jobs, scheduler)
    with workers as (executor, share, count):
        outcomes = run_sweep(planned, executor, share, count, retry=retry)
    path = page.write(planned, outcomes)
    print(f"\n{page.summary(planned, outcomes)}\n\nPage of the sweep: {path}")
    if failed := [outcome.label for outcome in outcomes if outcome.state == "failed"]:
        raise InputError(
            f"{planned.name}: {len(failed)} of {len(outcomes)} runs failed ({', '.join(failed)}); "
            "see failure.txt in their folders, and repeat them with --retry"
        )
    return outcomes


def only(planned: plan.Sweep, number: int, retry: bool = False) -> None:
    """Execute run ``number`` (from 0) of a sweep in this process, as one task of a job array."""
    if not 0 <= number < len(planned.runs):
        raise InputError(
            f"only: {number} is not a run of this sweep; its runs are 0 to {len(planned.runs) - 1}"
        )
    run = planned.runs[number]
    if run.state(planned.until) == "failed" and not retry:
        raise InputError(f"{run.label}: failed before ({run.failure()}); repeat it with --retry")
    run.forget_failure()
    try:
        notebooks.run(run.parameters, until=planned.until)
    except InputError as error:
        run.note_failure(str(error))
        raise


def compare_values(setting: str, values: Sequence, settings: Settings) -> pd.DataFrame:
    """Train once per value of a setting, as a sweep up to notebook 03; return the dev curves.

    The runs use no test questions, so your choice of a value cannot depend on any. The curves come
    from the runs' wandb logs, with one row per evaluation.
    """
    logs = settings.log_to == "wandb" and settings.wandb_mode != "disabled"
    if not (logs and settings.evaluate_every and settings.dev_fraction):
        raise InputError(
            "sweep: needs dev curves, so log_to must be wandb, wandb_mode must not be disabled, "
            "and evaluate_every and dev_fraction must not be 0"
        )
    given = vars(settings).items()
    fixed = {k: v for k, v in given if k not in ("profile", "run", "runs_dir", setting)}
    fields = {
        "name": f"{settings.run}-{setting}", "profile": settings.profile, "until": "03",
        "settings": fixed, "grid": {setting: list(values)},
    }  # fmt: skip
    planned = plan.make_sweep(fields, settings.runs_dir)
    sweep(planned)
    return page.dev_curves(planned, setting)


def spread(results: Sequence[Mapping]) -> str:
    """Format the pooled scores per seed, their mean and sample standard deviation, in percent."""
    pooled = {str(result["seed"]): result["pooled"] for result in results}
    rows = 100 * pd.DataFrame(pooled).T[["sacc", "mrr", "lacc", "pair_em"]].astype(float)
    summary = rows.agg(["mean", "std"]).dropna()  # a single seed has no standard deviation
    table = pd.concat([rows, summary]).rename_axis(columns="seed")
    return table.to_string(float_format="{:.2f}".format)


def table(folders: Sequence[Path], output: Path, readme: Path | None = None) -> Path:
    """Compare finished runs; write the results, the ranks and figures to ``output``.

    A ".json" file contains the row of another system, from ``score_system.py --json``. If
    ``readme`` is given, also replace the table between the two markers in that Markdown file.
    Prints the table, the paired differences between configurations, and the verdicts.
    """
    from helpers.views import figures  # importing matplotlib takes a second

    found = [compare.read(path) for path in folders if path.suffix != ".json"]
    others = [compare.read_row(path) for path in folders if path.suffix == ".json"]
    ours, theirs = [*compare.rows(found), *others], compare.published()
    other = [row for row in ours if row["batches"] != sorted(TEST_7B)]
    if readme and other:
        raise InputError(
            f"{other[0]['name']} ({other[0]['profile']}) has {other[0]['n']} questions in "
            f"{', '.join(other[0]['batches'])}, but the table in {readme} covers only "
            f"{', '.join(TEST_7B)}; omit this run, or omit --readme"
        )
    if other:
        theirs = []  # published scores on different questions would be misleading
    text = compare.into_readme(readme, ours, theirs) if readme else ""
    changes, verdicts = compare.differences(found), compare.verdicts(found)
    page = compare.page(ours, theirs, changes, verdicts)
    data = {"runs": ours, "published": theirs, "differences": changes, "verdicts": verdicts}
    write_json(output / "results.json", data)
    write_json(output / "ranks.json", compare.shared_ranks(found))
    write_text(output / "results.md", page)
    figures.forest(ours, theirs).savefig(output / "forest.png", dpi=140)
    for runs in compare.group(found):
        by_source = sources([one.ranks[scores.THIS_RUN] for one in runs], runs[0].strata)
        figure = figures.two_sources(by_source, [one.seed for one in runs])
        figure.savefig(output / f"sources-{runs[0].manifest['profile']}.png", dpi=140)
    if readme:
        write_text(readme, text)
    print(f"{page}\nwritten to {output}" + (f" and {readme}" if readme else ""))
    return output


def _parser() -> argparse.ArgumentParser:
    summary, _, examples = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        "helpers.batch", description=summary, epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    settings = argparse.ArgumentParser(add_help=False)
    profiles = f"profile to start from, one of {', '.join(PROFILES)} (default: mini)"
    settings.add_argument("--profile", default="mini", metavar="NAME", help=profiles)
    settings.add_argument("--run", metavar="NAME", help="name of the run folder under runs/")
    settings.add_argument("--bioasq-dir", metavar="DIR", help="folder with your BioASQ files")
    settings.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="change one setting, such as epochs=4 (repeatable)",
    )  # fmt: skip

    sub = commands.add_parser("run", parents=[settings], help="execute all notebooks once")
    sub.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    sub.add_argument(
        "--until", default="", choices=[path.stem[:2] for path in notebooks.notebooks()],
        help="stop after this notebook; 03 trains the model and uses no test questions",
    )  # fmt: skip
    sub.add_argument("--fresh", action="store_true", help="run finished notebooks again")
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--jobs", type=int, default=0, metavar="N", help="number of workers")
    where.add_argument(
        "--scheduler", default="", metavar="ADDRESS",
        help="use the workers of this Dask scheduler, such as tcp://host:8786",
    )  # fmt: skip
    sub = commands.add_parser("seeds", parents=[settings, where], help="run once per seed")
    sub.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N",
        help="random seeds (default: 0 1 2)",
    )  # fmt: skip
    _add_large(commands, where)
    _add_finished(commands)
    return parser


def _add_large(commands, where: argparse.ArgumentParser) -> None:
    """Add the commands that use several workers."""
    sub = commands.add_parser("sweep", parents=[where], help="run all combinations in a sweep file")
    sub.add_argument("file", type=Path, metavar="SWEEP.yaml", help="see docs/sweeps.md")
    sub.add_argument("--dry-run", action="store_true", help="only print the plan")
    sub.add_argument("--only", type=int, metavar="N",
                     help="execute only run N (from 0), as one task of a job array")  # fmt: skip
    sub.add_argument("--retry", action="store_true", help="also repeat the runs that failed")

    sub = commands.add_parser(
        "predict", parents=[where], help="answer questions from files that may exceed memory"
    )
    sub.add_argument("checkpoint", metavar="CHECKPOINT", help="path or name of a fine-tuned model")
    sub.add_argument(
        "source", type=Path, metavar="FOLDER", help="folder of .jsonl or .parquet files"
    )
    sub.add_argument("output", type=Path, metavar="OUTPUT", help="folder for the ranked answers")
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                     help="change one setting, such as merge=max (repeatable)")  # fmt: skip


def _add_finished(commands) -> None:
    """Add the commands that read finished runs."""
    finished = {"type": Path, "metavar": "FOLDER", "help": "folder of a finished run"}
    sub = commands.add_parser("table", help="compare finished runs with published results")
    sub.add_argument(
        "folders", nargs="+", type=Path, metavar="PATH",
        help="folder of a finished run, or a file from score_system.py --json",
    )  # fmt: skip
    place = "output folder (default: runs/table)"
    sub.add_argument("--output", type=Path, default="runs/table", metavar="DIR", help=place)
    marks = "also put the table between the markers in this Markdown file"
    sub.add_argument("--readme", type=Path, metavar="FILE", help=marks)
    sub = commands.add_parser("same", help="check that two finished runs have the same scores")
    sub.add_argument("folders", nargs=2, **finished)


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 if ``same`` finds a difference, 2 for bad input, 130 if stopped, and 0 otherwise."""
    # We treat a scheduler's SIGTERM like Ctrl-C, so that no worker or kernel keeps running.
    with suppress(ValueError):  # raised in any thread but the main one
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _call(_parser().parse_args(argv))
    except InputError as error:
        print(f"helpers.batch: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # too many open files, for example
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"helpers.batch: {where}{error.strerror or error}; {notebooks.AGAIN}", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to continue", file=sys.stderr)
        return 130


def _call(args: argparse.Namespace) -> int:
    for path in getattr(args, "folders", ()):
        if not path.exists():
            raise InputError(
                f"{path}: there is no finished run here yet; create one with helpers.batch run"
            )
    if args.command == "table":
        table(args.folders, args.output, args.readme)
        return 0
    if args.command == "same":
        equal, lines = reproduce.same_scores(*args.folders)
        print(*lines, "the same scores" if equal else "NOT the same scores", sep="\n")
        return 0 if equal else 1
    if args.command == "sweep":
        planned = plan.read_sweep(args.file)
        print(plan.describe(planned), flush=True)
        if args.only is not None:
            only(planned, args.only, args.retry)
        elif not args.dry_run:
            sweep(planned, jobs=args.jobs, scheduler=args.scheduler, retry=args.retry)
        return 0
    if args.command == "predict":
        settings = from_parameters("mini", **dict(map(parse_override, args.set)))
        count = len(shards.find_shards(args.source))
        memory = memory_needed(settings)
        with engine.workers(count, memory, args.jobs, args.scheduler, _CORES_EACH) as found:
            totals = shards.predict_shards(
                args.checkpoint, args.source, args.output, settings, *found[:2]
            )
        print("{questions} questions, {pairs} pairs, {files} files".format(**totals), args.output)
        return 0
    given = {"profile": args.profile, "run": args.run, "bioasq_dir": args.bioasq_dir}
    given |= dict(parse_override(text) for text in args.set)
    given = {name: value for name, value in given.items() if value is not None}
    if args.command == "run":
        given = {"run": args.profile, **given, "seed": args.seed}
        notebooks.run(given, fresh=args.fresh, until=args.until)
    else:
        seeds(args.seeds, given, jobs=args.jobs, scheduler=args.scheduler)
    return 0


if __name__ == "__main__":
    sys.exit(main())
