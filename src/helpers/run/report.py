"""The report of a run: a self-contained ``index.html``, and the notebooks as HTML."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape
from itertools import pairwise
from pathlib import Path

import jinja2
import nbformat
import pandas as pd
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbconvert.preprocessors import Preprocessor
from traitlets.config import Config

from helpers.config import ROOT, Settings, from_parameters
from helpers.data.bioasq import read_json
from helpers.data.spans import gold_spans
from helpers.io import write_text
from helpers.model.decoding import read_nbest
from helpers.run.folder import Run, as_recorded
from helpers.run.provenance import notebook_parameters
from helpers.run.scores import score_table
from helpers.scoring import errors
from helpers.scoring.claims import TEST_7B, judge, summarize

_CAPTIONS = {
    "scores": "Scores by batch. The line is the extractive ceiling: no system that copies its "
    "answer from the texts can exceed it.",
    "sources": "Uncertainty of the scores due to the choice of questions (line) and seed "
    "(circles).",
    "switches": "The scores of this run under different protocols.",
    "failures": "The outcome of every test question: right, or why the first answer is wrong.",
    "forest": "This run, real runs that come with the kit (all with filled markers) and published "
    "rows on the same questions (hollow markers). Rows with a different context or different "
    "training data are different experiments.",
    "loss": "Training loss and learning rate at each step.",
}
_ALONE = (
    "Real runs that come with the kit (filled markers) and published rows on the same questions "
    "(hollow markers). This run is not shown, because it answered different questions."
)

_PRACTICE = {"lesson", "stop", "exercise"}  # tags of cells that participants may skip
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
        verdicts=summarize(judge([scores])),
        example=_example(run),
        explorer=(run.folder / "explorer.html").is_file(),
        figures=_figures(run, {row["batch"]: row["n"] for row in scores["batches"]}),
        notebooks=_notebooks(run, manifest),
    )
    path = write_text(run.folder / "index.html", page)
    run.point_latest()
    return path


def keep_notebooks(run: Run) -> list[str]:
    """Copy the notebooks that were run by hand into the run folder.

    JupyterLab saves a notebook in the clone. The notebook belongs to this run if every cell ran
    (participants may skip stops, lessons and exercises), its parameters match this run's
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
    """Return whether all cells except stops, lessons and exercises ran with these settings."""
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


def _example(run: Run) -> dict | None:
    """Return the worst error (see ``errors.worst``) as a row of the error table, if there is one.

    ``golds`` lists all gold answers. ``pieces`` is a snippet as (text, is part of a gold answer, is
    part of the best span), preferably a snippet that contains a gold answer.
    """
    if not (run.folder / "errors.csv").is_file():
        return None
    texts = dict.fromkeys(("id", "batch", "question", "gold", "synonyms", "answer"), str)
    table = pd.read_csv(run.folder / "errors.csv", keep_default_na=False, dtype=texts)
    rows = pd.concat([errors.worst(table, 1), errors.worst(table, 1, answerable=False)])
    if rows.empty:
        return None
    row = rows.iloc[0].to_dict()
    row["golds"], found = row["synonyms"].split(" | "), []
    for example, nbest in read_nbest(run.folder / "nbest" / f"{row['batch']}.jsonl"):
        if example.question_id == row["id"]:
            spans = gold_spans(example.context, row["golds"])
            found.append((not spans, _pieces(example.context, spans, nbest[:1])))
    row["pieces"] = min(found, key=lambda one: one[0])[1] if found else []
    return row


def _pieces(context: str, golds: Sequence, best: Sequence) -> list[tuple[str, bool, bool]]:
    edges = {0, len(context)}.union(*((span.start, span.end) for span in (*golds, *best)))
    return [
        (
            context[low:high],
            any(span.start <= low and high <= span.end for span in golds),
            any(span.start <= low and high <= span.end for span in best),
        )
        for low, high in pairwise(sorted(edges))
    ]


