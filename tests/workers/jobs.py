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


def copied(source: str, folder: str, deep: dict[str, list[str]]) -> dict[str, object]:
    """Reads a folder, goes on with what is there, and writes."""
    place, sub = Path(folder), Path(deep["at"][0])
    (place / "made").mkdir(exist_ok=True)
    for each in sorted(Path(source.removesuffix(":x")).rglob("*.bin")):
        (place / "made" / each.name).write_bytes(each.read_bytes())
        (place / "made" / each.name).chmod(0o600)
        time.sleep(0.002)  # the order in which files are written is seen by their times
    sub.mkdir(exist_ok=True)
    state = (sub / "state").read_text() if (sub / "state").exists() else ""
    (sub / "old").unlink(missing_ok=True)
    (sub / "new").write_text("new")
    time.sleep(0.002)
    (place / "done").write_text("")
    (place / "nobody-asked").write_text("")
    return {
        "source": source, "folder": folder, "sub": str(sub), "state": state, "private": (place / "private").exists()
    }  # fmt: skip
