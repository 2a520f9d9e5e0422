"""No run can misreport itself: the notebooks' own cells on a tiny model, with settings changed.

A walkthrough is executed once, cell by cell in this process. Then every field of ``Settings`` is
changed before every notebook: either the notebook refuses, or nothing that ran before it depends
on the field and ``scores.json`` reports the new value.
"""

import contextlib
import json
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import ClassVar

import nbformat
import pytest
from tiny import tiny_examples, tiny_folder

from helpers import config, pipeline
from helpers.config import InputError, Settings, from_parameters
from helpers.data import squad
from helpers.io import write_json
from helpers.model import checkpoints, compute, training
from helpers.run import compare, report, reproduce, stages
from helpers.run.folder import NEUTRAL, STAGES, Run, as_recorded
from helpers.sweeps import notebooks

FIELDS = [field.name for field in fields(Settings)]
STEMS = [path.stem for path in notebooks.notebooks()][1:]  # 00 hands on nothing
FETCH, CONVERT, TRAIN, PREDICT, SCORE = STEMS
# The cells that read what earlier notebooks made. Notebook 02 makes its data from nothing else.
GATES = {
    TRAIN: ("cell-03", "cell-06", "cell-08"),
    PREDICT: ("cell-03", "cell-05"),
    SCORE: ("cell-03", "cell-11"),
}
HARD_TO_CHANGE = {"device": "cpu", "precision": "bf16"}  # not every value exists everywhere
LEARNT = {"cell-32"}  # asserts that the loss falls, which a tiny model promises for no setting


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(compute, "bf16_instructions", lambda: ("avx512_bf16",))


