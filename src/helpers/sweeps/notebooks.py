"""Execute the notebooks of one run with papermill, each in its own kernel with these helpers."""

from __future__ import annotations

import builtins
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

from helpers.config import ROOT, InputError, Settings, from_parameters
from helpers.data.bioasq import read_json
from helpers.fetch.download import writing
from helpers.io import free_memory, hold, out_of_memory, write_text
from helpers.run import reproduce, scores
from helpers.run.folder import HARDWARE, MANIFEST, NEUTRAL, STAGES, Run, as_recorded
from helpers.run.provenance import notebook_sources, source_hash
from helpers.run.stages import check_squad_step, find_run_files
from helpers.views import machine

HELPERS = Path(__file__).resolve().parents[1]
DONE = "notebooks_done"  # the manifest note with the fingerprint and seconds of each notebook
START_SECONDS = 300  # a kernel can take a long time to start on a busy machine
_SOCKETS = "bioasq-kernel-"
_LONGEST = 70  # bytes; a socket's path has at most 103 on macOS, and its last two parts take 33
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
    stops after the dev scores, so that you can compare settings without using test questions.
    Raises ``InputError`` for bad input, including bad input that a notebook detects.
    """
    settings, parameters = check(parameters)
    folder = Run(settings.run_dir, settings)  # unlike Run.open, this changes nothing
    with _alone(folder):
        return _run(folder, parameters, fresh, until)


@contextmanager
def _alone(folder: Run) -> Iterator[None]:
    """Refuse to execute the notebooks of a run if another process is already doing so.

    The system releases the lock when the process ends, however it ends.
    """
    path = folder.folder.with_name(f".{folder.folder.name}.lock")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = hold(path)
    if held is None:
        raise InputError(
            f"{folder.folder}: another process is running the notebooks of this run; wait until it "
            "has finished, or choose another name with --run"
        )
    with held:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # the folder contains runs
                path.parent.rmdir()


def _run(folder: Run, parameters: Mapping, fresh: bool, until: str) -> Path:
    settings, chosen = folder.settings, _chosen(until)
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


def check(parameters: Mapping) -> tuple[Settings, dict]:
    """Return the settings and the parameters with absolute paths; refuse bad input.

    Raises ``InputError`` if a setting is wrong, or if the BioASQ files, the SQuAD files or the
    model are missing.
    """
    given, parameters = from_parameters(**parameters), dict(parameters)
    for name in (name for name in reproduce.PLACES if parameters.get(name)):
        path = Path(getattr(given, name)).expanduser()
        if path.exists():  # otherwise it is a name in the registry
            parameters[name] = str(path.resolve())  # reproduce.sh may run in another directory
    settings = from_parameters(**parameters)
    find_run_files(settings)
    check_squad_step(settings)
    machine.check_model(settings)
    return settings, parameters


def is_finished(settings: Settings, until: str = "") -> bool:
    """Return whether the notebooks have run with these settings and inputs.

    Without ``until``, the report must also exist.
    """
    folder = Run(settings.run_dir, settings)
    report = bool(until) or (folder.folder / "index.html").is_file()
    return report and all_done(folder, _chosen(until))


def seconds(settings: Settings) -> dict[str, float]:
    """Map the finished notebooks of a run to the seconds that they took."""
    folder = Run(settings.run_dir, settings)
    if not (folder.folder / MANIFEST).is_file():
        return {}
    done = folder.manifest()["notes"].get(DONE, {})
    return {name: entry["seconds"] for name, entry in done.items()}


def all_done(folder: Run, chosen: Sequence[Path]) -> bool:
    return all(_is_done(folder, path) for path in chosen)


def take_over(source: Run, target: Run, until: str) -> None:
    """Copy the notebooks up to ``until`` and their results from a run with the same settings."""
    import nbformat  # takes seconds

    chosen = _chosen(until)
    seconds = {name: entry["seconds"] for name, entry in source.manifest()["notes"][DONE].items()}
    target.take_over(source, [path.stem for path in chosen])
    done = {}
    for path in chosen:
        notebook = nbformat.read(source.folder / "notebooks" / path.name, as_version=4)
        text = (
            f"*This notebook was not executed for this run. It is a copy from the run "
            f"`{source.folder.name}`, which has the same settings for this step.*"
        )
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(text))
        write_text(target.path(f"notebooks/{path.name}"), nbformat.writes(notebook) + "\n")
        fingerprint = _fingerprint(path, target.settings)
        done[path.stem] = {"fingerprint": fingerprint, "seconds": seconds[path.stem]}
    target.note(DONE, done)


def _chosen(until: str) -> list[Path]:
    return [path for path in notebooks() if not until or path.stem[:2] <= until]


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
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    given = _for_notebooks(folder.settings, parameters)
    unknown = set(given) - set(papermill.inspect_notebook(str(notebook)))
    if unknown:  # papermill itself would only warn
        raise InputError(f"{notebook}: the parameters cell lacks {', '.join(sorted(unknown))}")
    output = folder.path(f"notebooks/{notebook.name}")
    _show_exercises_only(notebook, output)
    started = time.monotonic()
    try:
        with own_kernel(folder.path("notebooks/kernel.log")) as arguments:
            papermill.execute_notebook(
                str(output),
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
        if shortage := _shortage(folder.folder, error.ename, error.evalue):
            raise InputError(f"{notebook.stem}: {error.evalue}; {shortage}") from None
        print(f"{notebook.stem} failed; see {output}", file=sys.stderr)
        raise
    except DeadKernelError:
        raise InputError(
            f"{notebook.stem}: its kernel died, probably because the memory ran out "
            f"({free_memory() / 1e9:.1f} GB are free now); close other programs or use a smaller "
            "batch_size, then run the same command again"
        ) from None
    except OSError as error:  # papermill cannot write the notebook
        raise InputError(f"{output}: {error.strerror or error}; {AGAIN}") from None
    return time.monotonic() - started


AGAIN = "remove the cause, then run the same command again"
_FULL = 10_000_000  # bytes; with less free space, any failure is blamed on the disk


def _shortage(folder: Path, error: str, text: str) -> str:
    """Return the remedy if the machine, not the code, caused an error; otherwise, return ""."""
    if shutil.disk_usage(folder).free < _FULL:
        return f"the disk with {folder} is full; free some space and run the same command again"
    if error == "MemoryError" or out_of_memory(text):
        return "the memory ran out; close other programs and run the same command again"
    kind = getattr(builtins, error, None)
    return AGAIN if isinstance(kind, type) and issubclass(kind, OSError) else ""


def _show_exercises_only(notebook: Path, output: Path) -> None:
    """Write a notebook to ``output`` with the code of the exercises as collapsed text.

    The exercises load and train more models, which do not belong to the result of a run. With 24
    layers of width 1024, the exercises in notebook 03 took 5 GB more memory.
    """
    import nbformat

    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "code" and "exercise" in cell.metadata.get("tags", ()):
            name = "Solution" if "### BEGIN SOLUTION" in cell.source else "Code"
            code = f"```python\n{cell.source}\n```"
            text = f"<details><summary>{name} (not executed)</summary>\n\n{code}\n\n</details>"
            cell.update(cell_type="markdown", source=text)
            del cell["outputs"], cell["execution_count"]
            cell.metadata.pop("jupyter", None)  # hides the source of a code cell
    write_text(output, nbformat.writes(content) + "\n")


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

    place = tempfile.gettempdir()
    if len(os.fsencode(place)) > _LONGEST and os.name == "posix":
        place = "/tmp"
    for stale in Path(place).glob(f"{_SOCKETS}*/lock"):
        with suppress(OSError):  # the folder belongs to another user, or is being removed
            if held := hold(stale):  # the process that made this folder was killed
                with held:
                    shutil.rmtree(stale.parent)
    with (
        tempfile.TemporaryDirectory(prefix=_SOCKETS, dir=place) as sockets,
        hold(Path(sockets) / "lock"),
    ):
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
