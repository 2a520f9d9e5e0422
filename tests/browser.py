"""Chromium without a window, driven over its DevTools protocol, for the tests of HTML pages."""

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60


class Page:
    """One tab. Offline from the start, so that a page that needs a network fails."""

    def __init__(self, socket, process):
        self._socket, self._numbers, self._process = socket, itertools.count(1), process
        self.send("Page.enable")
        self.send("Network.enable")
        self.send(
            "Network.emulateNetworkConditions",
            offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1,
        )  # fmt: skip

    def send(self, method, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, path, fragment=""):
        """Open a file and wait until its script has finished; return the seconds it took."""
        started = time.monotonic()
        address = Path(path).resolve().as_uri()
        self.send("Page.navigate", url=address + fragment)
        self.wait(
            f"location.href.startsWith({json.dumps(address)}) "
            "&& document.documentElement?.dataset.ready"
        )
        return time.monotonic() - started

    def wait(self, condition):
        for _ in range(20 * SECONDS):
            if self.run(condition):
                return
            time.sleep(0.05)
        raise AssertionError(f"not true after {SECONDS} s: {condition}")

    def run(self, script):
        """Return the value of a JavaScript expression."""
        found = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def cpu_seconds(self):
        """Return the CPU time of all processes of this browser so far."""
        browser = psutil.Process(self._process)
        times = [one.cpu_times() for one in [browser, *browser.children(recursive=True)]]
        return sum(time.user + time.system for time in times)

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def size(self, width, height):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip

    def picture(self, path):
        data = self.send("Page.captureScreenshot")["data"]
        Path(path).write_bytes(base64.b64decode(data))


@contextmanager
def chromium(folder, width=1400, height=900):
    """Start Chromium with an empty profile in ``folder``, yield a page; skip if it is missing."""
    websocket = pytest.importorskip("websocket")  # from websocket-client, a part of JupyterLab
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if not program:
        pytest.skip("Chromium is not installed")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
               "--remote-allow-origins=*", f"--user-data-dir={folder}"]  # fmt: skip
    process = subprocess.Popen(
        [program, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        port = Path(folder) / "DevToolsActivePort"
        for _ in range(20 * SECONDS):
            if port.is_file() and port.read_text().count("\n"):
                break
            time.sleep(0.05)
        address = f"http://127.0.0.1:{port.read_text().split()[0]}/json"
        tabs = json.loads(urllib.request.urlopen(address, timeout=SECONDS).read())
        tab = next(tab for tab in tabs if tab["type"] == "page")
        socket = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=SECONDS)
        try:
            page = Page(socket, process.pid)
            page.size(width, height)
            yield page
        finally:
            socket.close()
    finally:
        process.terminate()
        process.wait(SECONDS)
