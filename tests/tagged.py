"""A small notebook with a lesson and three exercises, and hidden checks for it."""

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HIDDEN = """
CHECKS["double"] = lambda names: _expect(value(names, "double")(21) == 42, "double(21) must be 42")
for number in "123":
    CHECKS[f"02.{number}"] = lambda names, n=number: _expect(
        value(names, f"answer_{n}") == int(n), f"answer_{n} is wrong for other inputs"
    )


def _expect(truth, message):
    assert truth, message
"""


def _cell(cell_id, source, *tags):
    new = new_markdown_cell if source.startswith(("# ", "## ", "<")) else new_code_cell
    return new(source, id=cell_id, metadata={"tags": list(tags)} if tags else {})


def cells():
    """The cells of a notebook 02, with outputs as if somebody had run it."""
    found = [
        _cell("title", "# 02 · A title\n\nText."),
        _cell(
            "parameters",
            'profile = "mini"  # settings\nrun = "lab"  # folder\nbioasq_dir = ""  # data\n'
            'seed = 0  # seed\noverrides = ""  # more',
            "parameters",
        ),
        _cell(
            "config",
            "from helpers.config import from_parameters\nfrom helpers.run.folder import Run\n\n"
            "settings = from_parameters(profile, overrides, run=run, bioasq_dir=bioasq_dir, "
            "seed=seed)\nfolder = Run.open(settings)",
        ),
        _cell("slow", "import time\n\ntime.sleep(1000)"),
        _cell("base", "base = 1", "setup"),
        _cell("lesson-text", "## Double\n\nDouble a number.", "lesson"),
        _cell(
            "lesson-double",
            'def double(number):\n    """Return twice the number."""\n    ### BEGIN SOLUTION\n'
            "    twice = 2 * number\n    return twice\n    ### END SOLUTION",
            "lesson",
        ),
        _cell("lesson-check", 'assert double(2) == 4, "double(2) must be 4"', "lesson"),
        _cell("lesson-use", "double(undefined)", "lesson"),
        _cell("between", "between = base"),
        _cell("reading-text", "## Only to read", "lesson"),
        _cell("reading", "def half(number):\n    return number / 2", "lesson"),
        _cell("normal", "half(3)"),
        _cell("heading", "## Exercises\n\nThe solutions are collapsed.", "exercise"),
    ]
    for n in "123":
        solution = f"### BEGIN SOLUTION\nanswer_{n} = {n} * base\n### END SOLUTION"
        found += [
            _cell(
                f"statement-{n}",
                f"## See [it](../src/x.py)\n### Exercise 02.{n} · Title (1 minute)",
                "exercise",
            ),
            _cell(f"solution-{n}", solution, "exercise"),
            _cell(f"check-{n}", f'assert answer_{n} > 0, "answer_{n} must be > 0"', "exercise"),
            _cell(f"measured-{n}", "<details><summary>What we measured</summary>", "exercise"),
        ]
        found[-3].metadata["jupyter"] = {"source_hidden": True}
    found[1].execution_count = 7
    return found


def write(folder, notebook_cells=None):
    """Write the notebook to ``folder`` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "02_a_title.ipynb"
    nbformat.write(new_notebook(cells=notebook_cells or cells()), path)
    return path
