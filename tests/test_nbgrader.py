"""A course with nbgrader, from release to feedback (make check-long)."""

import csv
import os
import re
import subprocess
import sys
import time
from html import unescape

import nbformat
import psutil
import pytest
import tagged
from workshop import course, exercises

pytestmark = pytest.mark.long
TIMEOUT = 5  # seconds per cell for the small notebook
ENDLESS = "while True:\n    pass"
IGNORES = """\
import time
while True:
    try:
        time.sleep(1)
    except BaseException:
        pass"""


def nbgrader(*arguments, cwd):
    """Run a command, which must succeed. PATH lacks the environment, as without ``activate``."""
    command = [sys.executable, "-m", "nbgrader", *arguments]
    env = {**os.environ, "JUPYTER_DATA_DIR": str(cwd / "jupyter"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def complete(path, sources):
    """Replace the solution cells with these ids, as a participant would."""
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("solution") and cell.id in sources:
            cell.source = sources[cell.id]
    nbformat.write(notebook, path)


def scores(folder):
    """Map each student to the points of an exported assignment."""
    nbgrader("export", cwd=folder)
    with open(folder / "grades.csv", newline="") as file:
        return {
            (row["assignment"], row["student_id"]): float(row["score"])
            for row in csv.DictReader(file)
        }


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The course with the small notebook after one round, and the folder of each participant."""
    base = tmp_path_factory.mktemp("nbgrader")
    source = tagged.write(base / "notebooks")
    run = base / "runs" / "lab"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text('{"schema_version": 1, "files": {}, "notes": {}}')
    checks = base / "checks.py"
    checks.write_text((course.HERE / "hidden_checks.py").read_text() + tagged.HIDDEN)
    folder = base / "course"
    course.make(folder, run, TIMEOUT, notebooks=source.parent, checks=checks)
    nbgrader("generate_assignment", "exercises-02", cwd=folder)
    nbgrader("release_assignment", "exercises-02", cwd=folder)
    right = {cell.id: cell.source for cell in nbformat.read(source, 4).cells}
    plus = "def double(number):\n    return number + 2"  # right for 2 only
    participants = {
        "right": right,
        "wrong": right | {"lesson-double": plus, "solution-2": "answer_2 = -1"},
        "crashing": right | {"solution-1": "1 / 0", "lesson-double": plus + "[0]"},
        "endless": right | {"solution-1": ENDLESS},
        "ignores": right | {"solution-2": IGNORES},
        "dies": right | {"solution-2": "import os\nos._exit(1)"},
        "empty": {},
    }  # fmt: skip
    for name, sources in participants.items():
        place = base / name
        place.mkdir()
        (place / "nbgrader_config.py").write_text(
            "c = get_config()\nc.CourseDirectory.course_id = 'bioasq-kit'\n"
            f"c.Exchange.root = {str(folder / 'exchange')!r}\n"
        )
        nbgrader("fetch_assignment", "exercises-02", cwd=place)
        complete(place / "exercises-02" / source.name, sources)
        nbgrader("submit", "exercises-02", "--student", name, cwd=place)
    nbgrader("collect", "exercises-02", cwd=folder)
    started = time.monotonic()
    nbgrader("autograde", "exercises-02", cwd=folder)
    seconds = time.monotonic() - started
    nbgrader("generate_feedback", "exercises-02", cwd=folder)
    return folder, base, seconds


def feedback(taught, name):
    page = (taught[0] / "feedback" / name / "exercises-02" / "02_a_title.html").read_text()
    return unescape(re.sub(r"<(style|script).*?</\1>|<[^>]+>", "", page, flags=re.S))


def test_each_submission_gets_the_points_for_what_works(taught):
    points = {name: score for (_, name), score in scores(taught[0]).items()}
    assert points == {
        "right": 8,
        "wrong": 5,  # double passes the visible check only; answer_2 fails both
        "crashing": 4,
        "endless": 6,  # the next exercises still count
        "ignores": 4,  # no later ran, not even the visible check
        "dies": 4,
        "empty": 0,
    }


@pytest.mark.fault("submissions that crash or never end")
def test_no_endless_submission_takes_more_than_its_timeouts(taught):
    assert taught[2] < 300  # seven kernels, also on a busy machine
    mine = [p for p in psutil.process_iter(["cwd"]) if str(taught[1]) in (p.info["cwd"] or "")]
    assert mine == []


def test_the_feedback_says_what_is_wrong_and_hides_the_hidden_checks(taught):
    assert "Not yet: double: double(21) must be 42" in feedback(taught, "wrong")
    assert "answer_2 must be > 0" in feedback(taught, "wrong")
    assert "ZeroDivisionError" in feedback(taught, "crashing")
    assert f"ran for more than {TIMEOUT} s without stopping" in feedback(taught, "ignores")
    assert "ended the kernel" in feedback(taught, "dies")
    for name in ("right", "wrong", "crashing", "endless", "ignores", "dies", "empty"):
        assert "(Score:" in feedback(taught, name)
        assert "lambda" not in feedback(taught, name)  # the code of a check


def test_participants_fetch_their_feedback(taught):
    folder, base, _ = taught
    nbgrader("release_feedback", "exercises-02", cwd=folder)
    nbgrader("fetch_feedback", "exercises-02", "--student", "wrong", cwd=base / "wrong")
    assert len(list((base / "wrong").glob("exercises-02/feedback/*/02_a_title.html"))) == 1


def test_participants_never_get_the_hidden_checks(taught):
    folder, base, _ = taught
    for place in (
        folder / "release",
        folder / "exchange" / "bioasq-kit" / "outbound",
        base / "right",
    ):
        files = [
            path for path in place.rglob("*") if path.is_file() and "jupyter" not in path.parts
        ]
        assert files and not any("hidden_checks" in p.read_text(errors="ignore") for p in files)


def test_the_release_is_the_exercise_notebook(taught):
    folder, base, _ = taught
    released = nbformat.read(folder / "release" / "exercises-02" / "02_a_title.ipynb", 4)
    own = exercises.notebook(base / "notebooks" / "02_a_title.ipynb", "exercises")
    sources = {cell.id: cell.source for cell in released.cells}
    for cell in own.cells:
        if cell.cell_type == "code":
            assert sources[cell.id] == cell.source


def test_a_notebook_is_validated_before_it_is_submitted(taught):
    _, base, _ = taught
    said = nbgrader("validate", "exercises-02/02_a_title.ipynb", cwd=base / "right")
    assert "Success" in said
    assert "FAILED" in nbgrader("validate", "exercises-02/02_a_title.ipynb", cwd=base / "wrong")


def test_the_solutions_of_the_kit_get_all_points(mini_run, tmp_path):
    folder = tmp_path / "course"
    written = course.make(folder, mini_run, 300)
    found = {}
    for path in [path for path in written if path.suffix == ".ipynb"]:
        name = path.parent.name
        nbgrader("generate_assignment", name, cwd=folder)
        for student in ("right", "empty"):
            place = folder / "submitted" / student / name / path.name
            place.parent.mkdir(parents=True)
            released = folder / "release" / name / path.name
            place.write_bytes((path if student == "right" else released).read_bytes())
        nbgrader("autograde", name, cwd=folder)
        graded = [
            c for c in nbformat.read(path, 4).cells if c.metadata.get("nbgrader", {}).get("grade")
        ]
        found |= {(name, "right"): len(graded), (name, "empty"): 0}
    assert scores(folder) == found
