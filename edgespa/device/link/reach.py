"""From a device's profile to a connection."""

from __future__ import annotations

from pathlib import Path

from edgespa.device.board import Device
from edgespa.device.link.config import require_plain
from edgespa.device.link.here import LocalConnection
from edgespa.device.link.ssh import SshConnection
from edgespa.device.link.transport import Connection


def connect(device: Device) -> Connection:
    """A connection to a device, to be used in a ``with``; nothing is connected before the first call.

    Args:
        device: Its profile.

    Raises:
        ConfigError: It is of somebody else, and would have ssh do more than connect, see `require_plain`.
    """
    if device.file is not None and device.connection.ssh_config is not None:
        require_plain(device.file, Path(device.connection.ssh_config))
    return LocalConnection(device) if device.is_local else SshConnection(device)
