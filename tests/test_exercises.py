"""The exercise, solution and nbgrader notebooks agree with the notebooks they are made from."""

import os
import re
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
import tagged
from workshop import course, exercises, hidden_checks

from helpers.config import ROOT, InputError
from helpers.sweeps import notebooks
from helpers.views.lessons import NotYet

SCRIPT = ROOT / "data_scripts" / "make_exercises.py"


@pytest.fixture
def source(tmp_path):
    return tagged.write(tmp_path / "notebooks")


@pytest.fixture
def finished(tmp_path):
    """A folder that looks like a run."""
    run = tmp_path / "runs" / "lab"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text('{"schema_version": 1, "files": {}, "notes": {}}')
    return run


def ids(notebook):
    return [cell.id for cell in notebook.cells]


def texts(notebook):
    return {cell.id: cell.source for cell in notebook.cells}


def test_an_exercise_notebook_has_stubs_and_what_they_need(source):
    made = exercises.notebook(source, "exercises")
    solved = [f"{kind}-{n}" for n in "123" for kind in ("statement", "solution", "check")]
    assert ids(made) == [
        "generated-head", "generated-import", "parameters", "config", "base", "lesson-text",
        "lesson-double", "lesson-check", "heading", *solved,
    ]  # fmt: skip
    assert texts(made)["lesson-double"] == (
        'def double(number):\n    """Return twice the number."""\n    # your code here\n'
        '    raise NotYet("your code is missing")'
    )
    assert texts(made)["solution-1"] == exercises.STUB
    assert "02 · A title" in made.cells[0].source and "notebooks/02_a_title" in made.cells[0].source
    assert not any(cell.metadata.get("jupyter") for cell in made.cells)
    assert not any(cell.get("execution_count") or cell.get("outputs") for cell in made.cells)
    assert made.cells[2].metadata.tags == ["parameters"]


def test_an_exercise_notebook_reads_a_run_without_changing_it(source):
    config = texts(exercises.notebook(source, "exercises"))["config"]
    assert "folder = Run.find(settings)\nsettings = folder.settings" in config
    assert "Run.open" not in config


def test_a_solution_notebook_is_complete(source):
    original = texts(nbformat.read(source, 4))
    made = exercises.notebook(source, "solutions")
    assert "generated-import" not in ids(made) and "measured-3" in ids(made)
    code = [cell for cell in made.cells if cell.cell_type == "code" and cell.id != "config"]
    assert len(code) == 10 and all(cell.source == original[cell.id] for cell in code)


def test_texts_fit_the_place_of_the_copy(source):
    """Links lead to the same file; what the section says about collapsed cells is left out."""
    made = texts(exercises.notebook(source, "exercises"))
    assert made["heading"] == "## Exercises"
    assert "[it](../../src/x.py)" in made["statement-1"]
    assert (
        "[it](../../../src/x.py)" in texts(exercises.notebook(source, "solutions"))["statement-1"]
    )
    assert "## See it\n" in texts(course.notebook(source, "lab"))["statement-1"]


def broken(change):
    """The cells of the small notebook after a change to the cells by their ids."""
    cells = {cell.id: cell for cell in tagged.cells()}
    change(cells)
    return list(cells.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["lesson-double"].update(source="### BEGIN SOLUTION\nx"), "lesson-double"),
        (lambda c: c["solution-2"].update(source=2 * c["solution-2"].source), "solution-2"),
        (lambda c: c.pop("check-1"), "solution-2"),
        (lambda c: c.pop("check-3"), "02.3"),
        (lambda c: c["lesson-double"].update(metadata={}), "lesson-double"),
        (lambda c: c["statement-1"].update(source="### Exercise"), "solution-1"),
        (lambda c: c["config"].update(source="settings = 1"), "config"),
    ],
)
def test_a_notebook_that_cannot_be_generated_is_refused_with_its_cell(tmp_path, change, message):
    path = tagged.write(tmp_path / "notebooks", broken(change))
    with pytest.raises(InputError, match=f"02_a_title.ipynb.*{message}"):
        exercises.notebook(path, "exercises")


