"""The report of a run: ``index.html``, self-contained, and the notebooks as HTML beside it."""

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
    "sources": "Uncertainty of the scores: other questions (line) and other seeds (circles).",
    "switches": "The same run's scores under other protocols.",
    "forest": "This run (filled) and published rows on the same questions (hollow). Rows with "
    "another context or other training data are other experiments.",
    "causes": "The outcome of every test question.",
    "loss": "Training loss and learning rate at each step.",
}
_ALONE = "This run. Published rows are not shown, because they are about other questions."

_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def write_report(run: Run) -> Path:
    """Write ``index.html`` and ``notebooks/*.html`` of a finished run; returns the former."""
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
        figures=_figures(run, scores["pooled"]["n"]),
        notebooks=_notebooks(run, manifest),
    )
    path = write_text(run.folder / "index.html", page)
    run.point_latest()
    return path


def keep_notebooks(run: Run) -> list[str]:
    """Copy the notebooks that were run by hand into the run's folder.

    JupyterLab saves a notebook in the clone. It belongs to this run if every cell ran, if its
    parameters give this run's settings, and if it was saved after it wrote its files. Notebooks
    that ``helpers.batch`` executed are already in the folder. Returns the names of those that the
    folder still lacks, or has only as they were before they last ran.
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
    """Whether it was saved before the last file that it wrote for the run."""
    made_at = [f["made_at"] for f in manifest["files"].values() if f["made_by"] == notebook.stem]
    last = max((datetime.fromisoformat(at).timestamp() for at in made_at), default=math.inf)
    return notebook.stat().st_mtime < last


def _ran_with(path: Path, settings: Settings) -> bool:
    """Whether every cell of a saved notebook ran, with parameters that give these settings."""
    try:
        content = path.read_bytes()
        cells = json.loads(content)["cells"]
        given = from_parameters(**notebook_parameters(content))
    except (ValueError, SyntaxError):  # saved in the middle of an edit
        return False
    code = [c for c in cells if c["cell_type"] == "code" and "".join(c["source"]).strip()]
    return given == settings and all(cell["execution_count"] for cell in code)


def _figures(run: Run, questions: int) -> list[tuple[str, str]]:
    """The run's figures as (PNG in base64, caption)."""
    captions = _CAPTIONS if questions == sum(TEST_7B.values()) else _CAPTIONS | {"forest": _ALONE}
    paths = {run.folder / "figures" / f"{name}.png": text for name, text in captions.items()}
    return [
        (base64.b64encode(path.read_bytes()).decode(), caption)
        for path, caption in paths.items()
        if path.is_file()
    ]


def _notebooks(run: Run, manifest: dict) -> list[dict]:
    """Convert each executed notebook to HTML; return what the report says about it."""
    done = manifest["notes"].get("notebooks_done", {})
    # Of a progress bar, only the last state is shown.
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
