"""In what portions a roll-out goes, when it is stopped, and what is said of it: no device is needed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgespa.device.board import Device
from edgespa.device.link.transport import Connection
from edgespa.device.shipment import rollout
from edgespa.device.shipment.rollout import Board, RolledBackError, in_minutes, in_spite_of_breaks, roll_out
from edgespa.device.shipment.waves import Judge, Waves, portions, share_of
from edgespa.errors import ConfigError, DeviceError, UnreachableError


@pytest.mark.parametrize(
    ("text", "count", "ends"),
    [
        ("1,10%,100%", 200, (1, 20, 200)),
        ("1,10%,100%", 20, (1, 2, 20)),
        ("1,10%,100%", 5, (1, 5)),  # a tenth of five is one, which the first wave has reached
        ("1,10%,100%", 1, (1,)),
        ("10%", 15, (2,)),  # a share is rounded up; the rest is in no wave
        ("50%, 100%", 3, (2, 3)),
        ("3,5", 4, (3, 4)),
        ("8.8%,100%", 375, (33, 375)),  # 375 * 8.8 / 100 is a little more than 33 in floating point
        ("1,100%", 0, ()),
    ],
)
def test_up_to_which_device_each_wave_reaches(text: str, count: int, ends: tuple[int, ...]) -> None:
    assert Waves.parse(text).ends(count) == ends
    parts = portions(count, Waves.parse(text))
    assert [index for part in parts for index in part] == list(range(ends[-1] if ends else 0))


@pytest.mark.parametrize("text", ["", "0", "1,,2", "ten", "101%", "1.5", "-1", "5,5", "10%,5%", "1;2", "1e3"])
def test_what_is_no_waves(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Waves.parse(text)
    assert caught.value.hint is not None
    assert "--wave 1,10%,100%" in caught.value.hint


def test_shares() -> None:
    assert [share_of(text) for text in ("5%", "0.05", " 0% ", "100%", "1")] == [0.05, 0.05, 0, 1, 1]
    for text in ("5", "-1%", "nan", "101%", "%", "some", "inf"):
        with pytest.raises(ConfigError, match="is no share"):
            share_of(text)


def test_what_is_too_much() -> None:
    for size, most, allowed in ((20, 0.05, 1), (10, 0.05, 0), (10, 0.3, 3), (3, 0.34, 1), (1, 0.0, 0)):
        judge = Judge(size, most)
        judge.bad = allowed
        assert not judge.exceeded
        judge.bad = allowed + 1
        assert judge.exceeded
    anything = Judge(3, None)
    anything.bad = 3
    assert not anything.exceeded
    judge = Judge(15, 0.05)
    judge.bad = 5
    assert judge.in_words() == "5 of 15 (33%) are not well, and 5% may be"


@pytest.fixture
def devices(tmp_path: Path) -> list[Device]:
    """They are this machine; what is done on them is made up."""
    names = [f"d{number}" for number in range(1, 7)]
    return [
        Device.parse({"name": name, "title": name, "connection": {"folder": str(tmp_path / name)}}, name)
        for name in names
    ]


def worker(**ways: Any) -> Callable[[Connection], Any]:
    """Each device is at what is said of it, else in use; an error is raised."""

    def work(connection: Connection) -> Any:
        found = ways.get(connection.device.name, "in use")
        if isinstance(found, Exception):
            raise found
        return found

    return work


def quiet(devices: Sequence[Device]) -> Board:
    return Board(devices, lambda done, total, text: None)


def states(found: Any) -> list[tuple[str, int | None]]:
    return [(each.state, each.wave) for each in found.places]


def test_the_next_wave_only_while_the_last_is_well(devices: list[Device]) -> None:
    told: list[str] = []
    work = worker(d2=RolledBackError("d2 went back"), d3=UnreachableError("d3 is away"))
    options: dict[str, Any] = {"waves": Waves.parse("1,3,100%"), "told": told.append}
    found = roll_out(devices, work, quiet(devices), abort_above=0.5, **options)
    assert states(found) == [("in use", 1), ("rolled back", 2), ("unreachable", 2), *[("not begun", None)] * 3]
    assert found.stopped == "stopped in wave 2 of 3: 2 of 2 (100%) are not well, and 50% may be"
    assert told == ["wave 1 of 3: 1 in use", "wave 2 of 3: 1 rolled back, 1 unreachable"]
    assert [each.error is None for each in found.outcomes] == [True, False, False, False, False, False]
    assert "nothing was done there" in str(found.outcomes[5].error)
    assert [each.device.name for each in found.outcomes] == [each.name for each in devices]

    found = roll_out(devices, work, quiet(devices), abort_above=1.0, **options)
    assert found.stopped is None
    assert states(found)[3:] == [("in use", 3)] * 3


def test_as_soon_as_it_is_too_much_no_more_are_begun(devices: list[Device], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgespa.device.fleet.AT_ONCE", 1)
    found = roll_out(devices, worker(d2=DeviceError("bad")), quiet(devices), abort_above=0.0)
    assert [each.state for each in found.places] == ["in use", "failed", *["not begun"] * 4]
    assert [each.wave for each in found.places] == [1, 1, None, None, None, None]


def test_what_no_wave_reaches_has_no_error(devices: list[Device]) -> None:
    found = roll_out(devices, worker(), quiet(devices), waves=Waves.parse("2"))
    assert states(found) == [("in use", 1)] * 2 + [("later", None)] * 4
    assert all(each.error is None for each in found.outcomes)


def test_what_is_well_is_taken_back_where_that_is_asked_for(
    devices: list[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgespa.device.fleet.AT_ONCE", 1)  # in their order
    asked: list[list[str]] = []

    def take_back(well: Sequence[Device]) -> dict[str, DeviceError | None]:
        asked.append([each.name for each in well])
        return {"d3": None, "d4": DeviceError("d4: there was none before")}

    work = worker(d2="had it", d5=DeviceError("no"), d6=RolledBackError("d6 went back"))
    found = roll_out(devices, work, quiet(devices), waves=Waves.parse("1,100%"), abort_above=0.0, take_back=take_back)
    assert asked == [["d3", "d4"]]  # not those of the wave before, which have shown themselves
    assert [each.state for each in found.places] == ["in use", "had it", "taken back", "in use", "failed", "not begun"]
    assert "taken back, because the roll-out was stopped in wave 2 of 2" in str(found.outcomes[2].error)
    assert str(found.outcomes[3].error) == "d4: there was none before"


def test_ctrl_c_says_who_has_what(devices: list[Device]) -> None:
    board = quiet(devices)
    inside, others = threading.Event(), threading.Barrier(3, timeout=30)

    def work(connection: Connection) -> Any:
        name = connection.device.name
        if name == "d1":
            return "in use"
        if name in ("d2", "d3"):
            if name == "d2":
                board.switched(name)
            others.wait()
            inside.wait(30)
            raise UnreachableError(f"{name}: the connection was closed")
        others.wait()
        raise DeviceError("d4 fails")

    others_done = threading.Event()

    def interrupt() -> None:
        others_done.wait(30)
        os.kill(os.getpid(), signal.SIGINT)
        inside.set()

    def over(done: float, total: float | None, text: str) -> None:
        if done >= 2:  # d1 of the first wave, and d4
            others_done.set()

    board._report = over
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        roll_out(devices, work, board, waves=Waves.parse("1,4,100%"))
    thread.join()
    lines = str(caught.value).splitlines()
    assert "in use: d1" in lines
    assert "failed: d4" in lines
    assert "in its window, which goes on there: d2" in lines
    assert "not done: what was in use there still is: d3, d5, d6" in lines
    assert lines[-1] == "the same command goes on with the rest"


def test_a_window_is_followed_over_breaks(devices: list[Device], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "_AGAIN_S", 0.0)

    class Far:
        closed, where = False, "far"

    far: Any = Far()
    left = [UnreachableError("cut"), UnreachableError("cut"), "well"]

    def look() -> Any:
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    assert in_spite_of_breaks(far, look) == "well"
    monkeypatch.setattr(rollout, "STAYS_AWAY_S", 0.05)

    def never() -> Any:
        raise UnreachableError("cut")

    with pytest.raises(UnreachableError, match="cut; its health window goes on there"):
        in_spite_of_breaks(far, never)
    monkeypatch.setattr(rollout, "STAYS_AWAY_S", 60)
    far.closed = True
    looks: list[int] = []

    def once() -> Any:
        looks.append(1)
        assert len(looks) == 1, "it looks again, though the connection was closed on purpose"
        raise UnreachableError("cut")

    with pytest.raises(UnreachableError):
        in_spite_of_breaks(far, once)


def test_what_devices_are_at_in_one_line(devices: list[Device]) -> None:
    told: list[tuple[float, float | None, str]] = []
    board = Board(devices, lambda *row: told.append(row))
    board.wave(2, 3)
    for name in ("d1", "d2", "d3"):
        board.sending(name, "birds", 1, 2)
    assert told[-1] == (0, 6, "wave 2 of 3: d1 sending, d2 sending, 1 more")
    board.over("d1")
    assert told[-1] == (1, 6, "wave 2 of 3: d2 sending, d3 sending")
    alone = Board(devices[:1], lambda *row: told.append(row))
    alone.sending("d1", "birds", 100, 200)
    assert told[-1] == (100, 200, "d1: birds")
    assert [in_minutes(seconds) for seconds in (0, 0.2, 59.0, 250, 600)] == ["0:00", "0:01", "0:59", "4:10", "10:00"]
