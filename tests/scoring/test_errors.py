"""Hand-made cases for every place and failure, and the tables made of them."""

import subprocess
import sys

import pandas as pd
import pytest
from found import Found
from hypothesis import given
from hypothesis import strategies as st

from helpers.data import spans
from helpers.data.bioasq import Question
from helpers.data.squad import Example
from helpers.scoring import errors


def nbest(context, *texts):
    """An n-best of these texts at their first places, each twice as likely as the next."""
    total = sum(0.5**n for n in range(len(texts)))
    return [
        Found(t, context.index(t), context.index(t) + len(t), 0.5**n / total)
        for n, t in enumerate(texts)
    ]


SCURVY = "Scurvy comes from a lack of vitamin C, not of iron, zinc, copper, iodine or magnesium."


def both(context, *texts):
    return context, nbest(context, *texts)


def failure(golds, answers, *pairs, question="What prevents scurvy?"):
    contexts, nbests = [c for c, _ in pairs], [n for _, n in pairs]
    return errors.failure(question, golds, answers, contexts, nbests)


FIVE = ["iron", "zinc", "copper", "iodine", "magnesium"]


@pytest.mark.parametrize(
    ("golds", "answers", "pairs", "expected"),
    [
        (["Vitamin C"], ["vitamin c", "iron"], [both(SCURVY, "vitamin C")], ""),
        (["vitamin C"], [], [both(SCURVY, "vitamin C")], errors.NO_ANSWER),
        (["vitamin C"], [" "], [], errors.NO_ANSWER),
        # A gold with a space at its edge, or two inside, is never matched by the evaluator.
        (["vitamin C "], ["vitamin C"], [both(SCURVY, "vitamin C")], errors.VARIANT),
        (["vitamin  C"], ["vitamin C"], [both(SCURVY, "vitamin C")], errors.VARIANT),
        (["TNF-alpha"], ["the TNF-α"], [both("It is TNF-α.", "TNF-α")], errors.VARIANT),
        (["tumor necrosis factor"], ["TNF"], [], errors.VARIANT),  # its initials
        (["TNF"], ["Tumor Necrosis Factor"], [], errors.VARIANT),
        (["ascorbate"], ["vitamin C"], [("Take vitamin C (ascorbate).", [])], errors.VARIANT),
        (["vitamin C"], ["ascorbate"], [("Take vitamin C (Ascorbate).", [])], errors.VARIANT),
        (["vitamin C"], ["iron"], [("Take vitamin C, iron (zinc).", [])], errors.OTHER_ENTITY),
        (["Loa loa"], ["L. loa"], [], errors.VARIANT),
        (["E. coli"], ["Escherichia coli"], [], errors.VARIANT),
        (["Escherichia coli"], ["S. coli"], [], errors.OTHER_ENTITY),
        (["vitamin C"], ["lack of vitamin C"], [both(SCURVY, "vitamin C")], errors.BOUNDARY),
        (["vitamin C, not of iron"], ["vitamin C"], [both(SCURVY, "iron")], errors.BOUNDARY),
        (["of vitamin C"], ["vitamin C, not"], [both(SCURVY, "iron")], errors.BOUNDARY),
        # Inside a word, where the model found it. The same letters elsewhere do not count.
        (["Listeria monocytogenes"], ["Lister"], [both("It is Listeria monocytogenes.", "Lister")],
         errors.BOUNDARY),
        (["lead"], ["ead"], [both("Bread, not lead.", "ead")], errors.OTHER_ENTITY),
        # Decided before a right answer at rank 2.
        (["vitamin C"], ["of vitamin C", "vitamin C"], [both(SCURVY, "iron")], errors.BOUNDARY),
        (["Scurvy is prevented by vitamin C."], ["vitamin C"], [], errors.BOUNDARY),
        # A part of a word is no answer that is too short.
        (["cop"], ["copper"], [both(SCURVY, "iron")], errors.OTHER_ENTITY),
        (["vitamin C"], FIVE, [both(SCURVY, "iron"), both(SCURVY, "vitamin C", "iron")],
         errors.VOTE),
        (["vitamin C"], ["iron", "vitamin C"], [both(SCURVY, "vitamin C")], errors.VOTE),
        (["vitamin C"], ["iron"], [both("It is vitamin C, or iron.", "vitamin C,")], errors.VOTE),
        (["vitamin C"], FIVE, [both(SCURVY, "iron", "vitamin C")], errors.OTHER_ENTITY),
        (["vitamin C"], ["iron", "vitamin C"], [both(SCURVY, "iron")], errors.OTHER_ENTITY),
        (["vitamin C"], ["95 %"], [], errors.OTHER_TYPE),
        (["7", "seven"], ["Eight"], [], errors.OTHER_ENTITY),
        # Two synonyms of different types: the type of either is a right type.
        (["PAH", "phenylalanine hydroxylase"], ["hexosaminidase A"], [], errors.OTHER_ENTITY),
        ([], ["vitamin C"], [both(SCURVY, "vitamin C")], errors.OTHER_TYPE),
        ([""], ["vitamin C"], [("vitamin C ()", [])], errors.OTHER_ENTITY),
    ],
)  # fmt: skip
def test_each_failure(golds, answers, pairs, expected):
    assert failure(golds, answers, *pairs) == expected


