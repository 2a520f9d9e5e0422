"""GitHub's workflows and the shell scripts: valid, with few rights, and their commands exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES}
JOBS = [(*pair, flow) for flow in WORKFLOWS.values() for pair in flow["jobs"].items()]
STEPS = [step for _, job, _ in JOBS for step in job["steps"]]
SHELL = [step["run"] for step in STEPS if "run" in step]
SCRIPTS = [
    ".ci/run", ".binder/postBuild", "data_scripts/workshop/install.sh",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs/slurm").glob("*.sbatch"))),
]  # fmt: skip
TOOLS = Path(sys.executable).parent


def check(schema, *paths):
    command = [TOOLS / "check-jsonschema", "--builtin-schema", schema, *paths]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    "schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"]
)
def test_the_workflows_conform_to_the_schema(schema, tmp_path):
    assert set(WORKFLOWS) == {"ci", "weekly"}
    done = check(schema, *FILES)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(FILES[0].read_text().replace("timeout-minutes: ", "timeout: "))
    assert check(schema, wrong).returncode == 1


def shellcheck(*paths, **options):
    command = [TOOLS / "shellcheck", *paths]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing_in_the_scripts(name):
    done = shellcheck(name)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("code", SHELL)
def test_shellcheck_finds_nothing_in_the_steps(code):
    assert "${{" not in code  # values go through env, where they cannot become code
    done = shellcheck("--shell=bash", "-", input=code)
    assert done.returncode == 0, done.stdout


def test_only_the_report_may_write_and_only_issues():
    for name, job, flow in JOBS:
        assert flow["permissions"] == {"contents": "read"}
        expected = {"issues": "write"} if name == "report" else None
        assert job.get("permissions") == expected
    for step in STEPS:
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+\.\d+\.\d+", step["uses"])
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_the_steps_are_the_commands_of_the_readme():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    made = {name: [] for name in WORKFLOWS}
    for name, flow in WORKFLOWS.items():
        for job in flow["jobs"].values():
            lines = [step.get("run", "") for step in job["steps"]]
            made[name] += [line.split()[1] for line in lines if line.startswith("make ")]
    assert made["ci"] == ["setup", "lint", "test", "walkthrough"]
    assert {"setup", "test", "walkthrough", "audit"} <= set(made["weekly"]) <= set(targets)
    assert WORKFLOWS["weekly"]["jobs"]["ranges"]["env"]["PINS"] == ""


@pytest.mark.parametrize(("known", "action"), [("", "create"), ("7", "comment 7")])
def test_a_failure_opens_one_issue_and_comments_on_it_later(tmp_path, known, action):
    job = WORKFLOWS["weekly"]["jobs"]["report"]
    stand_in = tmp_path / "gh"
    stand_in.write_text('#!/bin/sh\necho "$@" >> calls\n[ "$2" != list ] || echo "$KNOWN"\n')
    stand_in.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "KNOWN": known}
    env |= {"TITLE": job["env"]["TITLE"], "BODY": "Why and where"}
    command = ["bash", "-e", "-c", job["steps"][0]["run"]]
    subprocess.run(command, cwd=tmp_path, env=env, check=True)
    looked, wrote = (tmp_path / "calls").read_text().splitlines()
    assert looked.startswith("issue list --state open")
    assert wrote.startswith(f"issue {action}") and wrote.endswith("--body Why and where")
