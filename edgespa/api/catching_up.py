"""What groups are to have, given to the devices that lack it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgespa.api.rolling_out import Delivered, Work, placed, task_status
from edgespa.device.board import Device, list_devices
from edgespa.device.groups import chosen, devices_in
from edgespa.device.link.transport import Connection
from edgespa.device.shipment.rollout import Board, State, roll_out
from edgespa.device.shipment.ship import KEEP, Shipment
from edgespa.device.shipment.wanted import Wanted, known_groups, lag_of, opened, wanted_of, wanted_on, went_back_from
from edgespa.device.shipment.windows import Watch
from edgespa.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    from edgespa.api.options import Progress

OfDevices = Mapping[str, tuple[tuple[str, Wanted], ...]]
"""Device -> what it is to have, with the group because of which it is."""


def lagging(groups: Sequence[str], names: Sequence[str]) -> tuple[list[Device], OfDevices]:
    """The devices that are to have something because of their groups; nothing is asked.

    Args:
        groups: Of these groups; none for all.
        names: Only these devices; none for all.

    Raises:
        ConfigError: Nothing was shipped to these groups from here, or a named device is in none of them.
        DeviceError: There is no such group or device.
    """
    for group in groups:
        devices_in(group)
        if not wanted_of(group):
            raise ConfigError(
                f"nothing was shipped to the group {group} from here",
                f"known: {', '.join(known_groups()) or 'none'}; ship to it first: --group {group}",
            )
    if not known_groups():
        raise ConfigError("nothing was shipped to a group from here", "ship to one first: --group NAME")
    every = [each.device for each in list_devices() if each.path is not None and each.device is not None]
    targets = chosen(names, ()) if names else every
    wanted = {each.name: wanted_on(each, groups or None) for each in targets}
    if names:
        none = next((each for each in targets if not wanted[each.name]), None)
        if none is not None:
            tags = ", ".join(none.tags) or "none"
            raise ConfigError(
                f"{none.name}: no group that it is in is to have anything", f"its tags: {tags}; ship to it by its name"
            )
    return [each for each in targets if wanted[each.name]], wanted


def catch_up_on(
    devices: Sequence[Device],
    wanted: OfDevices,
    signed: Mapping[str, Any],
    options: Mapping[str, Any],
    watch: Watch | None,
    progress: Progress,
) -> Delivered:
    """Ship to each device what it lacks.

    Args:
        devices: Their profiles.
        wanted: What each is to have.
        signed: ``signers``, ``identity`` and ``revoked``.
        options: Of `edgespa.device.shipment.ship.ship`.
        watch: The health window; None for that which the group had.
        progress: Told ``(done, total, text)``.

    Raises:
        BundleError: The copy of what is to be shipped is damaged, or gone.
        SignatureError: It is not signed by one of the signers.
    """
    board = Board(devices, progress)
    rows = {row.digest: row for each in wanted.values() for _, row in each}
    with contextlib.ExitStack() as stack:
        shipments = {digest: stack.enter_context(opened(row, **signed)) for digest, row in rows.items()}
        work = _CatchUp(wanted, shipments, board, options, watch)
        found = roll_out(devices, work, board)
    done = {name: tuple(each) for one in work.works for name, each in one.done.items()}
    ready = {each.task: each for each in shipments.values()}
    places = placed(found.places, *work.works)
    return Delivered(found.outcomes, done, ready, places, found.stopped, tuple(sorted(work.notes)))


class _CatchUp:
    """Looks at what a device has, and ships to it what it lacks."""

    def __init__(
        self,
        wanted: OfDevices,
        shipments: Mapping[str, Shipment],
        board: Board,
        options: Mapping[str, Any],
        watch: Watch | None,
    ) -> None:
        self.wanted, self.shipments, self.board, self.options, self.watch = wanted, shipments, board, options, watch
        self.works: list[Work] = []
        self.notes: list[str] = []

    def __call__(self, connection: Connection) -> State:
        name = connection.device.name
        rows = self.wanted[name]
        there = task_status(connection, [row.task for _, row in rows])
        todo = []
        for group, row in rows:
            task = there.get(row.task)
            if went_back_from(row, task):
                lag = lag_of(group, row, task)
                if lag is not None:
                    self.notes.append(f"{name}: {row.task} is left as it is: {lag.why}")
            else:
                todo.append(row)
        ready = {name: [self.shipments[row.digest] for row in todo]}
        windows = {row.task: self.watch or row.window for row in todo}
        keep = max((row.keep for row in todo), default=KEEP)
        work = Work(ready, self.board, {**self.options, "keep": keep}, resume=True, windows=windows)
        work.seen[name].update((each, task.current) for each, task in there.items())
        self.works.append(work)
        if not todo:
            raise DeviceError(
                f"{name}: it has gone back by itself from what its groups are to have",
                f"see why: edgespa status --device {connection.device.asked}",
            )
        return work(connection)
