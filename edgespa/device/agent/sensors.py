"""The state of the machine at one moment: load, clocks, temperatures, throttling, power, swapping.

Everything is optional: a file of ``/proc`` or ``/sys``, or a program, that is not there leaves its figure None or its
table empty. Where the figures come from:

- any Linux: thermal zones, cpufreq, cooling devices that slow the processor down, thermal_throttle counters (x86)
- Raspberry Pi: ``vcgencmd`` (get_throttled, measure_clock arm, pmic_read_adc on the Pi 5), or the firmware's file
- control groups: how often quotas have held this process (`edgespa.device.agent.share`)
- Jetson: ina3221 rails (hwmon; iio on JetPack 4), devfreq, over-current counters, ``nvpmodel -q``
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.share import quota
from edgespa.device.agent.system import System, number_in, table_of, text_of

_SLOWING = ("cpufreq", "devfreq", "processor", "cpu-", "gpu-", "throttle")


def conditions(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """`read_conditions` as a command."""
    return read_conditions()


def read_conditions(system: System | None = None) -> dict[str, Any]:
    """The state of the machine.

    Args:
        system: Where the system's files are.
    """
    system = system or System()
    try:
        load: list[float] | None = list(os.getloadavg())
    except (OSError, AttributeError):
        load = None
    cpu = system.sys / "devices/system/cpu"
    first = cpu / "cpu0/cpufreq"
    pages, memory = table_of(system.proc / "vmstat"), table_of(system.proc / "meminfo")
    found = {
        "load_average": load,
        "governor": text_of(first / "scaling_governor"),
        "frequency_khz": number_in(first / "scaling_cur_freq"),
        "frequency_limit_khz": number_in(first / "scaling_max_freq"),
        "frequency_max_khz": number_in(first / "cpuinfo_max_freq"),
        "temperature_c": _temperatures(system.sys),
        "slowed_by": _slowed_by(system.sys),
        "throttle_counts": _throttle_counts(system.sys),
        "pi_throttled": _pi_throttled(system),
        "arm_clock_khz": _arm_clock_khz(system),
        "power_mw": _power(system),
        "devfreq": _devfreq(system.sys),
        "power_mode": _power_mode(system),
        "fixed_clocks": _fixed_clocks(cpu),
        "swapped_pages": pages["pswpin"] + pages["pswpout"] if {"pswpin", "pswpout"} <= set(pages) else None,
        "swap_used_kib": memory["SwapTotal"] - memory["SwapFree"] if {"SwapTotal", "SwapFree"} <= set(memory) else None,
        "memory_available_kib": memory.get("MemAvailable"),
        "quota": quota(system),
    }
    return {**found, "unread": _unread(system, found)}


def _unread(system: System, found: dict[str, Any]) -> dict[str, str]:
    """What is needed to call a measurement clean and cannot be read here, and why."""
    missing: dict[str, str] = {}
    if found["frequency_khz"] is None:
        missing["its clock"] = "there is no cpufreq (a virtual machine?)"
    if found["pi_throttled"] is None and _is_pi(system):
        missing["throttling"] = _why_no_vcgencmd(system)
    elif found["pi_throttled"] is None and not found["throttle_counts"] and not _can_be_slowed(system.sys):
        missing["throttling"] = "no counter and no cooling device tells of it"
    if found["quota"] is None:
        missing["quotas"] = "its control groups are not shown"
    if text_of(system.proc / "stat") is None:
        missing["the work of other programs"] = "/proc/stat cannot be read"
    return missing


def _is_pi(system: System) -> bool:
    paths = (system.proc / "device-tree/model", system.sys / "firmware/devicetree/base/model")
    return any("Raspberry Pi" in (text_of(path) or "") for path in paths)


def _why_no_vcgencmd(system: System) -> str:
    """Why the firmware of a Raspberry Pi cannot be asked."""
    for name in ("vcio", "vcio_gencmd", "vchiq"):
        path = system.dev / name
        if path.exists() and not system.may_use(path):
            return "vcgencmd may not be asked: add its user to group video (sudo usermod -aG video USER)"
    return "vcgencmd is not there, or fails"


def _can_be_slowed(sys: Path) -> bool:
    names = [text_of(path) or "" for path in (sys / "class/thermal").glob("cooling_device*/type")]
    return any(word in name.lower() for name in names for word in _SLOWING)


def _temperatures(sys: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for zone in sorted((sys / "class/thermal").glob("thermal_zone*")):
        name, value = text_of(zone / "type"), number_in(zone / "temp")
        if name and value is not None:
            # Zones of one type are told apart by their folder's number.
            found[name if name not in found else f"{name} ({zone.name})"] = value / 1000
    return found


def _slowed_by(sys: Path) -> dict[str, int]:
    """Cooling devices that slow a processor down and are active, and their state; a fan is none of them."""
    found: dict[str, int] = {}
    for device in sorted((sys / "class/thermal").glob("cooling_device*")):
        name, state = text_of(device / "type"), number_in(device / "cur_state")
        if name and state and state > 0 and any(word in name.lower() for word in _SLOWING):
            found[f"{name} ({device.name})"] = state
    return found


def _throttle_counts(sys: Path) -> dict[str, int]:
    """Counters that go up when the hardware throttles: x86 by core, Jetson by over-current event."""
    found: dict[str, int] = {}
    total = [number_in(path) for path in (sys / "devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")]
    known = [count for count in total if count is not None]
    if known:
        found["cores"] = sum(known)
    for path in sorted((sys / "class/hwmon").glob("hwmon*/oc*_event_cnt")):
        count = number_in(path)
        if count is not None:
            found[path.name.replace("_event_cnt", "")] = count
    return found


def _pi_throttled(system: System) -> int | None:
    """The firmware's bits: 0 under-voltage, 1 capped, 2 throttled, 3 soft limit; 16 to 19 the same since boot."""
    text = system.run(["vcgencmd", "get_throttled"]) or ""
    found = re.search(r"throttled=0x([0-9a-fA-F]+)", text)
    if found:
        return int(found.group(1), 16)
    for path in ("devices/platform/soc/soc:firmware/get_throttled", "devices/platform/axi/axi:firmware/get_throttled"):
        value = text_of(system.sys / path)
        if value and re.fullmatch(r"(0x)?[0-9a-fA-F]+", value):
            return int(value, 16)
    return None


