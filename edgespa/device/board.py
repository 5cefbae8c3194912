"""Device profiles: what a board is, what runs on it, how fast it is known to be, and how it is reached.

A profile is a TOML file: one of those that come with edgespa (``edgespa/devices/*.toml``), one of the user's
(``~/.config/edgespa/devices/NAME.toml``, or below ``XDG_CONFIG_HOME``), or any other by its path. A file that begins
with ``extends = "pi-4b"`` says only what is different:

    extends = "pi-4b"
    [connection]
    host = "192.168.1.17"
    user = "pi"
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import statistics
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from edgespa.config import Strict
from edgespa.errors import ConfigError, DeviceError
from edgespa.models.imports import nearest
from edgespa.system.bounds import shown
from edgespa.system.files import expanded, plain_text

SUFFIX = ".toml"
LOCAL = "local"
"""The machine that edgespa itself runs on."""

DEFAULT_FOLDER = "~/.local/share/edgespa"

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Runtime(Strict):
    """What runs model files on a board.

    Attributes:
        name: The package as pip knows it.
        providers: What can compute, the preferred first; ONNX Runtime's names, ``CPU`` for LiteRT.
        oldest: The oldest version that bundles are known to run in.
    """

    name: Literal["onnxruntime", "onnxruntime-gpu", "openvino", "ncnn", "ai-edge-litert", "tflite-runtime"]
    providers: tuple[str, ...] = Field(min_length=1)
    oldest: str = Field(pattern=r"^\d+(\.\d+)*$")


class Reference(Strict):
    """A published latency of a well-known network, batch 1, from which estimates are made.

    Attributes:
        network: One of `edgespa.device.measure.estimate.NETWORKS`.
        latency_ms: Of one inference.
        threads: Of the CPU; None for the GPU.
        precision: Of its weights and activations.
    """

    network: str
    latency_ms: float = Field(gt=0)
    threads: int | None = Field(default=None, ge=1)
    precision: Literal["fp32", "fp16", "int8"] = "fp32"


_SHELL = r"\s\x00-\x1f\x7f'\"`$\\;&<>|(){}"
NO_SHELL = f"[^{_SHELL}-][^{_SHELL}]*"
"""A host or a user: OpenSSH puts them into the command line of a shell, where a host is reached through another."""


def _plain(text: str) -> str:
    if re.fullmatch(NO_SHELL, text) is None:
        raise ValueError(f"{shown(text)} has a blank, a dash in front, or what means something to a shell")
    return text


_Plain = Annotated[str, AfterValidator(_plain)]


class Reach(Strict):
    """How a device is reached; what is not given here comes from the user's ``~/.ssh/config``.

    Attributes:
        host: Address or alias, as ``ssh`` takes it; None for the device's name.
        user: None for what ssh chooses.
        port: The same.
        python: The device's Python, 3.8 or newer.
        folder: Where edgespa keeps things on the device; ``~`` is the home folder there.
        ssh_config: A file to be used instead of ``~/.ssh/config`` and the system's, as ``ssh -F``; a relative path
            begins at the profile's folder.
        connect_timeout_s: For the connection to stand.
        silence_timeout_s: A connection that does not answer for so long is given up.
    """

    host: _Plain | None = None
    user: _Plain | None = Field(default=None, pattern=r"^[^@]*$")
    port: int | None = Field(default=None, ge=1, le=65535)
    python: str = Field(default="python3", pattern=r"^[^-\s]")
    folder: str = Field(default=DEFAULT_FOLDER, min_length=1)
    ssh_config: str | None = None
    connect_timeout_s: int = Field(default=10, ge=1)
    silence_timeout_s: int = Field(default=30, ge=1)


class Device(Strict):
    """A device profile.

    Attributes:
        name: The name of its file; profiles and messages are labelled by it.
        title: For people.
        cpu: The processor.
        machine: Instruction set as ``uname -m`` says it; None for any.
        isa: Its extensions that matter here.
        cores: Of the CPU; None where only the machine itself knows, as for `LOCAL`.
        clock_mhz: Their highest clock.
        macs_per_cycle: Float32 multiply-accumulates that one core can begin in a cycle.
        memory_mib: The sizes that it is sold with.
        bandwidth_gb_s: Of its memory, 1e9 bytes a second, theoretical.
        gpu: In words; None where there is none that a runtime uses.
        runtimes: The preferred first.
        round_to: Channel counts should be multiples of it.
        tags: Groups that it is in, as ``--group`` names them.
        emulated: It computes right, but its times mean nothing; profiles say so.
        source: Where these facts are from.
        references_source: Where the latencies are from.
        references: Published latencies.
        connection: How it is reached.
    """

    name: str = Field(pattern=_NAME)
    title: str
    cpu: str | None = None
    machine: str | None = None
    isa: tuple[str, ...] = ()
    cores: int | None = Field(default=None, ge=1)
    clock_mhz: int | None = Field(default=None, ge=1)
    macs_per_cycle: int | None = Field(default=None, ge=1)
    memory_mib: tuple[int, ...] = ()
    bandwidth_gb_s: float | None = Field(default=None, gt=0)
    gpu: str | None = None
    runtimes: tuple[Runtime, ...] = ()
    round_to: int = Field(default=8, ge=1)
    tags: tuple[Annotated[str, Field(pattern=_NAME, max_length=64)], ...] = ()
    emulated: bool = False
    source: str | None = None
    references_source: str | None = None
    references: tuple[Reference, ...] = ()
    connection: Reach = Reach()
    _path: str | None = PrivateAttr(default=None)

    def int8_ratio(self) -> float | None:
        """Published time of int8 against float32 on the CPU, the median of what there is; None if not known."""
        times = {(each.network, each.threads, each.precision): each.latency_ms for each in self.references}
        ratios = [
            time / times[network, threads, "fp32"]
            for (network, threads, precision), time in times.items()
            if precision == "int8" and threads is not None and (network, threads, "fp32") in times
        ]
        return statistics.median(ratios) if ratios else None

    @property
    def takes_symmetric(self) -> bool:
        """Whether TensorRT computes there: of files in int8 it takes those alone whose levels are symmetric."""
        return any("TensorrtExecutionProvider" in each.providers for each in self.runtimes)

    def oldest_onnx_runtime(self) -> str | None:
        """The oldest version of ONNX Runtime that may run there; None if none is named."""
        found = [each.oldest for each in self.runtimes if each.name.startswith("onnxruntime")]
        return min(found, key=lambda version: tuple(map(int, version.split("."))), default=None)

    @model_validator(mode="after")
    def _references_have_a_source(self) -> Self:
        if self.references and not self.references_source:
            raise ValueError("references need references_source: where they are published")
        return self

    @property
    def is_local(self) -> bool:
        """Whether it is this machine."""
        return self.name == LOCAL

    @property
    def asked(self) -> str:
        """What a command is given to mean this device: its name, or the path of its file; quoted for a shell."""
        return shlex.quote(self._path or self.name)

    @property
    def file(self) -> Path | None:
        """The file that was given by its path; None for one that was asked for by its name."""
        return None if self._path is None else expanded(self._path)

    @property
    def host(self) -> str:
        """What ssh is given: the connection's host, or the device's name as an alias."""
        return self.connection.host or self.name


@dataclasses.dataclass(frozen=True)
class Found:
    """A profile that there is.

    Attributes:
        name: As it is asked for.
        path: Of the user's file; None for one that comes with edgespa.
        device: Its content, None where it cannot be read.
        problem: Why not.
    """

    name: str
    path: Path | None
    device: Device | None
    problem: str | None = None


def user_folder() -> Path:
    """Where the user's own profiles are: ``devices`` below ``edgespa`` in ``XDG_CONFIG_HOME`` or ``~/.config``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else expanded("~") / ".config") / "edgespa" / "devices"


