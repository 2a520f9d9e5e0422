"""The kernel that runs a notebook: this interpreter's, with this copy of the helpers.

Jupyter finds a kernel by its name, and whatever is installed as ``python3`` may be another Python
with another copy of the kit. So ``helpers.batch`` looks at no installed kernel, and a notebook run
by hand checks the one that it got.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.config import InputError

HELPERS = Path(__file__).resolve().parents[1]
START_SECONDS = 300  # a kernel takes long to start on a machine under load
_ASK = """import os, sys, helpers
print(sys.executable, os.path.realpath(helpers.__file__), sep="\\n")"""

_SET_UP = "set up again (make setup), or look for a start-up script of IPython"


def check() -> None:
    """Raise ``InputError`` in a clone of the kit whose helpers are not these ones."""
    here = Path.cwd()
    root = here.parent if here.name == "notebooks" else here
    theirs = root / "src" / "helpers"
    if (theirs / "__init__.py").is_file() and theirs.resolve() != HELPERS:
        python = root / ".venv" / "bin" / "python"
        wanted = python if python.exists() else f"the Python in which {root} is installed"
        raise InputError(
            f"this kernel runs {sys.executable} with the helpers in {HELPERS}, but this clone is "
            f"{root}; choose the kernel of {wanted} (in JupyterLab: Kernel, Change Kernel; "
            "docs/setup.md says how to register it)"
        )


@contextmanager
def own(log: str | Path) -> Iterator[dict[str, Any]]:
    """Arguments that make papermill or nbclient start this interpreter with these helpers.

    The kernel's own complaints, such as a stack after Ctrl-C, go to the file ``log``; what a cell
    prints is not among them. Nothing is installed.
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec
    from traitlets.config import Config

    path = [str(HELPERS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, path)).replace("$", "$$")}

    class Kernel(AsyncKernelManager):
        kernel_spec = KernelSpec(**get_kernel_dict(), env=environment)

        async def start_kernel(self, **kwargs):
            with open(log, "ab") as file:
                return await super().start_kernel(**kwargs, stderr=file)

    with tempfile.TemporaryDirectory(prefix="kernel-") as sockets:
        # A kernel on TCP warns that others on the machine could listen; sockets on disk are
        # private. In a folder of their own, since two runs that start at once in one place would
        # take the same names.
        local = {"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}
        config = Config(local if os.name == "posix" else {})
        yield {"kernel_manager_class": Kernel, "config": config}


def check_own() -> bool:
    """Start a kernel; True when it is this Python with these helpers, ``InputError`` otherwise.

    A start-up script of IPython can still change what is imported.
    """
    import nbformat
    from nbclient import NotebookClient

    ask = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(_ASK)])
    with tempfile.NamedTemporaryFile("r") as log, own(log.name) as arguments:
        client = NotebookClient(ask, startup_timeout=START_SECONDS, allow_errors=True, **arguments)
        try:
            with client.setup_kernel():
                client.execute_cell(ask.cells[0], 0)
        except RuntimeError as error:  # it died, or does not answer
            said = " ".join(log.read().split())[-300:]
            raise InputError(
                f"the kernel of {sys.executable} does not start ({error}): {said}; {_SET_UP}"
            ) from None
    outputs = ask.cells[0].outputs
    text = "".join(out.get("text", out.get("evalue", "")) for out in outputs)
    if text.splitlines()[-2:] != [sys.executable, str(HELPERS / "__init__.py")]:
        raise InputError(
            f"the kernel of {sys.executable} does not use the helpers in {HELPERS}, but answers "
            f"{' '.join(text.split())}; remove the start-up script of IPython that changes this"
        )
    return True
