"""The project files agree with each other, and they do what their comments and the docs say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import licenses
import locked
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import helpers

ROOT = Path(__file__).parents[1]
_TOML = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, BUILD = _TOML["project"], _TOML["build-system"]
NOT_OURS = {"course", "work", ".git", ".venv", ".cache", "runs", "wandb", "build", "dist", "shared"}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def own_files() -> list[Path]:
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name not in NOT_OURS and not name.endswith((".egg-info", "cache__", "_cache"))
            if name not in (".hypothesis", ".ipynb_checkpoints")
        ]
        found += [Path(folder) / name for name in names]
    return found


def test_versions_agree():
    version = PROJECT["version"]
    assert helpers.__version__ == version
    assert yaml.safe_load(text("CITATION.cff"))["version"] == version
    assert re.search(r"^## (\S+)", text("CHANGELOG.md"), re.MULTILINE)[1] == version
    for service in yaml.safe_load(text("docker/compose.yaml"))["services"].values():
        assert f":{version}-" in service["image"]


@pytest.mark.parametrize("build", ["cpu", "cuda"])
@pytest.mark.parametrize("system", ["linux", "darwin"])
@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_every_requirement_is_pinned_within_its_range(build, system, python):
    environment = {"sys_platform": system, "python_version": python, "python_full_version": python}
    known = locked.pins("build", build, "packages", environment=locked.LINUX | environment)
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["workshop"], *extras["dev"]]
    wanted.remove(f"{PROJECT['name']}[workshop]")  # dev contains the other extra
    wanted += BUILD["requires"]
    for requirement in map(Requirement, wanted):
        version = known[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), (requirement, version)
    for requirement in map(Requirement, PROJECT["dependencies"]):
        # Without an upper bound, an installation without pins would soon differ from ours.
        assert {"==", "<"} & {part.operator for part in requirement.specifier}, requirement


@pytest.mark.parametrize("name", ["build", "cpu", "cuda", "packages"])
def test_every_pinned_package_has_its_hashes(name):
    assert locked.entries(name)
    for requirement, hashes in locked.entries(name):
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes)
        assert len(set(hashes)) == len(hashes), requirement


def unpinned(installed: dict[str, str], known: dict[str, str]) -> set[str]:
    """Return the packages without a pin, and the pins without a package if all versions agree.

    A new version may drop a dependency, so a superfluous pin means something only in an environment
    that was made from these pins.
    """
    found = installed.keys() - known.keys() - {PROJECT["name"], "pip", "wheel"}
    if all(known[name] == installed[name] for name in installed.keys() & known.keys()):
        found |= known.keys() - installed.keys()
    return found


def test_every_installed_package_is_pinned():
    installed = {
        canonicalize_name(package.metadata["Name"]): package.version
        for package in licenses.packages()
    }
    cuda = sys.platform == "linux" and not installed["torch"].endswith("+cpu")
    installed["torch"] = installed["torch"].partition("+")[0]
    known = locked.pins("build", "cuda" if cuda else "cpu", "packages", environment=None)
    assert unpinned(installed, known) == set()


def test_packages_without_a_pin_and_superfluous_pins_are_found():
    known = {"numpy": "2", "left": "1"}
    assert unpinned({"numpy": "2", "new": "1", "pip": "9"}, known) == {"new", "left"}
    assert unpinned({"numpy": "3"}, known) == set()  # the newest versions, not the pins


def test_pinned_packages_accept_the_python_of_debian_12():
    known = locked.pins(*locked.CPU)
    for package in licenses.packages():
        name, needs = canonicalize_name(package.name), package.metadata.get("Requires-Python")
        if needs and known.get(name) == package.version:
            assert SpecifierSet(needs).contains("3.11.2"), (name, package.version, needs)


def test_environments_take_the_same_python_and_torch():
    environment = yaml.safe_load(text("environment.yml"))
    assert environment["name"] == PROJECT["name"]
    python = next(item for item in environment["dependencies"] if str(item).startswith("python="))
    version = python.removeprefix("python=")
    assert f"\nARG BASE=python:{version}-" in text("docker/Dockerfile")
    assert f"\nARG PYTHON=python{version}\n" in text("docker/Dockerfile")
    assert f"in python{version} " in text("Makefile")
    assert PROJECT["requires-python"].startswith(f">={version},")
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    # Conda itself installs only Python and pip, because locks/ would not pin its packages.
    assert environment["dependencies"][:-1] == [python, "pip"]
    assert pip[0].startswith("--extra-index-url https://")
    assert pip[1:] == [f"-r locks/{name}.txt" for name in locked.CPU]


@pytest.mark.long
def test_the_pip_part_of_the_conda_environment_installs(tmp_path):
    environment = yaml.safe_load(text("environment.yml"))
    *specs, pip = environment["dependencies"]
    assert all(re.fullmatch(r"[a-z][a-z0-9_-]*(=[0-9.]+)?", spec) for spec in specs)
    # Not every machine can reach PyTorch's index, and pip may have another source of this build.
    lines = [line.replace("-r ", f"-r {ROOT}/") for line in pip["pip"] if "index" not in line]
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    cpu = ["-m", "pip", "download", "--no-deps", "-d", tmp_path, "-r", ROOT / "locks" / "cpu.txt"]
    found = subprocess.run([python, *cpu], capture_output=True, text=True)
    if "No matching distribution" in found.stderr:
        pytest.skip("pip finds no CPU build of torch here")
    for command in (["install", "-r", tmp_path / "requirements.txt"], ["check"]):
        subprocess.run([python, "-m", "pip", *command], check=True)
    subprocess.run([python, "-c", "import jupyterlab, lightning, nemo, papermill"], check=True)


def test_container_runs_as_an_ordinary_user_on_this_host_only():
    dockerfile = text("docker/Dockerfile")
    users = re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE)
    assert users and users[-1].split(":")[0] not in ("root", "0")
    stages = re.findall(r"^FROM \S+ AS (\S+)", dockerfile, re.MULTILINE)
    for service in yaml.safe_load(text("docker/compose.yaml"))["services"].values():
        assert service["build"]["target"] in stages
        for port in service["ports"]:
            assert port.startswith(("127.0.0.1:", "${CLASS_ADDRESS:-127.0.0.1}:"))
        assert (ROOT / "docker" / service["build"]["context"]).resolve() == ROOT.resolve()
    allowed = [
        line[1:] for line in text("docker/Dockerfile.dockerignore").split() if line[0] == "!"
    ]
    copied = [
        source
        for line in re.findall(r"^COPY (?:--chown=kit:kit )?([^-].*)$", dockerfile, re.MULTILINE)
        for source in line.split()[:-1]
        if source != "."
    ]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in allowed, source


def test_hooks_use_tools_of_the_dev_environment():
    tools = {Requirement(item).name for item in PROJECT["optional-dependencies"]["dev"]}
    hooks = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "nbstripout"}
    for hook in hooks:
        folder, tool = os.path.split(hook["entry"].split()[0])
        assert folder == ".venv/bin" and tool in tools
    for hook in hooks:
        assert "jupyter" in hook.get("types_or", hook.get("types"))


def test_citation_and_license():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    license_text = text("LICENSE")
    assert "Version 2.0, January 2004" in license_text and "END OF TERMS" in license_text
    assert len(license_text.split()) > 1500


def test_no_notebook_carries_outputs():
    notebooks = [path for path in own_files() if path.suffix == ".ipynb"]
    assert notebooks
    for path in notebooks:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == [] and cell["execution_count"] is None, path.name


def test_no_file_names_this_machine_or_a_registry():
    # Built from pieces, because this file would fail the test otherwise.
    places = ["/" + name + "/" for name in ("work", "root", "Users")] + ["/" + "tmp/w"]
    hosts = ["py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "conda.ana" + "conda.org"]
    for path in own_files():
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for sign in places + hosts:
            assert sign not in content, f"{path.relative_to(ROOT)} holds {sign}"


def test_ci_script_is_a_program():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.fixture
def make(tmp_path):
    if not shutil.which("make"):
        pytest.skip("make is not installed; docs/setup.md says what to type instead")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "locks", tmp_path / "locks")

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        # If make runs these tests, it passes its own settings on to them.
        ours = {"PYTHON", "PROFILE", "BIOASQ_DIR", "RUN", "SEED", "SEEDS", "TORCH", "TORCH_INDEX"}
        ours |= {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PINS", "MAKEOVERRIDES"}
        clean = {name: value for name, value in os.environ.items() if name not in ours}
        clean |= environment
        return subprocess.run(
            ["make", *arguments], cwd=tmp_path, env=clean, capture_output=True, text=True
        )

    return run


def test_make_without_a_target_lists_the_targets(make):
    listed = re.findall(r"^make ([\w-]+)", make().stdout, re.MULTILINE)
    promised = re.search(r"^\.PHONY: (.*)$", text("Makefile"), re.MULTILINE)[1].split()
    assert listed == promised
    assert len(text("Makefile").splitlines()) < 100


def test_missing_python_is_one_clear_line_and_leaves_nothing(make, tmp_path):
    done = make("setup", "PYTHON=no-such-python")
    assert done.returncode == 2
    first, *rest = done.stderr.splitlines()
    assert first.startswith("no-such-python is missing") and "PYTHON=/path/to/python3.11" in first
    assert all(line.startswith("make: ***") for line in rest)
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("working", "chosen"),
    [
        ("3.11 3.12", "python3.11"),
        ("3.12", "python3.12"),
        ("3.13", "python3.11"),
        ("", "python3.11"),
    ],
)
def test_make_finds_a_python_that_works(make, tmp_path, working, chosen):
    tools = tmp_path / "bin"
    tools.mkdir()
    for version in ("3.11", "3.12", "3.13"):  # a command of pyenv exists even if it cannot work
        command = tools / f"python{version}"
        command.write_text(f"#!/bin/sh\nexit {int(version not in working.split())}\n")
        command.chmod(0o755)
    found = make("-n", "setup", PATH=f"{tools}:{os.environ['PATH']}").stdout
    assert f"\n{chosen} -m venv .venv\n" in found


def test_setup_states_its_cost_in_one_line_before_it_downloads(make, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || { echo "ran $@"; exit 1; }\n')
    python.chmod(0o755)
    cost, ran, *_ = make("setup", f"PYTHON={python}").stdout.splitlines()
    assert "2.4 GB" in cost and "CUDA" in cost and "TORCH_INDEX" in cost
    assert ran.endswith("-m venv .venv")  # make prints the command; nothing ran before it


@pytest.fixture
def installed(make, tmp_path):
    """``installed(*arguments)``: what ``make setup`` asks of a Python that records it."""
    python = tmp_path / "python"
    python.write_text(
        """#!/bin/sh
