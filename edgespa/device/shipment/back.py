"""Back to an earlier version of a task, and a task off a device: neither needs space there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgespa.device.link.transport import Connection
from edgespa.device.shipment.memory import forget
from edgespa.device.shipment.results import Removed, Switched
from edgespa.device.shipment.ship import LOCK, Python, now, require_passed, self_check
from edgespa.device.shipment.windows import put_in_use
from edgespa.errors import DeviceError


def roll_back(
    connection: Connection,
    task: str,
    python: Python,
    *,
    to: str | None = None,
    threads: int = 1,
    wait_for_lock_s: float = 0,
) -> Switched:
    """Use an earlier version of a task again, after it has passed its digests and its self-check once more.

    Files of it that are damaged are first put right from other copies on the device, where there are good ones. A full
    disk is no obstacle.

    Args:
        connection: To the device.
        task: The task's name there.
        python: Finds the Python there that has the runtimes.
        to: A version; None for the newest one before that in use.
        threads: Of the runtime, for the self-check.
        wait_for_lock_s: For an application there that holds the update lock of the task.

    Raises:
        DeviceError: There is no such task or version, or it is damaged or fails; what is in use stays so.
    """
    interpreter = python(connection)
    with connection.lock(LOCK, f"edgespa rollback of {task}, begun {now()}"):
        rows = connection.ask("tasks", {"only": [task]})["tasks"]
        if not rows:
            raise _no_task(connection, task)
        version = _chosen(connection, rows[0], to)
        own = {"task": task, "version": version}
        found = connection.ask("examine", own, timeout_s=600)
        if found["problems"]:
            raise DeviceError(
                f"{connection.where}: {task} {version} is damaged: {'; '.join(found['problems'])}",
                "ship that bundle again, or name another version with --to",
            )
        checks = self_check(connection, found["folder"], interpreter, threads=threads)
        require_passed(connection, f"{task} {version}", checks)
        switched = put_in_use(connection, own, None, wait_s=wait_for_lock_s)
    return Switched(
        device=connection.device.name,
        task=task,
        version=version,
        previous=switched["previous"],
        checks=checks,
        repaired=tuple(found["repaired"]),
    )


def _chosen(connection: Connection, row: Mapping[str, Any], to: str | None) -> str:
    finished = [each["version"] for each in row["versions"] if each["finished"]]
    current = row["current"]
    there = ", ".join(f"{name} (in use)" if name == current else name for name in finished) or "none"
    if to is not None:
        matching = [name for name in finished if name == to or name.split("-")[0].lstrip("0") == to.lstrip("0")]
        if len(matching) != 1:
            raise DeviceError(
                f"{connection.where}: task {row['task']} has no version '{to}'", f"versions there: {there}"
            )
        return str(matching[0])
    earlier = [name for name in finished if current is None or _number(name) < _number(current)]
    if not earlier:
        raise DeviceError(
            f"{connection.where}: task {row['task']} has no version before {current or 'the first'}",
            f"versions there: {there}; name one with --to",
        )
    return str(earlier[-1])


def _number(version: str) -> int:
    return int(version.split("-")[0])


def remove(connection: Connection, task: str) -> Removed:
    """Remove a task from a device: all its versions, the one in use too; and do not expect it there any more.

    Args:
        connection: To the device.
        task: The task's name there.

    Raises:
        DeviceError: There is no such task, and none was shipped from here.
    """
    with connection.lock(LOCK, f"edgespa removal of {task}, begun {now()}"):
        done = connection.ask("remove", {"task": task}, timeout_s=600)
    if not forget(connection, task) and not done["removed"]:
        raise _no_task(connection, task)
    return Removed(
        device=connection.device.name,
        task=task,
        versions=tuple(done["versions"]),
        removed_bytes=int(done["removed_bytes"]),
    )


def _no_task(connection: Connection, task: str) -> DeviceError:
    return DeviceError(
        f"{connection.where} has no task '{task}'",
        f"see what it has: edgespa status --device {connection.device.asked}",
    )
