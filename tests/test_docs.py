"""The tests run every snippet that a reader could copy, or list the reason why they cannot.

Snippets are the fenced blocks in the Markdown files and in the model card, and the indented command
lines in a script's ``--help``. A ``text`` block right after a snippet is its expected output, where
``…`` stands for any text. The first test fails if a new snippet is in neither list.
"""

import dataclasses
import os
import pydoc
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers import batch
from helpers.config import PROFILES, Settings

ROOT = Path(__file__).parents[1]
PYTHON = "docs/python.md"  # its blocks continue one another
DOCS = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
PAGES = [
    "README.md",
    "notebooks/README.md",
    "notebooks/exercises/README.md",
    "docker/README.md",
    *(d for d in DOCS if d != PYTHON),
]
NOTEBOOKS = sorted(f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb"))
SCRIPTS = sorted((ROOT / "data_scripts").glob("*.py"))

# The snippet's first line: the file that it writes, or "" if its output is shown right after it.
# They run in this order, because some read what an earlier one wrote.
RUN = {
    "DATA=src/helpers/mini_data": "",
    '.venv/bin/python data_scripts/score_system.py "my system"': "",
    "python data_scripts/bioasq_to_squad.py src/helpers/mini_data/BioASQ-training-mini.json": "",
    "from helpers.config import from_parameters": "",
    "import torch": "",  # the model card's
    "from helpers.views import explorer": "",
    ".venv/bin/papermill notebooks/02_bioasq_to_squad.ipynb out.ipynb": "out.ipynb",
}
_FETCH = ".venv/bin/python data_scripts/download_checkpoint.py BioMegatron345mUncasedSQuADv1"
NOT_RUN = {
    "make walkthrough   # set up": "the CI script and test_notebooks.py run the same commands",
    ".venv/bin/python -m ipykernel install": "test_batch_kernel.py runs it in a folder of its own",
    "make lab": "opens JupyterLab and stays there",
    "make setup\n.venv/bin/python -m helpers.batch run --profile mini": "test_batch.py runs "
    "single notebooks",
    "sh bundle/install.sh": "test_bundle.py installs from a bundle",
    'import sys\n\nif "google.colab"': "test_online.py runs it with stand-ins",
    "python3.11 -m venv .venv": "the CI script installs in the same way, by make setup",
    "make walkthrough RUN=lab": "test_exercises.py makes courses, and test_nbgrader.py grades one",
    "make walkthrough PROFILE=bioasq-cpu": "needs the reader's own BioASQ files and an hour",
    "make walkthrough PROFILE=biomegatron": "needs NVIDIA's checkpoint, and a GPU or several",
    "make setup\n.venv/bin/python -m helpers.batch run --profile biomegatron": "test_slurm.py "
    "submits the job",
    "make seeds PROFILE=biomegatron": "needs NVIDIA's checkpoint",
    f"{_FETCH} --convert": "needs NGC; "
    "test_notebooks_megatron.py does the same against a local server",
    f"{_FETCH} --report": "needs NGC; "
    "test_checkpoint_report.py writes reports on files in the same format",
    ".venv/bin/python tests/standin.py work/ngc": "test_notebooks_megatron.py runs these steps",
    ".venv/bin/python -m helpers.batch run --profile bioasq-cpu": "needs the reader's own files",
    ".venv/bin/python -m helpers.batch table": "test_compare.py makes tables of finished runs",
    "python data_scripts/fine_tune.py --checkpoint minilm": "docs/scripts.md's command is run",
    "python data_scripts/predict.py --checkpoint runs/latest": "docs/scripts.md's command is run",
    "name: rates-and-contexts": "test_plan.py plans it",
    ".venv/bin/python -m helpers.batch sweep sweep.yaml": "test_batch.py plans and runs sweeps",
    "sbatch --array=0-11 docs/slurm/sweep.sbatch": "test_slurm.py submits the job",
    ".venv/bin/python -m helpers.batch predict": "test_shards.py answers folders of questions",
    '{"id": "q1", "answers"': "test_shards.py checks the fields",
    "profile, model, parameters": "the fields of scores.json; test_notebooks.py checks them",
}


def blocks(text):
    """(code, expected output or None) for each fenced block that is not itself an output."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$(\n*)", text, re.M | re.S)
    for n, (language, code, _) in enumerate(fences):
        if language != "text":
            following = fences[n + 1] if n + 1 < len(fences) else ("", "", "")
            adjacent = f"{code}```\n\n```text\n" in text
            yield code, following[1] if following[0] == "text" and adjacent else None


def help_snippets():
    """The command lines in the scripts' descriptions, with their continuation lines."""
    for path in SCRIPTS:
        description = path.read_text(encoding="utf-8").split('"""')[1]
        yield from re.findall(r"^ *(python (?:.*\\\n)*.*)$", description, re.M)


@pytest.fixture(scope="module")
def card(mini_run):
    return (mini_run / "model" / "transformers" / "README.md").read_text(encoding="utf-8")


def all_snippets():
    for page in PAGES:
        yield from (code for code, _ in blocks((ROOT / page).read_text(encoding="utf-8")))
    yield from help_snippets()


@pytest.fixture(scope="module")
def project(mini_run, tmp_path_factory):
    """A folder like a reader's clone, with a finished run and a ``.venv``."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("src", "data_scripts", "notebooks", "tests", "benchmarks", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "runs").mkdir()
    (folder / "runs" / "latest").symlink_to(mini_run)
    large = shutil.ignore_patterns("training", "model", "notebooks")
    shutil.copytree(mini_run, folder / "runs" / "lab", ignore=large)  # its notebook 02 runs again
    return folder


def test_each_snippet_is_run_or_excused_once():
    for code in all_snippets():
        known = [start for start in (*RUN, *NOT_RUN) if code.startswith(start)]
        assert len(known) == 1, f"{known or 'in neither list'}: {code}"
    unused = [s for s in NOT_RUN if not any(code.startswith(s) for code in all_snippets())]
    assert unused == []


@pytest.mark.notebooks
def test_snippets_do_what_the_text_says(project, card):
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in PAGES]
    texts.append(card.replace("THIS FOLDER", "runs/latest/model/transformers"))
    found = [pair for text in texts for pair in blocks(text)]
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for start, written in RUN.items():
        ((code, expected),) = [pair for pair in found if pair[0].startswith(start)]
        is_python = re.match(r"(from|import) ", code)
        command = [sys.executable, "-c", code] if is_python else ["bash", "-euc", code]
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{code}\n{done.stderr}"
        if written:
            assert (project / written).is_file()
        else:
            assert matches(done.stdout, expected), f"{code}\n{done.stdout}"


@pytest.mark.notebooks
def test_the_calls_from_python_print_what_the_page_says(tmp_path):
    """Run all blocks in one process, because each continues the one before."""
    found = list(blocks((ROOT / PYTHON).read_text(encoding="utf-8")))
    assert len(found) == 8 and all(expected for _, expected in found)
    mark = "--- end of block ---"
    code = f"\nprint({mark!r})\n".join(code for code, _ in found)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (code, expected), printed in zip(found, done.stdout.split(f"{mark}\n"), strict=True):
        assert matches(printed, expected), f"{code}\n{printed}"


def test_the_readme_is_a_front_page_that_lists_the_calls_from_python():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 180
    section = text.partition("\n## From Python\n")[2].partition("\n## ")[0]
    calls = re.findall(r"`(helpers[\w.]+)`", section)
    page = (ROOT / PYTHON).read_text(encoding="utf-8")
    assert len(calls) == page.count("\n## ") == 8
    for call in calls:
        assert pydoc.locate(call), call
        assert f"{call.rpartition('.')[2]}(" in page


def test_the_settings_page_names_every_setting():
    text = (ROOT / "docs/run-folder.md").read_text(encoding="utf-8")
    own_options = {"profile", "run", "runs_dir", "seed", "bioasq_dir"}  # not given by --set
    names = {field.name for field in dataclasses.fields(Settings)} - own_options
    assert names <= set(re.findall(r"`(\w+)`", text.partition("\n## Settings\n")[2]))


def anchors(text):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def read(page):
    """The text of a page, or of the Markdown cells of a notebook."""
    if not page.endswith(".ipynb"):
        return (ROOT / page).read_text(encoding="utf-8")
    cells = nbformat.read(ROOT / page, 4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("page", [*PAGES, PYTHON, *NOTEBOOKS])
def test_every_link_between_pages_leads_somewhere(page):
    text = read(page)
    links = re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", text)
    for link in (a or b for a, b in links if "://" not in a):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(read(os.path.relpath(target, ROOT))), link


def test_the_security_page_names_tests_and_files_that_exist():
    named = re.findall(r"`([\w./]+)`", read("docs/security.md"))
    tests = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("*.*")}
    assert len(named) > 30
    for name in named:
        if name.startswith("test_"):
            assert f"def {name}(" in tests or list((ROOT / "tests").rglob(name)), name
        elif re.search(r"/.*\.(py|jinja)$", name):
            assert {name, f"src/helpers/{name}"} & files, name


def test_the_glossary_is_sorted_and_names_each_term_once():
    terms = re.findall(r"^### (.*)$", read("docs/glossary.md"), re.M)
    plain = [re.sub(r"[^a-z0-9]", "", term.lower()) for term in terms]
    assert plain == sorted(set(plain))
    assert len(terms) > 90


def test_stops_and_exercises_in_the_guide_exist():
    notebooks = "".join(map(read, NOTEBOOKS))
    existing = set(re.findall(r"(?:Stop|Exercise) (\d\d\.\d)", notebooks))
    if not existing:
        pytest.skip("the notebooks have no stops and exercises yet")
    named = set(re.findall(r"\b(\d\d\.\d)\b", read("docs/instructor-guide.md")))
    assert named <= existing


def matches(printed, expected):
    """Whether a text is as expected, where … stands for any text."""
    wanted = ".*".join(map(re.escape, expected.strip().split("…")))
    return re.fullmatch(wanted, printed.strip(), re.S)


def commands():
    """The kit's command lines in all texts: fenced, in backticks, or in ``--help``."""
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
        lines = [line for code, _ in blocks(text) for line in code.splitlines()]
        lines += re.findall(r"`([^`\n]*(?:data_scripts/|helpers\.batch|benchmarks/)[^`\n]+)`", text)
        yield from lines
    yield from (code.replace("\\\n", " ") for code in help_snippets())


def test_every_option_in_a_command_exists(monkeypatch, capsys):
    programs = {}
    for line in commands():
        found = re.search(
            r"((?:data_scripts|benchmarks|tests)/\w+\.py|-m helpers\.batch \w+)", line
        )
        if found:
            options = re.findall(r"(?<!\S)\[?(--[a-z][\w-]*)", line[found.end() :])
            programs.setdefault(found[1], set()).update(options)
    assert len(programs) > 8
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for program, options in programs.items():
        with pytest.raises(SystemExit) as ended:  # in this process: a new one would import torch
            if program.startswith("-m helpers.batch"):
                batch.main([program.split()[-1], "--help"])
            else:
                monkeypatch.setattr(sys, "argv", [program, "--help"])
                runpy.run_path(str(ROOT / program), run_name="__main__")
        assert not ended.value.code
        known = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))
        assert options <= known, f"{program}: {options - known}"


def test_every_make_command_names_what_exists():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    names = {field.name for field in dataclasses.fields(Settings)}
    lines = [line for page in PAGES for line in (ROOT / page).read_text().splitlines()]
    makes = [m for line in lines for m in re.findall(r"(?:^|`)make [^`#]+", line)]
    assert len(makes) > 5
    for line in makes:
        words = shlex.split(line.strip("` "))[1:]
        assert words[0] in targets, line
        given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        assert given.get("PROFILE", "mini") in PROFILES, line
        assert {pair.split("=")[0] for pair in given.get("SET", "").split()} <= names, line
