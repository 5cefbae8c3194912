"""What is really on a device: facts, sensors, runtimes, and which of their providers compute."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from edgespa.config import Strict
from edgespa.device.board import Device
from edgespa.device.host import Conditions, Facts
from edgespa.device.link.transport import Connection
from edgespa.errors import DeviceError

PROBE_TIMEOUT_S = 120.0
"""A GPU's first run compiles kernels."""

_LAST_LINES = 3


class Provider(Strict):
    """What a runtime lists, and whether it computes.

    Attributes:
        runtime: The package that is imported.
        version: Its version.
        provider: By the runtime's name for it.
        works: It gave the right outputs itself.
        error: Why not.
        first_run_ms: From loading to the first output of a tiny network.
    """

    runtime: str
    version: str
    provider: str
    works: bool
    error: str | None = None
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
    return inventory_of(connection, facts, key, try_providers(connection, runtime_python(connection, facts)))


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


def runtime_python(connection: Connection, facts: Facts) -> list[str]:
    """The Python that has the runtimes: that of the environment if one was set up, else the device's own.

    ``-P``, where it is known: what lies beside a script is not to be taken for a module of the same name.
    """
    if connection.device.is_local or facts.environment is None:
        path = facts.python_path
    else:
        path = str(facts.environment["python"])
    version = tuple(int(part) for part in (facts.python or "3.8").split(".")[:2])
    return [path, "-P"] if version >= (3, 11) else [path]


def try_providers(connection: Connection, python: Sequence[str]) -> tuple[Provider, ...]:
    """Every runtime and provider that a Python on a device has, each tried in a process of its own."""
    listed = _probe(connection, python, ())
    if "providers" not in listed:
        raise DeviceError(f"{connection.where}: {python[0]}: {listed['error']}", "edgespa devices setup")
    found = []
    for row in listed["providers"]:
        answer = {"works": False, "error": row["error"]}
        if row["error"] is None:
            answer = _probe(connection, python, (row["runtime"], row["provider"]))
        found.append(Provider.parse({**row, **answer}, f"{connection.where}: probe"))
    return tuple(found)


def _probe(connection: Connection, python: Sequence[str], words: Sequence[str]) -> dict[str, Any]:
    request = {"argv": [*python, "-c", _source(), *words], "timeout_s": PROBE_TIMEOUT_S}
    done = connection.ask("execute", request, hold=True, timeout_s=2 * PROBE_TIMEOUT_S)
    lines = str(done["stdout"]).strip().splitlines()
    try:
        if done["status"] == 0 and lines:
            return dict(json.loads(lines[-1]))
    except (ValueError, TypeError):
        pass
    status = int(done["status"])
    how = str(done["killed"] or (f"ended by signal {-status}" if status < 0 else f"ended with status {status}"))
    said = " / ".join(str(done["stderr"]).strip().splitlines()[-_LAST_LINES:])
    return {"works": False, "error": f"{how}: {said}" if said else how}


@cache
def _source() -> str:
    return (Path(__file__).parent / "agent" / "probe.py").read_text(encoding="utf-8")
