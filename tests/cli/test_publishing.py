"""`edgespa ship --to`, `edgespa devices pull` and `devices agent`, as a user types them."""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edgespa as es
from edgespa.api.documents import problems
from edgespa.cli import main
from edgespa.errors import EdgespaError

_spec = importlib.util.spec_from_file_location("tiny_publish", Path(__file__).parents[1] / "device" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)


def typed(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def told(result: Result) -> str:
    """What a failed command says, on the screen or as its error."""
    error = result.exception
    return result.output + (f"{error.message} {error.hint}" if isinstance(error, EdgespaError) else "")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three bundles, a key and its signers, and this machine as a device of its own folder."""
    for number in (1, 2, 3):
        _tiny.write_bundle(tmp_path / f"v{number}", onnx=_tiny.onnx_bytes(), bound={"relative_error": number / 1e4})
    for name in ("key", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True)
    public = " ".join((tmp_path / "key.pub").read_text().split()[:2])
    (tmp_path / "signers").write_text(f"ann {public}\n")
    devices = tmp_path / "config" / "edgespa" / "devices"
    devices.mkdir(parents=True)
    (devices / "local.toml").write_text(f'extends = "local"\n[connection]\nfolder = "{tmp_path / "far"}"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def url(place: Path) -> Iterator[str]:
    (place / "depot").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(place / "depot")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_whole_way(place: Path, url: str) -> None:
    result = typed("ship", "v1", "--to", "depot", "--sign", "key", "--group", "kitchen", "--kind", "pi-5")
    assert result.exit_code == 0, told(result)
    lines = result.stdout.splitlines()
    assert lines[0].startswith("depot: serial ")
    assert lines[-1] == "upload: files/ first, index.json last"
    assert "shapes 1 kitchen pi-5" in " ".join(result.stdout.split())
    result = typed("devices", "pull", "local", url, "--signers", "signers", "--group", "kitchen")
    assert result.exit_code == 0, told(result)
    assert not (place / "far/tasks").exists()  # it is for a kind that this is not
    typed("ship", "v2", "--to", "depot", "--sign", "key", "--group", "kitchen")
    result = typed(
        "devices", "pull", "local", url, "--signers", "signers", "--group", "kitchen", "--kind", "x", "--json"
    )
    document = json.loads(result.stdout)
    assert (result.exit_code, problems("devices pull", document)) == (0, [])
    (row,) = document["pulled"]["tasks"]
    assert (row["task"], row["number"], row["outcome"]) == ("shapes", 2, "switched")
    assert (document["pulled"]["signed_by"], document["units"]) == ("ann", [])
    result = typed("status", "--device", "local")
    assert result.exit_code == 0, told(result)
    assert f"from {url}, serial {document['pulled']['serial']}, signed by ann" in " ".join(result.stdout.split())
    document = json.loads(typed("status", "--device", "local", "--json").stdout)
    assert problems("status", document) == []
    assert document[0]["status"]["pull"]["tasks"][0]["version"].startswith("0001-")
    # A pull that fails is told by status, and by its exit status.
    (place / "depot/index.json").write_text("{}")
    result = typed("devices", "pull", "local", url, "--signers", "signers")
    assert (result.exit_code, "PULL FAILED: local" in result.output) == (1, True)
    result = typed("status", "--device", "local")
    assert (result.exit_code, "PULL FAILED: local" in result.output) == (1, True)


def test_what_a_folder_keeps(place: Path) -> None:
    def contents() -> set[str]:
        return {path.name for path in (place / "depot/files").glob("*/*")}

    first = es.publish("v1", to="depot", sign_key="key", keep=1, progress=False).published
    assert first.bytes_written == sum(path.stat().st_size for path in (place / "v1").iterdir())
    before = contents()
    assert before == {path.name for path in (place / "depot/files").glob("*/*")}
    second = es.publish("v2", to="depot", sign_key="key", keep=1, progress=False).published
    assert second.bytes_there > 10 * second.bytes_written  # what both have is there once
    assert before < contents()  # what the index before leads to stays for who reads it now
    third = es.publish("v3", to="depot", sign_key="key", keep=1, progress=False).published
    assert third.bytes_removed > 0
    assert not before <= contents()
    assert first.serial < second.serial < third.serial
    assert [each.releases[0].number for each in (first, second, third)] == [1, 2, 3]
    # The same again is the same release; the one before, which is kept no more, is a new one.
    again = es.publish("v3", to="depot", sign_key="key", keep=2, progress=False).published
    assert (again.releases[0].number, again.bytes_written) == (3, 0)
    # Damaged contents are written anew.
    for path in (place / "depot/files").glob("*/*"):
        path.write_bytes(bytes(path.stat().st_size)) if path.stat().st_size > 100_000 else None
    assert es.publish("v3", to="depot", sign_key="key", progress=False).published.bytes_written > 100_000
    result = typed("ship", "--remove", "shapes", "--to", "depot", "--sign", "key")
    assert (result.exit_code, "add --yes" in told(result)) == (2, True)
    result = typed("ship", "--remove", "shapes", "--to", "depot", "--sign", "key", "--yes", "--json")
    document = json.loads(result.stdout)
    assert problems("ship", document) == []
    assert [each["number"] for each in document["withdrawn"]] == [3]
    assert "has no task 'shapes'" in told(
        typed("ship", "--remove", "shapes", "--to", "depot", "--sign", "key", "--yes")
    )


def test_nothing_of_somebody_else_is_signed(place: Path) -> None:
    assert typed("ship", "v1", "--to", "depot", "--sign", "key").exit_code == 0
    index = place / "depot/index.json"
    good = index.read_text()
    assert "by another key" in told(typed("ship", "v2", "--to", "depot", "--sign", "other"))
    assert "is signed, and would not be any more" in told(typed("ship", "v2", "--to", "depot", "--unsigned"))
    index.write_text(good.replace("shapes", "planes"))
    assert "or changed since" in told(typed("ship", "v2", "--to", "depot", "--sign", "key"))
    outer = json.loads(good)
    index.write_text(json.dumps({**outer, "signature": None}))
    assert "by nobody" in told(typed("ship", "v2", "--to", "depot", "--sign", "key"))
    index.write_text("[]")
    assert "cannot be read" in told(typed("ship", "v2", "--to", "depot", "--sign", "key"))
    index.write_text(good)
    assert typed("ship", "v2", "--to", "depot", "--sign", "key").exit_code == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ship v1 --to https://example.com/depot --sign key", "upload its files/ first and its index.json last"),
        ("ship v1 --to s3://bucket/depot --sign key", "lets your own tools upload it"),
        ("ship v1 --to depot", "--sign KEY"),
        ("ship v1 --to depot --sign key --unsigned", "give one of them"),
        ("ship v1 --to depot --sign key --device local", "leave --device out"),
        ("ship v1 --to depot --sign key --group a/b", "cannot be a group"),
        ("ship v1 --to depot --sign nokey", "there is no such key"),
        ("ship v1 --to v2 --sign key", "holds other things"),
        ("ship --to depot --sign key", "Missing argument"),
        ("ship v1", "--to FOLDER"),
        ("devices pull local http://h", "--unsigned"),
        ("devices pull local http://h --unsigned --signers signers", "give one of them"),
        ("devices pull local ftp://h --signers signers", "http:// or https://"),
        ("devices pull local http://h --signers absent", "cannot be read"),
    ],
)
def test_obvious_mistakes(place: Path, line: str, words: str) -> None:
    result = typed(*line.split())
    assert result.exit_code != 0
    assert words in " ".join(told(result).split())
    assert not (place / "depot/index.json").exists()


def test_the_program_alone(place: Path) -> None:
    result = typed("devices", "agent", "--output", "edgespa-agent")
    assert result.exit_code == 0, told(result)
    said = subprocess.run([sys.executable, "-I", "edgespa-agent", "pull"], capture_output=True, text=True, check=False)
    assert (said.returncode, "Traceback" in said.stderr) == (1, False)
    assert "exists" in told(typed("devices", "agent", "--output", "edgespa-agent"))
    document = json.loads(typed("devices", "agent", "--output", "edgespa-agent", "--overwrite", "--json").stdout)
    assert problems("devices agent", document) == []


def test_a_killed_ship_leaves_the_old_index(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed("ship", "v1", "--to", "depot", "--sign", "key")
    before = (place / "depot/index.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("edgespa.device.shipment.depot._write_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        typed("ship", "v2", "--to", "depot", "--sign", "key")
    assert (place / "depot/index.json").read_bytes() == before
    assert typed("ship", "v2", "--to", "depot", "--sign", "key").exit_code == 0
