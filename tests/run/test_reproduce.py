"""``reproduce.sh``: the commands it holds, its checks, and the comparison of two runs."""

import json
import subprocess

import pytest

from helpers import batch
from helpers.config import InputError, from_parameters
from helpers.io import sha256
from helpers.run import folder, reproduce


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run on two made-up input files, with scores."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "my $data, it's}"
    data.mkdir()
    for name in ("7B1_golden.json", "train it's}.json"):
        (data / name).write_text(name)
    squad = tmp_path / "squad.json"
    squad.write_text("squad")
    settings = from_parameters(
        "squad-then-bioasq-cpu", run="r", seed=3, epochs=4, merge="max",
        bioasq_dir=str(data), squad_file=str(squad),
    )  # fmt: skip
    run = folder.Run.open(settings)
    outside = tmp_path / "linked.json"  # a link in the folder leads here
    outside.write_text("linked")
    inputs = [*sorted(data.iterdir()), outside]
    run.note("data", {"inputs": {str(p): sha256(p) for p in inputs}})
    run.note("squad_step", {"files": {str(squad): sha256(squad)}})
    run.note("checkpoint", {"files": {"model.safetensors": "ab" * 32}})
    scores(run, 10)
    return run


def scores(run, hits):
    row = {"batch": "7B1", "counted": 39, "hits_strict": hits, "hits_lenient": 20, "mrr": 0.4}
    run.path("scores.json").write_text(json.dumps({"batches": [row]}))


def test_the_command_says_what_differs_from_the_profile(run):
    words = reproduce.options(run.manifest()["settings"])
    assert words[:4] == ["--profile", "squad-then-bioasq-cpu", "--seed", "3"]
    assert "--bioasq-dir" in words and "epochs=4" in words and "merge=max" in words
    assert not any(word.startswith(("run", "learning_rate", "squad_epochs")) for word in words)
    # Given back to the command line's own reader it means the same settings.
    given = {"profile": "squad-then-bioasq-cpu", "seed": 3, "run": "r"}
    given["bioasq_dir"] = words[words.index("--bioasq-dir") + 1]
    given["overrides"] = " ".join(f"'{w}'" for w in words if "=" in w)
    assert from_parameters(**given) == run.settings


def shell(run, tmp_path, **environment):
    """Call the script with a ``python`` that only prints its words."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nprintf "[%s]" "$@"; echo\n')
    fake.chmod(0o755)
    script = reproduce.write(run, "05")
    return subprocess.run(
        ["bash", str(script)], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(fake), **environment},
    )  # fmt: skip


def test_the_script_checks_the_inputs_and_gives_the_commands(run, tmp_path):
    done = shell(run, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(": OK") == 4
    first, second = done.stdout.splitlines()
    data = run.settings.bioasq_dir
    assert first.startswith("[-m][helpers.batch][run][--run][r-again][--profile]")
    assert f"[--bioasq-dir][{data}]" in first and "[--set][epochs=4]" in first
    assert f"[--set][squad_file={tmp_path / 'squad.json'}]" in first
    assert second == f"[-m][helpers.batch][same][{run.folder}][runs/r-again]"
    assert run.need("reproduce.sh", "05")


def test_a_changed_input_stops_the_script_before_the_run(run, tmp_path):
    (tmp_path / "squad.json").write_text("another")
    done = shell(run, tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert "squad.json: FAILED" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.endswith("specify their paths: BIOASQ_DIR=… SQUAD_FILE=…")


def test_inputs_may_lie_elsewhere(run, tmp_path):
    (tmp_path / "my $data, it's}").rename(tmp_path / "moved")
    done = shell(run, tmp_path, BIOASQ_DIR=str(tmp_path / "moved"))
    assert done.returncode == 0, done.stderr
    assert f"[--bioasq-dir][{tmp_path / 'moved'}]" in done.stdout


def test_the_data_that_come_with_the_kit_need_no_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mini = folder.Run.open(from_parameters("mini", run="m"))
    text = reproduce.script(mini.manifest())
    assert "The input files come with the kit" in text and "sha256sum" not in text
    assert "--run m-again --profile mini --seed 0\n" in text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    changed = mini.manifest()
    changed["kit"]["commit"] = "abc+changes"
    assert "uncommitted changes" in reproduce.script(changed)
    assert "wanted=abc\n" in reproduce.script(changed)


def copy(run, tmp_path, **changes):
    other = folder.Run.open(from_parameters(run="again"))
    manifest = run.manifest() | changes
    other.path("manifest.json").write_text(json.dumps(manifest))
    return other


def test_the_same_scores_and_what_explains_others(run, tmp_path, capsys):
    again = copy(run, tmp_path)
    scores(again, 10)
    assert reproduce.same_scores(run.folder, again.folder) == (True, [])
    packages = {**run.manifest()["packages"], "numpy": "1.0"}
    again = copy(run, tmp_path, packages=packages, python="3.12.1")
    scores(again, 11)
    equal, lines = reproduce.same_scores(run.folder, again.folder)
    assert not equal
    assert any(line.startswith("Python: ") and "now 3.12.1" in line for line in lines)
    assert any(line.startswith("package numpy: ") and line.endswith("now 1.0") for line in lines)
    assert "scores of 7B1" in lines[-1] and "'hits_strict': 11" in lines[-1]
    assert batch.main(["same", str(run.folder), str(again.folder)]) == 1
    assert capsys.readouterr().out.endswith("NOT the same scores\n")
    assert batch.main(["same", str(run.folder), str(run.folder)]) == 0


def test_other_batches_are_not_the_same(run, tmp_path):
    again = copy(run, tmp_path)
    again.path("scores.json").write_text(json.dumps({"batches": []}))
    assert not reproduce.same_scores(run.folder, again.folder)[0]
    assert not reproduce.same_scores(again.folder, run.folder)[0]


def test_a_run_without_scores_is_named(run, tmp_path, capsys):
    run.path("scores.json").write_text("{}")
    with pytest.raises(InputError, match="does not contain the scores of a run"):
        reproduce.same_scores(run.folder, run.folder)
    assert batch.main(["same", str(tmp_path / "none"), str(run.folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_manifest_names_the_code(run):
    kit = run.manifest()["kit"]
    assert len(kit["source_sha256"]) == 64
    assert kit["source_sha256"] == folder.Run.open(run.settings).manifest()["kit"]["source_sha256"]
