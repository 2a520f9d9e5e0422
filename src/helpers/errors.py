"""What went wrong with each question, as a table, and one question's snippets as HTML.

The cause of an error is decided by the rules of ``CAUSES``, tried in order: the first that fits
counts. Nothing here needs a model, only its n-best lists, so a saved ``nbest`` file will do.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from helpers.bioasq import Question, write_text
from helpers.metrics import hit_rank, lower
from helpers.spans import Span, find_spans
from helpers.squad import Example

KEPT = 5  # answers of a question that count
RIGHT, LATE, WRITING, NONE = "right", "right at 2-5", "writing", "no snippet holds it"
BOUNDARY, OUTVOTED, BELOW, NOT_FOUND = "boundary", "outvoted", "ranked below 5", "not found"
# In the order in which they are tried. An "answer" is one of the five, a "gold" any synonym.
CAUSES: dict[str, str] = {
    RIGHT: "the first answer equals a gold",
    LATE: "the second to fifth answer equals a gold",
    WRITING: "one of the five equals a gold but for accents, punctuation, hyphens, blanks, "
    "articles, a plural or possessive s, or a Greek letter written as its name",
    NONE: "no snippet contains a gold word for word: extraction cannot give it",
    BOUNDARY: "the first answer and a gold share words: one is cut too long or too short",
    OUTVOTED: "a gold was the best span of one snippet, but other texts won the merge",
    BELOW: "a gold is in the n-best of a snippet, but never its best, and not among the five",
    NOT_FOUND: "a snippet contains a gold, yet no n-best does",
}
_GREEK = {  # "ς" is named "... FINAL SIGMA", and Unicode's lambda lacks its b
    letter: unicodedata.name(letter).rsplit(" ", 1)[1].lower().replace("lamda", "lambda")
    for letter in "αβγδεζηθικλμνξοπρσςτυφχψω"
}
_GREEK_LETTER = re.compile("|".join(_GREEK))
_WORD = re.compile(r"\d+(?:\.\d+)*|[^\W\d_]+")
_GOLD_STYLE = "font-weight:bold;text-decoration:underline;text-decoration-thickness:2px"
_BOX_STYLE = "border:2px solid #b4541a;border-radius:3px;padding:0 2px"


def table(
    questions: Sequence[Question],
    examples: Sequence[Example],
    candidates: Sequence[Sequence],
    ranked: Mapping[str, Sequence[tuple[str, float]]],
    batch: str = "",
) -> pd.DataFrame:
    """One row per question of a golden file.

    ``candidates[i]`` is the n-best of ``examples[i]``, best first: objects with text, start, end
    and probability. ``ranked`` is what ``prediction.rank_answers`` made of them. Columns: id,
    batch, question, gold (the first synonym), synonyms (all, a tuple), answer (the first, "" when
    there is none), score, rank (of the first gold among the five, 0 when none is), snippets,
    with_answer (how many of them hold a gold), opinions (different best spans), cause.
    """
    pairs = _by_question(examples, candidates)
    rows = []
    for question in questions:
        golds = question.synonyms()
        found = pairs.get(question.id, [])
        best = list(ranked.get(question.id, ()))[:KEPT]
        answers = [text for text, _ in best]
        holding = [gold_spans(example.context, golds) for example, _ in found]
        rows.append(
            {
                "id": question.id,
                "batch": batch,
                "question": question.body,
                "gold": golds[0] if golds else "",
                "synonyms": golds,
                "answer": answers[0] if answers else "",
                "score": float(best[0][1]) if best else 0.0,
                "rank": hit_rank(answers, golds),
                "snippets": len(found),
                "with_answer": sum(map(bool, holding)),
                "opinions": len({lower(nbest[0].text) for _, nbest in found if nbest}),
                "cause": cause(
                    golds, answers, [e.context for e, _ in found], [n for _, n in found]
                ),
            }
        )
    return pd.DataFrame(rows)


def cause(
    golds: Sequence[str],
    answers: Sequence[str],
    contexts: Sequence[str],
    candidates: Sequence[Sequence],
) -> str:
    """The first of ``CAUSES`` that fits one question with its ranked answers and its snippets."""
    rank = hit_rank(answers[:KEPT], golds)
    if rank:
        return RIGHT if rank == 1 else LATE
    plain_golds = {plain(gold) for gold in golds} - {""}
    if any(plain(answer) in plain_golds for answer in answers[:KEPT]):
        return WRITING
    holding = [gold_spans(context, golds) for context in contexts]
    if not any(holding):
        return NONE
    if answers and _shares_words(answers[0], golds, contexts, holding):
        return BOUNDARY
    wanted = {lower(gold.strip()) for gold in golds}
    if any(nbest and lower(nbest[0].text) in wanted for nbest in candidates):
        return OUTVOTED
    if any(lower(candidate.text) in wanted for nbest in candidates for candidate in nbest):
        return BELOW
    return NOT_FOUND


def gold_spans(context: str, golds: Iterable[str]) -> list[Span]:
    """Where golds stand in a context by the strict rule, blanks at a gold's edges aside."""
    return find_spans(context, [gold.strip() for gold in golds])


