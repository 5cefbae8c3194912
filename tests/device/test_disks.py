"""Disks that do not keep what is written, or cannot hold versions: seen before anything is sent."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgespa.bundle import open_bundle
from edgespa.device.agent import disk, tasks
from edgespa.device.agent.system import System
from edgespa.device.board import DEFAULT_FOLDER, Device, load_device
from edgespa.device.link.reach import connect
from edgespa.device.link.transport import Connection
from edgespa.device.shipment.ship import Shipment, ship
from edgespa.device.shipment.status import device_status
from edgespa.errors import DeviceError

# Test folders are no packages: what both files need is in the other.
_spec = importlib.util.spec_from_file_location("edgespa_test_ship_disks", Path(__file__).with_name("test_ship.py"))
assert _spec is not None
assert _spec.loader is not None
_common = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _common
_spec.loader.exec_module(_common)
python, in_use = _common.python, _common.in_use

HALF = 2_000_000  # KiB of memory in the faked systems below
EXT4 = "27 1 179:2 / / rw,noatime - ext4 /dev/mmcblk0p2 rw"
OVERLAY = "27 1 0:21 / / rw - overlay overlay rw,lowerdir=/lower,upperdir={upper},workdir=/upper/work"
ROOT_RW = "28 27 0:22 / /media/root-rw rw,relatime - tmpfs tmpfs-root rw"
DATA = "29 27 179:3 / /data rw - ext4 /dev/mmcblk0p3 rw"


def system(
    tmp_path: Path, *mounts: str, cmdline: str = "console=tty1", sys_files: dict[str, str] | None = None
) -> System:
    proc, sysfs = tmp_path / "proc", tmp_path / "sys"
    (proc / "self").mkdir(parents=True)
    (proc / "self/mountinfo").write_text("\n".join(mounts) + "\n")
    (proc / "cmdline").write_text(cmdline + "\n")
    (proc / "meminfo").write_text(f"MemTotal: {2 * HALF} kB\n")
    for name, text in (sys_files or {}).items():
        (sysfs / name).parent.mkdir(parents=True, exist_ok=True)
        (sysfs / name).write_text(text)
    return System(proc=proc, sys=sysfs)


class Size:
    """What statvfs says of a disk of so many KiB."""

    def __init__(self, kib: int) -> None:
        self.f_blocks, self.f_frsize, self.f_bavail, self.f_files, self.f_favail = kib, 1024, kib // 2, 1000, 500


CASES: dict[str, tuple[tuple[str, ...], dict[str, Any], str | None]] = {
    "a card": ((EXT4,), {}, None),
    "raspi-config's": (
        (OVERLAY.format(upper="/upper/data"),),
        {"cmdline": "boot=overlay console=tty1"},
        "raspi-config's overlay file system",
    ),
    "overlayroot": ((OVERLAY.format(upper="/media/root-rw/overlay"), ROOT_RW), {}, "/media/root-rw is a tmpfs"),
    "overlayroot, unseen": ((OVERLAY.format(upper="/x/y"),), {"cmdline": "overlayroot=tmpfs:swap=1"}, "overlayroot"),
    "overlayroot, off": ((OVERLAY.format(upper="/x/y"),), {"cmdline": "overlayroot=disabled"}, None),
    "systemd's": ((OVERLAY.format(upper="/x/y"),), {"cmdline": "quiet systemd.volatile=overlay"}, "systemd.volatile"),
    "a live stick": ((OVERLAY.format(upper="/run/live/rw"),), {"cmdline": "boot=live quiet"}, "a live system"),
    "a live stick that keeps": ((OVERLAY.format(upper="/x/rw"),), {"cmdline": "boot=live persistence"}, None),
    "an overlay on another disk": ((OVERLAY.format(upper="/data/up"), DATA), {}, None),
    "a container's": ((OVERLAY.format(upper="/var/lib/docker/overlay2/1/diff"),), {}, None),
    "an overlay as large as half of the memory": (
        (OVERLAY.format(upper="/gone/up"),),
        {"size": HALF + 1000},
        "as large as half of the memory",
    ),
    "an overlay on an overlay": (
        (EXT4, "30 27 0:9 / /run rw - tmpfs tmpfs rw", "31 27 0:8 / /m rw - overlay o rw,lowerdir=/a,upperdir=/run/u"),
        {"path": "/m/x"},
        "what is written goes to /run/u: /run is a tmpfs",
    ),
    "tmpfs": ((EXT4, "30 27 0:9 / /home rw - tmpfs tmpfs rw"), {"path": "/home/pi"}, "/home is a tmpfs"),
    "the boot memory": (("1 1 0:2 / / rw - rootfs rootfs rw",), {}, "/ is a rootfs"),
    "zram": (("27 1 252:0 / / rw - ext4 /dev/zram0 rw",), {}, "/ is on /dev/zram0"),
    "a folder with a blank": ((EXT4, r"30 27 0:9 / /my\040disk rw - tmpfs t rw"), {"path": "/my disk/x"}, "is a tmpfs"),
    "a mount over another": ((EXT4, ROOT_RW.replace("/media/root-rw", "/data"), DATA), {"path": "/data/x"}, None),
    "a partition beside an overlay": (
        (OVERLAY.format(upper="/upper/data"), DATA),
        {"cmdline": "boot=overlay", "path": "/data/edgespa"},
        None,
    ),
    "a neighbour's name": ((EXT4, "30 27 0:9 / /home rw - tmpfs t rw"), {"path": "/homestead"}, None),
    "a file in memory as a disk": (
        (EXT4, "30 27 0:9 / /run rw - tmpfs t rw", "31 27 7:0 / /m rw - ext4 /dev/loop0 rw"),
        {"path": "/m", "sys_files": {"block/loop0/loop/backing_file": "/run/image"}},
        "what is written goes to /run/image: /run is a tmpfs",
    ),
    "a file on the card as a disk": (
        (EXT4, "31 27 7:0 / /m rw - ext4 /dev/loop0 rw"),
        {"path": "/m", "sys_files": {"block/loop0/loop/backing_file": "/home/image"}},
        None,
    ),
    "aufs": (
        (EXT4.replace("/ / rw", "/ /ro rw"), ROOT_RW, "32 1 0:7 / / rw - aufs none rw,si=1"),
        {"sys_files": {"fs/aufs/si_1/br0": "/media/root-rw=rw", "fs/aufs/si_1/br1": "/ro=ro"}},
        "/media/root-rw is a tmpfs",
    ),
    "nothing to be read": ((), {}, None),
    "lines of another kernel": (("nonsense", "1 2 3", EXT4 + " - - -"), {}, None),
}


@pytest.mark.parametrize("what", CASES)
def test_whether_writes_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    mounts, options, why = CASES[what]
    path, size = options.pop("path", "/home/pi"), options.pop("size", 30_000_000)
    monkeypatch.setattr(disk.os, "statvfs", lambda _: Size(size))
    monkeypatch.setattr(disk, "nearest", lambda _: Path(path))
    monkeypatch.setattr(disk.os.path, "realpath", lambda each: each)
    found = disk.storage(Path(path), system(tmp_path, *mounts, **options))
    options.update(path=path, size=size)
    if why is None:
        assert found["in_memory"] is None
    else:
        assert why in str(found["in_memory"])


def of_folder(folder: str) -> Device:
    """This machine as a device that keeps things in a folder."""
    local = load_device("local")
    return local.model_copy(update={"connection": local.connection.model_copy(update={"folder": folder})})


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """A real overlay whose writes go to a tmpfs, as raspi-config's do; its memory can be emptied by ``reboot``."""
    lower, memory, root = (tmp_path / name for name in ("lower", "memory", "root"))
    for folder in (lower, memory, root):
        folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(memory)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"NO OVERLAY TRIED: mounting needs root: {done.stderr.strip()}")
    for name in ("up", "work"):
        (memory / name).mkdir()
    options = f"lowerdir={lower},upperdir={memory / 'up'},workdir={memory / 'work'}"
    done = subprocess.run(
        ["mount", "-t", "overlay", "-o", options, "overlay", str(root)], capture_output=True, text=True, check=False
    )
    try:
        if done.returncode:
            pytest.skip(f"NO OVERLAY TRIED: this system has none: {done.stderr.strip()}")
        yield root
    finally:
        for folder in (root, memory):
            subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def test_an_overlay_in_memory_is_refused_or_said(overlay: Path, bundle: Path) -> None:
    sent: list[int] = []
    with connect(of_folder(str(overlay / "edgespa"))) as connection, open_bundle(bundle) as opened:
        shipment = Shipment.of(opened, task="birds")
        with pytest.raises(DeviceError, match=r"is gone after a reboot.*an overlay.*is a tmpfs") as caught:
            ship(connection, shipment, python, progress=lambda done, total: sent.append(done))
        assert "raspi-config" in str(caught.value.hint)
        assert "--volatile" in str(caught.value.hint)
        assert (sent, device_status(connection).tasks) == ([], ())
        shipped = ship(connection, shipment, python, volatile=True)
        assert "gone after a reboot" in shipped.notes[0]
        found = device_status(connection)
        assert (found.tasks[0].health, found.in_memory is not None) == ("ok", True)


