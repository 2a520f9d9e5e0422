"""The files in locks/, read without pip."""

import re

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.config import ROOT

# The machine on which we install the kit. The tests may run on another one.
LINUX = {
    "sys_platform": "linux", "os_name": "posix", "platform_machine": "x86_64",
    "platform_system": "Linux", "implementation_name": "cpython",
    "python_version": "3.11", "python_full_version": "3.11.2",
}  # fmt: skip
CPU = ("build", "cpu", "packages")


def entries(name):
    """Return each requirement in a file of locks/ with its hashes."""
    text = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8")
    lines = text.replace("\\\n", " ").splitlines()
    found = [re.split(r"\s+--hash=", line) for line in lines if not line.startswith("#")]
    return [(Requirement(first), hashes) for first, *hashes in found]


def pins(*names, environment=LINUX):
    """Map each package that pip installs from these files on such a machine to its version."""
    found = {}
    for name in names:
        for requirement, _ in entries(name):
            if requirement.marker is None or requirement.marker.evaluate(environment):
                (part,) = requirement.specifier
                key = canonicalize_name(requirement.name)
                assert part.operator == "==" and key not in found, requirement
                found[key] = part.version.partition("+")[0]
    return found