def words(text: str) -> list[str]:
    """The words of a text in lower case, without accents, articles and a plural or possessive s.

    Letters and digits are separate words and a Greek letter is its name, so "IL6Rα" gives
    il, 6, r, alpha. "a" is an article at the start only: "vitamin A" keeps its last word.
    """
    text = unicodedata.normalize("NFKD", text).casefold()
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"['’]s\b", "", text)
    text = _GREEK_LETTER.sub(lambda letter: f" {_GREEK[letter[0]]} ", text)
    found = [word for word in _WORD.findall(text) if word != "the"]
    if found[:1] in (["a"], ["an"]):
        del found[0]
    return [w[:-1] if len(w) > 3 and w[-1] == "s" and w[-2] not in "sui" else w for w in found]


def plain(text: str) -> str:
    """``words`` written as one, so that blanks and hyphens do not matter: "TNF-α" is "tnfalpha".

    Two numbers stay apart: "1-2" is not "12".
    """
    return re.sub(r"(?<!\d) | (?!\d)", "", " ".join(words(text)))


def summary(df: pd.DataFrame) -> pd.DataFrame:
    """How many questions of each batch have each cause, all together, and their share in percent.

    Index: every cause in the rule's order, also those without a question.
    """
    counts = pd.crosstab(df["cause"], df["batch"]).reindex(list(CAUSES), fill_value=0)
    counts.columns.name = None
    total = counts.sum(axis=1)
    return counts.assign(all=total, percent=(100 * total / max(len(df), 1)).round(1))


def worst(df: pd.DataFrame, n: int = 10, answerable: bool = True) -> pd.DataFrame:
    """The ``n`` wrong first answers with the highest scores.

    ``answerable``: only where some snippet holds a gold, so that there is something to compare.
    """
    wrong = df[(df["rank"] != 1) & ((df["with_answer"] > 0) | (not answerable))]
    return wrong.sort_values("score", ascending=False, kind="stable").head(n)


def telling(df: pd.DataFrame) -> dict:
    """The row to look at in detail: an answerable question whose few snippets disagree."""
    order = df.assign(_clear=df["with_answer"] > 0, _many=df["opinions"].clip(upper=3))
    by = ["_clear", "_many", "snippets"]
    return df.loc[order.sort_values(by, ascending=[False, False, True]).index[0]].to_dict()


def save(df: pd.DataFrame, path: str | Path) -> Path:
    """Write the table as CSV, synonyms joined by " | "."""
    flat = df.assign(synonyms=df["synonyms"].map(" | ".join))
    return write_text(path, flat.to_csv(index=False, lineterminator="\n"))


def highlight(context: str, gold: Iterable, predicted=None) -> str:
    """A context as HTML: golds bold and underlined, the prediction in a box. See ``LEGEND``.

    Spans are objects with start and end, in characters. They may overlap and touch.
    """
    golden = [False] * len(context)
    for span in gold:
        golden[span.start : span.end] = [True] * len(golden[span.start : span.end])
    low, high = (predicted.start, predicted.end) if predicted else (0, 0)
    parts = (
        _golden(context[:low], golden[:low]),
        _golden(context[low:high], golden[low:high]),
        _golden(context[high:], golden[high:]),
    )
    return (
        parts[0]
        + (f'<span style="{_BOX_STYLE}">{parts[1]}</span>' if high > low else "")
        + parts[2]
    )


def _golden(text: str, golden: Sequence[bool]) -> str:
    pieces, start = [], 0
    for end in range(1, len(text) + 1):
        if end == len(text) or golden[end] != golden[start]:
            piece = escape(text[start:end])
            pieces.append(f'<b style="{_GOLD_STYLE}">{piece}</b>' if golden[start] else piece)
            start = end
    return "".join(pieces)


