"""Registries and a hub on the loopback interface: Debian's docker-registry, and stand-ins that lie on purpose."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

# bcrypt of "secret", as htpasswd writes it.
_HTPASSWD = "ann:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


def registry_program() -> str | None:
    """Debian's docker-registry, or the same program as others call it."""
    return shutil.which("docker-registry") or shutil.which("registry")


@dataclass
class Registry:
    """A running docker-registry.

    Attributes:
        host: Its address and port.
        store: Where it keeps everything.
        log: What it writes, a line per request.
    """

    host: str
    store: Path
    log: Path

    def requests(self) -> list[str]:
        """Method and path of each request so far, in their order."""
        lines = self.log.read_text(errors="replace").splitlines()
        found = [line.split('"')[1] for line in lines if ' "' in line and " HTTP/1." in line and '] "' in line]
        return [" ".join(line.split(" ")[:2]) for line in found]

    def blob(self, sha256: str) -> Path:
        """The file of a blob."""
        return self.store / "docker/registry/v2/blobs/sha256" / sha256[:2] / sha256 / "data"


@contextlib.contextmanager
def registry(folder: Path, *, users: bool = False, port: int = 0) -> Iterator[Registry]:
    """Run a registry as long as the block does."""
    program = registry_program()
    assert program is not None
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    auth = ""
    if users:
        (folder / "htpasswd").write_text(_HTPASSWD)
        auth = f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}\n"
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder / 'store'}}}}}\n"
        f"{auth}http: {{addr: 127.0.0.1:{port}, secret: tested}}\n"
    )
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")], stdout=log, stderr=log, env=environment
        )
    try:
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield Registry(f"127.0.0.1:{port}", folder / "store", folder / "log")
    finally:
        process.terminate()
        process.wait(10)


Answer = Callable[["Asked"], None]