def test_make_and_check_agree_and_check_finds_every_difference(source):
    folder = source.parent
    assert len(exercises.check(folder)) == 2
    made = exercises.make(folder)
    assert made == [
        folder / "exercises" / source.name,
        folder / "exercises/solutions" / source.name,
    ]
    assert exercises.check(folder) == []
    made[0].write_text(made[0].read_text().replace("is missing", "was missing"))
    (made[1].with_name("03_gone.ipynb")).write_text("{}")
    (folder / "exercises" / "02_a_title-Copy1.ipynb").write_text("{}")
    assert [line.split(":")[0] for line in exercises.check(folder)] == [
        str(folder / "exercises/02_a_title-Copy1.ipynb"),
        str(folder / "exercises/solutions/03_gone.ipynb"),
        str(made[0]),
    ]


def test_somebodys_work_is_not_overwritten(source):
    path = exercises.make(source.parent)[0]
    notebook = nbformat.read(path, 4)
    notebook.cells[2].execution_count = 1
    nbformat.write(notebook, path)
    with pytest.raises(InputError, match="somebody has worked in this notebook"):
        exercises.make(source.parent)


def test_a_course_is_valid_for_nbgrader(source, finished, tmp_path):
    from nbgrader.nbgraderformat import MetadataValidator

    folder = tmp_path / "course"
    written = course.make(folder, finished, notebooks=source.parent)
    assert [str(path.relative_to(folder)) for path in written] == [
        "source/exercises-02/02_a_title.ipynb", "nbgrader_config.py", "checks/hidden_checks.py",
        "checks/grading.py",
    ]  # fmt: skip
    made = nbformat.read(written[0], 4)
    MetadataValidator().validate_nb(made)
    marks = {cell.id: cell.metadata.nbgrader for cell in made.cells if "nbgrader" in cell.metadata}
    assert [name for name, mark in marks.items() if mark["solution"]] == [
        "lesson-double", "solution-1", "solution-2", "solution-3",
    ]  # fmt: skip
    graded = {name: mark["points"] for name, mark in marks.items() if mark["grade"]}
    names = ["lesson-check", "check-1", "check-2", "check-3"]
    assert graded == {f"{name}{end}": 1 for name in names for end in ("", "-hidden")}
    assert all(marks[name]["locked"] for name in [*graded, "parameters", "config", "base"])
    assert 'hidden_checks.check("02.3", globals())' in texts(made)["check-3-hidden"]
    assert "measured-1" not in ids(made)
    assert (folder / "runs" / "lab" / "manifest.json").is_file()


def test_a_course_reads_the_named_run(source, finished, tmp_path):
    run = finished.rename(finished.with_name("mini"))
    path = course.make(tmp_path / "course", run, notebooks=source.parent)[0]
    assert '\nrun = "mini"  # ' in texts(nbformat.read(path, 4))["parameters"]


def test_a_course_needs_a_new_folder_and_a_run(source, finished, tmp_path):
    with pytest.raises(InputError, match="already exists"):
        course.make(tmp_path, finished, notebooks=source.parent)
    with pytest.raises(InputError, match="contains no run"):
        course.make(tmp_path / "course", tmp_path, notebooks=source.parent)
    with pytest.raises(InputError, match="at least 1 second"):
        course.make(tmp_path / "course", finished, 0, notebooks=source.parent)
    assert not (tmp_path / "course").exists()


def test_hidden_checks_speak_the_participants_language(monkeypatch):
    def fails(names):
        if hidden_checks.value(names, "x") != 1:  # pytest would extend the message of an assert
            raise AssertionError("`x` must be 1")

    def stops(names):
        raise KeyboardInterrupt

    found = {"fails": fails, "crashes": lambda names: 1 / 0, "stops": stops}
    monkeypatch.setattr(hidden_checks, "CHECKS", found)
    hidden_checks.check("fails", {"x": 1})
    for name, names, message in [
        ("fails", {"x": 2}, "fails: `x` must be 1"),
        ("fails", {}, "`x` is not defined"),
        ("crashes", {}, "crashes: raised ZeroDivisionError: division by zero"),
        ("stops", {}, "stops: did not finish in time"),
    ]:
        with pytest.raises(NotYet) as caught:
            hidden_checks.check(name, names)
        assert str(caught.value) == message and caught.value.__cause__ is None


def test_the_committed_notebooks_match_their_sources():
    assert exercises.check() == []


