"""The script that writes locks/, with made-up results of uv and a package index on this machine."""

import re
import runpy
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import locked
import pytest

from helpers.config import InputError

SCRIPT = Path(__file__).parents[1] / "data_scripts" / "lock.py"
lock = runpy.run_path(str(SCRIPT))
HASH = {name: name * 64 for name in "abcdef"}
RESOLVED = f"""\
cuda-toolkit==13 ; sys_platform == 'linux' \\
    --hash=sha256:{HASH["a"]}
    # via torch
jinja2==3 \\
    --hash=sha256:{HASH["b"]}
    # via
    #   kit (pyproject.toml)
    #   torch
linux-tool==1 ; sys_platform == 'linux' \\
    --hash=sha256:{HASH["a"]}
    # via
    #   jinja2
    #   torch
nvidia-nvtx==2 ; platform_machine == 'x86_64' and sys_platform == 'linux' \\
    --hash=sha256:{HASH["c"]} \\
    --hash=sha256:{HASH["d"]}
    # via
    #   cuda-toolkit
    #   torch
setuptools==84 \\
    --hash=sha256:{HASH["e"]}
    # via -r build.in
sympy==1 \\
    --hash=sha256:{HASH["f"]}
    # via torch
torch==2.13.0 \\
    --hash=sha256:{HASH["a"]} \\
    --hash=sha256:{HASH["b"]}
    # via kit (pyproject.toml)
"""


@pytest.fixture
def found(tmp_path, monkeypatch):
    """The four files for ``RESOLVED``, read as pip would."""
    texts = lock["split"](RESOLVED, {"setuptools"}, [HASH["f"]])
    (tmp_path / "locks").mkdir()
    for name, text in texts.items():
        (tmp_path / "locks" / f"{name}.txt").write_text(text)
    monkeypatch.setattr(locked, "ROOT", tmp_path)
    return lambda name: {str(one): len(hashes) for one, hashes in locked.entries(name)}


def test_only_what_cuda_needs_is_in_its_file(found):
    assert found("build") == {"setuptools==84": 1}
    assert {re.split("==|;", one)[0] for one in found("cuda")} == {
        "cuda-toolkit", "nvidia-nvtx", "torch",
    }  # fmt: skip
    # Without CUDA, torch needs sympy too, and jinja2 needs the tool for Linux.
    packages = {re.split("==", one)[0] for one in found("packages")}
    assert packages == {"jinja2", "linux-tool", "sympy"}


def test_linux_and_macos_have_different_cpu_builds(found):
    assert found("cpu") == {
        'torch==2.13.0+cpu; sys_platform == "linux"': 1,
        'torch==2.13.0; sys_platform == "darwin"': 2,
    }
    for system, version in (("linux", "2.13.0"), ("darwin", "2.13.0")):
        there = locked.LINUX | {"sys_platform": system}
        assert locked.pins("cpu", environment=there) == {"torch": version}


@pytest.fixture
def index():
    """A package index with builds of torch. Returns its address."""
    names = [
        "torch-2.13.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl#sha256=" + HASH["a"],
        "torch-2.13.0%2Bcpu-cp312-cp312-manylinux_2_28_aarch64.whl#sha256=" + HASH["b"],
        "torch-2.13.0%2Bcpu-cp313-cp313-manylinux_2_28_x86_64.whl#sha256=" + HASH["c"],
        "torch-2.13.0%2Bcpu-cp311-cp311-win_amd64.whl#sha256=" + HASH["d"],
        "torch-2.12.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl#sha256=" + HASH["e"],
    ]
    page = "\n".join(f'<a href="/whl/{name}">x</a>' for name in names).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/cpu/torch/" else 404)
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_hashes_of_cpu_builds_come_from_the_index(index):
    wheels = lock["cpu_wheels"]
    assert wheels("2.13.0", f"{index}/cpu/", "") == [HASH["a"], HASH["b"]]
    with pytest.raises(InputError, match=r"lists no CPU build of torch 2\.14\.0"):
        wheels("2.14.0", f"{index}/cpu", "")
    with pytest.raises(InputError, match=r"/gpu/torch/: cannot be read .*404"):
        wheels("2.13.0", f"{index}/gpu", "")


def test_without_an_index_the_hashes_stay_while_the_version_does():
    old = lock["split"](RESOLVED, {"setuptools"}, [HASH["f"]])["cpu"]
    assert lock["cpu_wheels"]("2.13.0", "", old) == [HASH["f"]]
    with pytest.raises(InputError, match="no hashes for torch 2.14.0; .*--torch-index"):
        lock["cpu_wheels"]("2.14.0", "", old)


@pytest.mark.parametrize(
    ("uv", "message"),
    [(None, "uv: not found; run make lock"), ("echo no solution >&2; exit 1", "uv: no solution")],
)
def test_a_failure_is_one_line_and_changes_no_file(uv, message, tmp_path, monkeypatch, capsys):
    if uv:
        (tmp_path / "uv").write_text(f"#!/bin/sh\n{uv}\n")
        (tmp_path / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    folder = SCRIPT.parents[1] / "locks"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert lock["main"]([]) == 2
    assert capsys.readouterr().err.startswith(f"lock.py: {message}")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