LEGEND = (
    f'<p>How to read it: <b style="{_GOLD_STYLE}">bold and underlined</b> is a gold answer, '
    f'<span style="{_BOX_STYLE}">boxed</span> is the model\'s best span in this snippet, '
    f'<span style="{_BOX_STYLE}"><b style="{_GOLD_STYLE}">both</b></span> is where they meet.</p>'
)


def case_html(
    row: Mapping, examples: Sequence[Example], candidates: Sequence[Sequence], most: int = 4
) -> str:
    """One row of the table with its snippets, each with its own best span and probability.

    Equal snippets are shown once. Of more than ``most``, those that hold a gold or speak for the
    first answer come first and the rest is counted.
    """
    shown: dict[str, tuple[str, int]] = {}
    pairs = _by_question(examples, candidates).get(row["id"], [])
    spoken = lower(row["answer"])
    spans = {example.context: gold_spans(example.context, row["synonyms"]) for example, _ in pairs}
    pairs.sort(key=lambda p: not (spans[p[0].context] or (p[1] and lower(p[1][0].text) == spoken)))
    for example, nbest in pairs:
        times = shown.get(example.context, ("", 0))[1]
        best = nbest[0] if nbest else None
        marked = highlight(example.context, spans[example.context], best)
        chance = f"{best.probability:.0%}" if best else "no span"
        shown[example.context] = (f"<b>{chance}</b>&ensp;{marked}", times + 1)
    items = [
        f'<li style="margin:4px 0">{text}{f" <i>(given {n} times)</i>" if n > 1 else ""}</li>'
        for text, n in list(shown.values())[:most]
    ]
    more = len(shown) - len(items)
    facts = (("answer", row["answer"] or "(none)"), ("gold", " | ".join(row["synonyms"])))
    told = "; ".join(f"{name}: <b>{escape(value)}</b>" for name, value in facts)
    return (
        '<div style="margin:0 0 14px;padding:6px 12px;border-left:3px solid #6f93b3">'
        f"<b>{escape(row['question'])}</b><br>{told}<br>"
        f"{escape(row['batch'])}, score {row['score']:.2f}, cause: <i>{escape(row['cause'])}</i>"
        f'<ul style="margin:4px 0 0;line-height:1.7">{"".join(items) or "<li>no snippet</li>"}</ul>'
        f"{f'<i>and {more} more</i>' if more > 0 else ''}</div>"
    )


def cases_html(
    rows: pd.DataFrame, examples: Sequence[Example], candidates: Sequence[Sequence], most: int = 4
) -> str:
    """The legend and ``case_html`` of every row."""
    cases = [case_html(row, examples, candidates, most) for row in rows.to_dict("records")]
    return LEGEND + ("".join(cases) or "<p>No such case.</p>")


def nbest_html(nbest: Sequence, most: int = 5) -> str:
    """The first candidates of one n-best as a table with a bar for each probability."""
    rows = [
        f'<tr><td style="text-align:left">{escape(c.text)}</td><td>{c.probability:.1%}</td>'
        f'<td style="width:210px;text-align:left"><div style="height:11px;background:#1f3b57;'
        f'width:{max(200 * c.probability, 1):.0f}px"></div></td></tr>'
        for c in nbest[:most]
    ]
    head = "<tr><th>answer</th><th>probability</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table>" if rows else "<p>No span found.</p>"


def _by_question(examples: Sequence[Example], candidates: Sequence[Sequence]) -> dict[str, list]:
    pairs: dict[str, list] = {}
    for example, nbest in zip(examples, candidates, strict=True):
        pairs.setdefault(example.question_id, []).append((example, nbest))
    return pairs


def _shares_words(answer: str, golds, contexts, holding) -> bool:
    said = words(answer)
    if any(_within(words(gold), said) or _within(said, words(gold)) for gold in golds):
        return True
    return any(
        ours.start < gold.end and gold.start < ours.end
        for context, spans in zip(contexts, holding, strict=True)
        for ours in find_spans(context, [answer])
        for gold in spans
    )


def _within(short: Sequence[str], long: Sequence[str]) -> bool:
    """Whether one list of words stands in the other as a whole."""
    n = len(short)
    return n > 0 and any(long[i : i + n] == short for i in range(len(long) - n + 1))
