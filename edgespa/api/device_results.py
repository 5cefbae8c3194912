"""What the public calls on devices give; see `edgespa.api.results`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgespa.api.results import Profile, Result
from edgespa.api.tables import Table
from edgespa.system.plain import to_plain

if TYPE_CHECKING:
    from edgespa.device.fleet import Outcome
    from edgespa.device.shipment.results import DeviceStatus, Removed, Shipped, Switched
    from edgespa.device.shipment.rollout import Place
    from edgespa.device.shipment.ship import Shipment
    from edgespa.errors import EdgespaError


@dataclasses.dataclass(frozen=True, repr=False)
class _OnDevices(Result):
    """What came of the same work on several devices.

    Attributes:
        errors: Why it failed, by the name of the device; empty where it failed on none.
        outcomes: What came of it on each device, in their order.
    """

    errors: Mapping[str, EdgespaError]
    outcomes: tuple[Outcome[Any], ...] = dataclasses.field(repr=False, kw_only=True)

    @property
    def ok(self) -> bool:
        """Whether it failed on none."""
        return not self.errors

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        own = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.repr}
        errors = {name: {"message": each.message, "hint": each.hint} for name, each in self.errors.items()}
        plain: dict[str, Any] = to_plain({**own, "errors": errors})
        return plain

    def _notes(self) -> Sequence[str]:
        return [f"FAILED: {each.message}" + (f" ({each.hint})" if each.hint else "") for each in self.errors.values()]


@dataclasses.dataclass(frozen=True, repr=False)
class Shipping(_OnDevices):
    """What was shipped.

    Attributes:
        shipped: What is in use now, a device after the other.
        shipments: What was sent, by the name of the task.
        places: What each device is at: ``in use``, ``had it``, ``rolled back``, ``failed``, ``unreachable``, ``taken
            back``, ``not begun`` or ``later``.
        stopped: Why the roll-out was stopped; None where it was not.
        notes: What is to be known beside, in sentences.
    """

    shipped: tuple[Shipped, ...] = ()
    shipments: Mapping[str, Shipment] = dataclasses.field(default_factory=dict, repr=False)
    places: tuple[Place, ...] = ()
    stopped: str | None = None
    notes: tuple[str, ...] = ()

    def _title(self) -> str:
        stopped = f", {self.stopped}" if self.stopped else ""
        return (
            f"{len(self.shipped)} shipped" + (f", {len(self.errors)} devices FAILED" if self.errors else "") + stopped
        )

    def _tables(self) -> Sequence[Table]:
        rows = tuple(
            (
                each.device,
                each.task,
                each.version,
                each.bytes_sent,
                f"{each.seconds:.1f}",
                f"{sum(check.status == 'passed' for check in each.checks)} of {len(each.checks)}",
            )
            for each in self.shipped
        )
        columns = ("device", "task", "version in use", "bytes sent", "seconds", "checked")
        return [Table(columns, rows, right=columns[3:])] if rows else []


@dataclasses.dataclass(frozen=True, repr=False)
class Rollback(_OnDevices):
    """Which versions are in use again.

    Attributes:
        switched: One for each device.
    """

    switched: tuple[Switched, ...] = ()

    def _title(self) -> str:
        return f"{len(self.switched)} rolled back" + (f", {len(self.errors)} devices FAILED" if self.errors else "")

    def _tables(self) -> Sequence[Table]:
        rows = tuple((each.device, each.task, each.version, each.previous) for each in self.switched)
        return [Table(("device", "task", "version in use", "before"), rows)] if rows else []


@dataclasses.dataclass(frozen=True, repr=False)
class Status(_OnDevices):
    """What is on devices.

    Attributes:
        devices: Those that answered.
    """

    devices: tuple[DeviceStatus, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all have answered, and everything on them is as it was shipped."""
        return not self.errors and all(each.healthy for each in self.devices)

    def _title(self) -> str:
        tasks = sum(len(each.tasks) for each in self.devices)
        return f"{len(self.devices)} devices, {tasks} tasks: {'ok' if self.ok else 'NOT OK'}"

    def _tables(self) -> Sequence[Table]:
        rows = tuple(
            (device.device, task.task, task.current, len(task.versions), task.health)
            for device in self.devices
            for task in device.tasks
        )
        return [Table(("device", "task", "in use", "versions", "health"), rows)] if rows else []


@dataclasses.dataclass(frozen=True, repr=False)
class Removal(_OnDevices):
    """What was taken off devices.

    Attributes:
        removed: One for each device.
    """

    removed: tuple[Removed, ...] = ()

    def _title(self) -> str:
        return f"removed from {len(self.removed)}" + (f", {len(self.errors)} devices FAILED" if self.errors else "")

    def _tables(self) -> Sequence[Table]:
        rows = tuple((each.device, each.task, len(each.versions), each.removed_bytes) for each in self.removed)
        return [Table(("device", "task", "versions", "bytes"), rows)] if rows else []


@dataclasses.dataclass(frozen=True, repr=False)
class Profiles(_OnDevices):
    """What a bundle's files cost on several devices.

    Attributes:
        profiles: One for each device that was measured.
        kept: How many measurements are kept of those that failed: the same call goes on with the rest.
    """

    profiles: tuple[Profile, ...] = ()
    kept: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def _title(self) -> str:
        return f"{len(self.profiles)} measured" + (f", {len(self.errors)} devices FAILED" if self.errors else "")

    def _tables(self) -> Sequence[Table]:
        rows = tuple(
            (each.measured.device, result.bundle, result.variant, result.threads, result.p50_ms, result.clean)
            for each in self.profiles
            for result in each.measured.results
        )
        return [Table(("device", "bundle", "variant", "threads", "p50", "clean"), rows)] if rows else []