def test_a_folder_in_memory_that_was_chosen_is_said(
    overlay: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = overlay.with_name("memory") / "edgespa"
    with connect(of_folder(str(memory))) as connection, open_bundle(bundle) as opened:
        shipped = ship(connection, Shipment.of(opened, task="birds"), python)
        assert "gone after a reboot" in shipped.notes[0]
    # A home folder that is one was not chosen.
    monkeypatch.setenv("HOME", str(memory.parent))
    monkeypatch.delenv("XDG_DATA_HOME")
    refused = pytest.raises(DeviceError, match="is gone after a reboot")
    with connect(of_folder(DEFAULT_FOLDER)) as connection, open_bundle(bundle) as opened, refused:
        ship(connection, Shipment.of(opened, task="birds"), python)


# What file systems of other systems lack; EPERM is what Linux answers for vfat and exfat.
LACKS = {
    "symlink": "there are no symbolic links",
    "chmod": "a file's mode cannot be changed",
    "replace": "a folder cannot be renamed",
}


def lacking(path: Path, name: str) -> Path:
    """A Python on whose disk a function of ``os`` fails, as it does on vfat."""
    path.write_text(
        f"#!{sys.executable} -IS\n"
        "import os, sys\n"
        "def fails(*arguments, **options):\n"
        "    raise PermissionError(1, 'Operation not permitted')\n"
        f"os.{name} = fails\n"
        "words = sys.argv[sys.argv.index('-c') + 1:]\n"
        "sys.argv = ['-c', *words[1:]]\n"
        "exec(words[0], {'__name__': '__main__'})\n"
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("name", ["symlink", "chmod"])
def test_a_disk_without_links_is_seen_before_anything_is_sent(
    sshd: Any, tmp_path: Path, bundle: Path, name: str
) -> None:
    home = tmp_path / "home"
    with connect(sshd.device(name, home=home)) as connection:  # the agent comes with a whole Python
        connection.ask("facts")
    device = sshd.device(name, home=home, python=str(lacking(tmp_path / "python", name)))
    sent: list[int] = []
    with connect(device) as connection, open_bundle(bundle) as opened:
        with pytest.raises(DeviceError, match=f"versions cannot be kept in .*{LACKS[name]}") as caught:
            ship(connection, Shipment.of(opened, task="birds"), python, progress=lambda done, total: sent.append(done))
        assert "another file system" in str(caught.value.hint)
        assert sent == []
        assert device_status(connection).tasks == ()
    assert not (home / "cache").exists()
    assert not list(home.glob(".try.*"))


@pytest.mark.parametrize("name", LACKS)
def test_what_cannot_be_done_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert disk.shortcomings(tmp_path / "home") == []
    assert os.listdir(tmp_path / "home") == []

    def fails(*arguments: Any, **options: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(disk.os, name, fails)
    assert disk.shortcomings(tmp_path / "home")[0].startswith(LACKS[name])
    assert os.listdir(tmp_path / "home") == []


def test_a_record_says_what_was_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the link fail after all, no record is left of a version that was never in use."""
    version = tmp_path / "tasks/birds/0001-00000000"
    version.mkdir(parents=True)

    def fails(*arguments: Any, **options: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(tasks.os, "symlink", fails)
    request = {"task": "birds", "version": version.name, "record": {"created": "2026-01-01T00:00:00"}}
    with pytest.raises(PermissionError):
        tasks.switch(tmp_path, request, sys.stdin.buffer)
    assert os.listdir(version.parent) == [version.name]


def test_what_is_missing_is_asked_first(sshd: Any, tmp_path: Path, bundle: Path) -> None:
    """No runtime: told before anything is sent, and there is nothing to be removed afterwards."""
    home = tmp_path / "home"

    def bare(connection: Connection) -> list[str]:
        return [sys.executable, "-I", "-S"]

    with connect(sshd.device("bare", home=home)) as connection, open_bundle(bundle) as opened:
        with pytest.raises(DeviceError, match="No module named 'numpy'"):
            ship(connection, Shipment.of(opened, task="birds"), bare)
        assert connection.bytes_sent == 0
    assert not (home / "cache").exists()


def test_a_runtime_that_dies_is_said_to(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -ILL $$\n")
    dying.chmod(0o755)
    refused = pytest.raises(DeviceError, match="ended by signal 4 when it was to load a runtime")
    with connect(of_folder(str(tmp_path / "home"))) as connection, open_bundle(bundle) as opened, refused:
        ship(connection, Shipment.of(opened, task="birds"), lambda _: [str(dying)])
