"""One process on this machine that does something on a device, and is watched meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_GRACE_S = 5.0


class Call:
    """One running process, watched: it is killed after a silence, or when the connection is closed.

    Args:
        command: What is run.
        timeout_s: The longest silence.
        environment: Added to this process's own.
        out: Where its stdout goes: a file, or ``subprocess.PIPE``.

    Attributes:
        process: The process.
        timed_out: Whether it was killed because of a silence.
        problem: What could not be read of what it is fed with.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(
        self, command: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None, out: Any
    ) -> None:
        self.timeout_s = timeout_s
        self.timed_out = False
        self.problem: Exception | None = None
        self._held = False
        self._ended = threading.Event()
        # Files, not pipes, for what it says: ssh leaves a process behind that would hold pipes open. A session of its
        # own: Ctrl-C is for edgespa, and there is no terminal that could be asked for a password.
        self._err = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=self._err,
                env=None if environment is None else {**os.environ, **environment},
                start_new_session=True,
            )
        except BaseException:
            self._err.close()
            raise
        self._moved = time.monotonic()

    def start_feeding(self, pieces: Iterable[bytes], *, hold: bool) -> None:
        """Begin to write to its stdin, and to watch; with ``hold`` its stdin stays open."""
        for target, arguments in ((self._feed, (pieces, hold)), (self._watch, ())):
            threading.Thread(target=target, args=arguments, daemon=True).start()

    def stop_watching(self) -> None:
        """From now on it may be silent."""
        self._ended.set()

    def wait(self) -> int:
        """Its exit status; Ctrl-C ends it."""
        try:
            return self.process.wait()
        except BaseException:
            self.end()
            self.process.wait()
            raise

    def end(self) -> None:
        """End it: one whose stdin is held open is told by closing that, and ends what it began; others are killed."""
        if self._held:
            self.close_stdin()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE_S)
        self.kill()

    def kill(self) -> None:
        """End it and its children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def stderr(self) -> str:
        """What it has said so far."""
        self._err.seek(0)
        return self._err.read().decode("utf-8", "replace")

    def close_stdin(self) -> None:
        """Let it know that nothing more comes."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def close(self) -> None:
        """Close its files; it must have ended."""
        self._ended.set()
        self.close_stdin()
        self._err.close()

    def _feed(self, pieces: Iterable[bytes], hold: bool) -> None:
        assert self.process.stdin is not None
        source = iter(pieces)
        try:
            while True:
                try:
                    piece = next(source)
                except StopIteration:
                    break
                except Exception as error:  # a file that is sent cannot be read
                    self.problem = error
                    self.kill()
                    return
                self.process.stdin.write(piece)
                self.process.stdin.flush()
                self._moved = time.monotonic()
            if hold:
                self._held = True
            else:
                self.process.stdin.close()
        except (OSError, ValueError):  # it has ended, and says itself why
            return

    def _watch(self) -> None:
        while True:
            left = self._moved + self.timeout_s - time.monotonic()
            if left <= 0:
                self.timed_out = True
                self.kill()
                return
            if self._ended.wait(left):
                return
