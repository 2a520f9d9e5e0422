"""Training: it learns, repeats itself for a seed, and goes on after whatever stopped it."""

import gc
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_examples, tiny_reader
from tqdm import tqdm

from helpers.config import InputError
from helpers.data.squad import Example, read_squad
from helpers.model import checkpoints, decoding, step, training
from helpers.model.decoding import Candidate
from helpers.model.features import gather, training_batches
from helpers.model.memory import training_memory

SLOW_RUN = """
import sys, time
sys.path[:0] = [{tests!r}]
from tiny import tiny_examples, tiny_reader
from helpers.model import training
from helpers.model.features import gather, training_batches
from helpers.model.memory import training_memory
original = gather
def slow(*a):
    time.sleep(0.2)
    return original(*a)
training.gather = slow
training.fine_tune(tiny_reader(1, dropout=0.1), tiny_examples(60), {folder!r}, progress=False,
                   dev=tiny_examples(9, seed=5))
"""


def weights(reader):
    return {name: p.detach().clone() for name, p in reader.model.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_writes_its_history(tmp_path):
    reader = tiny_reader(0, epochs=12)
    examples = tiny_examples(90)
    before = decoding.dev_scores(reader, examples)
    done = training.fine_tune(reader, examples, tmp_path / "t", progress=False)
    after = decoding.dev_scores(reader, examples)
    assert after["pair_em"] > before["pair_em"] + 0.3
    assert done.steps == 12 * 23 == len(done.history)
    assert done.windows == 90
    lines = (tmp_path / "t" / "history.csv").read_text().splitlines()
    assert lines[0] == "step,loss,learning_rate,seconds"
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(1, 277))
    # linear warm-up over a tenth of the steps, then linearly to 0
    rates = [row[2] for row in done.history]
    assert max(rates) == pytest.approx(5e-3, rel=0.05)
    assert rates.index(max(rates)) == pytest.approx(27, abs=2)
    assert rates[-1] == pytest.approx(0, abs=5e-5)


def test_a_seed_gives_the_same_weights_twice_and_another_seed_others(tmp_path):
    runs = []
    for number, seed in enumerate((1, 1, 3)):
        reader = tiny_reader(1, dropout=0.1)
        reader = type(reader)(reader.model, reader.vocab, reader.settings.__class__(
            **{**reader.settings.__dict__, "seed": seed}))  # fmt: skip
        training.fine_tune(reader, tiny_examples(20), tmp_path / str(number), progress=False)
        runs.append(weights(reader))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.fault("SIGKILL of training")
def test_killed_and_resumed_training_ends_with_the_weights_of_an_undisturbed_run(tmp_path, capsys):
    folder = tmp_path / "killed"
    code = SLOW_RUN.format(tests=str(Path(__file__).parents[1]), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ.copy())
    deadline = time.monotonic() + 120
    while not (folder / "last.ckpt").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.05)
    time.sleep(0.5)  # a few steps beyond the checkpoint, which must be done again
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = tiny_reader(1, dropout=0.1)
    dev = tiny_examples(9, seed=5)
    done = training.fine_tune(
        resumed, tiny_examples(60), folder, dev=dev, resume=True, progress=False
    )
    undisturbed = tiny_reader(1, dropout=0.1)  # also by evaluations
    whole = training.fine_tune(undisturbed, tiny_examples(60), tmp_path / "whole", progress=False)
    assert same(weights(resumed), weights(undisturbed))
    assert [row["step"] for row in done.dev] == training.evaluation_steps(30, resumed.settings)
    last = decoding.dev_scores(undisturbed, dev)
    assert {name: done.dev[-1][name] for name in step.DEV_SCORES} == pytest.approx(
        {name: last[name] for name in step.DEV_SCORES}, abs=1e-6
    )
    assert [row[:3] for row in done.history] == [row[:3] for row in whole.history]
    assert whole.before == 0 < done.before < done.steps == whole.steps
    # a finished run that is resumed has nothing to do, keeps its weights, and says so
    again = tiny_reader(1, dropout=0.1)
    assert "already trained" not in "".join(capsys.readouterr())
    twice = training.fine_tune(again, tiny_examples(60), folder, dev=dev, resume=None)
    assert twice.dev == done.dev
    assert same(weights(again), weights(undisturbed))
    assert twice.seconds == done.seconds
    assert twice.before == twice.steps
    assert "already trained with these settings; loaded" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("steps", "epochs", "every", "expected"),
    [
        (116, 2, 0.25, [0, 14, 29, 44, 58, 72, 87, 102, 116]),
        (6, 2, 1, [0, 3, 6]),
        (3, 1, 0.1, [0, 1, 2, 3]),  # more often than once per step is not possible
        (4, 1, 9, [0, 4]),
        (4, 1, 0, []),
    ],
)
def test_evaluations_are_evenly_spaced_and_include_both_ends(steps, epochs, every, expected):
    settings = tiny_reader(epochs=epochs, evaluate_every=every).settings
    assert training.evaluation_steps(steps, settings) == expected