def test_an_answer_that_repeats_the_question_is_of_another_type():
    pairs = (both(SCURVY, "Scurvy"),)
    assert failure(["vitamin C"], ["Scurvy"], *pairs) == errors.OTHER_TYPE
    # Not even when a sentence as gold answer contains the word: it is no answer that is too short.
    assert failure(["Scurvy is prevented by vitamin C."], ["scurvy"], *pairs) == errors.OTHER_TYPE
    # A question that offers a choice contains the gold answer as well.
    choice = "Does it take iron or vitamin C?"
    assert failure(["vitamin C"], ["iron"], question=choice) == errors.OTHER_ENTITY
    assert failure(["vitamin C"], ["vitamin"], question=choice) == errors.BOUNDARY


def place(golds, *contexts, question="What prevents scurvy?", reads=None):
    reads = reads or [[(0, len(context))] for context in contexts]
    return errors.gold_place(question, golds, contexts, reads)


@pytest.mark.parametrize(
    ("golds", "contexts", "expected"),
    [
        (["iron", "Vitamin c"], ["None here.", SCURVY], errors.IN_SNIPPET),
        (["vitamin C ", "x"], [SCURVY], errors.IN_SNIPPET),  # the spaces are the file's
        (["vitamin  C"], [SCURVY], errors.IN_SNIPPET),
        (["ascorbate"], [SCURVY], errors.MISSING),
        (["ascorbate"], [], errors.MISSING),
        ([], [SCURVY], errors.MISSING),
        ([" "], [SCURVY], errors.MISSING),
        (["cop"], [SCURVY], errors.IN_WORD),
        (["cop"], [SCURVY, "A cop."], errors.IN_SNIPPET),  # the best place counts
        (["95 %"], ["It is 95% of them."], errors.REWORDED),
        (["TNF alpha"], ["It is TNF-α."], errors.REWORDED),
        # A sentence that contains the answer is not missing, if the answer is there ...
        (["Scurvy is prevented by vitamin C."], [SCURVY], errors.REWORDED),
        (["Vitamin C OR ascorbic acid"], ["Take ascorbic acid."], errors.REWORDED),
        (["Deficiency of ascorbate (vitamin C)"], [SCURVY], errors.REWORDED),
        (["Algae or copper"], [SCURVY], errors.REWORDED),
        (["Scurvy responds to the intake of iron."], ["Iron helps."], errors.REWORDED),
        (["Scurvy responds to the intake of zinc."], ["The intake of iron."], errors.MISSING),
        (["It forms the ring finger gene"], ["A ring finger gene."], errors.REWORDED),
        (["scurvy (MC)"], ["Scurvy of MC."], errors.MISSING),  # nothing new, or little
        # ... but it is if only its words about the question are there.
        (["Scurvy is prevented by vitamin C."], ["Scurvy is prevented by iron."], errors.MISSING),
        (["prevents scurvy in what"], [SCURVY], errors.MISSING),  # nothing new
        (["lack of ascorbate"], ["A lack of iron."], errors.MISSING),  # a name, not a sentence
    ],
)  # fmt: skip
def test_each_place(golds, contexts, expected):
    assert place(golds, *contexts) == expected


