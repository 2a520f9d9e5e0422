"""Exercise and solution notebooks, generated from the tagged cells of notebooks 01 to 05.

A generated notebook contains, in their original order, the parameters cell, the cell after it
(which opens the run), all cells tagged ``setup``, the lessons that participants complete, and the
exercises. Lessons are groups of neighboring cells tagged ``lesson``. Groups without a solution are
only for reading and are left out, and so are the cells after the last check of a group. In exercise
notebooks, a stub replaces each solution, and the answers ("What we measured") are missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from helpers.config import ROOT, InputError
from helpers.io import write_text

NOTEBOOKS = ROOT / "notebooks"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = '# your code here\nraise NotYet("your code is missing")'
_OPEN = "Run.open(settings)"  # changes the run, so generated notebooks use Run.find
_FOUND = "\nsettings = folder.settings  # with the path of the run that was found"
_ANSWER = "What we measured"
_SECTION = re.compile(r"^## Exercises$", re.M)
_EXERCISE = re.compile(r"^### Exercise (\d\d\.\d)\b", re.M)
_DEFINED = re.compile(r"^(?:def )?(\w+)(?:\(| = )", re.M)
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")  # a relative link: text, target

_TASK = """\
# Exercises for notebook {title}

Replace each line `raise NotYet(…)` with your code, run the cell, and then run the check below it.
A check says what is still wrong. """
_TEXTS = {
    "exercises": _TASK + "[The solutions](solutions/{name}) are in a separate notebook.",
    "solutions": """\
# Solutions for notebook {title}

These are solutions to [the exercises](../{name}), with the results that we measured.""",
    "course": _TASK + "After you submit this notebook, further checks run during grading.",
}
_READS = """

This notebook reads a run and does not change it. For the lessons, first run the notebooks
before {number}. For the exercises, also run notebook {number} itself. Instead of running these
notebooks, you can run `make walkthrough` and set `run = "mini"` below.

*`data_scripts/make_exercises.py` generated this notebook from `notebooks/{name}`. To change an
exercise, change it there.*"""


@dataclass(frozen=True)
class Part:
    """A cell of a generated notebook.

    ``role`` is "setup" (code as it is), "text", "solution", "check" or "answer". ``name`` says what
    a solution or a check belongs to: the number of the exercise, such as "02.1", or the function or
    variable that the lesson defines.
    """

    cell: NotebookNode
    role: str
    name: str = ""


def sources(folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the numbered notebooks with something to complete, in order."""
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    return [path for path in paths if any(map(_is_solution, nbformat.read(path, 4).cells))]


