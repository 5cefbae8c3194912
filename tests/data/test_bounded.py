"""Data and weights that unpack to more than there is: refused before memory is taken."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgespa.data import arrays, bounded
from edgespa.data.calibration import require_spec
from edgespa.data.load import load_data
from edgespa.device.board import load_device
from edgespa.errors import ConfigError, DataError, EdgespaError, WeightsError
from edgespa.models.weights import read_weights
from edgespa.objectives import class_weights

MANY = 320 << 20
PIECE = bytes(1 << 24)


def packed(path: Path, name: str, start: bytes, size: int = MANY, *others: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for each, content in others:
            archive.writestr(each, content)
        with archive.open(name, "w") as stream:
            stream.write(start)
            for _ in range(size // len(PIECE)):
                stream.write(PIECE)
    return path


def header(shape: tuple[int, ...], version: tuple[int, int] = (1, 0)) -> bytes:
    stream = BytesIO()
    said = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, said) if version == (1, 0) else (
        np.lib.format.write_array_header_2_0(stream, said)
    )
    return stream.getvalue()


def picture() -> bytes:
    stream = BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "png")
    return stream.getvalue()


def image_bomb(folder: Path) -> Path:
    return packed(folder / "a.zip", "b/2.png", picture(), MANY, ("a/1.png", picture()), ("b/1.png", picture()))


def idx_bomb(folder: Path) -> Path:
    place = folder / "idx"
    place.mkdir()
    with gzip.open(place / "train-images-idx3-ubyte.gz", "wb", 1) as stream:
        stream.write(struct.pack(">IIII", 0x803, 2, 8, 8))
        for _ in range(MANY // len(PIECE)):
            stream.write(PIECE)
    with gzip.open(place / "train-labels-idx1-ubyte.gz", "wb") as stream:
        stream.write(struct.pack(">II", 0x801, 2) + bytes(2))
    return place


def idx_claim(folder: Path) -> Path:
    place = folder / "idx"
    place.mkdir()
    (place / "train-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 2**31, 2**31, 2**31))
    return place


def array_claim(folder: Path) -> Path:
    return packed(folder / "a.npz", "images.npy", header((10**6, 1000, 1000, 3)), len(PIECE))


def array_claim_of_another_version(folder: Path) -> Path:
    return packed(folder / "a.npz", "images.npy", header((10**6, 1000, 1000, 3), (2, 0)), len(PIECE))


def array_bomb(folder: Path) -> Path:
    """As large as it says: what is left is asked."""
    return packed(folder / "a.npz", "images.npy", header((MANY // 65536 // 256 * 256, 256, 256)), MANY)


BOMBS = [image_bomb, idx_bomb, idx_claim, array_claim, array_claim_of_another_version, array_bomb]


def opened(path: Path) -> None:
    data = load_data(str(path))
    if fault := data.fault(len(data) - 1):
        raise DataError(fault)


@pytest.mark.law(2)
@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_data_that_would_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bomb: Callable[[Path], Path]
) -> None:
    monkeypatch.setattr(bounded, "memory_left", lambda: 64 << 20)
    monkeypatch.setattr(bounded, "MAX_IMAGE_FILE", 64 << 20)
    path = bomb(tmp_path)
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        opened(path)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 50 << 20, caught.value.message


LABELS = {
    "a huge one": np.array([0, 10**12]),
    "an unsigned one": np.array([0, 2**64 - 1], dtype=np.uint64),
    "structures": np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
    "dates": np.zeros(2, dtype="datetime64[s]"),
    "a single number": np.array(3),
    "none": np.zeros((0, 2), dtype=np.int64),
}


@pytest.mark.parametrize("where", ["labels_train", "labels_test"])
@pytest.mark.parametrize("what", LABELS)
def test_labels_that_are_no_numbers_of_classes(tmp_path: Path, what: str, where: str) -> None:
    """A name was made for each number up to the highest, of any split: 14 GB, before memory ended."""
    images = np.zeros((2, 8, 8), dtype=np.uint8)
    arrays = {"images_train": images, "labels_train": np.arange(2)} | {
        "images_test": images,
        "labels_test": np.arange(2),
    }
    arrays["labels_train" if where == "labels" else where] = LABELS[what]
    np.savez(tmp_path / "a.npz", **arrays)
    tracemalloc.start()
    with pytest.raises(DataError, match="label"):
        load_data(f"{tmp_path / 'a.npz'}:train")
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


def test_weights_that_would_fill_the_memory(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(8)}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as archive:
        entries = [(each, archive.read(each)) for each in archive.namelist()]
    storage = next(name for name, _ in entries if name.endswith("data/0"))
    rest = [(name, content) for name, content in entries if name != storage]
    with pytest.raises(WeightsError, match="would unpack to 33"):
        read_weights(packed(tmp_path / "bad.pt", storage, b"", MANY, *rest))
    # Packed again by another tool, and no bomb.
    with zipfile.ZipFile(tmp_path / "again.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    assert read_weights(tmp_path / "again.pt")["a"].tolist() == [0] * 8


def test_what_fits_is_read(tmp_path: Path) -> None:
    images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8)
    np.savez_compressed(tmp_path / "a.npz", images=images, labels=np.arange(2))
    assert load_data(str(tmp_path / "a.npz")).array.reshape(-1).tolist() == images.reshape(-1).tolist()
    (tmp_path / "idx").mkdir()
    for suffix, write in (("", open), (".gz", gzip.open)):
        with write(tmp_path / "idx" / f"train-images-idx3-ubyte{suffix}", "wb") as stream:
            stream.write(struct.pack(">IIII", 0x803, 2, 8, 8) + images.tobytes())
        found = arrays._read_idx(tmp_path / "idx" / f"train-images-idx3-ubyte{suffix}")
        assert found.tolist() == images.tolist()
    left = bounded.memory_left()
    assert left is None or left > 1 << 20


LISTS, NUMBER, KEYS = "x = " + "[" * 3000 + "]" * 3000, "x = " + "9" * 5000, ".".join("a" * 3000) + " = 1"


@pytest.mark.parametrize("text", [LISTS, NUMBER, KEYS, "x = 1e"], ids=["lists", "number", "keys", "cut"])
def test_text_files_without_an_end(tmp_path: Path, text: str) -> None:
    for name, read in (("d.toml", load_device), ("c.toml", require_spec)):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError):
            read(str(tmp_path / name))
    (tmp_path / "w.json").write_text("[" * 100_000)
    with pytest.raises(EdgespaError):
        class_weights.read_weights(tmp_path / "w.json")
