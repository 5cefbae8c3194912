"""What is pulled is guarded as what is shipped is: by the update lock, and by the health window of the device."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_for

from edgespa.device.agent import guard, remembered, versions
from edgespa.device.agent.by_hand import seconds_of
from edgespa.device.agent.protocol import AgentError
from edgespa.device.agent.unit import unit_text
from edgespa.device.agent.update_lock import UPDATE_LOCK
from edgespa.device.agent.window import is_watched
from edgespa.device.ours import pull_source

# Test folders are no packages: what several files need is in one of them.
_spec = importlib.util.spec_from_file_location("edgespa_test_pull_windows", Path(__file__).with_name("test_pull.py"))
assert _spec is not None
assert _spec.loader is not None
_common = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _common
_spec.loader.exec_module(_common)
web, keys, bundles, fleet, one = _common.web, _common.keys, _common.bundles, _common.fleet, _common.one

WATCH = {"watch_s": 60.0, "every_s": 0.2, "health": "test ! -e ../../../ill", "health_s": 5.0, "max_latency_ms": None}


@pytest.fixture(autouse=True)
def nobody_watches_on(tmp_path: Path) -> Iterator[None]:
    """What still watches when a test has ended is ended too."""
    yield
    root = tmp_path / "far"
    for path in (root / "tasks").glob("*/window.json"):
        path.unlink()
    wait_for(lambda: not is_watched(root, "shapes"), "a process watches on")


def state(root: Path) -> dict[str, Any]:
    return versions.window_of(root / "tasks/shapes") or {}


@pytest.fixture
def typed(one: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Pull as a timer does, by the program, from a device that was set up with a health window."""
    agent = tmp_path / "edgespa-agent"
    agent.write_bytes(pull_source())

    def pull(watch: dict[str, Any] | None = WATCH) -> dict[str, Any]:
        remembered.write_config(one.root, one.config(watch=watch))
        command = [sys.executable, str(agent), "pull", "--json", "--folder", str(one.root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        (row,) = json.loads(done.stdout)["tasks"]
        return dict(row)

    return pull


def test_a_pulled_version_is_watched_and_not_taken_again(one: Any, typed: Any) -> None:
    first = one.in_use()
    row = typed()
    assert (row["outcome"], row["notes"]) == ("switched", [])
    second = one.in_use()
    assert second != first
    assert is_watched(one.root, "shapes")  # the program has ended
    assert typed()["outcome"] == "unchanged"
    (one.root / "ill").touch()
    wait_for(lambda: state(one.root)["state"] == "rolled back", "it did not go back")
    assert (one.in_use(), state(one.root)["to"]) == (first, first)
    row = typed()
    assert (row["outcome"], one.in_use()) == ("left", first)
    assert row["notes"] == [
        "release 2 was in use here, and was gone back from, by this device itself in its health window, because the "
        "health command ended with status 1: --again uses it again"
    ]
    one.ship(3)  # the next one is
    assert typed()["outcome"] == "switched"
    assert one.in_use() not in (first, second)


def test_the_next_in_the_middle_goes_back_to_what_has_shown_itself(one: Any, typed: Any) -> None:
    first = one.in_use()
    typed()
    one.ship(3)
    row = typed({**WATCH, "health": "false"})
    assert row["outcome"] == "switched"
    wait_for(lambda: state(one.root)["state"] == "rolled back", "it did not go back")
    assert one.in_use() == first


def test_the_self_check_and_the_latency_of_the_device(one: Any, typed: Any) -> None:
    first = one.in_use()
    typed({**WATCH, "health": None, "max_latency_ms": 1e-6})
    wait_for(lambda: state(one.root)["state"] == "rolled back", "it did not go back")
    assert "an inference takes" in state(one.root)["reason"]
    assert one.in_use() == first


def test_the_bundles_own_bound_of_latency(one: Any, typed: Any, make_bundle: Any, monkeypatch: Any) -> None:
    first, of_number = one.in_use(), one.bundles

    def bounded(number: int) -> Path:
        path = Path(of_number(number))
        found = path.with_name(f"{path.name}-bounded")
        if not found.exists():
            make_bundle(found, onnx=(path / "model.onnx").read_bytes(), max_latency_ms=number * 1e-6)
        return found

    monkeypatch.setattr(one, "bundles", bounded)
    one.ship(3)
    typed({**WATCH, "health": None, "max_latency_ms": 10_000.0})  # of the device: it counts in its place
    second = one.in_use()
    assert second != first
    one.ship(4)
    typed({**WATCH, "health": None})
    wait_for(lambda: state(one.root)["state"] == "rolled back", "it did not go back", seconds=240)
    assert "and may take 4e-06 ms" in state(one.root)["reason"]
    assert one.in_use() == first


def test_what_is_in_its_window_is_not_replaced_by_what_nobody_watches(one: Any) -> None:
    first = one.in_use()
    path = one.root / "tasks/shapes/window.json"
    window = {"state": "watching", "version": first, "previous": None, "watch_s": 60.0, "every_s": 1.0, "done_s": 20.0}
    path.write_text(json.dumps({**window, "rounds": 3, "begun": "2026-12-02T10:00:00+00:00", "earlier": None}))
    (one.root / "locks").mkdir(exist_ok=True)
    with (one.root / "locks/window-shapes.lock").open("a") as held:  # somebody watches
        fcntl.flock(held, fcntl.LOCK_EX)
        row = one.pulled()
        assert (row["outcome"], one.in_use()) == ("left", first)
        assert "is in its health window, 40 s left" in row["notes"][0]
        assert versions.versions_of(one.root / "tasks/shapes") == [first]
        path.write_text(json.dumps({**json.loads(path.read_text()), "state": "passed"}))
        assert one.pulled()["outcome"] == "switched"


def test_an_application_that_holds_the_lock(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LOCK_WAIT_S", 0.0)
    with (one.root / "tasks/shapes" / UPDATE_LOCK).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        _common.refused(one, "in-use", "update.lock is held by")
    assert one.pulled()["outcome"] == "switched"


def test_a_window_that_was_interrupted_goes_on(one: Any, typed: Any) -> None:
    typed({**WATCH, "every_s": 30.0})
    file = one.root / "tasks/shapes/window.json"
    before = file.read_text()
    file.unlink()
    wait_for(lambda: not is_watched(one.root, "shapes"), "it is watched on")
    file.write_text(before)  # as after a restart
    assert typed()["outcome"] == "unchanged"
    assert is_watched(one.root, "shapes")


def test_what_is_no_window(one: Any) -> None:
    good = {**one.config()._asdict(), "groups": [], "kinds": [], "watch": WATCH}
    assert remembered.parse_config(dict(good), "it").watch == WATCH
    old = {key: value for key, value in good.items() if key != "watch"}  # of a device that was set up before
    assert remembered.parse_config(old, "it").watch is None
    for change in (
        *({"watch_s": 0.5}, {"watch_s": 1e7}, {"watch_s": True}, {"watch_s": "9"}, {"every_s": 61.0}, {"every_s": 0.1}),
        *({"health": " "}, {"health": 7}, {"health": "a\0b"}, {"health_s": 0}, {"max_latency_ms": -1.0}, {"more": 1}),
        *({"watch_s": float("nan")}, {"every_s": float("nan")}, {"max_latency_ms": float("nan")}),
    ):
        with pytest.raises(AgentError, match="set it up again"):
            remembered.parse_config({**good, "watch": {**WATCH, **change}}, "it")
    with pytest.raises(AgentError, match="its health window is not as it should be"):
        remembered.parse_config({**good, "watch": {"watch_s": 9.0}}, "it")


def test_it_is_set_up_by_hand(one: Any, tmp_path: Path) -> None:
    agent = tmp_path / "edgespa-agent"
    agent.write_bytes(pull_source())

    def setup(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(agent), "setup", one.web.url, "--unsigned", "--folder", str(one.root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    done = setup("--watch", "10m", "--health-command", "true", "--max-latency", "20")
    assert done.returncode == 0, done.stderr
    found = remembered.read_config(one.root).watch
    assert found == {"watch_s": 600, "every_s": 30, "health": "true", "health_s": 60, "max_latency_ms": 20}
    done = setup("--health-command", "true")
    assert (done.returncode, "give --watch, 10m say" in done.stderr) == (1, True)
    done = setup("--watch", "soon")
    assert (done.returncode, "soon" in done.stderr) == (2, True)
    assert [seconds_of(text) for text in ("9", "30s", "10m", "1.5h", "2d")] == [9, 30, 600, 5400, 172_800]


def test_the_unit_that_goes_on_after_a_start(one: Any, tmp_path: Path) -> None:
    """Each of both programs is run as it takes its words."""
    text = unit_text("/usr/bin/python3", "/home/pi/a b/bin/edgespa-agent", "/home/pi/a b")
    assert '-I -S "/home/pi/a b/bin/edgespa-agent" watch --folder "/home/pi/a b"' in text
    text = unit_text("/usr/bin/python3", "/tmp/agent_12.py", "/home/pi")
    assert "/tmp/agent_12.py /home/pi watch" in text
    agent = tmp_path / "edgespa-agent"
    agent.write_bytes(pull_source())
    command = [sys.executable, "-I", "-S", str(agent), "watch", "--folder", str(one.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
