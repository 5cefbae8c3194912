"""From a device's profile to a connection."""

from __future__ import annotations

from edgespa.device.board import Device
from edgespa.device.link.ssh import SshConnection
from edgespa.device.link.transport import Connection, LocalConnection


def connect(device: Device) -> Connection:
    """A connection to a device, to be used in a ``with``; nothing is connected before the first call.

    Args:
        device: Its profile.
    """
    return LocalConnection(device) if device.is_local else SshConnection(device)
