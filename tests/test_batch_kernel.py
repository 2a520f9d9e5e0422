"""The right kernel: whatever is installed, a batch runs its own, and a notebook by hand checks."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
from papermill.exceptions import PapermillExecutionError

from helpers import batch, config
from helpers.config import InputError, from_parameters
from helpers.io import hold
from helpers.run.folder import Run, check_kernel
from helpers.sweeps import notebooks

START = config.ROOT / "notebooks" / "00_start_here.ipynb"
# A kernel.json as people have it, which leads to a system's Python.
ANOTHER = {
    "argv": ["/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    "display_name": "Python 3 (another)",
    "language": "python",
}
NO_HELPERS = """import os, sys
sys.path[:] = [p for p in sys.path if not os.path.isdir(os.path.join(p, "helpers"))]
from ipykernel import kernelapp
kernelapp.launch_new_instance()"""


@pytest.fixture(autouse=True)
def place(short_path, monkeypatch):
    """Folders of this test's own for everything that Jupyter and the kernels may write."""
    for name in ("JUPYTER_RUNTIME_DIR", "TMPDIR", "IPYTHONDIR", "JUPYTER_PATH"):
        (short_path / name).mkdir()
        monkeypatch.setenv(name, str(short_path / name))
    monkeypatch.setattr(tempfile, "tempdir", str(short_path / "TMPDIR"))
    monkeypatch.chdir(short_path)
    return short_path


@pytest.fixture
def install(place):
    """``install(**changes)`` puts a kernel named python3 where it comes before all others."""

    def write(**changes):
        spec = place / "JUPYTER_PATH" / "kernels" / "python3" / "kernel.json"
        spec.parent.mkdir(parents=True)
        spec.write_text(json.dumps({**ANOTHER, **changes}))

    return write


@pytest.fixture
def other(place):
    """Another clone: its root, which also holds another copy of the helpers."""
    root = place / "clone"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(notebooks.HELPERS, root / "src" / "helpers", ignore=ignore)
    (root / "notebooks").mkdir()
    return root


def outputs(path):
    cells = nbformat.read(path, 4).cells
    return [out for cell in cells for out in cell.get("outputs", [])]


def nothing_is_left(place):
    left = [p.name for name in ("TMPDIR", "JUPYTER_RUNTIME_DIR") for p in (place / name).iterdir()]
    kernels = [p.cmdline() for p in psutil.Process().children(recursive=True)]
    return left == [] and not any("ipykernel_launcher" in words for words in kernels)


@pytest.mark.parametrize("spec", ["a system's Python", "a script"])
def test_a_batch_runs_this_python_with_these_helpers(spec, place, install, other, monkeypatch):
    marker, script = place / "marker", place / "script.py"
    script.write_text(f"open({str(marker)!r}, 'w')")
    install(**({"argv": [sys.executable, str(script)]} if spec == "a script" else {}))
    monkeypatch.setenv("PYTHONPATH", str(other / "src"))
    assert batch.main(["run", "--until", "00"]) == 0
    said = outputs(place / "runs" / "mini" / "notebooks" / START.name)[0].text
    assert said == f"This kernel uses {sys.executable} and the helpers in {notebooks.HELPERS}\n"
    assert not marker.exists()
    assert not (place / "runs" / "latest").is_symlink()  # one notebook is no finished run
    assert nothing_is_left(place)