def load_device(name_or_path: str) -> Device:
    """A device profile.

    Args:
        name_or_path: A name: the user's own first, then those that come with edgespa. With a slash in it, or ending
            in ``.toml``: the path of a file.

    Raises:
        DeviceError: There is none of that name.
        ConfigError: Its file is absent or damaged, or has unknown keys.
    """
    if "/" in name_or_path or name_or_path.endswith(SUFFIX):
        path = expanded(name_or_path)
        device = _parse(path.stem, path, _read(path), ())
        device._path = name_or_path
        return device
    name = name_or_path
    own = user_folder() / f"{name}{SUFFIX}"
    if own.is_file():
        return _parse(name, own, _read(own), ())
    shipped = _shipped()
    if name in shipped:
        return Device.parse({"name": name, **tomllib.loads(shipped[name])}, name)
    known = sorted({*shipped, *(path.stem for path in _own_files())})
    near = nearest(name, known)
    raise DeviceError(
        f"there is no device '{name}'",
        f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known)}; or write {own}",
    )


def list_devices() -> tuple[Found, ...]:
    """All profiles, those that come with edgespa first; the user's own of the same name takes its place."""
    names = [*_shipped(), *(path.stem for path in _own_files())]
    rows = []
    for name in dict.fromkeys(names):
        own = user_folder() / f"{name}{SUFFIX}"
        path = own if own.is_file() else None
        try:
            rows.append(Found(name, path, load_device(name)))
        except (ConfigError, DeviceError) as error:
            rows.append(Found(name, path, None, error.message))
    return tuple(rows)


