"""Groups of devices: those of the user's own profiles that have a tag, ``tags = ["kitchen"]``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgespa.device.board import Device, list_devices, load_device
from edgespa.errors import ConfigError, DeviceError
from edgespa.models.imports import nearest
from edgespa.system.files import plain_text

_MOST_SHOWN = 12


def group_names() -> tuple[str, ...]:
    """All tags of the user's own profiles."""
    own = [each.device for each in list_devices() if each.path is not None and each.device is not None]
    return tuple(sorted({tag for device in own for tag in device.tags}))


def devices_in(group: str) -> list[Device]:
    """The devices of a group, by name.

    Args:
        group: A tag.

    Raises:
        DeviceError: No profile has it; the message has those that there are.
        ConfigError: A profile that may be of the group cannot be read.
    """
    found = []
    for each in list_devices():
        if each.path is None:
            continue
        if each.device is not None and group in each.device.tags:
            found.append(each.device)
        elif each.device is None and _may_be_of(each.path, group):
            raise ConfigError(
                f"{each.problem}; it may be of the group {group}", "correct that profile, or take it away"
            )
    if not found:
        known = group_names()
        near = nearest(group, list(known))
        text = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known[:_MOST_SHOWN]) or 'none'}"
        raise DeviceError(
            f"there is no group '{group}'", f'{text}; a device is in it by tags = ["{group}"] in its own profile'
        )
    return found


def _may_be_of(path: Path, group: str) -> bool:
    try:
        return group in plain_text(path)
    except (OSError, UnicodeDecodeError):
        return True


def chosen(names: Sequence[str], groups: Sequence[str]) -> list[Device]:
    """Devices by name and by group, each once: those that are named first, as they are, then those of the groups.

    Args:
        names: As for `edgespa.device.board.load_device`.
        groups: Tags.

    Raises:
        DeviceError: There is no such device or group.
        ConfigError: A profile cannot be read.
    """
    found = [load_device(name) for name in dict.fromkeys(names)]
    for group in dict.fromkeys(groups):
        there = {each.name for each in found}
        found += [each for each in devices_in(group) if each.name not in there]
    return found
