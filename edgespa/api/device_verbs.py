"""The public calls on what devices have: ship, roll back, remove, look; see `edgespa.api.verbs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgespa.api.arguments import (
    base_of,
    devices_of,
    errors_of,
    file_of,
    path_of,
    several,
    text_of,
    told,
)
from edgespa.api.device_results import Removal, Rollback, Shipping, Status
from edgespa.api.early import require_signers
from edgespa.api.results import Bundle
from edgespa.api.rollout_verbs import roll_out_of, shipping_of
from edgespa.api.shell import checked
from edgespa.api.task_results import TaskFile
from edgespa.errors import ConfigError

if TYPE_CHECKING:
    from edgespa.api.arguments import Model, Tell
    from edgespa.device.fleet import Outcome

T = TypeVar("T")


def ship(
    source: str | Path | Bundle | TaskFile | Sequence[str | Path | Bundle | TaskFile],
    *,
    device: str | Sequence[str] = (),
    group: str | Sequence[str] = (),
    task: str | None = None,
    keep: int = 3,
    with_base: bool = False,
    base: Model | None = None,
    weights: str | Path | None = None,
    sign_key: str | Path | None = None,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
    trust: bool = False,
    volatile: bool = False,
    threads: int = 1,
    waves: str | None = None,
    abort_above: float | None = None,
    take_back: bool = False,
    watch_s: float | None = None,
    health_command: str | None = None,
    health_every_s: float | None = None,
    health_timeout_s: float = 60.0,
    max_latency_ms: float | None = None,
    wait_for_lock_s: float = 0.0,
    progress: Tell = None,
) -> Shipping:
    """Send a bundle or a task to devices, check it there, and use it from now on.

    Whatever fails before it is in use leaves the old version in use.

    Args:
        source: A bundle, as a folder or packed, or a task file; or what `export`, `adapt` and `prune` gave. Or several.
        device: Where, a name as of ``edgespa devices``, or several.
        group: Where too: the devices whose profiles have that tag; or several. What is shipped to all of a group is
            what it is to have from now on, see `catch_up`.
        task: Its name there; default: the bundle's.
        keep: Versions that stay there.
        with_base: With a task file: send its base too, to devices that lack it.
        base: Of a task file: its base, if it is not where it was.
        weights: Of a task file: the weights of its base.
        sign_key: Sign what is made of a task file with this OpenSSH key.
        signers: Who may have signed it; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        trust: Run code of the maker: what a task file names as its base, a bundle's own run.py for the check there.
        volatile: Also to a device whose writes are gone after a reboot.
        threads: Of the runtime, for the self-check.
        waves: Up to how many devices each wave reaches, ``1,10%,100%``; devices that have it already are left out.
        abort_above: The share of a wave's devices, 0 to 1, that may fail, be unreachable or go back; with ``waves`` 0.
        take_back: When that is exceeded, take back the devices of that wave that are well, too.
        watch_s: Watch each device for so long after the switch. Whatever fails meanwhile has it go back by itself, also
            when this process has ended: its self-check, and what the next ones ask for.
        health_command: That the device's shell runs in each round; it ends with 0 where all is well.
        health_every_s: Between two rounds; None for a quarter of the window, at most 30 s.
        health_timeout_s: That the command may take.
        max_latency_ms: The most that an inference may take there, as a median; None for what the bundle says itself,
            see ``max_latency_ms`` of `edgespa.exporting.config.ExportConfig`.
        wait_for_lock_s: For an application there that holds the update lock of the task.
        progress: See `edgespa.api.verbs`.

    Returns:
        What is in use now. Where devices are given as a list, what failed on some is in ``errors``.

    Raises:
        DeviceError: It failed on the device, which was given by itself.
        BundleError: The bundle is damaged.
        TaskFileError: The task file is damaged.
    """
    require_signers(signers, identity, revoked)
    sources = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    if not sources:
        raise ConfigError("nothing is to be shipped", "name a bundle or a task file")
    if task is not None and len(sources) > 1:
        raise ConfigError("task names one task, and several are shipped", "ship them one by one")
    asked = (watch_s, health_command, health_every_s, health_timeout_s, max_latency_ms, wait_for_lock_s)
    how = roll_out_of(asked, waves, abort_above, take_back, several(group))
    targets = devices_of(device, group)
    paths, key = [path_of(each) for each in sources], file_of(sign_key)
    checked(*paths)
    from edgespa.api.devices import ship_to
    from edgespa.api.shipping import TaskOptions

    own = next((each.given for each in sources if isinstance(each, TaskFile)), None)
    with told("ship", progress) as report:
        delivered = ship_to(
            targets,
            paths,
            task=task,
            signers=file_of(signers),
            identity=identity,
            revoked=file_of(revoked),
            options=TaskOptions(base_of(base, own), text_of(weights), key, trust=trust),
            keep=keep,
            with_base=with_base,
            volatile=volatile,
            threads=threads,
            trust=trust,
            wait_for_lock_s=wait_for_lock_s,
            how=how,
            progress=report,
        )
    errors = errors_of(delivered.outcomes, None if several(group) else device)
    return shipping_of(delivered, targets, errors)


def rollback(
    task: str,
    *,
    device: str | Sequence[str] = (),
    group: str | Sequence[str] = (),
    to: str | None = None,
    threads: int = 1,
    wait_for_lock_s: float = 0.0,
) -> Rollback:
    """Use an earlier version of a task on devices again, after its digests and its self-check.

    Args:
        task: The task's name there.
        device: Where, or several.
        group: Where too: the devices whose profiles have that tag; or several.
        to: A version, or its number; None for the one before that in use.
        threads: Of the runtime, for the self-check.
        wait_for_lock_s: For an application there that holds the update lock of the task.

    Raises:
        DeviceError: It failed on the device, which was given by itself; what is in use stays.
    """
    targets = devices_of(device, group)
    checked()
    from edgespa.api.devices import roll_back_on

    outcomes = roll_back_on(targets, task, to=to, threads=threads, wait_for_lock_s=wait_for_lock_s)
    return Rollback(errors_of(outcomes, None if several(group) else device), _results(outcomes), outcomes=outcomes)


def remove(task: str, *, device: str | Sequence[str] = (), group: str | Sequence[str] = ()) -> Removal:
    """Take a task off devices, with all its versions, the one in use too; nothing is asked.

    Args:
        task: The task's name there.
        device: Where, or several.
        group: Where too: the devices whose profiles have that tag, which are not to have it any more; or several.

    Raises:
        DeviceError: It failed on the device, which was given by itself.
    """
    from edgespa.device.shipment.ship import task_name

    name, targets = task_name(task), devices_of(device, group)
    checked()
    from edgespa.api.devices import remove_from
    from edgespa.device.shipment.wanted import want_no_more

    for each in several(group):
        want_no_more(each, name)
    outcomes = remove_from(targets, name)
    return Removal(errors_of(outcomes, None if several(group) else device), _results(outcomes), outcomes=outcomes)


def _results(outcomes: Sequence[Outcome[T]]) -> tuple[T, ...]:
    return tuple(each.result for each in outcomes if each.result is not None)


def status(
    device: str | Sequence[str] | None = None,
    *,
    group: str | Sequence[str] = (),
    selfcheck: bool = False,
    timeout_s: float = 30,
    progress: Tell = None,
) -> Status:
    """What is on devices, and whether it is as it was shipped.

    Args:
        device: Where, or several; None for your own profiles and this machine, unless a group is given.
        group: Where too: the devices whose profiles have that tag; or several.
        selfcheck: Run the recorded inputs through what is in use, too.
        timeout_s: Give a device up that has not answered for so long.
        progress: See `edgespa.api.verbs`.

    Returns:
        What those that answered have; why others did not is in ``errors``.
    """
    from edgespa.api.devices import Awaited, known_devices, status_of

    every = device is None and not several(group)
    targets = known_devices() if every else devices_of(device or (), group)
    with told("asking", progress) as report:
        awaited = Awaited([each.name for each in targets], report)
        outcomes = status_of(targets, selfcheck=selfcheck, timeout_s=timeout_s, done=awaited)
    return Status(errors_of(outcomes, None), _results(outcomes), outcomes=outcomes)
