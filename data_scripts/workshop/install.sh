#!/bin/sh
# Install the kit from this bundle into a new folder. This needs no network connection.
#   sh install.sh [FOLDER]    (default: biomegatron-bioasq-kit in the current folder)
# PYTHON=/path/to/python selects the Python, which must match the packages in the bundle.
set -eu
bundle=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=${1:-biomegatron-bioasq-kit}
wanted="@PLATFORM@"
python=${PYTHON:-@PYTHON@}
fail() { echo "install.sh: $1" >&2; exit 2; }

[ ! -e "$target" ] || fail "$target exists already; remove it or choose another folder"
found=$("$python" -c 'import ensurepip, platform, sys, venv
print(sys.platform, platform.machine(), "Python %d.%d" % sys.version_info[:2])') \
  || fail "$python is missing or cannot create virtual environments; install it, or set PYTHON"
[ "$found" = "$wanted" ] || fail "this bundle is for $wanted, but this machine has $found"

"$python" - "$bundle" <<'END' || fail "the bundle is damaged; copy it again"
import hashlib, pathlib, sys
bundle = pathlib.Path(sys.argv[1])
for line in (bundle / "SHA256SUMS").read_text("utf-8").splitlines():
    digest, name = line.split("  ", 1)
    path = bundle / name
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        sys.exit(f"{name} is missing or was changed")
END

cp -R "$bundle/kit" "$target"
cd "$target"
"$python" -m venv .venv
echo "Installing the packages (takes a few minutes)"
# As an address, because pip would split a path at its spaces.
PIP_FIND_LINKS=$("$python" -c 'import pathlib, sys; print(pathlib.Path(sys.argv[1]).as_uri())' \
  "$bundle/packages")
export PIP_FIND_LINKS PIP_NO_INDEX=1 PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1
sh locks/install.sh .venv/bin/python
.venv/bin/python -m pip check
touch .venv/.ready
HELPERS_OFFLINE=1 .venv/bin/python data_scripts/download_checkpoint.py minilm --source "$bundle/weights"
echo "Installed in $PWD. Next: cd there and run 'make lab' or 'make walkthrough'."