def _arm_clock_khz(system: System) -> int | None:
    """The clock that the firmware really gives: cpufreq shows what was asked for."""
    found = re.search(r"frequency\(\d+\)=(\d+)", system.run(["vcgencmd", "measure_clock", "arm"]) or "")
    return int(found.group(1)) // 1000 if found else None


def _power(system: System) -> dict[str, float]:
    """Power by rail in mW, where there are sensors: ina3221 on a Jetson, the power chip's converter on a Pi 5."""
    found: dict[str, float] = {}
    for folder in sorted((system.sys / "bus/i2c/devices").glob("*/hwmon/hwmon*")):
        for label in sorted(folder.glob("in*_label")):
            number = label.name[2 : -len("_label")]
            volts, amperes = number_in(folder / f"in{number}_input"), number_in(folder / f"curr{number}_input")
            name = text_of(label)
            if name and volts is not None and amperes is not None:
                found[name] = volts * amperes / 1000  # mV x mA
    for folder in sorted((system.sys / "bus/i2c/drivers/ina3221x").glob("*/iio:device*")):
        for label in sorted(folder.glob("rail_name_*")):
            name, power = text_of(label), number_in(folder / f"in_power{label.name[len('rail_name_') :]}_input")
            if name and power is not None:
                found[name] = float(power)
    return found or _pi_power(system)


def _pi_power(system: System) -> dict[str, float]:
    text = system.run(["vcgencmd", "pmic_read_adc"]) or ""
    figures = {"A": {}, "V": {}}  # type: dict[str, dict[str, float]]
    for rail, kind, value in re.findall(r"(\w+)_([AV]) (?:current|volt)\(\d+\)=([0-9.]+)[AV]", text):
        figures[kind][rail] = float(value)
    return {rail: amperes * figures["V"][rail] * 1000 for rail, amperes in figures["A"].items() if rail in figures["V"]}


def _devfreq(sys: Path) -> dict[str, dict[str, int]]:
    """Of each device with a clock of its own, a GPU say: its clock and limit in kHz, its load in per cent."""
    found: dict[str, dict[str, int]] = {}
    for folder in sorted((sys / "class/devfreq").glob("*")):
        clock, limit = number_in(folder / "cur_freq"), number_in(folder / "max_freq")
        load = number_in(folder / "device/load")
        figures = {
            "frequency_khz": None if clock is None else clock // 1000,
            "frequency_limit_khz": None if limit is None else limit // 1000,
            "load_percent": None if load is None else load // 10,
        }
        known = {key: value for key, value in figures.items() if value is not None}
        if known:
            found[folder.name] = known
    return found


def _power_mode(system: System) -> str | None:
    if not (system.etc / "nvpmodel.conf").exists():
        return None
    found = re.search(r"NV Power Mode:\s*(\S+)", system.run(["nvpmodel", "-q"]) or "")
    return found.group(1) if found else None


def _fixed_clocks(cpu: Path) -> bool | None:
    """Whether every core's clock is held where it is, as jetson_clocks or the governor ``performance`` holds it."""
    folders = sorted(cpu.glob("cpu[0-9]*/cpufreq"))
    held = []
    for folder in folders:
        low, high = number_in(folder / "scaling_min_freq"), number_in(folder / "scaling_max_freq")
        if text_of(folder / "scaling_governor") == "performance":
            held.append(True)
        elif low is None or high is None:
            return None
        else:
            held.append(low == high)
    return all(held) if held else None
