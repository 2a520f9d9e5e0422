"""Write a static website: the executed notebooks of a run, its report, and the documentation.

The website has the same folders as the repository, so the relative links between the files also
work between the pages. The pages need neither a server nor a network connection.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath

import jinja2
from nbformat.v4 import new_markdown_cell, new_notebook

from helpers.config import ROOT, InputError
from helpers.data.bioasq import read_json
from helpers.io import write_text
from helpers.run.folder import MANIFEST
from helpers.run.report import notebook_title, render, render_notebook

PAGES = ("README.md", "notebooks/README.md", "docs/*.md", "docs/*/*.md", "docker/README.md")
REPORT = ("index.html", "explorer.html")  # self-contained pages of a run
_IMAGES = (".png", ".svg", ".jpg")
_INDEX = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>BioMegatron BioASQ kit</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
a{color:#1f3b57}li{margin:.3rem 0}
</style></head><body>
<h1>BioMegatron BioASQ kit</h1>
<p>Six notebooks that turn a pretrained language model into a scored question-answering system.
These pages show them with their results, on teaching data (profile
<code>{{ manifest.profile }}</code>, kit version {{ manifest.kit.version }}, commit
{{ (manifest.kit.commit or "unknown")[:12] }}). To run the notebooks yourself, follow the
<a href="README.html">README</a>.</p>
{% for title, items in lists.items() %}
<h2>{{ title }}</h2><ul>
{% for link, text in items %}<li><a href="{{ link }}">{{ text }}</a></li>
{% endfor %}</ul>
{% endfor %}
</body></html>
"""


def make(run: Path, to: Path) -> Path:
    """Write the website of a finished run into the folder ``to``; return its first page.

    Replaces an earlier website. Raises ``InputError`` if ``to`` contains anything else, if the run
    is not finished, or if it read the user's own BioASQ files, which may not be published.
    """
    notebooks = _notebooks(run)
    if to.exists() and any(to.iterdir()) and not (to / "index.html").is_file():
        raise InputError(f"{to}: contains files but no website; choose another folder")
    shutil.rmtree(to, ignore_errors=True)
    pages = [path for form in PAGES for path in sorted(ROOT.glob(form))]
    known = {path.relative_to(ROOT).as_posix() for path in pages}
    known |= {f"notebooks/{path.name}" for path in notebooks}
    for path in notebooks:
        name = f"notebooks/{path.name}"
        page = render_notebook(path, notebook_title(path), "../index.html", _linker(name, known))
        write_text((to / name).with_suffix(".html"), page)
    for path in pages:
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        notebook = new_notebook(cells=[new_markdown_cell(text)])
        back = os.path.relpath("index.html", PurePosixPath(name).parent)
        page = render(notebook, _heading(text) or path.stem, back, _linker(name, known))
        write_text((to / name).with_suffix(".html"), page)
    for image in (path for path in (ROOT / "docs").rglob("*") if path.suffix in _IMAGES):
        _copy(image, to / image.relative_to(ROOT))
    for name in (name for name in REPORT if (run / name).is_file()):
        # In the run folder, the report is called index.html, like the first page here.
        _copy(run / name, to / name.replace("index", "report"))
    return write_text(to / "index.html", _index(run, notebooks, pages))


def _notebooks(run: Path) -> list[Path]:
    found = sorted((run / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not found or not (run / "scores.json").is_file():
        raise InputError(f"{run}: there is no finished run here; create one with make walkthrough")
    if read_json(run / MANIFEST)["settings"]["bioasq_dir"]:
        raise InputError(
            f"{run}: this run shows your own BioASQ files, which you may not publish; choose a "
            "run of the profile mini"
        )
    return found


def _linker(page: str, known: set[str]):
    """Return a function that translates the relative links of one page of the repository."""

    def translate(link: str) -> str | None:
        path, hash_sign, anchor = link.partition("#")
        target = os.path.normpath(PurePosixPath(page).parent / path)
        if target in known:
            return str(PurePosixPath(path).with_suffix(".html")) + hash_sign + anchor
        return link if path.endswith(_IMAGES) and (ROOT / target).is_file() else None

    return translate


def _heading(text: str) -> str:
    """Return the title of a page, or "" if it has none because it only supplies a table."""
    first = text.partition("\n")[0]
    return first.removeprefix("# ") if first.startswith("# ") else ""


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _index(run: Path, notebooks: list[Path], pages: list[Path]) -> str:
    reports = {"index.html": "Scores, figures and settings of this run",
               "explorer.html": "All questions with their answers and snippets"}  # fmt: skip
    titles = {path: _heading(path.read_text("utf-8")) for path in pages}
    lists = {
        "Notebooks": [(f"notebooks/{path.stem}.html", notebook_title(path)) for path in notebooks],
        "Results of the run": [
            (name.replace("index", "report"), title)
            for name, title in reports.items()
            if (run / name).is_file()
        ],
        "Documentation": [
            (path.relative_to(ROOT).with_suffix(".html").as_posix(), title)
            for path, title in titles.items()
            if title
        ],
    }
    template = jinja2.Environment(autoescape=True).from_string(_INDEX)
    return template.render(manifest=read_json(run / MANIFEST), lists=lists)
