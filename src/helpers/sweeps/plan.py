"""Read a sweep file and plan its runs, before anything is computed."""

from __future__ import annotations

import itertools
import re
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from helpers.config import InputError, Settings, from_parameters, parse_override
from helpers.data.bioasq import read_json
from helpers.io import read_text, write_text
from helpers.run.folder import MANIFEST, Run, settings_of
from helpers.sweeps import notebooks

_KEYS = {"name": str, "profile": str, "until": str, "settings": dict, "grid": dict, "runs": list}
PARTS = {"02": "the conversion", "03": "the SQuAD step"}
_FAILURE = "failure.txt"  # in the folder of a run that failed: the reason
CONVERSION, SQUAD_STEP = "02", "03"  # the notebooks after which other runs can copy the results


@dataclass(frozen=True)
class Sweep:
    """A sweep: the runs that it consists of, all in the folder ``runs_dir/name``."""

    name: str
    folder: Path
    until: str  # number of the last notebook, or "" for all notebooks and the report
    runs: tuple[Planned, ...]


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    label: the name of its folder.
    parameters: the arguments of ``notebooks.run``.
    varied: the settings that differ between the runs of the sweep.
    """

    label: str
    parameters: Mapping[str, Any]
    varied: Mapping[str, Any]
    settings: Settings = field(repr=False)

    @property
    def folder(self) -> Path:
        return self.settings.run_dir

    def stages(self, *names: str) -> tuple:
        """Return the settings that, with the input files, determine the output of these stages."""
        return tuple((name, *settings_of(name, self.settings).items()) for name in names)

    @property
    def log(self) -> Path:
        """The file with everything that the run printed."""
        return self.folder / "log.txt"

    def state(self, until: str) -> str:
        """Return "finished", "failed", "started" or "new", based on the files in the folder."""
        if notebooks.is_finished(self.settings, until):
            return "finished"
        if (self.folder / _FAILURE).is_file():
            return "failed"
        return "started" if (self.folder / MANIFEST).is_file() else "new"

    def failure(self) -> str:
        """Return why the run failed."""
        return read_text(self.folder / _FAILURE).strip()

    def note_failure(self, reason: str) -> None:
        write_text(self.folder / _FAILURE, reason + "\n")

    def forget_failure(self) -> None:
        (self.folder / _FAILURE).unlink(missing_ok=True)

    def take_over(self, donor: Planned, until: str) -> bool:
        """Copy another run's conversion or SQuAD step; return whether anything was copied.

        Nothing is copied if this run has already begun this part, or if the other run has not
        finished it. Notebook 03 checks the copied SQuAD step and retrains if the copy does not fit.
        """
        target, source = Run(self.folder, self.settings), Run(donor.folder, donor.settings)
        ready = until == CONVERSION and notebooks.is_finished(donor.settings, until)
        if ready and self.state("") == "new":
            notebooks.take_over(source, target, until)
            return True
        trained, copy = (run.folder / "training_squad" for run in (source, target))
        if until == SQUAD_STEP and trained.is_dir() and not copy.exists():
            part = copy.with_name(f".{copy.name}.part")
            shutil.rmtree(part, ignore_errors=True)  # from a copy that was interrupted
            shutil.copytree(trained, part)
            part.rename(copy)
            return True
        return False


def read_sweep(path: str | Path, runs_dir: str = "") -> Sweep:
    """Read a sweep file (YAML); see docs/sweeps.md for its fields.

    Raises ``InputError`` if the file cannot be read, if a name is unknown, if a value has the wrong
    type, or if a run could not start, for example because its files are missing.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; specify a sweep file (docs/sweeps.md)")
    try:
        data = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: must contain fields such as name, profile and grid")
    try:
        return make_sweep({"name": path.stem, **data}, runs_dir)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def make_sweep(data: Mapping[str, Any], runs_dir: str = "") -> Sweep:
    """Plan a sweep from the fields of a sweep file; see ``read_sweep``."""
    if isinstance(data.get("until"), int):  # YAML reads 03 as a number
        data = {**data, "until": f"{data['until']:02d}"}
    _check_fields(data)
    given = data.get("settings", {}).items()
    fixed = {"profile": data.get("profile", "mini")} | {k: _value(k, v) for k, v in given}
    if runs_dir:
        fixed["runs_dir"] = runs_dir
    grid = data.get("grid", {})
    crossed = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    chosen = (crossed if grid else []) + [dict(run) for run in data.get("runs", [])]
    chosen = chosen or [{}]
    folder = from_parameters(**fixed, run=data["name"]).run_dir
    runs: dict[Settings, Planned] = {}
    for varied in chosen:
        varied = {name: _value(name, value) for name, value in varied.items()}
        parameters = {**fixed, **varied, "runs_dir": str(folder)}
        label = _label(varied)
        settings, parameters = notebooks.check({**parameters, "run": label})
        key = replace(settings, run="", runs_dir="")
        runs.setdefault(key, Planned(label, parameters, varied, settings))  # no duplicates
    _check_labels(runs.values())
    return Sweep(data["name"], folder, data.get("until", ""), tuple(runs.values()))


