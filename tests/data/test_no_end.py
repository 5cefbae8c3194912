"""Folders of whomever: a pipe, a socket or a device in the place of a file is told, and not waited for."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgespa.api.recipes import read_recipe
from edgespa.data.calibration import find_spec
from edgespa.data.load import load_data
from edgespa.data.numbering import Numbering
from edgespa.data.whole import require_whole
from edgespa.device.board import load_device
from edgespa.device.measure.saved import read_profiles
from edgespa.errors import DataError, EdgespaError
from edgespa.models.trust import _is_plain_folder
from edgespa.objectives.class_weights import read_weights

Make = Callable[[Path], object]
SECONDS = 20


def _socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.fixture(params=[os.mkfifo, _socket, _endless], ids=["pipe", "socket", "device"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes one; what waits for it is ended."""

    def late(*_: Any) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield request.param
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(4):
        place = tmp_path / "data" / "ab"[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), index).save(place / f"{index}.png")
    return tmp_path / "data"


def test_in_a_folder_of_images(folder: Path, make: Make) -> None:
    make(folder / "a" / "x.png")
    data = load_data(str(folder))
    with pytest.raises(DataError, match=r"1 of 5 image cannot be used: .*x\.png cannot be read"):
        require_whole({"--data": data})
    with pytest.raises(DataError, match=r"x\.png cannot be read"):
        list(map(data.image, range(5)))


@pytest.mark.parametrize("name", ["data.zip", "data.npz", "data"])
def test_in_the_place_of_data(tmp_path: Path, make: Make, name: str) -> None:
    make(tmp_path / name)
    with pytest.raises(DataError, match="neither a file nor a folder") as caught:
        load_data(str(tmp_path / name))
    assert "pipe or a device" in str(caught.value.hint)


@pytest.mark.parametrize(
    "read",
    [
        load_device,
        find_spec,
        lambda path: read_recipe(Path(path)),
        lambda path: read_weights(Path(path)),
        lambda path: Numbering.of(Path(path), None),
    ],
    ids=["device", "calibration", "recipe", "weights", "labels"],
)
def test_in_the_place_of_a_text(tmp_path: Path, make: Make, read: Callable[[str], object]) -> None:
    make(tmp_path / "x.toml")
    with pytest.raises(EdgespaError):
        read(str(tmp_path / "x.toml"))


def test_a_text_of_a_terabyte(tmp_path: Path) -> None:
    for read in (load_device, find_spec, lambda path: read_recipe(Path(path))):
        with (tmp_path / "x.toml").open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(EdgespaError, match="cannot be read"):
            read(str(tmp_path / "x.toml"))


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def test_in_the_place_of_an_idx_file(tmp_path: Path, make: Make, name: str) -> None:
    make(tmp_path / name)
    with pytest.raises(EdgespaError, match="cannot be read whole"):
        load_data(str(tmp_path))


def test_among_the_profiles_of_a_bundle(tmp_path: Path, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "profiles").mkdir()
    make(tmp_path / "profiles" / "x.json")
    with caplog.at_level(logging.WARNING):
        assert read_profiles(tmp_path) == ()
    assert "x.json is left out" in caplog.text


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_in_a_folder_of_transformers(tmp_path: Path, make: Make, name: str) -> None:
    """It is asked for, and nothing of it is read."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViTForImageClassification"]}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert _is_plain_folder(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    assert not _is_plain_folder(tmp_path)


def test_an_image_of_a_terabyte(folder: Path) -> None:
    with (folder / "a" / "x.png").open("wb") as file:
        file.truncate(1 << 40)  # it takes no space on the disk
    with pytest.raises(DataError, match="more than the file of an image"):
        require_whole({"--data": load_data(str(folder))})
