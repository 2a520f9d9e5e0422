"""A local stand-in for NGC, which serves models from a folder under NGC's URL paths.

    python tests/ngc_server.py FOLDER [--port N]

The files are FOLDER/<model>/<version>/<file>. Set NGC_ENDPOINT to the address that the server
prints. The responses have the format that NGC's public command line and NeMo's download code read.
Tests can make the server fail and inspect the requests that it received.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class NgcServer:
    """A server for ``with NgcServer(folder) as server``. Its address is ``server.url``."""

    def __init__(self, folder: Path, port: int = 0):
        self.folder = Path(folder)
        self.lists_files = True  # whether the server lists the files of a version
        self.forms = {"files", "zip", "redirect"}  # the URL forms that the server accepts
        self.redirect_to = ""  # the server to which requests for files are redirected
        self.requests: list[tuple[str, dict]] = []  # (path with query, headers) of each request
        self.faults: list = []  # one per response: a status or a function(handler, body)
        ngc = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                ngc.requests.append((self.path, dict(self.headers)))
                ngc.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> NgcServer:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler) -> None:
        """Send the requested resource, or status 404 if it does not exist."""
        address = urlsplit(handler.path)
        query = parse_qs(address.query)
        path = address.path.replace("/v2/models/org/nvidia/", "/v2/models/nvidia/")
        new_form = path != address.path
        match = re.fullmatch(r"/v2/models/nvidia/([^/]+)/(?:versions/?)?(.*)", path)
        model, rest = (self.folder / match[1], match[2]) if match else (self.folder / "-", "")
        if not model.is_dir():
            return send(handler, 404)
        if not rest:
            return send_json(handler, self._versions(model))
        version, _, rest = rest.partition("/")
        files = model / version
        if rest == "files" and "path" in query:
            return self._file(handler, files / query["path"][0], "redirect")
        if rest == "files" and self.lists_files and not new_form:
            listed = [{"path": p.name, "sizeInBytes": p.stat().st_size} for p in _files(files)]
            return send_json(handler, {"modelFiles": listed})
        if rest.startswith("files/"):
            return self._file(handler, files / rest.removeprefix("files/"), "files")
        if rest == "zip" and "zip" in self.forms and files.is_dir():
            return self._send(handler, zipped(files))
        return send(handler, 404)

    def _versions(self, model: Path) -> dict:
        names = sorted(path.name for path in model.iterdir() if path.is_dir())
        dated = [(n, f"2021-0{i + 1}-13T00:00:00.000Z") for i, n in enumerate(names)]
        rows = [
            {"versionId": n, "createdDate": date, "status": "UPLOAD_COMPLETE"} for n, date in dated
        ]
        return {"modelVersions": rows, "requestStatus": {"statusCode": "SUCCESS"}}

    def _file(self, handler, path: Path, form: str) -> None:
        if form not in self.forms or not path.is_file():
            return send(handler, 404)
        if self.redirect_to:
            return send(handler, 302, Location=f"{self.redirect_to}/{path.name}")
        return self._send(handler, path.read_bytes())

    def _send(self, handler, body: bytes) -> None:
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, int):
            return send(handler, fault)
        if fault:
            return fault(handler, body)
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        tag = f'"{hash(body)}"'
        if asked and handler.headers.get("If-Range", tag) == tag:
            start = int(asked[1])
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return send(handler, 206, body[start:], Content_Range=span, ETag=tag)
        return send(handler, 200, body, ETag=tag)


def send(handler, status: int, body: bytes = b"", length: int | None = None, **headers) -> None:
    """Send a complete response. Tests may specify a wrong ``length``."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def send_json(handler, data) -> None:
    """Send ``data`` as JSON."""
    send(handler, 200, json.dumps(data).encode(), Content_Type="application/json")


def cut(after: int):
    """Return a fault that closes the connection after this many bytes of the body."""

    def fault(handler, body: bytes) -> None:
        send(handler, 200, body[:after], len(body), ETag=f'"{hash(body)}"')
        handler.close_connection = True

    return fault


def zipped(folder: Path) -> bytes:
    """Return the files in the folder as a zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _files(folder):
            archive.write(path, path.name)
    return out.getvalue()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder that contains the models")
    parser.add_argument(
        "--port", type=int, default=0, help="port of the server (default: any free port)"
    )
    options = parser.parse_args()
    server = NgcServer(options.folder, options.port)
    print(server.url, flush=True)
    server.server.serve_forever()


if __name__ == "__main__":
    main()
