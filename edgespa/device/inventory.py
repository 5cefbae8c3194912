"""What is really on a device: facts, sensors, runtimes, and which of their providers compute."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from edgespa.config import Strict
from edgespa.device.board import Device
from edgespa.device.endings import Ending, ending_of
from edgespa.device.host import Conditions, Facts
from edgespa.device.link.transport import Connection
from edgespa.device.versions import another, known_failure
from edgespa.errors import DeviceError
from edgespa.system.sources import own_source

PROBE_TIMEOUT_S = 120.0
"""A GPU's first run compiles kernels."""

STALL_S = 45.0
"""What computes nothing for so long hangs."""

_LAST_LINES = 3


class Provider(Strict):
    """What a runtime lists, and whether it computes.

    Attributes:
        runtime: The package that is imported.
        version: Its version.
        provider: By the runtime's name for it.
        works: It gave the right outputs itself.
        error: Why not.
        hint: What to do about it, where that is known.
        first_run_ms: From loading to the first output of a tiny network.
    """

    runtime: str
    version: str
    provider: str
    works: bool
    error: str | None = None
    hint: str | None = None
    first_run_ms: float | None = None


class Inventory(Strict):
    """What is on a device.

    Attributes:
        device: Its name.
        facts: Of the machine.
        conditions: Its state now.
        sensors: What it can say of itself.
        environment: The key of the environment that was set up there; None if there is none.
        providers: Of the runtimes in it, or of those of the device's own Python.
        problems: Why edgespa cannot set it up, in words; empty if it can.
    """

    device: str
    facts: Facts
    conditions: Conditions
    sensors: tuple[str, ...]
    environment: str | None
    providers: tuple[Provider, ...]
    problems: tuple[str, ...]


def read_facts(connection: Connection) -> Facts:
    """The facts of the machine behind a connection."""
    return Facts.parse(connection.ask("facts"), f"{connection.where}: facts")


def take_inventory(connection: Connection) -> Inventory:
    """Look at everything, and try every provider with a real inference.

    Raises:
        DeviceError: It cannot be reached, or has no Python.
    """
    facts = read_facts(connection)
    key = None if facts.environment is None else str(facts.environment.get("key"))
    providers = try_providers(connection, runtime_python(connection, facts), python_version(facts))
    return inventory_of(connection, facts, key, providers)


def inventory_of(
    connection: Connection, facts: Facts, environment: str | None, providers: tuple[Provider, ...]
) -> Inventory:
    """What is known already, with the state that the device is in now.

    Args:
        connection: To the device.
        facts: About it.
        environment: The key of what was set up there; None for nothing.
        providers: That were tried.
    """
    conditions = Conditions.of(connection.ask("conditions"))
    return Inventory(
        device=connection.device.name,
        facts=facts,
        conditions=conditions,
        sensors=conditions.sensors(),
        environment=environment,
        providers=providers,
        problems=problems(connection.device, facts),
    )


def problems(device: Device, facts: Facts) -> tuple[str, ...]:
    """Why runtimes cannot be put on a machine, in words.

    Args:
        device: Its profile, whose instruction set the machine should have.
        facts: Of the machine.
    """
    found = []
    if facts.bits != 64:
        kernel = f"; its kernel is {facts.machine}" if facts.machine in ("aarch64", "x86_64") else ""
        found.append(
            f"a {facts.bits}-bit system ({facts.machine}): there are no runtimes for it{kernel}. "
            "Install the 64-bit system: Raspberry Pi OS (64-bit), say"
        )
    if device.machine is not None and facts.machine != device.machine and facts.bits == 64:
        found.append(f"the machine is {facts.machine}, its profile says {device.machine}: is it another device?")
    if facts.glibc is None:
        found.append("its C library is not glibc (Alpine?): there are no runtimes for it")
    if facts.python_implementation != "CPython":
        found.append(f"its Python is {facts.python_implementation}: CPython is needed")
    if not facts.folder_writable:
        found.append(f"{facts.folder} cannot be written")
    return tuple(found)


def python_version(facts: Facts) -> tuple[int, int]:
    """Major and minor of the device's Python."""
    major, minor = (facts.python or "3.8").split(".")[:2]
    return int(major), int(minor)


