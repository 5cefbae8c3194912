"""Locks that end with the connection, and processes that are watched and end with it too."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
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


def execute(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Run a process; its state of the machine before, after, and every ``sample_s`` seconds in between.

    The request has ``argv``, and may have ``cwd`` and ``environment`` (added to the agent's own), ``timeout_s``, and
    ``sample_s``. The host must keep the stream open: once it ends, the process is killed, so that nothing is left
    running behind a connection that was cut.
    """
    environment = {**os.environ, **request.get("environment", {})}
    samples: list[dict[str, Any]] = []
    before = read_conditions()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
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
