"""``reproduce.sh``: the exact commands of a run, and the check that a repeat gives the same scores.

The script lies in the run's folder beside ``manifest.json`` and ``scores.json``, which it reads.
Called in a fresh clone, it checks code and inputs, repeats the run under another name and compares.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path

from helpers.config import InputError, Settings, from_parameters
from helpers.data.bioasq import read_json
from helpers.data.mini import DATA
from helpers.io import write_text
from helpers.run.folder import MANIFEST, Run, as_recorded

SCRIPT = "reproduce.sh"
PLACES = {"bioasq_dir": "BIOASQ_DIR", "squad_file": "SQUAD_FILE", "squad_dev": "SQUAD_DEV",
          "model": "MODEL"}  # fmt: skip
_OPTIONS = ("profile", "run", "seed", "bioasq_dir")  # of helpers.batch run; the rest with --set


def options(
    settings: Mapping, *, seed: bool = True, places: Mapping[str, str] | None = None
) -> list[str]:
    """The words behind ``helpers.batch run`` that give these settings, the run's name left out.

    ``settings`` are a manifest's. Only what differs from the profile is said. ``places`` replaces
    the values of settings that name places on one machine.
    """
    known = {f.name for f in dataclasses.fields(Settings)} | {"rungs"}  # which early runs had
    usual = {"rungs": ""} | dataclasses.asdict(from_parameters(settings["profile"]))
    values = {k: v for k, v in settings.items() if k in known and k != "runs_dir"}
    values |= {name: place for name, place in (places or {}).items() if values.get(name)}
    words = ["--profile", settings["profile"]]
    words += ["--seed", str(settings["seed"])] if seed else []
    words += ["--bioasq-dir", values["bioasq_dir"]] if values.get("bioasq_dir") else []
    for name, value in values.items():
        if name not in _OPTIONS and value != usual[name]:
            words += ["--set", f"{name}={value}"]
    return words


def inputs(manifest: Mapping) -> dict[str, str]:
    """Path -> SHA-256 of every file of the user's that the run read."""
    notes = manifest.get("notes", {})
    files = dict(notes.get("data", {}).get("inputs", {}))
    return files | dict((notes.get("squad_step") or {}).get("files", {}))


def write(run: Run, made_by: str) -> Path:
    """Write ``reproduce.sh`` and record it."""
    path = write_text(run.path(SCRIPT), script(as_recorded(run.folder, run.manifest())))
    path.chmod(0o755)
    return run.record(path, made_by)


def script(manifest: Mapping) -> str:
    """The text of ``reproduce.sh`` for a run with this manifest."""
    settings, hardware, kit = manifest["settings"], manifest["hardware"], manifest["kit"]
    commit = kit["commit"] or "unknown"
    # What names a place on this machine becomes a variable that another machine can set.
    places = {name: variable for name, variable in PLACES.items() if _is_path(settings, name)}
    lines = [
        "#!/usr/bin/env bash",
        f"# Repeats the run {settings['run']!r} and compares its scores. Call it in a clone of the",
        f"# kit at commit {commit}, after `make setup`.",
        f"# Made on {hardware['cpu']}, {hardware['cores']} cores, "
        f"GPU: {', '.join(hardware.get('gpus') or []) or 'none'}, {hardware['platform']},",
        f"# Python {manifest['python']}; packages and every file's SHA-256 are in manifest.json.",
        "# Other hardware or packages can round otherwise, and a close question may then flip.",
        "set -euo pipefail",
        'here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"',
        'python="${PYTHON:-.venv/bin/python}"',
    ]
    for name, variable in places.items():
        lines.append(f"here_it_was={shlex.quote(settings[name])}")
        lines.append(f'{variable}="${{{variable}:-$here_it_was}}"')
    lines += [
        "",
        "# 1. The same code",
        f"wanted={shlex.quote(commit.removesuffix('+changes'))}",
        'have="$(git rev-parse HEAD 2>/dev/null || echo unknown)"',
        'if [ "$have" != "$wanted" ]; then',
        '  echo "note: this clone is at $have, the run was made at $wanted" >&2',
        "fi",
    ]
    if commit.endswith("+changes"):
        lines.append('echo "note: the run was made with uncommitted changes to $wanted" >&2')
    lines += ["", "# 2. The same inputs", *_input_check(manifest, places)]
    words = options(settings, places={name: f"${v}" for name, v in places.items()})
    name = shlex.quote(f"{settings['run']}-again")
    lines += [
        "",
        "# 3. The run",
        '"$python" -m helpers.batch run \\',
        f"  --run {name} " + " ".join(_word(word) for word in words),
        "",
        "# 4. The same scores",
        f'"$python" -m helpers.batch same "$here" runs/{name}',
    ]
    return "\n".join(lines) + "\n"


