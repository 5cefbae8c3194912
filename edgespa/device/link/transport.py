"""Running things on a device, wherever it is: processes, the agent's commands, files by their digest, locks.

`edgespa.device.connect` gives a `Connection`: `edgespa.device.link.here` has this machine, `edgespa.device.link.ssh`
one behind the system's OpenSSH. What both share is here; they differ in how a process is started and its failure read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

from edgespa.device.assemble import agent_source
from edgespa.device.board import Device
from edgespa.device.endings import ending_of
from edgespa.device.link.boot import BOOT, answer_in
from edgespa.device.link.call import Call
from edgespa.device.link.payload import Payload, Pieces, Sending, Sent
from edgespa.device.link.refusals import refusal
from edgespa.errors import DeviceError, RefusedError, UnreachableError

TIMEOUT_S = 60.0
"""Of what needs no time to speak of on the slowest board."""

_LAST_LINES = 8


@dataclass(frozen=True)
class Completed:
    """What a process on a device gave.

    Attributes:
        status: Its exit status; negative for a signal.
        stdout: All of it.
        stderr: All of it, as text; bytes that are not UTF-8 are replaced.
    """

    status: int
    stdout: bytes
    stderr: str


class Connection(ABC):
    """A device that things are run on; a context manager, which ends whatever it began.

    Methods may be called from several threads.

    Args:
        device: Its profile.

    Attributes:
        device: Its profile.
        bytes_sent: Content of files that went over it so far.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.bytes_sent = 0
        self._calls: set[Call] = set()
        self._locks: list[Call] = []
        self._closed = False
        self._carried = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def where(self) -> str:
        """The device as messages name it."""
        return self.device.name

    @property
    def closed(self) -> bool:
        """Whether it was closed on purpose."""
        return self._closed

    @property
    @abstractmethod
    def python(self) -> list[str]:
        """The device's Python as the beginning of an argument list, without the user's own packages and variables."""

    @property
    def folder(self) -> str:
        """Where edgespa keeps things on the device; may begin with ``~``."""
        return self.device.connection.folder

    @abstractmethod
    def _command(self, argv: Sequence[str]) -> tuple[list[str], Mapping[str, str] | None]:
        """The command on this machine that runs one on the device, and what it adds to the environment."""

    def _explain(self, done: Completed) -> DeviceError | None:
        """Why nothing could be run there, if the way to the device says so; else it is the program that failed."""
        return None

    @abstractmethod
    def by_hand(self, argv: Sequence[str] = ()) -> str:
        """What a person types to run a program on the device, or to be there: short, without edgespa's own options."""

    @abstractmethod
    def _check(self, done: Completed) -> None:
        """Raise if it was not the process that failed, but the way to it."""

    def close(self) -> None:
        """End what still runs. It may be called from another thread, and more than once."""
        with self._lock:
            self._closed = True
            calls = list(self._calls)
        for call in calls:
            call.end()

    def run(self, argv: Sequence[str], *, input: bytes | None = None, timeout_s: float = TIMEOUT_S) -> Completed:
        """Run a program on the device and wait for it.

        Args:
            argv: The program and its arguments; nothing in them is interpreted by a shell.
            input: Its stdin.
            timeout_s: Longest silence: while input is sent, between two pieces of it; afterwards until the end.

        Returns:
            What it gave, whatever its exit status.

        Raises:
            UnreachableError: The device cannot be reached, does not answer, or the connection broke.
        """
        return self._run(argv, [input] if input else [], timeout_s=timeout_s)

    def ask(
        self,
        command: str,
        request: Mapping[str, Any] | None = None,
        *,
        payload: Collection[bytes] | Pieces = (),
        hold: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> dict[str, Any]:
        """Let the agent on the device do something; it is put there first if need be.

        Args:
            command: One of `edgespa.device.agent.command.COMMANDS`.
            request: What it takes, in JSON's types.
            payload: What follows the request; iterated again should the agent have to be put there first.
            hold: Keep the agent's stdin open until it has answered: it ends what it runs when the connection ends.
            timeout_s: As for `run`.

        Returns:
            Its answer.

        Raises:
            RefusedError: The agent cannot do it; ``kind`` says why.
            UnreachableError: As for `run`.
            DeviceError: There is no Python on the device, or none that is new enough.
        """
        line = json.dumps(dict(request or {}), ensure_ascii=True).encode() + b"\n"
        answer = self._boot(command, chain([line], payload), hold=hold, timeout_s=timeout_s)
        if _is_absent(answer):
            self._install(timeout_s)
            answer = self._boot(command, chain([line], payload), hold=hold, timeout_s=timeout_s)
        return self._unwrap(answer)

    def send(self, files: Sequence[Payload], progress: Sending | None = None) -> Sent:
        """Have files in the device's cache: only what is not there goes over, and a broken transfer is resumed.

        Args:
            files: What is to be there.
            progress: Told what is sent.

        Raises:
            RefusedError: There is no space, or the folder cannot be written.
            UnreachableError: The connection broke; what has come stays there for the next time.
            DeviceError: A file changes while it is sent.
        """
        started = time.monotonic()
        wanted = {each.sha256: each for each in files}
        state = self.ask("have", {"digests": list(wanted)})["files"] if wanted else {}
        there = {
            digest for digest, row in state.items() if row["whole"] and row["size_bytes"] == wanted[digest].size_bytes
        }
        offsets = {
            digest: 0 if state[digest]["whole"] else min(int(state[digest]["size_bytes"]), each.size_bytes)
            for digest, each in wanted.items()
            if digest not in there
        }
        total = sum(wanted[digest].size_bytes - offset for digest, offset in offsets.items())
        sent = 0
        if offsets:
            try:
                sent += self._send(wanted, offsets, total, progress)
            except RefusedError as error:
                if error.kind not in ("damaged", "offset") or not any(offsets.values()):
                    raise
                # What lay there of an earlier transfer was not the beginning of the file.
                sent += total
                sent += self.send(files, progress).bytes_sent
        self.bytes_sent += sent
        return Sent(sent, sum(each.size_bytes for each in wanted.values()) - total, time.monotonic() - started)

    def deliver(self, folder: str, files: Mapping[str, Payload], progress: Sending | None = None) -> tuple[str, Sent]:
        """Have a folder of files on the device, whole or not at all; see `edgespa.device.agent.cache.place`.

        Args:
            folder: Its name below `edgespa.device.board.Reach.folder`.
            files: Path in the folder -> file.
            progress: Told what is sent.

        Returns:
            The folder's path on the device, and what went over.

        Raises:
            DeviceError: As `send`.
        """
        entries = [{"path": name, "sha256": each.sha256, "size_bytes": each.size_bytes} for name, each in files.items()]
        request = {"folder": folder, "files": entries}
        answer = self.ask("place", {**request, "probe": True})
        if answer["whole"]:
            return str(answer["folder"]), Sent(0, sum(each.size_bytes for each in files.values()), 0.0)
        sent = self.send(list(files.values()), progress)
        answer = self.ask("place", request)
        if answer["damaged"]:  # the cache had changed on the disk
            again = self.send([each for each in files.values() if each.sha256 in answer["damaged"]], progress)
            sent = Sent(sent.bytes_sent + again.bytes_sent, sent.bytes_there, sent.seconds + again.seconds)
            answer = self.ask("place", request)
            if answer["damaged"]:
                raise DeviceError(
                    f"{self.where}: files change on its disk after they were written", "check or replace its SD card"
                )
        return str(answer["folder"]), sent

    @contextlib.contextmanager
    def lock(self, name: str, what: str) -> Iterator[None]:
        """Hold a lock on the device while the block runs; it is free at once when the connection ends.

        Args:
            name: Of the lock.
            what: What is being done, for whoever finds it taken.

        Raises:
            RefusedError: Of kind ``busy``: somebody else holds it.
            UnreachableError: As for `run`; and so does every call in the block once the connection broke and the lock
                was lost with it, even if the device can be reached again.
        """
        request = json.dumps({"name": f"{name}.lock", "who": what}).encode() + b"\n"
        with contextlib.ExitStack() as stack:
            answer = stack.enter_context(self._held(request))
            if _is_absent(answer):
                stack.close()
                self._install()
                answer = stack.enter_context(self._held(request))
            self._unwrap(answer)
            yield

    @contextlib.contextmanager
    def _held(self, request: bytes) -> Iterator[dict[str, Any]]:
        """The agent's first answer to ``hold``, which runs as long as the block."""
        call = self._start(self._agent_argv("hold"), TIMEOUT_S, subprocess.PIPE)
        out = call.process.stdout
        assert out is not None
        try:
            call.start_feeding([*self._luggage(), request], hold=True)
            answer = None
            while answer is None and (line := out.readline()):
                answer = answer_in(line)
            call.stop_watching()
            if answer is None:
                done = Completed(call.wait(), b"", call.stderr())
                self._judge(call, done)
                raise self._python_failure(done)
            if "ok" in answer:
                self._locks.append(call)
            yield answer
        finally:
            if call in self._locks:
                self._locks.remove(call)
            call.end()
            call.process.wait()
            out.close()
            self._end(call)

    def _send(
        self, wanted: Mapping[str, Payload], offsets: Mapping[str, int], total: int, progress: Sending | None
    ) -> int:
        rows = [
            {"sha256": digest, "size_bytes": wanted[digest].size_bytes, "offset": offset}
            for digest, offset in offsets.items()
        ]
        parts = [(wanted[digest].path, offset) for digest, offset in offsets.items()]
        try:
            # Longer than usual: the device reads what it has got for its digest.
            self.ask("receive", {"files": rows}, payload=Pieces(parts, total, progress), timeout_s=5 * TIMEOUT_S)
        except RefusedError as error:
            if error.kind == "cut":
                raise DeviceError(f"{self.where}: {error.message}", "a file was cut while it was sent") from error
            raise
        return total

    def _install(self, timeout_s: float = TIMEOUT_S) -> None:
        try:
            pieces = [agent_source()]
            self._unwrap(self._boot("install", pieces, hold=False, timeout_s=min(TIMEOUT_S, timeout_s)))
        except RefusedError as error:
            if error.kind not in ("full", "read-only"):
                raise
            self._carried = True  # looking at such a device, and going back on it, needs no space there

    def _luggage(self) -> list[bytes]:
        """What goes in front of a request: the agent, to a device that has no space for it."""
        return [b"%d\n" % len(agent_source()), agent_source()] if self._carried else []

    def _agent_argv(self, command: str) -> list[str]:
        digest = hashlib.sha256(agent_source()).hexdigest()
        carried = ["carried"] if self._carried and command != "install" else []
        return [*self.python, "-c", BOOT, self.folder, command, digest, *carried]

    def _boot(self, command: str, pieces: Iterable[bytes], *, hold: bool, timeout_s: float) -> dict[str, Any]:
        luggage = self._luggage() if command != "install" else []
        done = self._run(self._agent_argv(command), chain(luggage, pieces), hold=hold, timeout_s=timeout_s)
        for line in reversed(done.stdout.splitlines()):
            answer = answer_in(line)
            if answer is not None:
                return answer
        raise self._python_failure(done)

    def _unwrap(self, answer: dict[str, Any]) -> dict[str, Any]:
        answered, error = answer.get("ok"), answer.get("error")
        if isinstance(answered, dict):
            return answered
        if not isinstance(error, dict):
            raise DeviceError(f"{self.where}: its answer is odd", "is it the device that you think it is?")
        raise refusal(self.device, str(error.get("kind", "internal")), str(error.get("message", "")))

    def _python_failure(self, done: Completed) -> DeviceError:
        """Why the agent has not answered: most likely there is no such Python."""
        explained = self._explain(done)
        if explained is not None:
            return explained
        python = self.device.connection.python
        said = done.stderr.strip() or done.stdout.decode("utf-8", "replace").strip()
        last = "\n".join(said.splitlines()[-_LAST_LINES:])
        if done.status in (126, 127):
            return DeviceError(
                f"{self.where}: there is no Python: {python}: {last.splitlines()[-1] if last else 'not found'}",
                "install Python 3.8 or newer there, or say where it is: python in [connection] of the device's profile",
            )
        ending = ending_of(done.status, done.stderr)
        by_hand = f"look at it by hand: {self.by_hand([python, '--version'])}"
        return DeviceError(
            f"{self.where}: {python} {ending.how}" + (f":\n{last}" if last else ""), ending.hint or by_hand
        )

    def _run(self, argv: Sequence[str], pieces: Iterable[bytes], *, hold: bool = False, timeout_s: float) -> Completed:
        self._require_locks()
        with tempfile.TemporaryFile() as out:
            call = self._start(argv, timeout_s, out)
            try:
                call.start_feeding(pieces, hold=hold)
                status = call.wait()
                stderr = call.stderr()
            finally:
                self._end(call)
            out.seek(0)
            done = Completed(status, out.read(), stderr)
        self._judge(call, done)
        self._require_locks()
        return done

    def _require_locks(self) -> None:
        if any(call.process.poll() is not None for call in list(self._locks)):
            raise UnreachableError(
                f"{self.where}: the connection broke, and others are not kept out any more", "try again"
            )

    def _judge(self, call: Call, done: Completed) -> None:
        """Raise if the way to the device failed, or what was to be sent."""
        if call.problem is not None:
            raise call.problem
        if call.timed_out:
            self._forget()
            raise UnreachableError(
                f"{self.where} has not answered for {call.timeout_s:.0f} s",
                "see whether it is on, and not out of memory; then try again",
            )
        if self._closed:
            raise UnreachableError(f"{self.where}: the connection was closed")
        self._check(done)

    def _start(self, argv: Sequence[str], timeout_s: float, out: Any) -> Call:
        command, environment = self._command(argv)
        with self._lock:
            if self._closed:
                raise UnreachableError(f"{self.where}: the connection was closed")
            try:
                call = Call(command, timeout_s, environment, out)
            except OSError as error:
                raise self._cannot_start(command[0], error) from error
            self._calls.add(call)
        return call

    def _end(self, call: Call) -> None:
        call.close()
        with self._lock:
            self._calls.discard(call)

    def _forget(self) -> None:  # noqa: B027  # only some have anything to forget
        """After a silence: do not use the same way again."""

    def _cannot_start(self, program: str, error: OSError) -> DeviceError:
        return DeviceError(f"{self.where}: cannot run {program}: {error.strerror}", "install it")


def _is_absent(answer: Mapping[str, Any]) -> bool:
    """Whether the agent has to be put there first."""
    error = answer.get("error")
    return isinstance(error, dict) and error.get("kind") == "absent"
