"""What went wrong with each question, as a table; ``views.markup`` shows it in the snippets.

The cause of an error is decided by the rules of ``CAUSES``, tried in order: the first that fits
counts. Nothing here needs a model, only its n-best lists, so a saved ``nbest`` file will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from helpers.data.bioasq import Question
from helpers.data.spans import find_spans, gold_spans, plain, words
from helpers.data.squad import Example, by_question
from helpers.io import write_text
from helpers.scoring.metrics import hit_rank, lower

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


def table(
    questions: Sequence[Question],
    examples: Sequence[Example],
    candidates: Sequence[Sequence],
    ranked: Mapping[str, Sequence[tuple[str, float]]],
    batch: str = "",
) -> pd.DataFrame:
    """One row per question of a golden file.

    ``candidates[i]`` is the n-best of ``examples[i]``, best first: objects with text, start, end
    and probability. ``ranked`` is what ``decoding.rank_answers`` made of them. Columns: id,
    batch, question, gold (the first synonym), synonyms (all, a tuple), answer (the first, "" when
    there is none), score, rank (of the first gold among the five, 0 when none is), snippets,
    with_answer (how many of them hold a gold), opinions (different best spans), cause.
    """
    pairs = by_question(examples, candidates)
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


def summary(df: pd.DataFrame) -> pd.DataFrame:
    """How many questions of each batch have each cause, all together, and their share in percent.

    Index: every cause in the rule's order, also those without a question.
    """
    counts = pd.crosstab(df["cause"], df["batch"]).reindex(list(CAUSES), fill_value=0)
    counts.columns.name = None
    total = counts.sum(axis=1)
    return counts.assign(all=total, percent=(100 * total / max(len(df), 1)).round(1))


def worst(df: pd.DataFrame, n: int = 10, answerable: bool = True) -> pd.DataFrame:
    """The ``n`` worst wrong first answers: those without a right one among the five, then others.

    Within both the highest score comes first. ``answerable``: only where some snippet holds a
    gold, so that there is something to compare.
    """
    wrong = df[(df["rank"] != 1) & ((df["with_answer"] > 0) | (not answerable))]
    order = wrong.assign(_late=wrong["rank"] > 0).sort_values(
        ["_late", "score"], ascending=[True, False], kind="stable"
    )
    return order.drop(columns="_late").head(n)


def telling(df: pd.DataFrame) -> dict:
    """The row to look at in detail: an answerable question whose few snippets disagree."""
    order = df.assign(_clear=df["with_answer"] > 0, _many=df["opinions"].clip(upper=3))
    by = ["_clear", "_many", "snippets"]
    return df.loc[order.sort_values(by, ascending=[False, False, True]).index[0]].to_dict()


def save(df: pd.DataFrame, path: str | Path) -> Path:
    """Write the table as CSV, synonyms joined by " | "."""
    flat = df.assign(synonyms=df["synonyms"].map(" | ".join))
    return write_text(path, flat.to_csv(index=False, lineterminator="\n"))


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