@cache
def shipped_devices() -> tuple[Device, ...]:
    """The profiles that come with edgespa."""
    return tuple(Device.parse({"name": name, **tomllib.loads(text)}, name) for name, text in _shipped().items())


def profile_text(name: str) -> str:
    """The file of a profile, as it stands there.

    Args:
        name: As for `load_device`, which is to be called first: it says what is wrong.
    """
    own = user_folder() / f"{name}{SUFFIX}"
    path = expanded(name) if "/" in name or name.endswith(SUFFIX) else own
    return plain_text(path) if path.is_file() else _shipped()[name]


def _own_files() -> list[Path]:
    return sorted(user_folder().glob(f"*{SUFFIX}"))


def _shipped() -> dict[str, str]:
    """Name -> text of the profiles that come with edgespa, in the order in which people look for them."""
    folder = resources.files("edgespa") / "devices"
    texts = {
        entry.name.removesuffix(SUFFIX): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(SUFFIX)
    }
    return {name: texts[name] for name in sorted(texts, key=lambda name: (name == LOCAL, name))}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(plain_text(path))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ConfigError(f"{path}: cannot be read: {why}", "see the names of devices: edgespa devices list") from error
    except (ValueError, RecursionError) as error:  # no TOML, or numbers and lists that Python does not read
        raise ConfigError(f"{path}: {error}", "correct the file; see: edgespa devices show pi-4b --toml") from error


def _parse(name: str, path: Path, values: dict[str, Any], above: tuple[Path, ...]) -> Device:
    merged = _resolve(name, path, values, above)
    reach = merged.get("connection")
    if isinstance(reach, dict) and isinstance(reach.get("ssh_config"), str):
        config = path.absolute().parent / expanded(reach["ssh_config"])
        merged = {**merged, "connection": {**reach, "ssh_config": str(config)}}
    if name == LOCAL and isinstance(reach, dict) and reach.get("host"):
        raise ConfigError(f"{path}: connection.host: 'local' is this machine", "give the file another name")
    try:
        return Device.parse({"name": name, **merged}, str(path))
    except ConfigError as error:
        if "extends" in values or error.hint:
            raise
        raise ConfigError(
            error.message, 'say all of it, or what is different from another: extends = "pi-4b"'
        ) from error


def _resolve(name: str, path: Path, values: dict[str, Any], above: tuple[Path, ...]) -> dict[str, Any]:
    """The values of a file laid over those of the profile that it extends."""
    own = dict(values)
    base = own.pop("extends", None)
    if base is None:
        return own
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends: it is the name of one device", 'write, for example, extends = "pi-4b"')
    if path in above:
        raise ConfigError(f"{path}: extends: it extends itself", "extend a device that comes with edgespa")
    shipped = _shipped()
    other = user_folder() / f"{base}{SUFFIX}"
    if base != name and other.is_file():
        return _over(_resolve(base, other, _read(other), (*above, path)), own)
    if base not in shipped:
        near = nearest(base, list(shipped))
        hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(shipped)}"
        raise ConfigError(f"{path}: extends: there is no device '{base}'", hint)
    return _over(tomllib.loads(shipped[base]), own)


def _over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        there = merged.get(key)
        merged[key] = _over(there, value) if isinstance(there, dict) and isinstance(value, dict) else value
    return merged