def test_a_gold_answer_that_no_window_contains_completely_is_outside():
    at = SCURVY.index("vitamin C")
    end = at + len("vitamin C")
    for reads, expected in [
        ([(0, end)], errors.IN_SNIPPET),
        ([(at, len(SCURVY))], errors.IN_SNIPPET),
        ([(0, end - 1), (at + 1, len(SCURVY))], errors.OUTSIDE),  # cut in two
        ([(0, at)], errors.OUTSIDE),
        ([], errors.OUTSIDE),
    ]:
        assert place(["vitamin C"], SCURVY, reads=[reads]) == expected
    # One snippet is enough.
    reads = [[(0, at)], [(0, end)]]
    assert place(["vitamin C"], SCURVY, SCURVY, reads=reads) == errors.IN_SNIPPET


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        (
            "number",
            "95 % | Approximately 50 | 14 days | ~3,000 | $475,000 | two | 10–20% | 1.5-fold",
        ),
        ("enzyme", "hexosaminidase A | 5-lipoxygenase | Kinases | ferrochelatase."),
        ("disease", "Alzheimer disease | amyloidosis type 2 (AA) | hepatitis B | Leukemia"),
        ("cell or organ", "T cells | chondrocytes | adrenal medulla | basal ganglia | liver"),
        ("organism", "Borrelia burgdorferi | H. pylori | human herpesvirus 8 | the bacterium"),
        ("drug", "nivolumab | Imatinib | atorvastatin"),
        ("protein", "insulin receptor | anti-nuclear antibodies | epidermal growth factor"),
        ("symbol", "BRCA1 | TEN | TNF-α | mTOR | p53 | 11p13 | (TGM1)"),
        ("people", "AML patients | women"),
        ("name", "zinc | vitamin C | chromosome 21 | Release | database | mitosis | 3' ends |"),
    ],
)
def test_each_type_of_answer(kind, answers):
    found = {answer: errors.answer_kind(answer) for answer in answers.split(" | ")}
    assert found == dict.fromkeys(found, kind)


@given(st.text(), st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3), st.text())
def test_every_case_has_one_place_and_one_failure(question, golds, answers, context):
    reads = [[(0, len(context))]]
    assert errors.gold_place(question, golds, [context], reads) in errors.GOLD_PLACES
    found = errors.failure(question, golds, answers, [context], [[]])
    assert (found == "") == (errors.hit_rank(answers[:1], golds) == 1)
    assert found in ("", *errors.FAILURES)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("TNF-α", "TNF alpha"),
        ("TNFα", "tnf-Alpha"),
        ("the mitochondria", "Mitochondria"),
        ("An enzyme", "enzymes"),
        ("Sjögren's syndrome", "Sjogren syndrome"),
        ("95 %", "95%"),
        ("Ca²⁺", "Ca2+"),
        ("λ phage", "lambda phage"),
        ("β-blockers", "beta blocker"),
        ("IL6", "IL-6"),
    ],
)
def test_plain_equates_writings(one, other):
    assert spans.plain(one) == spans.plain(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("vitamin A", "vitamin"),
        ("1.5", "15"),
        ("1-2", "12"),
        ("TNF-α", "TNF-β"),
        ("hypertension", "hypotension"),
        ("AIDS virus", "AIDS"),
    ],
)
def test_plain_keeps_meanings_apart(one, other):
    assert spans.plain(one) != spans.plain(other)


