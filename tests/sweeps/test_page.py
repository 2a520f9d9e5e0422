"""The page of a sweep: scores, figures, links, escaped text, and a table that can be sorted."""

import json

import pytest
from browser import chromium
from bs4 import BeautifulSoup

from helpers.config import from_parameters
from helpers.run.folder import Run
from helpers.sweeps import notebooks, page, plan
from helpers.sweeps.sweep import Outcome

EVIL = "</td><script>window.hacked = 1</script> $x$ & \u202e"


@pytest.fixture
def written(finished, tmp_path, monkeypatch):
    """Write the page of a sweep of two learning rates with two seeds, one of which failed."""
    monkeypatch.setattr(notebooks, "check", lambda given: (from_parameters(**given), given))
    grid = {"learning_rate": [1e-4, 2e-4], "seed": [0, 1]}
    fields = {"name": "s", "profile": "bioasq-cpu", "settings": {"bioasq_dir": "/my/bioasq"}}
    sweep = plan.make_sweep({**fields, "grid": grid})
    for n, run in enumerate(sweep.runs[:3]):
        changed = {name: getattr(run.settings, name) for name in ("runs_dir", "learning_rate")}
        folder = finished(run.label, run.settings.seed, 40 + n, "bioasq-cpu", **changed)
        assert folder == run.folder
        scores = json.loads((folder / "scores.json").read_text())
        values = {"sacc": 0.25 + n / 100, "mrr": 0.3, "lacc": 0.4}
        (folder / "scores.json").write_text(json.dumps({**scores, "weighted": values}))
        (folder / "index.html").write_text("the report")
        (folder / "training").mkdir()
        rows = "".join(f"{k},{3 / k},1e-4,{k}\n" for k in range(1, 31))
        (folder / "training/history.csv").write_text("step,loss,learning_rate,seconds\n" + rows)
        dev = [{"step": 0, "mrr": 0.1}, {"step": 30, "mrr": 0.3 + n / 10}]
        (folder / "training/dev_history.json").write_text(json.dumps(dev))
    failed = Run(sweep.runs[3].folder, sweep.runs[3].settings)
    failed.path("notebooks/03_fine_tune.ipynb").write_text("{}")
    outcomes = [Outcome(run.label, "finished", 600.0 * (3 - n)) for n, run in enumerate(sweep.runs)]
    outcomes[3] = Outcome(sweep.runs[3].label, "failed", reason=EVIL)
    return sweep, outcomes, page.write(sweep, outcomes)


def test_the_page_has_the_scores_the_figures_and_links_to_every_run(written):
    sweep, _, path = written
    assert path == sweep.folder / "index.html"
    soup = BeautifulSoup(path.read_text(), "html.parser")
    heads = [cell.text for cell in soup.select("thead th")]
    assert heads == ["run", "learning_rate", "seed", "state", "SAcc", "MRR", "LAcc", "minutes",
                     "notebooks", "why it failed"]  # fmt: skip
    rows = [[cell.text.strip() for cell in row.select("td")] for row in soup.select("tbody tr")]
    assert rows[1] == ["learning_rate-0.0001_seed-1", "0.0001", "1", "finished", "26.00", "30.00",
                       "40.00", "20.00", "", ""]  # fmt: skip
    assert rows[3][3:8] == ["failed", "", "", "", ""]
    links = [link["href"] for link in soup.select("tbody a")]
    assert len(links) == 4 and all((sweep.folder / link).is_file() for link in links)
    captions = [figure.text for figure in soup.select("figcaption")]
    assert len(captions) == 2 and captions[0].startswith("Each configuration")
    assert all(img["alt"] and img["src"].startswith("data:") for img in soup.select("img"))
    assert soup.select("tbody script") == [] and EVIL in soup.text


def test_the_summary_for_the_terminal_has_a_line_per_run(written):
    lines = page.summary(*written[:2]).splitlines()
    assert len(lines) == 5 and lines[1].split()[-5:] == [
        "finished",
        "25.00",
        "30.00",
        "40.00",
        "30.00",
    ]


def test_a_sweep_until_notebook_03_shows_dev_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "check", lambda given: (from_parameters(**given), given))
    sweep = plan.make_sweep({"name": "s", "until": "03"})
    path = sweep.runs[0].folder / "model" / "dev_scores.json"
    path.parent.mkdir(parents=True)
    scores = {"loss": 1.5, "sacc": 0.5, "mrr": 0.6, "lacc": 0.7, "pair_em": 0.4}
    path.write_text(json.dumps({"untrained": {}, "fine_tuned": scores}))
    (row,) = page.table(sweep, [Outcome("run", "finished")]).to_dict("records")
    assert row["dev loss"] == 1.5 and row["dev MRR"] == 60.0


def test_a_click_sorts_the_table_with_empty_cells_last(written, tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        browser.open(written[2])
        cells = "[...document.querySelectorAll('tbody tr')].map(r => r.cells[7].textContent)"
        head = "document.querySelectorAll('th[aria-sort]')[7]"
        assert browser.run(cells) == ["30.00", "20.00", "10.00", ""]
        browser.run(f"{head}.firstChild.click()")
        assert browser.run(cells) == ["10.00", "20.00", "30.00", ""]
        assert browser.run(f"{head}.getAttribute('aria-sort')") == "ascending"
        browser.run(f"{head}.firstChild.click()")
        assert browser.run(cells) == ["30.00", "20.00", "10.00", ""]
        assert not browser.run("Boolean(window.hacked)")
