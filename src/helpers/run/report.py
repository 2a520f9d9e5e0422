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

_TEMPLATE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ run }}: BioASQ factoid scores</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .7rem;text-align:right}
td:first-child,th:first-child{text-align:left}thead th{border-bottom:2px solid #1f3b57}
tbody tr:nth-child(odd){background:#f4f7fa}tr.all td{border-top:2px solid #1f3b57;font-weight:600}
img{max-width:100%}figure{margin:1.5rem 0}figcaption{color:#555;font-size:.9rem}
.note{border-left:4px solid #b4541a;background:#fdf5ef;padding:.6rem 1rem}
code{background:#f0f0f0;padding:0 .2rem}.facts td{text-align:left;vertical-align:top}
</style></head><body>
<h1>BioMegatron BioASQ kit: run <code>{{ run }}</code></h1>
<p class="note">
{% if manifest.settings.bioasq_dir %}
Model <code>{{ scores.model }}</code>, context <b>{{ scores.context }}</b>. Figures are comparable
only if they come from the same questions, the same context and the same model; notebook 05 judges
each published row.
{% else %}
These scores are on <b>BioASQ-mini</b>, teaching data written for this project. They are not
comparable with any published result; they show that every step works.
{% endif %}
{% if scores.enriched %}
<b>There were no test inputs, so the model read the golden files' snippets, which are more than
participants received. This is not the official task.</b>
{% endif %}
</p>
<h2>Scores</h2>
<table><thead><tr><th>batch</th>{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr>
</thead><tbody>
{% for name, cells in table.iterrows() %}
<tr{% if name == "weighted" %} class="all"{% endif %}><td>{{ name }}</td>
{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table>
<p>In percent, with the number of questions. <b>SAcc</b>: the first answer is right. <b>MRR</b>:
mean of 1/rank of the first right answer. <b>LAcc</b>: one at any rank is right. <b>Ceiling</b>:
questions whose answer is in one of their texts. <b>Pair EM</b>: of the texts that contain an
answer, those whose best span is an answer.</p>
{% for image, caption in figures %}
<figure><img alt="{{ caption }}" src="data:image/png;base64,{{ image }}">
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
<h2>The notebooks as they ran</h2>
<ul>
{% for notebook in notebooks %}
<li><a href="notebooks/{{ notebook.stem }}.html">{{ notebook.title }}</a>
{%- if notebook.seconds is not none %}, {{ "%.0f" | format(notebook.seconds) }} s{% endif %}
{%- if notebook.outdated %} (saved before it last ran){% endif %}</li>
{% endfor %}
</ul>
<h2>What produced this run</h2>
<table class="facts"><tbody>
{% for name, value in facts.items() %}
<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}
</tbody></table>
</body></html>
"""


def write_report(run: Run) -> Path:
    """Write ``index.html`` and ``notebooks/*.html`` of a finished run; returns the former."""
    scores = read_json(run.folder / "scores.json")
    manifest = as_recorded(run.folder, run.manifest())
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string(_TEMPLATE).render(
        run=run.settings.run,
        manifest=manifest,
        scores=scores,
        table=score_table(scores),
        figures=_figures(run, scores["pooled"]["n"]),
        notebooks=_notebooks(run, manifest),
        facts=_facts(manifest, scores),
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
    export = HTMLExporter(
        template_name="lab",  # and of a progress bar, only the last state
        config=Config({"CoalesceStreamsPreprocessor": {"enabled": True}}),
    )
    found = []
    for path in sorted((run.folder / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        write_text(path.with_suffix(".html"), export.from_notebook_node(notebook)[0])
        first = notebook.cells[0].source.splitlines() if notebook.cells else []
        found.append(
            {
                "stem": path.stem,
                "title": first[0].lstrip("# ") if first else path.stem,
                "seconds": done.get(path.stem, {}).get("seconds"),
                "outdated": _is_outdated(path, manifest),
            }
        )
    return found


def _facts(manifest: dict, scores: dict) -> dict[str, object]:
    hardware, settings = manifest["hardware"], manifest["settings"]
    return {
        "kit": f"{manifest['kit']['version']}, commit {manifest['kit']['commit'] or 'unknown'}",
        "made": manifest["files"]["scores.json"]["made_at"],
        "settings": ", ".join(f"{k}={v}" for k, v in settings.items() if v != ""),
        "SQuAD step": _squad_step(scores.get("squad_step") or {}),
        "training rows": scores["train_pairs"],
        "seconds": ", ".join(f"{k} {v:.0f}" for k, v in scores["seconds"].items()),
        "machine": f"{hardware['cpu']}, {hardware['cores']} cores, "
        f"{hardware['memory_bytes'] / 2**30:.0f} GiB, "
        f"GPU: {', '.join(hardware['gpus'] or []) or 'none'}",
        "packages": f"Python {manifest['python']}, "
        + ", ".join(f"{k} {v}" for k, v in manifest["packages"].items() if v),
        "files": "manifest.json lists every file with its SHA-256; reproduce.sh repeats the run",
    }


def _squad_step(step: dict) -> str:
    if not step:
        return "none"
    text = f"{step['train_questions']} questions, {step['epochs']} epochs"
    if judged := step["judged"]:
        text += f"; EM {100 * judged['em']:.1f}, F1 {100 * judged['f1']:.1f} "
        text += f"on {judged['questions']} others"
    return text
