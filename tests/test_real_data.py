"""Counts on the real BioASQ 7b files, which the repository must not contain.

To run these tests, set BIOASQ_DIR to a folder with the five golden files, the five test inputs and
dmis-lab's SQuAD training file. We measured the expected numbers on these public files.
"""

import json
import os
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from helpers.config import from_parameters
from helpers.data.bioasq import read_questions
from helpers.data.convert import convert
from helpers.data.layout import find_files, read_batches
from helpers.data.spans import ceiling, extra_cause, find_spans
from helpers.data.squad import read_squad
from helpers.pipeline import convert_files
from helpers.run.stages import convert_run, find_run_files
from helpers.views import measure

FOLDER = os.environ.get("BIOASQ_DIR", "")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="BIOASQ_DIR is not set: the real BioASQ 7b files are not part of the kit"
)


@pytest.fixture(scope="module")
def files():
    return find_files(FOLDER)


@pytest.fixture(scope="module")
def golds(files):
    return [read_questions(path, answers="required") for path in files.golds]


@pytest.fixture(scope="module")
def tests(files):
    return [read_questions(path, answers="forbidden") for path in files.tests]


def percent(counts):
    return [round(100 * hits / total, 1) for hits, total in counts]


def texts(questions):
    return {q.id: [snippet.text for snippet in q.snippets] for q in questions}


def coverage(golds, contexts):
    """The number of questions with a strict span in some context, and of all questions."""
    return sum(any(find_spans(c, q.synonyms()) for c in contexts[q.id]) for q in golds), len(golds)


def total(counts):
    return tuple(map(sum, zip(*counts, strict=True)))


def test_five_batches_of_162_factoids(files, golds, tests):
    assert files.batches == ("7B1", "7B2", "7B3", "7B4", "7B5") and not files.enriched
    assert [len(batch) for batch in golds] == [39, 25, 29, 34, 35]
    for gold, test in zip(golds, tests, strict=True):
        assert {q.id for q in gold} == {q.id for q in test}


def test_golden_files_hold_more_snippets_than_the_test_inputs(golds, tests):
    assert sum(len(q.snippets) for batch in tests for q in batch) == 512
    assert sum(len(q.snippets) for batch in golds for q in batch) == 1167
    examples, drops = convert([q for batch in tests for q in batch], test=True)
    assert len(examples) == 512 and not drops


def test_extractive_ceilings(golds, tests):
    official = [ceiling(gold, texts(test)) for gold, test in zip(golds, tests, strict=True)]
    assert percent(official) == [69.2, 80.0, 75.9, 91.2, 71.4]
    assert total(official) == (125, 162) and percent([total(official)]) == [77.2]
    golden = [ceiling(gold, texts(gold)) for gold in golds]
    assert percent(golden) == [69.2, 80.0, 75.9, 88.2, 77.1]
    assert percent([total(golden)]) == [77.8]


def test_strict_coverage(golds, tests):
    official = [coverage(gold, texts(test)) for gold, test in zip(golds, tests, strict=True)]
    assert percent(official) == [69.2, 80.0, 75.9, 88.2, 65.7]
    assert total(official) == (122, 162) and percent([total(official)]) == [75.3]
    golden = [coverage(gold, texts(gold)) for gold in golds]
    assert total(golden) == (124, 162) and percent([total(golden)]) == [76.5]


def test_ceiling_of_full_abstracts(golds):
    paths = sorted(Path(FOLDER).rglob("BioASQ-test-factoid-7b-full-abstract.json"))
    if not paths:
        pytest.skip("BIOASQ_DIR has no BioASQ-test-factoid-7b-full-abstract.json")
    contexts = defaultdict(list)
    for example in read_squad(paths[0]):
        contexts[example.question_id].append(example.context)
    assert sum(map(len, contexts.values())) == 407
    assert percent([ceiling([q for batch in golds for q in batch], contexts)]) == [79.6]


def test_the_survey_shows_every_context_with_its_ceiling(files):
    rows = {row["context"].partition(":")[0]: row for row in measure.compare_contexts(files)}
    shares = {name: round(row["ceiling (%)"], 1) for name, row in rows.items()}
    assert shares["snippet"] == 77.2 and shares["abstract"] == 79.6
    batches, _ = read_batches(files, "snippet")
    assert sum(batch.golden_strict for batch in batches) == 124


def test_training_file_spans_are_all_found_again_and_extras_have_a_cause(files, record_property):
    if not files.train_is_squad:
        pytest.skip("BIOASQ_DIR has no SQuAD training file to compare with")
    answers, annotated = defaultdict(set), defaultdict(set)
    for example in read_squad(files.train):
        pair = example.question_id, example.context
        annotated[pair].update(example.spans)
        answers[example.question_id].update(span.text for span in example.spans)
    assert len(answers) == 530 and len(annotated) == 3600
    assert sum(map(len, annotated.values())) == 4231

    extras = []
    for (question_id, context), published in annotated.items():
        spans = set(find_spans(context, answers[question_id]))
        assert published <= spans, question_id
        for span in sorted(spans - published, key=lambda span: (span.start, span.end)):
            cause = extra_cause(span, context, answers[question_id])
            extras.append((cause, question_id, span.start, span.end, span.text))
    record_property("extra_spans", json.dumps(extras))  # the list itself: pytest --junitxml=FILE
    counts = Counter(cause.partition(" ")[0] for cause, *_ in extras)
    # Every difference has a cause; otherwise, "" would be a key here.
    assert counts == {"next": 114, "case": 34}
    published = {row["what"]: row["spans"] for row in measure.published_spans(files)}
    assert list(published.values())[:2] == [4231, 4231]
    assert {what: n for what, n in published.items() if "only" in what} == {
        "found only by the rule: next to a character such as - / + [ '": 114,
        "found only by the rule: case differs": 34,
    }


def test_what_the_strict_rule_finds_and_what_anything_could(files):
    """For the 162 questions with the official test snippets."""
    rows = measure.coverage(read_batches(files, "snippet")[0])
    assert [row["ceiling"] for row in rows] == [27, 20, 22, 31, 25, 125]
    assert rows[-1][measure.STRICT] == 122 and rows[-1]["questions"] == 162


def test_no_leak_by_id_or_wording_in_the_training_file(tmp_path):
    settings = from_parameters("bioasq-cpu", bioasq_dir=FOLDER, runs_dir=str(tmp_path))
    converted = convert_run(find_run_files(settings), settings)
    assert len({row.question_id for row in converted.train}) == 530
    # The training file asks one test question in nearly the same words. It is listed and kept.
    assert [leak.how for leak in converted.leaks] == ["near-equal wording"]


def test_the_public_training_file_is_not_refused_against_the_golden_files(files, tmp_path, capsys):
    if not files.train_is_squad:
        pytest.skip("BIOASQ_DIR has no SQuAD training file")
    summary = convert_files([files.train], tmp_path / "o.json", against=files.golds)
    assert "530 of 530 questions" in summary
    assert "1 by near-equal wording" in capsys.readouterr().err


def test_every_question_of_the_golden_files_is_accounted_for(golds):
    questions = [q for batch in golds for q in batch]
    examples, drops = convert(questions)
    kept = {example.question_id for example in examples}
    assert len(kept) == 124 and len(drops) == 38 and not kept & {d.question_id for d in drops}
    assert Counter(drop.reason for drop in drops) == {
        "answer in no context": 36, "answer only inside a word": 2,
    }  # fmt: skip
    assert all(drop.nearest and 0 < drop.likeness <= 1 for drop in drops)
