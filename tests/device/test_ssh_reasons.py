"""Why a device cannot be reached: the reason is said as it is, with what to do, over a real sshd for each."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from edgespa_test_sshd import keygen

from edgespa.device import connect
from edgespa.device.link.complaints import Way, explain, lines_of
from edgespa.errors import DeviceError, UnreachableError

LIES = (
    "Host key verification failed.\nKey fingerprint: see the notice board\nPermission denied to strangers\n"
    "Connection refused and closed are words of this banner, timed out too. Broken pipe!\n"
)


def refused(server: Any, config: str | None = None, **reach: Any) -> DeviceError:
    """The error of a first command, with another configuration of the client."""
    if config is not None:
        path = server.folder / "other_config"
        path.write_text(config)
        reach["ssh_config"] = str(path)
    with connect(server.device(**reach)) as connection, pytest.raises(DeviceError) as caught:
        connection.ask("facts")
    assert caught.value.hint
    return caught.value


def plain(server: Any) -> str:
    return str(server.config.read_text())


def behind(server: Any, jump: str) -> str:
    """A configuration in which ``loop`` is reached over the host ``jump``, described by changes of the same lines."""
    return f"{jump}\n{plain(server)}  ProxyJump jump\n"


class TestJumpHosts:
    def test_one_that_does_not_pass_connections_on(self, start_sshd: Any) -> None:
        with start_sshd("AllowTcpForwarding no") as server:
            error = refused(server, behind(server, plain(server).replace("Host loop", "Host jump")))
        assert "its jump host jump does not pass connections on" in error.message
        assert "AllowTcpForwarding" in str(error.hint)

    @pytest.mark.parametrize(
        ("change", "words", "hint"),
        [
            (("/user_key", "/host_key"), "of its jump host jump: it does not let us in", "ssh-copy-id jump"),
            (("Port", "Port 1\n  Port"), "of its jump host jump: nothing listens there", "ssh jump"),
            (("HostName 127.0.0.1", "HostName no.invalid"), "of its jump host jump: its address is not known", "jump"),
        ],
    )
    def test_one_that_cannot_be_passed(self, sshd: Any, change: tuple[str, str], words: str, hint: str) -> None:
        error = refused(sshd, behind(sshd, plain(sshd).replace("Host loop", "Host jump").replace(*change)))
        assert words in error.message
        assert hint in str(error.hint)

    def test_one_that_does_not_reach_the_device(self, sshd: Any) -> None:
        jump = plain(sshd).replace("Host loop", "Host jump")
        far = plain(sshd).replace(f"Port {sshd.port}", "Port 1") + "  ProxyJump jump\n"
        error = refused(sshd, f"{jump}\n{far}")
        assert "its jump host jump does not reach it: Connection refused" in error.message

    def test_a_device_behind_one_that_does_not_let_us_in(self, sshd: Any) -> None:
        jump = plain(sshd).replace("Host loop", "Host jump")
        error = refused(sshd, f"{jump}\n{plain(sshd).replace('/user_key', '/host_key')}  ProxyJump jump\n")
        assert "loop: it does not let us in" in error.message
        assert "ssh-copy-id loop" in str(error.hint)


class TestKeys:
    def test_a_key_file_that_others_can_read(self, sshd: Any, tmp_path: Path) -> None:
        key = tmp_path / "a key"
        shutil.copy(sshd.folder / "user_key", key)
        key.chmod(0o644)
        config = plain(sshd).replace(f"{sshd.folder}/user_key", f'"{key}"')
        error = refused(sshd, config)
        assert "may be read by others" in error.message
        assert str(error.hint) == f"chmod 600 '{key}'"
        subprocess.run(["sh", "-c", str(error.hint)], check=True)
        with connect(sshd.device(ssh_config=str(sshd.folder / "other_config"))) as connection:
            assert connection.run(["true"]).status == 0

    def test_a_damaged_key_file(self, sshd: Any, tmp_path: Path) -> None:
        key = tmp_path / "key"
        key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
        key.chmod(0o600)
        error = refused(sshd, plain(sshd).replace(f"{sshd.folder}/user_key", str(key)))
        assert "the key for it cannot be used" in error.message
        assert str(key) in error.message

    def test_too_many_keys(self, start_sshd: Any, tmp_path: Path) -> None:
        names = [tmp_path / f"key{number}" for number in range(4)]
        for name in names:
            keygen(name)
        with start_sshd("MaxAuthTries 2") as server:
            own = f"  IdentityFile {server.folder}/user_key\n"
            error = refused(server, plain(server).replace(own, "".join(f"  IdentityFile {n}\n" for n in names) + own))
        assert "ssh offered it too many keys" in error.message
        assert "IdentitiesOnly yes" in str(error.hint)

    def test_a_changed_host_key_on_another_port(self, sshd: Any, tmp_path: Path) -> None:
        keygen(tmp_path / "other")
        other = " ".join((tmp_path / "other.pub").read_text().split()[:2])
        known = tmp_path / "known hosts"
        known.write_text(f"[127.0.0.1]:{sshd.port} {other}\n")
        error = refused(sshd, plain(sshd).replace(f"{sshd.folder}/known_hosts", f'"{known}"'))
        assert "its host key has changed" in error.message
        command = str(error.hint).split(": ", 1)[1].split(", then")[0]
        assert f"'[127.0.0.1]:{sshd.port}'" in command
        subprocess.run(["sh", "-c", command], check=True, capture_output=True)
        assert known.read_text() == ""
        assert "its host key is not known" in refused(sshd, ssh_config=str(sshd.folder / "other_config")).message


@pytest.fixture
def lying_sshd(start_sshd: Any, tmp_path: Path) -> Iterator[Any]:
    """A server whose banner has all the words of ssh's errors."""
    (tmp_path / "banner").write_text(LIES)
    with start_sshd(f"Banner {tmp_path / 'banner'}") as server:
        yield server


