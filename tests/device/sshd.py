"""A real sshd on the loopback interface, with host keys, a user key and known_hosts of its own.

Nothing of the user's ~/.ssh is read or written: the client is given its own configuration by ``ssh -F``.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgespa.device.board import Device

SSHD = shutil.which("sshd") or next((path for path in ("/usr/sbin/sshd",) if os.access(path, os.X_OK)), None)


@dataclass
class Sshd:
    """A running server.

    Attributes:
        folder: Its keys and logs, and the client's configuration ``config`` and ``known_hosts``.
        port: That it listens on, at 127.0.0.1.
        process: The listening one; each connection has children of its own.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def log(self) -> str:
        return (self.folder / "sshd.log").read_text(errors="replace")

    def device(self, name: str = "loop", home: Path | None = None, **connection: object) -> Device:
        """A device profile that leads here; by default with a Python that has the runtimes.

        Args:
            name: Of the device.
            home: Where edgespa keeps things; a folder below the server's by default.
            **connection: Of `edgespa.device.board.Reach`.
        """
        reach = {
            "host": "loop",
            "ssh_config": str(self.config),
            "python": sys.executable,
            "folder": str(home or self.folder / "home" / name),
            **connection,
        }
        return Device.parse({"name": name, "title": "sshd on loopback", "connection": reach}, name)

    def profile(self, path: Path, **connection: object) -> Path:
        """The same as a profile in a TOML file, for the command line."""
        reach = self.device(path.stem, **connection).connection.model_dump(exclude_none=True)
        lines = ['title = "sshd on loopback"', "[connection]"]
        lines += [
            f"{key} = {value!r}" if isinstance(value, int) else f'{key} = "{value}"' for key, value in reach.items()
        ]
        path.write_text("\n".join(lines) + "\n")
        return path

    def sessions(self) -> list[int]:
        """The processes that serve connections: children and grandchildren of the server that are sshd too."""
        found, parents = [], {self.process.pid}
        rows = [_stat(pid) for pid in _processes()]
        for _ in range(3):
            new = {pid for pid, name, parent in filter(None, rows) if parent in parents and name.startswith("sshd")}
            found += sorted(new - set(found))
            parents |= new
        return found

    def signal_sessions(self, number: int) -> int:
        """Send a signal to all of them, the youngest first; how many there were."""
        there = self.sessions()
        for pid in reversed(there):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(there)

    def cut(self) -> int:
        """End every connection at once, as a pulled cable would not, but a crash does."""
        return self.signal_sessions(signal.SIGKILL)

    def started(self, folder: Path) -> dict[int, list[str]]:
        """The arguments of all processes that have a folder, or something below it, among them."""
        lines = {pid: os.fsdecode(_command_line(pid)) for pid in _processes()}
        return {pid: line.split("\0") for pid, line in lines.items() if str(folder) in line and pid != os.getpid()}

    def reboot(self, folder: Path) -> None:
        """End every connection, and what has been started on the far side below a folder."""
        self.cut()
        for pid in self.started(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _processes() -> list[int]:
    # Not by Path.glob("*/stat"): it fails where a process ends meanwhile.
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def _stat(pid: int) -> tuple[int, str, int] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    name, rest = text.split("(", 1)[1].rsplit(")", 1)
    return pid, name, int(rest.split()[1])


def require_sshd() -> str:
    """The path of sshd; skips the test, loudly, where it is not installed."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("SSHD ABSENT: nothing over SSH is tested; install it: apt-get install openssh-server")
    return SSHD


def keygen(path: Path, comment: str = "test") -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], check=True, capture_output=True
    )


@contextlib.contextmanager
def running_sshd(*settings: str, prefix: Sequence[str] = ()) -> Iterator[Sshd]:
    """Start a server on a free port.

    Args:
        *settings: Lines of its configuration that hold before the usual ones.
        prefix: What it is run by, with a view of the file system of its own, say.
    """
    sshd = require_sshd()
    # Not below pytest's folder: a path of a control socket must be short, and sshd wants folders that are ours alone.
    with tempfile.TemporaryDirectory(prefix="sshd-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for key in ("host_key", "user_key"):
            keygen(folder / key)
        (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
        (folder / "authorized_keys").chmod(0o600)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        lines = [
            *settings,  # the first that is said holds
            "ListenAddress 127.0.0.1",
            f"Port {port}",
            f"HostKey {folder}/host_key",
            f"AuthorizedKeysFile {folder}/authorized_keys",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin prohibit-password",
            "PidFile none",
            "LogLevel VERBOSE",
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        public = " ".join((folder / "host_key.pub").read_text().split()[:2])
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n")
        client = [
            "Host loop",
            "  HostName 127.0.0.1",
            f"  Port {port}",
            f"  User {getpass.getuser()}",
            f"  IdentityFile {folder}/user_key",
            "  IdentitiesOnly yes",
            f"  UserKnownHostsFile {folder}/known_hosts",
            "  GlobalKnownHostsFile /dev/null",
        ]
        (folder / "config").write_text("\n".join(client) + "\n")
        with contextlib.suppress(OSError):
            Path("/run/sshd").mkdir(exist_ok=True)  # where a server that runs as root separates its privileges
        command = [*prefix, sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
        with (folder / "sshd.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        server = Sshd(folder, port, process)
        try:
            _wait_until_it_listens(server)
            yield server
        finally:
            server.signal_sessions(signal.SIGCONT)
            server.cut()
            process.kill()
            process.wait()


def _wait_until_it_listens(server: Sshd) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if server.process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1):
            return
        time.sleep(0.05)
    pytest.fail(f"sshd does not start:\n{server.log}")
