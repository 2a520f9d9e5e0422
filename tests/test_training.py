"""Training: it learns, repeats itself for a seed, and survives a kill."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_examples, tiny_reader

from helpers import training
from helpers.config import InputError
from helpers.features import gather
from helpers.prediction import Candidate
from helpers.squad import Example, read_squad

SLOW_RUN = """
import sys, time
sys.path[:0] = [{tests!r}]
from tiny import tiny_examples, tiny_reader
from helpers import training
from helpers.features import gather
original = gather
def slow(*a):
    time.sleep(0.2)
    return original(*a)
training.gather = slow
training.fine_tune(tiny_reader(1, dropout=0.1), tiny_examples(60), {folder!r}, progress=False)
"""


def weights(reader):
    return {name: p.detach().clone() for name, p in reader.model.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_writes_its_history(tmp_path):
    reader = tiny_reader(0, epochs=12)
    examples = tiny_examples(90)
    before = training.dev_scores(reader, examples)
    done = training.fine_tune(reader, examples, tmp_path / "t", progress=False)
    after = training.dev_scores(reader, examples)
    assert after["pair_em"] > before["pair_em"] + 0.3
    assert done.steps == 12 * 23 == len(done.history)
    assert done.windows == 90
    lines = (tmp_path / "t" / training.HISTORY).read_text().splitlines()
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


def test_killed_and_resumed_training_ends_with_the_weights_of_an_undisturbed_run(tmp_path, capsys):
    folder = tmp_path / "killed"
    code = SLOW_RUN.format(tests=str(Path(__file__).parent), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ.copy())
    deadline = time.monotonic() + 120
    while not list(folder.glob("nemo/checkpoints/*last.ckpt")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.05)
    time.sleep(0.5)  # a few steps beyond the checkpoint, which must be done again
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = tiny_reader(1, dropout=0.1)
    done = training.fine_tune(resumed, tiny_examples(60), folder, resume=True, progress=False)
    undisturbed = tiny_reader(1, dropout=0.1)
    whole = training.fine_tune(undisturbed, tiny_examples(60), tmp_path / "whole", progress=False)
    assert same(weights(resumed), weights(undisturbed))
    assert [row[:3] for row in done.history] == [row[:3] for row in whole.history]
    assert whole.before == 0 < done.before < done.steps == whole.steps
    # a finished run that is resumed has nothing to do, keeps its weights, and says so
    again = tiny_reader(1, dropout=0.1)
    assert "trained before" not in capsys.readouterr().err
    twice = training.fine_tune(again, tiny_examples(60), folder, resume=None)
    assert same(weights(again), weights(undisturbed))
    assert twice.seconds == done.seconds
    assert twice.before == twice.steps
    assert "was trained before with these settings; loaded now" in capsys.readouterr().err


def test_the_loss_leaves_padding_out(tmp_path):
    """It equals cross-entropies computed window by window, without any padding."""
    from helpers import qa_model

    reader = tiny_reader(0)
    windows = reader.windows(tiny_examples(8), training=True)
    batch = gather(windows, range(8))
    model = qa_model.build(reader.model, reader.tokenizer, tmp_path)
    logits = model(batch)
    expected, low = [], 0
    for length, start, end in zip(batch.lengths, batch.start, batch.end, strict=True):
        own = logits[low : low + length]
        expected += [torch.nn.functional.cross_entropy(own[:, i], t) for i, t in
                     enumerate((start, end))]  # fmt: skip
        low += length
    torch.testing.assert_close(model.span_loss(logits, batch), torch.stack(expected).mean())


def test_nothing_to_learn_from_is_an_error(tmp_path):
    bare = [Example("0_001", "0", "which gene ?", "the gene", (), 0, "")]
    with pytest.raises(InputError, match="no example has an answer"):
        training.fine_tune(tiny_reader(), bare, tmp_path / "t")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("resume", [False, None, True])
def test_a_model_is_trained_once_into_a_folder(tmp_path, resume):
    reader = tiny_reader(epochs=1)
    training.fine_tune(reader, tiny_examples(8), tmp_path / "a", progress=False)
    with pytest.raises(InputError, match="trained into it already"):
        training.fine_tune(reader, tiny_examples(8), tmp_path / "a", resume=resume, progress=False)
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


def test_a_loss_that_is_lost_stops_the_training_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="set a lower learning_rate than 1e"):
        training.fine_tune(
            tiny_reader(learning_rate=1e20), tiny_examples(60), tmp_path / "t", progress=False
        )
    assert not (tmp_path / "t").exists()


def test_right_answers_score_on_golds_with_space_around_them():
    """One span of the public 7b training file and all of COVID-QA's: every dev score was 0."""
    path = Path(__file__).parent / "cases" / "squad" / "trailing_space_in_gold.json"
    held_out = read_squad(path)
    words = [re.search(r"mutations in (\w+)", e.context) for e in held_out]
    found = [[Candidate(w[1], w.start(1), w.end(1), 1.0, 1.0, 1.0)] for w in words]
    reader = SimpleNamespace(predict=lambda *args, **more: found, settings=tiny_reader().settings)
    scores = training.dev_scores(reader, held_out)
    assert [scores[name] for name in ("sacc", "lacc", "mrr", "pair_em")] == [1, 1, 1, 1]
