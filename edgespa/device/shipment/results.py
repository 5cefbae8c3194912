"""What shipping, rolling back and looking give: models that are shown, and printed as JSON."""

from __future__ import annotations

from typing import Literal

from edgespa.config import Strict
from edgespa.device.measure.results import Check
from edgespa.device.shipment.pulls import PullReport

SignatureState = Literal["absent", "not checked", "on the device", "on the host"]

FULL_BYTES = 8 << 20
"""A disk with less is called full: nothing can be shipped to it."""


class WindowStatus(Strict):
    """A health window: a version that was watched on the device after it was put in use, or is.

    Attributes:
        state: ``watching``; ``passed``: nothing was wrong in all of it; ``rolled back``: something was, and the device
            has gone back by itself; ``replaced``: another version was put in use meanwhile.
        version: That it is about.
        to: What was gone back to; None where nothing was in use before, or where it was not gone back.
        watch_s: Seconds that it is watched for.
        left_s: Of these what is left; while the device is off, or nobody watches, it stays.
        rounds: How often it was found well.
        begun: By the device's clock, ISO 8601.
        ended: The same; None while it lasts.
        reason: What was wrong with it.
    """

    state: Literal["watching", "passed", "rolled back", "replaced"]
    version: str
    to: str | None = None
    watch_s: float
    left_s: float
    rounds: int
    begun: str
    ended: str | None = None
    reason: str | None = None


class Shipped(Strict):
    """A bundle that is in use on a device.

    Attributes:
        device: Its name.
        emulated: Whether it is an emulated one: its seconds mean nothing.
        task: The task's name there.
        version: The version's name there.
        previous: What was in use before; the same version if it was this one already.
        folder: Of the version, on the device.
        bytes_sent: Content of files that went over the connection.
        bytes_there: Content that was there already, by its digest.
        base_bytes_sent: Of a base that the device did not have; 0 where it had it, or needs none.
        seconds: From the first call to the switch.
        signature: Where it was checked.
        signed_by: By whom, where it was checked.
        checks: The self-check on the device.
        removed: Versions that went because of ``keep``.
        cleaned: Versions that earlier, interrupted shipments had left unfinished, removed.
        repaired: Versions there of which files had been damaged, and are not any more.
        notes: What is to be known beside, in sentences: that it will not outlast a reboot, say.
        window: Its health window, as far as it was followed; None where none was asked for.
    """

    device: str
    emulated: bool
    task: str
    version: str
    previous: str | None
    folder: str
    bytes_sent: int
    bytes_there: int
    base_bytes_sent: int
    seconds: float
    signature: SignatureState
    signed_by: str | None
    checks: tuple[Check, ...]
    removed: tuple[str, ...]
    cleaned: tuple[str, ...]
    repaired: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    window: WindowStatus | None = None


class Switched(Strict):
    """An earlier version that is in use again; attributes as those of `Shipped`.

    Attributes:
        repaired: Files of it that had been damaged, and were put right from other copies there.
    """

    device: str
    task: str
    version: str
    previous: str | None
    checks: tuple[Check, ...]
    repaired: tuple[str, ...] = ()


class Removed(Strict):
    """A task that is not on a device any more.

    Attributes:
        device: Its name.
        task: The task's name.
        versions: That were there, the one in use among them; empty where it was only remembered here.
        removed_bytes: That became free.
    """

    device: str
    task: str
    versions: tuple[str, ...]
    removed_bytes: int


class VersionStatus(Strict):
    """One version of a task on a device.

    Attributes:
        version: Its name.
        size_bytes: Of its files.
        base_bytes: Of the base among them, which tasks share on the disk.
        finished: Whether it passed its self-check there.
        shipped: When that was, ISO 8601; None for an unfinished one, or an odd record.
        signed_by: As it was then.
        digest: SHA-256 of its manifest.
    """

    version: str
    size_bytes: int
    base_bytes: int
    finished: bool
    shipped: str | None
    signed_by: str | None
    digest: str | None


class TaskStatus(Strict):
    """A task on a device.

    Attributes:
        task: Its name.
        current: The version in use; None where there is none.
        health: ``ok``: its files are as they were shipped; else what is wrong, in words.
        versions: All of them, the oldest first.
        checks: Its self-check, where one was asked for.
        window: Its last health window; None where there was none.
    """

    task: str
    current: str | None
    health: str
    versions: tuple[VersionStatus, ...]
    checks: tuple[Check, ...] = ()
    window: WindowStatus | None = None

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return self.health == "ok"


class Gone(Strict):
    """What was shipped from here and is not on the device any more.

    Attributes:
        task: Its name.
        version: As it was called there.
        shipped: When, ISO 8601.
    """

    task: str
    version: str
    shipped: str


class Lag(Strict):
    """What a group is to have, and a device of it has not in use.

    Attributes:
        group: Its name.
        task: The task's name.
        digest: SHA-256 of the manifest that it is to have.
        since: When it was shipped to the group, ISO 8601.
        why: That the device has gone back from it, or what it has instead, in words.
    """

    group: str
    task: str
    digest: str
    since: str
    why: str


class DeviceStatus(Strict):
    """What is on a device.

    Attributes:
        device: Its name.
        folder: Where edgespa keeps things there.
        free_bytes: Of its disk.
        free_files: So many files can still be made there; None where its disk does not count them.
        cached_bytes: Files by their digest; those in use are links to them, and take no space of their own.
        tasks: By name.
        unfinished: Tasks of which there is only what a first shipment that failed has left.
        odd: What is there and was not expected, in phrases.
        in_memory: Why what is written there is gone after a reboot; None where it stays.
        gone: What was shipped from here and is not there.
        older: What was shipped from here and is not there, while older versions of the task are: a card put back, say.
        lags: What its groups are to have, and it has not in use: `edgespa ship --catch-up`.
        pull: What came of its last pull; None where it does not pull.
    """

    device: str
    folder: str
    free_bytes: int
    free_files: int | None
    cached_bytes: int
    tasks: tuple[TaskStatus, ...]
    unfinished: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    in_memory: str | None = None
    gone: tuple[Gone, ...] = ()
    older: tuple[Gone, ...] = ()
    lags: tuple[Lag, ...] = ()
    pull: PullReport | None = None

    @property
    def full(self) -> bool:
        """Whether nothing more can be shipped to it."""
        return self.free_bytes < FULL_BYTES or self.free_files == 0

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong with what should be there."""
        pulled = self.pull is None or self.pull.ok
        return all(task.healthy for task in self.tasks) and not self.odd and not self.gone and pulled
