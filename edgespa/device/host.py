"""Facts about the machine that measures: what it is, and what state it is in.

Everything is optional but the numbers that Python itself knows: a file of ``/proc`` or ``/sys`` that is not there, or
cannot be read, leaves its field None. Host names and paths are not recorded.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from edgespa.config import Strict


class Host(Strict):
    """What the machine is.

    Attributes:
        system: Operating system and its release.
        machine: Instruction set, for example ``"x86_64"`` or ``"aarch64"``.
        cpu_model: The processor's name.
        logical_cores: Cores that the system shows.
        affinity: Cores that this process may use.
        memory_kib: Memory of the machine.
    """

    system: str
    machine: str
    cpu_model: str | None
    logical_cores: int | None
    affinity: int | None
    memory_kib: int | None


class Conditions(Strict):
    """The state of the machine at one moment.

    Attributes:
        load_average: Over 1, 5 and 15 minutes, in runnable processes.
        governor: Frequency governor of the first core.
        frequency_khz: Current frequency of the first core.
        temperature_c: Degrees Celsius by thermal zone.
    """

    load_average: tuple[float, float, float] | None
    governor: str | None
    frequency_khz: int | None
    temperature_c: dict[str, float]


def read_host(proc: Path = Path("/proc")) -> Host:
    """Read what the machine is.

    Args:
        proc: Where procfs is; another folder in tests.
    """
    return Host(
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpu_model=_cpu_model(proc) or platform.processor() or None,
        logical_cores=os.cpu_count(),
        affinity=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        memory_kib=_memory_kib(proc),
    )


def read_conditions(system: Path = Path("/sys")) -> Conditions:
    """Read the state of the machine.

    Args:
        system: Where sysfs is; another folder in tests.
    """
    scaling = system / "devices/system/cpu/cpu0/cpufreq"
    frequency = _text(scaling / "scaling_cur_freq")
    try:
        load = os.getloadavg()
    except (OSError, AttributeError):  # a system without it; Windows
        load = None
    temperatures: dict[str, float] = {}
    for zone in sorted((system / "class/thermal").glob("thermal_zone*")):
        name, value = _text(zone / "type"), _text(zone / "temp")
        if name and value and value.lstrip("-").isdigit():
            # Zones of one type are told apart by their folder's number.
            key = name if name not in temperatures else f"{name} ({zone.name})"
            temperatures[key] = int(value) / 1000
    return Conditions(
        load_average=load,
        governor=_text(scaling / "scaling_governor"),
        frequency_khz=int(frequency) if frequency and frequency.isdigit() else None,
        temperature_c=temperatures,
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\x00\n ") or None
    except OSError:
        return None


def _cpu_model(proc: Path) -> str | None:
    board = _text(proc / "device-tree/model")  # Arm boards: says more than cpuinfo does
    if board:
        return board
    fields: dict[str, str] = {}
    for line in (_text(proc / "cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return next((fields[key] for key in ("model name", "Model", "Hardware", "cpu model") if fields.get(key)), None)


def _memory_kib(proc: Path) -> int | None:
    for line in (_text(proc / "meminfo") or "").splitlines():
        parts = line.split()
        if parts[:1] == ["MemTotal:"] and parts[1].isdigit():
            return int(parts[1])
    return None
