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
from edgespa.device.endings import ending_of
from edgespa.device.host import Facts
from edgespa.device.inventory import (
    STALL_S,
    Inventory,
    Provider,
    broken_runtimes,
    inventory_of,
    problems,
    python_version,
    read_facts,
    runtime_python,
    try_providers,
)
from edgespa.device.link.payload import Payload
from edgespa.device.link.transport import Connection
from edgespa.device.provision.pip import index_name
from edgespa.device.provision.wheels import (
    MACHINES,
    PILLOW,
    Fetched,
    Wanted,
    fetch,
    key_of,
    requirements_of,
    wanted_for,
    wheel_folder,
)
from edgespa.device.versions import MODULES
from edgespa.errors import DeviceError, UnreachableError
from edgespa.system.guarded import private_folder

Progress = Callable[[float, float | None, str], None]
"""Called with what is done, the total where it is known, and what it is."""

LOCK = "setup"
INSTALL_TIMEOUT_S = 3600.0
"""An SD card is slow, and an emulated board more so; what computes nothing meanwhile is ended sooner."""

_STALL_S = 4 * STALL_S
"""Writing to a slow card, a process may wait for so long."""

_GROWTH = 5
"""Unpacked, packages take about four times the bytes of their wheels; and the wheels lie there too."""

_LAST_LINES = 6
_WIDTH = 80


class Broken(Strict):
    """A runtime that was wanted and cannot be used.

    Attributes:
        runtime: Its package.
        error: Why.
        hint: What to do, where that is known.
    """

    runtime: str
    error: str
    hint: str | None = None


