"""What share of a machine a process gets: the clock while it runs, quotas, the work of others.

- clock: ``cpufreq`` of the core that the process is on at that moment; a virtual machine has none
- quotas: ``cpu.stat`` of the control group and of every one above it, in both versions of control groups
- others: what the cores that may be used did in all (``/proc/stat``), and what a hypervisor took (steal)
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

from edgespa.device.agent.system import System, number_in, table_of, text_of

CLOCK_SAMPLES = 240
"""When there are so many, every other one is dropped and they are taken half as often."""

_V1 = {"cpu": ("cpu,cpuacct", "cpu", "cpuacct,cpu"), "pids": ("pids",)}
_V2 = ("", "unified")
_FEW = 512
"""Processes and threads: who may have more has not come to the end of them by one measurement."""


def usable_cores() -> list[int] | None:
    """The numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def busy_seconds(system: System) -> tuple[float, float] | None:
    """What the usable cores have computed since the machine was started, and what was taken from them; in seconds."""
    ticks = os.sysconf("SC_CLK_TCK")
    cores = usable_cores()
    wanted = None if cores is None else {f"cpu{number}" for number in cores}
    busy = stolen = 0
    found = False
    for line in (text_of(system.proc / "stat") or "").splitlines():
        name, *words = line.split()
        if not name.startswith("cpu") or name == "cpu" or (wanted is not None and name not in wanted):
            continue
        if len(words) >= 8 and all(word.isdigit() for word in words[:8]):
            user, nice, kernel, _, _, irq, softirq, steal = (int(word) for word in words[:8])
            busy += user + nice + kernel + irq + softirq
            stolen += steal
            found = True
    return (busy / ticks, stolen / ticks) if found else None


def quota(system: System) -> dict[str, float] | None:
    """How often, and for how long, quotas have held this process's control groups; None where nothing can be read.

    Returns:
        ``periods`` and ``held_ms``, summed over the group and all above it, and ``cores`` where there is a quota: the
        smallest, in cores.
    """
    folders = _groups(system, "cpu")
    tables = [table_of(folder / "cpu.stat") for folder in folders if (folder / "cpu.stat").is_file()]
    if not tables:
        return None
    held_us = sum(table.get("throttled_usec", table.get("throttled_time", 0) // 1000) for table in tables)
    found = {"periods": float(sum(table.get("nr_throttled", 0) for table in tables)), "held_ms": held_us / 1000}
    cores = [limit for limit in (_cores(folder) for folder in folders) if limit is not None]
    return {**found, "cores": min(cores)} if cores else found


def _cores(folder: Path) -> float | None:
    """The quota of one group in cores."""
    words = (text_of(folder / "cpu.max") or "").split()
    if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
        return int(words[0]) / int(words[1])
    most, period = number_in(folder / "cpu.cfs_quota_us"), number_in(folder / "cpu.cfs_period_us")
    return most / period if most and period and most > 0 and period > 0 else None


def few_processes(system: System) -> int | None:
    """How many processes and threads may be started here, where they are few; None where they are many."""
    found = [number_in(folder / "pids.max") for folder in _groups(system, "pids")]
    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    limits = [each for each in [*found, None if soft == resource.RLIM_INFINITY else soft] if each is not None]
    return min(limits) if limits and min(limits) <= _FEW else None


def _groups(system: System, kind: str) -> list[Path]:
    """This process's control groups of a kind (cpu, pids), with all above them, as far as they are shown.

    In a container the path may be that of the host, of which only the container's own part is mounted: so every end of
    the path is looked at, from the whole of it to the root of the mount.
    """
    root = system.sys / "fs/cgroup"
    found: dict[Path, None] = {}
    for line in (text_of(system.proc / "self/cgroup") or "0::/").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mounts = [root / name for name in _V2]
        elif kind in controllers.split(","):
            mounts = [root / name for name in _V1[kind]]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        for mount in mounts:
            for count in range(len(parts), -1, -1):
                folder = mount.joinpath(*parts[:count])
                if folder.is_dir():
                    found[folder] = None
    return list(found)


def core_of(system: System, pid: int) -> int | None:
    """The core that a process's first thread was last on."""
    words = (text_of(system.proc / f"{pid}/stat") or "").rpartition(")")[2].split()
    return int(words[36]) if len(words) > 36 and words[36].isdigit() else None


def session_seconds(system: System, leader: int) -> float:
    """Processor time of the processes of a session so far, with what they have waited for."""
    ticks = 0
    for folder in system.proc.glob("[0-9]*"):
        words = (text_of(folder / "stat") or "").rpartition(")")[2].split()
        if len(words) > 14 and words[3] == str(leader):
            ticks += sum(int(word) for word in words[11:15] if word.isdigit())
    return ticks / os.sysconf("SC_CLK_TCK")


class ClockWatch:
    """The clock of the core that a process is on, looked at from time to time.

    Args:
        system: Where the system's files are.
        every_s: Look so often; less often when it takes long.
    """

    def __init__(self, system: System, every_s: float = 0.25) -> None:
        self.system, self.every_s = system, every_s
        self._khz = []  # type: list[int]
        self._limits = []  # type: list[int]
        self._last = None  # type: Path | None
        self._due = min(0.05, every_s)

    def look(self, pid: int, at_s: float) -> float:
        """Look if it is time to; the seconds until the next look."""
        if at_s >= self._due:
            self._take(pid)
            self._due = at_s + self.every_s
        return max(0.0, self._due - at_s)

    def _take(self, pid: int) -> None:
        core = core_of(self.system, pid)
        folder = self.system.sys / f"devices/system/cpu/cpu{core or 0}/cpufreq"
        now, limit = number_in(folder / "scaling_cur_freq"), number_in(folder / "scaling_max_freq")
        if now:
            self._khz.append(now)
            self._last = folder
        if limit:
            self._limits.append(limit)
        if len(self._khz) > CLOCK_SAMPLES:
            self._khz = self._khz[1::2]
            self.every_s *= 2

    def found(self) -> dict[str, Any] | None:
        """What was seen, in kHz; None where nothing could be read."""
        if self._last is None:
            return None
        cpu = self.system.sys / "devices/system/cpu"
        driver = text_of(self._last / "scaling_driver")
        boost = number_in(cpu / "cpufreq/boost")
        turbo = number_in(cpu / "intel_pstate/no_turbo")
        return {
            "khz": self._khz,
            "limit_khz": min(self._limits) if self._limits else None,
            "max_khz": number_in(self._last / "cpuinfo_max_freq"),
            "base_khz": number_in(self._last / "base_frequency"),
            "boosts": boost == 1 or turbo == 0 or (driver or "").startswith("amd-pstate"),
            "governor": text_of(self._last / "scaling_governor"),
            "driver": driver,
        }
