"""An nbgrader course: one assignment per notebook, its settings, and the hidden checks.

The notebooks in ``source/`` are valid sources for nbgrader 0.9 (cell metadata schema 3). Each
solution has a visible check, and a cell after it calls the hidden checks. Each of the two checks is
worth one point. The hidden checks are in ``checks/``, which nbgrader never copies to participants.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from helpers.config import InputError
from helpers.io import read_text, write_text
from workshop import exercises
from workshop.exercises import Part

HERE = Path(__file__).parent
_HIDDEN = """\
# During grading, this cell runs further checks.
### BEGIN HIDDEN TESTS
import hidden_checks

hidden_checks.check("{name}", globals())
### END HIDDEN TESTS"""
_CONFIG = '''\
"""Settings of nbgrader for the exercises. Run the nbgrader commands in this folder."""

import os
import sys
from pathlib import Path

here = Path(__file__).resolve().parent
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "bioasq-kit"
c.CourseDirectory.root = str(here)
c.Exchange.root = str(here / "exchange")  # participants need write access to this folder
c.ClearSolutions.code_stub = {{"python": {stub!r}}}
c.Execute.timeout = {timeout}  # seconds per cell, after which grading stops the cell
c.Execute.startup_timeout = 300  # seconds for the kernel

# nbgrader starts alembic, which is in the folder of this Python. PATH may lack this folder.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

# Only the grading process uses these: the hidden checks and the seed of their random inputs.
checks = str(here / "checks")
sys.path.append(checks)
from grading import PREPROCESSORS  # noqa: E402

c.Autograde.autograde_preprocessors = PREPROCESSORS
os.environ["PYTHONPATH"] = os.pathsep.join([checks, os.environ.get("PYTHONPATH", "")])
os.environ["HIDDEN_CHECKS_SEED"] = "{seed}"
'''


def make(
    folder: Path,
    run: Path,
    timeout: int = 180,
    *,
    notebooks: Path = exercises.NOTEBOOKS,
    checks: Path = HERE / "hidden_checks.py",
) -> list[Path]:
    """Write a course to a new folder and return the paths of its files.

    Args:
        folder: the course folder, which must not exist yet.
        run: the folder of the run that submissions read. The course contains a link to it.
        timeout: seconds after which grading stops a cell.
        notebooks: folder of the numbered notebooks.
        checks: the file with the hidden checks.

    Raises ``InputError`` if the folder exists, if there is no run, or if a notebook is not valid.
    """
    if folder.exists():
        raise InputError(f"{folder}: already exists; choose a new folder")
    if not (run / "manifest.json").is_file():
        raise InputError(f"{run}: contains no run; make one with: make walkthrough RUN=lab")
    if timeout < 1:
        raise InputError(f"--timeout must be at least 1 second, not {timeout}")
    texts = {
        folder / "source" / f"exercises-{path.name[:2]}" / path.name: notebook(path, run.name)
        for path in exercises.sources(notebooks)
    }
    config = _CONFIG.format(stub=exercises.STUB, timeout=timeout, seed=secrets.randbelow(10**6))
    written = [write_text(path, nbformat.writes(made) + "\n") for path, made in texts.items()]
    written.append(write_text(folder / "nbgrader_config.py", config))
    written.append(write_text(folder / "checks" / "hidden_checks.py", read_text(checks)))
    written.append(write_text(folder / "checks" / "grading.py", read_text(HERE / "grading.py")))
    (folder / "runs").mkdir()
    (folder / "runs" / run.name).symlink_to(run.resolve(), target_is_directory=True)
    return written


def notebook(path: Path, run: str) -> NotebookNode:
    """Return the nbgrader source for a numbered notebook, which reads the run named ``run``."""
    cells = [exercises.head(path, "course"), _locked(exercises.import_cell())]
    for part in exercises.read(path):
        if part.role != "answer":
            cells += _graded(part)
    (parameters,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = re.sub(
        r'^run = "\w+"', f'run = "{run}"', parameters.source, flags=re.MULTILINE
    )
    return nbformat.v4.new_notebook(cells=cells, metadata=nbformat.read(path, 4).metadata)


def _graded(part: Part) -> Iterator[NotebookNode]:
    """Yield the cell of a part with its metadata and, after a check, the cell of hidden checks."""
    cell = exercises.plain(part.cell, None)
    if part.role == "setup":
        yield _locked(cell)
    elif part.role == "solution":
        yield _marked(cell, solution=True)
    elif part.role == "check":
        yield _locked(cell, points=1)
        hidden = _HIDDEN.format(name=part.name)
        yield _locked(nbformat.v4.new_code_cell(hidden, id=f"{cell.id}-hidden"), points=1)
    else:
        yield cell


def _locked(cell: NotebookNode, points: int | None = None) -> NotebookNode:
    """Lock a cell, so that grading uses the teacher's copy. With ``points``, it is a test."""
    graded = {} if points is None else {"grade": True, "points": points}
    return _marked(cell, locked=True, **graded)


def _marked(cell: NotebookNode, **flags) -> NotebookNode:
    known = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False}
    cell.metadata["nbgrader"] = {**known, "grade_id": cell.id, **flags}
    return cell
