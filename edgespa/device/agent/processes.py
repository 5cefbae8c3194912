"""Locks that end with the connection."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.protocol import AgentError, say, within


def wait_for_end(stream: BinaryIO) -> None:
    """Return when the host closes its end, or the connection is cut."""
    while os.read(stream.fileno(), 4096):
        pass


def hold(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Take a lock and keep it until the stream ends; the first answer says that it is held."""
    path = within(root / "locks", request["name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise AgentError("busy", file.read().strip() or "unknown") from error
        file.truncate(0)
        file.write(str(request.get("who", "")))
        file.flush()
        say({"ok": {"held": True}})
        wait_for_end(stream)
        file.truncate(0)
    return {"held": False}
