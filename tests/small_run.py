"""A small run folder, made by hand, for the tests of the explorer and of the report."""

import csv
import json

from helpers.data.bioasq import write_answers
from helpers.data.squad import Example
from helpers.model.decoding import Candidate, write_nbest

ASTRAL = "𝒳 𝒴 "  # each letter is one character in Python and two in JavaScript
HOSTILE = (
    "</script>", "<script>window.hacked = 1</script>", "<!--", "]]>",
    "<img src=x onerror=hacked=1>",
    "$x$", "$$", r"\(a\)", "&lt;", "&", '"', "'", "`${1}`", "{{ 7 }}", "{% raw %}", "javascript:",
    "\u202e", "\u2066", "\u200b", "\u200d", "\ufeff", "\u00ad", "\u00a0", "\u3164", "\n", "\r",
    "\t", "\x00", "\u2028", "e\u0301", "שלום", "مرحبا", ASTRAL, "👩\u200d🔬", "a  b", " ",
    "constructor", "__proto__",
)  # fmt: skip


def spans(context, *found):
    """One candidate per (text, probability), at the first place of the text in the context."""
    return [
        Candidate(text, context.index(text), context.index(text) + len(text), 1.0, 1.0, chance)
        for text, chance in found
    ]


def small_run(folder, merge="sum", swapped=False):
    """Write a run of three questions: right at rank 2 (at 1 if ``swapped``), wrong, no answer."""
    golden = folder.parent / "b1_golden.json"
    folder.mkdir(parents=True)
    golds = {"q1": ["TNF-α ", "tumor  necrosis factor"], "q2": ["ascorbic"], "q3": ["zinc"]}
    bodies = {
        "q1": "Which <b>cytokine</b> costs $5 or $6?",
        "q2": "Which acid?",
        "q3": "Which metal?",
    }
    items = [
        {"id": name, "type": "factoid", "body": bodies[name], "exact_answer": [[g] for g in texts]}
        for name, texts in golds.items()
    ]
    golden.write_text(json.dumps({"questions": items}))
    notes = {
        "data": {"batches": ["b1"], "golds": [str(golden)]},
        "answers": {"settings": {"merge": merge}},
    }
    files = {"notes": notes, "settings": {"merge": "sum"}, "files": {}, "schema_version": 1}
    (folder / "manifest.json").write_text(json.dumps(files))
    one, two, acid = (
        "IL-6 is not it.",
        ASTRAL + "Only TNF-α helps </script>.",
        "Take preascorbic lime.",
    )
    examples = [
        Example("q1_001", "q1", "", one, document="https://example.org/1"),
        Example("q1_002", "q1", "", one, document="https://example.org/1"),
        Example("q1_003", "q1", "", two, document="javascript:alert(1)"),
        Example("q2_001", "q2", "", acid),
    ]
    nbest = [
        spans(one, ("IL-6", 0.75), ("not it", 0.2496), ("it", 0.0004)),
        spans(one, ("IL-6", 0.75), ("not it", 0.2496), ("it", 0.0004)),
        spans(two, ("TNF-α", 0.6), ("TNF", 0.3), ("helps", 0.1)),
        spans(acid, ("lime", 1.0)),
    ]
    write_nbest(folder / "nbest" / "b1.jsonl", examples, nbest)
    answers = ["IL-6", "tumor  necrosis factor", "elsewhere"]
    if swapped:
        answers[:2] = answers[1::-1]
    write_answers(folder / "answers" / "b1.json", {"q1": answers, "q2": ["lime"]})
    why = "" if swapped else "lost in the vote"
    rows = [
        ("q1", bodies["q1"], "TNF-α ", answers[0], 1 if swapped else 2, 1.5, "in a snippet", why),
        ("q2", bodies["q2"], "ascorbic", "lime", 0, 1.0, "only inside a word", "other type"),
        ("q3", bodies["q3"], "zinc", "", 0, 0.0, "not in a snippet", "other type"),
    ]
    names = ("id", "question", "gold", "answer", "rank", "score", "gold_place", "failure", "batch")
    with (folder / "errors.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *[(*row, "b1") for row in rows]])
    return folder


def one_question(text, other=True):
    """What ``explorer.content`` returns for one question in which every text is ``text``."""
    answer = {"text": text, "right": True, "score": 0.5, "parts": [(0, 0.5)]}
    result = {"rank": 2, "labels": [text], "answers": [answer]}
    n = len(text)
    snippet = {"text": text, "document": text, "times": 2, "golds": [(n // 3, n)], "inside": False,
               "other": (text, 0.5), "spans": f"0 {n // 2} 0.5 {n // 4} {n} 0.5"}  # fmt: skip
    question = {"id": text, "batch": text, "question": text, "golds": [text], **result,
                "other": result, "snippets": [snippet]}  # fmt: skip
    return {"run": "run", "other": text if other else None, "merge": "sum", "axes": [text],
            "questions": [question]}  # fmt: skip
