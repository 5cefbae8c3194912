"""What shipping, rolling back and looking give: models that are shown, and printed as JSON."""

from __future__ import annotations

from typing import Any, Literal

from edgespa.config import Strict
from edgespa.device.measure.results import Check

SignatureState = Literal["absent", "not checked", "on the device", "on the host"]


class Shipped(Strict):
    """A bundle that is in use on a device.

    Attributes:
        device: Its name.
        emulated: Whether it is an emulated one: its seconds mean nothing.
        task: The task's name there.
        version: The version's name there.
        previous: What was in use before; the same version if it was this one already.
        folder: Of the version, on the device.
        bytes_sent: Content of files that went over the connection.
        bytes_there: Content that was there already, by its digest.
        base_bytes_sent: Of a base that the device did not have; 0 where it had it, or needs none.
        seconds: From the first call to the switch.
        signature: Where it was checked.
        signed_by: By whom, where it was checked.
        checks: The self-check on the device.
        removed: Versions that went because of ``keep``.
        cleaned: Versions that earlier, interrupted shipments had left unfinished, removed.
    """

    device: str
    emulated: bool
    task: str
    version: str
    previous: str | None
    folder: str
    bytes_sent: int
    bytes_there: int
    base_bytes_sent: int
    seconds: float
    signature: SignatureState
    signed_by: str | None
    checks: tuple[Check, ...]
    removed: tuple[str, ...]
    cleaned: tuple[str, ...]


class Switched(Strict):
    """An earlier version that is in use again; attributes as those of `Shipped`."""

    device: str
    task: str
    version: str
    previous: str | None
    checks: tuple[Check, ...]


class VersionStatus(Strict):
    """One version of a task on a device.

    Attributes:
        version: Its name.
        size_bytes: Of its files.
        base_bytes: Of the base among them, which tasks share on the disk.
        shipped: When it passed its self-check there, ISO 8601; None for an unfinished one.
        signed_by: As it was then.
        digest: SHA-256 of its manifest.
    """

    version: str
    size_bytes: int
    base_bytes: int
    shipped: str | None
    signed_by: str | None
    digest: str | None


class TaskStatus(Strict):
    """A task on a device.

    Attributes:
        task: Its name.
        current: The version in use; None where there is none.
        health: ``ok``: its files are as they were shipped; else what is wrong, in words.
        versions: All of them, the oldest first.
        checks: Its self-check, where one was asked for.
    """

    task: str
    current: str | None
    health: str
    versions: tuple[VersionStatus, ...]
    checks: tuple[Check, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return self.health == "ok"


class DeviceStatus(Strict):
    """What is on a device.

    Attributes:
        device: Its name.
        folder: Where edgespa keeps things there.
        free_bytes: Of its disk.
        cached_bytes: Files by their digest; those in use are links to them, and take no space of their own.
        tasks: By name.
    """

    device: str
    folder: str
    free_bytes: int
    cached_bytes: int
    tasks: tuple[TaskStatus, ...]

    @classmethod
    def of(cls, device: str, answer: dict[str, Any]) -> DeviceStatus:
        """Read the agent's answer."""
        rows = tuple(_task(row) for row in answer["tasks"])
        sizes = {key: answer[key] for key in ("folder", "free_bytes", "cached_bytes")}
        return cls(device=device, tasks=rows, **sizes)


def _task(row: dict[str, Any]) -> TaskStatus:
    versions = tuple(_version(each) for each in row["versions"])
    current = row["current"]
    found = next((each["problems"] for each in row["versions"] if each["version"] == current), None)
    if current is None:
        health = "the link to the version in use leads nowhere" if row["broken"] else "nothing was ever in use"
    else:
        health = "; ".join(found or ()) or "ok"
    return TaskStatus(task=row["task"], current=current, health=health, versions=versions)


def _version(row: dict[str, Any]) -> VersionStatus:
    record = row["record"] or {}
    return VersionStatus(
        version=row["version"],
        size_bytes=row["size_bytes"],
        base_bytes=row["base_bytes"],
        shipped=record.get("created"),
        signed_by=record.get("signed_by"),
        digest=record.get("digest"),
    )