def test_a_banner_is_not_taken_for_an_error(lying_sshd: Any) -> None:
    pictures = plain(lying_sshd) + "  VisualHostKey yes\n"
    error = refused(lying_sshd, pictures.replace("/user_key", "/host_key"))
    assert "it does not let us in" in error.message
    (lying_sshd.folder / "other_config").write_text(pictures)
    with connect(lying_sshd.device(ssh_config=str(lying_sshd.folder / "other_config"))) as connection:
        assert connection.run(["echo", "in"]).stdout == b"in\n"
        # And what a program there says, with ssh's own status.
        done = "echo 'Host key verification failed.' >&2; echo 'me@x: Permission denied (publickey).' >&2; exit 255"
        with pytest.raises(DeviceError) as caught:
            connection.run(["sh", "-c", done])
    assert "what ran there was ended" in caught.value.message
    assert "is not known" not in caught.value.message


def test_the_banner_of_a_jump_host_neither(lying_sshd: Any) -> None:
    jump = plain(lying_sshd).replace("Host loop", "Host jump")
    config = f"{jump}\n{plain(lying_sshd).replace('/user_key', '/host_key')}  ProxyJump jump\n"
    assert "loop: it does not let us in" in refused(lying_sshd, config).message
    closed = behind(lying_sshd, jump.replace("/user_key", "/host_key"))
    assert "of its jump host jump: it does not let us in" in refused(lying_sshd, closed).message


@pytest.mark.parametrize("number", [9, 4, 7, 15])
def test_what_a_signal_ends_is_no_broken_connection(sshd: Any, number: int) -> None:
    with connect(sshd.device("killed")) as connection:
        with pytest.raises(DeviceError, match="what ran there was ended by a signal") as caught:
            connection.run(["sh", "-c", f"kill -{number} $$"])
        assert not isinstance(caught.value, UnreachableError)
        assert "add swap" in str(caught.value.hint)
        assert connection.run(["true"]).status == 0


