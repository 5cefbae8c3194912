"""The same work on several devices at once: one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgespa.device.board import Device
from edgespa.device.link.reach import connect
from edgespa.device.link.transport import Connection
from edgespa.errors import EdgespaError

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What came of the work on one device.

    Attributes:
        device: Its profile.
        result: What the work gave; None where it failed.
        error: Why it failed.
    """

    device: Device
    result: T | None
    error: EdgespaError | None


_HEED_S = 0.2


def on_each(devices: Sequence[Device], work: Callable[[Connection], T]) -> tuple[Outcome[T], ...]:
    """Do something on every device, on all of them at once.

    Args:
        devices: Their profiles.
        work: Gets a connection, which is closed afterwards. It runs in a thread of its own.

    Returns:
        One outcome per device, in their order. Errors of edgespa are outcomes; anything else is raised when all are
        done, and so is Ctrl-C, once every connection is closed.
    """
    connections: list[Connection] = []

    def one(connection: Connection) -> Outcome[T]:
        try:
            with connection:
                return Outcome(connection.device, work(connection), None)
        except EdgespaError as error:
            return Outcome(connection.device, None, error)

    with ThreadPoolExecutor(max_workers=max(1, len(devices)), thread_name_prefix="device") as pool:
        try:
            connections += [connect(device) for device in devices]
            futures = [pool.submit(one, connection) for connection in connections]
            # A signal just before a wait without end is not noticed until it ends: Ctrl-C is seen between short ones.
            while wait(futures, timeout=_HEED_S).not_done:
                pass
        except BaseException:
            for connection in connections:  # what runs there ends with its connection, so the threads do
                connection.close()
            raise
    return tuple(future.result() for future in futures)
