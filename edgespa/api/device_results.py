"""What the public calls on devices give; see `edgespa.api.results`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgespa.api.results import Result
from edgespa.api.tables import Table
from edgespa.system.plain import to_plain

if TYPE_CHECKING:
    from edgespa.device.shipment.results import DeviceStatus, Shipped, Switched
    from edgespa.errors import EdgespaError


@dataclasses.dataclass(frozen=True, repr=False)
class _OnDevices(Result):
    """What came of the same work on several devices.

    Attributes:
        errors: Why it failed, by the name of the device; empty where it failed on none.
    """

    errors: Mapping[str, EdgespaError]

    @property
    def ok(self) -> bool:
        """Whether it failed on none."""
        return not self.errors

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "errors"}
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
    """

    shipped: tuple[Shipped, ...] = ()

    def _title(self) -> str:
        return f"{len(self.shipped)} shipped" + (f", {len(self.errors)} devices FAILED" if self.errors else "")

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
