"""Looking at devices on which something is odd, hostile, full or hanging: it is said, and the others are shown."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgespa.bundle import open_bundle
from edgespa.cli import status as command
from edgespa.device.agent import versions as agent_versions
from edgespa.device.board import Device, load_device
from edgespa.device.fleet import on_each
from edgespa.device.link.reach import connect
from edgespa.device.link.transport import Connection
from edgespa.device.shipment.back import roll_back
from edgespa.device.shipment.memory import remember
from edgespa.device.shipment.reading import read_status
from edgespa.device.shipment.results import DeviceStatus
from edgespa.device.shipment.ship import Shipment, ship
from edgespa.device.shipment.status import device_status
from edgespa.errors import DeviceError, UnreachableError

# Test folders are no packages: what both files need is in the other.
_spec = importlib.util.spec_from_file_location("edgespa_test_ship_status", Path(__file__).with_name("test_ship.py"))
assert _spec is not None
assert _spec.loader is not None
_common = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _common
_spec.loader.exec_module(_common)
near, home, python, in_use = _common.near, _common.home, _common.python, _common.in_use


def of_folder(folder: Path, name: str = "local") -> Device:
    """This machine as a device that keeps things in a folder."""
    local = load_device("local")
    connection = local.connection.model_copy(update={"folder": str(folder)})
    return local.model_copy(update={"name": name, "connection": connection})


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device's folder with one task that is in use; to be copied."""
    place = tmp_path_factory.mktemp("shipped")
    tiny = _common.sibling("conftest")
    bundle = tiny.write_bundle(place / "bundle", onnx=tiny.onnx_bytes())
    with connect(of_folder(place / "edgespa")) as connection, open_bundle(bundle) as opened:
        ship(connection, Shipment.of(opened, task="birds"), python)
    return place / "edgespa"


@pytest.fixture
def folder(shipped: Path, tmp_path: Path) -> Path:
    """A copy of it, which a test may damage; its version is ``0001-...``."""
    copy = tmp_path / "edgespa"
    shutil.copytree(shipped, copy, symlinks=True)
    return copy


def version_in(folder: Path) -> Path:
    return folder / "tasks/birds" / os.readlink(folder / "tasks/birds/current")


def look(folder: Path) -> DeviceStatus:
    """What is made of what the agent answers, without starting one."""
    answer = json.dumps(agent_versions.tasks(folder, {"check": True}, io.BytesIO()))
    return read_status("local", "local", json.loads(answer))


def record(text: bytes) -> Callable[[Path], None]:
    return lambda folder: Path(f"{version_in(folder)}.json").write_bytes(text)


