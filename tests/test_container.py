"""The CPU image, built on a base image of Debian's packages and run without a network.

pip installs packages that this machine has collected, so the settings of its own pip (addresses,
passwords) never reach the build. The container runs in a chroot, because buildah needs neither
cgroups nor a container runtime for that.
"""

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from workshop import bundle

from helpers.config import ROOT

PAGES = """
import urllib.error, urllib.request
for page in ("/api/contents", "/api/contents?token=wrong", "/api/contents?token=right",
             "/lab?token=right"):
    try:
        print(page, urllib.request.urlopen("http://127.0.0.1:8888" + page, timeout=60).status)
    except urllib.error.HTTPError as error:
        print(page, error.code)
"""
INSIDE = """
{command} 2> /tmp/lab.log &
lab=$!
for attempt in $(seq 60); do {health} 2> /tmp/health.log && echo healthy && break; sleep 2; done
grep Uid /proc/$lab/status
.venv/bin/python -c {pages}
.venv/bin/python -m helpers.batch run --profile mini --run check --until 00 && echo passed
find /wheels /etc/pip.conf -type f
kill $lab
"""


@pytest.fixture
def folder():
    tools = ("podman", "buildah", "debootstrap", "unshare", "ip")
    if missing := [tool for tool in tools if not shutil.which(tool)]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid():
        pytest.skip("debootstrap needs root")
    # Not tmp_path: pytest would keep these 12 GB, and Podman needs a short path.
    with tempfile.TemporaryDirectory(prefix="kit-") as name:
        yield Path(name)


@pytest.mark.long
def test_the_image_is_built_and_its_jupyterlab_asks_for_the_token(folder):
    def run(*command, **options):
        done = subprocess.run(
            command, env={**os.environ, "TMPDIR": str(folder)}, capture_output=True, text=True,
            **options,
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
        return done.stdout

    store = ("--root", folder / "images", "--runroot", folder / "run", "--storage-driver", "vfs")
    run("debootstrap", "--variant=minbase", "bookworm", folder / "debian")
    run("tar", "-C", folder / "debian", "-cf", folder / "debian.tar", ".")
    run("podman", *store, "import", folder / "debian.tar", "base")
    bundle._packages(folder / "wheels", "")
    (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    run(
        "podman", *store, "build", "--isolation=chroot", "--format=docker", "--layers=false",
        "--file=docker/Dockerfile", "--ignorefile=docker/Dockerfile.dockerignore", "--tag=kit",
        "--build-arg=BASE=localhost/base", f"--secret=id=pip,src={folder / 'pip.conf'}",
        f"--volume={folder / 'wheels'}:/wheels:ro", ".", cwd=ROOT,
    )  # fmt: skip
    (image,) = json.loads(run("podman", *store, "image", "inspect", "kit"))
    print(f"size of the image: {image['Size'] / 1e9:.2f} GB")
    assert "find-links" not in json.dumps(image) and "TOKEN" not in json.dumps(image["Config"])

    about = json.loads(run("buildah", *store, "inspect", "--type=image", "kit"))
    config = about["Docker"]["config"]
    script = INSIDE.format(
        command=shlex.join(config["Cmd"]),
        health=shlex.join(config["Healthcheck"]["Test"][1:]),
        pages=shlex.quote(PAGES),
    )
    run("buildah", *store, "from", "--pull-never", "--name=lab", "kit")
    inside = ("run", "--isolation=chroot", "--env=JUPYTER_TOKEN=right", "lab", "sh", "-c", script)
    # A network of its own, in which port 8888 is free.
    alone = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    lines = run(*alone, "buildah", *store, *inside).splitlines()
    assert lines[0] == "healthy", lines
    assert "Uid:\t1001\t1001\t1001\t1001" in lines
    assert "/api/contents 403" in lines and "/api/contents?token=wrong 403" in lines
    assert "/api/contents?token=right 200" in lines and "/lab?token=right 200" in lines
    assert lines[-1] == "passed", lines  # nothing of pip's settings and wheels is left
