"""How a process ended, in words, and what to do about it. Pure.

A process that a signal has ended has not lost its connection, and to try again helps as little as it did before: what
the signal says, and the last words, name the reason.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

_SHELL = 128
"""A shell tells of a signal by this and its number."""

_ILLEGAL = "it was built for processors that have more instructions than this one"
_MEMORY = "most likely for want of memory"
_FREE = "stop other programs there, or add swap; a smaller model needs less"
_OTHER_BUILD = "another version of it may run there"

_SIGNALS = {
    "SIGILL": (_ILLEGAL, _OTHER_BUILD),
    "SIGBUS": (f"{_ILLEGAL}, or its file is damaged", _OTHER_BUILD),
    "SIGSEGV": ("it crashed", _OTHER_BUILD),
    "SIGABRT": ("it gave up", None),
    "SIGKILL": (_MEMORY, _FREE),
}

# In its last words -> what that means, what to do.
_WORDS: tuple[tuple[str, str, str], ...] = (
    (r"MemoryError|bad_alloc|[Cc]annot allocate memory|[Oo]ut of memory", "it is out of memory", _FREE),
    (
        r"can't start new thread|pthread_create|Resource temporarily unavailable|processes and threads only",
        "its user may start no more processes or threads",
        "raise the limit there: ulimit -u, TasksMax of its systemd service, or pids.max of its control group",
    ),
    (r"No space left on device|Disk quota exceeded", "its disk is full", "free some space there"),
    (r"Exec format error", "it is for another kind of machine", "see that the wheels are for its instruction set"),
)


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
        how: In words, for a message.
        hint: What to do, where that is known.
        signal: The name of the signal that ended it, where one did.
    """

    how: str
    hint: str | None = None
    signal: str | None = None


def ending_of(status: int, said: str = "", killed: str | None = None) -> Ending:
    """How a process ended.

    Args:
        status: Its exit status; negative for a signal, or above 128 as shells tell of one.
        said: Its last words.
        killed: Why edgespa ended it, if it did.
    """
    name = None if killed is not None else _signal(status)
    how = f"ended by signal {_number(status)} ({name})" if name else killed or f"ended with status {status}"
    for pattern, what, hint in _WORDS:
        if killed is not None and re.search(pattern, killed):
            return Ending(how, hint)
        if re.search(pattern, said):
            return Ending(f"{how}: {what}", hint, name)
    if name in _SIGNALS:
        what, known = _SIGNALS[name]
        return Ending(f"{how}: {what}", known, name)
    return Ending(how, None, name)


def _number(status: int) -> int:
    return -status if status < 0 else status - _SHELL


def _signal(status: int) -> str | None:
    if not (status < 0 or _SHELL < status < _SHELL + 65):
        return None
    try:
        return signal.Signals(_number(status)).name
    except ValueError:
        return "unknown" if status < 0 else None
