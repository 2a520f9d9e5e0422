"""Run the notebooks from the command line: once, per seed or per setting; compare finished runs.

examples:
  python -m helpers.batch run --profile mini
  python -m helpers.batch run --profile bioasq-cpu --bioasq-dir DIR --set epochs=4 --until 03
  python -m helpers.batch seeds --seeds 0 1 2 --profile mini
  python -m helpers.batch sweep learning_rate 6e-5 2e-4 6e-4 --profile mini
  python -m helpers.batch table runs/mini-seeds-seed0 runs/mini-seeds-seed1
  python -m helpers.batch same runs/mini runs/mini-again
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.config import PROFILES, ROOT, InputError, Settings, from_parameters, parse_override
from helpers.data.bioasq import read_json
from helpers.io import write_json, write_text
from helpers.model import tracking
from helpers.run import compare, reproduce, scores
from helpers.run.folder import HARDWARE, NEUTRAL, STAGES, Run, as_recorded
from helpers.run.provenance import notebook_sources, source_hash
from helpers.run.stages import check_squad_step, find_run_files
from helpers.scoring.claims import TEST_7B, judge, summarize
from helpers.scoring.uncertainty import sources
from helpers.views import machine

HELPERS = Path(__file__).resolve().parent
DONE = "notebooks_done"  # the manifest note with the fingerprint and seconds of each notebook
START_SECONDS = 300  # a kernel can take a long time to start on a busy machine
_PARAMETERS = ("profile", "run", "bioasq_dir", "seed")  # in every notebook, along with overrides


def notebooks() -> list[Path]:
    """Return the numbered notebooks in order."""
    found = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise InputError(f"{ROOT / 'notebooks'}: has no notebooks; run this in a clone of the kit")
    return found


def run(parameters: Mapping, *, fresh: bool = False, until: str = "") -> Path:
    """Execute the notebooks and write the report; return the run folder.

    ``parameters`` maps fields of ``config.Settings`` to values. Finished notebooks are not repeated
    unless ``fresh`` is true. ``until`` is the number of the last notebook to run. For example, "03"
    stops after the dev scores, so that you can compare settings without using a test question.
    Raises ``InputError`` for bad input, including bad input that a notebook detects.
    """
    given, parameters = from_parameters(**parameters), dict(parameters)
    for name in (name for name in reproduce.PLACES if parameters.get(name)):
        path = Path(getattr(given, name)).expanduser()
        if path.exists():  # otherwise it is a name in the registry
            parameters[name] = str(path.resolve())  # reproduce.sh may run in another directory
    settings = from_parameters(**parameters)
    chosen = [path for path in notebooks() if not until or path.stem[:2] <= until]
    find_run_files(settings)  # refuse bad input before any notebook runs
    check_squad_step(settings)
    machine.check_model(settings)
    folder = Run(settings.run_dir, settings)  # unlike Run.open, this changes nothing
    started = time.monotonic()
    _run_notebooks(chosen, folder, parameters, fresh)
    if until:
        print(f"\nstopped after {chosen[-1].stem}; see {folder.folder / 'notebooks'}")
        print(f"dev: {_dev_scores(folder)}")
        return folder.folder
    from helpers.run.report import write_report  # importing nbconvert takes a second

    report = write_report(folder)
    print(f"\nScores in percent ({settings.profile}, seed {settings.seed}, {settings.context}):")
    print(scores.score_text(read_json(folder.folder / "scores.json")))
    print(f"\n{time.monotonic() - started:.0f} s in total. Report: {report}")
    return folder.folder


def _run_notebooks(chosen: Sequence[Path], folder: Run, parameters: Mapping, fresh: bool) -> None:
    """Execute the first unfinished notebook and all later ones."""
    new = not folder.folder.exists()
    done = folder.manifest()["notes"].get(DONE, {})
    kept = [] if fresh else list(itertools.takewhile(lambda path: _is_done(folder, path), chosen))
    labels = {path: f"[{n}/{len(chosen)}] {path.stem}" for n, path in enumerate(chosen, 1)}
    for path in kept:
        print(f"{labels[path]}: kept from an earlier run ({done[path.stem]['seconds']:.0f} s)")
    if len(kept) == len(chosen):
        return
    check_own_kernel()
    print(_replaced(folder), end="")
    for path in chosen[len(kept) :]:
        print(labels[path], flush=True)
        # Neither this notebook nor a later one counts as done while this one runs.
        done = {name: entry for name, entry in done.items() if name < path.stem}
        folder.note(DONE, done)
        try:
            seconds = _execute(path, folder, parameters)
        except InputError:
            if new and not done:  # remove the folder if the first notebook fails
                shutil.rmtree(folder.folder, ignore_errors=True)
            raise
        fingerprint = _fingerprint(path, folder.settings)
        done[path.stem] = {"fingerprint": fingerprint, "seconds": round(seconds, 1)}
        folder.note(DONE, done)
        print(f"{labels[path]}: {seconds:.0f} s", flush=True)


def _execute(notebook: Path, folder: Run, parameters: Mapping) -> float:
    """Execute a notebook, save it in the run folder, and return the seconds it took."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    given = _for_notebooks(folder.settings, parameters)
    unknown = set(given) - set(papermill.inspect_notebook(str(notebook)))
    if unknown:  # papermill itself would only warn
        raise InputError(f"{notebook}: the parameters cell lacks {', '.join(sorted(unknown))}")
    output = folder.path(f"notebooks/{notebook.name}")
    started = time.monotonic()
    try:
        with own_kernel(folder.path("notebooks/kernel.log")) as arguments:
            papermill.execute_notebook(
                str(notebook),
                str(output),
                parameters=given,
                cwd=str(Path.cwd()),  # so that the notebook uses the same runs folder
                kernel_name="python3",  # required, but **arguments takes precedence
                progress_bar=False,
                start_timeout=START_SECONDS,
                stderr_file=sys.stderr,
                stdout_file=_ProgressOnly(),
                **arguments,
            )
    except PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(f"{notebook.stem}: {error.evalue}") from None
        print(f"{notebook.stem} failed; see {output}", file=sys.stderr)
        raise
    return time.monotonic() - started


