"""What wandb logs, without a prompt, and how it is read back."""

import json
from dataclasses import replace

import pytest
from tiny import tiny_examples, tiny_reader

from helpers.config import InputError
from helpers.model import tracking, training
from helpers.model.features import gather


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A training that was stopped and continued, so that it has two log files."""
    folder = tmp_path_factory.mktemp("logged") / "t"
    more = {"dev": tiny_examples(6, seed=3), "progress": False}
    with pytest.MonkeyPatch.context() as patch:
        calls = []

        def stop(*part):
            calls.append(part)
            if len(calls) == 6:
                raise KeyboardInterrupt
            return gather(*part)

        patch.setattr(training, "gather", stop)
        with pytest.raises(training.Stopped):
            training.fine_tune(tiny_reader(wandb_mode="offline"), tiny_examples(20), folder, **more)
    reader = tiny_reader(wandb_mode="offline")
    return folder, training.fine_tune(reader, tiny_examples(20), folder, resume=True, **more)


def test_the_log_read_back_is_the_history_of_the_run(logged):
    folder, done = logged
    assert len(list(folder.glob("wandb/offline-run-*/run-*.wandb"))) == 2 and done.before > 0
    log = tracking.read_log(folder)
    train = log["train_loss"].dropna()
    assert [*train.items()] == [(n, pytest.approx(loss, abs=1e-5)) for n, loss, *_ in done.history]
    assert [*log["learning_rate"].dropna()] == [rate for _, _, rate, _ in done.history]
    dev = log.filter(like="dev_").dropna().rename(columns=lambda name: name[len("dev_") :])
    expected = {row.pop("step"): row for row in ({**row} for row in done.dev)}
    assert list(dev.index) == list(expected)
    for number, row in dev.iterrows():
        assert {**row, "seconds": expected[number]["seconds"]} == pytest.approx(expected[number])


@pytest.mark.fault("damaged logs")
def test_a_folder_without_a_log_and_a_damaged_log_are_one_line(tmp_path, logged):
    with pytest.raises(InputError, match="has no wandb log"):
        tracking.read_log(tmp_path)
    path = tmp_path / "wandb" / "offline-run-1" / "run-1.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no such log")
    with pytest.raises(InputError, match="run-1.wandb: wandb cannot read it") as error:
        tracking.read_log(tmp_path)
    assert "\n" not in str(error.value)


def test_there_is_no_logger_if_wandb_is_disabled(tmp_path):
    settings = tiny_reader().settings
    assert tracking.make_logger(settings, tmp_path, {}) is None
    online = replace(settings, wandb_mode="offline", run="r", seed=3)
    logger = tracking.make_logger(online, tmp_path, {"epochs": 2})
    found = logger._wandb_init
    assert (found["name"], found["config"]) == ("mini-r-seed3", {"epochs": 2}) and logger._offline
    assert not list(tmp_path.iterdir())  # nothing is written before the first value


def test_wandb_online_without_a_key_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_MODE", "offline")  # put back afterwards
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    reader = tiny_reader(wandb_mode="online")
    with pytest.raises(InputError, match="wandb_mode=online: no API key for .*WANDB_API_KEY"):
        training.fine_tune(reader, tiny_examples(8), tmp_path / "t")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(InputError, match="wandb_mode=online: WANDB_API_KEY invalid"):
        training.fine_tune(reader, tiny_examples(8), tmp_path / "t")
    assert not (tmp_path / "t").exists()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    tracking.prepare(reader.settings)  # with one it goes on


def test_each_training_of_a_process_has_a_log_of_its_own(tmp_path):
    reader = tiny_reader(wandb_mode="offline")
    for name in ("squad", "bioasq"):
        training.fine_tune(reader, tiny_examples(8), tmp_path / name, progress=False)
        assert len(list((tmp_path / name).glob("wandb/offline-run-*/run-*.wandb"))) == 1


def test_tensorboard_and_json_lines_on_request(tmp_path):
    for log_to, pattern in (("tensorboard", "tensorboard/events.*"), ("jsonl", "log.jsonl")):
        folder = tmp_path / log_to
        reader = tiny_reader(log_to=log_to, wandb_mode="offline")
        done = training.fine_tune(
            reader, tiny_examples(9), folder, dev=tiny_examples(6), progress=False
        )
        (path,) = folder.glob(pattern)
        assert path.stat().st_size > 100 and not list(folder.glob("wandb/*"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    losses = [row["train_loss"] for row in rows if "train_loss" in row]
    assert losses == pytest.approx([loss for _, loss, *_ in done.history], abs=1e-5)
    assert sum("dev_mrr" in row for row in rows) == len(done.dev)


def test_online_logs_are_refused_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_OFFLINE", "1")
    reader = tiny_reader(wandb_mode="online")
    with pytest.raises(InputError, match="wandb_mode=online: HELPERS_OFFLINE is set"):
        training.fine_tune(reader, tiny_examples(4), tmp_path / "t", progress=False)
    assert not (tmp_path / "t").exists()