def test_the_time_of_evaluations_is_not_training_time(tmp_path, monkeypatch):
    scores = dict.fromkeys(step.DEV_SCORES, 0.5)
    monkeypatch.setattr(decoding, "dev_scores", lambda *a: (time.sleep(0.3), scores)[1])
    started = time.perf_counter()
    done = training.fine_tune(
        tiny_reader(epochs=1),
        tiny_examples(16),
        tmp_path / "t",
        dev=tiny_examples(3),
        progress=False,
    )
    whole = time.perf_counter() - started
    assert [row["step"] for row in done.dev] == [0, 1, 2, 3, 4]
    assert all(row["seconds"] >= 0.3 for row in done.dev)
    assert done.seconds < whole - 5 * 0.3


def test_without_dev_questions_or_with_the_setting_0_nothing_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "dev_scores", None)
    dev = tiny_examples(3)
    assert again(tmp_path / "a").dev == []
    reader = tiny_reader(evaluate_every=0)
    assert training.fine_tune(reader, dev, tmp_path / "b", dev=dev, progress=False).dev == []


@pytest.mark.parametrize("text", ["", "[1]", "{", '[{"step": 1}]'])
def test_a_damaged_dev_history_is_one_line(tmp_path, text):
    path = tmp_path / "dev_history.json"
    path.write_text(text)
    with pytest.raises(InputError, match="dev_history.json: damaged; delete"):
        step.DevCurve(path, [0], dict)


def test_nothing_to_learn_from_is_an_error(tmp_path):
    bare = [Example("0_001", "0", "which gene ?", "the gene", (), 0, "")]
    with pytest.raises(InputError, match="no example has an answer"):
        training.fine_tune(tiny_reader(), bare, tmp_path / "t")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("resume", [False, None, True])
def test_a_model_is_trained_once_into_a_folder(tmp_path, resume):
    reader = tiny_reader(epochs=1)
    training.fine_tune(reader, tiny_examples(8), tmp_path / "a", progress=False)
    with pytest.raises(InputError, match="already trained into this folder"):
        training.fine_tune(reader, tiny_examples(8), tmp_path / "a", resume=resume, progress=False)
    with pytest.raises(
        InputError, match="already trained into this folder"
    ):  # a copy shares the model
        again(tmp_path / "a", replace(reader), resume)
    training.fine_tune(reader, tiny_examples(8), tmp_path / "b", progress=False)  # the next step


def test_resuming_with_other_settings_is_refused(tmp_path):
    training.fine_tune(tiny_reader(), tiny_examples(8), tmp_path / "t", progress=False)
    with pytest.raises(InputError, match="learning_rate"):
        training.fine_tune(
            tiny_reader(learning_rate=1e-4), tiny_examples(8), tmp_path / "t", resume=True
        )
    # left to decide, it starts anew
    reader = tiny_reader(learning_rate=1e-4)
    done = training.fine_tune(reader, tiny_examples(8), tmp_path / "t", resume=None, progress=False)
    assert done.history[0][2] <= 1e-4


@pytest.mark.fault("a loss that is not finite")
def test_a_loss_that_is_lost_stops_the_training_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="set learning_rate below 1e"):
        training.fine_tune(
            tiny_reader(learning_rate=1e20), tiny_examples(60), tmp_path / "t", progress=False
        )
    assert not (tmp_path / "t").exists()


