"""The transport over a real sshd: what works, and every way in which it can fail."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_for

from edgespa.device import connect
from edgespa.device.board import Device
from edgespa.device.link.payload import Payload
from edgespa.device.link.ssh import SshConnection
from edgespa.errors import DeviceError, RefusedError, UnreachableError


def old_python() -> str | None:
    """A Python that is too old: on the path, or beside the one that runs this."""
    on_path = [path for path in (shutil.which(f"python{n}") for n in ("2.7", "3.6", "3.7")) if path]
    beside = [str(path) for path in sorted(Path(sys.base_prefix).parent.glob("*/bin/python"))]
    for path in (*beside, *on_path):
        done = subprocess.run([path, "-c", "import sys; sys.exit(sys.version_info >= (3, 8))"], capture_output=True)
        if done.returncode == 0:
            return path
    return None


@pytest.fixture
def payload(tmp_path: Path) -> Payload:
    path = tmp_path / "model.bin"
    path.write_bytes(os.urandom(6 << 20))
    return Payload.of(path)


def cache(device: Any) -> Path:
    return Path(device.connection.folder) / "cache"


def refused(connection: SshConnection) -> UnreachableError:
    with connection, pytest.raises(UnreachableError) as caught:
        connection.run(["true"], timeout_s=30)
    assert caught.value.hint
    return caught.value


def test_words_arrive_as_they_are(sshd: Any) -> None:
    words = ["a b", "$HOME", "`id`", "it's", '"', "*", "-n", "\\", "new\nline", "ü", ""]
    program = "import sys, json; sys.stdout.write(json.dumps(sys.argv[1:]))"
    with connect(sshd.device()) as connection:
        done = connection.run([sys.executable, "-c", program, *words])
        assert (done.status, done.stderr) == (0, "")
        assert json.loads(done.stdout) == words
        assert connection.run(["cat"], input=b"\0\xff" * 100_000).stdout == b"\0\xff" * 100_000
        assert connection.run(["sh", "-c", "echo no >&2; exit 7"]).status == 7


def test_one_connection_serves_all_commands(own_sshd: Any) -> None:
    with connect(own_sshd.device()) as connection:
        for _ in range(4):
            connection.run(["true"])
        assert own_sshd.log.count("Accepted publickey") == 1
        (socket_folder,) = [
            Path(o.split("=", 1)[1]).parent for o in connection.options() if o.startswith("ControlPath=")
        ]
        assert socket_folder.stat().st_mode & 0o077 == 0
    assert not socket_folder.exists()
    wait_for(lambda: not own_sshd.sessions())  # nothing is left behind


def test_the_agent_is_put_there_once(sshd: Any) -> None:
    device = sshd.device("once")
    with connect(device) as connection:
        facts = connection.ask("facts")
        (agent,) = (Path(device.connection.folder) / "agent").glob("*.py")
        before = agent.stat().st_mtime_ns
        connection.ask("facts")
        assert agent.stat().st_mtime_ns == before
        agent.write_text("damaged")
        connection.ask("facts")
        assert agent.stat().st_mtime_ns != before
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["folder"] == device.connection.folder


def test_a_login_shell_that_talks_does_not_disturb(sshd: Any, tmp_path: Path) -> None:
    noisy = tmp_path / "python"
    noisy.write_text(f'#!/bin/sh\nprintf "Welcome! {{\\"ok\\": 1}}\\nno newline"\nexec {sys.executable} "$@"\n')
    noisy.chmod(0o755)
    with connect(sshd.device("noisy", python=str(noisy))) as connection:
        assert connection.ask("have", {"digests": []}) == {"files": {}}


def test_an_unknown_host_key_is_refused(sshd: Any, tmp_path: Path) -> None:
    config = sshd.config.read_text().replace(f"{sshd.folder}/known_hosts", str(tmp_path / "none"))
    # Even where the user's own configuration would take any.
    (tmp_path / "config").write_text(config + "  StrictHostKeyChecking no\n")
    error = refused(connect(sshd.device(ssh_config=str(tmp_path / "config"))))
    assert "host key is not known" in error.message
    assert not (tmp_path / "none").exists()


def test_a_changed_host_key_is_refused(sshd: Any, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    other = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    (tmp_path / "known").write_text(f"[127.0.0.1]:{sshd.port} {other}\n")
    config = sshd.config.read_text().replace(f"{sshd.folder}/known_hosts", str(tmp_path / "known"))
    (tmp_path / "config").write_text(config)
    error = refused(connect(sshd.device(ssh_config=str(tmp_path / "config"))))
    assert "host key has changed" in error.message
    assert f"-R '[127.0.0.1]:{sshd.port}'" in str(error.hint)


def test_no_password_is_ever_asked_for(start_sshd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = tmp_path / "ask"
    ask.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\necho secret\n")
    ask.chmod(0o755)
    for name, value in (("SSH_ASKPASS", str(ask)), ("SSH_ASKPASS_REQUIRE", "force"), ("DISPLAY", ":0")):
        monkeypatch.setenv(name, value)
    with start_sshd("PasswordAuthentication yes", "PermitRootLogin yes") as server:
        (tmp_path / "config").write_text(server.config.read_text().replace("/user_key", "/host_key"))
        started = time.monotonic()
        error = refused(connect(server.device(ssh_config=str(tmp_path / "config"))))
    assert "does not let us in" in error.message
    assert "password" in error.message  # it was offered
    assert "ssh-copy-id" in str(error.hint)
    assert time.monotonic() - started < 20
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("reach", "message"),
    [
        ({"port": 1, "host": "127.0.0.1"}, "nothing listens there"),
        ({"host": "no-such-host.invalid"}, "address is not known"),
        ({"ssh_config": "/nowhere/config"}, "ssh does not take its configuration"),
    ],
)
def test_what_is_not_there_is_named(sshd: Any, reach: dict[str, Any], message: str) -> None:
    error = refused(connect(sshd.device(**reach)))
    assert message in error.message
    assert error.message.startswith("loop")


def test_a_server_that_hangs_times_out(own_sshd: Any) -> None:
    own_sshd.process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    try:
        error = refused(connect(own_sshd.device(connect_timeout_s=1)))
    finally:
        own_sshd.process.send_signal(signal.SIGCONT)
    assert "does not answer" in error.message
    assert time.monotonic() - started < 15


@pytest.mark.more
@pytest.mark.parametrize("silence", [2, 60])
def test_a_connection_that_hangs_times_out(own_sshd: Any, silence: int) -> None:
    with connect(own_sshd.device(silence_timeout_s=silence)) as connection:
        connection.run(["true"])
        own_sshd.process.send_signal(signal.SIGSTOP)  # or ssh makes a new connection by itself
        assert own_sshd.signal_sessions(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(UnreachableError) as caught:
            connection.run(["true"], timeout_s=2 if silence == 60 else 60)
        # Either ssh notices that nobody is alive, or we that nothing comes.
        assert ("has not answered for 2 s" if silence == 60 else "loop: ") in caught.value.message
        assert time.monotonic() - started < 25
        own_sshd.process.send_signal(signal.SIGCONT)
        own_sshd.signal_sessions(signal.SIGCONT)
        assert connection.run(["true"]).status == 0  # by a new connection


def test_a_connection_that_is_cut_says_so_and_is_made_anew(own_sshd: Any) -> None:
    with connect(own_sshd.device()) as connection:
        connection.run(["true"])
        timer = threading.Timer(0.5, own_sshd.cut)
        timer.start()
        with pytest.raises(UnreachableError, match="the connection broke"):
            connection.run(["sleep", "30"])
        timer.join()
        assert connection.run(["echo", "again"]).stdout == b"again\n"


def test_a_copy_that_is_cut_is_resumed_where_it_was(own_sshd: Any, payload: Payload) -> None:
    device = own_sshd.device()
    partial = cache(device) / f"{payload.sha256}.part"
    with connect(device) as connection:
        connection.ask("facts")

        def cut(done: int, total: int) -> None:
            if done == 2 << 20:
                wait_for(lambda: _size(partial) > 1 << 20)
                own_sshd.cut()

        with pytest.raises(UnreachableError, match="the connection broke"):
            connection.send([payload], cut)
        there = _size(partial)
        assert 1 << 20 < there < payload.size_bytes
        steps: list[tuple[int, int]] = []
        sent = connection.send([payload], lambda done, total: steps.append((done, total)))
        assert sent.bytes_there + sent.bytes_sent == payload.size_bytes
        assert sent.bytes_there >= there
        assert steps[-1] == (sent.bytes_sent, sent.bytes_sent)
        assert connection.send([payload]).bytes_sent == 0
    assert Payload.of(cache(device) / payload.sha256).sha256 == payload.sha256
    assert not partial.exists()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_a_file_that_cannot_be_read_here_is_no_broken_connection(sshd: Any, tmp_path: Path) -> None:
    gone = Payload(tmp_path / "gone", "0" * 64, 10)
    with connect(sshd.device("gone")) as connection:
        with pytest.raises(FileNotFoundError):
            connection.send([gone])
        assert connection.run(["true"]).status == 0


def test_a_partial_file_that_is_none_of_ours_is_sent_anew(sshd: Any, payload: Payload) -> None:
    device = sshd.device("foreign")
    cache(device).mkdir(parents=True)
    (cache(device) / f"{payload.sha256}.part").write_bytes(b"?" * 5000)
    with connect(device) as connection:
        sent = connection.send([payload])
    assert sent.bytes_sent == payload.size_bytes - 5000 + payload.size_bytes  # both tries are counted
    assert Payload.of(cache(device) / payload.sha256).sha256 == payload.sha256


def test_a_cached_file_that_rots_is_sent_again(sshd: Any, payload: Payload) -> None:
    device = sshd.device("rot")
    with connect(device) as connection:
        connection.send([payload])
        path = cache(device) / payload.sha256
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.write(b"!")
        folder, sent = connection.deliver("bundles/x", {"model.bin": payload})
        assert sent.bytes_sent == payload.size_bytes
        assert Payload.of(Path(folder) / "model.bin").sha256 == payload.sha256
        assert connection.deliver("bundles/x", {"model.bin": payload})[1].bytes_sent == 0


def test_a_device_without_python(sshd: Any) -> None:
    with connect(sshd.device("bare", python="/opt/no/python9")) as connection, pytest.raises(DeviceError) as caught:
        connection.ask("facts")
    assert "there is no Python" in caught.value.message
    assert "[connection]" in str(caught.value.hint)
    with (
        connect(sshd.device("odd", python="false")) as connection,
        pytest.raises(DeviceError, match="ended with status 1") as caught,
    ):
        connection.ask("facts")
    # What is to be typed is short, and can be: it does the same.
    line = str(caught.value.hint).partition("by hand: ")[2]
    assert len(line) < len(f"ssh -F {sshd.config} loop 'false --version'") + 40
    assert subprocess.run(line, shell=True, capture_output=True, timeout=60).returncode == 1


def test_a_python_that_is_too_old(sshd: Any) -> None:
    python = old_python()
    if python is None:
        pytest.skip("NO OLD PYTHON HERE: that one is refused is not tested")
    with connect(sshd.device("old", python=python)) as connection, pytest.raises(DeviceError) as caught:
        connection.ask("facts")
    assert "edgespa needs 3.8 or newer" in caught.value.message


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A tmpfs of 12 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("NO SMALL DISK: mounting a tmpfs is not allowed here, a full disk is not tested")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_read_only(sshd: Any, small_disk: Path, payload: Payload) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with (
        connect(sshd.device("locked", home=small_disk / "edgespa")) as connection,
        pytest.raises(RefusedError, match="read-only") as caught,
    ):
        connection.send([payload])
    assert "locked" in caught.value.message
    assert "folder in [connection]" in str(caught.value.hint)


def test_a_full_disk_is_told_before_anything_is_sent(sshd: Any, small_disk: Path, payload: Payload) -> None:
    with (
        connect(sshd.device("full", home=small_disk / "edgespa")) as connection,
        pytest.raises(RefusedError, match="its disk is full") as caught,
    ):
        connection.send([payload])
    assert caught.value.kind == "full"
    assert "bytes are free" in caught.value.message
    assert list((small_disk / "edgespa/cache").iterdir()) == []


def test_a_disk_that_fills_up_meanwhile(sshd: Any, small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "some").write_bytes(os.urandom(3 << 20))
    small = Payload.of(tmp_path / "some")
    filler = small_disk / "filler"

    def fill(done: int, total: int) -> None:
        if not filler.exists():
            with contextlib.suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()

    with connect(sshd.device("filling", home=small_disk / "edgespa")) as connection:
        connection.ask("facts")
        with pytest.raises(RefusedError, match="its disk is full"):
            connection.send([small], fill)
        filler.unlink()
        assert connection.send([small]).bytes_sent == small.size_bytes


def test_a_lock_is_held_by_one_and_ends_with_the_connection(own_sshd: Any) -> None:
    device = own_sshd.device()
    with connect(device) as one, connect(device) as two, one.lock("ship", "one ships"):
        with pytest.raises(RefusedError, match="one ships") as caught, two.lock("ship", "two ships"):
            pass
        assert caught.value.kind == "busy"
        with two.lock("other", "two"):
            pass
        own_sshd.cut()
        wait_for(lambda: not own_sshd.sessions())

        def free() -> bool:
            try:
                with two.lock("ship", "two ships"):
                    return True
            except RefusedError:
                return False

        wait_for(free)


def test_nothing_goes_on_without_its_lock(own_sshd: Any) -> None:
    with connect(own_sshd.device()) as connection:
        with connection.lock("ship", "it ships"):
            connection.ask("facts")
            own_sshd.cut()
            wait_for(lambda: not own_sshd.sessions())
            with pytest.raises(UnreachableError, match="the connection broke, and others"):
                connection.ask("facts")
        with connection.lock("ship", "it ships"):
            connection.ask("facts")


def test_what_runs_there_ends_with_the_connection(own_sshd: Any, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    request = {"argv": ["sh", "-c", f"echo $$ > {mark}; sleep 60; true"]}
    with connect(own_sshd.device()) as connection:
        cut = threading.Thread(
            target=lambda: (wait_for(lambda: mark.exists() and mark.read_text().endswith("\n")), own_sshd.cut())
        )
        cut.start()
        with pytest.raises(UnreachableError):
            connection.ask("execute", request, hold=True)
        cut.join()
    pid = int(mark.read_text())
    wait_for(lambda: pid not in own_sshd.started(mark))


def test_closing_from_another_thread_ends_a_call(sshd: Any) -> None:
    connection = connect(sshd.device())
    connection.run(["true"])
    threading.Timer(0.3, connection.close).start()
    started = time.monotonic()
    with pytest.raises(UnreachableError, match="was closed"):
        connection.run(["sleep", "30"])
    assert time.monotonic() - started < 10
    with pytest.raises(UnreachableError, match="was closed"):
        connection.run(["true"])


def test_without_ssh(sshd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with connect(sshd.device()) as connection, pytest.raises(DeviceError, match="cannot run ssh") as caught:
        connection.run(["true"])
    assert "OpenSSH" in str(caught.value.hint)


def test_a_jump_host_of_the_users_own_configuration(sshd: Any, tmp_path: Path) -> None:
    inner = sshd.config.read_text()
    far = inner.replace("Host loop", "Host far") + "  HostKeyAlias loop-key\n  ProxyJump loop\n"
    known = (sshd.folder / "known_hosts").read_text()
    (tmp_path / "known").write_text(known + "loop-key " + known.split(" ", 1)[1])
    text = f"{inner}\n{far}".replace(f"{sshd.folder}/known_hosts", str(tmp_path / "known"))
    (tmp_path / "config").write_text(text)
    with connect(sshd.device(host="far", ssh_config=str(tmp_path / "config"))) as connection:
        assert connection.run(["echo", "far"]).stdout == b"far\n"


def test_a_key_that_only_the_agent_has(sshd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = sshd.config.read_text().replace(f"IdentityFile {sshd.folder}/user_key", "IdentityFile /nowhere/key")
    (tmp_path / "config").write_text(text.replace("IdentitiesOnly yes", "IdentitiesOnly no"))
    device = sshd.device(ssh_config=str(tmp_path / "config"))
    assert "does not let us in" in refused(connect(device)).message
    socket = sshd.folder / "agent"  # a short path
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        wait_for(socket.exists)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        subprocess.run(["ssh-add", "-q", str(sshd.folder / "user_key")], check=True, capture_output=True)
        with connect(device) as connection:
            assert connection.run(["echo", "in"]).stdout == b"in\n"
    finally:
        agent.terminate()
        agent.wait()
        socket.unlink(missing_ok=True)


def test_sockets_of_runs_that_were_killed_go(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    try:
        for name in ("edgespa-ssh-killed", "edgespa-ssh-now", "edgespa-ssh-alive", "edgespa-else"):
            (short / name).mkdir()
            if name != "edgespa-ssh-now":
                os.utime(short / name, (1, 1))
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(short / "edgespa-ssh-alive/s"))
            server.listen()
            os.utime(short / "edgespa-ssh-alive", (1, 1))
            connect(Device.parse({"name": "x", "title": "x"}, "x")).close()
        assert sorted(os.listdir(short)) == ["edgespa-else", "edgespa-ssh-alive", "edgespa-ssh-now"]
    finally:
        shutil.rmtree(short)
