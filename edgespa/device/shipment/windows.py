"""Health windows from the host's side: what is to be watched, the switch that begins one, and how it is followed.

The device does it alone, see `edgespa.device.agent.watch`: here it is only told what to do, and looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgespa.device.link.transport import Connection
from edgespa.device.measure.results import Check
from edgespa.device.ours import runner_command
from edgespa.device.shipment.reading import read_window
from edgespa.device.shipment.results import WindowStatus
from edgespa.errors import ConfigError, DeviceError, RefusedError

MOST_EVERY_S = 30.0
"""Between two rounds of a window, where the user says nothing."""
HEALTH_S = 60.0
"""That a health command may take."""
LONGEST_S = 7 * 86400.0
BENCH_RUNS = 30
_POLL_S = 10.0
_LOCK_S = 5.0  # that one question waits for the lock, so that it can be said who holds it


@dataclass(frozen=True)
class Watch:
    """How a version is watched after it was put in use.

    Attributes:
        watch_s: For so many seconds.
        every_s: Between two rounds; None for a quarter of it, at most `MOST_EVERY_S`.
        health: A command for the device's shell: whatever it ends with but 0 is a failure.
        health_s: That it may take.
        max_latency_ms: The most that an inference may take, the median of some; None for the bundle's own bound.
        lock_wait_s: That the device waits for the update lock before it goes back all the same.
    """

    watch_s: float
    every_s: float | None = None
    health: str | None = None
    health_s: float = HEALTH_S
    max_latency_ms: float | None = None
    lock_wait_s: float = 0.0

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: It says which.
        """
        if not 1 <= self.watch_s <= LONGEST_S:
            raise ConfigError(f"a health window of {self.watch_s:g} s", "let it be from 1 s to 7 days: --watch 10m")
        if self.every_s is not None and not 0.2 <= self.every_s <= self.watch_s:
            raise ConfigError(
                f"a round every {self.every_s:g} s in a window of {self.watch_s:g} s",
                "let a round come at least once in it: --watch 10m --health-every 30s",
            )
        if self.health is not None and (not self.health.strip() or "\0" in self.health):
            raise ConfigError("the health command is empty", "say what the device's shell is to run")

    @property
    def round_s(self) -> float:
        """Between two rounds."""
        return self.every_s if self.every_s is not None else max(0.2, min(MOST_EVERY_S, self.watch_s / 4))


def plan_of(
    connection: Connection,
    folder: str,
    python: Sequence[str],
    checks: Sequence[Check],
    watch: Watch,
    *,
    own_ms: float | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """What the device is told of a window.

    Args:
        connection: To it.
        folder: Of the version there.
        python: The Python there that has the runtimes.
        checks: The self-check of the version: what has passed has to pass again.
        watch: What was asked for.
        own_ms: What the bundle says that an inference may take, where nothing else is asked for.
        trust: Let the bundle's own run.py check and measure.
    """

    def command(*options: str) -> list[str]:
        return runner_command(python, folder, options, trusted=trust)[0]

    passed = [each.name for each in checks if each.status == "passed"]
    most = watch.max_latency_ms if watch.max_latency_ms is not None else own_ms
    bench = None if most is None else command("--bench", "--runs", str(BENCH_RUNS))
    plan = {
        "health": watch.health,
        "health_s": watch.health_s,
        "checks": [command("--selfcheck", "--variant", name) for name in passed],
        "bench": bench,
        "max_latency_ms": most,
        "lock_wait_s": watch.lock_wait_s,
        "small": not connection.device.is_local,
    }
    return {"watch_s": watch.watch_s, "every_s": watch.round_s, "plan": plan}


def put_in_use(
    connection: Connection,
    own: Mapping[str, Any],
    record: Mapping[str, Any] | None,
    *,
    watch: Mapping[str, Any] | None = None,
    wait_s: float = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Use a version from now on, as soon as no application holds the update lock of its task.

    Args:
        connection: To the device.
        own: ``task`` and ``version``.
        record: Of its self-check; None for one that has such a record.
        watch: Its health window, of `plan_of`.
        wait_s: For the lock.
        progress: Told who holds it.

    Raises:
        RefusedError: Of kind ``in-use``: it is held, by which process; or as for every call.
    """
    end = time.monotonic() + wait_s
    waits = 0.0
    while True:
        request = {**own, "record": record, "window": watch, "lock_wait_s": waits}
        try:
            return connection.ask("put-in-use", request, hold=True)
        except RefusedError as error:
            left = end - time.monotonic()
            if error.kind != "in-use" or left <= 0:
                raise
            if progress is not None:
                progress(error.message)
            waits = min(_LOCK_S, left)


def follow_window(
    connection: Connection,
    task: str,
    version: str,
    report: Callable[[WindowStatus], None] | None = None,
) -> WindowStatus:
    """Look at a window until it has ended.

    Args:
        connection: To the device.
        task: The task's name there.
        version: That is watched.
        report: Told how it stands, at each look.

    Returns:
        How it ended; ``replaced`` where there is another window by now.

    Raises:
        UnreachableError: The connection broke: the window goes on without it.
        DeviceError: The device says nothing of a window.
    """
    rounds: int | None = None
    while True:
        request = {"task": task, "rounds": rounds, "wait_s": _POLL_S if rounds is not None else 0}
        answer = connection.ask("follow", request, hold=True)
        found = read_window(answer.get("window"))
        if found is None:
            raise DeviceError(
                f"{connection.where}: nothing is known any more of the health window of {task} {version}",
                f"see what it has: edgespa status --device {connection.device.asked}",
            )
        if found.version != version:
            return found.model_copy(update={"state": "replaced", "version": version})
        if found.state == "watching" and answer.get("current") != version:
            found = found.model_copy(update={"state": "replaced"})
        if report is not None:
            report(found)
        if found.state != "watching":
            return found
        rounds = found.rounds


def went_back(where: str, task: str, window: WindowStatus) -> DeviceError:
    """The error for a device that has gone back by itself.

    Args:
        where: The device, as messages name it.
        task: The task's name there.
        window: How it ended.
    """
    now = f"{window.to} is in use again" if window.to else "nothing is in use, as before it came"
    return DeviceError(
        f"{where}: {task} {window.version} was rolled back in its health window: {window.reason}; {now}",
        "look into that before you ship it again; it is still there, and not in use",
    )
