"""What training costs: measured times, computed prices, and the recipe beside ours."""

import numpy as np
import pytest
import torch
from tiny import tiny_examples, tiny_reader

from helpers.config import from_parameters
from helpers.model import compute
from helpers.model.encoder import EncoderConfig
from helpers.model.memory import forward_flops, training_memory
from helpers.views import cost


def test_the_measurement_compares_ways_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(compute, "bf16_instructions", lambda: ())
    reader = tiny_reader(1)
    before = {name: p.clone() for name, p in reader.model.state_dict().items()}
    windows = reader.windows(tiny_examples(12), training=True)
    rows = cost.step_times(reader, windows, range(8), rounds=1)
    assert [(row["batch"], row["precision"]) for row in rows] == [
        ("without padding", "32"), ("padded to 48", "32")]  # fmt: skip
    useful = int(windows.lengths[:8].sum())
    assert [row["tokens computed"] for row in rows] == [useful, 8 * 48]
    for row in rows:
        assert row["useful tokens per second"] == round(useful / row["seconds"])
    assert all(torch.equal(p, before[name]) for name, p in reader.model.state_dict().items())
    assert all(p.grad is None for p in reader.model.parameters())


def test_bf16_is_measured_where_the_cpu_has_it_and_a_large_model_gets_fewer_windows(monkeypatch):
    monkeypatch.setattr(compute, "bf16_instructions", lambda: ("avx512_bf16",))
    monkeypatch.setattr(cost, "_MOST_WORK", 1.0)
    reader = tiny_reader(0)
    windows = reader.windows(tiny_examples(6), training=True)
    rows = cost.step_times(reader, windows, [2, 3], rounds=1)
    assert [row["precision"] for row in rows] == ["32", "bf16", "32"]
    assert rows[0]["tokens computed"] == windows.lengths[2]


def test_prices_are_work_by_speed():
    reader, large, lengths = tiny_reader(1, epochs=5), EncoderConfig(), np.array([40] * 50)
    measured = [{"batch": "without padding", "precision": "32", "useful tokens per second": 50.0}]
    first, *others = cost.prices(reader, lengths, measured, large)
    assert (first["machine"], first["time is"], first["training time"]) == (
        "this machine", "measured", f"{5 * 2000 / 50 / 60:.2g} min")  # fmt: skip
    found = next(row for row in others if (row["machine"], row["precision"]) == ("A100", "tf32"))
    assert found["training time"] == f"{5 * 13 * 0.05:.2g} s"  # 13 small steps per epoch
    memory = training_memory(large, [40] * 4, precision="tf32", path="padded")
    assert found["memory"] == f"{memory.total / 1e9:.1f} GB"
    assert {row["time is"] for row in others} == {"computed"} and len(others) == 9
    ratio = forward_flops(large, lengths) / forward_flops(reader.model.config, lengths)
    assert others[0]["training time"] == f"{200 * ratio / 3600:.2g} h"


def test_on_a_gpu_the_memory_of_this_machine_is_that_of_its_attention_path():
    large, lengths = EncoderConfig(), np.array([40, 380] * 25)
    reader = tiny_reader(1, epochs=5)
    reader.compute = compute.Compute("cuda:0", "32")
    measured = [{"batch": "without padding", "precision": "32", "useful tokens per second": 50.0}]
    _, here, *others = cost.prices(reader, lengths, measured, large)
    a100 = next(row for row in others if (row["machine"], row["precision"]) == ("A100", "32"))
    assert here["machine"] == "this machine" and here["memory"] == a100["memory"]
    reader.compute = compute.Compute()
    assert cost.prices(reader, lengths, measured, large)[1]["memory"] != a100["memory"]


def test_a_long_batch_costs_what_its_operations_cost():
    reader, large, lengths = tiny_reader(1, epochs=5), EncoderConfig(), np.array([380] * 50)
    found = next(row for row in cost.prices(reader, lengths, [], large) if row["machine"] == "T4")
    work = 3 * 5 * forward_flops(large, lengths)
    assert found["precision"] == "32" and found["training time"] == f"{work / 3.24e12:.2g} s"


def test_a_training_step_is_about_six_operations_per_weight_and_token():
    config = EncoderConfig()
    linear = config.layers * 12 * config.hidden**2
    assert 3 * forward_flops(config, [70]) == pytest.approx(6 * linear * 70, rel=0.02)


def test_the_shipped_curves_are_those_of_three_learning_rates():
    curves = cost.shipped_sweep()
    assert sorted(set(curves["learning_rate"])) == [6e-5, 2e-4, 6e-4]
    for _, own in curves.groupby("learning_rate"):
        assert list(own["step"]) == sorted(own["step"]) and own["step"].iloc[0] == 0
        assert own["dev_loss"].iloc[-1] < own["dev_loss"].iloc[0]
        assert own.filter(like="dev_").notna().all(axis=None)
    first = curves[curves["step"] == 0].drop(columns="learning_rate")
    assert (first == first.iloc[0]).all(axis=None)  # all runs start from the same weights


def test_the_recipe_stands_beside_the_run():
    rows = {row["setting"]: row for row in cost.recipe(from_parameters("mini"))}
    assert rows["learning_rate"]["NVIDIA"] == "5e-06" and rows["learning_rate"][""] == "differs"
    assert rows["max_length"][""] == ""
    assert not any(row[""] for row in cost.recipe(from_parameters("biomegatron")))
