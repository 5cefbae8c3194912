"""Which packages a device's Python can use, and fetching them here, so that the device needs no internet.

The versions are those that bundles are tested with (`edgespa.device.versions`), of onnxruntime 1.31.1 for Python 3.11
and 1.19.2 for Python 3.8, unless others are asked for; what lies in the user's own folder of wheels is taken from
there. pip is told the device's Python, instruction set and C library in place of this machine's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgespa.device.board import Device, Runtime
from edgespa.device.host import Facts
from edgespa.device.inventory import python_version
from edgespa.device.provision.pip import Asked, ask_pip, index_name
from edgespa.device.runner.trtexec import GET_TRTEXEC
from edgespa.device.versions import excluded, tested_versions
from edgespa.errors import ConfigError, DeviceError
from edgespa.system.files import expanded, folder_beside

MACHINES = ("aarch64", "x86_64")
OLDEST_GLIBC = 17
"""manylinux2014 is glibc 2.17, the oldest that wheels are still made for."""

_PYTHONS = {"ai-edge-litert": ((3, 9), None), "tflite-runtime": ((3, 8), (3, 11))}
"""The oldest and the newest Python that there are wheels for; any where nothing is said."""

_BELOW = {
    "onnxruntime": "2",
    "onnxruntime-gpu": "2",
    "openvino": "2027",
    "ncnn": "2",
    "ai-edge-litert": "3",
    "tflite-runtime": "3",
}
_KINDS = (("onnxruntime-gpu", "onnxruntime"), ("ai-edge-litert", "tflite-runtime"), ("openvino",), ("ncnn",))
"""Of each one, the first that fits; of the last two, only where it is asked for or the profile names it."""
_NOT_SENT = {
    "executorch": (
        "its package needs torch, of which the index has no build for boards without CUDA's libraries",
        "install torch for CPUs and executorch in a Python there, and run run.py with it; or use its C++ library",
    ),
    "trtexec": ("it is a program of TensorRT", f"{GET_TRTEXEC}; edgespa profile finds it there"),
}
"""Why not, and what to do."""
_CACHE = "EDGESPA_CACHE"
_REQUIREMENT = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*((?:(?:==|>=|<=|~=|!=|<|>)\s*[0-9][^,\s;]*)(?:\s*,\s*[<>=!~]=?\s*[0-9][^,\s;]*)*)?"
)


@dataclass(frozen=True)
class Wanted:
    """A runtime that is to be installed.

    Attributes:
        package: As pip knows it.
        choices: Requirements, the preferred first.
        beside: What it needs of other packages.
    """

    package: str
    choices: tuple[str, ...]
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fetched:
    """Wheels that lie in a folder.

    Attributes:
        files: Of them.
        requirements: That they fulfil, as they are to be installed.
        missing: Of runtimes for which there are none, the package and why.
    """

    files: tuple[Path, ...]
    requirements: tuple[tuple[str, ...], ...]
    missing: dict[str, str]


PILLOW = "pillow>=8"
"""For ``run.py --input IMAGE``."""


def wanted_for(device: Device, facts: Facts, wheels: Path | None, asked: Sequence[str] = ()) -> tuple[Wanted, ...]:
    """What is to be installed: a runtime for ONNX and one for TFLite, and others that are asked for.

    Args:
        device: Its profile, with runtimes by preference and the oldest versions.
        facts: Of the machine.
        wheels: The user's own wheels: a GPU build of ONNX Runtime is on no index, so it is taken only from there.
        asked: Requirements in place of tested versions: ``onnxruntime==1.20.1``; without a version, the newest.

    Raises:
        ConfigError: What is asked for is no requirement on a runtime.
        DeviceError: The profile names no runtime that there is for its Python.
    """
    version = python_version(facts)
    others = _asked(asked)
    gpu = wheels is not None and any(wheels.glob("onnxruntime_gpu-*.whl"))
    found = []
    for kinds in _KINDS:
        named = [name for name in others if name in kinds]
        if named:
            runtime = next((each for each in device.runtimes if each.name == named[0]), None)
            found.append(_wanted(named[0], runtime, version, wheels, others[named[0]]))
            continue
        for runtime in device.runtimes:
            oldest, newest = _PYTHONS.get(runtime.name, ((3, 8), None))
            fits = oldest <= version and (newest is None or version <= newest)
            if runtime.name in kinds and fits and (gpu or runtime.name != "onnxruntime-gpu"):
                found.append(_wanted(runtime.name, runtime, version, wheels, None))
                break
    if not found:
        raise DeviceError(
            f"{device.name}: its profile names no runtime that there is for Python {facts.python}",
            "add [[runtimes]] to the profile: see edgespa devices show pi-4b --toml",
        )
    return tuple(found)


def _wanted(
    package: str, runtime: Runtime | None, python: tuple[int, int], wheels: Path | None, asked: str | None
) -> Wanted:
    oldest = f">={runtime.oldest}" if runtime is not None else ""
    newest = f"{package}{oldest},<{_BELOW[package]}".replace(f"{package},", package) + excluded(package)
    own = wheels is not None and any(wheels.glob(f"{package.replace('-', '_')}-*.whl"))
    if asked is not None:
        choices: tuple[str, ...] = (f"{package}{asked}" if asked else newest,)
    elif own:
        choices = (newest,)
    else:
        choices = (*(f"{package}=={each}" for each in tested_versions(package, python)), newest)
    # The old TFLite runtime is built for numpy 1 and does not run with 2.
    return Wanted(package, choices, ("numpy<2",) if package == "tflite-runtime" else ())


def _asked(requirements: Sequence[str]) -> dict[str, str]:
    """Package -> what is said of its version."""
    found = {}
    for each in requirements:
        match = _REQUIREMENT.fullmatch(each.strip())
        name = match.group(1).lower().replace("_", "-") if match else ""
        known_names = [each for kinds in _KINDS for each in kinds]
        if name in _NOT_SENT:
            why, instead = _NOT_SENT[name]
            raise ConfigError(f"{name} is not sent to devices: {why}", instead)
        if match is None or name not in known_names:
            known = ", ".join(known_names)
            raise ConfigError(
                f"{each!r} is no requirement on a runtime", f"write, say, onnxruntime==1.20.1; runtimes are {known}"
            )
        found[name] = (match.group(2) or "").replace(" ", "")
    return found


def requirements_of(wanted: Sequence[Wanted]) -> tuple[str, ...]:
    """What is preferred, in one list."""
    beside = [each for runtime in wanted for each in runtime.beside]
    return (*(runtime.choices[0] for runtime in wanted), *beside, PILLOW)


def platforms_for(facts: Facts) -> tuple[str, ...]:
    """The wheel platforms that a machine can run, the newest first: ``manylinux_2_36_aarch64`` and older ones."""
    minor = int((facts.glibc or "2.17").split(".")[1])
    names = [f"manylinux_2_{number}_{facts.machine}" for number in range(minor, OLDEST_GLIBC - 1, -1)]
    return (*names, f"manylinux2014_{facts.machine}")


def key_of(facts: Facts, requirements: Sequence[str], wheels: Path | None) -> str:
    """What tells two environments apart: Python, machine, C library, what is to be installed, own wheels."""
    own = sorted(path.name for path in wheels.glob("*.whl")) if wheels else []
    parts = [list(python_version(facts)), facts.machine, facts.glibc, list(requirements), own]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def fetch(facts: Facts, wanted: Sequence[Wanted], target: Path, *, wheels: Path | None, offline: bool) -> Fetched:
    """Have wheels that fit in a folder.

    What is preferred of each runtime, or else the next; a runtime that there is nothing of is left out.

    Args:
        facts: Of the machine.
        wanted: The runtimes; pip adds what they need.
        target: The folder; what lies there is used again.
        wheels: The user's own, taken first.
        offline: Nothing is fetched from the index.

    Raises:
        DeviceError: pip finds none that fit, or cannot reach its index.
    """
    target.mkdir(parents=True, exist_ok=True)
    options = _options(facts, wheels, offline)
    missing: dict[str, str] = {}
    with folder_beside(target) as new:
        asked = _download(options, new, (*requirements_of(wanted),))
        found = [(each.choices[0], *each.beside) for each in wanted]
        if not asked.done:
            found = []
            for runtime in wanted:
                last = asked
                for choice in runtime.choices:
                    _require_index(last, offline)
                    last = _download(options, new, (choice, *runtime.beside, PILLOW))
                    if last.done:
                        found.append((choice, *runtime.beside))
                        break
                else:
                    missing[runtime.package] = last.said
            if not found:
                major, minor = python_version(facts)
                raise DeviceError(
                    f"no packages that fit Python {major}.{minor} on {facts.machine} with glibc {facts.glibc}:\n"
                    + "\n".join(missing.values()),
                    "give a folder of wheels that do: --wheels FOLDER, or versions: --runtime onnxruntime==1.20.1",
                )
        fetched = {path.name for path in new.glob("*.whl")}
        for name in fetched:
            os.replace(new / name, target / name)
    for path in target.glob("*.whl"):
        if path.name not in fetched:
            path.unlink()
    return Fetched(tuple(sorted(target.glob("*.whl"))), tuple(found), missing)


def _options(facts: Facts, wheels: Path | None, offline: bool) -> list[str]:
    major, minor = python_version(facts)
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--only-binary=:all:"]
    options += ["--implementation", "cp", "--python-version", f"{major}.{minor}"]
    for platform in platforms_for(facts):
        options += ["--platform", platform]
    options += ["--find-links", str(wheels)] if wheels else []
    return options + (["--no-index"] if offline else [])


def _download(options: Sequence[str], folder: Path, requirements: Sequence[str]) -> Asked:
    return ask_pip(["download", *options, "--dest", str(folder), *requirements])


def _require_index(asked: Asked, offline: bool) -> None:
    """Raise if it was not the packages that were missing, but the index."""
    if asked.why and not offline:
        raise DeviceError(
            f"packages cannot be fetched: {index_name()} {asked.why}",
            "see that this machine reaches it (proxy? PIP_INDEX_URL?), or give a folder of wheels: "
            "--wheels FOLDER --offline",
        )


def wheel_folder(key: str) -> Path | None:
    """Where wheels for a device are kept here; None where ``EDGESPA_CACHE=off`` keeps nothing."""
    named = os.environ.get(_CACHE)
    if named in ("", "off"):
        return None
    home = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "edgespa"
    return (expanded(named) if named else home) / "wheels" / key