@given(st.text())
def test_plain_ignores_case_and_is_stable(text):
    assert spans.plain(text.casefold()) == spans.plain(text)
    assert " ".join(spans.words(text)) == " ".join(spans.words(f"  {text}. "))


QUESTION = Question("q1", "What does scurvy lack?", "factoid", exact_answer=(("vitamin C ",),))


@pytest.fixture
def frame():
    second = Question("q2", "Without snippets?", "factoid", exact_answer=(("a", "b"), ("c",)))
    examples = [
        Example("q1_001", "q1", "", SCURVY),
        Example("q1_002", "q1", "", SCURVY),
        Example("q1_003", "q1", "", "Iron & zinc do not help."),
    ]
    found = [
        nbest(SCURVY, "iron"),
        nbest(SCURVY, "iron", "zinc"),
        nbest(examples[2].context, "Iron"),
    ]
    ranked = {"q1": [("iron", 1.5), ("zinc", 0.5)], "elsewhere": [("x", 1.0)]}
    return errors.table([QUESTION, second], examples, found, ranked, "mini1"), examples, found


def test_table_has_a_row_per_question(frame):
    df = frame[0]
    assert list(df.columns) == [
        "id", "batch", "question", "gold", "synonyms", "answer", "score", "rank", "snippets",
        "with_answer", "distinct_spans", "gold_place", "failure",
    ]  # fmt: skip
    first, second = df.to_dict("records")
    assert (first["batch"], first["gold"], first["answer"]) == ("mini1", "vitamin C ", "iron")
    assert (first["snippets"], first["with_answer"], first["distinct_spans"]) == (3, 2, 1)
    assert (first["score"], first["rank"], first["failure"]) == (1.5, 0, errors.OTHER_ENTITY)
    assert first["gold_place"] == errors.IN_SNIPPET
    assert second["synonyms"] == ("a", "b", "c")
    assert (second["answer"], second["score"], second["snippets"]) == ("", 0.0, 0)
    assert (second["gold_place"], second["failure"]) == (errors.MISSING, errors.NO_ANSWER)


def test_table_wants_an_nbest_for_each_example(frame):
    with pytest.raises(ValueError):
        errors.table([QUESTION], frame[1], frame[2][:2], {})


def test_table_of_a_system_without_nbest_lists_and_of_short_windows(frame):
    df = errors.table([QUESTION], frame[1], None, {"q1": [("vitamin C", 0.0)]})
    assert df[["distinct_spans", "failure"]].to_numpy().tolist() == [[0, errors.VARIANT]]
    cut = [[(0, 3)]] * 3
    df = errors.table([QUESTION], frame[1], None, {"q1": [("iron", 0.0)]}, reads=cut)
    assert df["gold_place"].tolist() == [errors.OUTSIDE]


def test_summary_and_crossed_count_every_question_once(frame):
    df = pd.concat([frame[0], frame[0].assign(batch="mini2", rank=[3, 0])])
    df = pd.concat([df, frame[0][:1].assign(batch="mini2", rank=1, failure="")])
    counts = errors.summary(df)
    assert list(counts.index) == [errors.RIGHT, *errors.FAILURES]
    assert list(counts.columns) == ["mini1", "mini2", "all", "percent", errors.LATE]
    assert counts["all"].sum() == len(df) == counts[["mini1", "mini2"]].to_numpy().sum()
    assert counts.loc[errors.NO_ANSWER, "percent"] == 40.0
    assert counts.loc[errors.RIGHT, "all"] == 1
    assert counts[errors.LATE].to_dict() == dict.fromkeys(counts.index, 0) | {
        errors.OTHER_ENTITY: 1
    }
    crossed = errors.crossed(df)
    assert list(crossed.columns) == [*errors.GOLD_PLACES, "all"]
    assert crossed.iloc[:-1, :-1].to_numpy().sum() == len(df) == crossed.loc["all", "all"]
    assert crossed.loc[errors.NO_ANSWER, errors.MISSING] == 2