class _ProgressOnly:
    """A stream that shows the progress bars of a notebook in the terminal, and nothing else."""

    def write(self, text: str) -> None:
        if "\r" in text:
            sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _for_notebooks(settings: Settings, parameters: Mapping) -> dict:
    """Return the parameters that all notebooks declare; ``overrides`` contains all others."""
    others = [f"{name}={parameters[name]}" for name in parameters if name not in _PARAMETERS]
    return {k: getattr(settings, k) for k in _PARAMETERS} | {"overrides": shlex.join(others)}


def _is_done(folder: Run, notebook: Path) -> bool:
    """Return whether this version of the notebook ran with these settings and inputs."""
    manifest, name = folder.manifest(), notebook.stem
    done = manifest["notes"].get(DONE, {}).get(name, {})
    if done.get("fingerprint") != _fingerprint(notebook, folder.settings):
        return False
    try:
        for stage in (stage for stage, spec in STAGES.items() if spec.notebook == name):
            folder.noted(stage, name)
        for file, entry in manifest["files"].items():
            if entry["made_by"] == name:
                folder.need(file, name)
    except InputError:
        return False
    return (folder.folder / "notebooks" / notebook.name).is_file()


def _fingerprint(notebook: Path, settings: Settings) -> str:
    """Hash a notebook, the helpers and the settings. A notebook is rerun if its hash changes.

    The hardware settings do not count, so a finished run can be read on a machine without a GPU.
    """
    settings = replace(settings, **{name: getattr(Settings, name) for name in HARDWARE})
    content = (notebook_sources(notebook.read_bytes()), source_hash(), settings)
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _replaced(folder: Run) -> str:
    """Return a warning if a finished run would continue with different settings, or ""."""
    manifest, now = folder.manifest(), vars(folder.settings)
    before = now
    with suppress(InputError):  # raised if the scores are out of date
        if "scores" in manifest["notes"]:
            before = as_recorded(folder.folder, manifest)["settings"]
    changed = [
        f"{name}={before.get(name)!r} (now {now[name]!r})"
        for name in now
        if name not in NEUTRAL and before.get(name) != now[name]
    ]
    if not changed:
        return ""
    return (
        f"{folder.folder}: this finished run was made with {'; '.join(changed)}. Continuing "
        "replaces its results; to keep them, stop now and choose another name with --run.\n"
    )


