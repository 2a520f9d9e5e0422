"""Where and how a run computes is decided, recorded and kept."""

import json

import pytest

from helpers.config import InputError, from_parameters
from helpers.model import compute
from helpers.run import reproduce
from helpers.run.folder import Run, as_recorded
from helpers.run.stages import settle_compute


@pytest.fixture
def opened(tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "bf16_instructions", lambda: ("avx512_bf16",))

    def make(**settings):
        return Run.open(from_parameters(runs_dir=str(tmp_path), run="r", device="cpu", **settings))

    return make


def test_auto_is_decided_once_and_every_later_notebook_keeps_it(opened, monkeypatch, capsys):
    monkeypatch.setattr(compute, "bf16_ratio", lambda: 3.0)
    first = opened(precision="auto")
    assert settle_compute(first).precision == "bf16"
    assert "precision bf16 (precision=auto: bf16 is 3.0 times" in capsys.readouterr().out
    monkeypatch.setattr(compute, "bf16_ratio", lambda: 0.5)  # the machine is busy now
    later = opened(precision="auto")
    assert later.settings.precision == "bf16" == settle_compute(later).precision
    note = later.manifest()["notes"]["compute"]
    assert (note["device"], note["precision"], note["devices"]) == ("cpu", "bf16", 1)
    assert (note["attention"], note["training_attention"]) == ("products", "products")


def test_a_stage_records_what_was_used_and_a_repetition_asks_for_it(opened, monkeypatch, tmp_path):
    monkeypatch.setattr(compute, "bf16_ratio", lambda: 3.0)
    run = opened(precision="auto", dropout=0.1)
    settle_compute(run)
    for stage in ("checkpoint", "data", "squad_step", "model"):
        run.begin(stage)
        run.finish(stage, **({"train_pairs": 1} if stage == "model" else {}))
    record = run.manifest()["notes"]["model"]
    assert record["settings"]["precision"] == "bf16"
    assert record["compute"]["training_attention"] == "by length"  # dropout needs it
    assert "compute" not in run.manifest()["notes"]["squad_step"]
    settings = as_recorded(run.folder, run.manifest(), "model")["settings"]
    assert "precision=bf16" in reproduce.options(settings)
    with pytest.raises(InputError, match="precision='bf16', but now it is '32'"):
        opened(precision="32").noted("model", "03_fine_tune")
    assert json.loads((tmp_path / "r/manifest.json").read_text())["settings"]["dropout"] == 0.0