def test_oracle_shows_what_each_fix_would_bring():
    df = pd.DataFrame(
        [
            (1, "", errors.IN_SNIPPET),
            (2, errors.BOUNDARY, errors.IN_SNIPPET),
            (0, errors.BOUNDARY, errors.REWORDED),
            (0, errors.OTHER_TYPE, errors.MISSING),
            (1, "", errors.IN_WORD),  # right already: no fix brings it twice
        ],
        columns=["rank", "failure", "gold_place"],
    )
    found = errors.oracle(df).round(6)
    assert list(found.columns) == ["questions", "SAcc", "MRR", "LAcc", "gain"]
    assert found.loc["nothing"].tolist() == [0, 40, 50, 60, 0]
    assert found.loc[errors.BOUNDARY].tolist() == [2, 80, 80, 80, 40]
    assert found.loc[errors.MISSING].tolist() == [1, 60, 70, 80, 20]
    assert found.loc[errors.IN_WORD].tolist() == [0, 40, 50, 60, 0]
    assert found.loc[errors.LATE].tolist() == [1, 60, 60, 60, 20]
    assert found.loc[list(errors.FAILURES), "gain"].sum() == 60
    assert errors.IN_SNIPPET not in found.index


def test_flips_are_the_questions_that_only_one_system_got_right():
    names = ["batch", "id", "question", "gold", "answer", "rank", "failure"]
    first = pd.DataFrame(
        [("b", n, f"Q{n}", "g", f"a{n}", rank, "") for n, rank in enumerate([1, 2, 0, 1])],
        columns=names,
    )
    second = first.assign(rank=[0, 1, 0, 1], answer="new")[::-1]
    counts, changed = errors.flips(first, second)
    assert counts.to_numpy().tolist() == [[1, 1], [1, 1]]
    assert changed["change"].tolist() == ["right → wrong", "wrong → right"]
    assert changed["id"].tolist() == [0, 1]
    assert changed["answer before"].tolist() == ["a0", "a1"]
    assert set(changed["answer after"]) == {"new"}
    assert errors.flips(first, first)[1].empty
    for other in (second[:3], second.assign(id=[3, 2, 1, 9])):
        with pytest.raises(ValueError, match="not about the same questions"):
            errors.flips(first, other)


def test_worst_have_no_right_answer_then_high_scores():
    df = pd.DataFrame(
        {
            "rank": [1, 0, 2, 0, 0, 3],
            "with_answer": [1, 0, 1, 3, 1, 1],
            "score": [9.0, 8.0, 6.0, 2.0, 3.0, 7.0],
        }
    )
    assert list(errors.worst(df).index) == [4, 3, 5, 2]
    assert list(errors.worst(df, 2, answerable=False).index) == [1, 4]
    assert list(errors.worst(df).columns) == list(df.columns)
    assert errors.worst(df.iloc[:1]).empty


def test_save_writes_synonyms_readably_and_load_reads_texts_as_they_are(frame, tmp_path):
    df = frame[0].assign(answer=["None", ""], gold=["NA", "007"], id=["1", "2"])
    path = errors.save(df, tmp_path / "errors.csv")
    assert list(pd.read_csv(path)["synonyms"]) == ["vitamin C ", "a | b | c"]
    pd.testing.assert_frame_equal(errors.load(path), df)


def test_a_saved_table_about_other_questions_is_not_compared(frame, tmp_path):
    df, path = frame[0], tmp_path / "errors.csv"
    assert errors.load_same(path, df) is None
    errors.save(df, path)
    pd.testing.assert_frame_equal(errors.load_same(path, df), df)
    assert errors.load_same(path, df[:1]) is None
    assert errors.load_same(path, df.assign(batch="mini2")) is None
    errors.save(df.rename(columns={"failure": "cause"}), path)
    assert errors.load_same(path, df) is None


def test_errors_imports_neither_torch_nor_matplotlib():
    heavy = "{'torch', 'matplotlib', 'nemo'}"
    code = f"import sys, helpers.scoring.errors; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
