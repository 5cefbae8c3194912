"""What is on a device: its tasks, their versions, and whether they are what was shipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgespa.device.link.transport import Connection
from edgespa.device.shipment.memory import remembered
from edgespa.device.shipment.reading import read_status
from edgespa.device.shipment.results import DeviceStatus, TaskStatus
from edgespa.device.shipment.ship import Python, self_check
from edgespa.device.shipment.wanted import lag_of, wanted_on
from edgespa.errors import DeviceError

TIMEOUT_S = 30.0
"""A device that has not answered for so long is given up."""
_PORTION_BYTES = 64 << 20  # that are read for their digests between two answers


def device_status(
    connection: Connection, python: Python | None = None, *, threads: int = 1, timeout_s: float = TIMEOUT_S
) -> DeviceStatus:
    """Look at a device; the files of the versions in use are read for their digests.

    Args:
        connection: To the device.
        python: Finds the Python there that has the runtimes, to run the self-check too; None to run nothing.
        threads: Of the runtime.
        timeout_s: Longest silence, but for self-checks.

    Raises:
        DeviceError: It cannot be reached, does not answer, or its answer is none.
    """
    within = {"within_s": int(timeout_s) + 5}  # there too: what hangs is not to pile up
    name, where = connection.device.name, connection.where
    status = read_status(name, where, connection.ask("tasks", within, timeout_s=timeout_s))
    found: dict[str, TaskStatus] = {}
    for portion in _portions(status.tasks):
        request = {**within, "check": True, "only": portion}
        answer = connection.ask("tasks", request, timeout_s=timeout_s)
        found.update((each.task, each) for each in read_status(name, where, answer).tasks)
    tasks = [found.get(each.task, each) for each in status.tasks]
    if python is not None:
        interpreter = python(connection)
        tasks = [_checked(connection, each, status.folder, interpreter, threads) for each in tasks]
    there = {each.task: [version.version for version in each.versions] for each in tasks}
    own = remembered(connection)
    gone = tuple(each for each in own if each.task not in there)
    # What `keep` removes is older than what stays.
    older = tuple(each for each in own if each.task in there and each.version > max(there[each.task], default="9"))
    by_name = {each.task: each for each in tasks}
    wanted = wanted_on(connection.device)
    lags = tuple(lag for group, row in wanted if (lag := lag_of(group, row, by_name.get(row.task))) is not None)
    return status.model_copy(update={"tasks": tuple(tasks), "gone": gone, "older": older, "lags": lags})


def _portions(tasks: Sequence[TaskStatus]) -> Iterator[list[str]]:
    """Names of tasks whose versions in use are read one after the other before the device answers again."""
    portion: list[str] = []
    size = 0
    for task in tasks:
        own = sum(each.size_bytes for each in task.versions if each.version == task.current)
        if portion and size + own > _PORTION_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(task.task)
        size += own
    if portion:
        yield portion


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
