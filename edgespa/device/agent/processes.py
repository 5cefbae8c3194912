"""Locks that end with the connection, and processes that are watched and end with it too."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.protocol import AgentError, say, within
from edgespa.device.agent.sensors import read_conditions

LAST_BYTES = 64 << 10  # of what a process says


def wait_for_end(stream: BinaryIO) -> None:
    """Return when the host closes its end, or the connection is cut."""
    while os.read(stream.fileno(), 4096):
        pass


def hold(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Take a lock and keep it until the stream ends; the first answer says that it is held.

    It needs no space: one that would have to be made on a full disk is taken on the folder itself.
    """
    descriptor = _lock_descriptor(root, within(root / "locks", request["name"]))
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


def _lock_descriptor(root: Path, path: Path) -> int:
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


def execute(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Run a process; its state of the machine before, after, and every ``sample_s`` seconds in between.

    The request has ``argv``, and may have ``cwd`` and ``environment`` (added to the agent's own), ``timeout_s``, and
    ``sample_s``. The host must keep the stream open: once it ends, the process is killed, so that nothing is left
    running behind a connection that was cut.
    """
    environment = {**os.environ, **request.get("environment", {})}
    samples: list[dict[str, Any]] = []
    before = read_conditions()
    with scratch() as out, scratch() as err:
        started = time.monotonic()
        try:
            child = subprocess.Popen(
                request["argv"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=request.get("cwd"),
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise AgentError("no-program", f"{request['argv'][0]}: {error.strerror}") from error
        ended = threading.Event()
        why: list[str] = []

        def end(reason: str) -> None:
            if not ended.is_set():
                why.append(reason)
                kill_group(child.pid)

        def watch() -> None:
            wait_for_end(stream)
            end("the connection ended")

        def sample() -> None:
            while not ended.wait(float(request["sample_s"])):
                samples.append({"at_s": time.monotonic() - started, **read_conditions()})

        threading.Thread(target=watch, daemon=True).start()
        if request.get("sample_s"):
            threading.Thread(target=sample, daemon=True).start()
        timer = threading.Timer(float(request.get("timeout_s") or threading.TIMEOUT_MAX), end, ["it took too long"])
        timer.daemon = True
        timer.start()
        status = child.wait()
        seconds = time.monotonic() - started
        ended.set()
        timer.cancel()
        kill_group(child.pid)  # what it may have left behind
        texts = [_last(each) for each in (out, err)]
    answer = {"status": status, "stdout": texts[0], "stderr": texts[1], "seconds": seconds}
    return {
        **answer,
        "killed": why[0] if why else None,
        "before": before,
        "after": read_conditions(),
        "samples": samples,
    }


def kill_group(leader: int) -> None:
    """End a process and its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _last(file: Any) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LAST_BYTES))
    return str(file.read().decode("utf-8", "replace"))
