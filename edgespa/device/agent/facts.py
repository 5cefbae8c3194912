"""What the machine is: processor, memory, system, Python, disk."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.system import System, number_in, table_of, text_of


def facts(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """`read_facts` as a command."""
    return read_facts(root)


def read_facts(root: Path, system: System | None = None) -> dict[str, Any]:
    """What the machine is. Whatever cannot be found out is None; host names are not recorded.

    Args:
        root: Where edgespa keeps things: its disk is looked at.
        system: Where the system's files are.
    """
    system = system or System()
    memory = table_of(system.proc / "meminfo")
    there = next((each for each in (root, *root.parents) if each.is_dir()), Path("/"))
    return {
        "system": f"{platform.system()} {platform.release()}",
        "distribution": _distribution(system),
        "board_software": _board_software(system),
        "machine": platform.machine(),
        "bits": struct.calcsize("P") * 8,  # of this Python: a 64-bit kernel may have a 32-bit userland above it
        "cpu_model": _cpu_model(system) or platform.processor() or None,
        "cpu_features": _features(system),
        "logical_cores": os.cpu_count(),
        "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "fast_cores": fast_cores(system),
        "memory_kib": memory.get("MemTotal"),
        "memory_available_kib": memory.get("MemAvailable"),
        "swap_kib": memory.get("SwapTotal"),
        "python": platform.python_version(),
        "python_path": sys.executable,
        "python_implementation": platform.python_implementation(),
        "glibc": _glibc(),
        "can_make_venv": all(importlib.util.find_spec(name) is not None for name in ("venv", "ensurepip")),
        "ssh_keygen": shutil.which("ssh-keygen") is not None,
        "folder": str(root),
        "folder_writable": os.access(str(there), os.W_OK),
        "free_bytes": shutil.disk_usage(str(there)).free,
        "environment": environment_in(root),
    }


def fast_cores(system: System) -> list[int]:
    """The cores that are faster than others of this processor, of those that may be used; empty where all are alike.

    By the capacity that the kernel gives each (arm64), else by the highest clock of each.
    """
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    folder = system.sys / "devices/system/cpu"
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        speeds = [number_in(folder / f"cpu{core}" / name) or 0 for core in usable]
        if all(speeds) and speeds:
            # Cores of one kind may differ by a few per cent, by how well each was made.
            fast = [core for core, speed in zip(usable, speeds) if speed >= 0.9 * max(speeds)]
            return fast if len(fast) < len(usable) else []
    return []


def environment_in(root: Path) -> dict[str, Any] | None:
    """What was left there by the set-up: its key, and the Python that has the runtimes; None if there is none."""
    folder = root / "environment"
    try:
        found = json.loads((folder / "edgespa.json").read_text(encoding="utf-8"))
        found["python"] = str(folder / "bin" / "python")
    except (OSError, ValueError, TypeError):
        return None
    return dict(found) if os.access(found["python"], os.X_OK) else None


def _distribution(system: System) -> str | None:
    for line in (text_of(system.etc / "os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.split("=", 1)[1].strip('"')
    return None


def _board_software(system: System) -> str | None:
    """NVIDIA's L4T release, which says what JetPack it is."""
    text = text_of(system.etc / "nv_tegra_release")
    return text.splitlines()[0].lstrip("# ") if text else None


def _glibc() -> str | None:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, OSError, ValueError):  # another C library
        return None
    return version or None if name == "glibc" else None


def _cpu_fields(system: System) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in (text_of(system.proc / "cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def _cpu_model(system: System) -> str | None:
    # The board's own name says more than cpuinfo does.
    for path in (system.proc / "device-tree/model", system.sys / "firmware/devicetree/base/model"):
        board = text_of(path)
        if board:
            return board
    fields = _cpu_fields(system)
    return next((fields[key] for key in ("model name", "Model", "Hardware", "cpu model") if fields.get(key)), None)


def _features(system: System) -> list[str]:
    """Of the instruction set, those that matter here."""
    fields = _cpu_fields(system)
    words = (fields.get("Features") or fields.get("flags") or "").split()
    wanted = (
        "asimd",
        "asimdhp",
        "fphp",
        "asimddp",
        "i8mm",
        "bf16",
        "sve",
        "neon",
        "avx2",
        "avx512f",
        "avx512_vnni",
        "fma",
    )
    return [word for word in wanted if word in words]
