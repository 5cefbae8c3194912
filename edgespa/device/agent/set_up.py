"""Letting a device pull: the agent's file, whence it pulls, whose word it takes, and units of systemd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.cache import cache_path
from edgespa.device.agent.copies import is_like
from edgespa.device.agent.disk import make_folder, sync_path
from edgespa.device.agent.fetching import Patience, Source
from edgespa.device.agent.index import unable_to_verify
from edgespa.device.agent.protocol import AgentError
from edgespa.device.agent.remembered import PullConfig, parse_config, write_config
from edgespa.device.agent.units import own_python, unit_folder, unit_texts, units_to_enable, write_units

AGENT_FILE = "bin/edgespa-agent"


def pull_setup(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Let a device pull: put the agent's file and its configuration there, and write units where they are asked for.

    The request has ``config``, ``agent`` (SHA-256 and size of a cached file), ``every`` or null, and ``unsigned``.
    """
    config = parse_config(request["config"], "the configuration")
    entry = request["agent"]
    source = cache_path(root, entry["sha256"])
    if not is_like(source, entry):
        raise AgentError("missing", f"{source} is not there")
    return set_up_here(root, config, source, request["every"], bool(request["unsigned"]))


def set_up_here(root: Path, config: PullConfig, agent: Path, every: str | None, unsigned: bool) -> dict[str, Any]:
    """The same, from a file that lies here.

    Args:
        root: Where edgespa keeps things.
        config: Whence it pulls, and whose word it takes.
        agent: The file that pulls.
        every: How often, for units; None for no units.
        unsigned: Nothing has to be signed: it is to be said, where there are no signers.

    Returns:
        The paths of what was written, and what is typed to ``enable`` the timer.

    Raises:
        AgentError: What is said does not fit together, or signatures cannot be checked here.
    """
    source = Source(config.url, Patience())  # whether it is a URL
    if (config.signers is None) != unsigned:
        raise AgentError("usage", "say who may sign, or that nothing has to be signed: one of the two")
    problem = unable_to_verify()
    if problem is not None and not unsigned:
        raise AgentError("unable", f"signatures cannot be checked here: {problem}")
    target = (root / AGENT_FILE).absolute()
    make_folder(target.parent)
    new = target.with_name(f".{target.name}.tmp")
    body = agent.read_bytes().partition(b"\n")[2]
    new.write_bytes(b"#!%s -E\n%s" % (os.fsencode(own_python()), body))  # of this Python, wherever it is typed
    os.chmod(str(new), 0o755)
    sync_path(new)
    os.replace(str(new), str(target))
    written = write_config(root, config)
    units = []  # type: list[str]
    if every is not None:
        units = write_units(unit_folder(), unit_texts(own_python(), target, root.absolute(), every))
    return {
        "agent": str(target),
        "config": str(written),
        "url": source.url,
        "folder": str(root.absolute()),
        "python": own_python(),
        "units": units,
        "enable": units_to_enable() if units else None,
    }