def test_right_answers_score_on_golds_with_space_around_them(monkeypatch):
    """One span of the public 7b training file and all of COVID-QA's: every dev score was 0."""
    path = Path(__file__).parents[1] / "cases" / "squad" / "trailing_space_in_gold.json"
    held_out = read_squad(path)
    words = [re.search(r"mutations in (\w+)", e.context) for e in held_out]
    found = [[Candidate(w[1], w.start(1), w.end(1), 1.0, 1.0, 1.0)] for w in words]
    monkeypatch.setattr(decoding, "nbest", lambda *args, **more: found)
    scores = decoding.dev_scores(tiny_reader(), held_out)
    assert [scores[name] for name in ("sacc", "lacc", "mrr", "pair_em")] == [1, 1, 1, 1]


@pytest.mark.fault("SIGKILL of training")
@pytest.mark.parametrize("resume", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_training_killed_at_any_moment_ends_in_the_same_way_when_started_again(
    tmp_path, resume, record_property
):
    """Killed twice in the same place: at its files, in a checkpoint, and with a full disk."""
    program = Path(__file__).parents[1] / "kills.py"
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), str(resume)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (_, _, _, whole), *faults = map(json.loads, done.stdout.splitlines())
    assert len(whole) == 64 and len(faults) == 13
    record_property("tries", len(faults))
    for fault, number, two, last in faults:
        assert last == whole, (fault, number, two)
        if fault == "no_room_beyond":
            assert all(text.startswith("InputError: ") and "\n" not in text for text in two)
        else:
            assert "" in two, (fault, number)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished training's folder; whoever damages it takes a copy."""
    folder = tmp_path_factory.mktemp("trained") / "t"
    training.fine_tune(tiny_reader(1), tiny_examples(8), folder, progress=False)
    return folder


def again(folder, reader=None, resume=True):
    return training.fine_tune(
        reader or tiny_reader(1), tiny_examples(8), folder, resume=resume, progress=False
    )


def damage(path, kind):
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes({
        "empty": b"", "truncated": whole[: len(whole) // 2 - 3], "garbage": b"no such thing\n" * 3,
        "binary": bytes(range(256)) * 9, "list": b"[1, 2]\n", "null": b"null\n",
        "deep": b"[" * 100_000, "flipped": bytes(flipped),
    }[kind])  # fmt: skip


@pytest.mark.fault("damaged files of a training, a flipped bit among them")
@pytest.mark.parametrize("resume", [True, None])
@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ("history.csv", "plan.json", "last.ckpt")
     for kind in ("empty", "truncated", "garbage", "binary", "list", "null", "deep")]
    + [("last.ckpt", "flipped")],
)  # fmt: skip
def test_a_damaged_file_is_one_line_with_a_remedy_that_works(trained, tmp_path, name, kind, resume):
    folder = shutil.copytree(trained, tmp_path / "t")
    damage(folder / name, kind)
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(InputError) as error:
        again(folder, resume=resume)
    text = str(error.value)
    assert text.startswith(f"{folder / name}: damaged") and "delete" in text and "\n" not in text
    assert set(before) <= {path.name for path in folder.iterdir()}
    if name == "last.ckpt":
        (folder / name).unlink()
    else:
        shutil.rmtree(folder)
    reader, whole = tiny_reader(1), tiny_reader(1)
    again(folder, reader, resume)
    again(tmp_path / "whole", whole)
    assert same(weights(reader), weights(whole))


