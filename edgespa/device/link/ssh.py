"""A device behind the system's OpenSSH, which is run as a subprocess.

So whatever works with ``ssh`` on the command line works here: aliases, keys, the agent and jump hosts of the user's own
``~/.ssh/config``. Three things are not left to it: host keys are always checked (an unknown one is refused), nothing is
ever asked, and one connection is kept for all commands (``ControlMaster``).
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgespa.device.board import Device
from edgespa.device.link.transport import Completed, Connection
from edgespa.errors import DeviceError, UnreachableError

FAILED = 255
"""The exit status of ssh itself."""

_ALIVE_S = 5
_MAX_SOCKET = 80  # the system's limit is about 104, and ssh adds something
_LAST_LINES = 4

_AGAIN = "try again: what has been sent stays there"

# What ssh says -> what has happened, and what to do; the first that is found holds. {at} is what ssh is given.
_FAILURES: tuple[tuple[str, str, str], ...] = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key has changed: this may be another device, or somebody in between",
        "if the device was set up anew: ssh-keygen -R {host}, then compare the new key: {ssh}",
    ),
    (
        r"host key is known for|Host key verification failed|key fingerprint",
        "its host key is not known",
        "connect once by hand and compare the key with the device's: {ssh}",
    ),
    (
        r"Permission denied|Too many authentication failures|No more authentication methods",
        "it does not let us in",
        "install your key there: ssh-copy-id {at}; a key with a passphrase must be in the agent: ssh-add",
    ),
    ("Connection refused", "nothing listens there", "start its SSH server, or correct the port: {ssh}"),
    (
        r"timed out|Timeout, server|did not respond",
        "it does not answer",
        "see whether it is on and in this network; then try again",
    ),
    (r"No route to host|Network is unreachable|Host is down", "there is no way to it", "see whether it is on"),
    (
        "Could not resolve hostname",
        "its address is not known",
        'write host = "ADDRESS" below [connection] in the device\'s profile, or Host {host} in ~/.ssh/config',
    ),
    (
        r"Bad configuration option|Can't open user config|Bad owner or permissions|terminating, .* bad configuration",
        "ssh does not take its configuration",
        "correct the file that is named",
    ),
    (
        r"[Cc]onnection (to .* )?(closed|reset)|Broken pipe|read from master failed|master is dead|mux_client|"
        r"kex_exchange_identification|packet_write|lost connection",
        "the connection broke",
        _AGAIN,
    ),
)


class SshConnection(Connection):
    """A device behind ssh; nothing is connected before the first call.

    Args:
        device: Its profile; host, user, port and the rest are in its ``connection``.
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        folder = tempfile.mkdtemp(prefix="edgespa-")  # only we may look into it
        if len(folder) > _MAX_SOCKET:
            shutil.rmtree(folder)
            folder = tempfile.mkdtemp(prefix="edgespa-", dir="/tmp")
        self._folder = Path(folder)

    @property
    def where(self) -> str:
        """Name and address."""
        host = self.device.host
        return self.device.name if host == self.device.name else f"{self.device.name} ({host})"

    @property
    def python(self) -> list[str]:
        """The device's Python; ``-E -s -S`` is understood by Python 2 too, so that it can say what it is."""
        return [self.device.connection.python, "-E", "-s", "-S"]

    def close(self) -> None:
        """End what still runs, and the connection that is kept."""
        super().close()
        self._forget()
        shutil.rmtree(self._folder, ignore_errors=True)

    def options(self) -> list[str]:
        """What ssh is given before the host."""
        reach = self.device.connection
        settings = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ControlMaster": "auto",
            "ControlPersist": "60",
            "ControlPath": str(self._folder / "s"),
            "ConnectTimeout": str(reach.connect_timeout_s),
            "ServerAliveInterval": str(min(_ALIVE_S, reach.silence_timeout_s)),
            "ServerAliveCountMax": str(max(1, reach.silence_timeout_s // _ALIVE_S)),
            "LogLevel": "INFO",
            "RemoteCommand": "none",
            "RequestTTY": "no",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "ClearAllForwardings": "yes",
            "PermitLocalCommand": "no",
        }
        options = ["-F", reach.ssh_config] if reach.ssh_config else []
        for key, value in settings.items():
            options += ["-o", f"{key}={value}"]
        options += ["-l", reach.user] if reach.user else []
        options += ["-p", str(reach.port)] if reach.port else []
        return options

    def _command(self, argv: Sequence[str]) -> tuple[list[str], Mapping[str, str] | None]:
        # ssh hands one string to the login shell there. Its messages are read below, so they must be in English.
        words = [_word(argv[0]), *(shlex.quote(each) for each in argv[1:])]
        return ["ssh", *self.options(), "--", self.device.host, " ".join(words)], {"LC_ALL": "C"}

    def by_hand(self, argv: Sequence[str] = ()) -> str:
        """An ssh line with the few options that matter: the user's own configuration, the port, who, and where."""
        reach = self.device.connection
        ssh = ["ssh", *(["-F", reach.ssh_config] if reach.ssh_config else [])]
        ssh += [*(["-p", str(reach.port)] if reach.port else []), self._at]
        remote = [_word(argv[0]), *(shlex.quote(each) for each in argv[1:])] if argv else []
        return shlex.join([*ssh, *([" ".join(remote)] if remote else [])])

    @property
    def _at(self) -> str:
        user = self.device.connection.user
        return f"{user}@{self.device.host}" if user else self.device.host

    def _check(self, done: Completed) -> None:
        if done.status == FAILED or done.status < 0:
            raise self._failure(done.stderr)

    def _failure(self, said: str) -> UnreachableError:
        words = {"at": self._at, "host": self.device.host, "ssh": self.by_hand()}
        lines = [line.strip() for line in said.splitlines() if line.strip(" @\t\r")]
        for pattern, what, hint in _FAILURES:
            found = [line for line in lines if re.search(pattern, line)]
            if found:
                return UnreachableError(f"{self.where}: {what}: {found[-1]}", hint.format(**words))
        last = "\n".join(lines[-_LAST_LINES:])
        if not last:  # the kept connection's process has gone, and its clients say nothing
            return UnreachableError(f"{self.where}: the connection broke", _AGAIN)
        return UnreachableError(f"{self.where}: ssh failed:\n{last}", f"try it by hand: {words['ssh']}")

    def _forget(self) -> None:
        """End the connection that is kept; the next call makes a new one."""
        if not (self._folder / "s").exists():
            return
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                ["ssh", *self.options(), "-O", "exit", "--", self.device.host],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=5,
                check=False,
            )
        (self._folder / "s").unlink(missing_ok=True)

    def _cannot_start(self, program: str, error: OSError) -> DeviceError:
        return DeviceError(f"{self.where}: cannot run ssh: {error.strerror}", "install OpenSSH's client")


def _word(program: str) -> str:
    """A program's path for the shell there; ``~/`` at its beginning is the home folder there."""
    return "~/" + shlex.quote(program[2:]) if program.startswith("~/") else shlex.quote(program)
