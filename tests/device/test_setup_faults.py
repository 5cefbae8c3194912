"""Set-ups that go wrong as they do in the field: runtimes that die, wheels that are not there, files that are empty."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from edgespa_test_wheels import LITERT, PLAIN, plain_wheels, wheel

from edgespa.cli import devices as devices_command
from edgespa.device import connect
from edgespa.device.board import Device
from edgespa.device.inventory import take_inventory
from edgespa.device.link.here import LocalConnection
from edgespa.device.provision import pip, setup
from edgespa.device.provision.setup import set_up
from edgespa.errors import DeviceError


def dying(name: str) -> str:
    """A module that a signal ends when it is imported."""
    return f"import os, signal\nos.kill(os.getpid(), signal.{name})\n"


RUNTIMES = [
    {"name": "onnxruntime", "providers": ("CPUExecutionProvider",), "oldest": "1.15"},
    {"name": "ai-edge-litert", "providers": ("CPU",), "oldest": "2.0"},
]


def board(sshd: Any, name: str, **connection: Any) -> Device:
    values = sshd.device(name, **{"python": sys.executable, **connection}).model_dump()
    return Device.parse({**values, "runtimes": RUNTIMES}, name)


def beside(tmp_path: Path, name: str) -> LocalConnection:
    """A device without the way to it: the agent, and all that it does, on this machine."""
    values = {"name": name, "title": "board", "runtimes": RUNTIMES}
    return LocalConnection(Device.parse({**values, "connection": {"folder": str(tmp_path / "kept")}}, name))


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    return plain_wheels(tmp_path / "wheels")


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Environments without pip, into which wheels are unpacked; the requirements that were installed, in order."""
    real, installed = setup._step, []

    def step(connection: Any, what: str, argv: Sequence[str]) -> None:
        if what == "make an environment":
            real(connection, what, [*argv[:-1], "--without-pip", argv[-1]])
            return
        names = [each for each in argv[argv.index("--find-links") + 2 :]]
        packages = next((Path(argv[0]).parents[1] / "lib").glob("python*/site-packages"))
        for path in Path(argv[argv.index("--find-links") + 1]).glob("*.whl"):
            if "broken" in path.name and any(path.name.startswith(each.split("=")[0].split(">")[0]) for each in names):
                raise DeviceError("cannot install packages", "")
            with zipfile.ZipFile(path) as archive:
                archive.extractall(packages)
        installed.extend(names)

    def download(arguments: Sequence[str]) -> pip.Asked:
        source, target = (Path(arguments[arguments.index(word) + 1]) for word in ("--find-links", "--dest"))
        names = [each.split("=")[0].split(">")[0].split("<")[0].replace("-", "_") for each in arguments[-3:]]
        for name in (each for each in names if each in ("onnxruntime", "ai_edge_litert")):
            if not list(source.glob(f"{name}-*.whl")):
                return pip.Asked(False, f"No matching distribution found for {name}")
        for path in source.glob("*.whl"):
            shutil.copy(path, target)
        return pip.Asked(True, "")

    monkeypatch.setattr(setup, "_step", step)
    monkeypatch.setattr("edgespa.device.provision.wheels.ask_pip", download)
    return installed


def run_setup(connection: LocalConnection, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """`edgespa devices setup` of a device."""
    monkeypatch.setattr("edgespa.device.load_device", lambda name: connection.device)
    monkeypatch.setattr("edgespa.device.connect", lambda device: beside(wheels.parent, device.name))
    arguments = ["setup", connection.device.name, "--wheels", str(wheels), "--offline"]
    return CliRunner().invoke(devices_command.command, arguments)


@pytest.mark.law(1)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SIGILL", "(SIGILL): it was built for processors that have more instructions than this one"),
        ("SIGBUS", "more instructions than this one, or its file is damaged"),
        ("SIGKILL", "(SIGKILL): most likely for want of memory"),
    ],
)  # fmt: skip
def test_a_runtime_that_a_signal_ends_does_not_stop_the_other(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quickly: list[str], name: str, words: str
) -> None:
    """ONNX Runtime 1.21 on each Pi 4, and any on a board without memory."""
    wheel(wheels, "onnxruntime", "1.20", dying(name))
    connection = beside(tmp_path, "kitchen")
    first = run_setup(connection, wheels, monkeypatch)
    assert isinstance(first.exception, DeviceError)
    assert "onnxruntime cannot be used there" in first.exception.message
    assert words in first.stderr
    assert "NOT SET UP" in first.stderr
    assert "1.20" in first.stderr  # the version that dies
    if name == "SIGKILL":
        assert "add swap" in str(first.exception.hint)
    else:
        assert str(first.exception.hint) == "edgespa devices setup kitchen --runtime onnxruntime==1.31.1"
    link = tmp_path / "kept/environment"
    made = link.resolve()
    found = take_inventory(connection)
    works = {each.runtime: each.works for each in found.providers}
    assert works == {"onnxruntime": False, "ai_edge_litert": True}
    again = run_setup(connection, wheels, monkeypatch)
    assert again.exit_code == 1  # it is not set up, and nothing is made twice
    assert "and no better" in again.stdout
    assert link.resolve() == made