def read(path: Path) -> list[Part]:
    """Return the parts of a notebook that its generated notebooks contain.

    Raises an ``InputError`` that names the cell if a solution is not in a lesson or an exercise, if
    its markers do not pair up, or if it is not followed by a check.
    """
    cells = nbformat.read(path, 4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    (parameters,) = [n for n, cell in enumerate(code) if "parameters" in _tags(cell)]
    opens = code[parameters + 1]
    if _OPEN not in opens.source:
        raise InputError(f"{path.name}, cell {opens.id}: must contain {_OPEN}")
    parts = []
    for group in _groups(cells):
        kinds = _tags(group[0]) & {"lesson", "exercise"}
        if any(map(_is_solution, group)):
            if not kinds:
                raise InputError(f"{path.name}, cell {group[0].id}: tag it lesson or exercise")
            practice = list(_practice(path, group))
            checks = [n for n, part in enumerate(practice) if part.role == "check"]
            parts += practice[: checks[-1] + 1] if "lesson" in kinds else practice
        else:
            chosen = {"parameters", "setup"}
            parts += [Part(c, "setup") for c in group if c is opens or chosen & _tags(c)]
    return parts


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _is_solution(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and BEGIN in cell.source


def _groups(cells: Sequence[NotebookNode]) -> list[list[NotebookNode]]:
    """Group neighboring cells of a lesson or an exercise; each other cell is its own group."""
    groups: list[list[NotebookNode]] = []
    before: set[str] = set()
    for cell in cells:
        kinds = _tags(cell) & {"lesson", "exercise"}
        if kinds and kinds == before:
            groups[-1].append(cell)
        else:
            groups.append([cell])
        before = kinds
    return groups


def _practice(path: Path, group: Sequence[NotebookNode]) -> Iterator[Part]:
    """Yield the parts of a group of lessons or exercises."""
    exercise, waiting = "", ""  # number of the exercise; name of a solution without a check yet
    for cell in group:
        if cell.cell_type == "markdown":
            exercise = (_EXERCISE.findall(cell.source) or [exercise])[-1]
            if _SECTION.search(cell.source):  # its text is about the collapsed solutions
                cell = nbformat.v4.new_markdown_cell("## Exercises", id=cell.id)
            yield Part(cell, "answer" if exercise and _ANSWER in cell.source else "text")
        elif _is_solution(cell):
            defined = _DEFINED.findall(cell.source) if "lesson" in _tags(cell) else [exercise]
            name = defined[0] if defined else ""
            marks = [line.strip() for line in cell.source.split("\n") if "SOLUTION" in line]
            if marks != [BEGIN, END] or not name or waiting:
                raise InputError(
                    f"{path.name}, cell {cell.id}: needs one {BEGIN!r} and then one {END!r}, a "
                    "heading '### Exercise NN.N' above it (or, in a lesson, a definition), and a "
                    "code cell below that checks it"
                )
            waiting = name
            yield Part(cell, "solution", name)
        else:
            yield Part(cell, "check" if waiting else "setup", waiting)
            waiting = ""
    if waiting:
        raise InputError(f"{path.name}: no code cell checks the solution to {waiting}")


def notebook(path: Path, kind: str) -> NotebookNode:
    """Return the generated notebook of a kind ("exercises" or "solutions") for ``path``."""
    cells = [head(path, kind)]
    if kind == "exercises":
        cells.append(import_cell())
    up = "../" if kind == "exercises" else "../../"
    for part in read(path):
        cell = plain(part.cell, up)
        if kind == "exercises" and part.role == "solution":
            cell.source = blanked(cell.source)
        if kind == "solutions" or part.role != "answer":
            cells.append(cell)
    return nbformat.v4.new_notebook(cells=cells, metadata=nbformat.read(path, 4).metadata)


def head(path: Path, kind: str) -> NotebookNode:
    """Return the first cell of a notebook of a kind ("exercises", "solutions" or "course")."""
    title = nbformat.read(path, 4).cells[0].source.split("\n")[0].removeprefix("# ")
    source = (_TEXTS[kind] + _READS).format(title=title, name=path.name, number=path.name[:2])
    return nbformat.v4.new_markdown_cell(source, id="generated-head")


def import_cell() -> NotebookNode:
    """Return the cell that imports the exception that a stub raises."""
    source = (
        "from helpers.views import lessons\n"
        "from helpers.views.lessons import NotYet  # stops a cell until it contains your code\n\n"
        "lessons.explain_missing_names()"
    )
    return nbformat.v4.new_code_cell(source, id="generated-import")


def plain(cell: NotebookNode, up: str | None) -> NotebookNode:
    """Copy a cell without outputs and not collapsed; the copy only reads a run.

    ``up`` is the path from the copy's folder to the notebooks, for relative links. ``None`` means
    that the copy is not in the clone, so only the texts of these links remain.
    """
    copy = cell.copy()
    tags = [tag for tag in cell.metadata.get("tags", []) if tag == "parameters"]
    copy.metadata = NotebookNode({"tags": tags} if tags else {})
    if cell.cell_type == "markdown":
        # Without the paragraph about the exercise notebook, because the reader is already there.
        paragraphs = [p for p in cell.source.split("\n\n") if "](exercises/" not in p]
        text = "\n\n".join(paragraphs)
        copy.source = _LINK.sub(r"\1" if up is None else rf"[\1]({up}\2)", text)
    else:
        copy.update(outputs=[], execution_count=None)
        if _OPEN in cell.source:
            copy.source = cell.source.replace(_OPEN, "Run.find(settings)") + _FOUND
    return copy


def blanked(source: str) -> str:
    """Return the source of a cell with the stub in place of its solution."""
    before, _, rest = source.partition(BEGIN)
    indent = before[before.rindex("\n") + 1 :] if "\n" in before else before
    after = rest.partition(END)[2]
    return before + STUB.replace("\n", f"\n{indent}") + after


def make(folder: Path = NOTEBOOKS) -> list[Path]:
    """Write all generated notebooks below ``folder`` and return their paths.

    Raises ``InputError`` if somebody has run one of them, because it may contain their work.
    """
    wanted = _generated(folder)
    for path in filter(Path.is_file, wanted):
        if any(cell.get("execution_count") for cell in nbformat.read(path, 4).cells):
            raise InputError(f"{path}: somebody has worked in this notebook; move it elsewhere")
    return [write_text(path, text) for path, text in wanted.items()]


def check(folder: Path = NOTEBOOKS) -> list[str]:
    """Return one line for each file that differs from what ``make`` would write."""
    wanted = _generated(folder)
    found = [p for place in _places(folder).values() for p in place.glob("[0-9][0-9]_*.ipynb")]
    extra = [f"{path}: is not generated; delete it" for path in found if path not in wanted]
    return extra + [
        f"{path}: does not match {folder / path.name}; run data_scripts/make_exercises.py"
        for path, text in wanted.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def _places(folder: Path) -> dict[str, Path]:
    return {"exercises": folder / "exercises", "solutions": folder / "exercises" / "solutions"}


def _generated(folder: Path) -> dict[Path, str]:
    """Map the path of each generated notebook to its content."""
    return {
        place / path.name: nbformat.writes(notebook(path, kind)) + "\n"
        for kind, place in _places(folder).items()
        for path in sources(folder)
    }
