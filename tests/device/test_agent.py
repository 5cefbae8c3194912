"""The agent as one file, in the Pythons that boards have, and its parts in this process."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from edgespa.device import agent, agent_source, connect, load_device
from edgespa.device.agent import cache, protocol
from edgespa.device.assemble import AGENT_PARTS
from edgespa.device.board import DEFAULT_FOLDER, Device
from edgespa.device.link.here import LocalConnection
from edgespa.device.link.payload import Payload
from edgespa.errors import DeviceError, RefusedError

SOURCE = agent_source().decode()
FOLDER = Path(agent.__file__).parent
ALONE = ("probe",)  # run by another Python than the agent's


def interpreter(minor: int) -> str:
    """Python 3.minor, on the path or from pyenv; skips where there is none."""
    name = f"python3.{minor}"
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = [str(path) for path in sorted(root.glob(f"3.{minor}.*/bin/{name}"))] or [shutil.which(name)]
    if found[0] is None:
        pytest.skip(f"PYTHON 3.{minor} WAS NOT TRIED: not installed")
    return str(found[0])


def test_the_parts_are_joined_whole() -> None:
    defined = [node.name for node in ast.parse(SOURCE).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len(set(defined)) == len(defined)
    parts = [path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", *ALONE)]
    assert sorted(parts) == sorted(AGENT_PARTS)
    assert "from edgespa" not in SOURCE
    assert max(map(len, SOURCE.splitlines())) <= 120


def test_needs_nothing_but_python() -> None:
    for source in (SOURCE, *((FOLDER / f"{name}.py").read_text() for name in ALONE)):
        for node in ast.walk(ast.parse(source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            allowed = sys.stdlib_module_names | (
                {"numpy", "onnxruntime", "openvino", "ncnn"} if source != SOURCE else set()
            )
            assert all(name.split(".")[0] in allowed for name in names), ast.unparse(node)


@pytest.mark.parametrize("name", ["agent", *ALONE])
def test_its_grammar_and_library_are_of_python_3_8(tmp_path: Path, name: str) -> None:
    source = SOURCE if name == "agent" else (FOLDER / f"{name}.py").read_text()
    ast.parse(source, feature_version=(3, 8))
    (tmp_path / "agent.py").write_text(source)
    command = [sys.executable, "-c", "import vermin; vermin.main()", "--no-tips", "-t=3.8-", str(tmp_path / "agent.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.law(2)
@pytest.mark.parametrize("minor", [8, 9, 10, 11, 12, 13])
def test_each_interpreter_itself(tmp_path: Path, minor: int) -> None:
    """Facts, sensors, a file, a folder, a process: all that a device is asked."""

    class Other(LocalConnection):
        @property
        def python(self) -> list[str]:
            return [interpreter(minor), "-E", "-s", "-S", "-W", "error"]

    (tmp_path / "file").write_bytes(b"content")
    payload = Payload.of(tmp_path / "file")
    with Other(local(tmp_path)) as connection:
        assert connection.ask("facts")["python"].startswith(f"3.{minor}.")
        assert "temperature_c" in connection.ask("conditions")
        folder, sent = connection.deliver("bundles/one", {"a/b": payload})
        assert (sent.bytes_sent, (Path(folder) / "a/b").read_bytes()) == (7, b"content")
        done = connection.ask("execute", {"argv": ["sh", "-c", "echo out; echo err >&2; exit 3"]}, hold=True)
        assert (done["status"], done["stdout"], done["stderr"], done["killed"]) == (3, "out\n", "err\n", None)
        with connection.lock("one", "me"):
            pass
        with pytest.raises(RefusedError, match=r"cannot be run"):
            connection.ask("execute", {"argv": ["/no/such/program"]}, hold=True)


def local(folder: Path) -> Device:
    values = load_device("local").model_dump()
    return Device.parse({**values, "connection": {"folder": str(folder / "kept")}}, "test")


def receive(root: Path, content: bytes, offset: int = 0, size: int | None = None, digest: str = "") -> dict[str, Any]:
    entry = {"sha256": digest or digest_of(content), "size_bytes": len(content) if size is None else size}
    return cache.receive(root, {"files": [{**entry, "offset": offset}]}, io.BytesIO(content[offset:]))


def digest_of(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


class TestCache:
    def test_what_comes_short_stays_and_is_gone_on_with(self, tmp_path: Path) -> None:
        content, digest = bytes(range(256)) * 40, digest_of(bytes(range(256)) * 40)
        request = {"files": [{"sha256": digest, "size_bytes": len(content), "offset": 0}]}
        with pytest.raises(protocol.AgentError) as caught:
            cache.receive(tmp_path, request, io.BytesIO(content[:1000]))
        assert caught.value.kind == "cut"
        state = cache.have(tmp_path, {"digests": [digest]}, io.BytesIO())["files"][digest]
        assert state == {"whole": False, "size_bytes": 1000}
        receive(tmp_path, content, 1000)
        assert (tmp_path / "cache" / digest).read_bytes() == content

    def test_what_is_not_what_it_should_be_is_not_kept(self, tmp_path: Path) -> None:
        with pytest.raises(protocol.AgentError) as caught:
            receive(tmp_path, b"one", digest=digest_of(b"two"))
        assert caught.value.kind == "damaged"
        assert list((tmp_path / "cache").iterdir()) == []

    def test_an_offset_that_lies_ahead_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(protocol.AgentError) as caught:
            receive(tmp_path, b"content", 3)
        assert caught.value.kind == "offset"

    @pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a\0b"])
    def test_paths_that_lead_elsewhere_are_refused(self, tmp_path: Path, name: str) -> None:
        receive(tmp_path, b"x")
        files = [{"path": name, "sha256": digest_of(b"x"), "size_bytes": 1}]
        for request in ({"folder": "bundles/a", "files": files}, {"folder": name, "files": []}):
            with pytest.raises(protocol.AgentError, match="does not lie below"):
                cache.place(tmp_path, request, io.BytesIO())
        with pytest.raises(protocol.AgentError, match="is not a SHA-256"):
            cache.have(tmp_path, {"digests": ["../../etc/passwd"]}, io.BytesIO())

    def test_a_folder_is_whole_or_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        receive(tmp_path, b"x")
        files = [{"path": f"{i}", "sha256": digest_of(b"x"), "size_bytes": 1} for i in range(3)]
        real, calls = os.link, []

        def link(source: Any, target: Any) -> None:
            calls.append(target)
            if len(calls) == 3:
                raise KeyboardInterrupt
            real(source, target)

        monkeypatch.setattr(os, "link", link)
        with pytest.raises(KeyboardInterrupt):
            cache.place(tmp_path, {"folder": "bundles/a", "files": files}, io.BytesIO())
        assert list((tmp_path / "bundles").iterdir()) == []
        monkeypatch.undo()
        (tmp_path / "bundles" / ".a.99.new").mkdir()  # of one that was killed
        assert cache.place(tmp_path, {"folder": "bundles/a", "files": files}, io.BytesIO())["whole"]
        assert os.listdir(tmp_path / "bundles") == ["a"]

    def test_without_hard_links_files_are_copied(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        receive(tmp_path, b"x")
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "not supported")))
        files = [{"path": "m", "sha256": digest_of(b"x"), "size_bytes": 1}]
        cache.place(tmp_path, {"folder": "bundles/a", "files": files}, io.BytesIO())
        assert (tmp_path / "bundles/a/m").read_bytes() == b"x"

    def test_sweeping_keeps_what_is_used(self, tmp_path: Path) -> None:
        for content in (b"used", b"old", b"new"):
            receive(tmp_path, content)
        files = [{"path": "m", "sha256": digest_of(b"used"), "size_bytes": 4}]
        for name in ("a", "b", "c"):
            cache.place(tmp_path, {"folder": f"bundles/{name}", "files": files}, io.BytesIO())
            os.utime(tmp_path / "bundles" / name, (1, 1 + ord(name)))
        for content in (b"used", b"old"):
            path = tmp_path / "cache" / digest_of(content)
            os.utime(path, (1, 1))
        cache.sweep(tmp_path, {"folder": "bundles", "keep": 2}, io.BytesIO())
        assert sorted(os.listdir(tmp_path / "bundles")) == ["b", "c"]
        assert sorted(os.listdir(tmp_path / "cache")) == sorted([digest_of(b"used"), digest_of(b"new")])


class TestCommand:
    def ask(self, folder: Path, command: str, line: bytes) -> dict[str, Any]:
        code = (
            f"import sys; sys.path.insert(0, {str(FOLDER.parents[2])!r}); from edgespa.device.agent import main; main()"
        )
        words = [sys.executable, "-c", code, str(folder), command]
        done = subprocess.run(words, input=line, capture_output=True, check=True)
        answer = done.stdout.decode().strip().splitlines()[-1]
        assert answer.startswith(protocol.MARK)
        return dict(json.loads(answer[len(protocol.MARK) :]))

    @pytest.mark.parametrize(
        ("command", "line", "kind"),
        [("nonsense", b"{}\n", "usage"), ("have", b"not json\n", "internal"), ("have", b"{}\n", "internal")],
    )
    def test_what_it_does_not_understand_is_an_answer(
        self, tmp_path: Path, command: str, line: bytes, kind: str
    ) -> None:
        assert self.ask(tmp_path, command, line)["error"]["kind"] == kind


def test_this_machine_is_a_device_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with connect(load_device("local")) as connection:
        assert connection.ask("facts")["folder"] == str(tmp_path / "data/edgespa")
        assert connection.run(["cat"], input=b"x").stdout == b"x"
    assert (tmp_path / "data/edgespa/agent").is_dir()


@pytest.mark.parametrize("home", ["/dev/null", "/dev/null/home", "~"])
def test_this_machine_needs_no_home_that_can_be_written(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with connect(load_device("local")) as connection:
        assert connection.ask("facts")["folder"] == str(tmp_path / f"edgespa-{os.getuid()}")
    assert (tmp_path / f"edgespa-{os.getuid()}").stat().st_mode & 0o022 == 0
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with connect(load_device("local")) as connection:
        assert connection.folder == DEFAULT_FOLDER


def test_the_folder_in_its_place_must_be_ours_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    theirs = tmp_path / f"edgespa-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    with connect(load_device("local")) as connection, pytest.raises(DeviceError, match="can be written by everybody"):
        connection.ask("facts")
    assert list(theirs.iterdir()) == []
