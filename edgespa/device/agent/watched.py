"""A process that is watched: it ends with the connection, after its time, or when it does nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.processes import LAST_BYTES, scratch
from edgespa.device.agent.protocol import AgentError
from edgespa.device.agent.sensors import read_conditions
from edgespa.device.agent.share import ClockWatch, busy_seconds, few_processes, session_seconds, usable_cores
from edgespa.device.agent.system import System

_POLL_S = 0.05  # where the system cannot tell of a process's end (Python 3.8, Linux before 5.3)
_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "XDG_RUNTIME_DIR")
_KEPT_FAMILIES = ("LC_", "CUDA_", "NVIDIA_", "QEMU_")  # the last: which processor an emulated device has


def small_environment() -> dict[str, str]:
    """Of this process's variables those that any service has too.

    What a login adds for Python, pip or a library (PYTHONPATH and PYTHONHOME of ROS, PIP_TARGET, LD_PRELOAD) would let
    other packages be installed or measured than those that are meant.
    """
    kept = {key: value for key, value in os.environ.items() if key in _KEPT or key.startswith(_KEPT_FAMILIES)}
    return {**kept, "PYTHONNOUSERSITE": "1", "PIP_CONFIG_FILE": os.devnull}


def execute(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Run a process; its state of the machine before, after, and every ``sample_s`` seconds in between.

    The request has ``argv``, and may have ``cwd`` and ``environment`` (added to the agent's own, or with ``small`` to
    `small_environment`), ``timeout_s``, ``stall_s`` (it is ended when it has computed nothing for so long), and
    ``sample_s``. The host must keep the stream open: once it ends, the process is killed, so that nothing is left
    running behind a connection that was cut.

    No threads: where few processes may be started, they are for the one that is watched.
    """
    base = small_environment() if request.get("small") else dict(os.environ)
    system = System()
    watch = _Watch(request, system)
    before = read_conditions(system)
    with scratch() as out, scratch() as err:
        used, busy, started = _own_seconds(), busy_seconds(system), time.monotonic()
        child = _start(request, {**base, **request.get("environment", {})}, out, err)
        try:
            killed = watch.until_end(child, stream, started)
        finally:
            kill_group(child.pid)  # and what it may have left behind
            status = child.wait()
        usage = _usage(system, used, busy, time.monotonic() - started)
        texts = [_last(each) for each in (out, err)]
    answer = {"status": status, "stdout": texts[0], "stderr": texts[1], "seconds": usage["seconds"], "killed": killed}
    return {
        **answer,
        "before": before,
        "after": read_conditions(system),
        "samples": watch.samples,
        "usage": usage,
        "clock": watch.clock.found(),
    }


def _start(request: dict[str, Any], environment: dict[str, str], out: Any, err: Any) -> Any:
    argv = request["argv"]
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=request.get("cwd"),
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise AgentError("processes", f"{argv[0]}: {error.strerror}") from error
        if error.errno == errno.ENOMEM:
            raise AgentError("memory", f"{argv[0]}: {error.strerror}") from error
        raise AgentError("no-program", f"{argv[0]}: {error.strerror}") from error


class _Watch:
    """Waits for a process, and looks at it and at the machine meanwhile."""

    def __init__(self, request: dict[str, Any], system: System) -> None:
        self.system, self.clock = system, ClockWatch(system)
        self.samples = []  # type: list[dict[str, Any]]
        self._most_s = float(request.get("timeout_s") or 0) or None
        self._stall_s = float(request.get("stall_s") or 0) or None
        self._looked_s = self._moved_s = self._computed_s = 0.0
        self._sample_s = float(request.get("sample_s") or 0) or None

    def until_end(self, child: Any, stream: BinaryIO, started: float) -> str | None:
        """Why it was ended; None where it has ended by itself."""
        poller, end = select.poll(), _end_of(child)
        poller.register(stream.fileno(), select.POLLIN)
        if end is not None:
            poller.register(end, select.POLLIN)
        next_sample = self._sample_s
        try:
            while child.poll() is None:
                at_s = time.monotonic() - started
                waits = [self.clock.look(child.pid, at_s)]
                if self._sample_s and next_sample is not None:
                    if at_s >= next_sample:
                        self.samples.append({"at_s": at_s, **read_conditions(self.system)})
                        next_sample = at_s + self._sample_s
                    waits.append(next_sample - at_s)
                if self._most_s is not None:
                    if at_s >= self._most_s:
                        return "it took too long"
                    waits.append(self._most_s - at_s)
                if self._stall_s is not None:
                    left_s = self._until_stalled(child.pid, at_s)
                    if left_s is None:
                        return self._stalled()
                    waits.append(left_s)
                wait_s = max(0.001, min(waits))
                events = poller.poll(1000 * (wait_s if end is not None else min(wait_s, _POLL_S)))
                if any(fd == stream.fileno() for fd, _ in events) and not os.read(stream.fileno(), 4096):
                    return "the connection ended"
        finally:
            if end is not None:
                os.close(end)
        return None

    def _until_stalled(self, pid: int, at_s: float) -> float | None:
        """The seconds until the next look at what it has computed; None where that is nothing, for too long."""
        assert self._stall_s is not None
        step_s = self._stall_s / 6
        if at_s >= self._looked_s + step_s:
            now = session_seconds(self.system, pid)
            if now > self._computed_s + 0.02:
                self._computed_s, self._moved_s = now, at_s
            self._looked_s = at_s
            if at_s - self._moved_s >= self._stall_s:
                return None
        return self._looked_s + step_s - at_s

    def _stalled(self) -> str:
        """What is said of a process that hangs; runtimes do where they are not given all the threads that they want."""
        few = few_processes(self.system)
        more = f"; its user may have {few} processes and threads only" if few is not None else ""
        return f"it has done nothing for {self._stall_s:.0f} s{more}"


def _end_of(child: Any) -> int | None:
    """A descriptor that can be read when a process has ended; None where there are none."""
    with contextlib.suppress(AttributeError, OSError):
        return int(os.pidfd_open(child.pid))  # novm
    return None


def _own_seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in both)


def _usage(system: System, used: float, busy: tuple[float, float] | None, seconds: float) -> dict[str, Any]:
    own, now, cores = _own_seconds() - used, busy_seconds(system), usable_cores()
    known = busy is not None and now is not None
    return {
        "seconds": seconds,
        "own_s": own,
        "others_s": max(0.0, now[0] - busy[0] - own) if known and now and busy else None,
        "stolen_s": now[1] - busy[1] if known and now and busy else None,
        "cores": None if cores is None else len(cores),
    }


def kill_group(leader: int) -> None:
    """End a process and its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _last(file: Any) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LAST_BYTES))
    return str(file.read().decode("utf-8", "replace"))
