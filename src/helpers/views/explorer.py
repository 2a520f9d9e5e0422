"""The error explorer: one self-contained page that shows every test question of a run.

The page works from disk and without a network. It contains its data as compressed JSON, and its
script inserts every text as text, never as HTML. A notebook shows the same page in a frame.

The page needs only files of the run: the n-best lists, the answers and the error table, and the
golden files that the manifest names. The probability that an answer starts at a position is the sum
of the probabilities of all spans in the n-best list that start there; ends work the same way.
"""

from __future__ import annotations

import base64
import gzip
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import jinja2
import pandas as pd
from IPython.display import HTML

from helpers.config import InputError
from helpers.data.bioasq import Question, read_answers, read_json, read_questions
from helpers.data.mini import moved
from helpers.data.spans import fold, gold_spans, search_terms
from helpers.data.squad import by_question
from helpers.io import write_text
from helpers.model.decoding import rank_answers, read_nbest
from helpers.run.folder import MANIFEST
from helpers.scoring.metrics import hit_rank, lower

PAGE = "explorer.html"
# The columns of errors.csv that the page can filter by, and their names on the page.
AXES = {"gold_place": "where the gold answer is", "failure": "why the first answer is wrong"}
_NO_FAILURE = "(it is right)"  # instead of an empty failure
_TEMPLATE = Path(__file__).with_name("explorer.html.jinja")
_SHOWN = 0.001  # less probable spans have no visible bar
_LARGEST_PANEL = 5_000_000  # characters; a notebook with a larger output opens slowly


@dataclass(frozen=True)
class _System:
    """The answers of one system. ``pairs`` and ``labels`` may be empty."""

    name: str
    answers: Mapping[str, Mapping[str, Sequence[str]]]  # batch -> question id -> ranked answers
    pairs: Mapping[str, Mapping[str, list]]  # batch -> question id -> (example, n-best list) pairs
    axes: Sequence[str]  # columns of errors.csv
    labels: Mapping[tuple[str, str], list[str]]  # (batch, question id) -> one label per axis
    merge: str


def page(run: str | Path, other: str | Path | None = None) -> str:
    """Return the page for a run folder after notebook 04, as HTML.

    ``other`` is a second system to compare with: another run folder, or a folder with one answer
    file per batch, such as ``baselines/untrained``. Raises ``InputError`` if a file is missing or
    if ``errors.csv`` belongs to other answers.
    """
    return render(content(run, other))


