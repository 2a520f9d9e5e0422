"""What went wrong with each question, as a table.

``CAUSES`` lists the rules that decide the cause of an error; the first rule that applies counts.
They need only n-best lists, so they also work on a saved ``nbest`` file, without a model.
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

KEPT = 5  # answers per question that count
RIGHT, LATE, WRITING, NONE = "right", "right at 2-5", "writing", "no snippet holds it"
BOUNDARY, OUTVOTED, BELOW, NOT_FOUND = "boundary", "outvoted", "ranked below 5", "not found"
# In the order of the tests in ``cause``. An "answer" is one of the five, a "gold" any synonym.
CAUSES: dict[str, str] = {
    RIGHT: "the first answer equals a gold",
    LATE: "the second to fifth answer equals a gold",
    WRITING: "one of the five equals a gold except for accents, punctuation, hyphens, spaces, "
    "articles, a plural or possessive s, or a Greek letter written as its name",
    NONE: "no snippet contains a gold word for word, so no span can be right",
    BOUNDARY: "the first answer and a gold share words: one is cut too long or too short",
    OUTVOTED: "a gold was the best span of one snippet, but other texts won the merge",
    BELOW: "a gold is in the n-best of a snippet, but never its best, and not among the five",
    NOT_FOUND: "a snippet contains a gold, but no n-best does",
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
    batch, question, gold (the first synonym), synonyms (a tuple of all), answer (the first, "" when
    there is none), score, rank (of the first gold among the five, 0 when none is), snippets,
    with_answer (how many of them contain a gold), opinions (different best spans), cause.
    """
    pairs = by_question(examples, candidates)
    rows = []
    for question in questions:
        golds, found = question.synonyms(), pairs.get(question.id, [])
        best = list(ranked.get(question.id, ()))[:KEPT]
        answers = [text for text, _ in best]
        contexts, nbests = [example.context for example, _ in found], [nbest for _, nbest in found]
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
                "with_answer": sum(bool(gold_spans(context, golds)) for context in contexts),
                "opinions": len({lower(nbest[0].text) for nbest in nbests if nbest}),
                "cause": cause(golds, answers, contexts, nbests),
            }
        )
    return pd.DataFrame(rows)


def cause(
    golds: Sequence[str],
    answers: Sequence[str],
    contexts: Sequence[str],
    candidates: Sequence[Sequence],
) -> str:
    """The first of ``CAUSES`` that applies to one question; ``candidates`` as in ``table``."""
    answers = answers[:KEPT]
    rank = hit_rank(answers, golds)
    if rank:
        return RIGHT if rank == 1 else LATE
    if {plain(answer) for answer in answers} & {plain(gold) for gold in golds} - {""}:
        return WRITING
    spans = {context: gold_spans(context, golds) for context in contexts}
    if not any(spans.values()):
        return NONE
    if answers and _shares_words(answers[0], golds, spans):
        return BOUNDARY
    wanted = {lower(gold.strip()) for gold in golds}
    if any(nbest and lower(nbest[0].text) in wanted for nbest in candidates):
        return OUTVOTED
    if any(lower(candidate.text) in wanted for nbest in candidates for candidate in nbest):
        return BELOW
    return NOT_FOUND


def _shares_words(answer: str, golds: Sequence[str], spans: Mapping[str, Sequence]) -> bool:
    """Whether all words of one are in the other, in order, or the two overlap in a context."""
    said, *known = (f" {' '.join(words(text))} " for text in (answer, *golds))
    if any(gold.strip() and said.strip() and (gold in said or said in gold) for gold in known):
        return True
    return any(
        ours.start < gold.end and gold.start < ours.end
        for context, found in spans.items()
        for ours in find_spans(context, [answer])
        for gold in found
    )


def summary(df: pd.DataFrame) -> pd.DataFrame:
    """Number of questions per cause and batch, with their sum (``all``) and its share in percent.

    Index: every cause in the order of the rules, also those without a question.
    """
    counts = pd.crosstab(df["cause"], df["batch"]).reindex(list(CAUSES), fill_value=0)
    counts.columns.name = None
    total = counts.sum(axis=1)
    return counts.assign(all=total, percent=(100 * total / max(len(df), 1)).round(1))


def worst(df: pd.DataFrame, n: int = 10, answerable: bool = True) -> pd.DataFrame:
    """The ``n`` worst wrong first answers: those without a right one among the five, then others.

    Within both, the highest score comes first. ``answerable`` keeps only questions with a gold in
    some snippet, so that there is something to compare.
    """
    wrong = df[(df["rank"] != 1) & ((df["with_answer"] > 0) | (not answerable))]
    order = wrong.assign(_late=wrong["rank"] > 0).sort_values(
        ["_late", "score"], ascending=[True, False], kind="stable"
    )
    return order.drop(columns="_late").head(n)


def telling(df: pd.DataFrame) -> dict:
    """A row worth a closer look: an answerable question with few snippets that disagree."""
    order = df.assign(_clear=df["with_answer"] > 0, _many=df["opinions"].clip(upper=3))
    by = ["_clear", "_many", "snippets"]
    return df.loc[order.sort_values(by, ascending=[False, False, True]).index[0]].to_dict()


def save(df: pd.DataFrame, path: str | Path) -> Path:
    """Write the table as CSV, synonyms joined by " | "."""
    flat = df.assign(synonyms=df["synonyms"].map(" | ".join))
    return write_text(path, flat.to_csv(index=False, lineterminator="\n"))
