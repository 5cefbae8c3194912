"""A web server in a process of its own, which serves a folder, and does wrong what it is told to.

``python web.py FOLDER CONTROL`` prints its port. CONTROL is a JSON file, read at each request: part of a path -> what
is done to it. Each request is a line of ``CONTROL.log``: the path and the Range that was asked for.

    {"cut": 100}        ends the connection after so many bytes of each answer
    {"until": 100}      ends it there in the file, wherever an answer began
    {"drip": 0.05}      a byte, and so long nothing
    {"silent": true}    takes the connection, and says nothing
    {"endless": true}   a body without an end, of no said length
    {"header": 0.05}    a header without an end, a letter at a time
    {"claim": 1000}     says that so many bytes come
    {"move": "URL"}     leads on, with a body without an end
    {"status": 500}     as it says
    {"whole": true}     knows nothing of ranges
    {"instead": "path"} another file of the folder
    {"part": 7}         another part than was asked for begins there
    {"coding": "gzip"}  says that of the content
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Answers GET."""

    folder: Path
    control: Path

    def do_GET(self) -> None:
        """Serve a file, as the control says."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            self._serve()

    def _serve(self) -> None:
        asked = self.headers.get("Range", "")
        with Path(f"{self.control}.log").open("a") as log:
            log.write(f"{self.path} {asked} {self.headers.get('Authorization', '-')}\n")
        rules = json.loads(self.control.read_text()) if self.control.exists() else {}
        rule: dict[str, Any] = next((each for part, each in rules.items() if part in self.path), {})
        if rule.get("silent"):
            time.sleep(30)
            return
        if "header" in rule:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            self._for_ever(b"x", rule["header"])
        if "move" in rule:
            self.send_response(302)
            self.send_header("Location", rule["move"])
            self.end_headers()
            self._for_ever(bytes(1 << 16), 0)
        if "status" in rule:
            self.send_error(rule["status"])
            return
        path = self.folder / rule.get("instead", self.path.lstrip("/"))
        if not path.is_file():
            self.send_error(404)
            return
        content, start = path.read_bytes(), 0
        if asked and not rule.get("whole"):
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            start = rule.get("part", start)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if "coding" in rule:
            self.send_header("Content-Encoding", rule["coding"])
        if not rule.get("endless"):
            self.send_header("Content-Length", str(rule.get("claim", len(content) - start)))
        self.end_headers()
        if rule.get("endless"):
            self._for_ever(bytes(1 << 16), 0)
        if "drip" in rule:
            for byte in content[start:]:
                self._for_ever(bytes([byte]), rule["drip"], 1)
            return
        end = rule.get("until", start + rule["cut"] if "cut" in rule else len(content))
        self.wfile.write(content[start:end])

    def _for_ever(self, piece: bytes, pause_s: float, times: int = 1 << 40) -> None:
        for _ in range(times):
            self.wfile.write(piece)
            self.wfile.flush()
            time.sleep(pause_s)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


if __name__ == "__main__":
    Handler.folder, Handler.control = Path(sys.argv[1]), Path(sys.argv[2])
    Handler.protocol_version = "HTTP/1.0"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()