def _dev_scores(folder: Run) -> str:
    """Format the dev scores of the model trained with these settings."""
    name = STAGES["model"].notebook
    if not _is_done(folder, next(path for path in notebooks() if path.stem == name)):
        return f"not trained yet with these settings; notebook {name} trains the model"
    found = read_json(folder.need("model/dev_scores.json", name))["fine_tuned"]
    return ", ".join(f"{k} {v:.3g}" for k, v in found.items()) or "no questions held out"


def seeds(numbers: Sequence[int], parameters: Mapping, *, fresh: bool = False) -> list[dict]:
    """Run once per seed, as ``<run>-seed<n>``; print the scores, their spread and the verdicts."""
    base = parameters.get("run") or f"{parameters.get('profile', 'mini')}-seeds"
    results = []
    for seed in dict.fromkeys(numbers):  # a repeated seed counts once
        folder = run({**parameters, "run": f"{base}-seed{seed}", "seed": seed}, fresh=fresh)
        results.append(read_json(folder / "scores.json"))
    print(f"\n{spread(results)}")
    print("\nverdicts across seeds:", *summarize(judge(results)), sep="\n- ")
    path = Path(from_parameters(**{**parameters, "run": base}).run_dir).with_suffix(".seeds.json")
    print(f"written to {write_json(path, results)}")
    return results


def sweep(name: str, values: Sequence, parameters: Mapping, *, fresh: bool = False) -> pd.DataFrame:
    """Train once per value of a setting; return and write the dev curves of all runs.

    Each run stops after notebook 03, which uses no test question, so you can choose a value without
    them. The curves are read from the runs' wandb logs and written to ``<run>-<name>.csv``, with
    one row per evaluation. ``parameters`` must not set ``wandb_mode`` to ``disabled``.
    """
    base = f"{parameters.get('run') or parameters.get('profile', 'mini')}-{name}"
    settings = [from_parameters(**{**parameters, "run": base, name: value}) for value in values]
    for found in settings:
        if found.wandb_mode == "disabled" or not (found.evaluate_every and found.dev_fraction):
            raise InputError(
                "sweep: needs dev curves, so wandb_mode must not be disabled, and evaluate_every "
                "and dev_fraction must not be 0"
            )
    curves = []
    for value in dict.fromkeys(values):  # a repeated value counts once
        given = {**parameters, "run": f"{base}-{value:g}", name: value}
        log = tracking.read_log(run(given, fresh=fresh, until="03") / "training")
        dev = log.filter(like="dev_").dropna().round(4).reset_index()
        curves.append(dev.assign(**{name: value}).set_index(name).reset_index())
    table = pd.concat(curves, ignore_index=True)
    path = write_text(settings[0].run_dir.with_suffix(".csv"), table.to_csv(index=False))
    last = table.groupby(name).last().rename(columns={"step": "steps"})
    print(f"\nDev scores after training:\n{last.to_string()}\nCurves written to {path}")
    return table


def spread(results: Sequence[Mapping]) -> str:
    """Format the pooled scores per seed, their mean and sample standard deviation, in percent."""
    pooled = {str(result["seed"]): result["pooled"] for result in results}
    rows = 100 * pd.DataFrame(pooled).T[["sacc", "mrr", "lacc", "pair_em"]].astype(float)
    summary = rows.agg(["mean", "std"]).dropna()  # a single seed has no standard deviation
    table = pd.concat([rows, summary]).rename_axis(columns="seed")
    return table.to_string(float_format="{:.2f}".format)


