"""Build a table that shows what went wrong with each question, and summarize it.

Each error is classified along two axes. ``GOLD_PLACES`` says where the gold answer is in the texts
that the system read, whatever it answered. ``FAILURES`` says why the first answer is wrong. Both
list their rules in the order in which they are tried; the first rule that applies counts. The rules
need only texts and n-best lists, so they also work on saved files and on the answers of any other
system.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from helpers.data.bioasq import Question
from helpers.data.leaks import FUNCTION_WORDS
from helpers.data.spans import find_spans, fold, gold_spans, plain, search_terms, words
from helpers.data.squad import Example, by_question
from helpers.io import write_text
from helpers.scoring.metrics import hit_rank, lower, question_values

KEPT = 5  # number of answers per question that count
RIGHT = "right"  # stands for the empty failure in tables and figures
LATE = "rank 2–5"  # questions whose first right answer is at one of these ranks

IN_SNIPPET, OUTSIDE = "in a snippet", "outside the window"
IN_WORD, REWORDED, MISSING = "only inside a word", "not word for word", "not in a snippet"
_SENTENCE = 4  # a gold answer with at least this many words may be a sentence
GOLD_PLACES: dict[str, str] = {
    IN_SNIPPET: "a window contains a gold answer as whole words",
    OUTSIDE: "a snippet contains a gold answer as whole words, but no window contains all of it",
    IN_WORD: "a snippet contains a gold answer only inside a longer word",
    REWORDED: "a snippet contains a gold answer in a different spelling, or only a part of it. "
    'Each text inside or outside brackets and each alternative before or after "or" is a part. '
    f"If a part has {_SENTENCE} or more words, its last or its longest group of neighboring key "
    "words is enough. Key words are all words except function words, words of the question and "
    "words that end in -ed or -ing",
    MISSING: "none of the above",
}

NO_ANSWER, VARIANT, BOUNDARY = "no answer", "variant or synonym", "boundary"
VOTE, OTHER_ENTITY, OTHER_TYPE = "lost in the vote", "right type, other entity", "other type"
FAILURES: dict[str, str] = {
    NO_ANSWER: "there is no first answer",
    VARIANT: "the first answer is a gold answer in a different spelling or an abbreviation of it "
    "(or the other way around): its initials, its genus abbreviated to one letter, or the text in "
    "parentheses right after it in a snippet",
    BOUNDARY: "the first answer is longer or shorter than a gold answer: one contains the words of "
    "the other, or they overlap in a snippet",
    VOTE: "the best span of a snippet is a gold answer, but a different answer won the merge",
    OTHER_ENTITY: "the first answer has the type of a gold answer",
    OTHER_TYPE: "the first answer has a different type, or the question contains it",
}

# What the last word of a name reveals about its type, even if no list contains the name. Words with
# fewer than three letters do not count (hexosaminidase A). The first pattern that matches counts.
KINDS: dict[str, str] = {
    "enzyme": r"(?!disease|release|\w*crease|\w*base)[a-z0-9,-]{3,}ases?|enzymes?",
    "cell or organ": r"(cell|gland|cortex|medulla|organ|tissue|muscle|neuron)s?"
    r"|(nucle|gangli|mitochondri)(i|a|us|on)|\w+(cyte|blast|troph)s?"
    r"|lungs?|liver|kidneys?|brain|heart|stomach|skin|bones?",
    "protein": r"(protein|receptor|hormone|factor|peptide|antibody|antibodie|\w+globulin)s?",
    "disease": r"(\w*disease|sickness|syndrome|disorder|cancer|infection)s?"
    r"|fever|deficiency|failure|palsy"
    r"|(?!\w*(cyt|opt|mit|mei|bi|gn)osis)\w{2,}(itis|osis|iasis|oma|pathy|trophy|sclerosis|thyroidism)s?"
    r"|\w*(em|ur|pen|plas|ctas|phil|pleg|alg|atax|ment|pneumon|ton|irid|phren|esthes)ia",
    "drug": r"\w{2,}(mab|nib|cillin|mycin|statin|pril|sartan|olol|azole|vir|parin|caine|oxacin"
    r"|cept|setron|gliptin|formin|zepam|lutide|dipine)",
    "organism": r"\w*(virus|viridae|bacteri|fung|parasit|coccus|bacillus)\w*|organisms?",
    "people": r"(patient|infant|adult|individual|participant|carrier)s?|children|(wo)?men",
}
_SPECIES = re.compile(r"(^|.* )[A-Z]([a-z]{2,}|\.) [a-z]{3,}(us|is|um|ur|ae|a|i|ans|ens)")
_NUMBER = re.compile(
    r"(about|around|approximately|over|nearly|almost|at least|up to|(more|less) than)?"
    r"\s*[<>~≤≥±$€£]?\s*\d[\d.,]*(?![\w'′]|-?[a-z])"
    r"|(?-i:[Zz]ero|[Oo]ne|[Tt]wo|[Tt]hree|[Ff]our|[Ff]ive|[Ss]ix|[Ss]even|[Ee]ight|[Nn]ine|[Tt]en"
    r"|[Ee]leven|[Tt]welve|[Oo]nce|[Tt]wice|[Hh]alf)\b",  # TEN is toxic epidermal necrolysis
    re.IGNORECASE,
)


def table(
    questions: Sequence[Question],
    examples: Sequence[Example],
    candidates: Sequence[Sequence] | None,
    ranked: Mapping[str, Sequence[tuple[str, float]]],
    batch: str = "",
    reads: Sequence[Sequence[tuple[int, int]]] | None = None,
) -> pd.DataFrame:
    """Return a table with one row per question of a golden file.

    ``candidates[i]`` is the n-best list of ``examples[i]``, best first; its items have a text,
    start, end and probability. ``ranked`` is what ``decoding.rank_answers`` returns for them.
    ``candidates`` is None for a system without n-best lists. ``reads[i]`` lists the parts of the
    context that the windows of ``examples[i]`` contain (see ``features.read_ranges``); None means
    that the system reads everything.

    The columns are id, batch, question, gold (the first synonym), synonyms (a tuple of all), answer
    (the first one, or "" if there is none), score, rank (of the first correct answer among the
    five, or 0), snippets (how many there are), with_answer (how many of them contain a gold
    answer), distinct_spans (the number of different best spans), gold_place and failure, which is
    empty if the first answer is right.
    """
    candidates = [()] * len(examples) if candidates is None else candidates
    reads = [[(0, len(e.context))] for e in examples] if reads is None else reads
    pairs = by_question(examples, list(zip(candidates, reads, strict=True)))
    rows = []
    for question in questions:
        golds, found = question.synonyms(), pairs.get(question.id, [])
        best = list(ranked.get(question.id, ()))[:KEPT]
        answers = [text for text, _ in best]
        contexts = [example.context for example, _ in found]
        nbests, windows = [nbest for _, (nbest, _) in found], [read for _, (_, read) in found]
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
                "with_answer": sum(bool(_whole(context, golds)) for context in contexts),
                "distinct_spans": len({lower(nbest[0].text) for nbest in nbests if nbest}),
                "gold_place": gold_place(question.body, golds, contexts, windows),
                "failure": failure(question.body, golds, answers, contexts, nbests),
            }
        )
    return pd.DataFrame(rows)


def gold_place(
    question: str,
    golds: Sequence[str],
    contexts: Sequence[str],
    reads: Sequence[Sequence[tuple[int, int]]],
) -> str:
    """Return the first of ``GOLD_PLACES`` that applies; ``reads`` has one list per context."""
    places = [_whole(context, golds) for context in contexts]
    if any(places):
        inside = any(
            low <= span.start and span.end <= high
            for spans, ranges in zip(places, reads, strict=True)
            for span in spans
            for low, high in ranges
        )
        return IN_SNIPPET if inside else OUTSIDE
    terms = search_terms(golds)
    if any(term in fold(context) for context in contexts for term in terms):
        return IN_WORD
    forms = {_joined(gold) for gold in golds}.union(*(_parts(gold, question) for gold in golds))
    texts = [_joined(context) for context in contexts]
    if any(form.strip() and form in text for form in forms for text in texts):
        return REWORDED
    return MISSING


def _whole(context: str, golds: Iterable[str]) -> list:
    """Find the gold answers as whole words; extra spaces in the golden file do not hide them."""
    return gold_spans(context, {form for gold in golds for form in (gold, " ".join(gold.split()))})


def _joined(text: str) -> str:
    """Return the words of a text with one space before and after each (see ``spans.words``)."""
    return f" {' '.join(words(text))} "


def _parts(gold: str, question: str) -> set[str]:
    """Return the joined words of each part of a gold answer that adds to the question.

    A part lies between brackets or between "or"s. It has at least three letters and digits, and at
    least one word that is not in the question. A part that may be a sentence is replaced by its
    cores (``REWORDED``).
    """
    known, parts = set(words(question)), []
    for piece in re.split(r"[()\[\]]|\bor\b", gold, flags=re.IGNORECASE):
        found = words(piece)
        parts += _cores(piece, known) if len(found) >= _SENTENCE else [found]
    return {
        _joined(" ".join(part))
        for part in parts
        if len("".join(part)) >= 3 and not known.issuperset(part)
    }


def _cores(sentence: str, known: set[str]) -> list[list[str]]:
    """Return the last run of key words, and the longest one if it has two or more words.

    The last words of a sentence usually contain what is new: "… is caused by a lack of vitamin C".
    A single word elsewhere may be a verb, so it does not count.
    """
    runs: list[list[str]] = [[]]
    # ``words`` omits "the", but "the" must end a run like any other function word.
    for word in words(re.sub(r"\bthe\b", "of", sentence, flags=re.IGNORECASE)):
        if word in known or word in FUNCTION_WORDS or word.endswith(("ed", "ing")):
            runs.append([])
        else:
            runs[-1].append(word)
    runs = [run for run in runs if run]
    longest = max(runs, key=lambda run: (len(run), len("".join(run))), default=[])
    return runs[-1:] + [longest] * (len(longest) > 1)


def failure(
    question: str,
    golds: Sequence[str],
    answers: Sequence[str],
    contexts: Sequence[str],
    candidates: Sequence[Sequence],
) -> str:
    """Return the first of ``FAILURES`` that applies, or "" if the first answer is right.

    ``candidates`` has one n-best list per context. An answer that is already in the question only
    repeats what was asked about, so it is never a boundary error, unless the question also contains
    a gold answer.
    """
    answer = answers[0] if answers else ""
    if hit_rank(answers[:1], golds) == 1:
        return ""
    if not answer.strip():
        return NO_ANSWER
    if any(_same(answer, gold, contexts) for gold in golds):
        return VARIANT
    asked = _joined(question)
    repeats = _joined(answer) in asked and not any(_joined(gold) in asked for gold in golds)
    if not repeats and _overlaps(answer, golds, contexts, candidates):
        return BOUNDARY
    wanted = {lower(gold.strip(" .,")) for gold in golds}
    if any(nbest and lower(nbest[0].text.strip(" .,")) in wanted for nbest in candidates):
        return VOTE
    if not repeats and answer_kind(answer) in {answer_kind(gold) for gold in golds}:
        return OTHER_ENTITY
    return OTHER_TYPE


def _same(answer: str, gold: str, contexts: Sequence[str]) -> bool:
    """Return whether an answer is a gold answer in another spelling, or its abbreviation."""
    if plain(answer) == plain(gold) != "":
        return True
    short, long = sorted((answer.strip(), gold.strip()), key=len)
    initials = "".join(word[0] for word in words(long))
    if len(initials) > 1 and plain(short) == initials:
        return True
    if plain(short) == plain(re.sub(r"^(\w)[a-z]+ ", r"\1. ", long)):  # E. coli
        return True
    forms = {f"{long} ({short})", f"{short} ({long})"}
    return bool(short) and any(find_spans(context, forms) for context in contexts)


def _overlaps(
    answer: str, golds: Sequence[str], contexts: Sequence[str], candidates: Sequence[Sequence]
) -> bool:
    """Return whether one text contains the other's words in order, or both overlap in a context.

    The answer's positions are those at which a context contains it as whole words, and those at
    which the system found it.
    """
    said, *known = map(_joined, (answer, *golds))
    if any(gold.strip() and said.strip() and (gold in said or said in gold) for gold in known):
        return True
    same = lower(answer.strip(" .,"))
    return any(
        ours.start < gold.end and gold.start < ours.end
        for context, nbest in zip(contexts, candidates, strict=True)
        for gold in _whole(context, golds)
        for ours in [
            *find_spans(context, [answer]),
            *(c for c in nbest if lower(c.text.strip(" .,")) == same),
        ]
    )


def answer_kind(answer: str) -> str:
    """Return the type of an answer: "number", a key of ``KINDS``, "symbol" (BRCA1), or "name".

    The type depends only on the text before a bracket. Two names whose last word reveals no
    type have the same type.
    """
    text = re.sub(r"(?<=.)\s*\(.*", "", answer).strip(" .,;:()")
    if _NUMBER.match(text):
        return "number"
    telling = [w for w in text.split() if len(re.findall(r"[^\W\d_]", w)) > 2 and w != "type"]
    last = (telling or [""])[-1].casefold()
    for kind, ending in KINDS.items():
        if re.fullmatch(ending, last):
            return kind
    if _SPECIES.fullmatch(text):
        return "organism"
    return "symbol" if re.search(r"[\dA-Z]", text[1:]) and " " not in text else "name"


def outcomes(df: pd.DataFrame) -> pd.Series:
    """Return the failure of each question, with ``RIGHT`` instead of an empty string."""
    return df["failure"].replace("", RIGHT)


def summary(df: pd.DataFrame) -> pd.DataFrame:
    """Count the questions per failure and batch, with the total (``all``) and the ``percent``.

    The index is ``RIGHT`` and every failure in the order of the rules, even if no question has it.
    The column ``LATE`` counts how many of these questions have a right answer at ranks 2 to 5.
    """
    rows, kind = [RIGHT, *FAILURES], outcomes(df)
    counts = pd.crosstab(kind, df["batch"]).reindex(rows, fill_value=0)
    counts.columns.name = counts.index.name = None
    total = counts.sum(axis=1)
    late = kind[df["rank"] > 1].value_counts().reindex(rows, fill_value=0)
    percent = (100 * total / max(len(df), 1)).round(1)
    return counts.assign(all=total, percent=percent, **{LATE: late})


def crossed(df: pd.DataFrame) -> pd.DataFrame:
    """Count the questions per failure (rows) and place of the gold answer (columns)."""
    counts = pd.crosstab(outcomes(df), df["gold_place"], margins=True, margins_name="all")
    counts = counts.reindex([RIGHT, *FAILURES, "all"], columns=[*GOLD_PLACES, "all"], fill_value=0)
    return counts.rename_axis(index=None, columns=None)


def oracle(df: pd.DataFrame) -> pd.DataFrame:
    """Return the scores in percent if all errors of one kind were fixed: one row per fix.

    The fixes of the failures add up to 100% SAcc. The fixes by place, and ``LATE`` (a perfect
    choice among the five answers), cover the same errors again. ``gain`` is in points of SAcc.
    """
    wrong = df["rank"] != 1
    fixes = {"nothing": wrong & False}
    fixes |= {name: df["failure"] == name for name in FAILURES}
    fixes |= {
        name: wrong & (df["gold_place"] == name) for name in GOLD_PLACES if name != IN_SNIPPET
    }
    fixes[LATE] = df["rank"] > 1
    rows = []
    for name, fixed in fixes.items():
        values = question_values(df["rank"].where(~fixed, 1))
        scores = {measure: 100 * sum(v) / max(len(df), 1) for measure, v in values.items()}
        rows.append({"fixed": name, "questions": int(fixed.sum()), **scores})
    result = pd.DataFrame(rows).set_index("fixed")
    return result.assign(gain=result["SAcc"] - result["SAcc"].iloc[0])


def flips(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare two tables of the same questions: return the counts and the questions that flipped.

    The counts have a row per outcome of the first system (right, wrong) and a column per outcome
    of the second. A question has flipped if only one of the two first answers is right. Raises
    ``ValueError`` if the tables are not about the same questions.
    """
    key, names = ["batch", "id"], ["right", "wrong"]
    both = first.merge(second, on=key, suffixes=(" before", " after"), validate="one_to_one")
    if not len(both) == len(first) == len(second):
        raise ValueError("the two tables are not about the same questions")
    before, after = (
        pd.Series(both[f"rank {when}"].eq(1).map({True: "right", False: "wrong"}), name=when)
        for when in ("before", "after")
    )
    counts = pd.crosstab(before, after).reindex(index=names, columns=names, fill_value=0)
    columns = [*key, "question before", "gold before", "answer before", "answer after",
               "failure before", "failure after"]  # fmt: skip
    changed = both[columns].assign(change=before + " → " + after)[before != after]
    changed = changed.rename(columns={"question before": "question", "gold before": "gold"})
    changed.insert(0, "change", changed.pop("change"))
    return counts, changed.sort_values("change", kind="stable")


