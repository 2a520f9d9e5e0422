"""The effects of protocol choices, on BioASQ-mini with a stand-in for the model."""

import shutil

import pytest
from first_words import FirstWords, mini_run_of_first_words
from tiny import finished

from helpers.config import InputError, from_parameters
from helpers.data.bioasq import read_json
from helpers.io import write_json
from helpers.model.decoding import write_nbest
from helpers.pipeline import write_ranked
from helpers.run import scores, stages
from helpers.run.folder import Run
from helpers.scoring import metrics
from helpers.views import effects as protocol


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return mini_run_of_first_words(tmp_path_factory.mktemp("protocols"))


@pytest.fixture
def effects(run, monkeypatch):
    monkeypatch.setattr(protocol.checkpoints, "load", lambda path, settings: FirstWords(settings))
    return protocol.protocol_effects(run, scores.read_batches(run))


def pick(effects, switch, setting):
    (found,) = [e for e in effects if (e.switch, e.setting) == (switch, setting)]
    return found


def test_every_switch_has_one_row_for_the_run_itself(run, effects):
    own = metrics.weighted([batch.score for batch in scores.read_batches(run)])
    switches = list(dict.fromkeys(e.switch for e in effects))
    assert switches == ["averaging", "missing", "merge", "snippets", "context"]
    assert own.sacc > 0
    for switch in switches:
        (mine,) = [e for e in effects if e.switch == switch and e.own]
        assert mine.score.sacc == pytest.approx(own.sacc), switch
        assert mine.score.mrr == pytest.approx(own.mrr), switch


def test_averaging_and_merging_are_computed_from_the_files(run, effects):
    batches = scores.read_batches(run)
    macro = sum(batch.score.sacc for batch in batches) / len(batches)
    assert pick(effects, "averaging", "macro").score.sacc == pytest.approx(macro)
    weighted, pooled = (pick(effects, "averaging", n).score for n in ("weighted", "pooled"))
    assert weighted.mrr == pytest.approx(pooled.mrr)
    assert pick(effects, "merge", "max").score.n == pick(effects, "merge", "sum").score.n


def test_a_malformed_gold_answer_counts_as_in_the_scores(run, tmp_path):
    before = scores.read_batches(run)
    folder = shutil.copytree(run.folder, tmp_path / run.folder.name)
    settings = from_parameters("mini", run="p", runs_dir=str(tmp_path))
    copy = Run(folder, settings)
    data = copy.manifest()["notes"]["data"]  # the complete record, not only its facts
    n, right = next(
        (n, q) for n, b in enumerate(before) for q, rank in b.ranks.items() if rank == 1
    )
    golden = read_json(data["golds"][n])
    (item,) = (item for item in golden["questions"] if item["id"] == right)
    item["exact_answer"] = item["exact_answer"][0][0]
    path = write_json(tmp_path / "golden.json", golden)
    data["golds"][n] = str(path)
    copy.note("data", data)
    batches = scores.read_batches(copy)
    own = metrics.weighted([batch.score for batch in batches])
    assert batches[n].score.hits_strict == before[n].score.hits_strict - 1
    effects = protocol.protocol_effects(copy, batches, 0)
    for switch in ("averaging", "missing", "merge"):
        (mine,) = [e for e in effects if e.switch == switch and e.own]
        assert mine.score.sacc == pytest.approx(own.sacc), switch


def test_missing_answers_lower_the_score_unless_they_are_dropped(effects):
    own = pick(effects, "missing", "wrong")
    assert pick(effects, "missing", "dropped").score.sacc == pytest.approx(own.score.sacc)
    wrong = pick(effects, "missing", "wrong, 40 left out")
    dropped = pick(effects, "missing", "dropped, 40 left out")
    assert wrong.score.sacc <= own.score.sacc and "lowest probability" in wrong.note
    assert dropped.score.counted == own.score.n - round(protocol.SILENT * own.score.n)
    assert dropped.score.sacc > wrong.score.sacc
    assert dropped.score.hits_strict == wrong.score.hits_strict


