"""The report of a run: a self-contained ``index.html``, and the notebooks as HTML."""

from __future__ import annotations

import base64
import json
import math
import shutil
from datetime import datetime
from pathlib import Path

import jinja2
import nbformat
from nbconvert import HTMLExporter
from traitlets.config import Config

from helpers.config import ROOT, Settings, from_parameters
from helpers.data.bioasq import read_json
from helpers.io import write_text
from helpers.run.folder import Run, as_recorded
from helpers.run.provenance import notebook_parameters
from helpers.run.scores import score_table
from helpers.scoring.claims import TEST_7B

_CAPTIONS = {
    "scores": "Scores by batch. The line is the extractive ceiling: no system that copies its "
    "answer from the texts can exceed it.",
    "sources": "Uncertainty of the scores due to the choice of questions (line) and seed "
    "(circles).",
    "switches": "The scores of this run under different protocols.",
    "forest": "This run, real runs that come with the kit (all with filled markers) and published "
    "rows on the same questions (hollow markers). Rows with a different context or different "
    "training data are different experiments.",
    "causes": "The outcome of every test question.",
    "loss": "Training loss and learning rate at each step.",
}
_ALONE = (
    "Real runs that come with the kit (filled markers) and published rows on the same questions "
    "(hollow markers). This run is not shown, because it answered different questions."
)

_PRACTICE = {"lesson", "stop", "exercise"}  # tags of cells that participants may leave out
_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def write_report(run: Run) -> Path:
    """Write ``notebooks/*.html`` and ``index.html`` for a finished run; return the index path."""
    scores = read_json(run.folder / "scores.json")
    manifest = as_recorded(run.folder, run.manifest())
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string(_TEMPLATE.read_text("utf-8")).render(
        run=run.settings.run,
        manifest=manifest,
        scores=scores,
        table=score_table(scores),
        figures=_figures(run, {row["batch"]: row["n"] for row in scores["batches"]}),
        notebooks=_notebooks(run, manifest),
    )
    path = write_text(run.folder / "index.html", page)
    run.point_latest()
    return path


def keep_notebooks(run: Run) -> list[str]:
    """Copy the notebooks that were run by hand into the run folder.

    JupyterLab saves a notebook in the clone. The notebook belongs to this run if every cell ran
    (participants may leave out stops, lessons and exercises), its parameters match this run's
    settings, and it was saved after it wrote its files. Notebooks that ``helpers.batch`` executed
    are already in the folder. Returns the names of the notebooks that are missing from the folder
    or outdated.
    """
    manifest, missing = run.manifest(), []
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        kept = run.path(f"notebooks/{path.name}")
        if not _is_outdated(path, manifest) and _ran_with(path, run.settings):
            shutil.copy2(path, kept)
        if not kept.exists() or _is_outdated(kept, manifest):
            missing.append(path.stem)
    return missing


def _is_outdated(notebook: Path, manifest: dict) -> bool:
    """Return whether a notebook was saved before it wrote its last file for the run."""
    made_at = [f["made_at"] for f in manifest["files"].values() if f["made_by"] == notebook.stem]
    last = max((datetime.fromisoformat(at).timestamp() for at in made_at), default=math.inf)
    return notebook.stat().st_mtime < last


def _ran_with(path: Path, settings: Settings) -> bool:
    """Return whether all cells but practice ran and the parameters match these settings."""
    try:
        content = path.read_bytes()
        cells = json.loads(content)["cells"]
        given = from_parameters(**notebook_parameters(content))
    except (ValueError, SyntaxError):  # saved in the middle of an edit
        return False
    code = [
        cell
        for cell in cells
        if cell["cell_type"] == "code" and "".join(cell["source"]).strip()
        if not _PRACTICE & set(cell["metadata"].get("tags", []))
    ]
    return given == settings and all(cell["execution_count"] for cell in code)


def _figures(run: Run, batches: dict[str, int]) -> list[tuple[str, str]]:
    """Return the run's figures as pairs of a base64-encoded PNG and a caption."""
    captions = _CAPTIONS if batches == TEST_7B else _CAPTIONS | {"forest": _ALONE}
    paths = {run.folder / "figures" / f"{name}.png": text for name, text in captions.items()}
    return [
        (base64.b64encode(path.read_bytes()).decode(), caption)
        for path, caption in paths.items()
        if path.is_file()
    ]


def _notebooks(run: Run, manifest: dict) -> list[dict]:
    """Convert the executed notebooks to HTML; return their entries for the report."""
    done = manifest["notes"].get("notebooks_done", {})
    # Show only the last state of a progress bar.
    config = Config({"CoalesceStreamsPreprocessor": {"enabled": True}})
    export = HTMLExporter(template_name="lab", config=config)
    found = []
    for path in sorted((run.folder / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        write_text(path.with_suffix(".html"), export.from_notebook_node(notebook)[0])
        first = notebook.cells[0].source.splitlines() if notebook.cells else []
        title = first[0].lstrip("# ") if first else path.stem
        seconds = done.get(path.stem, {}).get("seconds")
        outdated = _is_outdated(path, manifest)
        found.append({"stem": path.stem, "title": title, "seconds": seconds, "outdated": outdated})
    return found
