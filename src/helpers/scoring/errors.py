"""Build a table that shows what went wrong with each question.

``CAUSES`` lists the rules for the cause of an error; the first rule that applies determines it. The
rules need only n-best lists, so they also work without a model, on a saved ``nbest`` file.
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

KEPT = 5  # number of answers per question that count
RIGHT, LATE, WRITING, NONE = "right", "right at 2-5", "writing", "no snippet holds it"
BOUNDARY, OUTVOTED, BELOW, NOT_FOUND = "boundary", "outvoted", "ranked below 5", "not found"
# Listed in the order in which ``cause`` tests them. An "answer" is one of the system's five
# answers; a "gold answer" is any synonym.
CAUSES: dict[str, str] = {
    RIGHT: "the first answer equals a gold answer",
    LATE: "one of the second to fifth answers equals a gold answer",
    WRITING: "an answer equals a gold answer except for accents, punctuation, hyphens, spaces, "
    "articles, a plural or possessive s, or a Greek letter written as its name",
    NONE: "no snippet contains a gold answer verbatim, so no span can be right",
    BOUNDARY: "the first answer and a gold answer share words, but one is too long or too short",
    OUTVOTED: "a gold answer was the best span of a snippet, but different answers won the merge",
    BELOW: "a gold answer is in a snippet's n-best list, but neither its best span nor an answer",
    NOT_FOUND: "a snippet contains a gold answer, but no n-best list does",
}


def table(
    questions: Sequence[Question],
    examples: Sequence[Example],
    candidates: Sequence[Sequence],
    ranked: Mapping[str, Sequence[tuple[str, float]]],
    batch: str = "",
) -> pd.DataFrame:
    """Return a table with one row per question of a golden file.

    ``candidates[i]`` is the n-best list of ``examples[i]``, best first; its items have a text,
    start, end and probability. ``ranked`` is what ``decoding.rank_answers`` returns for them. The
    columns are id, batch, question, gold (the first synonym), synonyms (a tuple of all), answer
    (the first one, or "" if there is none), score, rank (of the first correct answer among the
    five, or 0), snippets (how many there are), with_answer (how many of them contain a gold
    answer), opinions (the number of distinct best spans) and cause.
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
    """Return the first of ``CAUSES`` that applies, given one n-best list per context."""
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
    """Return whether one text contains the other's words in order, or both overlap in a context."""
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
    """Count the questions per cause and batch, with their total (``all``) and its ``percent``.

    The index lists every cause in the order of the rules, even if no question has it.
    """
    counts = pd.crosstab(df["cause"], df["batch"]).reindex(list(CAUSES), fill_value=0)
    counts.columns.name = None
    total = counts.sum(axis=1)
    return counts.assign(all=total, percent=(100 * total / max(len(df), 1)).round(1))


def worst(df: pd.DataFrame, n: int = 10, answerable: bool = True) -> pd.DataFrame:
    """Return the ``n`` worst rows among those whose first answer is wrong.

    Rows without a correct answer among the five come first. Within each group, the highest score
    comes first. ``answerable`` keeps only questions with a gold answer in a snippet, so that there
    is something to compare.
    """
    wrong = df[(df["rank"] != 1) & ((df["with_answer"] > 0) | (not answerable))]
    order = wrong.assign(_late=wrong["rank"] > 0).sort_values(
        ["_late", "score"], ascending=[True, False], kind="stable"
    )
    return order.drop(columns="_late").head(n)


def telling(df: pd.DataFrame) -> dict:
    """Return an answerable question worth a closer look: few snippets, but differing best spans."""
    order = df.assign(_clear=df["with_answer"] > 0, _many=df["opinions"].clip(upper=3))
    by = ["_clear", "_many", "snippets"]
    return df.loc[order.sort_values(by, ascending=[False, False, True]).index[0]].to_dict()


def save(df: pd.DataFrame, path: str | Path) -> Path:
    """Write the table as CSV, with the synonyms joined by " | "."""
    flat = df.assign(synonyms=df["synonyms"].map(" | ".join))
    return write_text(path, flat.to_csv(index=False, lineterminator="\n"))
