"""What is on a device: its tasks, their versions, and whether they are what was shipped."""

from __future__ import annotations

from edgespa.device.link.transport import Connection
from edgespa.device.shipment.results import DeviceStatus, TaskStatus
from edgespa.device.shipment.ship import Python, self_check
from edgespa.errors import DeviceError


def device_status(connection: Connection, python: Python | None = None, *, threads: int = 1) -> DeviceStatus:
    """Look at a device; the files of the versions in use are read for their digests.

    Args:
        connection: To the device.
        python: Finds the Python there that has the runtimes, to run the self-check too; None to run nothing.
        threads: Of the runtime.

    Raises:
        DeviceError: It cannot be reached.
    """
    answer = connection.ask("tasks", {"check": True}, timeout_s=600)
    status = DeviceStatus.of(connection.device.name, answer)
    if python is None:
        return status
    interpreter = python(connection)
    checked = tuple(_checked(connection, each, answer["folder"], interpreter, threads) for each in status.tasks)
    return status.model_copy(update={"tasks": checked})


def _checked(connection: Connection, task: TaskStatus, root: str, python: list[str], threads: int) -> TaskStatus:
    if not task.healthy:
        return task
    try:
        checks = self_check(connection, f"{root}/tasks/{task.task}/{task.current}", python, threads=threads)
    except DeviceError as error:
        return task.model_copy(update={"health": error.message})
    failed = [f"{check.name}: {'; '.join(check.failures)}" for check in checks if check.status == "failed"]
    if not any(check.status == "passed" for check in checks):
        failed = failed or ["no file can run"]
    return task.model_copy(update={"checks": checks, "health": "; ".join(failed) or "ok"})