def worst(df: pd.DataFrame, n: int = 10, answerable: bool = True) -> pd.DataFrame:
    """Return the ``n`` worst rows among those whose first answer is wrong.

    Rows without a correct answer among the first five come first. Within each group, the highest
    score comes first. ``answerable`` keeps only questions with a gold answer in a snippet, so that
    there is something to compare.
    """
    wrong = df[(df["rank"] != 1) & ((df["with_answer"] > 0) | (not answerable))]
    order = wrong.assign(_late=wrong["rank"] > 0).sort_values(
        ["_late", "score"], ascending=[True, False], kind="stable"
    )
    return order.drop(columns="_late").head(n)


def save(df: pd.DataFrame, path: str | Path) -> Path:
    """Write the table as CSV, with the synonyms joined by " | "."""
    flat = df.assign(synonyms=df["synonyms"].map(" | ".join))
    return write_text(path, flat.to_csv(index=False, lineterminator="\n"))


def load(path: str | Path) -> pd.DataFrame:
    """Read a table that ``save`` wrote. Answers such as "NA" and "None" remain strings."""
    texts = {"id": str, "batch": str, "gold": str, "answer": str}
    df = pd.read_csv(path, keep_default_na=False, dtype=texts)
    return df.assign(synonyms=df["synonyms"].map(lambda text: tuple(text.split(" | "))))


def load_same(path: str | Path, df: pd.DataFrame) -> pd.DataFrame | None:
    """Read a saved table if it has the same questions as ``df``; otherwise, return None.

    A table from an older version of the kit, which has no column ``failure``, is ignored.
    """
    if not Path(path).is_file():
        return None
    saved, key = load(path), ["batch", "id"]
    same = set(saved[key].itertuples(index=False)) == set(df[key].itertuples(index=False))
    return saved if same and "failure" in saved else None
