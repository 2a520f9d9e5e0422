"""The commit mark of a run: code and cells count, what running a notebook saves does not."""

import json
import subprocess

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.run import provenance

NOTEBOOK = "notebooks/00_start_here.ipynb"
PARAMETERS = 'profile = "mini"  # which values\nrun = "lab"\nseed = 0\n'


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """A clone of a kit with one module and one notebook, committed."""
    root = tmp_path / "kit"
    module = root / "src" / "helpers" / "run" / "code_version.py"
    module.parent.mkdir(parents=True)
    module.write_text("x = 1\n")
    (root / "notebooks").mkdir()
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell("print(1)\nprint(2)"),
    ]
    nbformat.write(new_notebook(cells=cells), root / NOTEBOOK)
    monkeypatch.setattr(provenance, "__file__", str(module))
    return root


def git(root, *words):
    name = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "-C", str(root), *name, *words], check=True, capture_output=True)


@pytest.fixture
def clean(kit):
    git(kit, "init", "-q")
    git(kit, "add", "-A")
    git(kit, "commit", "-q", "-m", "start")
    return provenance.commit()


def edit(root, change):
    notebook = nbformat.read(root / NOTEBOOK, 4)
    change(notebook)
    (root / NOTEBOOK).write_text(json.dumps(notebook, indent=4))  # JupyterLab's own layout


def ran(notebook):
    notebook.metadata["kernelspec"] = {"name": "another", "display_name": "Another"}
    notebook.metadata["widgets"] = {"state": {}}
    for number, cell in enumerate(notebook.cells, 1):
        cell.metadata["execution"] = {"iopub.execute_input": "now"}
        if cell.cell_type == "code":
            cell.execution_count = number
            cell.outputs = [new_output("stream", text="2\n")]


def test_without_a_clone_there_is_no_commit(kit):
    assert provenance.commit() is None


def test_a_clean_clone_has_its_commit(kit, clean):
    assert len(bytes.fromhex(clean)) == 20


def test_running_and_saving_a_notebook_is_no_change(kit, clean):
    edit(kit, ran)
    assert provenance.commit() == clean


def test_the_values_of_parameters_are_no_change(kit, clean):
    lines = "profile = 'bioasq-cpu'\nrun = \"my run\"  # mine\nseed = 12\n"
    edit(kit, lambda notebook: notebook.cells[1].update(source=lines))
    assert provenance.commit() == clean
    content = (kit / NOTEBOOK).read_bytes()
    assert provenance.notebook_parameters(content) == {
        "profile": "bioasq-cpu",
        "run": "my run",
        "seed": 12,
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda notebook: notebook.cells[2].update(source="print(1)\nprint(3)"),
        lambda notebook: notebook.cells[0].update(source="# Other title"),
        lambda notebook: notebook.cells.pop(),
        lambda notebook: notebook.cells.append(new_code_cell("1")),
        lambda notebook: notebook.cells[1].update(source=PARAMETERS + "import os\n"),
        lambda notebook: notebook.cells[1].update(source=PARAMETERS + "epochs = 9\n"),
        lambda notebook: notebook.cells[1].update(source=PARAMETERS.replace("0", "len('x')")),
        lambda notebook: notebook.pop("cells"),
    ],
)
def test_a_changed_cell_is_a_change(kit, clean, change):
    edit(kit, ran)
    edit(kit, change)
    assert provenance.commit() == clean + "+changes"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("src/helpers/run/code_version.py", "x = 2\n"),
        ("src/helpers/new.py", "y = 1\n"),
        ("locks/packages.txt", "torch==0\n"),
        ("notebooks/06_new.ipynb", "{}"),
        (NOTEBOOK, "<<<<<<< HEAD"),
        (NOTEBOOK, None),
    ],
)
def test_other_changes_of_the_code(kit, clean, name, content):
    (kit / name).parent.mkdir(exist_ok=True)
    (kit / name).unlink() if content is None else (kit / name).write_text(content)
    assert provenance.commit() == clean + "+changes"


def test_files_beside_the_code_are_no_change(kit, clean):
    for name in ("data.json", "notebooks/Untitled.ipynb", "notes.txt"):
        (kit / name).write_text("mine")
    assert provenance.commit() == clean
