"""A run on one page: ``index.html``, self-contained, and the notebooks as HTML beside it."""

from __future__ import annotations

import base64
import html
import json
import math
import shutil
from datetime import datetime
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from helpers.config import ROOT, Settings, from_parameters
from helpers.data.bioasq import read_json
from helpers.io import write_text
from helpers.run.folder import Run, as_recorded
from helpers.run.provenance import notebook_parameters
from helpers.scoring.claims import TEST_7B

_FIGURES = {
    "scores": "Scores by batch. The line is the extractive ceiling: no system that copies its "
    "answer from the texts can pass it.",
    "sources": "How sure the scores are: other questions (line) and other seeds (circles).",
    "switches": "What other protocols would have made of the same run.",
    "forest": "This run (filled) and published rows on the same questions (hollow). Rows with "
    "another context or other training data are other experiments.",
    "causes": "What became of every test question.",
    "loss": "Training loss and learning rate, step by step.",
}
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .7rem;text-align:right}
td:first-child,th:first-child{text-align:left}thead th{border-bottom:2px solid #1f3b57}
tbody tr:nth-child(odd){background:#f4f7fa}tr.all td{border-top:2px solid #1f3b57;font-weight:600}
img{max-width:100%}figure{margin:1.5rem 0}figcaption{color:#555;font-size:.9rem}
.note{border-left:4px solid #b4541a;background:#fdf5ef;padding:.6rem 1rem}
code{background:#f0f0f0;padding:0 .2rem}.facts td{text-align:left;vertical-align:top}
"""


def write_report(run: Run) -> Path:
    """Write ``index.html`` and ``notebooks/*.html`` of a finished run; returns the former."""
    scores = read_json(run.folder / "scores.json")
    manifest = as_recorded(run.folder, run.manifest())
    body = [
        f"<h1>BioMegatron BioASQ kit: run <code>{html.escape(run.settings.run)}</code></h1>",
        _note(scores, teaching=not manifest["settings"]["bioasq_dir"]),
        "<h2>Scores</h2>",
        _score_table(scores),
        "<p>In percent, with the number of questions. <b>SAcc</b>: the first answer is right. "
        "<b>MRR</b>: mean of 1/rank of the first right one. <b>LAcc</b>: one at any rank is right. "
        "<b>Ceiling</b>: questions whose answer stands in a given text. <b>Pair EM</b>: texts with "
        "an answer whose best span is one.</p>",
        *_figures(run, scores["pooled"]["n"]),
        "<h2>The notebooks as they ran</h2>",
        _notebooks(run, manifest),
        "<h2>What made this</h2>",
        _facts(manifest, scores),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(run.settings.run)}: BioASQ factoid scores</title>"
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )
    path = write_text(run.folder / "index.html", page)
    run.point_latest()
    return path


def keep_notebooks(run: Run) -> list[str]:
    """Copy notebooks that were run by hand into the run's folder; return those that it lacks or has
    only as they were before they last ran.

    JupyterLab saves a notebook in the clone. It belongs to this run if every cell ran, its
    parameters give this run's settings, and it was saved after it made its files. A notebook that
    ``helpers.batch`` executed is there already.
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
    """Whether it was saved before the last file that it made for the run."""
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


def _note(scores: dict, teaching: bool) -> str:
    if teaching:
        text = (
            "These scores are on <b>BioASQ-mini</b>, teaching data written for this project. They "
            "are not comparable with any published result; they show that every step works."
        )
    else:
        text = (
            f"Model <code>{html.escape(scores['model'])}</code>, context "
            f"<b>{html.escape(scores['context'])}</b>. A figure is comparable only with one from "
            "the same questions, the same context and the same model; notebook 05 judges each "
            "published row."
        )
    if scores["enriched"]:
        text += (
            " <b>The test inputs were missing: the golden files' snippets were read instead, which "
            "are more than participants got. This is not the official task.</b>"
        )
    return f'<p class="note">{text}</p>'


def _score_table(scores: dict) -> str:
    rows = []
    for row in [*scores["batches"], scores["weighted"], scores["macro"]]:
        kind = ' class="all"' if row["batch"] == "weighted" else ""
        cells = [
            row["batch"],
            row["n"],
            f"{100 * row['sacc']:.2f} ({row['hits_strict']})",
            f"{100 * row['mrr']:.2f}",
            f"{100 * row['lacc']:.2f} ({row['hits_lenient']})",
            f"{100 * row['ceiling']:.2f}",
            f"{100 * row['pair_em']:.2f}",
        ]
        rows.append((kind, cells))
    for name, row in scores["baselines"].items():
        cells = [
            f"baseline: {name}",
            row["n"],
            f"{100 * row['sacc']:.2f} ({row['hits_strict']})",
            f"{100 * row['mrr']:.2f}",
            f"{100 * row['lacc']:.2f} ({row['hits_lenient']})",
            "",
            "",
        ]
        rows.append(("", cells))
    head = ("batch", "n", "SAcc", "MRR", "LAcc", "ceiling", "pair EM")
    return (
        f"<table><thead><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr></thead><tbody>"
        + "".join(
            f"<tr{kind}>{''.join(f'<td>{html.escape(str(c))}</td>' for c in cells)}</tr>"
            for kind, cells in rows
        )
        + "</tbody></table>"
    )


def _figures(run: Run, questions: int) -> list[str]:
    captions, shown = dict(_FIGURES), []
    if questions != sum(TEST_7B.values()):
        captions["forest"] = "This run. Published rows are about other questions and not shown."
    for name, caption in captions.items():
        path = run.folder / "figures" / f"{name}.png"
        if path.is_file():
            data = base64.b64encode(path.read_bytes()).decode()
            shown.append(
                f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            )
    return shown


def _notebooks(run: Run, manifest: dict) -> str:
    """Convert each executed notebook and link it, with the seconds it took."""
    done = manifest["notes"].get("notebooks_done", {})
    items = []
    for path in sorted((run.folder / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
            cell.outputs = _joined(cell.outputs)
        page, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
        write_text(path.with_suffix(".html"), page)
        title = next((c.source.splitlines()[0].lstrip("# ") for c in notebook.cells), path.stem)
        took = done.get(path.stem, {}).get("seconds")
        items.append(
            f'<li><a href="notebooks/{html.escape(path.stem)}.html">{html.escape(title)}</a>'
            + (f", {took:.0f} s" if took is not None else "")
            + (" (saved before it last ran)" if _is_outdated(path, manifest) else "")
            + "</li>"
        )
    return f"<ul>{''.join(items)}</ul>"


def _joined(outputs: list) -> list:
    """Outputs with the pieces of one stream put together: a slow bar comes in many."""
    joined: list = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    for output in (o for o in joined if o.output_type == "stream"):
        output.text = last_states(output.text)
    return joined


def last_states(text: str) -> str:
    """What a terminal would show in the end: of a progress bar, its last state only."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def _facts(manifest: dict, scores: dict) -> str:
    hardware, settings = manifest["hardware"], manifest["settings"]
    memory = hardware["memory_bytes"]
    facts = {
        "kit": f"{manifest['kit']['version']}, commit {manifest['kit']['commit'] or 'unknown'}",
        "made": manifest["files"]["scores.json"]["made_at"],
        "settings": ", ".join(f"{k}={v}" for k, v in settings.items() if v != ""),
        "SQuAD step": _squad_step(scores.get("squad_step") or {}),
        "training rows": scores["train_pairs"],
        "seconds": ", ".join(f"{k} {v:.0f}" for k, v in scores["seconds"].items()),
        "machine": f"{hardware['cpu']}, {hardware['cores']} cores, "
        f"{memory / 2**30:.0f} GiB, GPU: {', '.join(hardware['gpus'] or []) or 'none'}",
        "packages": f"Python {manifest['python']}, "
        + ", ".join(f"{k} {v}" for k, v in manifest["packages"].items() if v),
        "files": "every file with its SHA-256 is in manifest.json; reproduce.sh repeats the run",
    }
    rows = "".join(
        f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>"
        for k, v in facts.items()
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def _squad_step(step: dict) -> str:
    if not step:
        return "none"
    text = f"{step['train_questions']} questions, {step['epochs']} epochs"
    judged = step["judged"]
    if judged:
        text += f"; EM {100 * judged['em']:.1f}, F1 {100 * judged['f1']:.1f} "
        text += f"on {judged['questions']} others"
    return text
