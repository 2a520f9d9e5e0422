"""Imports run downwards in the README's table of rooms, and light rooms import nothing heavy."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "helpers"
MODULES = sorted(
    path.relative_to(PACKAGE).with_suffix("").as_posix()
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
)


def room(module):
    return module.split("/")[0]


def documented():
    """Map each room to its modules, from top to bottom, as in the README's table."""
    table = (ROOT / "README.md").read_text().partition("| folder or module | contents |")[2]
    rows = [row.split("|") for row in table.partition("\n\n")[0].splitlines() if "`" in row]
    rooms = {row[1].strip(" `"): re.findall(r"`([\w/]+)`", row[2]) for row in rows}
    return {
        name.rstrip("/"): [name + module for module in modules] if "/" in name else [name]
        for name, modules in rooms.items()
    }


def imported(module):
    """The modules of the package that a module imports, at the top or inside a function."""
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "helpers":
            path = node.module.split(".")[1:]
            names = ["/".join([*path, alias.name]) for alias in node.names]
            yield from {name for name in ("/".join(path), *names) if name in MODULES}


def test_the_readme_lists_every_module_once():
    assert sorted(name for names in documented().values() for name in names) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_room_and_from_rooms_below(module):
    order = list(documented())
    below = set(order[order.index(room(module)) :])
    assert {room(name) for name in imported(module)} <= below


def test_modules_of_a_room_do_not_import_in_a_circle():
    graph = {module: set(imported(module)) for module in MODULES}
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


@pytest.mark.parametrize("name", ["config", "io", "fetch", "data", "scoring", "run/folder"])
def test_a_light_room_brings_neither_torch_nor_nemo_nor_matplotlib(name):
    light = [module for module in MODULES if module == name or room(module) == name]
    code = (
        f"import sys, importlib; [importlib.import_module('helpers.' + m) for m in {light}]; "
        "print([m for m in ('torch', 'nemo', 'transformers', 'matplotlib') if m in sys.modules])"
    ).replace("/", ".")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_package_s_folder_re_exports_nothing():
    assert [p for p in PACKAGE.rglob("*/__init__.py") if p.read_text().strip()] == []


def test_the_tests_mirror_the_folders():
    """tests/<folder>/test_<module>.py, or test_<module>_<topic>.py for a long subject."""
    for path in (ROOT / "tests").glob("*/test_*.py"):
        if path.parent.name == "faults":  # each attack concerns several modules
            continue
        names = [m.split("/")[1] for m in MODULES if m.startswith(f"{path.parent.name}/")]
        subject = path.stem.removeprefix("test_")
        assert any(subject == name or subject.startswith(f"{name}_") for name in names), path