def test_a_batch_of_uncertain_answers_keeps_one(run):
    batches = scores.read_batches(run)
    ranked = {
        batch.name: {name: [("x", 0.9 if n else 0.1)] for name in batch.ranks}
        for n, batch in enumerate(batches)
    }
    found = protocol._missing(batches, ranked, "wrong")
    total = sum(len(answers) for answers in ranked.values())
    counted = pick(found, "missing", "dropped, 40 left out").score.counted
    assert counted == total - round(protocol.SILENT * total)


def test_other_texts_are_predicted_again(effects):
    golden = pick(effects, "snippets", "golden")
    assert golden.score is not None and "predicted again on" in golden.note
    for context in ("appended", "abstract"):
        found = pick(effects, "context", context)
        assert found.score.n == golden.score.n and "context=snippet" in found.note


def test_a_run_on_golden_snippets_has_a_row_for_official_ones(run, monkeypatch):
    settings = from_parameters("mini", run="g", runs_dir=run.settings.runs_dir, snippets="golden")
    files = stages.find_run_files(settings)
    assert files.enriched and files.tests == files.golds
    golden = Run.open(settings)
    converted = stages.convert_run(files, settings)
    stages.write_run(converted, golden)
    golden.noted("data", scores.CONVERT)
    finished(golden, checkpoint={}, squad_step={}, model={})
    golden.begin("answers")
    for batch in converted.batches:
        found = FirstWords(settings).predict(batch.examples)
        write_nbest(golden.path(f"nbest/{batch.name}.jsonl"), batch.examples, found)
        write_ranked(golden.path(f"answers/{batch.name}.json"), batch.examples, found, "sum")
    for folder in ("nbest", "answers"):
        golden.record(golden.path(folder), "answers")
    golden.finish("answers", seconds=1.0)
    effects = protocol.protocol_effects(golden, scores.read_batches(golden), 0)
    assert pick(effects, "snippets", "golden").own
    assert "not tried" in pick(effects, "snippets", "official").note
    with pytest.raises(InputError, match="made with snippets='official', but now it is 'golden'"):
        Run(run.folder, settings).need("squad/mini1.json", scores.CONVERT)


def test_a_slow_prediction_is_skipped_with_a_note(run, monkeypatch):
    def never(path, settings):
        raise AssertionError("must not predict")

    monkeypatch.setattr(protocol.checkpoints, "load", never)
    effects = protocol.protocol_effects(run, scores.read_batches(run), 0)
    golden = pick(effects, "snippets", "golden")
    assert golden.score is None and golden.note.endswith(" s (limit: 0 s)")
    rows = protocol.effect_table(effects)
    assert [row["SAcc"] for row in rows if row["setting"] == "golden"] == ["–"]


def test_the_table_shows_scores_and_changes_in_points(effects):
    rows = {(row["switch"], row["setting"]): row for row in protocol.effect_table(effects)}
    assert rows["averaging", "weighted"]["SAcc change"] == "this run"
    assert rows["averaging", "pooled"]["MRR change"] == "+0.0"
    own, macro = (pick(effects, "averaging", n).score.sacc for n in ("weighted", "macro"))
    assert rows["averaging", "macro"]["SAcc change"] == f"{100 * (macro - own):+.1f}"


def test_ready_squad_files_replace_missing_abstracts(tmp_path, save):
    """A folder like dmis-lab's: official snippets, no abstracts, a SQuAD file of full abstracts."""
    snippets = [{"text": "Zinc helps.", "document": "d"}]
    question = {"id": "q1", "type": "factoid", "body": "Which metal?", "snippets": snippets}
    save("data/7B1_golden.json", {"questions": [{**question, "exact_answer": [["zinc"]]}]})
    save("data/BioASQ-task7bPhaseB-testset1.json", {"questions": [question]})
    row = {"id": "q1_001", "question": "Which metal?"}
    paragraph = {"context": "A whole abstract on zinc.", "qas": [row]}
    ready = {"version": "1.1", "data": [{"title": "t", "paragraphs": [paragraph]}]}
    save("data/BioASQ-test-factoid-7b-full-abstract.json", ready)
    settings = from_parameters("bioasq-cpu", bioasq_dir=str(tmp_path / "data"))
    (batch,) = protocol._read(settings, "abstract", False)
    assert [e.context for e in batch.examples] == ["A whole abstract on zinc."]
    (batch,) = protocol._read(settings, "snippet", False)
    assert [e.context for e in batch.examples] == ["Zinc helps."]