def test_a_login_shell_that_tells_of_a_signal(sshd: Any, tmp_path: Path) -> None:
    """Dash and others end with 128 and the number."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nsh -c 'kill -9 $$'\nexit $?\n")
    python.chmod(0o755)
    error = refused(sshd, python=str(python))
    assert "ended by signal 9 (SIGKILL): most likely for want of memory" in error.message


@pytest.mark.parametrize("name", ["a b", 'q"uote', "it's", "100%", "%h", "tab\tor", "$HOME", "ümlaut", "x" * 120])
def test_any_temporary_folder_here(sshd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    with connect(sshd.device("temporary")) as connection:
        assert connection.run(["echo", "in"]).stdout == b"in\n"
        assert connection.run(["echo", "twice"]).stdout == b"twice\n"
    assert list(folder.iterdir()) == []


@contextmanager
def other_etc(start_sshd: Any, tmp_path: Path, change: Callable[[Path], None]) -> Iterator[Any]:
    """A server that sees another /etc, in a mount namespace of its own; the user daemon may come in."""
    etc = tmp_path / "etc"
    etc.mkdir()
    for name in ("passwd", "group", "shadow", "nsswitch.conf", "localtime", "ld.so.cache", "hosts"):
        if Path("/etc", name).is_file():
            shutil.copy(Path("/etc", name), etc / name)
    (etc / "pam.d").mkdir()
    rules = ["auth required pam_permit.so", "account required pam_nologin.so", "account required pam_unix.so"]
    (etc / "pam.d/sshd").write_text("\n".join([*rules, "session required pam_permit.so"]) + "\n")
    change(etc)
    prefix = ["unshare", "-m", "sh", "-c", f'mount --bind {shlex.quote(str(etc))} /etc && exec "$@"', "sh"]
    if os.geteuid() or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("NO MOUNT NAMESPACE HERE: accounts that are expired or a board that is starting are not tested")
    with start_sshd("UsePAM yes", prefix=prefix) as server:
        server.folder.chmod(0o711)
        (server.folder / "authorized_keys").chmod(0o644)
        yield server


def account(etc: Path, *, shell: str = "/bin/sh", shadow: str = "daemon:*:19000:0:99999:7:::") -> None:
    """The user daemon as a test wants it."""
    for name, line in (("passwd", f"daemon:x:1:1:daemon:/:{shell}"), ("shadow", shadow)):
        rows = [row for row in (etc / name).read_text().splitlines() if not row.startswith("daemon:")]
        (etc / name).write_text("\n".join([*rows, line]) + "\n")


def test_a_login_shell_that_lets_nobody_in(start_sshd: Any, tmp_path: Path) -> None:
    if os.geteuid() or not Path("/usr/sbin/nologin").exists():
        pytest.skip("NOT ROOT: the user daemon cannot log in")
    with start_sshd() as server:
        server.folder.chmod(0o711)
        (server.folder / "authorized_keys").chmod(0o644)
        error = refused(server, user="daemon")
    assert "its user has no login shell" in error.message
    assert "chsh" in str(error.hint)


@pytest.mark.parametrize(
    "text",
    [
        '"System is booting up. Unprivileged users are not permitted to log in yet. Please come back later."',
        "The system is going down NOW: unprivileged users are not permitted to log in yet (pam_nologin(8))",
    ],
)
def test_a_board_that_is_still_starting(start_sshd: Any, tmp_path: Path, text: str) -> None:
    def change(etc: Path) -> None:
        account(etc)
        (etc / "nologin").write_text(text + "\n")

    with other_etc(start_sshd, tmp_path, change) as server:
        error = refused(server, user="daemon")
    assert "it is still starting" in error.message
    assert "wait a minute" in str(error.hint)


def test_a_password_that_has_expired(start_sshd: Any, tmp_path: Path) -> None:
    with other_etc(start_sshd, tmp_path, lambda etc: account(etc, shadow="daemon:*:0:0:99999:7:::")) as server:
        error = refused(server, user="daemon")
    assert "password of its user has expired" in error.message
    assert "connect once by hand, and change it: ssh -F" in str(error.hint)


def test_an_account_that_has_expired(start_sshd: Any, tmp_path: Path) -> None:
    with other_etc(start_sshd, tmp_path, lambda etc: account(etc, shadow="daemon:*:19000:0:99999:7::1:")) as server:
        error = refused(server, user="daemon")
    assert "expired" in error.message


def test_a_server_that_says_nothing_is_told_with_ssh_s_last_lines(start_sshd: Any) -> None:
    with start_sshd("MaxSessions 0") as server:
        error = refused(server)
    assert "loop" in error.message
    with start_sshd("ChrootDirectory /nowhere/at/all") as server:
        error = refused(server)
    assert "its SSH server cannot begin a session" in error.message


def test_a_server_that_closes_every_connection_at_once(sshd: Any) -> None:
    """hosts.deny, fail2ban, MaxStartups."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def close() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        threading.Thread(target=close, daemon=True).start()
        port = server.getsockname()[1]
        error = refused(sshd, plain(sshd).replace(f"Port {sshd.port}", f"Port {port}"))
        server.shutdown(socket.SHUT_RDWR)
    assert "its SSH server closes the connection at once" in error.message
    assert "fail2ban" in str(error.hint)


