"""A roll-out: devices in waves, the next one only while those of the last are well; and who has what when it ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from edgespa.device.board import Device
from edgespa.device.fleet import Outcome, on_each
from edgespa.device.link.transport import Connection
from edgespa.device.shipment.results import WindowStatus
from edgespa.device.shipment.waves import ALL, Judge, Waves, portions
from edgespa.errors import DeviceError, UnreachableError

_log = logging.getLogger(__name__)

State = Literal[
    "in use", "had it", "rolled back", "failed", "unreachable", "taken back", "in its window", "not begun", "later"
]
"""What a device is at. ``in its window``: it was not followed to its end; ``later``: in none of the waves."""

STAYS_AWAY_S = 60.0
"""A device that does not answer for so long while its window is followed is given up."""
_AGAIN_S = 2.0


class RolledBackError(DeviceError):
    """A device has gone back by itself."""


@dataclass(frozen=True)
class Place:
    """What came of a roll-out on one device.

    Attributes:
        device: Its name.
        wave: Which it was in, from 1; None for a device that was in none.
        state: What it is at.
        error: Why, where it is not well.
        in_use: Task -> the version that is in use there now, as far as that was seen; None where nothing of it is.
    """

    device: str
    wave: int | None
    state: State
    error: DeviceError | None = None
    in_use: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class RolledOut:
    """What came of a roll-out.

    Attributes:
        outcomes: One per device, in their order; a device that was not begun because the roll-out was stopped has an
            error too, one that was in none of the waves has none.
        places: The same in words.
        stopped: Why it was stopped; None where it was not.
        waves: How many there were.
    """

    outcomes: tuple[Outcome[Any], ...]
    places: tuple[Place, ...]
    stopped: str | None
    waves: int


class Board:
    """What each device is at, told as one line; it is called from all their threads.

    Args:
        devices: Of the whole roll-out.
        report: Told ``(done, total, text)``.
    """

    def __init__(self, devices: Sequence[Device], report: Callable[[float, float | None, str], None]) -> None:
        self._names, self._report = [each.name for each in devices], report
        self._at: dict[str, str] = {}
        self._done: set[str] = set()
        self._wave = ""
        self._lock = threading.Lock()
        self.begun: dict[str, State] = {}

    def wave(self, number: int, of: int) -> None:
        """A wave begins."""
        self._wave = f"wave {number} of {of}: " if of > 1 else ""

    def sending(self, name: str, task: str, sent: float, total: float | None) -> None:
        """Files go to a device."""
        if len(self._names) == 1:
            self._report(sent, total, f"{name}: {task}")
        else:
            self.at(name, "sending")

    def at(self, name: str, what: str) -> None:
        """A device is at something."""
        with self._lock:
            self._at[name] = what
        self._say()

    def switched(self, name: str) -> None:
        """A device has the new version in use, and watches it."""
        self.begun[name] = "in its window"

    def window(self, name: str, found: WindowStatus) -> None:
        """How a window stands."""
        self.at(name, f"in its window, {in_minutes(found.left_s)} left")

    def over(self, name: str) -> None:
        """A device is done with, well or not."""
        with self._lock:
            self._at.pop(name, None)
            self._done.add(name)
        self._say()

    def _say(self) -> None:
        with self._lock:
            done, at = len(self._done), sorted(self._at.items())
            text = ", ".join(f"{name} {what}" for name, what in at[:2]) + (f", {len(at) - 2} more" if at[2:] else "")
        if len(self._names) > 1 or not text.endswith("sending"):
            self._report(done, len(self._names), self._wave + text)


def in_minutes(seconds: float) -> str:
    """Seconds as ``4:10``."""
    whole = int(seconds + 0.999)
    return f"{whole // 60}:{whole % 60:02d}"


def roll_out(
    devices: Sequence[Device],
    work: Callable[[Connection], State],
    board: Board,
    *,
    waves: Waves = ALL,
    abort_above: float | None = None,
    take_back: Callable[[Sequence[Device]], Mapping[str, DeviceError | None]] | None = None,
    told: Callable[[str], None] | None = None,
) -> RolledOut:
    """Do the work on the devices of a wave at once, and on those of the next while not too many are not well.

    Args:
        devices: All of them; the waves take them in this order.
        work: Puts in use what is to be, and follows its window; says what the device is at.
        board: Told what each is at.
        waves: How many devices each reaches.
        abort_above: The share of a wave's devices that may fail, be unreachable, or go back by themselves; None for
            any. As soon as it is exceeded no more are begun.
        take_back: Called when a wave has exceeded it, with those of its devices that are well: gives, for each that
            was taken back, None, or why it could not be.
        told: Of each wave that is over, in a sentence.

    Raises:
        KeyboardInterrupt: Ctrl-C; it says who has what.
    """
    parts = portions(len(devices), waves)
    places: dict[str, Place] = {}
    outcomes: dict[str, Outcome[Any]] = {}
    stopped: str | None = None
    for number, part in enumerate(parts, 1):
        wave = [devices[index] for index in part]
        judge, done = Judge(len(wave), abort_above), _Done(board, number)
        board.wave(number, len(parts))
        try:
            found = on_each(wave, _unless(judge, work, board), lambda each: done(each, judge))  # noqa: B023
        except KeyboardInterrupt:
            places.update(done.places)
            raise KeyboardInterrupt(who_has_what(devices, places, board.begun)) from None
        outcomes.update((each.device.name, each) for each in found)
        places.update((each.device.name, done.place(each)) for each in found)
        text = f"wave {number} of {len(parts)}: {_counted([places[each.name].state for each in wave])}"
        if len(parts) > 1 and told is not None:
            told(text)
        if judge.exceeded:
            stopped = f"stopped in wave {number} of {len(parts)}: {judge.in_words()}"
            if take_back is not None:
                well = [each for each in wave if places[each.name].state == "in use"]
                for name, error in (take_back(well) if well else {}).items():
                    places[name] = replace(places[name], state="taken back" if error is None else "in use", error=error)
                    why = error or DeviceError(f"{name}: taken back, because the roll-out was {stopped}")
                    outcomes[name] = replace(outcomes[name], result=None, error=why)
            break
    for each in devices:
        if each.name not in outcomes:
            error = None if stopped is None else _not_begun(each.name, stopped)
            outcomes[each.name] = Outcome(each, None, error)
            places[each.name] = Place(each.name, None, "later" if error is None else "not begun", error)
    names = [each.name for each in devices]
    return RolledOut(
        tuple(outcomes[name] for name in names), tuple(places[name] for name in names), stopped, len(parts)
    )


class _NotBegunError(DeviceError):
    """More of the wave went wrong already than may."""


def _not_begun(name: str, why: str) -> _NotBegunError:
    return _NotBegunError(f"{name}: nothing was done there: the roll-out was {why}")


def _unless(judge: Judge, work: Callable[[Connection], State], board: Board) -> Callable[[Connection], State]:
    def guarded(connection: Connection) -> State:
        if judge.exceeded:
            raise _not_begun(connection.device.name, f"stopped: {judge.in_words()}")
        board.at(connection.device.name, "looking")
        return work(connection)

    return guarded


class _Done:
    """Told of each device of a wave as it is done with."""

    def __init__(self, board: Board, number: int) -> None:
        self.board, self.number = board, number
        self.places: dict[str, Place] = {}
        self._lock = threading.Lock()

    def __call__(self, outcome: Outcome[State], judge: Judge) -> None:
        place = self.place(outcome)
        with self._lock:
            self.places[place.device] = place
            judge.bad += place.state in ("failed", "unreachable", "rolled back")
        self.board.over(place.device)

    def place(self, outcome: Outcome[State]) -> Place:
        """What a device is at."""
        error = outcome.error
        name = outcome.device.name
        if error is None:
            return Place(name, self.number, outcome.result or "in use")
        state: State = "failed"
        if isinstance(error, _NotBegunError):
            return Place(name, None, "not begun", error)
        if isinstance(error, RolledBackError):
            state = "rolled back"
        elif isinstance(error, UnreachableError):
            state = "unreachable"
        why = error if isinstance(error, DeviceError) else DeviceError(error.message, error.hint)
        return Place(name, self.number, state, why)


_ORDER: tuple[State, ...] = (
    *("in use", "had it", "rolled back", "failed", "unreachable", "taken back", "in its window", "not begun", "later"),
)


def _counted(states: Sequence[State]) -> str:
    """How many devices are at what."""
    return ", ".join(f"{states.count(each)} {each}" for each in _ORDER if each in states)


def who_has_what(devices: Sequence[Device], places: Mapping[str, Place], begun: Mapping[str, State]) -> str:
    """What is known of each device when a roll-out is interrupted: lines for people.

    Args:
        devices: All of them.
        places: Of those that were done with.
        begun: Of those that had the new version in use already.
    """
    rows: dict[str, list[str]] = {}
    for each in devices:
        place = places.get(each.name)
        if each.name in begun and (place is None or place.state == "unreachable"):
            rows.setdefault("in its window, which goes on there", []).append(each.name)
        elif place is None or (place.state == "unreachable" and "was closed" in str(place.error)):
            rows.setdefault("not done: what was in use there still is", []).append(each.name)
        else:
            rows.setdefault(place.state, []).append(each.name)
    lines = [f"{what}: {', '.join(names)}" for what, names in rows.items()]
    return "\n".join([*lines, "the same command goes on with the rest"])


def in_spite_of_breaks(connection: Connection, look: Callable[[], WindowStatus]) -> WindowStatus:
    """Look at a device again where the connection breaks: a window is longer than many connections hold.

    Args:
        connection: To the device.
        look: `edgespa.device.shipment.windows.follow_window`.

    Raises:
        UnreachableError: It has stayed away for `STAYS_AWAY_S`, or the connection was closed on purpose.
    """
    end: float | None = None
    while True:
        began = time.monotonic()
        try:
            return look()
        except UnreachableError as error:
            now = time.monotonic()
            if end is None or now - began > STAYS_AWAY_S:
                end = now + STAYS_AWAY_S
            if connection.closed or now >= end:
                raise UnreachableError(
                    f"{error.message}; its health window goes on there", "see later: edgespa status"
                ) from error
            _log.info("%s: %s; again", connection.where, error.message)
            time.sleep(_AGAIN_S)
