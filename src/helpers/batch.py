"""The notebooks without hands: one run, several seeds, and finished runs in one table.

python -m helpers.batch run --profile mini
python -m helpers.batch seeds --seeds 0 1 2 --profile mini
python -m helpers.batch table runs/mini-seeds-seed0 runs/mini-seeds-seed1
python -m helpers.batch same runs/mini runs/mini-again
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.config import ROOT, InputError, Settings, from_parameters, parse_override
from helpers.data.bioasq import read_json
from helpers.io import write_json, write_text
from helpers.run import compare, reproduce
from helpers.run import scores as scoring
from helpers.run.folder import NEUTRAL, STAGES, Run, as_recorded
from helpers.run.provenance import notebook_sources
from helpers.run.stages import check_squad_step as check_squad_step
from helpers.run.stages import find_run_files
from helpers.scoring import claims
from helpers.views import machine

HELPERS = Path(__file__).resolve().parent
PATHS = ("bioasq_dir", "squad_file", "squad_dev", "model")
DONE = "notebooks_done"  # note in the manifest: notebook -> fingerprint and seconds


def notebooks() -> list[Path]:
    """The numbered notebooks in their order."""
    found = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise InputError(f"{ROOT / 'notebooks'}: no notebooks here; run from a clone of the kit")
    return found


def run(parameters: dict, *, fresh: bool = False, until: str = "") -> Path:
    """Execute the notebooks into the run folder; return it. What is done already is kept.

    ``parameters`` are names of ``config.Settings``. ``until`` is the number of the last notebook
    to run: "03" compares settings by their dev scores without a look at a test question. Raises
    ``InputError`` with the message of a notebook that met bad input.
    """
    parameters = {**parameters, **_absolute(from_parameters(**parameters), parameters)}
    settings = from_parameters(**parameters)
    found = [path for path in notebooks() if not until or path.stem[:2] <= until]
    find_run_files(settings)  # a wrong folder is told now, not after a minute of notebooks
    check_squad_step(settings)
    machine.check_model(settings)
    # Not opened: each notebook does that, and a call that runs none changes nothing.
    folder = Run(settings.run_dir, settings)
    new, checked = not folder.folder.exists(), False
    started, stale = time.monotonic(), fresh
    for number, notebook in enumerate(found, 1):
        done, name = folder.manifest()["notes"].get(DONE, {}), notebook.stem
        stale = stale or not _is_done(folder, notebook)
        label = f"[{number}/{len(found)}] {name}"
        if not stale:
            print(f"{label}: done before in {done[name]['seconds']:.0f} s, kept", flush=True)
            continue
        if not checked:
            checked = check_own_kernel()
            print(_replaced(folder), end="", flush=True)
        print(label, flush=True)
        done = {before: entry for before, entry in done.items() if before < name}
        folder.note(DONE, done)  # begun: neither this notebook nor a later one is done now
        try:
            seconds = _execute(notebook, folder, parameters)
        except InputError:
            if new and not done:  # a start that fails leaves no folder
                shutil.rmtree(folder.folder, ignore_errors=True)
            raise
        done[name] = {"fingerprint": _fingerprint(notebook, settings), "seconds": round(seconds, 1)}
        folder.note(DONE, done)
        print(f"{label}: {seconds:.0f} s", flush=True)
    if until:
        print(f"\nstopped after {found[-1].stem}; see {folder.folder / 'notebooks'}")
        print(f"dev: {_dev_scores(folder)}")
        return folder.folder
    from helpers.run.report import write_report  # matplotlib and nbconvert take a second

    report = write_report(folder)
    scores = read_json(folder.folder / "scores.json")
    print(f"\n{settings.profile}, seed {settings.seed}, context {settings.context}; in percent:")
    print(scoring.table(scores))
    print(f"\n{time.monotonic() - started:.0f} s in all. Report: {report}")
    return folder.folder


def seeds(numbers: Sequence[int], parameters: dict, *, fresh: bool = False) -> list[dict]:
    """One run per seed, named ``<run>-seed<n>``; prints scores, mean, spread and verdicts."""
    base = parameters.get("run") or f"{parameters.get('profile', 'mini')}-seeds"
    results = []
    for seed in dict.fromkeys(numbers):  # a seed given twice is one run
        folder = run({**parameters, "run": f"{base}-seed{seed}", "seed": seed}, fresh=fresh)
        results.append(read_json(folder / "scores.json"))
    print(f"\n{spread(results)}")
    print("\nverdicts over the seeds:", *claims.summarize(claims.judge(results)), sep="\n- ")
    path = Path(from_parameters(**{**parameters, "run": base}).run_dir).with_suffix(".seeds.json")
    print(f"written to {write_json(path, results)}")
    return results


def table(folders: Sequence[Path], output: Path, readme: Path | None = None) -> Path:
    """Collect finished runs into ``output``: ``results.json``, ``results.md`` and two figures.

    With ``readme`` the table between its two marks is replaced. Prints the table and the paired
    differences between the ways of making a run.
    """
    from helpers.scoring.uncertainty import sources
    from helpers.views import figures  # matplotlib takes a second

    found = [compare.read(folder) for folder in folders]
    ours, theirs = compare.rows(found), compare.published()
    other = [row for row in ours if row["n"] != theirs[0]["n"]]
    if readme and other:
        raise InputError(
            f"the run of profile {other[0]['profile']} has {other[0]['n']} questions, the table of "
            f"{readme} is about {theirs[0]['n']}; leave it out, or leave out --readme"
        )
    if other:
        theirs = []  # other questions: published rows beside them would mislead
    text = compare.into_readme(readme, ours, theirs) if readme else ""
    changes = compare.differences(found)
    page = compare.markdown(ours, theirs) + "\n" + compare.facts(ours)
    for change in changes:
        page += "- {second} less {first}, {measure}: ".format(**change)
        page += "{:+.1f} points, 95% interval {:+.1f} to {:+.1f}".format(
            *(100 * change[name] for name in ("mean", "low", "high"))
        )
        page += f", permutation test p = {change['p']:.3f}\n"
    judged = compare.verdicts_by_way(found)
    for way in judged:
        page += "\nVerdicts on {profile}, seeds {seeds}:\n\n".format(**way)
        page += "".join(f"- {line}\n" for line in way["summary"])
    data = {"runs": ours, "published": theirs, "differences": changes, "verdicts": judged}
    write_json(output / "results.json", data)
    write_text(output / "results.md", page)
    figures.forest(ours, theirs).savefig(output / "forest.png", dpi=140)
    for members in compare.group(found):
        spread_of = sources([run.ranks[scoring.OWN] for run in members], members[0].strata)
        figure = figures.two_sources(spread_of, [run.scores["seed"] for run in members])
        figure.savefig(output / f"sources-{members[0].manifest['profile']}.png", dpi=140)
    if readme:
        write_text(readme, text)
    print(f"{page}\nwritten to {output}" + (f" and {readme}" if readme else ""))
    return output


def same(first: Path, second: Path) -> bool:
    """Print whether two runs have the same scores, and what else differs."""
    equal, lines = reproduce.same(first, second)
    print(*lines, "the same scores" if equal else "NOT the same scores", sep="\n")
    return equal


def spread(results: Sequence[dict]) -> str:
    """Mean and sample standard deviation over runs of the pooled scores, as a small table."""
    measures = ("sacc", "mrr", "lacc", "pair_em")
    lines = [f"{'seed':<8}" + "".join(f"{name:>10}" for name in measures)]
    rows = [[100 * result["pooled"][name] for name in measures] for result in results]
    for result, row in zip(results, rows, strict=True):
        lines.append(f"{result['seed']:<8}" + "".join(f"{value:>10.2f}" for value in row))
    columns = list(zip(*rows, strict=True))
    lines.append(f"{'mean':<8}" + "".join(f"{statistics.mean(c):>10.2f}" for c in columns))
    if len(results) > 1:
        lines.append(f"{'std':<8}" + "".join(f"{statistics.stdev(c):>10.2f}" for c in columns))
    return "\n".join(lines)


def _absolute(settings: Settings, parameters: dict) -> dict[str, str]:
    """The given paths in full, since the manifest and ``reproduce.sh`` outlive this folder.

    A name in the registry stays what it is.
    """
    given = {name: getattr(settings, name) for name in PATHS if parameters.get(name)}
    paths = {name: Path(text).expanduser() for name, text in given.items()}
    return {name: str(p.resolve()) for name, p in paths.items() if p.exists()}


def _execute(notebook: Path, folder: Run, parameters: dict) -> float:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    given = _for_notebooks(folder.settings, parameters)
    unknown = set(given) - set(papermill.inspect_notebook(str(notebook)))
    if unknown:  # papermill itself would only warn
        raise InputError(f"{notebook}: its parameters cell lacks {', '.join(sorted(unknown))}")
    output = folder.path(f"notebooks/{notebook.name}")
    started = time.monotonic()
    try:
        with own_kernel(folder.path("notebooks/kernel.log")) as arguments:
            papermill.execute_notebook(
                str(notebook),
                str(output),
                parameters=given,
                cwd=str(Path.cwd()),  # so that both mean the same runs folder
                kernel_name="python3",  # papermill wants a name; the arguments decide
                progress_bar=False,
                start_timeout=START_SECONDS,
                stderr_file=sys.stderr,  # the progress bars of training and prediction
                **arguments,
            )
    except PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(f"{notebook.stem}: {error.evalue}") from None
        print(f"{notebook.stem} failed; see {output}", file=sys.stderr)
        raise
    return time.monotonic() - started


def _for_notebooks(settings: Settings, parameters: dict) -> dict:
    """The parameters every notebook declares; whatever else was asked for goes into one line."""
    named = ("profile", "run", "bioasq_dir", "seed")
    others = (
        shlex.quote(f"{name}={value}") for name, value in parameters.items() if name not in named
    )
    return {name: getattr(settings, name) for name in named} | {"overrides": " ".join(others)}


def _dev_scores(folder: Run) -> str:
    """The dev scores of the model trained under these settings, in words."""
    train = STAGES["model"].notebook
    if not _is_done(folder, next(path for path in notebooks() if path.stem == train)):
        return f"not trained yet under these settings; notebook {train} does that"
    scores = read_json(folder.need("model/dev_scores.json", train))["fine_tuned"]
    return ", ".join(f"{k} {v:.3g}" for k, v in scores.items()) or "no questions held out"


def _replaced(folder: Run) -> str:
    """A line to print before a finished run goes on under other settings; else nothing."""
    manifest, now = folder.manifest(), vars(folder.settings)
    if "scores" not in manifest["notes"]:
        return ""
    try:
        before = as_recorded(folder.folder, manifest)["settings"]
    except InputError:  # its scores were given up before
        return ""
    changed = [
        f"{name}={before[name]!r}, now {now[name]!r}"
        for name in now
        if name not in NEUTRAL and before.get(name) != now[name]
    ]
    if not changed:
        return ""
    return (
        f"{folder.folder}: this finished run was made with {'; '.join(changed)}. Going on replaces "
        "its results; to keep them, stop now and choose another name with --run.\n"
    )


def _fingerprint(notebook: Path, settings: Settings) -> str:
    """Changes when the notebook, a helper or a setting does, so that a stale result is redone."""
    digest = hashlib.sha256(repr(settings).encode())
    digest.update(repr(notebook_sources(notebook.read_bytes())).encode())
    for path in sorted(Path(__file__).parent.rglob("*.*")):
        if path.suffix in (".py", ".json", ".tsv"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_done(folder: Run, notebook: Path) -> bool:
    """Whether the notebook ran as it is now, and all it recorded fits these settings and inputs."""
    done, name = folder.manifest()["notes"].get(DONE, {}), notebook.stem
    if done.get(name, {}).get("fingerprint") != _fingerprint(notebook, folder.settings):
        return False
    files = folder.manifest()["files"]
    try:
        for stage in (stage for stage, spec in STAGES.items() if spec.notebook == name):
            folder.noted(stage, name)
        for file in (file for file, entry in files.items() if entry["made_by"] == name):
            folder.need(file, name)
    except InputError:
        return False
    return (folder.folder / "notebooks" / f"{name}.ipynb").is_file()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 1 when ``same`` finds a difference, 2 on bad input, 130 when stopped."""
    parser = argparse.ArgumentParser(prog="helpers.batch", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_text in (("run", "one run"), ("seeds", "several seeds and their spread")):
        sub = commands.add_parser(name, help=help_text)
        sub.add_argument("--profile", default="mini")
        sub.add_argument("--run", default=None, help="name of the folder under runs/")
        sub.add_argument("--bioasq-dir", default=None, help="folder with your BioASQ files")
        sub.add_argument("--set", action="append", default=[], metavar="name=value")
        sub.add_argument("--fresh", action="store_true", help="redo what is done already")
        if name == "run":
            sub.add_argument("--seed", type=int, default=0)
            steps = [path.stem[:2] for path in notebooks()]
            help_text = "stop after this notebook: 03 looks at no test question"
            sub.add_argument("--until", default="", choices=steps, help=help_text)
        else:
            sub.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    sub = commands.add_parser("table", help="finished runs in one table, beside published rows")
    sub.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of finished runs")
    sub.add_argument("--output", type=Path, default=Path("runs/table"), help="folder to write to")
    sub.add_argument(
        "--readme", type=Path, help="also put the table between the marks of this file"
    )
    sub = commands.add_parser("same", help="whether two finished runs have the same scores")
    sub.add_argument("folders", nargs=2, type=Path, metavar="FOLDER")
    args = parser.parse_args(argv)
    try:
        for path in getattr(args, "folders", ()):
            if not path.exists():
                raise InputError(
                    f"{path}: there is no finished run here yet; make one with helpers.batch run"
                )
        if args.command == "table":
            table(args.folders, args.output, args.readme)
            return 0
        if args.command == "same":
            return 0 if same(*args.folders) else 1
        parameters = {"profile": args.profile, "run": args.run, "bioasq_dir": args.bioasq_dir}
        parameters |= dict(parse_override(text) for text in args.set)
        parameters = {name: value for name, value in parameters.items() if value is not None}
        if args.command == "run":
            given = {"run": args.profile, **parameters, "seed": args.seed}
            run(given, fresh=args.fresh, until=args.until)
        else:
            seeds(args.seeds, parameters, fresh=args.fresh)
    except InputError as error:
        print(f"helpers.batch: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())


START_SECONDS = 300  # a kernel takes long to start on a machine under load
_ASK = """import os, sys, helpers
print(sys.executable, os.path.realpath(helpers.__file__), sep="\\n")"""

_SET_UP = "set up again (make setup), or look for a start-up script of IPython"


@contextmanager
def own_kernel(log: str | Path) -> Iterator[dict[str, Any]]:
    """Arguments that make papermill or nbclient start this interpreter with these helpers.

    The kernel's own complaints, such as a stack after Ctrl-C, go to the file ``log``; what a cell
    prints is not among them. Nothing is installed.
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
        # A kernel on TCP warns that others on the machine could listen; sockets on disk are
        # private. In a folder of their own, since two runs that start at once in one place would
        # take the same names.
        local = {"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}
        config = Config(local if os.name == "posix" else {})
        yield {"kernel_manager_class": Kernel, "config": config}


def check_own_kernel() -> bool:
    """Start a kernel; True when it is this Python with these helpers, ``InputError`` otherwise.

    A start-up script of IPython can still change what is imported.
    """
    import nbformat
    from nbclient import NotebookClient

    ask = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(_ASK)])
    with tempfile.NamedTemporaryFile("r") as log, own_kernel(log.name) as arguments:
        client = NotebookClient(ask, startup_timeout=START_SECONDS, allow_errors=True, **arguments)
        try:
            with client.setup_kernel():
                client.execute_cell(ask.cells[0], 0)
        except RuntimeError as error:  # it died, or does not answer
            said = " ".join(log.read().split())[-300:]
            raise InputError(
                f"the kernel of {sys.executable} does not start ({error}): {said}; {_SET_UP}"
            ) from None
    outputs = ask.cells[0].outputs
    text = "".join(out.get("text", out.get("evalue", "")) for out in outputs)
    if text.splitlines()[-2:] != [sys.executable, str(HELPERS / "__init__.py")]:
        raise InputError(
            f"the kernel of {sys.executable} does not use the helpers in {HELPERS}, but answers "
            f"{' '.join(text.split())}; remove the start-up script of IPython that changes this"
        )
    return True
