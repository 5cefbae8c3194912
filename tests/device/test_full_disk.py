"""Going back, looking and removing on a device that has no free byte and no free file; or whose disk is read-only."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgespa.bundle import open_bundle
from edgespa.device.agent import processes
from edgespa.device.board import Device, load_device
from edgespa.device.link.reach import connect
from edgespa.device.link.transport import Connection
from edgespa.device.shipment.back import remove, roll_back
from edgespa.device.shipment.ship import Shipment, ship
from edgespa.device.shipment.status import device_status
from edgespa.errors import RefusedError

# Test folders are no packages: what both files need is in the other.
_spec = importlib.util.spec_from_file_location("edgespa_test_ship_full", Path(__file__).with_name("test_ship.py"))
assert _spec is not None
assert _spec.loader is not None
_common = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _common
_spec.loader.exec_module(_common)
python, in_use, answers = _common.python, _common.in_use, _common.answers


def mounted(*command: str) -> None:
    done = subprocess.run(["mount", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NO FULL DISK TRIED: mounting needs root: {done.stderr.strip()}")


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A real, small file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "tmpfs":
        mounted("-t", "tmpfs", "-o", "size=24m,nr_inodes=300,mode=755", "tmpfs", str(folder))
    else:
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("NO FULL EXT4 TRIED: there is no mkfs.ext4")
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(24 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-N", "300", "-m", "0", str(image)], check=True, capture_output=True)
        mounted("-o", "loop", str(image), str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def home(disk: Path) -> Path:
    return disk / "edgespa"


@pytest.fixture
def near(home: Path) -> Iterator[Connection]:
    with connect(of_folder(home)) as connection:
        yield connection


def of_folder(folder: Path) -> Device:
    """This machine as a device that keeps things in a folder."""
    local = load_device("local")
    return local.model_copy(update={"connection": local.connection.model_copy(update={"folder": str(folder)})})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device's folder with two versions of a task, the second in use; to be copied."""
    place = tmp_path_factory.mktemp("template")
    with connect(of_folder(place / "edgespa")) as connection:
        for number in (1, 2):
            with open_bundle(bundle_of(place, number)) as opened:
                ship(connection, Shipment.of(opened, task="birds"), python)
    return place / "edgespa"


def bundle_of(place: Path, number: int) -> Path:
    tiny = _common.sibling("conftest")
    made: Path = tiny.write_bundle(place / f"v{number}", onnx=tiny.onnx_bytes(), bound={"relative_error": number / 1e4})
    return made


@pytest.fixture
def two(home: Path, template: Path) -> tuple[str, str]:
    """The two versions, on the small disk."""
    subprocess.run(["cp", "-a", str(template), str(home)], check=True)  # with its hard links
    first, second = sorted(path.name for path in (home / "tasks/birds").glob("0*") if path.is_dir())
    return first, second


def fill(disk: Path) -> None:
    """Leave no byte and no file free."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            for number in range(10_000):
                (disk / f"file{number}").touch()
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    with pytest.raises(OSError, match="No space left") as caught:
        (disk / "one more").write_bytes(b"x")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.more
def test_rolling_back_needs_nothing(near: Connection, home: Path, disk: Path, two: tuple[str, str]) -> None:
    fill(disk)
    found = device_status(near)
    assert (found.full, found.free_files, found.tasks[0].health) == (True, 0, "ok")
    assert roll_back(near, "birds", python).version == two[0] == in_use(home, "birds")
    assert answers(home, "birds") == "passed"
    # And forth, and back, as often as it is wanted.
    assert roll_back(near, "birds", python, to="2").previous == two[0]
    assert roll_back(near, "birds", python).version == two[0]
    assert remove(near, "birds").versions == two
    assert device_status(near).tasks == ()


def test_where_even_edgespa_itself_has_to_be_brought_along(
    near: Connection, home: Path, disk: Path, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another edgespa has shipped: its agent is another one, it made no links to go back by, and another lock.
    for name in ("agent", "locks"):
        shutil.rmtree(home / name)
    for spare in (home / "tasks/birds").glob(".*.link"):
        spare.unlink()
    (home / "cache" / ("0" * 64)).write_bytes(b"what no version has")
    fill(disk)
    monkeypatch.setenv("TMPDIR", str(disk))  # and the folder for temporary files is on that disk
    assert device_status(near).tasks[0].health == "ok"
    assert roll_back(near, "birds", python).version == two[0] == in_use(home, "birds")
    assert not (home / "agent").exists()


def test_a_shipment_to_it_is_refused_before_anything_is_sent(
    near: Connection, home: Path, disk: Path, two: tuple[str, str], tmp_path: Path
) -> None:
    fill(disk)
    sent: list[int] = []
    with open_bundle(bundle_of(tmp_path, 3)) as opened, pytest.raises(RefusedError, match="its disk is full"):
        ship(near, Shipment.of(opened, task="birds"), python, progress=lambda done, total: sent.append(done))
    assert sent == []
    assert in_use(home, "birds") == two[1]


def test_a_read_only_disk_is_said_to_be_one(near: Connection, home: Path, disk: Path, two: tuple[str, str]) -> None:
    shutil.rmtree(home / "agent")
    mounted("-o", "remount,ro", str(disk))
    try:
        assert device_status(near).tasks[0].health == "ok"
        with pytest.raises(RefusedError, match="its disk is read-only") as caught:
            roll_back(near, "birds", python)
        assert "mount it for writing" in str(caught.value.hint)
    finally:
        mounted("-o", "remount,rw", str(disk))
    assert roll_back(near, "birds", python).version == two[0]


def test_a_lock_is_a_lock_also_without_space(near: Connection, home: Path, disk: Path, two: tuple[str, str]) -> None:
    shutil.rmtree(home / "locks")
    fill(disk)
    busy = pytest.raises(RefusedError, match="another edgespa works there")
    with near.lock("ship", "me"), connect(near.device) as other, busy, other.lock("ship", "other"):
        pass
    with near.lock("ship", "me"):
        pass


def test_what_a_process_says_goes_to_memory_without_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(processes.tempfile, "TemporaryFile", full)
    with processes.scratch() as file:
        file.write(b"x" * 100)
        assert file.tell() == 100
