"""Which packages a device's Python can use, and fetching them here, so that the device needs no internet.

pip itself chooses: it is told the device's Python, instruction set and C library in place of this machine's, and takes
the newest wheels that run there (of onnxruntime 1.31 for Python 3.11 and glibc 2.36, 1.19 for Python 3.8).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgespa.device.board import Device
from edgespa.device.host import Facts
from edgespa.errors import DeviceError

MACHINES = ("aarch64", "x86_64")
OLDEST_GLIBC = 17
"""manylinux2014 is glibc 2.17, the oldest that wheels are still made for."""

_PYTHONS = {"ai-edge-litert": ((3, 9), None), "tflite-runtime": ((3, 8), (3, 11))}
"""The oldest and the newest Python that there are wheels for; any where nothing is said."""

_BELOW = {"onnxruntime": "2", "onnxruntime-gpu": "2", "ai-edge-litert": "3", "tflite-runtime": "3"}
_ONNX, _TFLITE = ("onnxruntime-gpu", "onnxruntime"), ("ai-edge-litert", "tflite-runtime")
_LAST_LINES = 6
_CACHE = "EDGESPA_CACHE"


def requirements_for(device: Device, facts: Facts, wheels: Path | None) -> tuple[str, ...]:
    """What is to be installed: a runtime for ONNX, one for TFLite, and Pillow for ``run.py --input IMAGE``.

    Args:
        device: Its profile, with runtimes by preference and the oldest versions.
        facts: Of the machine.
        wheels: The user's own wheels: a GPU build of ONNX Runtime is on no index, so it is taken only from there.

    Raises:
        DeviceError: The profile names no runtime that there is for its Python.
    """
    version = python_version(facts)
    gpu = wheels is not None and any(wheels.glob("onnxruntime_gpu-*.whl"))
    found = []
    for kinds in (_ONNX, _TFLITE):
        for runtime in device.runtimes:
            oldest, newest = _PYTHONS.get(runtime.name, ((3, 8), None))
            fits = oldest <= version and (newest is None or version <= newest)
            if runtime.name in kinds and fits and (gpu or runtime.name != "onnxruntime-gpu"):
                found.append(f"{runtime.name}>={runtime.oldest},<{_BELOW[runtime.name]}")
                break
    if not found:
        raise DeviceError(
            f"{device.name}: its profile names no runtime that there is for Python {facts.python}",
            "add [[runtimes]] to the profile: see edgespa devices show pi-4b --toml",
        )
    if any(each.startswith("tflite-runtime") for each in found):
        found.append("numpy<2")  # it is built for numpy 1 and does not run with 2
    return (*found, "pillow>=8")


def platforms_for(facts: Facts) -> tuple[str, ...]:
    """The wheel platforms that a machine can run, the newest first: ``manylinux_2_36_aarch64`` and older ones."""
    minor = int((facts.glibc or "2.17").split(".")[1])
    names = [f"manylinux_2_{number}_{facts.machine}" for number in range(minor, OLDEST_GLIBC - 1, -1)]
    return (*names, f"manylinux2014_{facts.machine}")


def python_version(facts: Facts) -> tuple[int, int]:
    """Major and minor of the device's Python."""
    major, minor = (facts.python or "3.8").split(".")[:2]
    return int(major), int(minor)


def key_of(facts: Facts, requirements: Sequence[str], wheels: Path | None) -> str:
    """What tells two environments apart: Python, machine, C library, what is to be installed, own wheels."""
    own = sorted(path.name for path in wheels.glob("*.whl")) if wheels else []
    parts = [list(python_version(facts)), facts.machine, facts.glibc, list(requirements), own]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def fetch(
    facts: Facts, requirements: Sequence[str], target: Path, *, wheels: Path | None, offline: bool
) -> tuple[Path, ...]:
    """Have wheels that fit in a folder.

    Args:
        facts: Of the machine.
        requirements: What is wanted; pip adds what that needs.
        target: The folder; what lies there is used again.
        wheels: The user's own, taken first.
        offline: Nothing is fetched from the index.

    Raises:
        DeviceError: pip finds none that fit, or cannot reach its index.
    """
    major, minor = python_version(facts)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", f"{major}.{minor}"]
    for platform in platforms_for(facts):
        command += ["--platform", platform]
    command += ["--find-links", str(wheels)] if wheels else []
    command += ["--no-index"] if offline else []
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wheels-") as new:
        done = subprocess.run(
            [*command, "--dest", new, *requirements], capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode:
            said = [line for line in (done.stderr or done.stdout).strip().splitlines() if "WARNING" not in line]
            raise DeviceError(
                f"no packages that fit Python {major}.{minor} on {facts.machine} with glibc {facts.glibc}:\n"
                + "\n".join(said[-_LAST_LINES:]),
                "see that pip reaches its index here, or give a folder of wheels: --wheels FOLDER",
            )
        fetched = {path.name for path in Path(new).glob("*.whl")}
        for name in fetched:
            os.replace(Path(new) / name, target / name)
    for path in target.glob("*.whl"):
        if path.name not in fetched:
            path.unlink()
    return tuple(sorted(target.glob("*.whl")))


def wheel_folder(key: str) -> tuple[Path, bool]:
    """Where wheels for a device are kept here, and whether they stay: ``EDGESPA_CACHE=off`` keeps nothing.

    Returns:
        The folder, and True if the caller is to remove it.
    """
    named = os.environ.get(_CACHE)
    if named in ("", "off"):
        return Path(tempfile.mkdtemp(prefix="edgespa-")) / key, True
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edgespa"
    return (Path(named).expanduser() if named else home) / "wheels" / key, False


def forget(folder: Path) -> None:
    """Remove a folder that `wheel_folder` gave for the while."""
    shutil.rmtree(folder.parent, ignore_errors=True)
