"""A device behind the system's OpenSSH, which is run as a subprocess.

So whatever works with ``ssh`` on the command line works here: aliases, keys, the agent and jump hosts of the user's own
``~/.ssh/config``. Three things are not left to it: host keys are always checked (an unknown one is refused), nothing is
ever asked, and one connection is kept for all commands (``ControlMaster``).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgespa.device.board import Device
from edgespa.device.link.complaints import AGAIN, Complaint, Way, explain, explain_closed, explain_jump, lines_of
from edgespa.device.link.transport import Completed, Connection
from edgespa.errors import DeviceError, UnreachableError

FAILED = 255
"""The exit status of ssh itself."""

_ALIVE_S = 5
_MAX_SOCKET = 80  # the system's limit is about 104, and ssh adds something
_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")
_LAST_LINES = 4
_SOCKETS = "edgespa-ssh-"
_OLD_S = 86400.0
_LOG_BYTES = 16 << 10


class SshConnection(Connection):
    """A device behind ssh; nothing is connected before the first call.

    Args:
        device: Its profile; host, user, port and the rest are in its ``connection``.
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._folder = _socket_folder()

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

    def options(self, *, shared: bool = True) -> list[str]:
        """What ssh is given before the host.

        Args:
            shared: By the connection that is kept.
        """
        reach = self.device.connection
        settings = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            **(
                {"ControlMaster": "auto", "ControlPersist": "60", "ControlPath": str(self._folder / "s")}
                if shared
                else {"ControlMaster": "no", "ControlPath": "none"}
            ),
            "VisualHostKey": "no",
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
        # What ssh itself says goes to a file, apart from banners and from what a program there says.
        log = ["-E", str(self._folder / "log")]
        return ["ssh", *log, *self.options(), "--", self.device.host, " ".join(words)], {"LC_ALL": "C"}

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
        log = self._take_log()
        if done.status == FAILED or done.status < 0:
            raise self._failure(log, done.stderr)

    def _take_log(self) -> str:
        """What ssh has written since the last time."""
        path = self._folder / "log"
        try:
            with path.open("rb+") as file:
                file.seek(max(0, path.stat().st_size - _LOG_BYTES))
                text = file.read().decode("utf-8", "replace")
                file.truncate(0)
        except OSError:
            return ""
        return text

    def _failure(self, log: str, said: str) -> DeviceError:
        """Why ssh has failed: by its own words, or else by those of a second try without the kept connection."""
        way = self._way()
        own = lines_of(log)
        found = explain(own, way)
        if (found is None or not found.sure) and way.jump:
            found = self._jump_failure(way, own + lines_of(said)) or found
        if found is not None and found.sure:
            return self._unreachable(found)
        kept = self._is_kept()
        status, more = self._ask_again(self.device.host)
        if status == 0 and kept and not own:
            last = "\n".join(lines_of(said)[-_LAST_LINES:])
            return DeviceError(
                f"{self.where}: what ran there was ended by a signal, most likely for want of memory"
                + (f"; its last words:\n{last}" if last else ""),
                "stop other programs there, or add swap; then try again",
            )
        second = None
        if status != 0:
            second = explain_jump(more, way) if way.jump else explain_closed(more, way)
            second = second or explain(more, way)
        if second is not None and (second.sure or found is None):
            found = second
        if found is not None:
            return self._unreachable(found)
        last = "\n".join((more or own)[-_LAST_LINES:])
        if status == 0 or not last:  # the kept connection's process has gone, and its clients say nothing
            return UnreachableError(f"{self.where}: the connection broke", AGAIN)
        return UnreachableError(f"{self.where}: ssh failed:\n{last}", f"try it by hand: {way.by_hand}")

    def _unreachable(self, found: Complaint) -> UnreachableError:
        return UnreachableError(f"{self.where}: {found.what}: {found.line}", found.hint)

    def _jump_failure(self, way: Way, lines: Sequence[str]) -> Complaint | None:
        """What is the matter with the jump host: it is asked by itself, since a banner of its own may say anything."""
        refused = explain_jump(lines, way)
        if refused is not None or way.jump is None or "," in way.jump or " " in way.jump:
            return refused
        status, more = self._ask_again(f"ssh://{way.jump}")
        found = explain(more, Way(way.jump, way.jump, f"ssh {shlex.quote(way.jump)}")) if status == FAILED else None
        return None if found is None else replace(found, what=f"of its jump host {way.jump}: {found.what}")

    def _explain(self, done: Completed) -> DeviceError | None:
        """A login that was refused by the shell, or by what is asked before it: its words, and no status of ssh."""
        found = explain(lines_of(done.stderr) + lines_of(done.stdout.decode("utf-8", "replace")), self._way())
        if found is None or not found.sure:
            return None
        return UnreachableError(f"{self.where}: {found.what}: {found.line}", found.hint)

    def _way(self) -> Way:
        """How the device is reached, as ssh resolves it."""
        values: dict[str, str] = {}
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                ["ssh", *self.options(), "-G", "--", self.device.host],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=5,
                check=False,
            )
            rows = [line.split(None, 1) for line in done.stdout.decode("utf-8", "replace").splitlines()]
            values = {row[0]: row[1] for row in rows if len(row) == 2}
        jump = values.get("proxyjump") or values.get("proxycommand")
        return Way(self._at, self.device.host, self.by_hand(), None if jump == "none" else jump)

    def _is_kept(self) -> bool:
        """Whether the kept connection still stands."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                ["ssh", *self.options(), "-O", "check", "--", self.device.host],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=5,
                check=False,
            )
            return done.returncode == 0
        return False

    def _ask_again(self, host: str) -> tuple[int, list[str]]:
        """Connect once more by itself: errors of a shared connection go nowhere. Its status, and what ssh says."""
        wait_s = self.device.connection.connect_timeout_s + 5
        log = self._folder / f"again-{threading.get_ident()}"
        try:
            done = subprocess.run(
                ["ssh", "-E", str(log), *self.options(shared=False), "--", host, "true"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, "LC_ALL": "C"},
                timeout=wait_s,
                check=False,
                start_new_session=True,
            )
            own = lines_of(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else []
        except (OSError, subprocess.TimeoutExpired):
            return FAILED, [f"{host} did not respond within {wait_s} s"]
        finally:
            log.unlink(missing_ok=True)
        # What the server says before it refuses ("System is booting up") comes as a banner.
        said = lines_of((done.stderr + done.stdout).decode("utf-8", "replace"))
        explained = any(each.sure for each in (explain(own, Way("", "", "")),) if each)
        return done.returncode, own if explained else [*said, *own]

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


def _socket_folder() -> Path:
    """A folder for the kept connection's socket, into which only we may look.

    Its path must be short, and without what ssh takes for something else: blanks, quotes, per cent signs.
    """
    tried = [tempfile.gettempdir(), "/tmp", "/var/tmp", os.path.expanduser("~")]
    for base in tried:
        with contextlib.suppress(OSError):
            _sweep(Path(base))
            folder = tempfile.mkdtemp(prefix=_SOCKETS, dir=base)
            if len(folder) <= _MAX_SOCKET and _PLAIN.fullmatch(folder):
                return Path(folder)
            shutil.rmtree(folder)
    raise DeviceError(
        f"there is no folder for a connection's socket: none of {', '.join(tried)} can be used",
        "set TMPDIR to a folder that can be written, with a short path of letters and digits",
    )


def _sweep(base: Path) -> None:
    """Remove the socket folders of runs that were killed: nobody else does, where there is no reboot."""
    for folder in base.glob(f"{_SOCKETS}*"):
        with contextlib.suppress(OSError):
            state = folder.lstat()
            old = stat.S_ISDIR(state.st_mode) and state.st_mtime < time.time() - _OLD_S
            if old and state.st_uid == os.getuid() and not _listens(folder / "s"):
                shutil.rmtree(folder)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _word(program: str) -> str:
    """A program's path for the shell there; ``~/`` at its beginning is the home folder there."""
    return "~/" + shlex.quote(program[2:]) if program.startswith("~/") else shlex.quote(program)
