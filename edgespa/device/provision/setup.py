"""Setting a device up: runtimes in an environment of their own, without root and without internet there.

In ``environments/KEY`` below edgespa's folder; ``environment`` is a link to the one in use. It is made under another
name, every provider is tried with a real inference, and only if one works is it renamed and linked: an interrupted
set-up leaves the device as it was, and the next one removes what is left.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgespa.config import Strict
from edgespa.device.host import Facts
from edgespa.device.inventory import (
    Inventory,
    Provider,
    inventory_of,
    problems,
    read_facts,
    runtime_python,
    try_providers,
)
from edgespa.device.link.payload import Payload
from edgespa.device.link.transport import Connection
from edgespa.device.provision.wheels import MACHINES, fetch, forget, key_of, requirements_for, wheel_folder
from edgespa.errors import DeviceError

Progress = Callable[[float, float | None, str], None]
"""Called with what is done, the total where it is known, and what it is."""

LOCK = "setup"
INSTALL_TIMEOUT_S = 3600.0
"""An SD card is slow, and an emulated board more so."""

_GROWTH = 5
"""Unpacked, packages take about four times the bytes of their wheels; and the wheels lie there too."""

_LAST_LINES = 6
_WIDTH = 80


class SetUp(Strict):
    """What was done.

    Attributes:
        key: Of the environment.
        made: It was made now; False where it was there already.
        requirements: What was asked for.
        packages: The wheels' file names; empty where nothing was made.
        bytes_sent: To the device.
        inventory: What is there now.
    """

    key: str
    made: bool
    requirements: tuple[str, ...]
    packages: tuple[str, ...]
    bytes_sent: int
    inventory: Inventory

    def summary(self) -> str:
        """A few lines for people."""
        name = self.inventory.device
        if not self.made:
            return f"{name}: set up already, nothing was done (environment {self.key}; --again makes it anew)"
        names = ", ".join("==".join(each.split("-")[:2]) for each in self.packages)
        first = f"{name}: set up, {len(self.packages)} packages, {self.bytes_sent:,} bytes sent"
        return "\n".join([first, *textwrap.wrap(names, _WIDTH, break_on_hyphens=False)])


def set_up(
    connection: Connection,
    *,
    wheels: Path | None = None,
    offline: bool = False,
    again: bool = False,
    progress: Progress | None = None,
) -> SetUp:
    """Put the runtimes on a device, if they are not there.

    Args:
        connection: To the device.
        wheels: A folder of wheels that are taken first.
        offline: Nothing but those.
        again: Make the environment anew, even if it is there.
        progress: Told of each step.

    Raises:
        DeviceError: The machine cannot run them (32 bits, another C library, no venv), nothing fits, nothing works, or
            the connection broke.
    """
    device = connection.device
    if device.is_local:
        raise DeviceError("'local' runs in edgespa's own environment", "pip install 'edgespa[onnx,tflite]'")
    if wheels is not None and not wheels.is_dir():
        raise DeviceError(f"{wheels} is not a folder", "give one with .whl files in it")
    if offline and wheels is None:
        raise DeviceError("--offline needs --wheels: a folder with all packages", "leave one out, or give both")
    tell = progress or (lambda done, total, text: None)
    facts = read_facts(connection)
    _refuse(connection, facts)
    requirements = requirements_for(device, facts, wheels)
    key = key_of(facts, requirements, wheels)
    if not again and facts.environment is not None and facts.environment.get("key") == key:
        # Tried again: packages may have been damaged since, and then it is made anew.
        providers = try_providers(connection, runtime_python(connection, facts))
        if any(each.works for each in providers):
            return SetUp(
                key=key,
                made=False,
                requirements=requirements,
                packages=(),
                bytes_sent=0,
                inventory=inventory_of(connection, facts, key, providers),
            )
    with connection.lock(LOCK, "another edgespa sets it up"), _wheels(key) as folder:
        tell(0, None, f"{device.name}: fetching packages")
        files = [Payload.of(path) for path in fetch(facts, requirements, folder, wheels=wheels, offline=offline)]
        _require_space(connection, facts, files)
        there, sent = connection.deliver(
            f"wheels/{key}",
            {each.path.name: each for each in files},
            lambda done, total: tell(done, total, f"{device.name}: sending packages"),
        )
        tell(0, None, f"{device.name}: installing")
        providers = _make(connection, facts, key, there, requirements)
        tell(1, 1, f"{device.name}: done")
    return SetUp(
        key=key,
        made=True,
        requirements=requirements,
        packages=tuple(each.path.name for each in files),
        bytes_sent=sent.bytes_sent,
        inventory=inventory_of(connection, facts, key, providers),
    )


def _refuse(connection: Connection, facts: Facts) -> None:
    """Raise if no runtime can be had for the machine."""
    found = problems(connection.device, facts)
    if found:
        raise DeviceError(f"{connection.where}: {found[0]}", "what cannot be set up cannot be profiled or shipped to")
    if facts.machine not in MACHINES:
        raise DeviceError(
            f"{connection.where}: there are no packages for {facts.machine}",
            f"there are some for {', '.join(MACHINES)}",
        )
    if not facts.can_make_venv:
        version = ".".join((facts.python or "3").split(".")[:2])
        raise DeviceError(
            f"{connection.where}: its Python cannot make environments: ensurepip is missing",
            f"install it there: sudo apt-get install python3-venv (or python{version}-venv)",
        )


def _require_space(connection: Connection, facts: Facts, files: Sequence[Payload]) -> None:
    needed = _GROWTH * sum(each.size_bytes for each in files)
    if needed > facts.free_bytes:
        raise DeviceError(
            f"{connection.where}: its disk is full: {needed / 1e6:,.0f} MB are needed in {facts.folder}, "
            f"{facts.free_bytes / 1e6:,.0f} MB are free",
            "free some space there, or say where else: folder in [connection] of the device's profile",
        )


def _make(
    connection: Connection, facts: Facts, key: str, wheels: str, requirements: Sequence[str]
) -> tuple[Provider, ...]:
    """Make the environment beside its place, try it, and put it there."""
    new = str(connection.ask("environment-begin", {"key": key})["folder"])
    python = f"{new}/bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    try:
        _step(connection, "make an environment", [facts.python_path, "-m", "venv", new])
        _step(connection, "install packages", [*install, "--find-links", wheels, *requirements])
        providers = try_providers(connection, [python])
        if not any(each.works for each in providers):
            why = "; ".join(f"{each.runtime}: {each.error}" for each in providers) or "no runtime can be imported"
            raise DeviceError(f"{connection.where}: nothing that was installed works: {why}", "the device is as it was")
    except DeviceError:
        with contextlib.suppress(DeviceError):  # the disk may be full of it; if it cannot be reached, the next one does
            connection.ask("environment-discard", {"key": key})
        raise
    record = {
        "key": key,
        "requirements": list(requirements),
        "providers": [each.model_dump() for each in providers],
    }
    connection.ask("environment-finish", {"key": key, "record": record})
    return providers


def _step(connection: Connection, what: str, argv: Sequence[str]) -> None:
    request: dict[str, Any] = {"argv": list(argv), "timeout_s": INSTALL_TIMEOUT_S, "environment": {"PYTHONPATH": ""}}
    done = connection.ask("execute", request, hold=True, timeout_s=INSTALL_TIMEOUT_S + 60)
    if done["status"] or done["killed"]:
        said = str(done["stderr"] or done["stdout"]).strip().splitlines()[-_LAST_LINES:]
        how = done["killed"] or f"status {done['status']}"
        raise DeviceError(
            f"{connection.where}: cannot {what} ({how}):\n" + "\n".join(said), "the device is as it was; try again"
        )


@contextlib.contextmanager
def _wheels(key: str) -> Iterator[Path]:
    folder, temporary = wheel_folder(key)
    try:
        yield folder
    finally:
        if temporary:
            forget(folder)