def _check_fields(data: Mapping[str, Any]) -> None:
    if unknown := data.keys() - _KEYS.keys():
        known = ", ".join(_KEYS)
        raise InputError(f"{min(map(repr, unknown))} is not one of the fields {known}")
    for name, kind in _KEYS.items():
        if name in data and not isinstance(data[name], kind):
            wanted = {str: "text", dict: "a mapping", list: "a list"}[kind]
            raise InputError(f"{name}: must be {wanted}, got {data[name]!r}")
    if not data.get("name") or Path(data["name"]).name != data["name"]:
        raise InputError(f"name: {data.get('name')!r} is not a plain folder name")
    for name, values in data.get("grid", {}).items():
        if not isinstance(values, list) or not values:
            raise InputError(f"grid: {name}: must be a list with at least one value")
    if not all(isinstance(run, dict) for run in data.get("runs", [])):
        raise InputError("runs: each entry must be a mapping from settings to values")
    varied = [data.get("grid", {}), *data.get("runs", [])]
    for name in itertools.chain(data.get("settings", {}), *varied):
        if not (isinstance(name, str) and name.isidentifier()):
            raise InputError(f"{name!r} is not the name of a setting")
    if any("run" in place for place in (data.get("settings", {}), *varied)):
        raise InputError("run: the sweep chooses it; set the sweep's name instead")
    if any("runs_dir" in place for place in varied):
        raise InputError("runs_dir: must be the same for all runs; set it under settings")
    known = [path.stem[:2] for path in notebooks.notebooks()]
    if data.get("until") and data["until"] not in known:
        raise InputError(f"until: {data['until']!r} is not one of {', '.join(known)}")


def _value(name: str, value: Any) -> Any:
    """Return a value with the setting's type; YAML reads ``6e-5`` as text."""
    return parse_override(f"{name}={value}")[1] if isinstance(value, str) else value


def _label(varied: Mapping[str, Any]) -> str:
    """Return a folder name such as ``learning_rate-0.0001_seed-2``."""
    parts = [f"{name}-{_short(value)}" for name, value in varied.items()]
    return "_".join(parts) or "run"


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else Path(str(value)).name
    return re.sub(r"[^\w.+-]", "-", text) or "none"


def _check_labels(runs: Sequence[Planned]) -> None:
    first: dict[str, Planned] = {}
    for run in runs:
        other = first.setdefault(run.label, run)
        if other is not run:
            raise InputError(
                f"{dict(other.varied)} and {dict(run.varied)} would both be in the folder "
                f"{run.label}; rename one of the files, or put them into different sweeps"
            )


def describe(sweep: Sweep) -> str:
    """Return the plan as text: each run, its state, and the estimated time and disk space."""
    minutes, size = estimate(sweep)
    lines = [f"{sweep.name}: {len(sweep.runs)} runs in {sweep.folder}"]
    others = donors(sweep)
    width = max(len(run.label) for run in sweep.runs)
    for run in sweep.runs:
        state = run.state(sweep.until)
        taken = [f"{PARTS[until]} of {label}" for label, until in others[run.label]]
        also = f"; takes over {' and '.join(taken)}" if taken and state == "new" else ""
        lines.append(f"  {run.label:<{width}}  {state}{also}")
    left = sum(run.state(sweep.until) != "finished" for run in sweep.runs)
    if minutes is None:
        cost = "time and disk space unknown, because no run with this profile has finished here"
    else:
        cost = f"about {left * minutes:.0f} minutes one after the other, {left * size / 1e9:.1f} GB"
    return "\n".join([*lines, f"{left} to run: {cost}"])


def donors(sweep: Sweep) -> dict[str, list[tuple[str, str]]]:
    """Map the label of each run to the runs whose results it takes over, as (label, notebook).

    Of the runs that share a result, the first computes it and the others copy it: the conversion
    after notebook 02 of the first run, and the SQuAD step after its notebook 03.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    first: dict[tuple, str] = {}
    for run in sweep.runs:
        parts = [(CONVERSION, ("checkpoint", "data"))]
        if run.settings.squad_epochs:
            parts.append((SQUAD_STEP, ("checkpoint", "squad_step")))
        given = [(first.setdefault(run.stages(*names), run.label), until) for until, names in parts]
        found[run.label] = [(label, until) for label, until in given if label != run.label]
    return found


def estimate(sweep: Sweep) -> tuple[float | None, float]:
    """Return the estimated minutes and bytes of one run.

    They are medians over the finished runs with the same profile, in the folder of the sweep or
    next to it. The time of notebook 03 is scaled by the number of epochs.
    """
    minutes, sizes = [], []
    settings = sweep.runs[0].settings
    for path in [*sweep.folder.parent.glob(f"*/{MANIFEST}"), *sweep.folder.glob(f"*/{MANIFEST}")]:
        manifest = read_json(path)
        done = manifest.get("notes", {}).get(notebooks.DONE, {})
        if manifest.get("profile") != settings.profile or "scores" not in manifest.get("notes", {}):
            continue
        scale = settings.epochs / manifest["settings"].get("epochs", settings.epochs)
        times = [(name, entry["seconds"]) for name, entry in done.items()]
        chosen = [(n, s) for n, s in times if not sweep.until or n[:2] <= sweep.until]
        minutes.append(sum(s * (scale if n.startswith("03") else 1) for n, s in chosen) / 60)
        sizes.append(sum(entry["bytes"] for entry in manifest["files"].values()))
    if not minutes:
        return None, 0.0
    return statistics.median(minutes), statistics.median(sizes)
