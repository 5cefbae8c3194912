"""What each group is to have, remembered here: so that a device that was away gets it when it is back.

One file per group, ``edgespa/groups/NAME.json`` below ``XDG_STATE_HOME`` or ``~/.local/state``, and beside them a copy
of each bundle, for what the user named may be gone or changed by then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from edgespa.bundle import open_bundle
from edgespa.config import Strict
from edgespa.device.board import Device
from edgespa.device.shipment.memory import state_folder
from edgespa.device.shipment.results import Lag, TaskStatus
from edgespa.device.shipment.ship import Shipment
from edgespa.device.shipment.windows import Watch
from edgespa.errors import BundleError, ConfigError
from edgespa.system.files import write_whole

_DIGEST = r"^[0-9a-f]{64}$"


class Wanted(Strict):
    """A task that a group is to have.

    Attributes:
        task: Its name on devices.
        digest: SHA-256 of the manifest.
        since: When it was shipped to the group, ISO 8601.
        keep: Versions that stay there.
        watch: The health window that it had, as `edgespa.device.shipment.windows.Watch` has it; None for none.
    """

    task: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    digest: str = Field(pattern=_DIGEST)
    since: str
    keep: int = Field(default=3, ge=1)
    watch: dict[str, float | str | None] | None = None

    @property
    def window(self) -> Watch | None:
        """The same as a window."""
        return None if self.watch is None else Watch(**self.watch)  # type: ignore[arg-type]


class _Group(Strict):
    schema_version: Literal[1] = 1
    tasks: tuple[Wanted, ...] = ()


def groups_folder() -> Path:
    """Where it is written."""
    return state_folder().parent / "groups"


def wanted_of(group: str) -> tuple[Wanted, ...]:
    """What a group is to have; nothing where nothing was shipped to it from here.

    Args:
        group: Its name.

    Raises:
        ConfigError: What is written of it is odd.
    """
    path = groups_folder() / f"{group}.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", "remove it, and ship to the group again") from error
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("it is no table")
        return _Group.parse(found, str(path)).tasks
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: it is damaged: {error}", "remove it, and ship to the group again") from error


def known_groups() -> tuple[str, ...]:
    """The groups that something was shipped to from here."""
    return tuple(sorted(path.stem for path in groups_folder().glob("[A-Za-z0-9]*.json")))


def want(group: str, shipment: Shipment, since: str, keep: int, watch: Watch | None) -> None:
    """Write down that a group is to have what was shipped to it, and keep a copy of that.

    Args:
        group: Its name.
        shipment: What was shipped; its files are there still.
        since: When.
        keep: Versions that stay there.
        watch: The health window that it had.

    Raises:
        OSError: It cannot be written.
    """
    _keep_copy(shipment)
    plain = None if watch is None else dataclasses.asdict(watch)
    row = Wanted(task=shipment.task, digest=shipment.digest, since=since, keep=keep, watch=plain)
    others = [each for each in wanted_of(group) if each.task != shipment.task]
    _write(group, [*others, row])


def want_no_more(group: str, task: str) -> None:
    """Write down that a group is not to have a task any more.

    Args:
        group: Its name.
        task: The task's.
    """
    there = wanted_of(group)
    if any(each.task == task for each in there):
        _write(group, [each for each in there if each.task != task])


def _write(group: str, rows: Sequence[Wanted]) -> None:
    path = groups_folder() / f"{group}.json"
    content = _Group(tasks=tuple(sorted(rows, key=lambda each: each.task))).model_dump(mode="json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
    used = set()
    for name in known_groups():
        with contextlib.suppress(ConfigError):
            used |= {each.digest for each in wanted_of(name)}
    for left in (groups_folder() / "bundles").glob("*"):
        if re.fullmatch(_DIGEST, left.name) and left.name not in used:
            shutil.rmtree(left, ignore_errors=True)


def copy_of(digest: str) -> Path:
    """Where the copy of a bundle lies.

    Args:
        digest: SHA-256 of its manifest.
    """
    return groups_folder() / "bundles" / digest


def _keep_copy(shipment: Shipment) -> None:
    target = copy_of(shipment.digest)
    if target.is_dir():
        return
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    for name, payload in shipment.files.items():
        path = new / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(payload.path, path)
    new.rename(target)


@contextlib.contextmanager
def opened(row: Wanted, **signed: Any) -> Iterator[Shipment]:
    """What a group is to have, ready to be shipped, as long as the block runs.

    Args:
        row: Which of it.
        **signed: ``signers``, ``identity`` and ``revoked``, as for `edgespa.bundle.open_bundle`.

    Raises:
        BundleError: The copy of it is damaged, or gone.
        SignatureError: It is not signed by one of the signers.
    """
    hint = "ship it to the group again, from its bundle or task file"
    if not copy_of(row.digest).is_dir():
        raise BundleError(f"the copy of {row.task} that the group is to have is gone: {copy_of(row.digest)}", hint)
    with open_bundle(copy_of(row.digest), **signed) as bundle:
        shipment = Shipment.of(bundle, task=row.task, signers=signed.get("signers"))
        if shipment.digest != row.digest:
            raise BundleError(f"the copy of {row.task} has changed: {copy_of(row.digest)}", hint)
        yield shipment


def wanted_on(device: Device, groups: Sequence[str] | None = None) -> tuple[tuple[str, Wanted], ...]:
    """What a device is to have because of its groups: of one task the newest, with the group.

    Args:
        device: Its profile.
        groups: Only because of these; None for all that it is in.

    Raises:
        ConfigError: What is written of a group is odd.
    """
    newest: dict[str, tuple[str, Wanted]] = {}
    for group in device.tags:
        for row in wanted_of(group) if groups is None or group in groups else ():
            if row.task not in newest or row.since > newest[row.task][1].since:
                newest[row.task] = (group, row)
    return tuple(found for _, found in sorted(newest.items()))


def lag_of(group: str, row: Wanted, task: TaskStatus | None) -> Lag | None:
    """What a device lacks of what it is to have; None where it has it.

    Args:
        group: Because of which it is to have it.
        row: What.
        task: What it has of the task.
    """
    used = next((each for each in task.versions if each.version == task.current), None) if task is not None else None
    if used is not None and used.digest == row.digest:
        return None
    window = task.window if task is not None else None
    if window is not None and window.state == "rolled back" and window.version.endswith(f"-{row.digest[:8]}"):
        why = f"it went back from it by itself: {window.reason}"
    else:
        why = f"it has {used.version} in use" if used is not None else "it has none in use"
    return Lag(group=group, task=row.task, digest=row.digest, since=row.since, why=why)


def went_back_from(row: Wanted, task: TaskStatus | None) -> bool:
    """Whether a device has gone back, by itself, from what it is to have.

    Args:
        row: What.
        task: What it has of the task.
    """
    window = task.window if task is not None else None
    return window is not None and window.state == "rolled back" and window.version.endswith(f"-{row.digest[:8]}")
