"""Setting a device up to pull: the agent as a program there, whence it pulls, whose word it takes, and a timer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from edgespa.config import Strict
from edgespa.device.link.payload import Payload
from edgespa.device.link.transport import Connection
from edgespa.device.ours import pull_source
from edgespa.device.shipment.pulls import PullReport, read_pull
from edgespa.device.shipment.windows import Watch
from edgespa.errors import DeviceError
from edgespa.system.guarded import private_folder

PULL_S = 3600.0
"""Of the first pull."""


class PullSetUp(Strict):
    """What was done so that a device pulls.

    Attributes:
        device: Its name.
        url: Of the folder that it pulls from, without a password.
        signed: Whether what it takes has to be signed.
        groups: That it is in.
        kinds: That it is of, beside its name and its instruction set.
        agent: The program there.
        config: The file there that says all this.
        units: Of systemd, written there; none where no timer was asked for.
        enable: What is typed there to start the timer; None where there is none.
        watch_s: The health window of each version that it pulls; None where there is none.
        pulled: The first pull; None where that was not asked for.
    """

    device: str
    url: str
    signed: bool
    groups: tuple[str, ...]
    kinds: tuple[str, ...]
    agent: str
    config: str
    units: tuple[str, ...]
    enable: str | None
    watch_s: float | None = None
    pulled: PullReport | None = None


def set_up_pull(
    connection: Connection,
    url: str,
    *,
    signers: str | None,
    groups: Sequence[str] = (),
    kinds: Sequence[str] = (),
    keep: int = 3,
    threads: int = 1,
    every: str | None = None,
    watch: Watch | None = None,
    pull: bool = True,
) -> PullSetUp:
    """Let a device pull from now on.

    Args:
        connection: To the device.
        url: Of the folder that `edgespa ship --to` has written.
        signers: The text of the file of those who may sign its index; None: nothing has to be signed.
        groups: That it is in.
        kinds: That it is of, ``pi-5``, say.
        keep: Versions of a task that stay there.
        threads: Of the runtime, for the self-check.
        every: Write units of systemd for this time, ``1h``; None writes none.
        watch: The health window of each version that is pulled; None for none.
        pull: Pull once, now.

    Raises:
        RefusedError: It is no URL, or the device cannot check signatures.
        DeviceError: It cannot be reached.
    """
    config = {
        "url": url,
        "signers": signers,
        "name": connection.device.name,
        "groups": list(groups),
        "kinds": list(kinds),
        "keep": keep,
        "threads": threads,
        "python": None,
        "watch": None if watch is None else _window(watch),
    }
    with private_folder() as place:
        file = place / "edgespa-agent"
        file.write_bytes(pull_source())
        payload = Payload.of(file)
        connection.send([payload])
    agent = {"sha256": payload.sha256, "size_bytes": payload.size_bytes}
    request = {"config": config, "agent": agent, "every": every, "unsigned": signers is None}
    done = connection.ask("pull-setup", request)
    return PullSetUp(
        device=connection.device.name,
        url=str(done["url"]),
        signed=signers is not None,
        groups=tuple(groups),
        kinds=tuple(kinds),
        agent=str(done["agent"]),
        config=str(done["config"]),
        units=tuple(map(str, done["units"])),
        enable=None if done["enable"] is None else str(done["enable"]),
        watch_s=None if watch is None else watch.watch_s,
        pulled=_first(connection, done) if pull else None,
    )


def _window(watch: Watch) -> dict[str, Any]:
    return {
        "watch_s": watch.watch_s,
        "every_s": watch.round_s,
        "health": watch.health,
        "health_s": watch.health_s,
        "max_latency_ms": watch.max_latency_ms,
    }


def _first(connection: Connection, done: dict[str, Any]) -> PullReport:
    """The first pull, as the timer makes it."""
    argv = [str(done["python"]), "-E", str(done["agent"]), "pull", "--json", "--folder", str(done["folder"])]
    request = {"argv": argv, "timeout_s": PULL_S, "small": True}
    ended = connection.ask("execute", request, hold=True, timeout_s=PULL_S + 60)
    found = None
    with contextlib.suppress(ValueError, LookupError):
        found = read_pull(json.loads(str(ended["stdout"]).strip().splitlines()[-1]))
    if found is None:
        last = " / ".join(str(ended["stderr"]).strip().splitlines()[-3:])
        raise DeviceError(
            f"{connection.where}: it was set up, and its first pull says nothing: {last or ended['killed']}",
            f"look at it by hand: {connection.by_hand([str(done['agent']), 'report'])}",
        )
    return found