[ "$1 $2" = "-m venv" ] && mkdir -p .venv/bin && cp "$0" .venv/bin/python
[ "$1 $3" = "-m install" ] || exit 0
shift 3
echo "$@" >> calls
case "$*" in *cpu.txt) exit ${NO_CPU_BUILD:-0};; esac
"""
    )
    python.chmod(0o755)

    def run(*arguments, **environment):
        done = make("setup", f"PYTHON={python}", *arguments, **environment)
        return done, (tmp_path / "calls").read_text().splitlines()

    return run


LOCKED = "--require-hashes --no-deps"


@pytest.mark.parametrize(
    ("arguments", "torch"),
    [
        ([], "-r locks/cpu.txt"),
        (["TORCH=cuda"], "-r locks/cuda.txt"),
        (["TORCH_INDEX=https://a/b"], "--index-url=https://a/b -r locks/cpu.txt"),
    ],
)
def test_setup_installs_only_files_with_known_hashes(installed, arguments, torch):
    done, calls = installed(*arguments)
    assert done.returncode == 0
    assert calls == [
        f"{LOCKED} -r locks/build.txt",
        f"{LOCKED} {torch}",
        f"{LOCKED} --no-build-isolation -r locks/packages.txt",
        "--no-deps --no-build-isolation -e .",
    ]


def test_setup_takes_cuda_where_there_is_no_cpu_build(installed):
    done, calls = installed(NO_CPU_BUILD="1")
    assert "no CPU build of torch" in done.stdout
    assert calls[1:3] == [f"{LOCKED} -r locks/cpu.txt", f"{LOCKED} -r locks/cuda.txt"]


def test_setup_takes_no_other_build_than_the_chosen_one(installed):
    done, calls = installed("TORCH=cpu", NO_CPU_BUILD="1")
    assert done.returncode == 2 and calls[1:] == [f"{LOCKED} -r locks/cpu.txt"]


def test_without_pins_make_installs_the_ranges(installed):
    _, calls = installed("PINS=", "TORCH_INDEX=https://a/b")
    torch = next(item for item in PROJECT["dependencies"] if item.startswith("torch"))
    assert calls == [f"--no-deps --index-url=https://a/b {torch}", "-e .[dev]"]


def test_walkthrough_passes_its_settings_on(make, tmp_path):
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready").touch()
    run = ".venv/bin/python -m helpers.batch run"
    assert make("-n", "walkthrough").stdout.split() == f"{run} --profile mini".split()
    said = make(
        "-n", "walkthrough", "PROFILE=bioasq-cpu", "BIOASQ_DIR=/a b", "RUN=mine", "SEED=3"
    ).stdout
    assert said.split() == (
        f'{run} --profile bioasq-cpu --bioasq-dir "/a b" --run "mine" --seed 3'.split()
    )


def test_setup_is_not_repeated_until_the_pins_change(make, tmp_path):
    assert "locks/install.sh" in make("-n", "test").stdout
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready").touch()
    assert "locks/install.sh" not in make("-n", "test").stdout
    later = (tmp_path / ".venv" / ".ready").stat().st_mtime + 10
    os.utime(tmp_path / "locks" / "cuda.txt", (later, later))
    assert "locks/install.sh" in make("-n", "test").stdout


def test_make_lab_opens_an_existing_notebook_in_the_root_folder(make, tmp_path):
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready").touch()
    command = make("-n", "lab").stdout
    assert (ROOT / re.search(r"default_url=/lab/tree/(\S+)", command)[1]).is_file()
    assert f'JUPYTER_CONFIG_PATH="{tmp_path}/.jupyter"' in command
    (page,) = (ROOT / ".jupyter" / "labconfig").iterdir()
    disabled = json.loads(page.read_text())["disabledExtensions"]
    assert "@jupyterlab/apputils-extension:announcements" in disabled  # asks about news otherwise