def runtime_python(connection: Connection, facts: Facts) -> list[str]:
    """The Python that has the runtimes: that of the environment if one was set up, else the device's own.

    That of the environment looks nowhere else (``-I``): neither at PYTHONPATH, which ROS sets, nor at the user's own
    packages, nor at what lies beside a script. The device's own has its runtimes among the user's packages, perhaps.
    """
    if connection.device.is_local:
        return [facts.python_path, *_safe_path(facts)]
    if facts.environment is None:
        return [facts.python_path, "-E", *_safe_path(facts)]
    return [str(facts.environment["python"]), "-I"]


def _safe_path(facts: Facts) -> list[str]:
    """``-P``, where it is known: what lies beside a script is not to be taken for a module of the same name."""
    return ["-P"] if python_version(facts) >= (3, 11) else []


def try_providers(
    connection: Connection, python: Sequence[str], version: tuple[int, int] = (3, 11)
) -> tuple[Provider, ...]:
    """Every runtime and provider that a Python on a device has, each in a process of its own.

    A runtime may end the process that imports it, by an instruction that the processor does not have, say: it is a row
    that says so, and the others are tried.

    Args:
        connection: To the device.
        python: The one with the runtimes.
        version: Its own, major and minor: for what may be installed instead.
    """
    listed = _probe(connection, python, ())
    if "installed" not in listed:
        raise DeviceError(
            f"{connection.where}: {python[0]}: {listed['error']}", listed["hint"] or _make_anew(connection)
        )
    found: list[Provider] = []
    for row in listed["installed"]:
        runtime = _probe(connection, python, (row["runtime"],))
        named = {**row, "version": runtime.get("version", row["version"])}
        if runtime["error"] is not None:
            found.append(_row(connection, {**named, "provider": "?", "works": False, **runtime}, version))
            continue
        for provider in runtime["providers"]:
            answer = _probe(connection, python, (row["runtime"], provider))
            found.append(_row(connection, {**named, "provider": provider, **answer}, version))
    return tuple(found)


def broken_runtimes(providers: Sequence[Provider]) -> tuple[Provider, ...]:
    """Of each runtime of which no provider works, the row that says why."""
    working = {each.runtime for each in providers if each.works}
    failing: dict[str, Provider] = {}
    for each in providers:
        if each.runtime not in working:
            failing.setdefault(each.runtime, each)
    return tuple(failing.values())


def _row(connection: Connection, values: dict[str, Any], python: tuple[int, int]) -> Provider:
    """One row; what a signal has ended is told with a version that may run there."""
    ended, version = values.get("signal"), str(values["version"])
    known = {key: values.get(key) for key in Provider.model_fields if key in values}
    if ended is not None and not connection.device.is_local:
        other = another(str(values["runtime"]), version, python)
        if other is not None and ended != "SIGKILL":
            known["hint"] = f"edgespa devices setup {connection.device.asked} --runtime {other}"
        failure = known_failure(str(values["runtime"]), version)
        if failure is not None:
            known["error"] = f"{known['error']}: {failure}"
    return Provider.parse(known, f"{connection.where}: probe")


def _probe(connection: Connection, python: Sequence[str], words: Sequence[str]) -> dict[str, Any]:
    request = {
        "argv": [*python, "-c", _source(), *words],
        "timeout_s": PROBE_TIMEOUT_S,
        "stall_s": STALL_S,
        "small": not connection.device.is_local,
    }
    done = connection.ask("execute", request, hold=True, timeout_s=2 * PROBE_TIMEOUT_S)
    lines = str(done["stdout"]).strip().splitlines()
    try:
        if done["status"] == 0 and lines:
            return dict(json.loads(lines[-1]))
    except (ValueError, TypeError):
        pass
    ended: Ending = ending_of(int(done["status"]), str(done["stderr"]), done["killed"])
    said = " / ".join(str(done["stderr"]).strip().splitlines()[-_LAST_LINES:])
    error = f"{ended.how}: {said}" if said else ended.how
    return {"works": False, "error": error, "hint": ended.hint, "signal": ended.signal}


def _make_anew(connection: Connection) -> str:
    return f"make its environment anew: edgespa devices setup {connection.device.asked} --again"


@cache
def _source() -> str:
    return own_source("device", "agent", "probe.py")
