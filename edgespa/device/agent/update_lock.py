"""The update lock: what an application holds while its model must not change under it.

    tasks/TASK/update.lock          a file; ``flock -s update.lock PROGRAM``, or ``fcntl.flock`` in Python

Whoever changes what is in use takes it alone, for the moment of one rename. It is the system's: it is free as soon as
the process that holds it has ended, however it ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import time
from collections.abc import Iterator  # for annotations only: Python 3.8 cannot subscript them
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.protocol import AgentError

UPDATE_LOCK = "update.lock"
_SLICE_S = 0.5  # of waiting, between two looks at the connection
_MOST_HOLDERS = 4


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Keep others of edgespa from changing what a task has in use; it needs no space, and is held for moments."""
    descriptor = os.open(str(folder), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def update_lock(folder: Path, wait_s: float, stream: BinaryIO | None = None) -> Iterator[None]:
    """Hold the update lock of a task, alone.

    Args:
        folder: Of the task.
        wait_s: For whoever holds it.
        stream: Of the host: when it ends, so does the waiting.

    Raises:
        AgentError: ``in-use``: it is still held, by whom; ``gone``: the host is not there any more.
    """
    path = folder / UPDATE_LOCK
    try:
        descriptor = os.open(str(path), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError:
        if os.path.lexists(str(path)):
            raise
        yield  # a full disk: what cannot be made, nobody holds
        return
    try:
        _take(descriptor, path, time.monotonic() + wait_s, stream)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, end: float, stream: BinaryIO | None) -> None:
    while True:
        left = end - time.monotonic()
        if _taken_within(descriptor, min(left, _SLICE_S)):
            return
        if left <= 0:
            raise AgentError(
                "in-use", f"{path} is held by {', '.join(holders(path)) or 'a process that ends just now'}"
            )
        if stream is not None and select.select([stream], [], [], 0)[0] and not os.read(stream.fileno(), 4096):
            raise AgentError("gone", "the connection ended")


def _taken_within(descriptor: int, seconds: float) -> bool:
    """Whether the lock could be had. It is waited for in the kernel's queue: it may be free for a moment only."""
    if seconds <= 0:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def enough(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, enough)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    except TimeoutError:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def holders(path: Path, proc: Path = Path("/proc")) -> list[str]:
    """The processes that hold a lock on a file, as ``camera (process 812)``; nothing is changed by looking."""
    try:
        number = os.stat(str(path)).st_ino
        lines = (proc / "locks").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    device = os.stat(str(path)).st_dev
    wanted = "%02x:%02x:%d" % (os.major(device), os.minor(device), number)
    found = []
    for line in lines:
        words = line.split()
        # 1: FLOCK  ADVISORY  READ 812 fd:01:1234 0 EOF; one that waits has an arrow behind its number
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == wanted:
            found.append(_process(int(words[4]), path, proc))
    return list(dict.fromkeys(found))[:_MOST_HOLDERS]


def _process(number: int, path: Path, proc: Path) -> str:
    """A process in words. Who has taken a lock may have ended, and left it to one that it started."""
    for pid in [number, *_openers(path, proc)]:
        try:
            name = (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        return f"{name or 'a program'} (process {pid})"
    return f"process {number}"


def _openers(path: Path, proc: Path) -> Iterator[int]:
    """The processes that have a file open, as far as they may be looked at."""
    target = os.path.realpath(str(path))
    for name in os.listdir(str(proc)):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        folder = proc / name / "fd"
        with contextlib.suppress(OSError):
            if any(os.readlink(str(folder / each)) == target for each in os.listdir(str(folder))):
                yield int(name)