def changed(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = Path(f"{version_in(folder)}.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def manifest(text: bytes) -> Callable[[Path], None]:
    return lambda folder: replace(version_in(folder) / "manifest.json", text)


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def pipe(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = folder / "tasks/birds" / name.format(version=version_in(folder).name)
        path.unlink()
        os.mkfifo(path)  # whoever opens it waits for ever

    return make


def link(name: str, target: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = folder / "tasks/birds" / name.format(version=version_in(folder).name)
        path.unlink()
        path.symlink_to(target)

    return make


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "emptied by a power cut": (record(b""), "its record cannot be read: it is empty"),
    "half of it": (record(b'{"created": "2026-'), "its record cannot be read"),
    "no table": (record(b"[1, 2]"), "its record is no table"),
    "nested": (record(b"[" * 100_000), "its record cannot be read"),
    "huge": (record(b" " * (2 << 20)), "it has 2,097,152 bytes"),
    "not text": (record(b"\xff\xfe\x00"), "its record cannot be read"),
    "a number for a time": (changed(created=5), "created is 5"),
    "no time": (changed(created=None), "created is None"),
    "a newer layout": (changed(created={"at": 1}, edgespa="99.0"), "written by edgespa 99.0"),
    "words for a time": (changed(created="yesterday"), "created is yesterday"),
    "orders to the terminal": (changed(created="\x1b[2J2026-01-01T00:00"), "created is ?[2J2026"),
    "a lone surrogate": (record(b'{"created": "\\ud800", "digest": "\\ud800"}'), "created is ?"),
    "a list for a signer": (changed(signed_by=["me"]), "signed_by is ['me']"),
    "a signer of many lines": (changed(signed_by="me\nNOT HEALTHY: other"), "signed_by is me?NOT HEALTHY"),
    "a digest of words": (changed(digest="../../x"), "digest is ../../x"),
    "a pipe for a record": (pipe("{version}.json"), "it is no regular file"),
    "a link for a record": (link("{version}.json", "/dev/zero"), "its record cannot be read"),
    "a pipe for a file": (pipe("{version}/labels.txt"), "labels.txt is no regular file"),
    "a link to no end": (link("{version}/labels.txt", "/dev/zero"), "labels.txt is no regular file"),
    "an empty file": (lambda at: replace(version_in(at) / "labels.txt", b""), "labels.txt has changed: 0 of 18 bytes"),
    "another manifest": (manifest(b'{"files": [], "variants": []}'), "manifest.json: it has changed"),
    "no manifest": (manifest(b""), "manifest.json: it is empty"),
    "a link that leads elsewhere": (link("current", "/etc"), "what should be in use is not there: /etc"),
    "a link to a version elsewhere": (link("current", "/x/0001-00000000"), "what should be in use is not there: /x"),
    "a folder for a link": (
        lambda at: [(at / "tasks/birds/current").unlink(), (at / "tasks/birds/current").mkdir()][0],
        "what should be in use is not there: not a link",
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_odd_is_said_of_that_task(folder: Path, what: str) -> None:
    shutil.copytree(folder / "tasks/birds", folder / "tasks/cats", symlinks=True)
    (folder / "tasks/dogs").write_text("no folder")
    damage, words = ODD[what]
    damage(folder)
    found = {each.task: each for each in look(folder).tasks}
    assert words in found["birds"].health
    assert found["birds"].health.isprintable()
    assert found["cats"].health == "ok"
    assert found["dogs"].health == "odd: it is no folder"


def test_what_a_newer_edgespa_adds_is_not_odd(folder: Path) -> None:
    changed(schema=7, extra={"a": [1]}, edgespa="99.0")(folder)
    (task,) = look(folder).tasks
    assert (task.health, task.versions[0].shipped is None) == ("ok", False)


@pytest.mark.parametrize(
    "files",
    [
        [{"path": "../../../../etc/passwd", "sha256": "0" * 64, "size_bytes": 1}],
        [{"path": "/etc/passwd", "sha256": "0" * 64, "size_bytes": 1}],
        [{"path": 5, "sha256": "0" * 64, "size_bytes": 1}],
        [{"path": "a\0b", "sha256": "0" * 64, "size_bytes": 1}],
        [{"path": "a", "sha256": "../x", "size_bytes": 1}],
        [{"path": "a", "sha256": "0" * 64, "size_bytes": "1"}],
        ["a"],
        {"a": 1},
        None,
    ],
)
def test_a_hostile_manifest_under_its_right_name(folder: Path, files: object) -> None:
    import hashlib

    text = json.dumps({"files": files, "variants": [{"weights": 5}]}).encode()
    name = f"0002-{hashlib.sha256(text).hexdigest()[:8]}"
    (folder / "tasks/birds" / name).mkdir()
    (folder / "tasks/birds" / name / "manifest.json").write_bytes(text)
    shutil.copy(f"{version_in(folder)}.json", folder / f"tasks/birds/{name}.json")
    (folder / "tasks/birds/current").unlink()
    (folder / "tasks/birds/current").symlink_to(name)
    (task,) = look(folder).tasks
    assert "manifest.json: it is odd" in task.health


ANSWER: dict[str, Any] = {
    "tasks": [],
    "free_bytes": 1,
    "cached_bytes": 1,
    "folder": "/x",
    "storage": {"free_files": None, "in_memory": None},
}


@pytest.mark.parametrize(
    "change",
    [{"tasks": None}, {"tasks": {}}, {"free_bytes": "many"}, {"free_bytes": -1}, {"folder": "\x1b[2J"}, {"storage": 1}],
)
def test_an_answer_that_is_none(change: dict[str, Any]) -> None:
    with pytest.raises(DeviceError, match=f"its answer is odd: {next(iter(change))}"):
        read_status("pi", "pi", {**ANSWER, **change})


@pytest.mark.parametrize(
    "row",
    [
        5,
        {},
        {"task": "../x"},
        {"task": "a", "versions": 5, "current": []},
        {"task": "a", "versions": [{}, 5, {"version": "0001-00000000", "record": 5, "size_bytes": 1e300}]},
        {"task": "a", "versions": [{"version": "x\x1b"}], "current": "x\x1b", "odd": ["\x1b]0;title\x07"] * 9},
    ],
)
def test_rows_that_are_none(row: object) -> None:
    good = {"task": "good", "current": None, "link": None, "versions": [], "odd": []}
    found = read_status("pi", "pi", {**ANSWER, "tasks": [row, good]})
    assert found.tasks[-1].task == "good"
    assert not found.healthy
    texts = [*found.odd, *(task.health for task in found.tasks)]
    assert all(text.isprintable() and len(text) < 1500 for text in texts)


@pytest.mark.parametrize(
    "line",
    [
        '{"ok": [1, 2]}',
        '{"ok": 5}',
        '{"error": "no"}',
        '{"error": {"kind": ["x"], "message": "\\u001b[2J"}}',
        "{}",
        "[" * 100_000,
        '{"ok": {}}',
    ],
)
def test_a_device_that_answers_what_nobody_asked(sshd: Any, tmp_path: Path, line: str) -> None:
    liar = tmp_path / "python"
    (tmp_path / "line").write_text(line)
    liar.write_text(f"#!/bin/sh\nprintf '\\nedgespa-answer: '\ncat {tmp_path}/line\necho\n")
    liar.chmod(0o755)
    with connect(sshd.device("liar", python=str(liar))) as connection, pytest.raises(DeviceError) as caught:
        device_status(connection)
    assert "internal" not in caught.value.message


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own profiles."""
    found = tmp_path / "config" / "edgespa" / "devices"
    found.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return found


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(command.command, list(arguments))


def test_ten_devices_one_hangs_one_is_odd_one_is_full(
    sshd: Any, shipped: Path, profiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgespa.device.agent import disk

    names = [f"pi{number}" for number in range(10)]
    for name in names:
        shutil.copytree(shipped, tmp_path / name, symlinks=True)
        options = {"folder": str(tmp_path / name)}
        if name == "pi3":  # ssh is alive there, and nothing else
            hanging = tmp_path / "python"
            hanging.write_text("#!/bin/sh\nexec sleep 600\n")
            hanging.chmod(0o755)
            options["python"] = str(hanging)
        sshd.profile(profiles / f"{name}.toml", **options)
    changed(created=5)(tmp_path / "pi5")
    full = disk.storage(tmp_path)
    real = Connection.ask

    def some_full(self: Connection, what: str, *rest: Any, **options: Any) -> dict[str, Any]:
        answer = real(self, what, *rest, **options)
        if what == "tasks" and self.device.name == "pi6":
            return {**answer, "free_bytes": 0, "storage": {**full, "free_files": 0}}
        return answer

    monkeypatch.setattr(Connection, "ask", some_full)
    devices = [word for name in names for word in ("--device", name)]
    started = time.monotonic()
    result = ask(*devices, "--timeout", "8")
    seconds = time.monotonic() - started
    assert result.exit_code == 1, result.output
    assert seconds < 60
    rows = [line.split() for line in result.stdout.splitlines() if "* 0001-" in line]
    assert [(row[0], row[-1]) for row in rows] == [
        (name, "HEALTHY" if name == "pi5" else "ok") for name in names if name != "pi3"
    ]
    assert "FAILED: pi3 (loop) has not answered for 8 s" in result.stderr
    assert "NOT HEALTHY: pi5: birds: odd: 0001-" in result.stderr
    assert "created is 5" in result.stderr
    assert "FULL: pi6: 0.0 MiB free; no more files can be made" in result.stderr
    assert result.stderr.count("FAILED") == result.stderr.count("NOT HEALTHY") == result.stderr.count("FULL") == 1


def test_what_nobody_thought_of_does_not_hide_the_others(tmp_path: Path) -> None:
    def work(connection: Connection) -> str:
        if connection.device.name == "bad":
            raise KeyError("surprise")
        return "fine"

    seen: list[str] = []
    devices = [of_folder(tmp_path / name, name) for name in ("a", "bad", "c")]
    outcomes = on_each(devices, work, lambda outcome: seen.append(outcome.device.name))
    assert [each.result for each in outcomes] == ["fine", None, "fine"]
    assert "bad: internal error: KeyError" in str(outcomes[1].error)
    assert sorted(seen) == ["a", "bad", "c"]


def test_ctrl_c_ends_it_at_once(sshd: Any, tmp_path: Path) -> None:
    hanging = tmp_path / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 600\n")
    hanging.chmod(0o755)
    devices = [sshd.device(f"hangs{number}", python=str(hanging)) for number in range(3)]
    begun, errors = threading.Barrier(4), list[Exception]()

    def work(connection: Connection) -> None:
        begun.wait(30)
        try:
            device_status(connection, timeout_s=500)
        except UnreachableError as error:
            errors.append(error)
            raise

    def interrupt() -> None:
        begun.wait(30)
        time.sleep(1)
        os.kill(os.getpid(), 2)

    threading.Thread(target=interrupt, daemon=True).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        on_each(devices, work)
    assert time.monotonic() - started < 60
    assert len(errors) == 3


@pytest.mark.more
def test_what_was_shipped_from_here_and_is_gone(
    near: Connection, home: Path, bundle: Path, profiles: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (profiles / "local.toml").write_text(f'extends = "local"\n[connection]\nfolder = "{home}"\n')
    with open_bundle(bundle) as opened:
        first = ship(near, Shipment.of(opened, task="birds"), python)
        assert device_status(near).gone == ()
        assert remember(near, "birds", "0009-0123abcd", "2026-11-30T02:00:00+00:00") is None
        assert [each.version for each in device_status(near).older] == ["0009-0123abcd"]
        assert "birds 0009-0123abcd was shipped from here later" in ask().stderr
        assert ship(near, Shipment.of(opened, task="birds"), python).version == first.version
    assert device_status(near).older == ()
    shutil.rmtree(home)  # a reboot of a board whose writes go to memory, or another card in it
    (gone,) = device_status(near).gone
    assert (gone.task, gone.version) == ("birds", first.version)
    result = ask()
    assert result.exit_code == 1
    assert f"GONE: local: birds {first.version} was shipped on " in result.stderr
    from edgespa.cli import ship as ship_command

    line = result.stderr.partition("any more: edgespa ship ")[2].split("\n")[0]
    assert CliRunner().invoke(ship_command.command, [*line.split(), "--yes"]).exit_code == 0
    assert ask().exit_code == 0
    # What is written here may be odd too, and says nothing of devices.
    (tmp_path / "state/edgespa/shipped/local.json").write_text('{"schema": 1, "places": {"x": 5}}')
    assert ask().exit_code == 0


def test_a_first_shipment_that_failed_is_no_task(near: Connection, home: Path, bad_bundle: Path) -> None:
    with open_bundle(bad_bundle) as opened, pytest.raises(DeviceError, match="fails its self-check"):
        ship(near, Shipment.of(opened, task="birds"), python)
    found = device_status(near)
    assert (found.tasks, found.unfinished, found.healthy) == ((), (), True)
    assert list((home / "tasks").iterdir()) == []


@pytest.mark.more
def test_what_a_cut_first_shipment_left_is_no_task_either(near: Connection, home: Path, bundle: Path) -> None:
    ask_near = near.ask

    def cut(what: str, *rest: Any, **options: Any) -> dict[str, Any]:
        if what == "execute" and list((home / "tasks").glob("*/*")):
            raise UnreachableError("gone")
        return ask_near(what, *rest, **options)

    near.ask = cut  # type: ignore[method-assign]
    with open_bundle(bundle) as opened:
        with pytest.raises(UnreachableError):
            ship(near, Shipment.of(opened, task="birds"), python)
        near.ask = ask_near  # type: ignore[method-assign]
        found = device_status(near)
        assert (found.tasks, found.unfinished, found.healthy) == ((), ("birds",), True)
        with pytest.raises(DeviceError, match="no task 'birds'"):
            roll_back(near, "birds", python)
        assert len(ship(near, Shipment.of(opened, task="birds"), python).cleaned) == 1
    assert in_use(home, "birds") is not None
