"""Write ``reproduce.sh``, which repeats a run and checks that the scores are the same.

The script reads ``manifest.json`` and ``scores.json``, which are in the same run folder. In a new
clone of the kit, it checks the code and inputs, repeats the run under a different name, and
compares the scores.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path

import jinja2

from helpers.config import InputError, from_parameters
from helpers.data.bioasq import read_json
from helpers.data.mini import DATA
from helpers.io import write_text
from helpers.run.folder import MANIFEST, Run, as_recorded

SCRIPT = "reproduce.sh"
# Maps settings that can be local paths to the shell variables that replace them.
PLACES = {
    "bioasq_dir": "BIOASQ_DIR", "squad_file": "SQUAD_FILE", "squad_dev": "SQUAD_DEV",
    "model": "MODEL",
}  # fmt: skip
_NO_OVERRIDE = ("profile", "run", "runs_dir", "seed", "bioasq_dir")  # never given with --set

_TEMPLATE = Path(__file__).with_name("reproduce.sh.jinja")


def options(settings: Mapping, *, seed: bool = True) -> list[str]:
    """Return the ``helpers.batch run`` arguments for these settings, without ``--run``.

    Only settings that differ from the profile are included.
    """
    # In early versions, "rungs" allowed looser matches. Other obsolete settings do not matter.
    usual = {"rungs": ""} | dataclasses.asdict(from_parameters(settings["profile"]))
    arguments = ["--profile", settings["profile"]]
    arguments += ["--seed", str(settings["seed"])] if seed else []
    arguments += ["--bioasq-dir", settings["bioasq_dir"]] if settings.get("bioasq_dir") else []
    for name, value in settings.items():
        if name not in _NO_OVERRIDE and value != usual.get(name, value):
            arguments += ["--set", f"{name}={value}"]
    return arguments


def input_files(manifest: Mapping) -> dict[str, str]:
    """Map each user file that the run read to its SHA-256."""
    notes = manifest.get("notes", {})
    files = notes.get("data", {}).get("inputs", {})
    return {**files, **(notes.get("squad_step") or {}).get("files", {})}


def write(run: Run, made_by: str) -> Path:
    """Write ``reproduce.sh`` and record it."""
    path = write_text(run.path(SCRIPT), script(as_recorded(run.folder, run.manifest())))
    path.chmod(0o755)
    return run.record(path, made_by)


def script(manifest: Mapping) -> str:
    """Return the text of ``reproduce.sh`` for a run with this manifest."""
    settings, hardware = manifest["settings"], manifest["hardware"]
    paths = {name: settings[name] for name in PLACES if "/" in str(settings.get(name))}
    other = {name: value for name, value in settings.items() if name not in paths}
    flags = {"bioasq_dir": "--bioasq-dir "}
    arguments = [shlex.quote(word) for word in options(other)]
    arguments += [flags.get(name, f"--set {name}=") + f'"${PLACES[name]}"' for name in paths]
    environment = jinja2.Environment(
        variable_start_string="[[", variable_end_string="]]", trim_blocks=True,
        keep_trailing_newline=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["quote"] = shlex.quote
    # A line break in somebody else's manifest must not add a command to the script.
    environment.filters["line"] = lambda value: " ".join(str(value).split())
    return environment.from_string(_TEMPLATE.read_text("utf-8")).render(
        run=settings["run"],
        again=shlex.quote(f"{settings['run']}-again"),
        commit=manifest["kit"]["commit"] or "unknown",
        hardware=hardware,
        gpus=", ".join(hardware.get("gpus") or []) or "none",
        python=manifest["python"],
        places={PLACES[name]: path for name, path in paths.items()},
        variables=" ".join(f"{PLACES[name]}=…" for name in paths),
        inputs=_checked_inputs(manifest, paths),
        options=" ".join(arguments),
    )


def _checked_inputs(manifest: Mapping, paths: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (SHA-256, shell-quoted path) of each input that is not part of the kit."""
    roots = {PLACES[name]: Path(path).expanduser().resolve() for name, path in paths.items()}
    found = []
    for text, digest in input_files(manifest).items():
        path = Path(text)
        variable = next((name for name, root in roots.items() if path.is_relative_to(root)), None)
        if variable:
            rest = path.relative_to(roots[variable]).parts
            found.append((digest, f'"${variable}"' + "".join(f"/{shlex.quote(p)}" for p in rest)))
        elif not path.resolve().is_relative_to(DATA):
            found.append((digest, shlex.quote(text)))
    return found


def same_scores(first: str | Path, second: str | Path) -> tuple[bool, list[str]]:
    """Return whether two run folders have the same scores, and one line per difference.

    Scores are the same if all counts are equal and all means agree to within 1e-9. Inputs, code,
    packages and hardware are compared too, because they can explain a difference.
    """
    old, new = _circumstances(Path(first)), _circumstances(Path(second))
    changed = [what for what, value in old.items() if value != new.get(what)]
    lines = [f"{what}: {_short(old[what])}, now {_short(new.get(what))}" for what in changed]
    if "input files" in changed:  # hashes would not help the reader
        lines[0] = "input files: different"
    rows, others = _score_rows(Path(first)), _score_rows(Path(second))
    equal = True
    for batch in rows | others:
        row, other = rows.get(batch), others.get(batch)
        if not (row and other and all(abs(row[name] - other[name]) <= 1e-9 for name in row)):
            lines.append(f"scores of {batch}: {_short(row)}, now {other}")
            equal = False
    return equal, lines


def _circumstances(folder: Path) -> dict[str, object]:
    """Return everything that can explain a difference in scores, by name."""
    manifest = read_json(folder / MANIFEST)
    parts = ("kit", "settings", "hardware", "packages", "python")
    if not isinstance(manifest, dict) or not all(part in manifest for part in parts):
        raise InputError(f"{folder / MANIFEST}: is not a run manifest; specify a run folder")
    manifest = as_recorded(folder, manifest)
    return {
        "input files": sorted(input_files(manifest).values()),
        "weights": manifest.get("notes", {}).get("checkpoint", {}).get("files"),
        "code": manifest["kit"].get("source_sha256"),
        "commit": manifest["kit"]["commit"],
        "Python": manifest["python"],
        "processor": (manifest["hardware"]["cpu"], manifest["hardware"]["cores"]),
        **{f"package {name}": version for name, version in manifest["packages"].items()},
    }


def _score_rows(folder: Path) -> dict[str, dict]:
    scores = read_json(folder / "scores.json")
    rows = scores.get("batches") if isinstance(scores, dict) else None
    if not isinstance(rows, list):
        raise InputError(
            f"{folder / 'scores.json'}: does not contain the scores of a run; finish it first"
        )
    names = ("counted", "hits_strict", "hits_lenient", "mrr")
    return {row["batch"]: {name: row[name] for name in names} for row in rows}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:99]}…"
