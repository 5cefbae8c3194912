"""Shipping: a bundle becomes a version of a task on a device, checks itself there, and only then is in use.

The order is the point. Files go to the device's cache by their digest; a version is made of them beside those that are
there; its digests, and its signature, are checked on the device; it runs its recorded inputs there; then one rename
makes it the version in use. Whatever ends this earlier leaves the old version in use, and the next try removes what is
left. See `edgespa.device.agent.tasks` for the other side.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from edgespa import __version__
from edgespa.bundle import MANIFEST, SIGNATURE, Manifest, OpenBundle, Weights
from edgespa.bundle.signature import NAMESPACE
from edgespa.bundle.variant import FOR_PYTORCH
from edgespa.device.endings import ending_of
from edgespa.device.link.payload import Payload, Sending
from edgespa.device.link.transport import Connection
from edgespa.device.measure.results import Check
from edgespa.device.ours import runner_command
from edgespa.device.runner import BASE
from edgespa.device.shipment.memory import remember
from edgespa.device.shipment.reading import read_window
from edgespa.device.shipment.ready import no_base, no_runtime, require_ready
from edgespa.device.shipment.results import Shipped, SignatureState
from edgespa.device.shipment.windows import Watch, plan_of, put_in_use
from edgespa.errors import ConfigError, DeviceError, SignatureError, UnreachableError

KEEP = 3
"""Versions of a task that stay on the device."""
LOCK = "ship"
CHECK_SECONDS = 600.0
_MAX_NAME = 64

Python = Callable[[Connection], list[str]]
"""From a connection to the Python there that has the runtimes, as the beginning of an argument list."""


@dataclass(frozen=True)
class Shipment:
    """A bundle that is ready to be sent.

    Attributes:
        task: The task's name on devices.
        manifest: Of the bundle.
        files: Path in the bundle -> file; the manifest and its signature among them.
        signed_by: Whose signature was checked here; None where that was not asked.
        signers: The content of the file of those who may sign; None where it was not asked.
        base: The base file that the task needs on the device, if it is at hand here.
    """

    task: str
    manifest: Manifest
    files: Mapping[str, Payload]
    signed_by: str | None = None
    signers: str | None = None
    base: Payload | None = None

    @classmethod
    def of(
        cls, bundle: OpenBundle, *, task: str | None = None, signers: Path | None = None, base: Path | None = None
    ) -> Self:
        """Make a shipment of an opened bundle.

        Args:
            bundle: Its files, and its signature if ``signers`` are given, have been checked.
            task: Another name for the task.
            signers: Who may have signed it.
            base: The base file of a bundle that has no weights of its own.

        Raises:
            ConfigError: The name cannot be that of a folder.
        """
        manifest, folder = bundle.manifest, bundle.folder
        files = {entry.path: Payload(folder / entry.path, entry.sha256, entry.size_bytes) for entry in manifest.files}
        for name in (MANIFEST, SIGNATURE):
            if (folder / name).is_file():
                files[name] = Payload.of(folder / name)
        signed = bundle.signed.identity if bundle.signed is not None else None
        text = signers.read_text(encoding="utf-8") if signers is not None else None
        own = Payload.of(base) if base is not None else None
        return cls(task_name(task or manifest.task, task is None), manifest, files, signed, text, own)

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, and so of everything in it."""
        return self.files[MANIFEST].sha256

    @property
    def needs(self) -> Weights | None:
        """What a bundle without weights needs on the device; None for one that is complete."""
        return next((variant.weights for variant in self.manifest.variants if variant.weights), None)

    @property
    def formats(self) -> frozenset[str]:
        """Of its files that are for devices."""
        return frozenset(str(each.format) for each in self.manifest.variants if each.format not in FOR_PYTORCH)

    @property
    def size_bytes(self) -> int:
        """Of its files, without the base."""
        return sum(each.size_bytes for each in self.files.values())


