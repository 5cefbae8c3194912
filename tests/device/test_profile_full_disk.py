"""Measuring on a device whose disk is full, or becomes so: nothing there is half written, and it is told in words."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgespa.cli._shell import main
from edgespa.device.link.transport import Connection
from edgespa.device.measure.saved import read_profiles
from edgespa.device.measure.site import Site

pytestmark = pytest.mark.slow  # each starts a runtime several times

SIZE_MIB, LARGE_MIB = 32, 8


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system, which the device has its folder on, and its temporary files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size={SIZE_MIB}m,mode=755"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NO FULL DISK TRIED: mounting needs root: {done.stderr.strip()}")
    try:
        (folder / "tmp").mkdir()
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def board(start_sshd: Any, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A profile of a device behind a real sshd."""
    monkeypatch.setenv("EDGESPA_CACHE", str(tmp_path / "cache"))
    with start_sshd(f"SetEnv TMPDIR={disk / 'tmp'}") as server:
        yield server.profile(tmp_path / "board.toml", folder=str(disk / "edgespa"))


def fill(disk: Path, free: int = 0) -> None:
    """Leave so many bytes free."""
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    if free:
        os.truncate(disk / "filler", (disk / "filler").stat().st_size - free)
    else:
        with pytest.raises(OSError, match="No space left") as caught:
            (disk / "more").write_bytes(b"x")
        assert caught.value.errno == errno.ENOSPC
        (disk / "more").unlink(missing_ok=True)


def measure(bundle: Path, board: Path, *options: str) -> Result:
    threads = ("--threads", "1", "--threads", "2")
    return CliRunner().invoke(
        main, ["profile", str(bundle), "--device", str(board), *threads, "--runs", "10", *options]
    )


def halves(disk: Path) -> list[str]:
    names = [str(path.relative_to(disk)) for path in (disk / "edgespa").rglob("*")]
    return [name for name in names if name.endswith((".part", ".new", ".tmp", ".copy")) or "/.try" in name]


@pytest.mark.more
def test_one_that_was_never_used_and_is_full(board: Path, disk: Path, bundle: Path) -> None:
    fill(disk)
    result = measure(bundle, board)
    assert result.exit_code == 1
    assert "disk is full" in result.stderr
    assert "Traceback" not in result.stderr
    assert not [path for path in (disk / "edgespa").rglob("*") if path.is_file() and path.parent.name != "locks"]
    (disk / "filler").unlink()
    assert measure(bundle, board).exit_code == 0


@pytest.mark.more
def test_one_that_the_bundle_does_not_fit_on(board: Path, disk: Path, bundle: Path) -> None:
    """Told before anything is sent: less than is to be left free."""
    fill(disk, 4 << 20)
    result = measure(bundle, board)
    assert result.exit_code == 1
    assert "bytes are free" in result.stderr
    assert halves(disk) == []
    assert not list((disk / "edgespa" / "cache").glob("*"))
    (disk / "filler").unlink()
    assert measure(bundle, board).exit_code == 0


@pytest.mark.more
def test_one_that_fills_up_between_two_measurements(
    board: Path, disk: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement writes nothing there: it goes on, and the profile is saved here."""
    real, done = Site.measure, []

    def filling(site: Site, *arguments: Any, **options: Any) -> Any:
        found = real(site, *arguments, **options)
        done.append(found)
        if len(done) == 1:
            fill(disk)
        return found

    monkeypatch.setattr(Site, "measure", filling)
    result = measure(bundle, board)
    assert result.exit_code == 0, result.stderr
    assert len(done) == 2
    assert len(read_profiles(bundle)) == 1
    assert halves(disk) == []


@pytest.mark.more
@pytest.mark.law(1)
@pytest.mark.parametrize("when", ["before it is sent", "while it is sent", "when it has come"])
def test_one_that_fills_up_while_a_bundle_comes(
    board: Path, disk: Path, make_bundle: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """What another program takes after the look at the space."""
    content = (bundle / "model.onnx").read_bytes()
    large = make_bundle(bundle.parent / "large", onnx=content, extra={"more.bin": os.urandom(LARGE_MIB << 20)})
    assert measure(bundle, board).exit_code == 0  # edgespa is there, and another bundle
    before = sorted(path.name for path in (disk / "edgespa" / "bundles").iterdir())
    ask, send = Connection.ask, Connection.send

    def asking(connection: Connection, command: str, request: Any = None, **options: Any) -> Any:
        if command == "receive" and when == "before it is sent":
            fill(disk, (LARGE_MIB + 4) << 20)
        if command == "place" and when == "when it has come" and not request.get("probe"):
            fill(disk)
        return ask(connection, command, request, **options)

    def sending(connection: Connection, files: Any, progress: Any = None) -> Any:
        def told(done: int, total: int) -> None:
            if when == "while it is sent" and done:
                fill(disk)

        return send(connection, files, told)

    monkeypatch.setattr(Connection, "ask", asking)
    monkeypatch.setattr(Connection, "send", sending)
    result = measure(large, board)
    assert (disk / "filler").exists()
    assert halves(disk) == []
    if when == "when it has come":  # links need no space
        assert result.exit_code == 0, result.stderr
        return
    assert result.exit_code == 1
    assert "its disk is full" in result.stderr
    assert "Hint: free some space there" in result.stderr
    assert sorted(path.name for path in (disk / "edgespa" / "bundles").iterdir()) == before
    monkeypatch.undo()
    (disk / "filler").unlink()
    monkeypatch.setenv("EDGESPA_CACHE", str(bundle.parent / "cache"))
    assert measure(large, board).exit_code == 0
