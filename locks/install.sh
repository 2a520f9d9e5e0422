#!/bin/sh
# Install the packages with the versions and hashes in this folder, and then the kit. Run it in the
# root folder of the kit:
#   sh locks/install.sh [PYTHON]    (default: .venv/bin/python)
# TORCH=cpu or TORCH=cuda selects the build of torch. Without it, pip installs the CPU build if it finds
# one. TORCH_INDEX=address is a package index for torch only. With PINS set and empty, pip installs the
# newest versions within the ranges of pyproject.toml.
set -eu
python=${1:-.venv/bin/python}
index=${TORCH_INDEX:+--index-url=$TORCH_INDEX}
pip() { "$python" -m pip install "$@"; }
locked() { pip --require-hashes --no-deps "$@"; }

if [ -z "${PINS-locks}" ]; then
  pip --no-deps $index "$(sed -n 's/^ *"\(torch[<>=][^"]*\)".*/\1/p' pyproject.toml)"
  pip -e '.[dev]'
else
  locked -r locks/build.txt
  if [ -n "${TORCH:-}" ]; then
    locked $index -r "locks/$TORCH.txt"
  elif ! locked $index -r locks/cpu.txt; then
    echo "pip finds no CPU build of torch here, so it downloads the CUDA build (2.7 GB)"
    locked $index -r locks/cuda.txt
  fi
  # pip builds the packages that are published only as source with the tools in build.txt.
  locked --no-build-isolation -r locks/packages.txt
  pip --no-deps --no-build-isolation -e .
fi