def same(first: str | Path, second: str | Path) -> tuple[bool, list[str]]:
    """Whether two run folders hold the same scores, and lines that say what differs.

    The scores are the same when all counts are equal and all means agree to 1e-9. Inputs, code,
    packages and hardware are compared as well, since they explain a difference.
    """
    folders = Path(first), Path(second)
    old, new = (read_json(folder / MANIFEST) for folder in folders)
    for folder, manifest in zip(folders, (old, new), strict=True):
        parts = ("kit", "settings", "hardware", "packages", "python")
        if not isinstance(manifest, dict) or not all(part in manifest for part in parts):
            raise InputError(f"{folder / MANIFEST}: not a run's manifest; give a run's folder")
    old, new = (as_recorded(*pair) for pair in zip(folders, (old, new), strict=True))
    lines = []
    for what, part in (
        ("input files", lambda m: sorted(inputs(m).values())),
        ("weights", lambda m: m.get("notes", {}).get("checkpoint", {}).get("files")),
        ("code", lambda m: m["kit"].get("source_sha256")),
        ("commit", lambda m: m["kit"]["commit"]),
        ("Python", lambda m: m["python"]),
        ("processor", lambda m: (m["hardware"]["cpu"], m["hardware"]["cores"])),
    ):
        if part(old) != part(new):
            lines.append(f"{what}: differ" if what == "input files" else
                         f"{what}: {_short(part(old))}, now {_short(part(new))}")  # fmt: skip
    for name, version in old["packages"].items():
        now = new["packages"].get(name)
        if now != version:
            lines.append(f"package {name}: {version}, now {now}")
    rows = [_score_rows(folder) for folder in folders]
    differing = [name for name in rows[0] if not _equal(rows[0][name], rows[1].get(name))]
    differing += [name for name in rows[1] if name not in rows[0]]
    for name in differing:
        lines.append(f"scores of {name}: {_short(rows[0].get(name))}, now {rows[1].get(name)}")
    return not differing, lines


def _is_path(settings: Mapping, name: str) -> bool:
    return bool(settings.get(name)) and name != "runs_dir" and "/" in str(settings[name])


def _input_check(manifest: Mapping, places: Mapping[str, str]) -> list[str]:
    settings, lines = manifest["settings"], []
    for path, digest in inputs(manifest).items():
        for name, variable in places.items():
            root = str(Path(settings[name]).expanduser().resolve())
            if path == root or path.startswith(root.rstrip("/") + "/"):
                rest = shlex.quote(path[len(root) :]) if path != root else ""
                lines.append(f'  printf "%s  %s\\n" {digest} "${variable}"{rest}')
                break
        else:
            if not Path(path).resolve().is_relative_to(DATA):  # those come with the kit
                lines.append(f'  printf "%s  %s\\n" {digest} {shlex.quote(path)}')
    if not lines:
        return ["# They come with the kit."]
    names = " ".join(f"{variable}=…" for variable in places.values())
    return [
        "sums() { if command -v sha256sum >/dev/null; then sha256sum -c -; "
        "else shasum -a 256 -c -; fi; }",
        "{",
        *lines,
        "} | sums >&2 || {",
        f'  echo "not the files of the run; say where those are: {names}" >&2',
        "  exit 2",
        "}",
    ]


def _word(word: str) -> str:
    """A word for the shell; a variable put in by ``script`` stays one."""
    _, equals, value = word.partition("=")
    if word.startswith("$"):
        return f'"{word}"'
    if equals and value in (f"${variable}" for variable in PLACES.values()):
        return f'"{word}"'
    return shlex.quote(word)


def _score_rows(folder: Path) -> dict[str, dict]:
    scores = read_json(folder / "scores.json")
    rows = scores.get("batches") if isinstance(scores, dict) else None
    if not isinstance(rows, list):
        raise InputError(f"{folder / 'scores.json'}: not a run's scores; finish the run first")
    names = ("counted", "hits_strict", "hits_lenient", "mrr")
    return {row["batch"]: {name: row[name] for name in names} for row in rows}


def _equal(first: Mapping, second: Mapping | None) -> bool:
    return second is not None and all(abs(first[name] - second[name]) <= 1e-9 for name in first)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:99]}…"
