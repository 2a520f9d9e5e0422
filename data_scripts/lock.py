"""Pin every package with the hashes of its files: write locks/ from the ranges in pyproject.toml.

uv resolves the ranges for Linux and macOS with Python 3.11 and 3.12. It keeps a pin unless the pin
no longer fits the range or --upgrade asks for the newest versions. pip's default index has no
CPU build of torch for Linux, so the hashes of this build come from the index in --torch-index.
Without this option, the script keeps the old hashes, and fails if torch has a new version.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import requests

from helpers.config import ROOT, InputError
from helpers.io import write_text

# The contents of each file, in the order of installation.
FILES = {
    "build": "What builds the packages that are published as source only, and the kit itself.",
    "cpu": "The CPU build of torch. The one for Linux is only in PyTorch's own index.",
    "cuda": "The CUDA build of torch for Linux, with NVIDIA's libraries.",
    "packages": "All other packages, including those of the extras dev and workshop.",
}
_ENTRY = r"^([\w.-]+)==[^\n]*(?:\n +[^\n]*)*\n"


def split(resolved: str, build: set[str], wheels: list[str]) -> dict[str, str]:
    """Split uv's result into the files in ``FILES``, and return the text of each.

    ``resolved`` is uv's result. Its comments say which packages require each package. ``build``
    contains the names of the build tools, and ``wheels`` the hashes of the CPU builds of torch for
    Linux.
    """
    found = {match[1]: match[0] for match in re.finditer(_ENTRY, resolved, re.M)}
    needed_by = {
        name: set(re.findall(r"^ +# +(?:via )?([\w.-]+)(?: .*)?$", entry, re.M)) - {"via"}
        for name, entry in found.items()
    }
    cuda = {"torch"}  # and the packages that only torch needs, and only on Linux
    linux = {name for name, entry in found.items() if "== 'linux'" in entry.partition("\n")[0]}
    while more := {name for name in linux - cuda if needed_by[name] <= cuda}:
        cuda |= more
    text = {name: re.sub(r" \\\n +#.*|\n +#.*", "", entry) for name, entry in found.items()}
    version, files = text["torch"].split(" \\\n", 1)
    hashes = " \\\n".join(f"    --hash=sha256:{wheel}" for wheel in wheels)
    cpu = f"{version}+cpu ; sys_platform == 'linux' \\\n{hashes}\n"
    cpu += f"{version} ; sys_platform == 'darwin' \\\n{files}"
    others = "".join(entry for name, entry in text.items() if name not in cuda | build)
    chosen = {
        "build": "".join(text[name] for name in sorted(build)),
        "cpu": cpu,
        "cuda": "".join(text[name] for name in sorted(cuda)),
        "packages": others,
    }
    return {name: f"# {FILES[name]} Made by make lock.\n{chosen[name]}" for name in FILES}


def cpu_wheels(version: str, index: str, old: str) -> list[str]:
    """Return the hashes of the CPU builds for Linux, from a package index or from the old lock."""
    if not index:
        if f"torch=={version}+cpu " not in old:
            raise InputError(
                f"locks/cpu.txt: has no hashes for torch {version}; specify PyTorch's CPU index "
                "with --torch-index"
            )
        return re.findall(r"sha256:(\w+)", old.partition("== 'darwin'")[0])
    address = f"{index.rstrip('/')}/torch/"
    try:
        page = requests.get(address, timeout=60)
        page.raise_for_status()
    except requests.RequestException as error:
        raise InputError(f"{address}: cannot be read ({error})") from None
    name = rf"torch-{re.escape(version)}(?:%2B|\+)cpu-cp31[12]-cp31[12]-[^\"#]*linux[^\"#]*\.whl"
    if not (found := re.findall(rf"{name}#sha256=([0-9a-f]{{64}})", page.text)):
        raise InputError(f"{address}: lists no CPU build of torch {version} for Linux")
    return sorted(set(found))


def resolve(old: dict[str, str], build: list[str], upgrade: bool) -> str:
    """Return uv's result, which keeps the versions in ``old`` unless ``upgrade`` is set."""
    with tempfile.TemporaryDirectory() as scratch:
        output, more = Path(scratch) / "all.txt", Path(scratch) / "build.in"
        entries = (match[0] for text in old.values() for match in re.finditer(_ENTRY, text, re.M))
        output.write_text("".join(entry for entry in entries if "+cpu" not in entry))
        more.write_text("\n".join(build))
        command = ["uv", "pip", "compile", "pyproject.toml", str(more), "--extra=dev", "--quiet",
                   "--universal", "--python-version=3.11", "--generate-hashes", "--no-header",
                   f"--output-file={output}", *(["--upgrade"] if upgrade else [])]  # fmt: skip
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        except FileNotFoundError:
            raise InputError("uv: not found; run make lock, which installs it") from None
        if done.returncode:
            raise InputError(f"uv: {' '.join(done.stderr.split())}")
        return output.read_text()


def main(arguments: list[str] | None = None) -> int:
    """Run the script. Return 2 for bad input, and 0 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="use the newest versions")
    parser.add_argument("--torch-index", default="", metavar="URL",
                        help="package index with the CPU builds of torch")  # fmt: skip
    options = parser.parse_args(arguments)
    folder = ROOT / "locks"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    needed = project["build-system"]["requires"]
    try:
        old = {path.stem: path.read_text("utf-8") for path in sorted(folder.glob("*.txt"))}
        resolved = resolve(old, needed, options.upgrade)
        version = re.search(r"^torch==(\S+)", resolved, re.M)[1]
        wheels = cpu_wheels(version, options.torch_index, old.get("cpu", ""))
        names = {re.match(r"[\w.-]+", requirement)[0] for requirement in needed}
        for name, text in split(resolved, names, wheels).items():
            write_text(folder / f"{name}.txt", text)
    except InputError as error:
        print(f"lock.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
