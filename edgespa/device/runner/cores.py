"""The cores that a process is bound to, as people write them: ``4-7`` or ``0,2``."""

from __future__ import annotations

import os
from collections.abc import Iterable  # for annotations only: Python 3.8 cannot subscript it

from edgespa.device.runner.bundle import RunnerError

MOST_CORES = 4096


def cores_text(cores: Iterable[int]) -> str:
    """Numbers as text: neighbours as a range."""
    runs: list[list[int]] = []
    for core in sorted(set(cores)):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def cores_of(text: str) -> list[int]:
    """The numbers that a text stands for.

    Raises:
        ValueError: It stands for none.
    """
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not (low.isdecimal() and (high.isdecimal() if dash else not high)):
            raise ValueError(f"{text!r} names no cores: write 4-7, or 0,2")
        first, last = int(low), int(high or low)
        if not first <= last < MOST_CORES:
            raise ValueError(f"{text!r} names no cores: write 4-7, or 0,2")
        found.update(range(first, last + 1))
    return sorted(found)


def can_bind(cores: Iterable[int]) -> bool:
    """Whether this process may use all of them."""
    return hasattr(os, "sched_getaffinity") and set(cores) <= os.sched_getaffinity(0)


def bind_to(text: str) -> None:
    """Keep this process, and all that it starts, to some cores.

    Raises:
        RunnerError: It may not use them.
    """
    cores = cores_of(text)
    if not can_bind(cores):
        raise RunnerError(f"this process may not use the cores {text} of this machine")
    os.sched_setaffinity(0, cores)
