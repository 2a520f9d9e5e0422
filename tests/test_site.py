"""The website: pages that stand alone, links that lead somewhere, a text for every image."""

import json
import re
import shutil

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_markdown_cell, new_notebook
from workshop import site

from helpers.config import InputError
from helpers.run.folder import MANIFEST


@pytest.fixture
def run(tmp_path):
    """A finished run with two notebooks and a report."""
    folder = tmp_path / "runs" / "a"
    (folder / "notebooks").mkdir(parents=True)
    text = "# {} · Start\n\n[next](01_b.ipynb) [term](../docs/glossary.md#span) [code](../Makefile)"
    for name in ("00_a", "01_b"):
        cells = [new_markdown_cell(text.format(name[:2]))]
        nbformat.write(new_notebook(cells=cells), folder / "notebooks" / f"{name}.ipynb")
    (folder / "scores.json").write_text("{}")
    (folder / "index.html").write_text('<a href="notebooks/00_a.html">00</a>')
    manifest = {
        "profile": "mini",
        "kit": {"version": "1", "commit": None},
        "settings": {"bioasq_dir": ""},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def few(monkeypatch):
    """Leave out most of the documentation, to save time."""
    monkeypatch.setattr(site, "PAGES", ("docs/glossary.md",))


def pages(folder):
    return {path: BeautifulSoup(path.read_text(), "html.parser") for path in folder.rglob("*.html")}


def assert_sound(folder):
    """Every link leads to a page and a heading of the website, and every image has a text."""
    found = pages(folder)
    for path, page in found.items():
        assert page.select("[src^=http], link[href^=http], script[src]") == [], path
        for image in page.select("img"):
            assert image.get("alt") and "No description" not in image["alt"], path
            assert image["src"].startswith("data:") or (path.parent / image["src"]).is_file(), path
        for link in page.select("a[href]"):
            name, _, anchor = link["href"].partition("#")
            if re.match("[a-z]+:", name):
                continue
            target = (path.parent / name).resolve() if name else path
            assert target in found, f"{path}: {link['href']}"
            if anchor and "=" not in anchor:  # the script of the explorer reads "id=…"
                assert found[target].find(id=anchor), f"{path}: {link['href']}"


def test_all_links_between_the_pages_and_all_images_work(run, tmp_path):
    first = site.make(run, tmp_path / "site")
    assert_sound(tmp_path / "site")
    listed = [link["href"] for link in pages(tmp_path / "site")[first].select("li a")]
    assert listed[:3] == ["notebooks/00_a.html", "notebooks/01_b.html", "report.html"]
    assert "docs/glossary.html" in listed and "docs/results/benchmarks.html" in listed


def test_a_notebook_links_to_pages_and_not_to_code(run, few, tmp_path):
    site.make(run, tmp_path / "site")
    page = pages(tmp_path / "site")[tmp_path / "site" / "notebooks" / "00_a.html"]
    assert page.title.text == "00 · Start"
    assert {a.text: a.get("href") for a in page.select("main a")} == {
        "next": "01_b.html",
        "term": "../docs/glossary.html#span",
        "code": None,
    }


def test_a_website_is_replaced_and_other_files_are_not(run, few, tmp_path):
    site.make(run, tmp_path / "site")
    (tmp_path / "site" / "old.html").touch()
    site.make(run, tmp_path / "site")
    assert not (tmp_path / "site" / "old.html").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InputError, match="contains files but no website"):
        site.make(run, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_only_a_finished_run_on_teaching_data_is_published(run, few, tmp_path):
    manifest = json.loads((run / MANIFEST).read_text())
    manifest["settings"]["bioasq_dir"] = "/data/bioasq"
    (run / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="your own BioASQ files"):
        site.make(run, tmp_path / "site")
    (run / "scores.json").unlink()
    with pytest.raises(InputError, match="no finished run"):
        site.make(run, tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.notebooks
def test_the_website_of_a_real_run_is_sound(mini_run, tmp_path):
    site.make(mini_run, tmp_path / "site")
    assert_sound(tmp_path / "site")
    images = [image for page in pages(tmp_path / "site").values() for image in page.select("img")]
    assert len(images) > 15
    shutil.rmtree(tmp_path / "site")