class SetUp(Strict):
    """What was done.

    Attributes:
        key: Of the environment.
        made: It was made now; False where it was there already.
        requirements: What was asked for.
        packages: The wheels' file names; empty where nothing was made.
        bytes_sent: To the device.
        inventory: What is there now.
        broken: Of each runtime that was wanted and does not work there, why, and what to do; the others can be used.
    """

    key: str
    made: bool
    requirements: tuple[str, ...]
    packages: tuple[str, ...]
    bytes_sent: int
    inventory: Inventory
    broken: tuple[Broken, ...] = ()

    def summary(self) -> str:
        """A few lines for people."""
        name = self.inventory.device
        if not self.made and self.broken:
            return f"{name}: set up as before, and no better; nothing was done (environment {self.key})"
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
    runtimes: Sequence[str] = (),
    progress: Progress | None = None,
) -> SetUp:
    """Put the runtimes on a device, if they are not there.

    A runtime that cannot be had, or does not work there, does not stop the other.

    Args:
        connection: To the device.
        wheels: A folder of wheels that are taken first.
        offline: Nothing but those.
        again: Make the environment anew, even if it is there.
        runtimes: Requirements in place of the tested versions: ``onnxruntime==1.20.1``.
        progress: Told of each step.

    Raises:
        ConfigError: One of ``runtimes`` is none.
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
    wanted = wanted_for(device, facts, wheels, runtimes)
    requirements = requirements_of(wanted)
    key = key_of(facts, requirements, wheels)
    if not again and facts.environment is not None and facts.environment.get("key") == key:
        # Tried again: packages may have been damaged since, and then it is made anew.
        tell(0, None, f"{device.name}: trying what is there")
        there_already = _as_it_is(connection, facts, key, wanted)
        if there_already is not None:
            return there_already
    with connection.lock(LOCK, "another edgespa sets it up"), _wheels(key) as folder:
        where = str(wheels) if offline else index_name()
        tell(0, None, f"{device.name}: fetching packages from {where}")
        fetched = fetch(facts, wanted, folder, wheels=wheels, offline=offline)
        files = [Payload.of(path) for path in fetched.files]
        _require_space(connection, facts, files)
        there, sent = connection.deliver(
            f"wheels/{key}",
            {each.path.name: each for each in files},
            lambda done, total: tell(done, total, f"{device.name}: sending packages"),
        )
        making = _Making(connection, facts, key, wanted, fetched)
        providers, broken = making.make(there, requirements, lambda text: tell(0, None, f"{device.name}: {text}"))
        tell(1, 1, f"{device.name}: done")
    return SetUp(
        key=key,
        made=True,
        requirements=requirements,
        packages=tuple(each.path.name for each in files),
        bytes_sent=sent.bytes_sent,
        inventory=inventory_of(connection, facts, key, providers),
        broken=broken,
    )


def _as_it_is(connection: Connection, facts: Facts, key: str, wanted: Sequence[Wanted]) -> SetUp | None:
    """What is there, if every runtime works, or if those that do not were tried and did not when it was made."""
    assert facts.environment is not None
    providers = try_providers(connection, runtime_python(connection, facts), python_version(facts))
    broken = _broken(connection, wanted, providers, facts.environment.get("missing") or {})
    known = set(facts.environment.get("broken") or ())
    if not any(each.works for each in providers) or not {each.runtime for each in broken} <= known:
        return None
    return SetUp(
        key=key,
        made=False,
        requirements=requirements_of(wanted),
        packages=(),
        bytes_sent=0,
        inventory=inventory_of(connection, facts, key, providers),
        broken=broken,
    )


def _broken(
    connection: Connection, wanted: Sequence[Wanted], providers: Sequence[Provider], missing: dict[str, str]
) -> tuple[Broken, ...]:
    """The runtimes that were wanted and do not work; ``missing``: why they could not be installed."""
    failing = {each.runtime: each for each in broken_runtimes(providers)}
    working = {each.runtime for each in providers if each.works}
    found = []
    for runtime in wanted:
        module = MODULES[runtime.package]
        if module in working:
            continue
        row = failing.get(module)
        if row is not None:
            text = f"{row.version}: {row.error}"
            found.append(
                Broken(runtime=runtime.package, error=text, hint=row.hint or "give a wheel that works: --wheels FOLDER")
            )
        else:
            why = missing.get(runtime.package) or "it is not installed there"
            found.append(Broken(runtime=runtime.package, error=why, hint="give a wheel that fits: --wheels FOLDER"))
    return tuple(found)


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


class _Making:
    """An environment that is made beside its place, tried, and put there."""

    def __init__(
        self, connection: Connection, facts: Facts, key: str, wanted: Sequence[Wanted], fetched: Fetched
    ) -> None:
        self.connection, self.facts, self.key, self.wanted = connection, facts, key, wanted
        self.fetched, self.missing = fetched, dict(fetched.missing)

    def make(
        self, wheels: str, requirements: Sequence[str], tell: Callable[[str], None]
    ) -> tuple[tuple[Provider, ...], tuple[Broken, ...]]:
        """Make it, from a folder of wheels there; what works in it, and which runtimes do not."""
        new = str(self.connection.ask("environment-begin", {"key": self.key})["folder"])
        python = f"{new}/bin/python"
        try:
            tell("making an environment")
            _step(self.connection, "make an environment", [self.facts.python_path, "-I", "-m", "venv", new])
            tell("installing")
            self._install(python, wheels)
            tell("trying what was installed")
            providers = try_providers(self.connection, [python, "-I"], python_version(self.facts))
            broken = _broken(self.connection, self.wanted, providers, self.missing)
            if not any(each.works for each in providers):
                why = "; ".join(f"{each.runtime} {each.error}" for each in broken) or "no runtime can be imported"
                known = [each.hint for each in broken if each.hint and "--runtime" in each.hint]
                raise DeviceError(
                    f"{self.connection.where}: nothing that was installed works: {why}",
                    "the device is as it was" + (f"; other versions: {known[0]}" if known else ""),
                )
        except DeviceError:
            with contextlib.suppress(DeviceError):  # the disk may be full of it, or it is away: the next one does it
                self.connection.ask("environment-discard", {"key": self.key})
            raise
        record = {
            "key": self.key,
            "requirements": list(requirements),
            "providers": [each.model_dump() for each in providers],
            "broken": [each.runtime for each in broken],
            "missing": self.missing,
        }
        self.connection.ask("environment-finish", {"key": self.key, "record": record})
        return providers, broken

    def _install(self, python: str, wheels: str) -> None:
        """All at once, or, where that fails, each runtime by itself."""
        install = [python, "-I", "-m", "pip", "install", "--isolated", "--quiet", "--disable-pip-version-check"]
        install += ["--no-cache-dir", "--no-index", "--find-links", wheels]
        every = [each for runtime in self.fetched.requirements for each in runtime]
        try:
            _step(self.connection, "install packages", [*install, *every, PILLOW])
            return
        except UnreachableError:
            raise
        except DeviceError:
            if len(self.fetched.requirements) < 2:
                raise
        installed = 0
        for runtime in self.fetched.requirements:
            try:
                _step(self.connection, "install packages", [*install, *runtime, PILLOW])
                installed += 1
            except UnreachableError:
                raise
            except DeviceError as error:
                package = next(each.package for each in self.wanted if runtime[0].startswith(each.package))
                self.missing[package] = error.message
                last = error
        if not installed:
            raise last


def _step(connection: Connection, what: str, argv: Sequence[str]) -> None:
    request: dict[str, Any] = {
        "argv": list(argv),
        "timeout_s": INSTALL_TIMEOUT_S,
        "stall_s": _STALL_S,
        "small": True,
    }
    done = connection.ask("execute", request, hold=True, timeout_s=INSTALL_TIMEOUT_S + 60)
    if done["status"] or done["killed"]:
        text = str(done["stderr"] or done["stdout"])
        said = text.strip().splitlines()[-_LAST_LINES:]
        ended = ending_of(int(done["status"]), text, done["killed"])
        raise DeviceError(
            f"{connection.where}: cannot {what} ({ended.how}):\n" + "\n".join(said),
            ended.hint or "the device is as it was; what is above says why",
        )


@contextlib.contextmanager
def _wheels(key: str) -> Iterator[Path]:
    kept = wheel_folder(key)
    if kept is not None:
        yield kept
    else:
        with private_folder() as folder:
            yield folder / key
