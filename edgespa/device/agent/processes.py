"""Locks that end with the connection, and files for what processes say."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.protocol import AgentError, say, within

LAST_BYTES = 64 << 10  # of what a process says


def wait_for_end(stream: BinaryIO) -> None:
    """Return when the host closes its end, or the connection is cut."""
    while os.read(stream.fileno(), 4096):
        pass


def hold(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Take a lock and keep it until the stream ends; the first answer says that it is held.

    It needs no space: one that would have to be made on a full disk is taken on the folder itself.
    """
    descriptor = lock_descriptor(root, within(root / "locks", request["name"]))
    try:
        named = stat.S_ISREG(os.fstat(descriptor).st_mode)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 1000, 0).decode("utf-8", "replace").strip() if named else ""
            raise AgentError("busy", holder or "unknown") from error
        if named:
            os.truncate(descriptor, 0)
            with contextlib.suppress(OSError):  # for whoever finds it taken; a full disk has no place for it
                os.write(descriptor, str(request.get("who", "")).encode("utf-8", "replace"))
        say({"ok": {"held": True}})
        wait_for_end(stream)
        if named:
            os.truncate(descriptor, 0)
    finally:
        os.close(descriptor)
    return {"held": False}


def lock_descriptor(root: Path, path: Path) -> int:
    """The file of a lock, opened; on a full disk the folder itself takes its place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(str(path), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not root.is_dir():
            raise
        return os.open(str(root), os.O_RDONLY)


def scratch() -> BinaryIO:
    """A file without a name for what a process says; in memory where no disk has space for it."""
    in_memory = getattr(os, "memfd_create", None)
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
        if in_memory is None or shutil.disk_usage(tempfile.gettempdir()).free >= LAST_BYTES:
            return file
        file.close()
    except OSError:
        if in_memory is None:
            raise
    return os.fdopen(in_memory("edgespa"), "w+b")