def _notebooks(run: Run, manifest: dict) -> list[dict]:
    """Convert the executed notebooks to HTML; return their entries for the report."""
    done = manifest["notes"].get("notebooks_done", {})
    found = []
    for path in sorted((run.folder / "notebooks").glob("*.ipynb")):
        title = notebook_title(path)
        page = render_notebook(path, f"{title} (run {run.settings.run})", "../index.html")
        write_text(path.with_suffix(".html"), page)
        seconds = done.get(path.stem, {}).get("seconds")
        outdated = _is_outdated(path, manifest)
        found.append({"stem": path.stem, "title": title, "seconds": seconds, "outdated": outdated})
    return found


def notebook_title(path: Path) -> str:
    """Return the first heading of a notebook, or the name of its file."""
    cells = nbformat.read(path, 4).cells
    first = cells[0].source.splitlines() if cells else []
    return first[0].lstrip("# ") if first else path.stem


def render_notebook(
    path: Path, title: str, back: str, address: Callable[[str], str | None] | None = None
) -> str:
    """Convert a saved notebook to one HTML page that needs no network connection.

    ``title`` is the title of the page, and ``back`` is the address of the page that lists it.
    ``address`` translates the address of every relative link in the notebook. If it returns None,
    the page shows only the text of the link. By default, a link to a notebook in the same folder
    leads to that notebook's page, and all other relative links are removed. ``#`` anchors have the
    form that GitHub gives them.
    """
    return render(nbformat.read(path, 4), title, back, address)


def render(
    notebook: nbformat.NotebookNode,
    title: str,
    back: str,
    address: Callable[[str], str | None] | None = None,
) -> str:
    """Do the same as ``render_notebook`` for a notebook in memory."""
    notebook.metadata["title"] = title
    # Coalescing shows only the last state of a progress bar.
    export = HTMLExporter(
        template_name="lab",
        exclude_anchor_links=True,
        preprocessors=[ImagesWithAlt],
        config=Config({"CoalesceStreamsPreprocessor": {"enabled": True}}),
    )
    page = BeautifulSoup(export.from_notebook_node(notebook)[0], "html.parser")
    # The scripts in the template load MathJax and widgets from the network. The notebooks contain
    # no formulas, and each widget comes with a static page.
    for script in page.select("head script, script[src], script[type$=json]"):
        script.decompose()
    for heading in page.select("h1, h2, h3, h4, h5, h6"):
        heading["id"] = re.sub(r"[^\w -]", "", heading.text.strip().lower()).replace(" ", "-")
    for link in page.select("a[href]"):
        if re.match(r"#|[a-z]+:", link["href"]):
            continue
        if (found := (address or _page_in_run)(link["href"])) is None:
            del link["href"]
        else:
            link["href"] = found
    look = "margin:1em 2em;font:14px system-ui,sans-serif"
    top = f'<nav style="{look}"><a href="{escape(back)}">Back to the overview</a></nav>'
    page.body.insert(0, BeautifulSoup(top, "html.parser"))
    return str(page)


def _page_in_run(link: str) -> str | None:
    """Return the page of a notebook in the same folder, or None for everything else."""
    return link.replace(".ipynb", ".html") if re.fullmatch(r"\w+\.ipynb(#.*)?", link) else None


class ImagesWithAlt(Preprocessor):
    """Give each image in an output its alternative text, which the templates would leave out.

    The text is in the metadata of the image (see ``views.alt``) or of the cell (``alt``).
    """

    def preprocess_cell(self, cell, resources, index):
        """Replace each PNG that has an alternative text with an HTML image that includes it."""
        for output in cell.get("outputs", ()):
            image = output.get("data", {}).get("image/png")
            text = output.get("metadata", {}).get("image/png", {}).get("alt")
            if image and (text := text or cell.metadata.get("alt")):
                code = f'<img alt="{escape(text)}" src="data:image/png;base64,{image.strip()}">'
                output["data"] = {"text/html": code}
        return cell, resources
