"""The public call that catches up, and what `edgespa.ship` takes of a roll-out; see `edgespa.api.verbs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgespa.api.arguments import file_of, several, told
from edgespa.api.device_results import Shipping
from edgespa.api.early import require_signers
from edgespa.api.shell import checked, current
from edgespa.errors import ConfigError

if TYPE_CHECKING:
    from edgespa.api.arguments import Tell
    from edgespa.api.rolling_out import Delivered, RollOut
    from edgespa.device.board import Device
    from edgespa.device.shipment.windows import Watch
    from edgespa.errors import EdgespaError

Asked = tuple[float | None, str | None, float | None, float, float | None, float]
"""Of `edgespa.ship`: ``watch_s``, ``health_command`` and the other three of it, ``wait_for_lock_s``."""


def watch_of(asked: Asked) -> Watch | None:
    """The health window that is asked for, if one is.

    Raises:
        ConfigError: It cannot be meant, or something is asked for that only a window does.
    """
    from edgespa.device.shipment.windows import Watch

    watch_s, health, every_s, health_s, max_latency_ms, wait_s = asked
    if watch_s is None:
        given = {"health_command": health, "health_every_s": every_s, "max_latency_ms": max_latency_ms}
        for name, value in given.items():
            if value is not None:
                raise ConfigError(f"{name} is of a health window, and none is asked for", "say how long: --watch 10m")
        return None
    found = Watch(watch_s, every_s, health, health_s, max_latency_ms, wait_s)
    found.check()
    return found


def roll_out_of(
    asked: Asked, waves: str | None, abort_above: float | None, take_back: bool, groups: Sequence[str]
) -> RollOut:
    """What is asked for of a roll-out.

    Raises:
        ConfigError: It cannot be meant.
    """
    from edgespa.api.rolling_out import RollOut
    from edgespa.device.shipment.waves import Waves

    if abort_above is not None and not 0 <= abort_above <= 1:
        raise ConfigError(f"abort_above={abort_above:g} is no share", "give it from 0 to 1: 0.05 for 5%")
    parsed = None if waves is None else Waves.parse(waves)
    if take_back and parsed is None and abort_above is None:
        raise ConfigError("take_back is of a roll-out that is stopped", "say what stops it: --wave 1,10%,100%")
    return RollOut(parsed, abort_above, take_back, watch_of(asked), waves is not None, tuple(groups), current().stage)


def shipping_of(delivered: Delivered, targets: Sequence[Device], errors: Mapping[str, EdgespaError]) -> Shipping:
    """The result of what was delivered."""
    shipped = tuple(each for target in targets for each in delivered.shipped.get(target.name, ()))
    return Shipping(
        errors,
        shipped,
        delivered.shipments,
        delivered.places,
        delivered.stopped,
        delivered.notes,
        outcomes=delivered.outcomes,
    )


def catch_up(
    group: str | Sequence[str] = (),
    *,
    device: str | Sequence[str] = (),
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
    volatile: bool = False,
    threads: int = 1,
    watch_s: float | None = None,
    health_command: str | None = None,
    health_every_s: float | None = None,
    health_timeout_s: float = 60.0,
    max_latency_ms: float | None = None,
    wait_for_lock_s: float = 0.0,
    progress: Tell = None,
) -> Shipping:
    """Give devices what their groups are to have: those that were away when it was shipped, or came to a group later.

    What a group is to have is what `ship` with ``group`` has put in use last on all of it, from this machine. A device
    that has it is left as it is; so is one that has gone back from it by itself: that is for `ship`.

    Args:
        group: Which groups; none for all that something was shipped to.
        device: Only these devices; none for all of the groups.
        signers: Who may have signed what is shipped; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        volatile: Also to a device whose writes are gone after a reboot.
        threads: Of the runtime, for the self-check.
        watch_s: As for `ship`; None for the health window that the group had.
        health_command: As for `ship`.
        health_every_s: As for `ship`.
        health_timeout_s: As for `ship`.
        max_latency_ms: As for `ship`.
        wait_for_lock_s: As for `ship`.
        progress: See `edgespa.api.verbs`.

    Returns:
        What is in use now. What failed, and which devices are still away, is in ``errors``.

    Raises:
        ConfigError: Nothing was shipped to these groups from here.
        DeviceError: There is no such device or group.
    """
    require_signers(signers, identity, revoked)
    watch = watch_of((watch_s, health_command, health_every_s, health_timeout_s, max_latency_ms, wait_for_lock_s))
    from edgespa.api.catching_up import lagging

    targets, wanted = lagging(several(group), several(device))
    checked()
    from edgespa.api.catching_up import catch_up_on

    signed = {"signers": file_of(signers), "identity": identity, "revoked": file_of(revoked)}
    options = {"volatile": volatile, "threads": threads, "wait_for_lock_s": wait_for_lock_s}
    with told("asking", progress) as report:
        delivered = catch_up_on(targets, wanted, signed, options, watch, report)
    errors = {each.device.name: each.error for each in delivered.outcomes if each.error is not None}
    return shipping_of(delivered, targets, errors)
