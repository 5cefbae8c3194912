"""Shipping to many devices: in waves, watched, resumed; and what groups are to have, caught up with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgespa.device.board import Device
from edgespa.device.fleet import Outcome, on_each
from edgespa.device.inventory import read_facts, runtime_python
from edgespa.device.link.transport import Connection
from edgespa.device.shipment.back import roll_back
from edgespa.device.shipment.reading import read_status
from edgespa.device.shipment.results import Shipped, TaskStatus
from edgespa.device.shipment.rollout import (
    Board,
    Place,
    RolledBackError,
    State,
    in_spite_of_breaks,
    roll_out,
)
from edgespa.device.shipment.ship import Shipment, now, ship
from edgespa.device.shipment.wanted import want
from edgespa.device.shipment.waves import ALL, Waves
from edgespa.device.shipment.windows import Watch, follow_window, went_back
from edgespa.errors import ConfigError, DeviceError, EdgespaError

if TYPE_CHECKING:
    from edgespa.api.options import Progress


@dataclasses.dataclass(frozen=True)
class RollOut:
    """How many devices are reached.

    Attributes:
        waves: In what portions; None for all at once.
        abort_above: The share of a wave that may be not well; None for any.
        take_back: Take the devices of a wave that exceeds it back too, those that are well.
        watch: The health window on each device; None for none.
        resume: Leave out devices that have it in use already.
        groups: That are to have it from now on.
        told: Of what is over, in a sentence.
    """

    waves: Waves | None = None
    abort_above: float | None = None
    take_back: bool = False
    watch: Watch | None = None
    resume: bool = False
    groups: tuple[str, ...] = ()
    told: Callable[[str], None] | None = None


@dataclasses.dataclass(frozen=True)
class Delivered:
    """What came of shipping.

    Attributes:
        outcomes: One per device, in their order; an error does not take back what was shipped before it.
        shipped: What is in use now, by the name of the device.
        shipments: What was sent, by the name of the task.
        places: What each device is at.
        stopped: Why the roll-out was stopped; None where it was not.
        notes: What is to be known beside, in sentences.
    """

    outcomes: tuple[Outcome[Any], ...]
    shipped: Mapping[str, tuple[Shipped, ...]]
    shipments: Mapping[str, Shipment]
    places: tuple[Place, ...] = ()
    stopped: str | None = None
    notes: tuple[str, ...] = ()


def deliver(
    devices: Sequence[Device],
    ready: Sequence[Shipment],
    options: Mapping[str, Any],
    how: RollOut,
    progress: Progress,
    refused: Mapping[str, Outcome[Any]] | None = None,
) -> Delivered:
    """Ship to devices in waves, and follow their health windows.

    Args:
        devices: Their profiles.
        ready: What is shipped.
        options: Of `edgespa.device.shipment.ship.ship`, for each.
        how: In what waves.
        progress: Told ``(done, total, text)``.
        refused: Devices that cannot take it, which is known already, by name.
    """
    board = Board(devices, progress)
    work = Work({each.name: tuple(ready) for each in devices}, board, options, resume=how.resume, refused=refused)

    def take_back(well: Sequence[Device]) -> dict[str, DeviceError | None]:
        return _taken_back(well, work, float(options.get("wait_for_lock_s") or 0))

    most = how.abort_above if how.abort_above is not None or how.waves is None else 0.0
    found = roll_out(
        devices,
        work,
        board,
        waves=how.waves or ALL,
        abort_above=most,
        take_back=take_back if how.take_back else None,
        told=how.told,
    )
    taken = {each.device for each in found.places if each.state == "taken back"}
    done = {name: () if name in taken else tuple(each) for name, each in work.done.items()}
    has = [each.state in ("in use", "had it") for each in found.places]
    notes: list[str] = []
    if found.stopped is None and any(has) and not any(each.state == "later" for each in found.places):
        notes = _wanted(how, ready, int(options["keep"]))
    return Delivered(
        found.outcomes,
        done,
        {each.task: each for each in ready},
        placed(found.places, work),
        found.stopped,
        tuple(notes),
    )


def placed(places: Sequence[Place], *works: Work) -> tuple[Place, ...]:
    """The same with what is in use on each device, as far as it was seen."""
    seen: dict[str, dict[str, str | None]] = {}
    for work in works:
        for name, tasks in work.seen.items():
            seen.setdefault(name, {}).update(tasks)
    return tuple(dataclasses.replace(each, in_use=seen.get(each.device, {})) for each in places)


def _wanted(how: RollOut, ready: Sequence[Shipment], keep: int) -> list[str]:
    """Remember what groups are to have; why that could not be."""
    for group in how.groups:
        for each in ready:
            try:
                want(group, each, now(), keep, how.watch)
            except (OSError, ConfigError) as error:
                return [f"it is not remembered here what the group {group} is to have: {error}"]
    return []


class Work:
    """Ships to one device what it is to have, one after the other, and follows the windows of all of it.

    Args:
        ready: What each device is to have, by its name.
        board: Told what it is at.
        options: Of `edgespa.device.shipment.ship.ship`.
        resume: Leave out what is in use there already.
        refused: Devices that cannot take it, by name.
        windows: Of single tasks, in place of that of the options.

    Attributes:
        done: What was shipped and is in use, by the name of the device.
        seen: What was seen to be in use last: device -> task -> version, or None.
    """

    def __init__(
        self,
        ready: Mapping[str, Sequence[Shipment]],
        board: Board,
        options: Mapping[str, Any],
        *,
        resume: bool = False,
        refused: Mapping[str, Outcome[Any]] | None = None,
        windows: Mapping[str, Watch | None] | None = None,
    ) -> None:
        self.ready, self.board, self.options, self.resume = ready, board, options, resume
        self.refused, self.windows = refused or {}, windows or {}
        self.done: dict[str, list[Shipped]] = {}
        self.seen: dict[str, dict[str, str | None]] = {each: {} for each in ready}

    def __call__(self, connection: Connection) -> State:
        """Do it; what the device is at then."""
        name = connection.device.name
        before = self.refused.get(name)
        if before is not None and before.error is not None:
            raise before.error
        watched: list[tuple[str, str]] = []
        done = self.done.setdefault(name, [])
        todo = list(self.ready[name])
        if self.resume:
            todo, watched = _left(connection, todo, self.seen[name])
        python = runtime_python(connection, read_facts(connection)) if todo else []
        for each in todo:
            shipped = self._ship(connection, each, python)
            done.append(shipped)
            self.seen[name][each.task] = shipped.version
            if shipped.window is not None:
                watched.append((each.task, shipped.version))
                self.board.switched(name)
        for task, version in watched:
            self._follow(connection, task, version, done)
        return "in use" if todo or watched else "had it"

    def _ship(self, connection: Connection, each: Shipment, python: list[str]) -> Shipped:
        name = connection.device.name
        self.board.at(name, "sending")
        options = {**self.options, **({"watch": self.windows[each.task]} if each.task in self.windows else {})}
        return ship(
            connection,
            each,
            lambda _: python,
            **options,
            progress=lambda sent, total: self.board.sending(name, each.task, sent, total),
            waiting=lambda text: self.board.at(name, "waits for an application"),
        )

    def _follow(self, connection: Connection, task: str, version: str, done: list[Shipped]) -> None:
        name = connection.device.name

        def look() -> Any:
            return follow_window(connection, task, version, lambda found: self.board.window(name, found))

        window = in_spite_of_breaks(connection, look)
        mine = [each for each in done if each.task == task]
        for each in mine:
            done.remove(each)
        if window.state != "passed":
            self.seen[name].pop(task, None)
        if window.state == "rolled back":
            self.seen[name][task] = window.to
            error = went_back(connection.where, task, window)
            raise RolledBackError(error.message, error.hint)
        if window.state != "passed":
            raise DeviceError(
                f"{connection.where}: another version of {task} was put in use in the health window of {version}",
                f"see what it has: edgespa status --device {connection.device.asked}",
            )
        done += [each.model_copy(update={"window": window}) for each in mine]


def task_status(connection: Connection, tasks: Sequence[str]) -> dict[str, TaskStatus]:
    """What a device has of some tasks; nothing is read for its digest.

    Args:
        connection: To the device.
        tasks: By name.
    """
    answer = connection.ask("tasks", {"only": list(tasks)})
    return {each.task: each for each in read_status(connection.device.name, connection.where, answer).tasks}


def _left(
    connection: Connection, ready: Sequence[Shipment], seen: dict[str, str | None]
) -> tuple[list[Shipment], list[tuple[str, str]]]:
    """What is not in use there, and of what is, that which is in its window still: task and version.

    ``seen`` is told what is in use.
    """
    there = task_status(connection, [each.task for each in ready])
    seen.update((name, task.current) for name, task in there.items())
    left, watched = [], []
    for each in ready:
        task = there.get(each.task)
        used = next((one for one in task.versions if one.version == task.current), None) if task is not None else None
        if task is None or used is None or used.digest != each.digest or not task.healthy:
            left.append(each)
        elif task.window is not None and task.window.state == "watching" and task.window.version == used.version:
            watched.append((each.task, used.version))
    return left, watched


def _taken_back(devices: Sequence[Device], done: Work, wait_s: float) -> dict[str, DeviceError | None]:
    """Use what was in use before on devices that were shipped to; what each was found to lack."""

    def work(connection: Connection) -> None:
        python = runtime_python(connection, read_facts(connection))
        for each in done.done.get(connection.device.name, ()):
            if each.previous == each.version:
                continue
            if each.previous is None:
                raise DeviceError(
                    f"{connection.where}: {each.task} {each.version} stays in use: there was none before it",
                    f"take it off: edgespa ship --remove {each.task} --device {connection.device.asked}",
                )
            roll_back(connection, each.task, lambda _: python, to=each.previous, wait_for_lock_s=wait_s)
            done.seen[connection.device.name][each.task] = each.previous

    def why(error: EdgespaError | None) -> DeviceError | None:
        return error if error is None or isinstance(error, DeviceError) else DeviceError(error.message, error.hint)

    return {each.device.name: why(each.error) for each in on_each(devices, work)}