def test_no_exercise_notebook_sends_the_reader_to_itself():
    for path in exercises.sources():
        assert any("](exercises/" in text for text in texts(nbformat.read(path, 4)).values()) == (
            path.stem[:2] != "01"  # which has exercises, but no lesson with an empty function
        )
        for kind in ("exercises", "solutions"):
            made = texts(exercises.notebook(path, kind))
            assert not any("exercises/" in text for text in made.values()), path


def test_every_link_in_the_committed_notebooks_leads_to_a_file():
    for path in (ROOT / "notebooks" / "exercises").rglob("[0-9][0-9]_*.ipynb"):
        for cell in nbformat.read(path, 4).cells:
            for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", cell.source):
                if cell.cell_type == "markdown":
                    assert (path.parent / target).exists(), f"{path.name}, {cell.id}: {target}"


def test_every_lesson_and_exercise_has_hidden_checks():
    parts = [part for path in exercises.sources() for part in exercises.read(path)]
    assert {part.name for part in parts if part.role == "check"} <= set(hidden_checks.CHECKS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, ""),
        ({"threshold": 90}, "threshold must be a number from 0 to 1, but is 90"),
        ({"dev_coverage": None}, "dev_coverage must be a number, but is None"),
        ({"coverage": -0.5}, "coverage must be a number from 0 to 1, but is -0.5"),
        ({"threshold": 0.95, "coverage": 0.0, "risk": 0.0}, "no test question .* = 0.95"),
        ({"threshold": 0.95, "coverage": 0.0, "risk": 0.0, "dev_coverage": 0.0}, ""),
        ({"risk": 0.0}, "risk: the fraction"),
    ],
)
def test_the_visible_check_of_exercise_04_1_names_the_wrong_number(changes, message):
    (path,) = (path for path in exercises.sources() if path.name.startswith("04"))
    after = pd.DataFrame({"confidence": [0.9, 0.6, 0.2, 0.1], "right": [True, False, True, False]})
    given = {"threshold": 0.5, "dev_coverage": 0.8, "coverage": 0.5, "risk": 0.5} | changes
    found = ""
    try:
        exec(texts(nbformat.read(path, 4))["ex1-check"], {"pd": pd, "after": after, **given})
    except AssertionError as error:
        found = str(error)
    assert re.match(message or "$", found)


@pytest.mark.notebooks
@pytest.mark.parametrize("path", exercises.sources(), ids=lambda path: path.stem)
def test_the_solutions_pass_all_checks_and_leave_the_run_as_it_was(
    path, mini_run, tmp_path, monkeypatch
):
    """Run the solutions with the hidden checks after each visible one, as the grading does."""
    import papermill

    made = course.notebook(path, mini_run.name)
    solved = texts(nbformat.read(path.parent / "exercises" / "solutions" / path.name, 4))
    code = {cell.id: cell.source for cell in made.cells if cell.cell_type == "code"}
    del code["cell-02"]  # the parameters, which name the run
    assert code and all(code[name] == text for name, text in solved.items() if name in code)
    nbformat.write(made, tmp_path / path.name)
    before = {p: p.stat().st_mtime_ns for p in mini_run.rglob("*")}
    folders = [str(course.HERE), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    with notebooks.own_kernel(tmp_path / "kernel.log") as arguments:
        papermill.execute_notebook(
            str(tmp_path / path.name),
            str(tmp_path / f"done_{path.name}"),
            parameters={"run": mini_run.name, "overrides": f"runs_dir={mini_run.parent}"},
            cwd=str(tmp_path),
            kernel_name="python3",
            progress_bar=False,
            **arguments,
        )
    for cell in nbformat.read(tmp_path / f"done_{path.name}", 4).cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):  # nbgrader would take points off
            streams = [o.name for o in cell.outputs if o.output_type == "stream"]
            assert "stderr" not in streams, f"{cell.id} writes to stderr"
    assert {p: p.stat().st_mtime_ns for p in mini_run.rglob("*")} == before


def test_the_script_checks_and_reports_bad_input(tmp_path):
    def call(*arguments):
        command = [sys.executable, str(SCRIPT), *arguments]
        path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(command, capture_output=True, text=True, env=env)

    done = call("--check")
    assert (done.returncode, done.stdout) == (0, "all exercise notebooks match their sources\n")
    done = call("--course", str(tmp_path), "--run", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"make_exercises.py: {tmp_path}: already exists; choose a new folder\n"
