"""Devices: what they are, how they are reached, and what bundles cost there; no torch in here."""

from edgespa.device.assemble import agent_source, runner_source
from edgespa.device.board import Device, list_devices, load_device
from edgespa.device.link.reach import connect

__all__ = ["Device", "agent_source", "connect", "list_devices", "load_device", "runner_source"]
