"""`edgespa ship` ended at some moment: the old or the new version is whole and in use, and nothing left grows."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgespa.device.agent import versions as agent_versions
from edgespa.device.link.transport import Connection
from edgespa.device.shipment.ship import ship
from edgespa.errors import DeviceError

# Test folders are no packages: what both files need is in the other.
_spec = importlib.util.spec_from_file_location("edgespa_test_ship_killed", Path(__file__).with_name("test_ship.py"))
assert _spec is not None
assert _spec.loader is not None
_common = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _common
_spec.loader.exec_module(_common)
versions, near, home = _common.versions, _common.near, _common.home
answers, in_use, python, shipment = _common.answers, _common.in_use, _common.python, _common.shipment


def whole(home: Path) -> str:
    """The version in use, which has all its files and its record."""
    current = in_use(home)
    assert current is not None
    assert agent_versions.problems(home / "tasks/shapes" / current) == []
    assert agent_versions.record_of(home / "tasks/shapes", current)[0] is not None
    return current


def files(home: Path) -> list[str]:
    """All that lies there, without what is named after a process."""
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if "__pycache__" not in str(path))


MOMENTS = random.Random(11)
ENDS = [(name, MOMENTS.uniform(0.3, 0.95)) for name in ("SIGKILL", "SIGHUP", "SIGINT")]


@pytest.mark.more
@pytest.mark.slow
def test_a_command_that_is_ended(
    near: Connection, home: Path, versions: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = tmp_path / "config" / "edgespa" / "devices"
    devices.mkdir(parents=True)
    (devices / "local.toml").write_text(f'extends = "local"\n[connection]\nfolder = "{home}"\n')
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))

    def start(number: int) -> subprocess.Popen[bytes]:
        bundle = versions(number, size=400_000)
        options = ["--device", "local", "--task", "shapes", "--keep", "2"]
        command = [sys.executable, "-m", "edgespa", "ship", str(bundle), *options]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    began = time.monotonic()
    process = start(1)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()
    seconds = time.monotonic() - began
    old = whole(home)
    for index, (name, moment) in enumerate(ENDS):
        process = start(2 + index)
        time.sleep(seconds * moment)
        process.send_signal(getattr(signal, name))
        process.communicate(timeout=60)
        # What it had begun there ends by itself.
        end = time.monotonic() + 30
        while (left := begun(home)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not left, name
        current = whole(home)
        assert current == old or current.startswith(f"{int(old[:4]) + 1:04d}-"), (name, moment)
        old = current
    # However often that happens, the next shipment leaves what one alone would have left.
    for path in (home / "cache").glob("*.part"):  # they are gone on with, or removed after some days
        os.utime(path, (1, 1))
    last = ship(near, shipment(versions(9)), python, keep=2)
    assert whole(home) == last.version
    assert answers(home) == "passed"
    found = files(home)
    assert len({path.split("/")[2][:4] for path in found if path.startswith("tasks/shapes/0")}) == 2
    assert not [path for path in found if path.endswith((".part", ".new", ".tmp"))]
    assert not list((tmp_path / "tmp").glob("edgespa*"))


def begun(folder: Path) -> list[list[str]]:
    """The arguments of the processes that have a folder, or something below it, among them."""
    rows = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and int(name) != os.getpid():
                rows.append(os.fsdecode(Path(f"/proc/{name}/cmdline").read_bytes()).split("\0"))
    return [words for words in rows if any(word.startswith(str(folder)) for word in words)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "far"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=32m,mode=755"]
    mounted = subprocess.run(["mount", *options, "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"NO FULL DISK TRIED: mounting needs root: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until there is no space."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


@pytest.mark.more
@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_fills_up_at_any_step(near: Connection, home: Path, versions: Callable[..., Path]) -> None:
    old = ship(near, shipment(versions(1)), python).version
    ask, filler = near.ask, home.parent / "filler"

    def steps(at: int) -> tuple[list[str], Callable[..., dict[str, Any]]]:
        seen: list[str] = []

        def asked(command: str, *arguments: Any, **options: Any) -> dict[str, Any]:
            if len(seen) == at:
                fill(filler)
            seen.append(command)
            return ask(command, *arguments, **options)

        return seen, asked

    ended = set()
    for at in range(2, 9):
        seen, asked = steps(at)
        near.ask = asked  # type: ignore[method-assign]
        try:
            ship(near, shipment(versions(2)), python)
            ended.add("done")
        except DeviceError as error:
            ended.add("full" if "full" in error.message or "No space" in error.message else f"{seen}: {error.message}")
        filler.unlink(missing_ok=True)
        near.ask = ask  # type: ignore[method-assign]
        current = whole(home)
        if current != old:
            break
    assert ended == {"full", "done"}
    assert whole(home) == ship(near, shipment(versions(2)), python).version
    assert not [path for path in files(home) if path.endswith((".part", ".new", ".tmp"))]