def test_other_helpers_in_the_kernel_stop_a_batch_before_anything_runs(place, other, capsys):
    startup = place / "IPYTHONDIR" / "profile_default" / "startup" / "00-mine.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(f"import sys; sys.path.insert(0, {str(other / 'src')!r}); print('hello')")
    assert batch.main(["run", "--until", "00"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for words in (sys.executable, str(notebooks.HELPERS), str(other / "src" / "helpers")):
        assert words in error
    assert not (place / "runs").exists()
    # Nor does it touch a run that is there.
    finished = Run.open(from_parameters(run="mini"))
    finished.path("notebooks/00_start_here.ipynb").write_text("as executed")
    finished.note("k", 1)
    finished.point_latest()
    before = (finished.folder / "manifest.json").read_bytes()
    assert batch.main(["run", "--until", "00", "--fresh"]) == 2
    assert (finished.folder / "manifest.json").read_bytes() == before
    assert (finished.folder / "notebooks" / START.name).read_text() == "as executed"
    assert (place / "runs" / "latest").resolve() == finished.folder.resolve()
    assert nothing_is_left(place)


def test_a_kernel_that_does_not_start_is_an_error_and_leaves_nothing(place, capsys):
    startup = place / "IPYTHONDIR" / "profile_default" / "startup" / "00-mine.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("import os; os.write(2, b'no room\\n'); os._exit(1)")
    assert batch.main(["run", "--until", "00"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"the kernel of {sys.executable} does not start" in error and "no room" in error
    assert not (place / "runs").exists()
    assert nothing_is_left(place)


def test_a_first_notebook_that_meets_bad_input_leaves_no_folder(place, other, monkeypatch, capsys):
    monkeypatch.chdir(other)  # the notebook refuses the helpers of another clone
    assert batch.main(["run", "--until", "00"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "00_start_here: this kernel runs" in captured.err
    assert not (other / "runs").exists()
    assert nothing_is_left(place)


@pytest.mark.fault("two processes at once")
def test_two_batches_at_once_on_one_folder_are_refused(place, capsys):
    lock = place / "runs" / ".mini.lock"
    lock.parent.mkdir()
    with hold(lock):
        assert batch.main(["run", "--until", "00"]) == 2
        assert "another process is running" in capsys.readouterr().err
        assert batch.main(["run", "--until", "00", "--run", "other"]) == 0
    assert batch.main(["run", "--until", "00"]) == 0
    assert {path.name for path in lock.parent.iterdir()} == {"mini", "other"}


FAULTS = [
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "its kernel died, probably"),
    ("raise OSError(24, 'Too many open files', 'f')", "Too many open files: 'f'; remove the"),
    ("raise MemoryError('no room')", "no room; the memory ran out; close other programs"),
]


@pytest.mark.fault("dead kernel or too many open files")
@pytest.mark.parametrize(("code", "said"), FAULTS)
def test_a_fault_of_the_machine_is_one_line(code, said, place, monkeypatch, capsys):
    notebook = nbformat.read(START, 4)
    notebook.cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    notebook.cells.append(nbformat.v4.new_code_cell(code))
    nbformat.write(notebook, place / START.name)
    monkeypatch.setattr(notebooks, "notebooks", lambda: [place / START.name])
    assert batch.main(["run", "--until", "00"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("helpers.batch: 00_start_here: ") and said in error
    assert nothing_is_left(place) and not (place / "runs").exists()


def test_sockets_never_get_a_path_that_is_too_long(place, monkeypatch):
    long = place / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    notebooks.check_own_kernel()


@pytest.mark.fault("full or read-only disk")
def test_any_failure_on_a_full_disk_is_blamed_on_the_disk(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(notebooks.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert "is full; free some space" in notebooks._shortage(tmp_path, "RuntimeError", "bad shape")
    monkeypatch.undo()
    assert notebooks._shortage(tmp_path, "RuntimeError", "bad shape") == ""
    assert notebooks._shortage(tmp_path, "NoSuchError", "") == ""


@pytest.mark.fault("memory limit of the process")
@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("MemoryError", ""),
        (
            "RuntimeError",
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        ),
        ("OSError", "[Errno 12] Cannot allocate memory"),
        ("ImportError", "libtorch_cpu.so: failed to map segment from shared object"),
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 20.00 MiB"),
    ],
)
def test_a_failure_without_memory_is_blamed_on_the_memory(tmp_path, error, text):
    assert "the memory ran out; close other" in notebooks._shortage(tmp_path, error, text)


@pytest.mark.parametrize("model", ["no/such.nemo", "minilmm"])
def test_a_model_that_does_not_exist_is_refused_at_once(model, place, capsys):
    assert batch.main(["run", "--set", f"model={model}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and model in captured.err
    assert not (place / "runs").exists()


def test_the_check_by_hand(place, other, monkeypatch):
    check_kernel()  # no clone
    monkeypatch.chdir(config.ROOT / "notebooks")
    check_kernel()
    for folder in (other, other / "notebooks"):
        monkeypatch.chdir(folder)
        with pytest.raises(InputError) as caught:
            Run.open(from_parameters())
        message = str(caught.value)
        assert "\n" not in message and "Kernel, Change Kernel" in message
        for words in (sys.executable, str(notebooks.HELPERS), f"this clone is {other};"):
            assert words in message
    python = other / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    with pytest.raises(InputError, match=f"the kernel of {python} "):
        check_kernel()


def test_the_documented_command_registers_this_python(place, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(place / "data"))
    page = (config.ROOT / "docs" / "setup.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if "ipykernel install" in line)
    python, *words = shlex.split(line)
    assert python == ".venv/bin/python"
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    spec = json.loads((place / "data" / "kernels" / "bioasq-kit" / "kernel.json").read_text())
    assert spec["argv"][0] == sys.executable and spec["display_name"] == "BioASQ kit"


def by_hand(place):
    """Run the first notebook as JupyterLab does: in its folder, with the installed kernel."""
    given = {"overrides": f"runs_dir={place / 'runs'}"}
    with pytest.raises(PapermillExecutionError) as caught:
        papermill.execute_notebook(
            str(START), "out.ipynb", given, progress_bar=False, cwd=str(START.parent)
        )
    assert not (place / "runs").exists()
    return caught.value, outputs("out.ipynb")


def test_a_notebook_by_hand_refuses_the_helpers_of_another_clone(place, install, other):
    ours = [sys.executable, *ANOTHER["argv"][1:]]
    install(argv=ours, env={"PYTHONPATH": str(other / "src")})
    error, shown = by_hand(place)
    assert error.ename == "InputError"
    errors = [out for out in shown if out.output_type == "error"]
    assert len(errors[0].traceback) == 1 and "\n" not in errors[0].traceback[0]
    for words in (sys.executable, str(other / "src" / "helpers"), f"this clone is {config.ROOT};"):
        assert words in error.evalue


def test_a_notebook_by_hand_says_that_its_python_lacks_the_helpers(place, install):
    install(argv=[sys.executable, "-c", NO_HELPERS, "-f", "{connection_file}"])
    error, shown = by_hand(place)
    assert error.ename == "ModuleNotFoundError"
    said = next(out for out in shown if out.output_type == "stream").text
    wanted = Path(os.path.normpath(config.ROOT / ".venv" / "bin" / "python"))
    assert said.startswith(f"Wrong kernel: {sys.executable} cannot import helpers. ")
    assert os.path.normpath(said.split("kernel for ")[1].split(" (")[0]) == str(wanted)
    assert said.count("\n") == 1


@pytest.mark.parametrize("notebook", notebooks.notebooks()[2:5])
def test_a_notebook_run_too_early_leaves_no_folder(notebook, place):
    given = {"run": "typo", "overrides": f"runs_dir={place / 'runs'}"}
    with pytest.raises(PapermillExecutionError) as caught:
        papermill.execute_notebook(str(notebook), "out.ipynb", given, progress_bar=False)
    assert caught.value.ename == "InputError" and "run notebook 0" in caught.value.evalue
    assert not (place / "runs").exists()
