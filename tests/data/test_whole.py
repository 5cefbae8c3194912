"""All images that cannot be used are told at once, before anything long begins; whole ones pass, of every kind."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgespa as es
from edgespa.api.classes import of_classes
from edgespa.api.options import DataOptions
from edgespa.config import Preprocess
from edgespa.data import ImageData, load_data, prepare, require_whole, usable
from edgespa.data.whole import looks_whole
from edgespa.errors import ConfigError, DataError
from tests.cli.typed import run

pytestmark = pytest.mark.filterwarnings("ignore:Truncated File Read")
KINDS = {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "webp": "WEBP", "tif": "TIFF", "ppm": "PPM"}
PIXELS = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, KINDS[kind])
    return stream.getvalue()


@pytest.mark.parametrize("kind", list(KINDS))
def test_whole_files_look_whole_and_cut_off_ones_do_not(kind: str) -> None:
    content = encoded(kind)
    assert looks_whole(io.BytesIO(content)) or kind in ("tif", "ppm")  # these are decoded
    assert looks_whole(io.BytesIO(content + b"\n")) or kind in ("tif", "ppm", "gif")
    for cut in (0, 3, 20, len(content) // 2, len(content) - 70):
        assert not looks_whole(io.BytesIO(content[:cut]))
    assert not looks_whole(io.BytesIO(b"no image at all" * 20))


def folder(root: Path, damage: dict[str, bytes], *, classes: tuple[str, ...] = ("cat", "dog"), each: int = 8) -> Path:
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(each):
            kind = list(KINDS)[index % len(KINDS)]
            file = root / name / f"{index}.{kind}"
            file.write_bytes(damage.get(f"{name}/{file.name}", encoded(kind)))
    return root


DAMAGE = {
    "cat/0.jpg": encoded("jpg")[:300],
    "cat/1.png": b"",
    "cat/2.gif": encoded("gif")[:200],
    "dog/0.jpg": b"<html>not found</html>",
    "dog/3.bmp": encoded("bmp")[:500],
    "dog/4.webp": encoded("webp")[:100],
    "dog/5.tif": encoded("tif")[:100],
}


@pytest.mark.parametrize("zipped", [False, True])
def test_all_that_is_damaged_is_told_at_once(tmp_path: Path, zipped: bool) -> None:
    root = folder(tmp_path / "junk", DAMAGE)
    good = load_data(str(folder(tmp_path / "good", {})))
    if zipped:
        with zipfile.ZipFile(tmp_path / "junk.zip", "w") as archive:
            for file in sorted(root.rglob("*.*")):
                archive.write(file, file.relative_to(root))
        root = tmp_path / "junk.zip"
    told: list[float] = []
    with pytest.raises(DataError) as caught:
        require_whole({"--data": good, "--eval-data": load_data(str(root))}, lambda done, *_: told.append(done))
    said = caught.value.message
    assert said.startswith("--eval-data junk: 7 of 16 images cannot be used: ")
    assert all(name in said for name in list(DAMAGE)[:5])
    assert said.endswith(", and 2 more")
    assert told[-1] == 32
    require_whole({"--data": good})


def test_damage_inside_a_zip_file_is_seen_by_its_checksum(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", {})
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.*")):
            archive.write(file, file.relative_to(root))
        at = archive.getinfo("dog/1.png").header_offset + 300
    content = bytearray(path.read_bytes())
    content[at] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"--data a: 1 of 16 image cannot be used: .*dog/1\.png"):
        require_whole({"--data": load_data(str(path))})


def test_what_only_decoding_shows_is_told_at_once_too(tmp_path: Path) -> None:
    png = bytearray(encoded("png"))
    png[60] ^= 255  # inside of the pixels, with the header and the end as they were
    root = folder(tmp_path / "a", {"cat/1.png": bytes(png), "dog/1.png": bytes(png)})
    data = load_data(str(root))
    require_whole({"--data": data})
    preprocess = Preprocess(height=8, width=8, channels=3, mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(DataError, match=r"a: 2 of 16 images cannot be used: .*cat/1\.png.*dog/1\.png"):
        prepare(data, preprocess)


def labelled(labels: list[int], classes: tuple[str, ...], title: str) -> ImageData:
    from edgespa.data.arrays import ArraySource

    source = ArraySource(np.zeros((len(labels), 2, 2, 3), dtype=np.uint8))
    return ImageData(source, np.array(labels, dtype=np.int64), classes, title)


def test_test_data_that_lack_a_class_are_numbered_as_the_training_data(caplog: pytest.LogCaptureFixture) -> None:
    train = labelled([0, 1, 2, 2], ("a", "b", "c"), "train")
    same = of_classes(train, labelled([0, 1, 2], ("a", "b", "c"), "test"))
    assert (same.labels.tolist(), caplog.messages) == ([0, 1, 2], [])
    less = of_classes(train, labelled([0, 1, 1], ("a", "c"), "test"))
    assert (less.labels.tolist(), less.classes) == ([0, 2, 2], ("a", "b", "c"))
    assert "test has no images of 1 of the 3 classes of train (b)" in caplog.messages[0]
    other = of_classes(train, labelled([0, 1, 2], ("c", "a", "b"), "test"))
    assert other.labels.tolist() == [2, 0, 1]
    numbers = of_classes(labelled([0, 1, 2], ("0", "1", "2"), "train"), labelled([0, 1], ("0", "1"), "test"))
    assert numbers.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("classes", "said", "hint"),
    [
        (("a", "bb"), "--eval-data test has 1 of its 2 classes that --data train lacks: bb", "'bb' may be 'b'"),
        (("0", "1"), "the classes of test are numbers", "--labels FILE"),
    ],
)
def test_test_data_with_other_classes_are_refused(classes: tuple[str, ...], said: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of_classes(labelled([0, 1, 2], ("a", "b", "c"), "train"), labelled([0, 1], classes, "test"))
    assert said in caught.value.message
    assert hint in str(caught.value.hint)


NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
"""