def task_name(text: str, change: bool = False) -> str:
    """A name that a task can have on a device: letters, digits, dots, dashes, underscores; at most 64.

    Args:
        text: The name.
        change: Replace what is not allowed, instead of refusing it.

    Raises:
        ConfigError: It is not allowed, or nothing is left of it.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:_MAX_NAME] if change else text
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigError(
            f"'{text}' cannot be the name of a task on a device",
            "give --task a name of letters, digits, dots, dashes and underscores, at most 64",
        )
    return name


def ship(
    connection: Connection,
    shipment: Shipment,
    python: Python,
    *,
    keep: int = KEEP,
    send_base: bool = False,
    volatile: bool = False,
    threads: int = 1,
    trust: bool = False,
    watch: Watch | None = None,
    wait_for_lock_s: float = 0,
    progress: Sending | None = None,
    waiting: Callable[[str], None] | None = None,
) -> Shipped:
    """Send a bundle to a device, check it there, and use it from now on.

    Args:
        connection: To the device.
        shipment: What to send.
        python: Finds the Python there that has the runtimes.
        keep: Versions of the task that stay, the one in use among them.
        send_base: Send the base too, should the device not have it.
        volatile: Also to a device whose writes are gone after a reboot.
        threads: Of the runtime, for the self-check.
        trust: Let the bundle's own run.py do that, whoever wrote it.
        watch: The health window that follows, on the device: it has begun when this returns.
        wait_for_lock_s: For an application there that holds the update lock of the task.
        progress: Told of what is sent.
        waiting: Told who holds the lock.

    Raises:
        DeviceError: It cannot be reached, has no space, no base, no runtime, a file system that cannot keep versions,
            is busy with another shipment, or a file fails its self-check there. The version that was in use still is.
        SignatureError: The device finds that the signature is none of the signers'.
    """
    started, before = time.monotonic(), connection.bytes_sent
    interpreter = python(connection)
    with connection.lock(LOCK, f"edgespa ship of {shipment.task}, begun {now()}"):
        files, base_bytes = _wanted(connection, shipment, send_base)
        ready = require_ready(connection, interpreter, shipment.formats, files.values(), volatile=volatile)
        sent = connection.send(list(files.values()), progress)
        staged = _staged(connection, shipment, files, progress)
        version, folder = str(staged["version"]), str(staged["folder"])
        own = {"task": shipment.task, "version": version}
        try:
            checked = _signature(connection, shipment, own)
            checks = self_check(connection, folder, interpreter, threads=threads, trust=trust)
            require_passed(connection, f"{shipment.task} {version}", checks)
        except UnreachableError:
            raise  # the next shipment removes it
        except (DeviceError, SignatureError):
            if version != staged["current"]:
                _withdraw(connection, own)
            raise
        created = now()
        record = {
            "created": created,
            "edgespa": __version__,
            "digest": shipment.digest,
            "signed_by": shipment.signed_by,
            "checks": [check.model_dump() for check in checks],
        }
        try:
            plan = None
            if watch is not None:
                own_ms = shipment.manifest.max_latency_ms
                plan = plan_of(connection, folder, interpreter, checks, watch, own_ms=own_ms, trust=trust)
            switched = put_in_use(connection, own, record, watch=plan, wait_s=wait_for_lock_s, progress=waiting)
        except UnreachableError:
            raise
        except DeviceError:
            if version != staged["current"]:
                _withdraw(connection, own)
            raise
        forgotten = remember(connection, shipment.task, version, created)
        removed = connection.ask("discard", {"task": shipment.task, "keep": keep})["removed"]
    notes = [*ready.notes, *map(str, switched.get("notes", ())), *([forgotten] if forgotten else [])]
    if staged["shared"] and staged["current"] not in (None, version):
        names = ", ".join(staged["shared"])
        notes.append(f"no space for a copy of its own: damage to {names} would damage {staged['current']} too")
    return Shipped(
        device=connection.device.name,
        emulated=connection.device.emulated,
        task=shipment.task,
        version=version,
        previous=switched["previous"],
        folder=folder,
        bytes_sent=connection.bytes_sent - before,
        bytes_there=sent.bytes_there,
        base_bytes_sent=base_bytes,
        seconds=time.monotonic() - started,
        signature=checked,
        signed_by=shipment.signed_by,
        checks=checks,
        removed=tuple(removed),
        cleaned=tuple(staged["removed"]),
        repaired=tuple(staged["repaired"]),
        notes=tuple(notes),
        window=read_window(switched.get("window")),
    )


def _withdraw(connection: Connection, own: Mapping[str, Any]) -> None:
    """Remove a version that did not pass; where even that fails, the next shipment does it."""
    try:
        connection.ask("discard", own)
    except DeviceError:
        return


def now() -> str:
    """The time now."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _wanted(connection: Connection, shipment: Shipment, send_base: bool) -> tuple[dict[str, Payload], int]:
    """All files of the version by their path in it, the base among them; and the bytes of a base that is not there.

    Raises:
        DeviceError: The device does not have the base, and it is not to be sent.
    """
    files, weights = dict(shipment.files), shipment.needs
    if weights is None:
        return files, 0
    there = connection.ask("have", {"digests": [weights.base_sha256]})["files"][weights.base_sha256]
    has = there["whole"] and there["size_bytes"] == weights.base_size_bytes
    if not has and not (send_base and shipment.base is not None):
        raise no_base(connection, shipment.task, weights.base_size_bytes)
    # A base that is there is never read here: its digest is what counts.
    path = shipment.base.path if shipment.base is not None else Path(BASE)
    files[BASE] = Payload(path, weights.base_sha256, weights.base_size_bytes)
    return files, 0 if has else weights.base_size_bytes


