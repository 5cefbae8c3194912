"""Functions that workers of the tests call, as ``edgespa.jobs_of_tests``: see the fixture ``jobs``."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from edgespa.errors import ConfigError

log = logging.getLogger("edgespa.jobs_of_tests")


def doubled(number: int) -> dict[str, object]:
    log.info("doubling %d", number)
    log.warning("this is %d", number)
    return {"value": 2 * number, "process": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}


def printed(text: str) -> str:
    sys.stdout.write(text)
    sys.stdout.flush()
    os.write(1, text.encode())
    return text


def failed(how: str) -> None:
    match how:
        case "own":
            raise ConfigError("it is not so", "make it so")
        case "file":
            Path("no-such-file").read_text()
        case "fault":
            raise ZeroDivisionError("by nothing")
        case "memory":
            raise MemoryError
        case "exit":
            raise SystemExit("it left")


def killed() -> None:
    os.write(2, b"on my way out")
    os.kill(os.getpid(), signal.SIGKILL)


def waited(folder: str, label: str, seconds: float, child: bool = False) -> str:
    """Takes its time, and writes when it began, that it was interrupted, and when it ended."""
    place = Path(folder)
    tries = len(list(place.glob(f"{label}.began.*")))
    if child:
        started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (place / f"{label}.child").write_text(str(started.pid))
    (place / f"{label}.began.{tries}").write_text(f"{time.time()} {os.getpid()}")
    ends = time.monotonic() + seconds
    try:
        while time.monotonic() < ends:  # Ray interrupts between two steps, no system call
            time.sleep(0.02)
    except KeyboardInterrupt:
        (place / f"{label}.saved").write_text("")
        raise
    (place / f"{label}.ended").write_text(str(time.time()))
    return label


def stubborn(folder: str) -> None:
    """Ends when it is killed."""
    (Path(folder) / "began").write_text("")
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(60)
