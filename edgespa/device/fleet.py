"""The same work on several devices at once: one that fails does not stop the others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgespa.device.board import Device
from edgespa.device.link.reach import connect
from edgespa.device.link.transport import Connection
from edgespa.errors import DeviceError, EdgespaError

T = TypeVar("T")
_log = logging.getLogger(__name__)

AT_ONCE = 32
"""Devices that are worked on at the same time."""


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
_CLOSE_S = 6.0


def on_each(
    devices: Sequence[Device], work: Callable[[Connection], T], done: Callable[[Outcome[T]], None] | None = None
) -> tuple[Outcome[T], ...]:
    """Do something on every device, on all of them at once.

    Args:
        devices: Their profiles.
        work: Gets a connection, which is closed afterwards. It runs in a thread of its own.
        done: Told of each outcome as it comes, from that thread.

    Returns:
        One outcome per device, in their order. An error is an outcome, also one that nobody thought of: it is not to
        hide what the other devices say. Ctrl-C is raised once every connection is closed.
    """
    connections: list[Connection] = []

    def one(connection: Connection) -> Outcome[T]:
        outcome: Outcome[T]
        try:
            with connection:
                outcome = Outcome(connection.device, work(connection), None)
        except EdgespaError as error:
            outcome = Outcome(connection.device, None, error)
        except Exception as error:
            _log.debug("%s", connection.where, exc_info=True)
            outcome = Outcome(connection.device, None, _unexpected(connection, error))
        if done is not None:
            done(outcome)
        return outcome

    with ThreadPoolExecutor(max_workers=min(AT_ONCE, max(1, len(devices))), thread_name_prefix="device") as pool:
        try:
            connections += [connect(device) for device in devices]
            futures = [pool.submit(one, connection) for connection in connections]
            # A signal just before a wait without end is not noticed until it ends: Ctrl-C is seen between short ones.
            while wait(futures, timeout=_HEED_S).not_done:
                pass
        except BaseException:
            _close(connections)  # what runs there ends with its connection, so the threads do
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return tuple(future.result() for future in futures)


def _unexpected(connection: Connection, error: Exception) -> DeviceError:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return DeviceError(f"{connection.where}: internal error: {what}", "run again with -vv for the traceback")


def _close(connections: Sequence[Connection]) -> None:
    """Close them side by side: one that hangs is not to keep the others."""
    threads = [threading.Thread(target=each.close, daemon=True) for each in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_CLOSE_S)
