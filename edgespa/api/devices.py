"""``edgespa ship``, ``rollback``, ``remove`` and ``status`` as one call each, on several devices at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.rolling_out import Delivered, RollOut, deliver
from edgespa.api.shipping import TaskOptions, needed_bases, prepared
from edgespa.device.board import LOCAL, Device, list_devices, load_device
from edgespa.device.fleet import Outcome, on_each
from edgespa.device.inventory import read_facts, runtime_python
from edgespa.device.link.transport import Connection
from edgespa.device.shipment.back import remove, roll_back
from edgespa.device.shipment.ready import require_base, require_ready
from edgespa.device.shipment.results import DeviceStatus, Removed, Switched
from edgespa.device.shipment.status import device_status
from edgespa.errors import ConfigError

if TYPE_CHECKING:
    from edgespa.api.options import Progress


def ship_to(
    devices: Sequence[Device],
    sources: Sequence[Path],
    *,
    task: str | None = None,
    signers: Path | None = None,
    identity: str | None = None,
    revoked: Path | None = None,
    options: TaskOptions | None = None,
    keep: int = 3,
    with_base: bool = False,
    volatile: bool = False,
    threads: int = 1,
    trust: bool = False,
    wait_for_lock_s: float = 0,
    how: RollOut | None = None,
    progress: Progress,
) -> Delivered:
    """Send bundles or tasks to devices, check them there, and use them from now on.

    Args:
        devices: Their profiles.
        sources: Bundles, as folders or packed, and task files.
        task: The task's name there, of a single source.
        signers: Who may have signed what is shipped; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        options: How bundles of task files are made.
        keep: Versions that stay there.
        with_base: Send the base of a task file too, to devices that lack it.
        volatile: Also to a device whose writes are gone after a reboot.
        threads: Of the runtime, for the self-check.
        trust: Let a bundle's own run.py do that, whoever wrote it.
        wait_for_lock_s: For an application there that holds the update lock of a task.
        how: In what waves, and watched by what; None for all at once, and not watched.
        progress: Told ``(done, total, text)``.

    Raises:
        ConfigError: Two of the sources are the same task.
        BundleError: A bundle is damaged, or there is none.
        TaskFileError: A task file is damaged, or was made on another base.
    """
    how = how or RollOut()
    with contextlib.ExitStack() as stack:
        refused: dict[str, Outcome[Any]] = {}
        if needed := needed_bases(sources):  # to make them ready takes a while: what devices lack is asked before
            progress(0, None, "ask the devices")
            refused = _ahead(devices, {} if with_base else needed, volatile)
        ready = []
        for source in sources if len(refused) < len(devices) else ():
            progress(0, None, f"make {source.name} ready")
            one = prepared(source, task=task, signers=signers, identity=identity, revoked=revoked, options=options)
            ready.append(stack.enter_context(one))
        refuse_twice([each.task for each in ready])
        options_of_each = {
            **{"keep": keep, "send_base": with_base, "volatile": volatile, "threads": threads, "trust": trust},
            **{"wait_for_lock_s": wait_for_lock_s, "watch": how.watch},
        }
        return deliver(devices, ready, options_of_each, how, progress, refused)


def _ahead(devices: Sequence[Device], needed: Mapping[str, str], volatile: bool) -> dict[str, Outcome[None]]:
    """The devices that tasks cannot be shipped to, by name, with the reason."""

    def look(connection: Connection) -> None:
        python = runtime_python(connection, read_facts(connection))
        ready = require_ready(connection, python, ("onnx",), volatile=volatile)
        for task, digest in needed.items():
            require_base(connection, ready, task, digest)

    return {each.device.name: each for each in on_each(devices, look) if each.error is not None}


def refuse_twice(names: Sequence[str]) -> None:
    """Refuse two sources that are the same task.

    Args:
        names: Of the tasks.
    """
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two of them are the task '{twice}'", "ship them one by one, with --task")


def roll_back_on(
    devices: Sequence[Device], task: str, *, to: str | None = None, threads: int = 1, wait_for_lock_s: float = 0
) -> tuple[Outcome[Switched], ...]:
    """Use an earlier version of a task again.

    Args:
        devices: Their profiles.
        task: The task's name there.
        to: A version; None for the one before that in use.
        threads: Of the runtime, for the self-check.
        wait_for_lock_s: For an application there that holds the update lock of the task.
    """

    def work(connection: Connection) -> Switched:
        python = runtime_python(connection, read_facts(connection))
        return roll_back(connection, task, lambda _: python, to=to, threads=threads, wait_for_lock_s=wait_for_lock_s)

    return on_each(devices, work)


def remove_from(devices: Sequence[Device], task: str) -> tuple[Outcome[Removed], ...]:
    """Take a task off devices, with all its versions.

    Args:
        devices: Their profiles.
        task: The task's name there.
    """
    return on_each(devices, lambda connection: remove(connection, task))


class Awaited:
    """Says, while several devices are asked, how many have answered and which have not.

    Args:
        names: Of the devices.
        report: Told ``(done, total, text)``.
    """

    def __init__(self, names: Sequence[str], report: Progress) -> None:
        self._left, self._total, self._report = list(names), len(names), report
        self._say()

    def __call__(self, outcome: Outcome[Any]) -> None:
        """One has answered."""
        self._left.remove(outcome.device.name)
        self._say()

    def _say(self) -> None:
        left = list(self._left)
        names = ", ".join(left[:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "")
        self._report(self._total - len(left), self._total, f"waiting for {names}" if left else "")


def status_of(
    devices: Sequence[Device],
    *,
    selfcheck: bool = False,
    timeout_s: float = 30,
    done: Callable[[Outcome[DeviceStatus]], None] | None = None,
) -> tuple[Outcome[DeviceStatus], ...]:
    """What is on devices.

    Args:
        devices: Their profiles.
        selfcheck: Run the recorded inputs through what is in use, too.
        timeout_s: Give a device up that has not answered for so long.
        done: Told of each outcome as it comes.
    """

    def work(connection: Connection) -> DeviceStatus:
        if not selfcheck:
            return device_status(connection, timeout_s=timeout_s)
        python = runtime_python(connection, read_facts(connection))
        return device_status(connection, lambda _: python, timeout_s=timeout_s)

    return on_each(devices, work, done)


def known_devices() -> list[Device]:
    """The user's own devices, and this machine."""
    own = [each.device for each in list_devices() if each.path is not None and each.device is not None]
    return [*own, *([] if any(each.is_local for each in own) else [load_device(LOCAL)])]