def test_the_version_that_is_known_to_die_is_named_with_one_that_works(
    tmp_path: Path, wheels: Path, quickly: list[str]
) -> None:
    (wheels / "onnxruntime-1.20-py3-none-any.whl").unlink()
    wheel(wheels, "onnxruntime", "1.21.0", dying("SIGILL"))
    with beside(tmp_path, "old") as connection:
        done = set_up(connection, wheels=wheels, offline=True, runtimes=("onnxruntime==1.21.0",))
    (broken,) = done.broken
    assert "1.21.0 fails on processors of Armv8.0, as in a Raspberry Pi 4" in broken.error
    assert broken.hint == "edgespa devices setup old --runtime onnxruntime==1.20.1"


@pytest.mark.more
def test_nothing_that_works_leaves_the_device_as_it_was(tmp_path: Path, wheels: Path, quickly: list[str]) -> None:
    with beside(tmp_path, "none") as connection:
        assert set_up(connection, wheels=wheels, offline=True).broken == ()
        before = (tmp_path / "kept/environment").resolve()
        wheel(wheels, "onnxruntime", "1.22", dying("SIGILL"))
        wheel(wheels, "ai_edge_litert", "2.4.0", dying("SIGBUS"), (), "ai_edge_litert/interpreter.py")
        for path in ("onnxruntime-1.20-py3-none-any.whl", "ai_edge_litert-2.3.0-py3-none-any.whl"):
            (wheels / path).unlink()
        with pytest.raises(DeviceError, match=r"nothing that was installed works(.|\n)*SIGILL(.|\n)*SIGBUS") as caught:
            set_up(connection, wheels=wheels, offline=True)
        assert "--runtime onnxruntime==1.31.1" in str(caught.value.hint)
        assert (tmp_path / "kept/environment").resolve() == before


@pytest.mark.more
def test_a_runtime_that_a_power_cut_has_emptied_is_made_anew(tmp_path: Path, wheels: Path, quickly: list[str]) -> None:
    """One of two: what is broken is not set up, whatever else works."""
    with beside(tmp_path, "damaged") as connection:
        assert set_up(connection, wheels=wheels, offline=True).made
        for module, damage in (
            ("ai_edge_litert/interpreter.py", "empty"),
            ("onnxruntime.py", "cut"),
            ("onnxruntime.py", "gone"),
        ):
            (path,) = tmp_path.glob(f"kept/environment/lib/python3*/site-packages/{module}")
            path.write_text("" if damage == "empty" else path.read_text()[:40])
            if damage == "gone":
                path.unlink()
            again = set_up(connection, wheels=wheels, offline=True)
            assert (again.made, again.broken) == (True, ())
        assert not set_up(connection, wheels=wheels, offline=True).made


def test_a_runtime_that_there_is_no_wheel_of_does_not_stop_the_other(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quickly: list[str]
) -> None:
    (wheels / "ai_edge_litert-2.3.0-py3-none-any.whl").unlink()
    connection = beside(tmp_path, "half")
    first = run_setup(connection, wheels, monkeypatch)
    assert first.exit_code == 1
    assert "NOT SET UP: half: ai-edge-litert: No matching distribution" in " ".join(first.stderr.split())
    assert "--wheels FOLDER" in str(first.exception.hint if isinstance(first.exception, DeviceError) else None)
    assert [each.runtime for each in take_inventory(connection).providers if each.works] == ["onnxruntime"]