def _staged(
    connection: Connection, shipment: Shipment, files: Mapping[str, Payload], progress: Sending | None
) -> dict[str, Any]:
    entries = [{"path": path, "sha256": each.sha256, "size_bytes": each.size_bytes} for path, each in files.items()]
    request = {"task": shipment.task, "digest": shipment.digest, "files": entries}
    staged = connection.ask("stage", request)
    if staged["damaged"]:  # the cache, or a version that it goes into, had changed on the device's disk
        again = [each for each in files.values() if each.sha256 in staged["damaged"]]
        lost = [each for each in again if not each.path.is_file()]
        if lost:
            raise DeviceError(f"{connection.where}: the base there is damaged", "send it again: add --with-base")
        connection.send(again, progress)
        staged = connection.ask("stage", request)
    if staged["damaged"]:
        raise DeviceError(
            f"{connection.where}: files change on its disk after they were written", "check or replace its SD card"
        )
    return staged


def _signature(connection: Connection, shipment: Shipment, own: Mapping[str, Any]) -> SignatureState:
    """Where the signature was checked: on the device, or where it has no ssh-keygen for it, here.

    Raises:
        SignatureError: The device finds it is not good.
    """
    if SIGNATURE not in shipment.files:
        return "absent"
    if shipment.signed_by is None or shipment.signers is None:
        return "not checked"
    request = {**own, "signers": shipment.signers, "identity": shipment.signed_by, "namespace": NAMESPACE}
    answer = connection.ask("check-signed", request)
    if answer["status"] == "bad":
        raise SignatureError(
            f"{connection.where}: the signature of {shipment.task} is not good there: {answer['said']}",
            "see whether its clock is right: ssh-keygen looks at the dates of keys",
        )
    return "on the device" if answer["status"] == "good" else "on the host"


