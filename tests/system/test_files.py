"""Files that are whole or not there; sealed files."""

from __future__ import annotations

import errno
import os
import pwd
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgespa.device.board import load_device, user_folder
from edgespa.device.link.here import LocalConnection
from edgespa.device.measure.saved import journal_folder
from edgespa.device.provision.wheels import wheel_folder
from edgespa.device.shipment.memory import state_folder
from edgespa.errors import OutputExistsError
from edgespa.exporting.cache import Cache
from edgespa.models import trust
from edgespa.system import files
from edgespa.system.files import expanded, refuse_existing, write_whole
from edgespa.tasks import sealed

_CALLS = re.compile(r"\.expanduser\(\)|Path\.home\(\)")


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.spa"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert [each.name for each in tmp_path.iterdir()] == ["a.spa"]


def test_a_file_gets_the_rights_that_any_other_would(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", b"")
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_a_bare_name_is_written_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refuse_existing(Path("a"), overwrite=False)
    write_whole(Path("a"), b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    path = tmp_path / "a.spa"
    write_whole(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.spa"]


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", b"new")
    assert not list(tmp_path.iterdir())


def test_outputs_that_cannot_be_written_are_refused_early(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"")
    refuse_existing(there, overwrite=True)
    refuse_existing(tmp_path / "new", overwrite=False)
    with pytest.raises(OutputExistsError, match="there exists already"):
        refuse_existing(there, overwrite=False)
    with pytest.raises(OutputExistsError):
        refuse_existing(tmp_path, overwrite=True)
    with pytest.raises(FileNotFoundError):
        refuse_existing(tmp_path / "no" / "new", overwrite=True)


TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor([1, 2], dtype=torch.uint8),
    "empty": torch.zeros(0, 3),
}


def test_a_sealed_file_gives_back_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "a"
    shared = {**TENSORS, "turned": TENSORS["a"].T, "again": TENSORS["a"], "half": torch.ones(2, dtype=torch.bfloat16)}
    path.write_bytes(sealed.to_bytes("kind", "tëxt\n", shared))
    text, tensors = sealed.read(path, "kind")
    assert text == "tëxt\n"
    assert tensors.keys() == shared.keys()
    assert all(torch.equal(tensors[name], shared[name]) for name in shared)
    assert load_file(path).keys() == {*shared, "seal"}  # any reader of safetensors can open it


def test_what_was_read_does_not_change_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(sealed.to_bytes("k", "text", TENSORS))
    _, tensors = sealed.read(path, "k")
    path.write_bytes(bytes(path.stat().st_size))  # in place, as cp does
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def test_another_kind_of_file_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    save_file(TENSORS, path)
    with pytest.raises(KeyError):
        sealed.read(path, "kind")
    save_file(TENSORS, path, {"kind": "text"})
    with pytest.raises(ValueError, match="digest"):
        sealed.read(path, "kind")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"[Hh]eader"):
        sealed.read(path, "kind")
    with pytest.raises(FileNotFoundError):
        sealed.read(tmp_path / "none", "kind")


@pytest.mark.parametrize("change", ["text", "value", "name", "shape"])
def test_the_seal_covers_everything(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a"
    content = sealed.to_bytes("kind", "some text", TENSORS)
    old, new = {
        "text": (b"some text", b"same text"),
        "value": (TENSORS["a"].numpy().tobytes(), (TENSORS["a"].numpy() + 1).tobytes()),
        "name": (b'"b":{', b'"c":{'),
        "shape": (b'"shape":[2,3]', b'"shape":[3,2]'),
    }[change]
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    with pytest.raises(ValueError, match="digest"):
        sealed.read(path, "kind")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user is a bare number: no HOME, and no line for it where users are listed."""

    def unknown(user: int) -> None:
        raise KeyError(user)

    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "EDGESPA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_places_are_known_and_nothing_is_written_into_a_folder_of_that_name() -> None:
    assert expanded("~/.local/state") == Path("/.local/state")
    assert expanded("~") == Path("/")
    assert expanded("~nobody-of-that-name/net.py") == Path("~nobody-of-that-name/net.py")
    places = [
        state_folder(), user_folder(), Cache.of_user().folder, journal_folder(), wheel_folder("key"),
        Path(LocalConnection(load_device("local")).folder),
    ]  # fmt: skip
    assert all(place is not None and place.is_absolute() for place in places), places
    assert not trust.is_remembered(f"{__file__}:build")


def test_paths_are_expanded_in_one_place() -> None:
    """Python's own way raises where there is no home folder, and for a user who does not exist."""
    root = Path(files.__file__).parents[1]
    calls = [
        str(path)
        for path in root.rglob("*.py")
        if path != Path(files.__file__) and {".expanduser()", "Path.home()"} & set(_CALLS.findall(path.read_text()))
    ]
    assert calls == []


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, make_socket])
def test_a_pipe_or_a_device_is_not_replaced_by_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object]
) -> None:
    """As root ``--overwrite -o /dev/null`` would have left a file there for everybody."""
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    make(Path("out"))
    before = os.lstat("out")
    for write in (lambda: refuse_existing(Path("out"), overwrite=True), lambda: write_whole(Path("out"), b"x")):
        with pytest.raises(OSError, match="which a file would replace"):
            write()
    assert os.lstat("out").st_ino == before.st_ino
    for name in (os.devnull, "/dev/stdout", "/dev/fd/1", "/dev/nul"):
        with pytest.raises(OSError, match="which a file would replace"):
            refuse_existing(Path(name), overwrite=True)
    Path("link").symlink_to("file")  # as before: links to files, or to nothing yet
    write_whole(Path("link"), b"x")
    assert Path("link").read_bytes() == b"x"
