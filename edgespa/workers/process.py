"""One worker process, from the side of whoever started it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from typing import Any

from edgespa.device.endings import ending_of
from edgespa.system.isolated import own_module
from edgespa.workers.calling import THREADS
from edgespa.workers.job import Failure, Job
from edgespa.workers.worker import READY

_LAST_BYTES = 4096
_CLOSE_S = 5.0


class Died(Exception):
    """The process ended without an answer.

    Args:
        failure: Why, in words.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Process:
    """A process that carries out one job after another; everything in it ends with this process.

    It is a program of its own, neither a fork (of torch's threads none outlives one) nor Python's own spawned process,
    which would run the user's script once more.

    Args:
        threads: With how many it computes.
    """

    def __init__(self, threads: int) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `close`
        environment = {**os.environ, **dict.fromkeys(THREADS, str(threads))}
        self._process = subprocess.Popen(
            own_module("edgespa.workers.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,
        )
        self.where = f"process {self._process.pid}"
        self._killed = False

    def do(self, job: Job) -> dict[str, Any]:
        """Carry out a job; waits for its end.

        Args:
            job: It.

        Raises:
            Died: The process ended under it.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # what comes next says how it ended
            self._process.stdin.write(json.dumps({"call": job.call, "arguments": dict(job.arguments)}).encode() + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if line == READY:
            line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise Died(self._death())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _death(self) -> Failure:
        status = self._process.wait()
        if self._killed:
            return Failure("interrupted", stopped=True, lost=True)
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _LAST_BYTES))
        said = self._errors.read().decode("utf-8", "replace")
        ending = ending_of(status, said)
        return Failure(f"its worker process has ended: {ending.how}", ending.hint, traceback=said, lost=True)

    def interrupt(self) -> None:
        """Ask what runs to end, as Ctrl-C does."""
        with contextlib.suppress(OSError):
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it now, with what it has started."""
        self._killed = True
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def close(self) -> None:
        """Let go of one that does nothing, or has ended."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert stream is not None
                stream.close()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._errors.close()
