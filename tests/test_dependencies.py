"""docs/dependencies.md lists the license of every package, and no license is unknown."""

import re
from importlib import metadata
from pathlib import Path

import licenses
import locked
import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def listed():
    """Map each package on the page to its license."""
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*) \| (\d+) \| (.*) \|$", page, re.M)
    found = {}
    for name, count, packages in rows:
        packages = packages.split(", ")
        assert len(packages) == int(count) and not found.keys() & set(packages)
        found |= dict.fromkeys(packages, name)
    return found


def test_the_page_lists_the_license_of_every_pinned_package():
    pins = locked.pins(*locked.CPU)
    assert listed().keys() == pins.keys()
    assert listed().keys() >= licenses.OVERRIDES.keys()
    found = licenses.installed()
    for name, version in pins.items():
        name = canonicalize_name(name)
        if name in found and metadata.version(name).partition("+")[0] == version:
            assert listed()[name] == found[name], name


def test_no_license_is_unknown():
    assert [name for name, theirs in licenses.installed().items() if not theirs] == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("License-Expression: MIT OR ISC\nLicense: other", "MIT OR ISC"),
        ("License: Apache License, Version 2.0", "Apache-2.0"),
        ("License: BSD", "BSD"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: ISC License (ISCL)", "ISC"),
        (
            "License: Copyright\n  All rights\nClassifier: License :: OSI Approved :: MIT License",
            "MIT",
        ),
        ("License: Odd Terms 3", "Odd Terms 3"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved", ""),
        ("Classifier: Topic :: Software Development :: Libraries", ""),
    ],
)
def test_where_a_license_is_stated(tmp_path, fields, expected):
    (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.4\nName: some\nVersion: 1\n{fields}\n")
    assert licenses.license_of(metadata.PathDistribution(tmp_path)) == expected


def test_a_package_without_a_license_is_named_in_the_table():
    assert "| UNKNOWN | 1 | some |" in licenses.table({"some": "", "other": "MIT"})