def self_check(
    connection: Connection, folder: str, python: Sequence[str], *, threads: int = 1, trust: bool = False
) -> tuple[Check, ...]:
    """Run the recorded inputs of a bundle through its files on a device, by edgespa's own runner.

    Args:
        connection: To the device.
        folder: Of the bundle there.
        python: The Python there that has the runtimes, as the beginning of an argument list.
        threads: Of the runtime.
        trust: Let the bundle's own run.py do it.

    Returns:
        One result per variant; what has no runtime there is ``not run``.

    Raises:
        DeviceError: It does not answer as it should; the message has its last lines.
    """
    done = _checked(connection, folder, python, "all", threads, trust)
    if int(done["status"]) < 0 and not done["killed"]:
        checks = _each_by_itself(connection, folder, python, threads, trust)
        if checks:
            return checks
    try:
        rows = json.loads(done["stdout"].strip().splitlines()[-1])["selfcheck"]
        return tuple(Check.parse(row, f"{connection.where}: self-check") for row in rows)
    except (ValueError, LookupError, TypeError, ConfigError) as error:
        if "No module named" in done["stderr"]:
            raise no_runtime(connection, done["stderr"].strip().splitlines()[-1]) from error
        last = "\n".join(done["stderr"].strip().splitlines()[-8:])
        what = done["killed"] or f"run.py ended with status {done['status']}"
        memory = " (killed, most likely for want of memory)" if done["status"] == -9 and not done["killed"] else ""
        raise DeviceError(
            f"{connection.where}: the self-check has no result: {what}{memory}" + (f":\n{last}" if last else ""),
            "see what the device lacks: edgespa devices check " + connection.device.asked,
        ) from error


def _checked(
    connection: Connection, folder: str, python: Sequence[str], variant: str, threads: int, trust: bool
) -> dict[str, Any]:
    options = ["--selfcheck", "--variant", variant, "--threads", str(threads)]
    argv = runner_command(python, folder, options, trusted=trust)[0]
    request = {"argv": argv, "cwd": folder, "timeout_s": CHECK_SECONDS, "small": not connection.device.is_local}
    return connection.ask("execute", request, hold=True, timeout_s=CHECK_SECONDS + 60)


def _each_by_itself(
    connection: Connection, folder: str, python: Sequence[str], threads: int, trust: bool
) -> tuple[Check, ...]:
    """One variant after the other, where a runtime ends the process: the others do not suffer by it.

    Returns:
        One result per variant, ``not run`` for those that end theirs; none where none has one.
    """
    rows: list[Check] = []
    try:
        text = connection.run(["cat", f"{folder}/{MANIFEST}"]).stdout
        names = [str(variant["name"]) for variant in json.loads(text)["variants"]]
        for name in names:
            done = _checked(connection, folder, python, name, threads, trust)
            if int(done["status"]) < 0:
                how = ending_of(int(done["status"]), str(done["stderr"]), done["killed"]).how
                rows.append(Check(name=name, status="not run", runtime=None, failures=(how,)))
                continue
            answer = json.loads(done["stdout"].strip().splitlines()[-1])["selfcheck"]
            rows += [Check.parse(row, f"{connection.where}: self-check") for row in answer]
    except (ValueError, LookupError, TypeError, ConfigError):
        return ()
    return tuple(rows) if any(each.status != "not run" for each in rows) else ()


def require_passed(connection: Connection, what: str, checks: Sequence[Check]) -> None:
    """Refuse a version of which a file fails its self-check, or none can run.

    Raises:
        DeviceError: It says which, and by how much.
    """
    failed = [f"{check.name}: {'; '.join(check.failures)}" for check in checks if check.status == "failed"]
    if failed:
        raise DeviceError(
            f"{connection.where}: {what} fails its self-check there, and is not used: {'; '.join(failed)}",
            "the version that was in use still is; export without that file, or look into the device's runtime",
        )
    if not any(check.status == "passed" for check in checks):
        why = "; ".join(f"{check.name}: {', '.join(check.failures)}" for check in checks)
        raise no_runtime(connection, f"no file of {what} can run: {why}")
