"""The SQuAD step: what it refuses, what it holds out, and a whole step with a tiny model."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny

from helpers.config import InputError, from_parameters
from helpers.data.spans import Span
from helpers.data.squad import Example, read_squad, write_squad
from helpers.model import checkpoints, decoding
from helpers.run import stages
from helpers.run.folder import Run


@pytest.fixture
def squad_file(tmp_path):
    """60 questions, three to a paragraph."""
    rows = []
    for n, example in enumerate(tiny.tiny_examples(20)):
        rows += [
            Example(f"q{n}{k}", f"q{n}{k}", f"which gene {n}{k} ?", example.context, example.spans)
            for k in "abc"
        ]
    return write_squad(tmp_path / "squad.json", rows)


def settings(**given):
    return from_parameters("mini", **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"squad_epochs": 2}, "has a SQuAD step but no questions for it; set squad_file=FILE"),
        ({"profile": "squad-then-bioasq-cpu"}, "squad_file=squad-train to download"),
        ({"squad_file": "squad-train"}, "squad_epochs is 0; set squad_epochs=2"),
        ({"squad_epochs": 1, "squad_file": "nowhere.json"}, "nowhere.json: no such file"),
        ({"squad_epochs": 1, "squad_file": "squad-train", "squad_dev": "x"}, "squad_dev: x: no"),
    ],
)
def test_settings_that_do_not_fit_are_named_on_one_line(given, message):
    with pytest.raises(InputError, match=message) as error:
        stages.check_squad_step(from_parameters(**given))
    assert "\n" not in str(error.value)


def test_a_name_that_is_no_set_of_questions_is_refused():
    wrong = settings(squad_epochs=1, squad_file="minilm")
    with pytest.raises(InputError, match="minilm: is not a question file"):
        stages.read_squad_data(wrong)


def test_squads_own_files_come_by_their_names_in_the_registry(squad_file, tmp_path, monkeypatch):
    fetched = []
    dev = write_squad(tmp_path / "dev.json", tiny.tiny_examples(3, seed=9))

    def fetch(name):
        fetched.append(name)
        file = squad_file.name if name == "squad-train" else dev.name
        return SimpleNamespace(files={file: "ab"}, folder=tmp_path)

    monkeypatch.setattr(stages.fetch, "fetch", fetch)
    data = stages.read_squad_data(from_parameters("biomegatron-from-squad"))
    assert set(fetched) == {"squad-train", "squad-dev"}
    assert (len(data.train), len(data.dev)) == (60, 3)
    assert list(data.files) == [str(squad_file), str(dev)]


def test_whole_paragraphs_are_held_out(squad_file):
    data = stages.read_squad_data(
        settings(squad_epochs=1, squad_file=str(squad_file), dev_fraction=0.2)
    )
    assert len(data.train) == 48 and len(data.dev) == 12
    assert not {e.context for e in data.train} & {e.context for e in data.dev}
    assert list(data.files) == [str(squad_file)]
    everything = settings(squad_epochs=1, squad_file=str(squad_file), dev_fraction=0.0)
    assert not stages.read_squad_data(everything).dev


def test_paragraphs_that_ask_the_same_stay_together(tmp_path):
    rows = [
        Example(f"q{n}", f"q{n}", f"which gene {n // 2} ?", e.context, e.spans)
        for n, e in enumerate(tiny.tiny_examples(20))
    ]
    path = str(write_squad(tmp_path / "squad.json", rows))
    for seed in range(4):
        given = {"squad_epochs": 1, "squad_file": path, "dev_fraction": 0.3, "seed": seed}
        data = stages.read_squad_data(settings(**given))
        assert len(data.dev) == 6
        assert not {e.question for e in data.train} & {e.question for e in data.dev}


def test_a_file_of_its_own_judges_the_step(squad_file, tmp_path):
    other = write_squad(tmp_path / "dev.json", tiny.tiny_examples(3, seed=9))
    data = stages.read_squad_data(
        settings(squad_epochs=1, squad_file=str(squad_file), squad_dev=str(other))
    )
    assert len(data.train) == 60 and len(data.dev) == 3 and len(data.files) == 2


def test_a_text_seen_in_training_is_no_examination(squad_file, tmp_path, capsys):
    first = read_squad(squad_file)[0]
    # As in SQuAD's own files: the wording again, over a text that was not learned from.
    elsewhere = tiny.tiny_examples(1, seed=9)[0]
    again = [replace(elsewhere, question=first.question, id="y", question_id="y")]
    dev = write_squad(tmp_path / "dev.json", again)
    given = {"squad_epochs": 1, "squad_file": str(squad_file), "squad_dev": str(dev)}
    assert len(stages.read_squad_data(settings(**given)).dev) == 1 and not capsys.readouterr().err
    write_squad(dev, [*again, replace(first, id="x", question_id="x", question="Which gene 0a?")])
    with pytest.raises(InputError) as error:
        stages.read_squad_data(settings(**given))
    said = str(error.value)
    assert "\n" not in said and f"{dev}: repeats questions from {squad_file} with" in said
    assert "1 question ('x'); the first: 'Which gene 0a?'" in said and "allow_leak=true" in said
    assert len(stages.read_squad_data(settings(**given, allow_leak=True)).dev) == 2
    assert "allowed by allow_leak" in capsys.readouterr().err


def test_a_question_without_an_answer_is_named(tmp_path):
    rows = [Example("q1", "q1", "why ?", "a b", ()), Example("q2", "q2", "why ?", "a b", ())]
    path = write_squad(tmp_path / "v2.json", rows)
    with pytest.raises(InputError, match="'q1' has no answer"):
        stages.read_squad_data(settings(squad_epochs=1, squad_file=str(path)))


def test_em_and_f1_of_a_reader():
    class Fixed:
        def predict(self, examples, progress):
            return [[Span(0, 3, "the Rho kinase")], [], [Span(0, 3, "a b")]]

    rows = [
        Example(str(n), str(n), "?", "text", (Span(0, 1, gold),))
        for n, gold in enumerate(("Rho kinase.", "x", "b c"))
    ]
    scores = decoding.squad_em_and_f1(Fixed(), rows)
    assert scores["em"] == pytest.approx(1 / 3)
    assert scores["f1"] == pytest.approx((1 + 0 + 2 / 3) / 3)  # "a" is an article: "b" of "b c"
    assert scores["f1_interval"][0] <= scores["f1"] <= scores["f1_interval"][1]


def test_the_step_trains_notes_and_keeps_its_model(squad_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader = tiny.tiny_reader(
        squad_epochs=8, squad_file=str(squad_file), squad_batch_size=4, squad_learning_rate=5e-3,
        dev_fraction=0.2, epochs=1, learning_rate=1e-9,
    )  # fmt: skip
    folder = Run.open(reader.settings)
    before = decoding.squad_em_and_f1(
        reader, stages.read_squad_data(reader.settings).dev, progress=False
    )
    tiny.finished(folder, checkpoint={})
    note = stages.run_squad_step(reader, folder)
    assert note["judged"]["f1"] > before["f1"] + 0.1  # with its own rate and number of epochs
    assert note["train_questions"] == 48 and note["judged"]["questions"] == 12
    assert folder.noted("squad_step", "03") == note
    kept = checkpoints.load(folder.path(stages.SQUAD_MODEL), reader.settings)
    example = read_squad(squad_file)[0]
    assert kept.answer(example.question, example.context) == reader.answer(
        example.question, example.context
    )


def test_without_a_step_nothing_happens_and_an_old_model_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader = tiny.tiny_reader()
    folder = Run.open(reader.settings)
    tiny.finished(folder, checkpoint={})
    folder.path(stages.SQUAD_MODEL).write_bytes(b"of other settings")
    assert stages.run_squad_step(reader, folder) == {}
    assert not folder.path(stages.SQUAD_MODEL).exists()
    assert folder.noted("squad_step", "03") == {}


@pytest.mark.skipif(not os.environ.get("SQUAD_FILE"), reason="SQUAD_FILE is not set")
def test_real_squad_questions():
    data = stages.read_squad_data(
        settings(squad_epochs=1, squad_file=os.environ["SQUAD_FILE"], dev_fraction=0.2)
    )
    assert len(data.train) + len(data.dev) == 1190
    assert len({e.context for e in data.dev}) == 48  # a fifth of 240 paragraphs
