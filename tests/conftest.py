"""Fixtures shared by the tests, and the division of the tests among processes.

``make test`` runs two processes (pytest-xdist). Each one takes whole files, so that a fixture of a
module is made once. The files that use the run of ``mini_run`` are one unit of work, and the units
that take longest come first.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import fault_table
import pytest

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    # Threads of two processes on the same cores wait for each other. torch reads this at import.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

from helpers.config import from_parameters
from helpers.run.folder import Run
from helpers.scoring.claims import TEST_7B
from helpers.sweeps import notebooks

# A shell starts a background job with Ctrl-C ignored, and some tests raise it.
signal.signal(signal.SIGINT, signal.default_int_handler)
STANDIN = Path(__file__).parent / "java_standin"
sys.path.append(str(Path(__file__).parents[1] / "data_scripts"))  # for bioasq_mini

WITH_MINI_RUN = (
    "test_notebooks.py", "test_docs.py", "test_exercises.py", "test_nbgrader.py", "test_site.py",
    "test_bundle.py", "views/test_effects.py", "views/test_evidence.py",
)  # fmt: skip
FIRST = [*WITH_MINI_RUN, "test_notebooks_megatron.py", "faults/test_kills.py"]


def file_of(nodeid: str) -> str:
    return nodeid.split("::")[0].removeprefix("tests/")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # keep our order

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "mini_run" if file_of(nodeid) in WITH_MINI_RUN else file_of(nodeid)

    return Files(config, log)


def pytest_collection_modifyitems(items):
    if workers:
        places = {name: place for place, name in enumerate(FIRST)}
        items.sort(key=lambda item: places.get(file_of(item.nodeid), len(FIRST)))
    for item in items:
        uses = "mini_run" in item.fixturenames
        if uses and file_of(item.nodeid) not in WITH_MINI_RUN:
            raise pytest.UsageError(f"{item.nodeid}: add its file to conftest.WITH_MINI_RUN")
        if fault := item.get_closest_marker("fault"):
            if fault.args[0] not in fault_table.PROMISED:
                raise pytest.UsageError(f"{item.nodeid}: add {fault.args[0]!r} to fault_table.py")
            item.user_properties.append(("fault", fault.args[0]))


def pytest_terminal_summary(terminalreporter):
    if found := fault_table.rows(terminalreporter.stats):
        terminalreporter.section("faults")
        for line in fault_table.lines(found):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """The folder of the stand-in's classes, with ``Many``, which runs either program."""
    if not (shutil.which("javac") and shutil.which("jar") and shutil.which("java")):
        pytest.skip("no Java compiler on this machine: the evaluator's stand-in cannot be built")
    folder = tmp_path_factory.mktemp("classes")
    subprocess.run(["javac", "-d", str(folder), *map(str, STANDIN.glob("*.java"))], check=True)
    return folder


@pytest.fixture(scope="session")
def standin(many, tmp_path_factory):
    """The stand-in as a jar, compiled here."""
    jar = tmp_path_factory.mktemp("jar") / "BioASQEvaluation.jar"
    subprocess.run(["jar", "cf", str(jar), "-C", str(many), "evaluation"], check=True)
    return jar


@pytest.fixture(scope="session", params=["stand-in", "official"])
def jar(request):
    """The evaluator: ours, and the organizers' own where OFFICIAL_JAR names it."""
    if request.param == "stand-in":
        return request.getfixturevalue("standin")
    if not os.environ.get("OFFICIAL_JAR"):
        pytest.skip("OFFICIAL_JAR is not set: the organizers' program is not part of the kit")
    return Path(os.environ["OFFICIAL_JAR"])


@pytest.fixture
def save(tmp_path):
    """``save(name, data)`` writes JSON (or the given bytes) below a temporary folder."""

    def write(name, data):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return path

    return write


@pytest.fixture
def short_path():
    """A temporary folder whose path leaves room for the names of sockets, unlike tmp_path."""
    with tempfile.TemporaryDirectory(prefix="kit-") as folder:
        yield Path(folder)


@pytest.fixture
def tiny():
    """BioASQ data: two factoids (one without an answer in its snippets) and a yes/no question."""
    return {
        "questions": [
            {
                "id": "0000000000000000000000a1",
                "type": "factoid",
                "body": "Which cytokine does infliximab block?",
                "documents": ["https://example.org/d/1", "https://example.org/d/2"],
                "snippets": [
                    {
                        "text": "Infliximab blocks TNF-α; anti-TNF-α drugs (tnf-α blockers) help.",
                        "document": "https://example.org/d/1",
                        "beginSection": "abstract",
                        "endSection": "abstract",
                        "offsetInBeginSection": 3,
                        "offsetInEndSection": 67,
                    },
                    {"text": "It was approved in 1998.", "document": "https://example.org/d/2"},
                    {"text": "It was approved in 1998.", "document": "https://example.org/d/2"},
                ],
                "exact_answer": [["TNF-α ", "tumour  necrosis factor"], ["cachectin"]],
            },
            {
                "id": "0000000000000000000000a2",
                "type": "factoid",
                "body": "Which vitamin is lacking in scurvy?",
                "snippets": [{"text": "Sailors ate preascorbic limes."}],
                "exact_answer": ["ascorbic"],
            },
            {
                "id": "0000000000000000000000a3",
                "type": "yesno",
                "body": "Is insulin a hormone?",
                "exact_answer": "yes",
            },
        ]
    }


@pytest.fixture(scope="session")
def mini_run(tmp_path_factory):
    """The run folder of a whole walkthrough: fetch, convert, train, predict, score, report."""
    runs_dir = tmp_path_factory.mktemp("runs")
    return notebooks.run({"profile": "mini", "run": "ci", "runs_dir": str(runs_dir)})


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """``finished(name, seed, right, **settings)``: a run on 162 questions, ``right`` of them."""
    monkeypatch.chdir(tmp_path)

    def make(name, seed=0, right=50, profile="squad-then-bioasq-cpu", system="", sizes=TEST_7B,
             **settings):  # fmt: skip
        given = {"bioasq_dir": "/my/bioasq", "squad_file": "/my/x y.json"}
        if profile == "bioasq-cpu":
            given.pop("squad_file")
        run = Run.open(from_parameters(profile, run=name, seed=seed, **{**given, **settings}))
        left, ranks = right, {}
        for batch_name, n in sizes.items():
            hits = round(right * n / sum(sizes.values())) if batch_name != "7B5" else left
            left -= hits
            # Another seed is right on other questions.
            ranks[batch_name] = {
                f"{batch_name}{(k + 3 * seed) % n}": 1 if k < hits else 2 if k < hits + 5 else 0
                for k in range(n)
            }
        nothing = {name: dict.fromkeys(asked, 0) for name, asked in ranks.items()}
        run.path("ranks.json").write_text(json.dumps({"run": ranks, "untrained": nothing}))
        step = {"train_questions": 1190, "epochs": 2} if profile != "bioasq-cpu" else {}
        scores = {"profile": profile, "seed": seed, "enriched": False, "train_pairs": 4231,
                  "squad_step": step, "pooled": {"ceiling": 125 / 162}, "batches": [],
                  "seconds": {"train": 600.0 + seed, "predict": 10.0}}  # fmt: skip
        run.path("scores.json").write_text(json.dumps(scores))
        run.note("data", {"inputs": {"/my/bioasq/g.json": "ab"}})
        return run.folder

    return make
