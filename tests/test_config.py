"""Settings: one function checks all names, types and ranges."""

import dataclasses
from pathlib import Path

import pytest

from helpers.config import PROFILES, InputError, Settings, from_parameters, parse_override


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_builds(profile):
    assert from_parameters(profile).profile == profile


def test_overrides_win_and_none_keeps_the_profile():
    settings = from_parameters("mini", overrides="epochs=7 learning_rate=2e-5", seed=3, merge=None)
    assert (settings.epochs, settings.learning_rate, settings.seed) == (7, 2e-5, 3)
    assert settings.merge == Settings().merge


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"profile": "maxi"}, "'maxi' is unknown"),
        ({"learning_rat": 1e-4}, "did you mean 'learning_rate'"),
        ({"zzz": 1}, "'zzz' is unknown"),
        ({"epochs": "3"}, "expected int"),
        ({"epochs": True}, "expected int"),
        ({"epochs": 2.5}, "expected int"),
        ({"epochs": 0}, "must be at least 1"),
        ({"learning_rate": float("nan")}, "must be a finite number"),
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0, not 0.0"),
        ({"learning_rate": float("inf")}, "must be a finite number"),
        ({"seed": 10**20}, "seed must be below"),
        ({"overrides": "model='a b"}, "cannot be read"),
        ({"dropout": 1.0}, "below 1"),
        ({"context": "paragraph"}, "snippet, appended, abstract"),
        ({"run": "../x"}, "plain folder name"),
        ({"run": ""}, "plain folder name"),
        ({"run": ".."}, "plain folder name"),
        ({"overrides": "epochs"}, "name=value"),
        ({"overrides": "epochs=many"}, "'many' is not a whole number"),
        ({"overrides": "allow_leak=maybe"}, "'maybe' is not a truth value"),
        ({"allow_leak": 1}, "expected bool"),
    ],
)
def test_what_is_wrong_is_named_on_one_line(parameters, message):
    with pytest.raises(InputError, match=message) as error:
        from_parameters(**parameters)
    assert "\n" not in str(error.value)


def test_whole_numbers_and_paths_are_accepted_where_they_fit():
    settings = from_parameters(learning_rate=1, bioasq_dir=Path("a") / "b")
    assert settings.learning_rate == 1.0
    assert settings.bioasq_dir == str(Path("a") / "b")
    assert parse_override("seed=4") == ("seed", 4)
    assert parse_override("allow_leak=Yes") == ("allow_leak", True)
    assert from_parameters(overrides="allow_leak=false merge=max").merge == "max"


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        from_parameters().seed = 1


def test_the_run_folder_is_the_projects_from_the_notebooks_folder_too(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    from_root = Settings(run="a").run_dir
    monkeypatch.chdir(tmp_path / "notebooks")
    assert Settings(run="a").run_dir == from_root == tmp_path / "runs" / "a"


def test_in_a_notebook_an_input_error_is_one_line():
    assert InputError("x.json: broken")._render_traceback_() == ["InputError: x.json: broken"]