def execute(stem, settings, cells=None):
    """Execute a notebook under these settings, or only those of its cells."""
    space = {"display": lambda *shown: None}
    path = next(path for path in notebooks.notebooks() if path.stem == stem)
    space |= dict.fromkeys(("profile", "run", "bioasq_dir", "seed", "overrides"), "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "from_parameters", lambda *given, **names: settings)
        code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        for cell in code:
            given = cell.id in LEARNT or "parameters" in cell.metadata.get("tags", ())
            if not given and (cells is None or cell.id in cells):
                exec(compile(cell.source, f"{stem}:{cell.id}", "exec"), space)
    assert not cells or set(cells) <= {cell.id for cell in code}


def questions(count, seed):
    found = {}
    for example in tiny_examples(count, seed):
        name = f"{seed}{example.question_id[1:]}"
        item = found.setdefault(name, {"id": name, "type": "factoid", "snippets": [],
                                       "exact_answer": []})  # fmt: skip
        item["body"] = f"which gene ? {name}"
        item["snippets"].append({"text": example.context, "document": f"d{name}"})
        item["exact_answer"].append([example.spans[0].text])
    return list(found.values())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The settings of a finished walkthrough with a SQuAD step, on BioASQ files of its own."""
    folder = tmp_path_factory.mktemp("made")
    write_json(folder / "data" / "training-mini.json", {"questions": questions(60, 0)})
    for n in (1, 2):
        asked = questions(12, n)
        write_json(folder / "data" / f"mini{n}_golden.json", {"questions": asked})
        asked = [{k: v for k, v in item.items() if k != "exact_answer"} for item in asked]
        write_json(folder / "data" / f"mini-PhaseB-testset{n}.json", {"questions": asked})
    tiny_folder(folder / "base")
    rows = [replace(e, question=f"which gene ? {e.question_id}") for e in tiny_examples(30, 5)]
    squad.write_squad(folder / "squad.json", rows)
    settings = from_parameters(
        "mini", run="r", runs_dir=str(folder / "runs"), model=str(folder / "base"),
        bioasq_dir=str(folder / "data"), squad_file=str(folder / "squad.json"), squad_epochs=1,
        squad_batch_size=4, max_length=48, batch_size=4, epochs=1, wandb_mode="disabled",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "agg")
        for stem in STEMS:
            execute(stem, settings)
    return settings


@pytest.fixture
def copy(made, tmp_path):
    """The settings of a copy of the finished walkthrough."""
    shutil.copytree(made.run_dir, tmp_path / "runs" / "r", ignore=shutil.ignore_patterns("nemo"))
    return replace(made, runs_dir=str(tmp_path / "runs"))


def changed(settings, name):
    """The same with another value of one field, whatever field it is."""
    old = getattr(settings, name)
    if name in HARD_TO_CHANGE:
        new = HARD_TO_CHANGE[name]
    elif choices := config._FIELDS[name].metadata.get("choices"):
        new = next(value for value in choices if value != old)
    elif isinstance(old, bool):
        new = not old
    else:
        new = old + {int: 1, float: 0.01, str: "x"}[type(old)]
    return replace(settings, **{name: new})


@contextlib.contextmanager
def exchanged(path, content):
    """The file with other bytes for a while."""
    kept = path.read_bytes()
    try:
        path.write_bytes(content)
        yield
    finally:
        path.write_bytes(kept)


def scores(settings):
    return json.loads((settings.run_dir / "scores.json").read_text())


def decided_before(stem):
    return {name for stage in STAGES.values() if stage.notebook < stem for name in stage.settings}


@pytest.mark.parametrize("stem", GATES)
@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_changed_between_notebooks_is_refused_or_reported(copy, name, stem):
    settings = changed(copy, name)
    if name in decided_before(stem) or name in ("run", "runs_dir"):  # the latter: an empty folder
        with pytest.raises(InputError, match="run notebook 0") as refused:
            execute(stem, settings, GATES[stem])
        assert "\n" not in str(refused.value)
        return
    execute(stem, settings, GATES[stem])
    if stem == SCORE:
        assert name == "missing" or name in NEUTRAL
        assert scores(settings)["missing"] == settings.missing
        recorded = as_recorded(settings.run_dir, Run(settings.run_dir, settings).manifest())
        assert recorded["settings"]["missing"] == settings.missing


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_decides_a_stage_or_says_why_not(name):
    owners = [stage for stage, spec in STAGES.items() if name in spec.settings]
    assert bool(owners) != (name in NEUTRAL)


RENAMED = ("epochs", "batch_size", "learning_rate")


class Watched(Settings):
    """Settings that note which of them are read, except by the code of records and of copies."""

    read: ClassVar[set[str]] = set()

    def __getattribute__(self, name):
        caller = Path(sys._getframe(1).f_code.co_filename).name
        if name in FIELDS and caller not in ("dataclasses.py", "folder.py", "config.py"):
            Watched.read.add(name)
        return super().__getattribute__(name)


def work(stage, settings, base, folder):
    """What a stage computes, by the functions that the notebooks call."""
    run = Run(settings.run_dir, settings)
    if stage == "data":
        stages.convert_run(stages.find_run_files(settings), settings)
    elif stage == "squad_step":
        run.noted("checkpoint", FETCH)
        stages.run_squad_step(checkpoints.load(base, settings), run)
    elif stage == "model":
        reader = checkpoints.load(base, settings)
        training.fine_tune(reader, squad.read_squad(run.folder / "squad/train.json"), folder / "t")
        pipeline.save_model(reader, folder)
    elif stage in ("answers", "baselines"):
        weights = run.folder / "model/model.nemo" if stage == "answers" else base
        rows = squad.read_squad(run.folder / "squad/mini1.json")
        found = checkpoints.load(weights, settings).predict(rows)
        pipeline.write_ranked(folder / "a.json", rows, found, settings.merge)


@pytest.mark.parametrize("stage", ["data", "squad_step", "model", "answers", "baselines"])
def test_a_stage_reads_no_setting_that_is_not_recorded_with_it(copy, tmp_path, stage):
    def behind(name):
        spec = STAGES[name]
        return set(spec.settings).union(*map(behind, spec.reads))

    watched = Watched(**vars(copy))
    Watched.read = set()
    work(stage, watched, copy.model, tmp_path)
    other = Watched.read - behind(stage) - set(NEUTRAL)
    # The step gives fine_tune its own values under these names; wandb shows the profile's name.
    assert other <= ({*RENAMED, "profile"} if stage == "squad_step" else set())
    assert Watched.read & set(STAGES[stage].settings)


def test_what_is_made_again_under_other_settings_is_reported(copy):
    others = replace(
        copy, seed=1, context="appended", snippets="golden", allow_leak=True,
        dev_fraction=0.2, squad_epochs=2, epochs=2, batch_size=8, learning_rate=2e-4, merge="max",
        nbest=5, missing="dropped",
    )  # fmt: skip
    for stem in (CONVERT, TRAIN, PREDICT, SCORE):
        execute(stem, others)
    found = scores(others)
    for name in ("seed", "context", "allow_leak", "merge", "epochs", "missing"):
        assert found[name] == getattr(others, name), name
    assert found["enriched"] and found["squad_step"]["epochs"] == 2
    run = Run.open(copy)  # the header now has the first settings; the records have others
    assert run.manifest()["settings"]["merge"] == "sum"
    assert compare.read(run.folder).manifest["settings"] == vars(others)
    assert "merge=max" in reproduce.write(run, "05").read_text()
    assert "merge=max" in report.write_report(run).read_text()


def test_a_model_trained_again_needs_new_answers(copy):
    others = replace(copy, epochs=2)
    execute(TRAIN, others)
    with pytest.raises(InputError, match="'model' has been run again since 'answers'.*04_error"):
        execute(SCORE, others, GATES[SCORE])
    with pytest.raises(InputError, match="'model' has been run again"):
        compare.read(others.run_dir)  # its old scores.json is no longer that of this folder


def test_a_model_trained_on_leaks_is_never_said_to_be_clean(copy):
    golden = Path(copy.bioasq_dir)
    data = Path(copy.runs_dir).parent / "leaky"
    shutil.copytree(golden, data)
    train = json.loads((data / "training-mini.json").read_text())
    train["questions"] += questions(12, 1)
    write_json(data / "training-mini.json", train)
    leaky = replace(copy, bioasq_dir=str(data), allow_leak=True)
    for stem in (CONVERT, TRAIN, PREDICT):
        execute(stem, leaky)
    with pytest.raises(InputError, match="allow_leak=True, but now it is False; run notebook 02"):
        execute(SCORE, replace(leaky, allow_leak=False), GATES[SCORE])
    execute(SCORE, leaky, GATES[SCORE])
    assert scores(leaky)["allow_leak"] is True


@pytest.mark.parametrize(
    ("name", "notebook"),
    [("data/mini1_golden.json", CONVERT), ("base/config.json", FETCH), ("squad.json", TRAIN)],
)
def test_an_input_that_was_changed_is_named(made, copy, name, notebook):
    path = Path(made.runs_dir).parent / name
    with exchanged(path, path.read_bytes() + b"\n"):
        for stem in (PREDICT, SCORE):
            with pytest.raises(InputError, match=f"{path.name}: is not.*run notebook {notebook}"):
                execute(stem, copy, GATES[stem])


def test_data_made_again_need_a_new_model_unless_they_are_the_same(copy, made):
    execute(CONVERT, copy)
    for stem in (PREDICT, SCORE):
        execute(stem, copy, GATES[stem])
    path = Path(made.bioasq_dir) / "training-mini.json"
    fewer = json.dumps({"questions": json.loads(path.read_text())["questions"][:10]})
    with exchanged(path, fewer.encode()):
        execute(CONVERT, copy)
        for stem in (PREDICT, SCORE):
            with pytest.raises(InputError, match="'data' has been run again since.*03_fine_tune"):
                execute(stem, copy, GATES[stem])


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_begun_is_not_done(copy, stage):
    run = Run(copy.run_dir, copy)
    run.begin(stage)
    assert not any(entry.get("stage") == stage for entry in run.manifest()["files"].values())
    with pytest.raises(InputError, match=f"{STAGES[stage].notebook}"):
        compare.read(run.folder)
    if stage != "scores":
        with pytest.raises(InputError, match=f"run notebook {STAGES[stage].notebook}"):
            execute(SCORE, copy, GATES[SCORE])


def test_scores_changed_by_hand_enter_no_table(copy):
    path = copy.run_dir / "scores.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(InputError, match="scores.json: has changed since it was recorded"):
        compare.read(copy.run_dir)


def test_a_folder_of_an_older_kit_stays_readable_and_cannot_be_continued(copy):
    path = copy.run_dir / "manifest.json"
    manifest = json.loads(path.read_text())
    for note in manifest["notes"].values():
        for key in ("settings", "inputs", "sha256"):
            note.pop(key, None)
    for entry in manifest["files"].values():
        entry.pop("stage", None)
        entry["made_for"] = {"profile": "mini"}
    path.write_text(json.dumps(manifest))
    assert compare.read(copy.run_dir).manifest["settings"]["epochs"] == copy.epochs
    for stem in GATES:
        with pytest.raises(InputError, match=r"older version of the kit; run notebook 0\d"):
            execute(stem, copy, GATES[stem])


@pytest.fixture
def by_batch(copy, monkeypatch):
    """``by_batch(stop, **options)``: the notebooks that a batch run executes until it is stopped.

    The copy looks like a run of ``helpers.batch``, which may keep all of it.
    """
    run = Run(copy.run_dir, copy)
    for path in notebooks.notebooks():
        run.path(f"notebooks/{path.name}").write_bytes(path.read_bytes())
    marks = {path.stem: notebooks._fingerprint(path, copy) for path in notebooks.notebooks()}
    done = {name: {"fingerprint": mark, "seconds": 1} for name, mark in marks.items()}
    run.note(notebooks.DONE, done)
    monkeypatch.setattr("helpers.run.report.write_report", lambda run: run.folder)

    def call(stop="", **options):
        executed = []

        def note(notebook, folder, given):
            executed.append(notebook.stem)
            if notebook.stem == stop:
                raise KeyboardInterrupt
            return 1.0

        monkeypatch.setattr(notebooks, "_execute", note)
        with contextlib.suppress(KeyboardInterrupt):
            notebooks.run(dict(vars(copy)), **options)
        return executed

    return call


def test_a_fresh_run_that_was_stopped_goes_on_where_it_was(by_batch):
    assert by_batch() == []
    assert by_batch(PREDICT, fresh=True) == ["00_start_here", *STEMS[:4]]
    assert by_batch() == [PREDICT, SCORE]
    assert by_batch() == []


def test_a_file_of_the_same_size_with_other_bytes_is_made_again(by_batch, copy):
    path = copy.run_dir / "answers" / "mini1.json"
    path.write_bytes(path.read_bytes().swapcase())
    assert by_batch(PREDICT) == [PREDICT]


def test_another_golden_file_is_converted_again(by_batch, copy, made):
    path = Path(made.bioasq_dir) / "mini1_golden.json"
    with exchanged(path, path.read_bytes() + b"\n"):
        assert by_batch(CONVERT) == [CONVERT]