def render(found: Mapping) -> str:
    """Return the page that shows the result of ``content``."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    # Base64 cannot contain "</script>". The fixed timestamp gives equal runs identical pages.
    packed = base64.b64encode(gzip.compress(json.dumps(found).encode("ascii"), mtime=0)).decode()
    return environment.from_string(_TEMPLATE.read_text("utf-8")).render(
        run=found["run"], other=found["other"], data=packed
    )


def write(run: str | Path, other: str | Path | None = None) -> Path:
    """Write the page as ``explorer.html`` into the run folder; see ``page``."""
    return write_text(Path(run) / PAGE, page(run, other))


def panel(run: str | Path, other: str | Path | None = None, height: int = 780) -> HTML:
    """Return the page in a frame of ``height`` pixels, for a running or a saved notebook.

    The frame cannot reach the notebook around it. If the page is too large for a notebook, the
    result only names the file to open.
    """
    where = f"<code>{escape(str(Path(run) / PAGE))}</code>"
    if len(document := page(run, other)) > _LARGEST_PANEL:
        return HTML(f"<p>The explorer is too large for a notebook. Open {where}.</p>")
    return HTML(
        f'<div><iframe title="Error explorer" sandbox="allow-scripts allow-popups" '
        f'style="width:100%;height:{height}px;border:1px solid #999" '
        f'srcdoc="{escape(document)}"></iframe>'
        f"<p>The same page is in {where}. If you see no frame here, open that file.</p></div>"
    )


def content(run: str | Path, other: str | Path | None = None) -> dict:
    """Return everything that the page shows, as JSON values.

    All offsets are character positions (code points), and all probabilities are from 0 to 1. The
    spans of a snippet are one string: start, end and probability of the first span, then of the
    second, ….
    """
    batches = _batches(Path(run))
    ours = _read(Path(run), list(batches))
    theirs = _read(Path(other), list(batches)) if other is not None else None
    if theirs and not theirs.answers:
        raise InputError(
            f"{other}: has no answers for {', '.join(batches)}; specify another folder"
        )
    rows = [
        _row(question, batch, ours, theirs)
        for batch, questions in batches.items()
        for question in questions
    ]
    return {
        "run": ours.name,
        "other": theirs.name if theirs else None,
        "merge": ours.merge,
        "axes": [AXES[column] for column in ours.axes],
        "questions": rows,
    }


def _manifest(folder: Path) -> dict:
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder}: has no {MANIFEST}; specify the folder of a run")
    return read_json(folder / MANIFEST)


def _batches(folder: Path) -> dict[str, list[Question]]:
    """Return the golden questions of each test batch."""
    data = _manifest(folder).get("notes", {}).get("data")
    if not data:
        raise InputError(f"{folder}: has no test batches yet; run notebooks 00 to 04 first")
    return {
        batch: read_questions(moved(gold), answers="required")
        for batch, gold in zip(data["batches"], data["golds"], strict=True)
    }


def _read(folder: Path, batches: Sequence[str]) -> _System:
    """Read the answers of a run folder, or of a folder that contains only answer files."""
    is_run = (folder / "answers").is_dir()
    paths = {
        batch: (folder / "answers" if is_run else folder) / f"{batch}.json" for batch in batches
    }
    answers = {batch: read_answers(path)[0] for batch, path in paths.items() if path.is_file()}
    if not is_run:
        return _System(folder.name, answers, {}, (), {}, "")
    pairs = {}
    for batch in answers:
        rows = read_nbest(folder / "nbest" / f"{batch}.jsonl")
        pairs[batch] = by_question(*zip(*rows, strict=True)) if rows else {}
    made = _manifest(folder)
    merge = made.get("notes", {}).get("answers", {}).get("settings", made["settings"])["merge"]
    return _System(folder.resolve().name, answers, pairs, *_labels(folder, answers), merge)


def _labels(folder: Path, answers: Mapping[str, Mapping[str, Sequence[str]]]) -> tuple:
    """Return the axes in ``errors.csv`` and their labels, and check that they fit the answers."""
    path = folder / "errors.csv"
    if not path.is_file():
        return (), {}
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    axes = [column for column in AXES if column in table]
    labels = {}
    for row in table.to_dict("records"):
        first = [*answers.get(row["batch"], {}).get(row["id"], ()), ""][0]
        if row["answer"].split() != first.split():  # the CSV format may change line breaks
            raise InputError(
                f"{path}: does not belong to the answers in this run ({row['id']}); "
                "run notebook 04_error_analysis again"
            )
        labels[row["batch"], row["id"]] = [row[axis] or _NO_FAILURE for axis in axes]
    return axes, labels


def _row(question: Question, batch: str, ours: _System, theirs: _System | None) -> dict:
    """Return one question with the results of one or both systems."""
    golds, pairs = question.synonyms(), ours.pairs.get(batch, {}).get(question.id, [])
    contexts = list(dict.fromkeys(example.context for example, _ in pairs))
    row = {"id": question.id, "batch": batch, "question": question.body, "golds": golds}
    row |= _result(question, batch, ours, contexts)
    best = {}
    if theirs and batch in theirs.answers:
        row["other"] = _result(question, batch, theirs, contexts)
        found = theirs.pairs.get(batch, {}).get(question.id, [])
        best = {e.context: (n[0].text, round(n[0].probability, 4)) for e, n in found if n}
    row["snippets"] = []
    for context in contexts:
        same = [(example, nbest) for example, nbest in pairs if example.context == context]
        example, nbest = same[0]
        spans, inside = _golds(context, golds)
        snippet = {"text": context, "document": example.document, "times": len(same)}
        snippet |= {"golds": spans, "inside": inside, "other": best.get(context)}
        # In one string, because a browser reads a million small arrays slowly.
        snippet["spans"] = " ".join(
            f"{c.start} {c.end} {round(c.probability, 4)}"
            for n, c in enumerate(nbest)
            if not n or c.probability >= _SHOWN
        )
        row["snippets"].append(snippet)
    return row


def _result(question: Question, batch: str, system: _System, contexts: Sequence[str]) -> dict:
    """Return a system's rank, labels and answers, each with the contribution of every snippet.

    A part is (index in ``contexts``, probability). A context that only this system read has the
    index -1. An answer without n-best lists has no score.
    """
    answers = list(system.answers.get(batch, {}).get(question.id, ()))
    golds, places = (
        {lower(gold) for gold in question.synonyms()},
        {c: i for i, c in enumerate(contexts)},
    )
    groups: dict[str, list] = {}
    for example, nbest in system.pairs.get(batch, {}).get(question.id, []):
        groups.setdefault(example.context, []).append((example, nbest))
    votes = []
    for context, found in groups.items():
        (ranking,) = rank_answers(
            *zip(*found, strict=True), merge=system.merge, keep=sys.maxsize
        ).values()
        given = {text.lower(): score for text, score in ranking}
        votes.append((places.get(context, -1), given))
    shown = []
    for text in answers:
        parts = [(n, round(given[text.lower()], 4)) for n, given in votes if text.lower() in given]
        scores = [p for _, p in parts]
        score = (max if system.merge == "max" else sum)(scores) if parts else None
        parts = [(n, p) for n, p in parts if p >= _SHOWN]
        shown.append({"text": text, "right": lower(text) in golds, "score": score, "parts": parts})
    labels = system.labels.get((batch, question.id), [])
    return {"rank": hit_rank(answers, question.synonyms()), "labels": labels, "answers": shown}


def _golds(context: str, golds: Sequence[str]) -> tuple[list[tuple[int, int]], bool]:
    """Return the gold answers in a context, and whether they occur only inside words."""
    forms = {form for gold in golds for form in (gold, " ".join(gold.split()))}
    if found := gold_spans(context, forms):
        return [(span.start, span.end) for span in found], False
    folded, inside = fold(context), set()
    for term in search_terms(forms):
        start = folded.find(term)
        while start >= 0:
            inside.add((start, start + len(term)))
            start = folded.find(term, start + 1)
    return sorted(inside), bool(inside)
