"""Health windows on a real sshd: the device watches, and goes back, alone; and the lock that applications hold."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_for

from edgespa.device.agent import versions as agent_versions
from edgespa.device.agent.update_lock import UPDATE_LOCK, holders
from edgespa.device.agent.window import is_watched
from edgespa.device.link.transport import Connection
from edgespa.device.shipment.back import roll_back
from edgespa.device.shipment.ship import ship
from edgespa.device.shipment.status import device_status
from edgespa.device.shipment.windows import Watch, follow_window
from edgespa.errors import ConfigError, DeviceError, RefusedError

# Test folders are no packages: what several files need is in one of them.
_spec = importlib.util.spec_from_file_location("edgespa_test_window", Path(__file__).with_name("test_ship.py"))
assert _spec is not None
assert _spec.loader is not None
_common = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _common
_spec.loader.exec_module(_common)
versions, near, far, home = _common.versions, _common.near, _common.far, _common.home
answers, in_use, python, shipment = _common.answers, _common.in_use, _common.python, _common.shipment

Versions = Callable[..., Path]
QUICK = Watch(60, every_s=0.2)


@pytest.fixture(autouse=True)
def nobody_watches_on(home: Path) -> Iterator[None]:
    """What still watches when a test has ended is ended too."""
    yield
    for path in (home / "tasks").glob("*/window.json"):
        path.unlink()
    wait_for(lambda: not is_watched(home, "shapes"), "a process watches on")


def state(home: Path) -> dict[str, Any]:
    found = agent_versions.window_of(home / "tasks/shapes")
    assert found is not None
    return found


def put(connection: Connection, bundle: Path, watch: Watch | None = QUICK, **options: Any) -> Any:
    return ship(connection, shipment(bundle), python, watch=watch, **options)


def test_a_window_in_which_all_is_well(far: Connection, home: Path, versions: Versions) -> None:
    old = put(far, versions(1), None).version
    command = 'echo "$EDGESPA_TASK $EDGESPA_VERSION $PWD" >> ../../../seen && test -f run.py'
    watch = Watch(1.0, every_s=0.3, health=command, max_latency_ms=10_000)
    done = put(far, versions(2), watch)
    assert done.window is not None
    assert (done.window.state, done.window.version, done.window.watch_s) == ("watching", done.version, 1.0)
    told: list[Any] = []
    window = follow_window(far, "shapes", done.version, told.append)
    assert (window.state, window.reason, window.left_s) == ("passed", None, 0)
    assert window.rounds >= 2
    assert told[0].state == "watching"
    assert told[-1] == window
    assert in_use(home) == done.version != old
    seen = (home / "seen").read_text().split("\n")[:-1]
    assert seen == [f"shapes {done.version} {home / 'tasks/shapes' / done.version}"] * window.rounds
    (task,) = device_status(far).tasks
    assert task.window == window
    assert task.healthy
    wait_for(lambda: not is_watched(home, "shapes"), "it is watched on")
    assert not list((home / "tasks/shapes").glob("window-*"))


def test_it_goes_back_by_itself_when_nobody_is_connected(own_sshd: Any, home: Path, versions: Versions) -> None:
    from edgespa.device.link.reach import connect

    with connect(own_sshd.device(home=home)) as connection:
        old = put(connection, versions(1), None).version
        watch = Watch(60, every_s=0.2, health=f"echo cold; test ! -e {home}/ill")
        new = put(connection, versions(2), watch).version
    own_sshd.cut()
    assert not own_sshd.sessions()
    assert in_use(home) == new
    (home / "ill").touch()
    wait_for(lambda: in_use(home) == old, "it did not go back")
    assert answers(home) == "passed"
    with connect(own_sshd.device(home=home)) as connection:
        (task,) = device_status(connection).tasks
    assert task.current == old
    assert task.window is not None
    assert (task.window.state, task.window.to) == ("rolled back", old)
    assert task.window.reason == "the health command ended with status 1: cold"
    assert task.healthy


def test_of_a_first_version_nothing_is_left_in_use(near: Connection, home: Path, versions: Versions) -> None:
    done = put(near, versions(1), Watch(60, every_s=0.2, health="exit 3"))
    window = follow_window(near, "shapes", done.version)
    assert (window.state, window.to) == ("rolled back", None)
    assert in_use(home) is None
    (task,) = device_status(near).tasks
    assert not task.healthy


@pytest.mark.parametrize(
    ("watch", "reason"),
    [
        (Watch(60, every_s=0.2, max_latency_ms=1e-6), "an inference takes"),
        (Watch(60, every_s=0.2, health="sleep 60 & wait", health_s=0.4), "took longer than 0.4 s"),
        (Watch(60, every_s=0.2, health="kill -SEGV $$"), "was ended by signal 11"),
        (Watch(60, every_s=0.2, health="yes > much"), "the health command ended with status"),
    ],
    ids=["slow", "hangs", "crashes", "writes without end"],
)
def test_what_is_a_failure(near: Connection, home: Path, versions: Versions, watch: Watch, reason: str) -> None:
    old = put(near, versions(1), None).version
    done = put(near, versions(2), watch)
    window = follow_window(near, "shapes", done.version)
    assert window.state == "rolled back"
    assert window.reason is not None
    assert reason in window.reason
    assert in_use(home) == old
    assert not [each for each in _common_processes(home) if "sleep" in each]


def test_the_bundles_own_bound_of_latency(
    near: Connection, home: Path, versions: Versions, make_bundle: Any, tmp_path: Path
) -> None:
    old = put(near, versions(1), None).version
    content = (versions(2) / "model.onnx").read_bytes()
    bounded = make_bundle(tmp_path / "bounded", onnx=content, max_latency_ms=1e-6)
    window = follow_window(near, "shapes", put(near, bounded, Watch(60, every_s=0.2)).version)
    assert window.state == "rolled back"
    assert "and may take 1e-06 ms" in str(window.reason)
    assert in_use(home) == old
    # What the user says counts in its place.
    done = put(near, bounded, Watch(1.0, every_s=0.3, max_latency_ms=10_000))
    assert follow_window(near, "shapes", done.version).state == "passed"
    assert in_use(home) == done.version


def _common_processes(home: Path) -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.readlink(f"/proc/{name}/cwd").startswith(str(home)):
                found.append(os.fsdecode(Path(f"/proc/{name}/cmdline").read_bytes()))
    return found


def test_the_self_check_is_run_again(near: Connection, home: Path, versions: Versions) -> None:
    old = put(near, versions(1), None).version
    done = put(near, versions(2), Watch(60, every_s=0.5))
    model = home / "tasks/shapes" / done.version / "model.onnx"
    content = bytearray(model.read_bytes())
    content[-40_000:] = bytes(40_000)  # of zeros beside its weights: then of the weights too
    content[200:2200] = bytes(2000)
    model.unlink()
    model.write_bytes(bytes(content))
    window = follow_window(near, "shapes", done.version)
    assert window.state == "rolled back"
    assert window.reason is not None
    assert window.reason.startswith("its self-check: ")
    assert in_use(home) == old


def test_a_restart_in_the_middle(own_sshd: Any, home: Path, versions: Versions) -> None:
    """What has been watched counts, what it was off does not; the next look has the window gone on with."""
    from edgespa.device.link.reach import connect

    with connect(own_sshd.device(home=home)) as connection:
        put(connection, versions(1), None)
        done = put(connection, versions(2), Watch(6.0, every_s=0.3, health="true"))
        wait_for(lambda: state(home)["rounds"] >= 2, "no round")
    own_sshd.reboot(home)
    wait_for(lambda: not is_watched(home, "shapes"), "it is watched on")
    before = state(home)
    assert before["state"] == "watching"
    time.sleep(1.5)
    assert state(home) == before
    with connect(own_sshd.device(home=home)) as connection:
        (task,) = device_status(connection).tasks
        assert task.window is not None
        assert task.window.state == "watching"
        assert task.window.left_s == pytest.approx(6.0 - before["done_s"])
        window = follow_window(connection, "shapes", done.version)
    assert (window.state, in_use(home)) == ("passed", done.version)
    assert window.rounds > before["rounds"]


def test_a_bad_one_is_found_after_a_restart_at_the_end_of_its_window(
    own_sshd: Any, home: Path, versions: Versions
) -> None:
    from edgespa.device.link.reach import connect

    with connect(own_sshd.device(home=home)) as connection:
        old = put(connection, versions(1), None).version
        done = put(connection, versions(2), Watch(60, every_s=0.2, health=f"test ! -e {home}/ill"))
    own_sshd.reboot(home)
    wait_for(lambda: not is_watched(home, "shapes"), "it is watched on")
    path = home / "tasks/shapes/window.json"
    path.write_text(json.dumps({**state(home), "done_s": 60.0}))  # all of it has passed, and was not written down
    (home / "ill").touch()
    with connect(own_sshd.device(home=home)) as connection:
        window = follow_window(connection, "shapes", done.version)
    assert (window.state, window.to, in_use(home)) == ("rolled back", old, old)


def test_another_version_in_the_middle_goes_back_to_what_has_shown_itself(
    near: Connection, home: Path, versions: Versions
) -> None:
    old = put(near, versions(1), None).version
    second = put(near, versions(2), QUICK).version
    third = put(near, versions(3), Watch(60, every_s=0.2, health="false"), keep=1)
    assert third.previous == second
    assert follow_window(near, "shapes", second).state == "replaced"
    window = follow_window(near, "shapes", third.version)
    assert (window.state, window.to, in_use(home)) == ("rolled back", old, old)


def test_a_roll_back_by_hand_ends_the_window(near: Connection, home: Path, versions: Versions) -> None:
    old = put(near, versions(1), None).version
    done = put(near, versions(2), QUICK)
    assert roll_back(near, "shapes", python).version == old
    assert follow_window(near, "shapes", done.version).state == "replaced"
    wait_for(lambda: not is_watched(home, "shapes"), "it is watched on")
    assert in_use(home) == old


def test_a_damaged_version_is_not_gone_back_to(near: Connection, home: Path, versions: Versions) -> None:
    first = put(near, versions(1), None).version
    second = put(near, versions(2), None).version
    done = put(near, versions(3), Watch(60, every_s=0.5, health="false"))
    for path in (home / "tasks/shapes" / second, *(home / "cache").glob("*")):
        for each in [path] if path.is_file() else path.glob("*.onnx"):
            each.unlink()
    window = follow_window(near, "shapes", done.version)
    assert (window.to, in_use(home)) == (first, first)


def test_what_keeps_a_shipment_from_being_in_use_keeps_the_window_of_the_version_before(
    near: Connection, home: Path, versions: Versions
) -> None:
    put(near, versions(1), None)
    second = put(near, versions(2), QUICK).version
    with held(home):
        with pytest.raises(RefusedError):
            put(near, versions(3), Watch(60, every_s=0.2, health="false"))
        assert state(home)["version"] == second
        assert is_watched(home, "shapes")
    assert in_use(home) == second


@contextlib.contextmanager
def held(home: Path, how: int = fcntl.LOCK_SH) -> Iterator[int]:
    """An application that uses the model, as a process of its own."""
    code = (
        "import fcntl,os,sys,time\nfile=open(sys.argv[1],'a')\nfcntl.flock(file,int(sys.argv[2]))\n"
        "print('held',flush=True)\nsys.stdin.read()"
    )
    path = home / "tasks/shapes" / UPDATE_LOCK
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(how)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == b"held\n"
        yield process.pid
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("how", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_an_application_that_holds_the_lock(near: Connection, home: Path, versions: Versions, how: int) -> None:
    old = put(near, versions(1), None).version
    with held(home, how) as pid:
        assert len(holders(home / "tasks/shapes" / UPDATE_LOCK)) == 1
        with pytest.raises(RefusedError, match=rf"an application there keeps .*\(process {pid}\)") as caught:
            put(near, versions(2), None)
        assert caught.value.kind == "in-use"
        assert in_use(home) == old
        with pytest.raises(RefusedError, match=f"process {pid}"):
            roll_back(near, "shapes", python, to=old)
    assert put(near, versions(2), None).previous == old
    assert len(agent_versions.versions_of(home / "tasks/shapes")) == 2


def test_the_lock_is_waited_for(near: Connection, home: Path, versions: Versions) -> None:
    old = put(near, versions(1), None).version
    told: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(home))

        def waiting(text: str) -> None:
            told.append(text)
            assert in_use(home) == old
            stack.close()

        done = put(near, versions(2), None, wait_for_lock_s=60, waiting=waiting)
    assert in_use(home) == done.version
    assert len(told) == 1
    assert "update.lock is held by" in told[0]


def test_a_bad_model_does_not_stay_because_of_the_lock(near: Connection, home: Path, versions: Versions) -> None:
    old = put(near, versions(1), None).version
    ill = home / "ill"  # only once the lock is held
    done = put(near, versions(2), Watch(60, every_s=0.5, health=f"test ! -e '{ill}'", lock_wait_s=0.2))
    with held(home) as pid:
        ill.touch()
        window = follow_window(near, "shapes", done.version)
        assert in_use(home) == old
    assert window.reason is not None
    assert f"(process {pid})" in window.reason


def test_who_holds_a_lock_is_read(tmp_path: Path) -> None:
    file = tmp_path / "update.lock"
    file.touch()
    state = file.stat()
    device = f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x}"
    proc = tmp_path / "proc"
    (proc / "812").mkdir(parents=True)
    (proc / "812/comm").write_text("camera\n")
    rows = [
        f"1: FLOCK  ADVISORY  READ 812 {device}:{state.st_ino} 0 EOF",
        f"2: FLOCK  ADVISORY  WRITE 7 {device}:{state.st_ino + 1} 0 EOF",
        f"1: -> FLOCK  ADVISORY  WRITE 9 {device}:{state.st_ino} 0 EOF",
        f"3: POSIX  ADVISORY  WRITE 8 {device}:{state.st_ino} 0 EOF",
    ]
    (proc / "locks").write_text("\n".join(rows) + "\n")
    assert holders(file, proc) == ["camera (process 812)"]
    assert holders(tmp_path / "absent", proc) == []


@pytest.mark.parametrize(
    ("watch", "what"),
    [
        (Watch(0.5), "window of 0.5 s"),
        (Watch(1e7), "window of 1e"),
        (Watch(10, every_s=11), "round every 11 s"),
        (Watch(10, health="  "), "the health command is empty"),
    ],
)
def test_what_cannot_be_meant(watch: Watch, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        watch.check()


def test_rounds_are_four_in_a_short_window_and_not_further_apart_than_half_a_minute() -> None:
    assert Watch(20).round_s == 5
    assert Watch(600).round_s == 30
    assert Watch(600, every_s=100).round_s == 100


def test_a_device_without_a_window(near: Connection, versions: Versions) -> None:
    done = put(near, versions(1), None)
    assert done.window is None
    with pytest.raises(DeviceError, match="nothing is known any more"):
        follow_window(near, "shapes", done.version)