class Asked(BaseHTTPRequestHandler):
    """One request to a stand-in."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the screen."""

    def _handle(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.server.answer(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def say(self, status: int, body: bytes | Any = b"", **headers: str) -> None:
        """Answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def standing_in(answer: Answer) -> Iterator[Any]:
    """A server whose every answer is given by a function; ``asked`` has what it was asked, ``host`` where it is."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    server.answer, server.asked, server.daemon_threads = answer, [], True
    server.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@dataclass
class Hub:
    """What a hub keeps of one repository, and how it answers: the parts of its API that its own client uses.

    Attributes:
        name: ``ORG/NAME``.
        token: That may write.
        branches: Files of each.
        made: What the repository was made with; None as long as it was not.
        uploads: Digests of large files, as they came.
        spoil: Path -> what is given out in the place of its content.
        fault: Asked for each file: whether it has answered, in another way.
        told: Changes what is told of the repository.
    """

    name: str = "ann/flowers"
    token: str = "hf_secret_token"
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    made: dict[str, Any] | None = None
    large: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    spoil: dict[str, bytes] = field(default_factory=dict)
    fault: Callable[[Asked, str, bytes], bool] | None = None
    told: Callable[[dict[str, Any]], object] = lambda _: None

    @property
    def is_private(self) -> bool:
        """Whether it was asked for that, as newer and older clients do."""
        made = self.made or {}
        return bool(made.get("private")) or made.get("visibility") == "private"

    def commit_of(self, revision: str) -> str:
        """A digest of all that a branch holds."""
        files = sorted(self.branches[revision].items())
        return hashlib.sha1(
            repr([(name, hashlib.sha1(content).hexdigest()) for name, content in files]).encode()
        ).hexdigest()

    def _files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        for branch, files in self.branches.items():
            if revision in (branch, self.commit_of(branch)):
                return self.commit_of(branch), files
        return None

    def __call__(self, asked: Asked) -> None:
        """Answer one request."""
        path = unquote(asked.path.partition("?")[0])
        if path.startswith("/upload/"):
            sha256 = path.removeprefix("/upload/")
            assert hashlib.sha256(asked.body).hexdigest() == sha256
            self.large[sha256] = asked.body
            self.uploads.append(sha256)
            return asked.say(200)
        known = asked.headers.get("Authorization") == f"Bearer {self.token}"
        writes = asked.command == "POST"
        if path == "/api/validate-yaml":
            return asked.say(200, {"errors": [], "warnings": []})
        if writes and not known:
            return asked.say(401, {"error": "Invalid username or password."}, X_Error_Message="Invalid credentials")
        if path == "/api/repos/create":
            self.made = json.loads(asked.body)
            return asked.say(200, {"url": f"http://{asked.server.host}/{self.name}", "name": self.name})
        if self.made is None:
            return asked.say(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        api, rest = f"/api/models/{self.name}", path.removeprefix(f"/api/models/{self.name}")
        if path.startswith(api):
            return self._api(asked, rest)
        if path == f"/{self.name}.git/info/lfs/objects/batch":
            return self._batch(asked)
        if path.startswith(f"/{self.name}/resolve/"):
            return self._resolve(asked, path.removeprefix(f"/{self.name}/resolve/"))
        return asked.say(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    def _api(self, asked: Asked, rest: str) -> None:
        kind, _, revision = rest.strip("/").partition("/")
        if asked.command == "GET" and kind in ("", "revision"):
            found = self._files(revision or "main")
            if found is None:
                return asked.say(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
            commit, files = found
            siblings = [self._sibling(name, content) for name, content in files.items()]
            whole = {"_id": "1", "id": self.name, "modelId": self.name, "sha": commit, "siblings": siblings}
            whole |= {"private": self.is_private, "tags": []}
            self.told(whole)
            return asked.say(200, whole)
        if kind == "tree" and (found := self._files(revision)) is not None:
            listed = [self._sibling(name, content) for name, content in found[1].items()]
            rows = [{**each, "type": "file", "path": each["rfilename"], "oid": each["blobId"]} for each in listed]
            return asked.say(
                200,
                [
                    {**each, "lfs": {**each["lfs"], "oid": each["lfs"]["sha256"]}} if "lfs" in each else each
                    for each in rows
                ],
            )
        if kind == "branch":
            self.branches.setdefault(revision, dict(self.branches["main"]))
            return asked.say(201, {})
        if kind == "preupload":
            files = [
                {"path": each["path"], "uploadMode": "lfs" if each["size"] > 400 else "regular", "shouldIgnore": False}
                for each in json.loads(asked.body)["files"]
            ]
            return asked.say(200, {"files": files})
        if kind == "commit":
            return self._commit(asked, revision)
        return asked.say(404, {"error": "no such call"})

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(content).hexdigest()
        lfs = {"lfs": {"sha256": sha256, "size": len(content), "pointerSize": 130}} if sha256 in self.large else {}
        return {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest(), **lfs}

    def _batch(self, asked: Asked) -> None:
        objects = []
        for each in json.loads(asked.body)["objects"]:
            href = {"href": f"http://{asked.server.host}/upload/{each['oid']}"}
            actions = {} if each["oid"] in self.large else {"actions": {"upload": href}}
            objects.append({"oid": each["oid"], "size": each["size"], "authenticated": True, **actions})
        asked.say(200, {"transfer": "basic", "objects": objects})

    def _commit(self, asked: Asked, branch: str) -> None:
        import base64

        files = dict(self.branches[branch])
        for line in asked.body.decode().splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        self.branches[branch] = files
        commit = self.commit_of(branch)
        asked.say(200, {"commitUrl": f"http://{asked.server.host}/{self.name}/commit/{commit}", "commitOid": commit})

    def _resolve(self, asked: Asked, rest: str) -> None:
        revision, _, name = rest.partition("/")
        found = self._files(revision)
        if found is None or name not in found[1]:
            code = "RevisionNotFound" if found is None else "EntryNotFound"
            return asked.say(404, {"error": "not there"}, X_Error_Code=code)
        content = found[1][name]
        if self.fault is not None and self.fault(asked, name, content):
            return None
        begin = int((asked.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if begin:
            part = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            return asked.say(206, content[begin:], Content_Range=part)
        given = self.spoil.get(name, content)
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        size = {"Content_Length": str(len(content))} if asked.command == "HEAD" else {}
        asked.say(200, given, ETag=etag, X_Repo_Commit=found[0], **size)
