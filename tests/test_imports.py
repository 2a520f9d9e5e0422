"""Who may import whom: downwards in the README's table, and nothing heavy in the light modules."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(p.stem for p in (ROOT / "src" / "helpers").glob("*.py") if p.stem != "__init__")
LIGHT = ["config", "bioasq", "squad", "mini", "metrics", "evaluation", "claims", "fetch", "runs",
         "errors", "conversion"]  # fmt: skip


def documented_order():
    """Module names in the order of the README's table of modules."""
    table = (ROOT / "README.md").read_text().partition("| module | subject |")[2]
    rows = [row for row in table.partition("\n\n")[0].splitlines() if row.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def imported(module):
    tree = ast.parse((ROOT / "src" / "helpers" / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "helpers":
                yield from (alias.name for alias in node.names)
            elif node.module.startswith("helpers."):
                yield node.module.split(".")[1]


def test_the_readme_lists_every_module_once():
    assert sorted(documented_order()) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_modules_above_it(module):
    order = documented_order()
    above = set(order[: order.index(module)])
    assert {name for name in imported(module) if name in MODULES} <= above


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_brings_neither_torch_nor_nemo_nor_matplotlib(module):
    code = (
        f"import sys, helpers.{module}; "
        "print([m for m in ('torch', 'nemo', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_fits_on_a_few_screens(module):
    lines = (ROOT / "src" / "helpers" / f"{module}.py").read_text().count("\n")
    assert lines <= 400