def test_a_server_for_files_only(start_sshd: Any) -> None:
    with start_sshd("ForceCommand internal-sftp") as server:
        error = refused(server)
    assert "sftp" in error.message


def test_hints_can_be_typed(sshd: Any) -> None:
    """No socket of a connection that has ended, and no line of a thousand characters."""
    error = refused(sshd, python="false")
    assert "ControlPath" not in str(error.hint)
    assert len(str(error.hint)) < 200
    command = str(error.hint).split(": ", 1)[1]
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1  # it was run there: that is what false gives


WAY = Way("me@board", "board", "ssh me@board")


@pytest.mark.parametrize(
    ("said", "words", "hint"),
    [
        ("me@board: Permission denied (publickey,password).", "does not let us in", "ssh-copy-id me@board"),
        ("sign_and_send_pubkey: signing failed for ED25519 \"x\" from agent: agent refused operation\n"
         "me@board: Permission denied (publickey).", "the agent does not sign", "ssh-add"),
        ("ssh: connect to host board port 22: No route to host", "no way to it", "on"),
        ("kex_exchange_identification: read: Connection reset by peer", "the connection broke", "try again"),
        ("Unable to negotiate with 10.0.0.2 port 22: no matching host key type found. Their offer: ssh-rsa",
         "speaks only what this ssh no longer does", "ssh me@board"),
        ("Received disconnect from 10.0.0.2 port 22:11: Bye Bye", "it ended the connection: Bye Bye", "by hand"),
        ("Offending ECDSA key in /etc/ssh/ssh_known_hosts:3\nHost key for board has changed and you have requested "
         "strict checking.\nHost key verification failed.", "has changed", "-f /etc/ssh/ssh_known_hosts -R board"),
        ("Offending ECDSA key in /home/me/.ssh/known_hosts:3\nHost key for [board]:2222 has changed and you have "
         "requested strict checking.", "has changed", "ssh-keygen -R '[board]:2222'"),
        ("@@@@\n@  WARNING: UNPROTECTED PRIVATE KEY FILE!  @\nPermissions 0640 for '/home/me/.ssh/id' are too open.\n"
         "me@board: Permission denied (publickey).", "may be read by others", "chmod 600 /home/me/.ssh/id"),
        ("Bad owner or permissions on /home/me/.ssh/config", "does not take its configuration", "correct the file"),
        ("@@@@\n@ WARNING: REVOKED HOST KEY DETECTED! @\nThe ED25519 host key for board is marked as revoked.\n"
         "Host key verification failed.", "is revoked", "who has revoked it"),
        ("Certificate invalid: expired\nHost key verification failed.", "not valid: expired", "renewed"),
        ("nothing of the kind", None, None),
    ],
)  # fmt: skip
def test_what_ssh_says(said: str, words: str | None, hint: str | None) -> None:
    found = explain(lines_of(said), WAY)
    if words is None:
        assert found is None
        return
    assert found is not None
    assert words in found.what
    assert str(hint) in found.hint