@pytest.mark.parametrize("command", ["adapt", "prune", "export"])
def test_each_command_tells_it_before_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    folder(tmp_path / "good", {})
    folder(tmp_path / "junk", DAMAGE)
    options = {
        "adapt": ("--data", "good", "--eval-data", "junk", "--epochs", "1"),
        "prune": ("--density", "0.5", "--calibration", "good", "--eval-data", "junk"),
        "export": ("--calibration", "good", "--eval-data", "junk"),
    }
    name = command
    said = run(name, "net.py:build", "--input-shape", "1,3,8,8", *options[name], "-o", "out", code=1).stderr
    assert "--eval-data junk: 7 of 16 images cannot be used" in said
    assert not list(tmp_path.glob("out*"))
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("zipped", [False, True])
def test_what_cannot_be_used_is_left_out_and_told(
    tmp_path: Path, zipped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    inside = bytearray(encoded("png"))
    inside[len(inside) // 2] ^= 255  # with a header and an end
    path = folder(tmp_path / "set", {**DAMAGE, "dog/1.png": bytes(inside)})
    if zipped:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for file in path.rglob("*.*"):
                archive.write(file, file.relative_to(path))
        path = tmp_path / "set.zip"
    data = usable(load_data(str(path)))
    assert len(data) == 15 - len(DAMAGE)
    assert np.bincount(data.labels).tolist() == [5, 3]
    assert "8 of 16 images cannot be used" in caplog.text
    assert (
        len(list(prepare(data, Preprocess(height=8, width=8, channels=3, mean=(0,) * 3, std=(1,) * 3)).batches(9))) == 1
    )
    with pytest.raises(DataError, match="7 of 7 images cannot be used"):
        usable(load_data(str(path)).subset([index for index in range(16) if load_data(str(path)).fault(index)]))


def test_masks_that_cannot_be_used_are_left_out_with_their_photographs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(1)
    for index in range(6):
        mask = np.zeros((24, 24), np.uint8)
        mask[4 : 10 + index, 5:15] = 1
        for kind, pixels in (("images", random.integers(0, 255, (24, 24, 3), dtype=np.uint8)), ("masks", mask)):
            (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "set" / kind / f"{index}.png")
    (tmp_path / "set/masks/1.png").write_bytes((tmp_path / "set/masks/1.png").read_bytes()[:50])
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "set/masks/3.png")
    with pytest.raises(DataError) as caught:
        load_data(str(tmp_path / "set"))
    assert "2 of 6 images cannot be used" in caught.value.message
    assert "masks/3.png is 9 x 9" in caught.value.message
    data = load_data(str(tmp_path / "set"), skip=True)
    assert (len(data), data.kind) == (4, "segmentation")
    assert [int(data.answer(index).sum()) for index in range(4)] == [60, 80, 100, 110]
    assert "left out" in caplog.text


def test_masks_and_images_that_cannot_be_used_are_told_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(1)
    for index in range(6):
        for kind, pixels in (("images", random.integers(0, 255, (24, 24, 3))), ("masks", np.eye(24))):
            (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "set" / kind / f"{index}.png")
    (tmp_path / "set/masks/1.png").write_bytes((tmp_path / "set/masks/1.png").read_bytes()[:50])
    with pytest.raises(DataError, match=r"^[^;]*masks/1\.png[^;]*$"):  # alone as before
        DataOptions().load(str(tmp_path / "set"))
    inside = bytearray((tmp_path / "set/images/4.png").read_bytes())
    inside[len(inside) // 2] ^= 255
    (tmp_path / "set/images/4.png").write_bytes(bytes(inside))
    with pytest.raises(DataError) as caught:
        DataOptions().load(str(tmp_path / "set"))
    assert "2 of 6 images cannot be used: " in caught.value.message
    assert "masks/1.png" in caught.value.message
    assert "images/4.png is not a whole image" in caught.value.message
    assert "--skip-bad-files" in str(caught.value.hint)
    assert "left out" not in caplog.text
    assert len(DataOptions(skip_bad=True).load(str(tmp_path / "set"))) == 4
    assert "left out" in caplog.text


def test_a_limit_is_of_what_can_be_used(tmp_path: Path) -> None:
    path = folder(tmp_path / "set", DAMAGE)
    data = DataOptions(limit=9, skip_bad=True).load(str(path))
    assert len(data) == 9
    require_whole({"--data": data})


def broken_inside() -> bytes:
    inside = bytearray(encoded("png"))
    inside[len(inside) // 2] ^= 255  # with a header and an end
    return bytes(inside)


def test_once_something_is_damaged_all_of_it_is_told(tmp_path: Path) -> None:
    """Else who has repaired what headers show is told of the rest by the next run."""
    path = folder(tmp_path / "set", {"cat/0.jpg": b"", "dog/1.png": broken_inside()})
    told: list[float] = []
    with pytest.raises(DataError, match=r"2 of 16 images cannot be used: cat/0\.jpg .*; dog/1\.png ") as caught:
        require_whole({"--data": load_data(str(path))}, lambda done, *_: told.append(done))
    assert str(tmp_path) not in caught.value.message
    assert "--skip-bad-files" in str(caught.value.hint)
    assert told == [16, 16]


def test_what_pillow_says_is_put_into_words(tmp_path: Path) -> None:
    """Its own words name an object in memory, and an attack."""
    from edgespa.data.answers import decoded_mask
    from edgespa.data.folders import decode
    from edgespa.data.pictures import read_wanted

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in ((b"IHDR", size), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    )
    for content, words in ((b"nothing", "no kind of image"), (bomb, "more pixels than 134,217,728")):
        for read in (decode, decoded_mask, lambda content, name: read_wanted(content, "a.png", name, False)):
            with pytest.raises(DataError) as caught:
                read(content, "a.png")
            assert words in caught.value.message
            assert "object" not in caught.value.message


def test_what_was_left_out_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    folder(tmp_path / "set", {"cat/0.jpg": b"", "dog/1.png": broken_inside()})
    common = ("--input-shape", "1,3,8,8", "--skip-bad-files")
    said = run("adapt", "net.py:build", *common, "--data", "set", "--epochs", "1", "-o", "a.spa").stderr
    assert "2 of 16 images cannot be used" in said
    run("prune", "net.py:build", *common, "--calibration", "set", "--density", "0.5", "-o", "p.spa")
    run("export", "a.spa", "--skip-bad-files", "--format", "onnx", "--eval-data", "set", "-o", "b")
    wanted = {"count": 2, "files": ["cat/0.jpg", "dog/1.png"]}
    for found, option in (
        (es.open_task("a.spa").task.header.provenance, "--data"),
        (es.open_task("p.spa").task.header.provenance, "--calibration"),
        (es.open_bundle("b").manifest.provenance, "--eval-data"),
    ):
        assert found["left_out_files"] == {option: wanted}


def test_a_calibration_spec_tells_all_that_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "set", {"cat/0.jpg": b"", "dog/1.png": broken_inside()})
    said = run("calibration", "make", "--data", "set", "-o", "s.toml", code=1).stderr
    assert "2 of 16 images cannot be used: cat/0.jpg" in said
    assert "dog/1.png" in said


def test_classes_that_are_rare_are_told(caplog: pytest.LogCaptureFixture) -> None:
    from edgespa.api.classes import tell_imbalance

    uneven = labelled([0] * 30 + [1] * 3, ("cat", "dog"), "pets")
    tell_imbalance(uneven, weighed=False)
    assert "30 images of 'cat' and 3 of 'dog', 10 times as many" in caplog.messages[0]
    assert "right in 91%" in caplog.messages[0]
    assert "--class-weights balanced" in caplog.messages[0]
    caplog.clear()
    tell_imbalance(uneven, weighed=True)
    assert "--class-weights" not in caplog.messages[0]
    caplog.clear()
    tell_imbalance(labelled([0] * 30 + [1] * 4, ("cat", "dog"), "pets"), weighed=False)
    assert not caplog.messages