def test_a_probe_that_hangs_is_ended(
    tmp_path: Path, wheels: Path, quickly: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime that waits for threads it cannot have, say."""
    monkeypatch.setattr("edgespa.device.inventory.STALL_S", 1.0)
    wheel(wheels, "onnxruntime", "1.20", "import time\ntime.sleep(300)\n")
    with beside(tmp_path, "hangs") as connection:
        done = set_up(connection, wheels=wheels, offline=True)
    (broken,) = done.broken
    assert "it has done nothing for 1 s" in broken.error


@pytest.mark.slow
def test_surroundings_there_do_not_leak_in(sshd: Any, tmp_path: Path, wheels: Path) -> None:
    """ROS's PYTHONPATH, a PYTHONHOME, and a pip.conf that installs elsewhere and asks an index that is dead."""
    elsewhere = tmp_path / "elsewhere"
    other = tmp_path / "ros"
    other.mkdir()
    (other / "onnxruntime.py").write_text(PLAIN.replace("1.20", "0.9"))
    (other / "json.py").write_text("raise ImportError('another one')\n")
    home = tmp_path / "home"
    (home / ".config/pip").mkdir(parents=True)
    settings = f"[global]\nindex-url = http://127.0.0.1:9/\nno-cache-dir = false\n[install]\ntarget = {elsewhere}\n"
    (home / ".config/pip/pip.conf").write_text(settings)
    python = tmp_path / "python"  # what a login there sets
    variables = [f"HOME={home}", f"PYTHONPATH={other}", f"PIP_TARGET={elsewhere}", "PIP_REQUIRE_HASHES=1"]
    variables += [f"PYTHONHOME={tmp_path / 'none'}", f"PIP_CONFIG_FILE={home}/.config/pip/pip.conf", "PIP_USER=1"]
    python.write_text(f'#!/bin/sh\nexport {" ".join(variables)}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    device = board(sshd, "ros", python=str(python))
    with connect(device) as connection:
        done = set_up(connection, wheels=wheels, offline=True)
        assert done.broken == ()
        assert {each.version for each in done.inventory.providers} == {"1.20", "2.3.0"}
        assert not elsewhere.exists()
        assert not [path for path in home.rglob("*") if path.suffix in (".py", ".whl")]
        request = {"argv": ["sh", "-c", "env"], "small": True}
        said = connection.ask("execute", request, hold=True)["stdout"]
        assert "PYTHONPATH" not in said
        assert "PYTHONHOME" not in said
        assert "PIP_TARGET" not in said
        assert f"HOME={home}" in said


class TestPipHere:
    def test_another_pip_is_found_where_the_environment_has_none(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """As in an environment that uv has made."""
        real = pip.importlib.util.find_spec
        absent = {"pip"}
        monkeypatch.setattr(
            pip.importlib.util, "find_spec", lambda name, *rest: None if name in absent else real(name, *rest)
        )
        command = pip.pip_command()
        assert command[-1].endswith("/pip")
        assert ".whl" in command[-1]
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("pip ")
        absent.add("ensurepip")  # Debian's Python without python3-venv
        other = tmp_path / "pip3"
        other.write_text("#!/bin/sh\n")
        other.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert pip.pip_command() == [str(other)]
        other.unlink()
        with pytest.raises(DeviceError, match="there is no pip here") as caught:
            pip.pip_command()
        assert "uv pip install pip" in str(caught.value.hint)

    def test_what_lies_in_the_current_folder_is_not_imported(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "random.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\nraise ImportError('mine')\n")
        monkeypatch.chdir(tmp_path)
        assert pip.ask_pip(["help"]).done or True
        assert not (tmp_path / "marker").exists()


@pytest.fixture
def dead_index() -> Iterator[str]:
    """An index that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


@pytest.mark.parametrize("kind", ["silent", "closed"])
def test_a_dead_index_is_given_up_soon(sshd: Any, dead_index: str, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    url = dead_index if kind == "silent" else "http://127.0.0.1:9/simple"
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", url.replace("//", "//user:secret@"))
    monkeypatch.setattr(pip, "TIMEOUT_S", 1)
    asked: list[int] = []
    real = pip.ask_pip
    monkeypatch.setattr("edgespa.device.provision.wheels.ask_pip", lambda words: (asked.append(1), real(words))[1])
    with connect(board(sshd, f"dead-{kind}")) as connection, pytest.raises(DeviceError) as caught:
        set_up(connection)
    assert f"packages cannot be fetched: {url} does not answer" in caught.value.message
    assert "secret" not in caught.value.message.splitlines()[0]
    assert "--wheels FOLDER --offline" in str(caught.value.hint)
    assert len(asked) == 1  # and not once for each version


def test_what_is_waited_for_is_said(tmp_path: Path, wheels: Path, quickly: list[str]) -> None:
    said: list[str] = []
    with beside(tmp_path, "said") as connection:
        set_up(connection, wheels=wheels, offline=True, progress=lambda done, total, text: said.append(text))
        set_up(connection, wheels=wheels, offline=True, progress=lambda done, total, text: said.append(text))
    for words in ("fetching packages from", "making an environment", "installing", "trying what was installed"):
        assert any(words in each for each in said), said
    assert "said: trying what is there" in said


@pytest.mark.more
def test_a_connection_that_breaks_meanwhile_is_no_bad_runtime(own_sshd: Any, wheels: Path, quickly: list[str]) -> None:
    from edgespa.errors import UnreachableError

    wheel(wheels, "onnxruntime", "1.20", "import time\nwhile True: pass\n")
    device = board(own_sshd, "cable")
    home = Path(device.connection.folder)
    with connect(device) as connection:
        cut = threading.Thread(target=lambda: _cut_when(own_sshd, home))
        cut.start()
        with pytest.raises(UnreachableError):
            set_up(connection, wheels=wheels, offline=True)
        cut.join()
    assert not (home / "environment").exists()


def _cut_when(server: Any, home: Path) -> None:
    import time

    end = time.monotonic() + 60
    while time.monotonic() < end:
        if any("onnxruntime" in words for words in server.started(home).values()):
            server.cut()
            return
        time.sleep(0.02)


def test_signals_here_are_those_of_the_messages() -> None:
    assert (signal.SIGILL, signal.SIGBUS, signal.SIGKILL) == (4, 7, 9)
    assert "get_tensor" in LITERT
