"""What the system says of itself: its files and its small programs, any of which may be absent."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable  # for annotations only: Python 3.8 cannot subscript them
from pathlib import Path
from typing import Any


def quick(argv: list[str], timeout_s: float = 5.0) -> str | None:
    """What a small program says; None where it is not there, fails or hangs."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def usable(path: Path) -> bool:
    """Whether this process may read and write a file."""
    return os.access(str(path), os.R_OK | os.W_OK)


class System:
    """Where the system's files are, and how its programs are run; other ones in tests.

    Args:
        proc: procfs.
        sys: sysfs.
        etc: Its configuration.
        run: Runs a program, see `quick`.
        dev: Devices.
        may_use: Whether this process may read and write a file.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        sys: Path = Path("/sys"),
        etc: Path = Path("/etc"),
        run: Callable[[list[str]], str | None] = quick,
        dev: Path = Path("/dev"),
        may_use: Callable[[Path], bool] = usable,
    ) -> None:
        self.proc, self.sys, self.etc, self.run, self.dev, self.may_use = proc, sys, etc, run, dev, may_use


def text_of(path: Path) -> str | None:
    """The content of a small file without what ends it; None where it cannot be read or is empty."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\x00\n ") or None
    except (OSError, ValueError):
        return None


def number_in(path: Path) -> int | None:
    """The whole number that a file consists of; None where there is none."""
    text = (text_of(path) or "").strip()
    return int(text) if text.lstrip("-").isdigit() else None


def table_of(path: Path) -> dict[str, int]:
    """Lines like ``MemTotal:  3884364 kB`` or ``pswpin 12``: their first number by their first word."""
    found: dict[str, int] = {}
    for line in (text_of(path) or "").splitlines():
        parts: list[Any] = line.split()
        if len(parts) >= 2 and parts[1].isdigit():
            found[parts[0].rstrip(":")] = int(parts[1])
    return found