def table(folders: Sequence[Path], output: Path, readme: Path | None = None) -> Path:
    """Compare finished runs; write the results, the ranks and figures to ``output``.

    A path that ends in ".json" is the row of another system, from ``score_system.py --json``. If
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
            f"{', '.join(other[0]['batches'])}, but the table in {readme} is for those of "
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


@contextmanager
def own_kernel(log: str | Path) -> Iterator[dict[str, Any]]:
    """Yield arguments that make papermill or nbclient start this interpreter with these helpers.

    The kernel's own messages, such as a traceback after Ctrl-C, go to the file ``log``. Cell output
    is not logged, and no kernel is installed.
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec
    from traitlets.config import Config

    path = [str(HELPERS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, path)).replace("$", "$$")}

    class Kernel(AsyncKernelManager):
        kernel_spec = KernelSpec(**get_kernel_dict(), env=environment)

        async def start_kernel(self, **kwargs):
            with open(log, "ab") as file:
                return await super().start_kernel(**kwargs, stderr=file)

    with tempfile.TemporaryDirectory(prefix="kernel-") as sockets:
        # A kernel on TCP warns that other users of the machine could connect. Sockets on disk are
        # private. Each kernel gets its own folder, because two kernels that start at the same
        # time in one folder would choose the same socket names.
        local = {"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}
        config = Config(local if os.name == "posix" else {})
        yield {"kernel_manager_class": Kernel, "config": config}


def check_own_kernel() -> None:
    """Start a kernel; raise ``InputError`` unless it runs this Python with these helpers.

    An IPython startup script can still change what is imported.
    """
    import nbformat
    from nbclient import NotebookClient

    cell = nbformat.v4.new_code_cell(
        "import os, sys, helpers\n"
        r'print(sys.executable, os.path.realpath(helpers.__file__), sep="\n")'
    )
    ask = nbformat.v4.new_notebook(cells=[cell])
    with tempfile.NamedTemporaryFile("r") as log, own_kernel(log.name) as arguments:
        client = NotebookClient(ask, startup_timeout=START_SECONDS, allow_errors=True, **arguments)
        try:
            with client.setup_kernel():
                client.execute_cell(cell, 0)
        except RuntimeError as error:  # the kernel died or does not respond
            messages = " ".join(log.read().split())[-300:]
            raise InputError(
                f"the kernel of {sys.executable} does not start ({error}): {messages}; run "
                "make setup again, or look for an IPython startup script that fails"
            ) from None
    text = "".join(out.get("text", out.get("evalue", "")) for out in cell.outputs)
    if text.splitlines()[-2:] != [sys.executable, str(HELPERS / "__init__.py")]:
        raise InputError(
            f"the kernel of {sys.executable} does not use the helpers in {HELPERS}: it reports "
            f"{' '.join(text.split())}; remove the IPython startup script that changes this"
        )


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
    settings.add_argument("--fresh", action="store_true", help="run finished notebooks again")

    sub = commands.add_parser("run", parents=[settings], help="execute all notebooks once")
    sub.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    sub.add_argument(
        "--until", default="", choices=[path.stem[:2] for path in notebooks()],
        help="stop after this notebook; 03 trains the model and uses no test questions",
    )  # fmt: skip
    sub = commands.add_parser("seeds", parents=[settings], help="run once per seed")
    sub.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N",
        help="random seeds (default: 0 1 2)",
    )  # fmt: skip
    sub = commands.add_parser(
        "sweep", parents=[settings], help="train once per value of a setting; uses no test question"
    )
    sub.add_argument("name", metavar="SETTING", help="a numeric setting, such as learning_rate")
    sub.add_argument("values", nargs="+", metavar="VALUE", help="its values")

    finished = {"type": Path, "metavar": "FOLDER", "help": "folder of a finished run"}
    sub = commands.add_parser("table", help="compare finished runs with published rows")
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
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 if ``same`` finds a difference, 2 for bad input, 130 if stopped, and 0 otherwise."""
    try:
        return _call(_parser().parse_args(argv))
    except InputError as error:
        print(f"helpers.batch: {error}", file=sys.stderr)
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
    given = {"profile": args.profile, "run": args.run, "bioasq_dir": args.bioasq_dir}
    given |= dict(parse_override(text) for text in args.set)
    given = {name: value for name, value in given.items() if value is not None}
    if args.command == "run":
        run({"run": args.profile, **given, "seed": args.seed}, fresh=args.fresh, until=args.until)
    elif args.command == "seeds":
        seeds(args.seeds, given, fresh=args.fresh)
    else:
        values = [parse_override(f"{args.name}={value}")[1] for value in args.values]
        if not all(isinstance(value, (int, float)) for value in values):
            raise InputError(f"{args.name}: is not a numeric setting; choose another one")
        sweep(args.name, values, given, fresh=args.fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
