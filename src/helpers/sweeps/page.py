"""The page of a sweep: one self-contained file with a table, figures and links to all runs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import jinja2
import pandas as pd

from helpers.config import InputError
from helpers.data.bioasq import read_json
from helpers.io import write_text
from helpers.model import tracking
from helpers.run import compare
from helpers.run.scores import THIS_RUN
from helpers.scoring.metrics import MEASURES
from helpers.sweeps.plan import Planned, Sweep
from helpers.sweeps.sweep import Outcome

_DEV = {"loss": "dev loss", "sacc": "dev SAcc", "mrr": "dev MRR", "lacc": "dev LAcc"}


def summary(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    """Return the table of the sweep as text, for a terminal or a log."""
    return table(sweep, outcomes).to_string(index=False, na_rep="", float_format="{:.2f}".format)


def table(sweep: Sweep, outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return one row per run: its settings, its state, its scores in percent, and its minutes.

    The scores are those of the test batches or, if the sweep stops before them, the dev scores.
    """
    rows = []
    for run, outcome in zip(sweep.runs, outcomes, strict=True):
        row = {"run": run.label} | {name: _shown(value) for name, value in run.varied.items()}
        row |= {"state": outcome.state} | _scores(run)
        row["minutes"] = outcome.seconds / 60 if outcome.seconds else None
        rows.append(row)
    return pd.DataFrame(rows)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _scores(run: Planned) -> dict[str, float]:
    scores, dev = run.folder / "scores.json", run.folder / "model" / "dev_scores.json"
    if scores.is_file():
        found = read_json(scores)["weighted"]
        return {name: 100 * found[name.lower()] for name in MEASURES}
    found = read_json(dev).get("fine_tuned") if dev.is_file() else {}
    scales = {name: 1 if name == "loss" else 100 for name in _DEV}
    return {_DEV[name]: scale * found[name] for name, scale in scales.items() if name in found}


def dev_curves(sweep: Sweep, setting: str) -> pd.DataFrame:
    """Read the dev scores during training from the runs' wandb logs.

    Returns one row per evaluation, with the columns ``setting``, ``step`` and ``dev_…``. Raises
    ``InputError`` if a run has no log, for example because it held out no questions.
    """
    curves = []
    for run in sweep.runs:
        dev = tracking.read_log(run.folder / "training").filter(like="dev_").dropna().round(4)
        if dev.empty:
            raise InputError(
                f"{run.folder}: has no dev scores; evaluate_every and dev_fraction must not be 0"
            )
        curves.append(dev.reset_index().assign(**{setting: run.varied[setting]}))
    together = pd.concat(curves, ignore_index=True)
    return together.set_index(setting).reset_index()


def write(sweep: Sweep, outcomes: Sequence[Outcome]) -> Path:
    """Write ``index.html`` into the folder of the sweep; return its path."""
    shown = table(sweep, outcomes)
    rows = []
    for run, outcome, (_, cells) in zip(sweep.runs, outcomes, shown.iterrows(), strict=True):
        report = run.folder / "index.html"
        notebooks = sorted((run.folder / "notebooks").glob("*.ipynb"))
        links = [(_address(sweep, path), path.stem[:2]) for path in notebooks]
        first = _address(sweep, report) if report.is_file() else ""
        rows.append({"cells": [_cell(cell) for cell in cells], "report": first,
                     "links": links, "reason": outcome.reason})  # fmt: skip
    folder = Path(__file__).parent
    loader = jinja2.FileSystemLoader(folder)
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("page.html.jinja")
    failed = any(outcome.reason for outcome in outcomes)
    text = template.render(
        name=sweep.name, columns=list(shown), rows=rows, failed=failed, figures=_figures(sweep)
    )
    return write_text(sweep.folder / "index.html", text + "\n")


def _address(sweep: Sweep, path: Path) -> str:
    return quote(path.relative_to(sweep.folder).as_posix())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.2f}"
    return str(value)


def _figures(sweep: Sweep) -> list[tuple[str, str]]:
    """Return (PNG in base64, caption) of the forest plot and of the learning curves."""
    from helpers.views import figures  # importing matplotlib takes a second

    found, shown = [], []
    for run in sweep.runs:
        with suppress(InputError):  # raised if the run is not finished
            found.append((run, compare.read(run.folder)))
    names = {result.configuration: _configuration(run) for run, result in found}
    rows = []
    for members in compare.group([result for _, result in found]):
        row = next(r for r in compare.rows(members) if r["system"] == THIS_RUN)
        rows.append({**row, "name": names[members[0].configuration]})
    if rows:
        caption = (
            "Each configuration: mean over seeds, one tick per seed, 95% interval over questions"
        )
        shown.append((figures.forest(rows, []), caption))
    curves = [(_configuration(run), *_history(run)) for run in sweep.runs]
    if curves := [curve for curve in curves if curve[1]]:
        caption = "Training loss (mean of 20 steps) and dev MRR, one line per run"
        shown.append((figures.run_curves(curves), caption))
    return [(_png(figure), caption) for figure, caption in shown]


def _configuration(run: Planned) -> str:
    """Return what distinguishes a run from the others, apart from its seed."""
    parts = [f"{k} {_shown(v)}" for k, v in run.varied.items() if k != "seed"]
    return ", ".join(parts) or run.settings.profile


def _history(run: Planned) -> tuple[list[float], list[Mapping]]:
    """Return the loss of each step and the dev scores of a run, as far as it has trained."""
    losses, dev = run.folder / "training/history.csv", run.folder / "training/dev_history.json"
    steps = pd.read_csv(losses)["loss"].tolist() if losses.is_file() else []
    return steps, read_json(dev) if dev.is_file() else []


def _png(figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return base64.b64encode(buffer.getvalue()).decode()