def test_a_damaged_file_does_not_stand_in_the_way_of_a_new_training(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "t")
    for name in ("history.csv", "plan.json", "last.ckpt"):
        damage(folder / name, "binary")
    assert again(folder, resume=False).steps == 4


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.fault("checkpoints that contain code")
@pytest.mark.parametrize("form", ["pickle", "torch", "inside"])
def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(trained, tmp_path, form):
    folder = shutil.copytree(trained, tmp_path / "t")
    evil = Code(tmp_path / "ran")
    if form == "pickle":
        (folder / "last.ckpt").write_bytes(pickle.dumps({"state_dict": evil}))
    else:
        whole = torch.load(folder / "last.ckpt", weights_only=True)
        torch.save(evil if form == "torch" else {**whole, "more": evil}, folder / "last.ckpt")
    with pytest.raises(InputError, match="last.ckpt: damaged, or it contains objects"):
        again(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault("Ctrl-C while a checkpoint is written")
@pytest.mark.parametrize("where", ["save", "replace"])
def test_ctrl_c_during_a_checkpoint_stops_and_the_training_goes_on(tmp_path, monkeypatch, where):
    module = {"save": torch, "replace": os}[where]
    original = getattr(module, where)

    def interrupted(*args, **more):
        if "last.ckpt" in str(args[1]):
            signal.raise_signal(signal.SIGINT)
        return original(*args, **more)

    monkeypatch.setattr(module, where, interrupted)
    with pytest.raises(training.Stopped, match="load the checkpoint again and train into") as error:
        training.fine_tune(tiny_reader(1), tiny_examples(8), tmp_path / "t")
    monkeypatch.undo()
    assert "\n" not in str(error.value) and not tqdm._instances
    assert error.value._render_traceback_() == [f"Stopped: {error.value}"]
    reader, whole = tiny_reader(1), tiny_reader(1)
    again(tmp_path / "t", reader)
    again(tmp_path / "whole", whole)
    assert same(weights(reader), weights(whole))


@pytest.mark.fault("SIGTERM of training")
def test_sigterm_stops_with_a_message_too(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "gather", lambda *a: (signal.raise_signal(15), gather(*a))[1])
    with pytest.raises(training.Stopped):
        training.fine_tune(tiny_reader(1), tiny_examples(8), tmp_path / "t", progress=False)


@pytest.mark.fault("full or read-only disk")
def test_a_full_disk_is_one_line_and_the_training_goes_on(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("may not mount a small disk here; kills.py limits files instead")
    try:
        with pytest.raises(InputError, match="disk space") as error:
            training.fine_tune(tiny_reader(1), tiny_examples(8), disk / "t", progress=False)
        assert "\n" not in str(error.value)
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        reader, whole = tiny_reader(1), tiny_reader(1)
        again(disk / "t", reader)
        again(tmp_path / "whole", whole)
        assert same(weights(reader), weights(whole))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)  # a file may still be open


def test_the_plan_tells_weights_apart_that_have_the_same_sums(trained, tmp_path):
    reader = tiny_reader(1)
    with torch.no_grad():
        words = reader.model.encoder.words.weight
        words[[5, 6]] = words[[6, 5]]
    folder = shutil.copytree(trained, tmp_path / "t")
    with pytest.raises(InputError, match="cannot resume because checkpoint changed"):
        again(folder, reader)


def test_the_plan_holds_the_configuration_and_the_order_of_rows(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "t")
    reader = tiny_reader(1)
    reader.model.config = replace(reader.model.config, epsilon=1e-12)
    with pytest.raises(InputError, match="cannot resume because checkpoint changed"):
        again(folder, reader)
    reader = tiny_reader(1)
    reader.origin["qkv"] = {"order": "1.0"}
    with pytest.raises(InputError, match="cannot resume because qkv_order changed"):
        again(folder, reader)


@pytest.mark.parametrize(("name", "other"), [("devices", 2), ("precision", "bf16-mixed")])
def test_other_devices_or_another_precision_are_another_training(trained, tmp_path, name, other):
    folder = shutil.copytree(trained, tmp_path / "t")
    plan = json.loads((folder / "plan.json").read_text())
    assert plan[name] == {"devices": 1, "precision": "32-true"}[name]
    (folder / "plan.json").write_text(json.dumps({**plan, name: other}))
    with pytest.raises(InputError, match=f"cannot resume because {name} changed"):
        again(folder)


def test_the_settings_decide_the_dropout_wherever_the_model_comes_from(tmp_path):
    base = checkpoints.save_nemo(tiny_reader(1), tmp_path / "m.nemo")
    built = tiny_reader(1, dropout=0.5)
    loaded = checkpoints.load(base, built.settings)
    assert loaded.model.config.dropout == 0.0  # the archive's own
    again(tmp_path / "a", built)
    again(tmp_path / "b", loaded)
    assert same(weights(built), weights(loaded))
    assert loaded.model.config.dropout == 0.5


def test_a_nemo_file_keeps_its_dropout_and_where_it_comes_from(tmp_path):
    reader = tiny_reader(1, dropout=0.25)
    found = {"order": "0", "scores": {}, "measure": "given"}
    reader.origin.update(path="${oc.env:HOME}\\u0024 $ é", format="Megatron", qkv=found)
    reader.origin["files"] = {"a.pt": "0" * 64}
    again(tmp_path / "one", reader)
    again(tmp_path / "two", reader)
    kept = checkpoints.load(
        checkpoints.save_nemo(reader, tmp_path / "m.nemo"), tiny_reader().settings
    )
    assert kept.model.config == reader.model.config and kept.model.config.dropout == 0.25
    assert kept.origin == reader.origin
    tuned = kept.origin["fine_tuned"]
    plans = [json.loads((tmp_path / n / "plan.json").read_text()) for n in ("one", "two")]
    for plan, note in zip(plans, (tuned["after"], tuned), strict=True):
        assert (note["data"], note["checkpoint"]) == (plan["data"], plan["checkpoint"])
        assert (note["dropout"], note["epochs"], note["batch_size"]) == (0.25, 2, 4)
    folder = checkpoints.save_transformers(kept, tmp_path / "hf")  # and it goes on to other formats
    assert checkpoints.load(folder, kept.settings).origin == reader.origin


@pytest.mark.parametrize("progress", [True, False])
def test_a_lost_loss_closes_the_bar(tmp_path, progress):
    with pytest.raises(InputError, match="the loss is nan at step .* lists the training rows"):
        training.fine_tune(
            tiny_reader(learning_rate=1e20), tiny_examples(60), tmp_path / "t", progress=progress
        )
    assert not tqdm._instances
    found = json.loads((tmp_path / "t-not-finite.json").read_text())
    rows = found["training_rows"]
    assert found["step"] > 1 and 1 <= len(rows) <= 4 and set(rows) <= set(range(60))


@pytest.mark.fault("too little memory in training")
def test_a_batch_that_cannot_fit_is_named_before_anything_is_done(tmp_path, monkeypatch):
    reader, examples = tiny_reader(), tiny_examples(8)
    lengths = reader.windows(examples, training=True).lengths
    batches = training_batches(lengths, 4, 0, 0) + training_batches(lengths, 4, 0, 1)
    found = [training_memory(reader.model.config, lengths[rows]) for rows in batches]
    need = max(memory.total - memory.weights for memory in found)
    monkeypatch.setattr(training, "free_memory", lambda swap: 0.84 * need)
    with pytest.raises(InputError, match=r"^batch_size: 4 windows of up to \d+ tokens") as error:
        training.fine_tune(reader, examples, tmp_path / "t")
    assert "GB are free; raise accumulate, then set activation_checkpointing" in str(error.value)
    assert "\n" not in str(error.value) and not (tmp_path / "t").exists()
    for setting in ({"accumulate": 4}, {"activation_checkpointing": True}):
        less = tiny_reader(**setting)
        training.fine_tune(less, examples, tmp_path / "less", progress=False)
    monkeypatch.setattr(training, "free_memory", lambda swap: 0.86 * need)
    training.fine_tune(reader, examples, tmp_path / "t", progress=False)


@pytest.mark.fault("too little memory in training")
@pytest.mark.parametrize("words", ["DefaultCPUAllocator: can't allocate memory", "out of memory"])
def test_a_batch_that_did_not_fit_is_named(tmp_path, monkeypatch, words):
    def fail(*args):
        raise RuntimeError(words)

    monkeypatch.setattr(training, "gather", fail)
    with pytest.raises(InputError, match="^batch_size: 4 windows need more memory"):
        training.fine_tune(tiny_reader(), tiny_examples(8), tmp_path / "t", progress=False)


@pytest.mark.fault("too little memory in training")
def test_losses_that_were_not_read_yet_are_kept_when_memory_runs_out(tmp_path, monkeypatch):
    """On a GPU, they are read together after many steps."""
    from helpers.model import step

    start, calls = step.Recorder.on_train_start, []

    def as_on_a_gpu(self, trainer, module):
        start(self, trainer, module)
        self.every = 50

    def fail(*args):
        calls.append(args)
        if len(calls) == 9:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return gather(*args)

    monkeypatch.setattr(step.Recorder, "on_train_start", as_on_a_gpu)
    monkeypatch.setattr(step, "SAVES", 1)
    monkeypatch.setattr(training, "gather", fail)
    with pytest.raises(InputError, match="raise accumulate, then set activation_"):
        training.fine_tune(tiny_reader(), tiny_examples(60), tmp_path / "t", progress=False)
    assert len(step.read_history(tmp_path / "t/history.csv")) in (7, 8)  # one batch is prefetched


@pytest.mark.parametrize(("apart", "saved"), [(0, 10), (10**6, 2)])
def test_slow_checkpoints_are_saved_less_often(tmp_path, monkeypatch, apart, saved):
    from helpers.model import step

    steps = []

    def save(self, checkpoint, path, storage_options=None):
        steps.append(checkpoint["global_step"])
        write(self, checkpoint, path)

    write = step.PlainCheckpoints.save_checkpoint
    monkeypatch.setattr(step.PlainCheckpoints, "save_checkpoint", save)
    monkeypatch.setattr(step, "SLOW_SAVE", 0.0)
    monkeypatch.setattr(step, "APART", apart)
    training.fine_tune(tiny_reader(epochs=2), tiny_examples(60), tmp_path / "t", progress=False)
    assert len(steps) == saved and steps == sorted(steps)
    assert steps[0] == steps[-1] // 10  # the first tenth and the last step are always saved


@pytest.mark.parametrize(("steps", "falls"), [(1, 0), (4, 0), (20, 0), (39, 0), (40, 1), (90, 1)])
def test_the_last_cell_of_notebook_03_is_right_for_any_number_of_steps(steps, falls, capsys):
    notebook = Path(__file__).parents[2] / "notebooks" / "03_fine_tune.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = "".join(next(cell["source"] for cell in cells if cell["id"] == "cell-32"))
    history = [(n, 5 - 4 * n / steps, 0.0, 0.0) for n in range(1, steps + 1)]
    exec(source, {"done": SimpleNamespace(history=history)})
    said = capsys.readouterr().out
    assert ("The loss fell." in said) == bool(falls)
    assert falls or f"{steps} steps are too few" in said
    rising = SimpleNamespace(history=[(n, n, 0.0, 0.0) for n in range(1, steps + 1)])
    if falls:
        with pytest.raises(AssertionError, match="did not fall"):
            exec(source, {"done": rising})
    else:
        exec(source, {"done": rising})


CELL = """
import sys
sys.path[:0] = [{tests!r}]
from tiny import tiny_examples, tiny_reader
from helpers.model import training
reader = tiny_reader(1, epochs=60)
done = training.fine_tune(reader, tiny_examples(60), {folder!r}, resume=None)
"""


def test_stopping_the_cell_in_jupyter_is_one_line_and_the_kernel_goes_on(tmp_path):
    """A real kernel is interrupted in training; the cell run again goes on from the checkpoint."""
    from jupyter_client.manager import start_new_kernel

    folder = tmp_path / "t"
    code = CELL.format(tests=str(Path(__file__).parents[1]), folder=str(folder))
    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=120)
    try:
        request = client.execute(code, stop_on_error=False)  # the next call is not dropped
        deadline = time.monotonic() + 240
        while not (folder / "last.ckpt").exists():
            assert time.monotonic() < deadline, "no checkpoint appeared"
            time.sleep(0.1)
        manager.interrupt_kernel()
        outputs, error = [], None
        while error is None:
            message = client.get_iopub_msg(timeout=120)
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["msg_type"] == "error":
                error = message["content"]
            outputs.append(str(message["content"]))
        assert error["ename"] == "Stopped"
        assert "train into" in error["evalue"] and len(error["traceback"]) == 1
        assert "exit" not in error["evalue"] and "Traceback" not in "".join(outputs)
        after = "reader = tiny_reader(1, epochs=60)\n" + code.splitlines()[-1]
        after += "\nfrom tqdm import tqdm\nassert done.steps == 900 and not tqdm._instances"
        reply = client.execute_interactive(after, timeout=240, output_hook=lambda m: None)
        assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_bar_of_predictions_that_is_stopped_is_closed(monkeypatch):
    from helpers.model import decoding

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding, "gather", stop)
    with pytest.raises(KeyboardInterrupt) as kept:  # with its stack, as a notebook keeps it
        tiny_reader().predict(tiny_examples(3))
    assert kept.tb and not tqdm._instances


def test_nothing_of_the_optimizer_stays_in_memory(tmp_path):
    reader = tiny_reader(1)
    training.fine_tune(reader, tiny_examples(8), tmp_path / "t", progress=False)
    assert all(weight.grad is None for weight in reader.model.parameters())
    own = {id(weight) for weight in reader.model.parameters()}
    held = [one for one in gc.get_objects() if isinstance(one, torch.optim.Optimizer)]
    assert not [one for one in held if own & {id(weight) for weight in one.state}]
