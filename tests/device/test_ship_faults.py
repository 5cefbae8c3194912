"""Shipping when something goes wrong: the old version stays in use, and the next try cleans up."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgespa.device.link.reach import connect
from edgespa.device.shipment.results import Shipped
from edgespa.device.shipment.ship import ship
from edgespa.errors import DeviceError, RefusedError, UnreachableError

# Test folders are no packages: what both files need is in the other.
_spec = importlib.util.spec_from_file_location("edgespa_test_ship", Path(__file__).with_name("test_ship.py"))
assert _spec is not None
assert _spec.loader is not None
_common = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _common
_spec.loader.exec_module(_common)
versions, home = _common.versions, _common.home
answers, in_use, python, shipment = _common.answers, _common.in_use, _common.python, _common.shipment


class TestInterrupted:
    """Every way to stop in the middle leaves the old version in use, and the next try cleans up."""

    @pytest.fixture
    def server(self, own_sshd: Any) -> Any:
        return own_sshd

    @pytest.fixture
    def old(self, server: Any, home: Path, versions: Callable[..., Path]) -> str:
        with connect(server.device(home=home)) as connection:
            return ship(connection, shipment(versions(1)), python).version

    def finish(self, server: Any, home: Path, bundle: Path, old: str) -> Shipped:
        assert in_use(home) == old
        assert answers(home) == "passed"
        with connect(server.device(home=home)) as connection:
            shipped = ship(connection, shipment(bundle), python)
        assert in_use(home) == shipped.version != old
        assert answers(home) == "passed"
        left = [path.name for path in (home / "tasks/shapes").iterdir() if path.suffix != ".link"]
        versions = [old, f"{old}.json", shipped.version, f"{shipped.version}.json"]
        assert sorted(left) == sorted(["current", "update.lock", *versions])
        assert not list((home / "cache").glob("*.part"))
        return shipped

    @pytest.mark.more
    def test_the_connection_cut_in_the_middle_of_a_copy(
        self, server: Any, home: Path, versions: Callable[..., Path], old: str
    ) -> None:
        bundle = versions(2, size=2_000_000)
        cut: list[int] = []

        def sending(done: int, total: int) -> None:
            if done > total // 2 and not cut:
                cut.append(server.cut())

        with connect(server.device(home=home)) as connection, pytest.raises(UnreachableError):
            ship(connection, shipment(bundle), python, progress=sending)
        assert cut
        # What has come stays, and is not sent again.
        again = self.finish(server, home, bundle, old)
        assert 0 < again.bytes_sent < shipment(bundle).size_bytes * 0.8

    @pytest.mark.more
    @pytest.mark.law(1)
    @pytest.mark.parametrize("moment", ["stage", "execute", "switch"])
    def test_a_reboot_before_the_switch(
        self, server: Any, home: Path, versions: Callable[..., Path], old: str, moment: str
    ) -> None:
        # Everything there is killed just before, or during, one step; nothing gets a chance to clean up.
        with connect(server.device(home=home)) as connection:
            ask, gone = connection.ask, list[str]()

            def stopped(command: str, *arguments: Any, **options: Any) -> dict[str, Any]:
                if gone:
                    raise UnreachableError("gone")
                # Runtimes are looked for by an execution too, before anything is sent.
                if command == moment and (moment != "execute" or "--selfcheck" in arguments[0]["argv"]):
                    gone.append(command)
                    if moment != "execute":
                        server.reboot(home)
                        raise UnreachableError("gone")
                    threading.Timer(0.3, server.reboot, (home,)).start()
                return ask(command, *arguments, **options)

            connection.ask = stopped  # type: ignore[method-assign]
            with pytest.raises(DeviceError):
                ship(connection, shipment(versions(2)), python)
        again = self.finish(server, home, versions(2), old)
        assert len(again.cleaned) == (0 if moment == "stage" else 1)

    @pytest.mark.more
    def test_a_hanging_device(self, server: Any, home: Path, versions: Callable[..., Path], old: str) -> None:
        stopped = threading.Event()

        def sending(done: int, total: int) -> None:
            if not stopped.is_set():
                stopped.set()
                server.signal_sessions(signal.SIGSTOP)

        device = server.device(home=home, silence_timeout_s=5)
        try:
            started = time.monotonic()
            with connect(device) as connection, pytest.raises(UnreachableError):
                ship(connection, shipment(versions(2, size=4_000_000)), python, progress=sending)
            assert time.monotonic() - started < 60
        finally:
            server.signal_sessions(signal.SIGCONT)
        server.cut()
        self.finish(server, home, versions(2), old)

    def test_ctrl_c_on_this_side(self, server: Any, home: Path, versions: Callable[..., Path], old: str) -> None:
        with connect(server.device(home=home)) as connection:
            ask = connection.ask

            def interrupted(command: str, *arguments: Any, **options: Any) -> dict[str, Any]:
                if command == "execute" and "--selfcheck" in arguments[0]["argv"]:
                    raise KeyboardInterrupt
                return ask(command, *arguments, **options)

            connection.ask = interrupted  # type: ignore[method-assign]
            with pytest.raises(KeyboardInterrupt):
                ship(connection, shipment(versions(2)), python)
        self.finish(server, home, versions(2), old)


def test_two_shippers_at_once(sshd: Any, home: Path, versions: Callable[..., Path]) -> None:
    with connect(sshd.device(home=home)) as one, connect(sshd.device(home=home)) as other:
        with one.lock("ship", "edgespa ship of birds, begun 2026-11-21"):
            with pytest.raises(RefusedError, match=r"another edgespa works there.*ship of birds") as caught:
                ship(other, shipment(versions(1)), python)
            assert caught.value.kind == "busy"
        assert in_use(home) is None
        ship(other, shipment(versions(1)), python)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"NO FULL DISK TRIED: mounting needs root: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(sshd: Any, small_disk: Path, versions: Callable[..., Path]) -> None:
    home = small_disk / "edgespa"
    with connect(sshd.device(home=home)) as connection:
        first = ship(connection, shipment(versions(1)), python)
        with pytest.raises(RefusedError, match="its disk is full") as caught:  # known before anything is sent
            ship(connection, shipment(versions(2, size=2_000_000)), python)
        assert caught.value.kind == "full"
        assert in_use(home) == first.version
        assert answers(home) == "passed"
        filler = small_disk / "filler"
        free = shutil.disk_usage(small_disk).free
        filler.write_bytes(bytes(max(0, free - (8 << 20) - 20_000)))
        with pytest.raises(RefusedError, match="its disk is full"):
            ship(connection, shipment(versions(3)), python)
        filler.unlink()
        assert ship(connection, shipment(versions(3)), python).version == in_use(home)


def test_a_disk_that_fills_up_while_files_come(sshd: Any, small_disk: Path, versions: Callable[..., Path]) -> None:
    home = small_disk / "edgespa"

    def sending(done: int, total: int) -> None:
        filler = small_disk / "filler"
        if not filler.exists():
            with contextlib.suppress(OSError):
                filler.write_bytes(bytes(shutil.disk_usage(small_disk).free))

    with connect(sshd.device(home=home)) as connection:
        first = ship(connection, shipment(versions(1)), python)
        with pytest.raises(DeviceError, match="disk is full"):
            ship(connection, shipment(versions(2, size=500_000)), python, progress=sending)
        (small_disk / "filler").unlink()
        assert in_use(home) == first.version
        ship(connection, shipment(versions(2, size=500_000)), python)


def test_a_folder_that_may_not_be_written(sshd: Any, tmp_path: Path, versions: Callable[..., Path]) -> None:
    place = tmp_path / "read-only"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"NO READ-ONLY HOME TRIED: mounting needs root: {mounted.stderr.decode().strip()}")
    try:
        with (
            connect(sshd.device(home=place / "edgespa")) as connection,
            pytest.raises(RefusedError, match="its disk is read-only"),
        ):
            ship(connection, shipment(versions(1)), python)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
