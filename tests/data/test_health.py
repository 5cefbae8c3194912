"""The health of data sets that were made ill on purpose."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgespa as es
from edgespa.data.alike import BITS, Looks, alike, look_of
from edgespa.findings.dataset import DataSet, Health


def photograph(seed: int, width: int = 96, height: int = 64) -> Image.Image:
    """Smooth, in colours, and no other like it."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def looks(*images: Image.Image) -> Looks:
    found = [look_of(pixels(each)) for each in images]
    digests = [pixels(each).tobytes() for each in images]
    return Looks(np.array([each[0] for each in found], np.uint64), np.stack([each[1] for each in found]), digests)


def test_the_same_picture_is_known_again() -> None:
    first, second, other = photograph(1), photograph(2), photograph(3)
    images = (
        *(first, second, other),
        first.copy(),
        as_jpeg(second, 60),
        second.resize((48, 32), Image.Resampling.BICUBIC),
    )
    exact, near = alike(looks(*images))
    assert exact == [[0, 3]]
    assert near == [[1, 4, 5]]
    assert alike(looks(*images), near=False) == ([[0, 3]], [])


def test_other_pictures_are_not_taken_for_one() -> None:
    assert alike(looks(*[photograph(seed) for seed in range(300)])) == ([], [])
    flat = [Image.new("RGB", (32, 32), (grey, grey, grey)) for grey in range(40)]
    assert alike(looks(*flat)) == ([], [])


def test_a_bit_in_each_part_but_one_is_a_candidate() -> None:
    small = np.tile(look_of(pixels(photograph(1)))[1], (2, 1, 1, 1))
    apart = sum(1 << (16 * part) for part in range(BITS))
    for hashes, wanted in (((0, apart), [[0, 1]]), ((0, apart | 1 << 60), [])):
        assert alike(Looks(np.array(hashes, np.uint64), small, [b"a", b"b"]))[1] == wanted


def write(path: Path, image: Image.Image, **how: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **how)  # type: ignore[arg-type]


@pytest.fixture
def ill(tmp_path: Path) -> Path:
    """Class folders with one of each."""
    root = tmp_path / "pets"
    for index in range(30):
        write(root / f"cat/{index:02}.png", photograph(index))
    for index in range(2):
        write(root / f"dog/{index:02}.png", photograph(100 + index, 40, 30))
    turned = Image.Exif()
    turned[0x0112] = 6
    write(root / "dog/turned.jpg", photograph(200, 64, 96), exif=turned)
    write(root / "cat/copy.png", photograph(3))
    write(root / "dog/wrong.png", photograph(4))  # of a cat
    write(root / "cat/grey.png", photograph(300).convert("L"))
    through = photograph(301).convert("RGBA")
    through.putalpha(100)
    write(root / "cat/through.png", through)
    whole = io.BytesIO()
    photograph(302).save(whole, "PNG")
    (root / "cat/cut.png").write_bytes(whole.getvalue()[:-200])
    (root / "dog/empty.jpg").write_bytes(b"")
    (root / "dog/notes.txt").write_text("nothing")
    return root


def check(found: DataSet, health: Health) -> None:
    assert (found.count, found.usable, found.kind) == (39, 37, "classes")
    assert [(each.name, each.images) for each in found.classes] == [("cat", 34), ("dog", 5)]
    assert sorted(each.file for each in found.unusable) == ["cat/cut.png", "dog/empty.jpg"]
    assert "object" not in " ".join(each.why for each in found.unusable)
    assert found.no_images.files == ("dog/notes.txt",)
    assert found.turned.files == ("dog/turned.jpg",)
    assert found.grey.files == ("cat/grey.png",)
    assert found.transparent.files == ("cat/through.png",)
    assert found.formats == {"PNG": 36, "JPEG": 1}
    assert found.modes == {"colour": 35, "grey": 1, "transparent": 1}
    assert (found.width.least, found.width.most) == (40, 96)  # type: ignore[union-attr]  # there are images
    assert found.sizes[0].images == 35
    assert [each.files for each in health.alike] == [("cat/04.png", "dog/wrong.png"), ("cat/03.png", "cat/copy.png")]
    assert health.alike[0].classes == ("cat", "dog")
    assert health.exact_copies == 2
    assert health.remarks[0].level == "error"
    told = " ".join(each.text for each in health.remarks)
    for words in ("2 of 39 cannot be used", "1 picture is there with different classes", "without colours", "turned"):
        assert words in told


def test_what_is_ill_is_told(ill: Path, tmp_path: Path) -> None:
    found = es.check_data(ill, input_shape=(1, 3, 48, 64), output=tmp_path / "f.json", progress=False)
    check(found.health.sets[0], found.health)
    assert not found.ok
    assert found.health.sets[0].smaller.count == 2
    assert es.DataCheck.read(tmp_path / "f.json").health == found.health
    text = repr(found)
    for words in ("cat/cut.png", "dog/empty.jpg", "classes", "ERROR: pets: 2 of 39", "--skip-bad-files"):
        assert words in text


def test_of_a_zip_all_names_are_told(ill: Path, tmp_path: Path) -> None:
    path = tmp_path / "pets.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(ill.rglob("*.*")):
            archive.write(file, file.relative_to(ill.parent))
    found = es.check_data(path, progress=False).health.sets[0]
    assert sorted(each.file for each in found.unusable) == ["pets/cat/cut.png", "pets/dog/empty.jpg"]


def test_pictures_that_both_sets_have(tmp_path: Path) -> None:
    for index in range(12):
        write(tmp_path / f"train/{'ab'[index % 2]}/{index}.png", photograph(index))
        write(tmp_path / f"test/{'ab'[index % 2]}/{index}.png", photograph(50 + index))
    write(tmp_path / "test/a/known.jpg", photograph(2), quality=90)
    found = es.check_data(tmp_path / "train", eval_data=tmp_path / "test", progress=False)
    assert found.health.shared == 1
    assert found.health.alike[0].sets == (0, 1)
    assert found.health.alike[0].files == ("train: a/2.png", "test: a/known.jpg")
    assert "1 images of test (7.7%) are pictures of train, too" in found.health.remarks[0].text


def test_images_alone_and_arrays_are_looked_at(tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / f"flat/{index}.png", photograph(index))
    flat = es.check_data(tmp_path / "flat", progress=False).health
    assert (flat.sets[0].kind, flat.sets[0].count, flat.sets[0].classes) == ("", 3, ())
    images = np.stack([pixels(photograph(index)) for index in (1, 2, 1)])
    arrays = es.check_data((images, np.array([0, 1, 1])), progress=False).health
    assert arrays.alike[0].files == ("item 0", "item 2")
    assert arrays.alike[0].classes == ("0", "1")


def test_masks(tmp_path: Path) -> None:
    for index in range(4):
        write(tmp_path / f"images/{index}.png", photograph(index))
        mask = np.zeros((64, 96), np.uint8)
        mask[:, :48] = 255 if index else 1
        if index == 3:
            mask[:] = 255
        write(tmp_path / f"masks/{index}.png", Image.fromarray(mask))
    (tmp_path / "classes.txt").write_text("ground\nroad\nsky\n")
    found = es.check_data(tmp_path, progress=False).health
    assert [(each.name, each.images, each.pixels) for each in found.sets[0].classes] == [
        ("ground", 3, 3 * 64 * 48),
        ("road", 1, 64 * 48),
        ("sky", 0, 0),
    ]
    assert found.sets[0].masks is not None
    assert found.sets[0].masks.ignored == pytest.approx(0.5)
    assert found.sets[0].masks.all_ignored.files == ("images/3.png",)
    assert any("no images of 1 of 3 classes: sky" in each.text for each in found.remarks)


def test_boxes(tmp_path: Path) -> None:
    lines = {0: "0 0.5 0.5 0.5 0.5\n", 1: "", 2: "1 0.5 0.5 0.03 0.5\n0 0.2 0.2 0.2 0.2\n", 3: "0 0.9 0.5 0.6 0.5\n"}
    for index, text in lines.items():
        write(tmp_path / f"images/train/{index}.png", photograph(index))
        (tmp_path / "labels/train").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"labels/train/{index}.txt").write_text(text)
    (tmp_path / "data.yaml").write_text("names: [cell, dot]\ntrain: images/train\n")
    found = es.check_data(f"{tmp_path}:train", input_shape=(1, 3, 64, 96), progress=False).health.sets[0]
    assert found.boxes is not None
    assert (found.count, found.usable, found.boxes.objects) == (4, 3, 3)
    assert [(each.name, each.images, each.objects) for each in found.classes] == [("cell", 2, 2), ("dot", 1, 1)]
    assert found.boxes.empty.files == ("images/train/1.png",)
    assert (found.boxes.tiny_objects, found.boxes.tiny.files) == (1, ("images/train/2.png",))
    assert found.unusable[0].file == "images/train/3.png"  # its box reaches out of it


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(es.EdgespaError, match="no images"):
        es.check_data(tmp_path, progress=False)


def test_files_that_are_no_images_are_named(ill: Path, caplog: pytest.LogCaptureFixture) -> None:
    from edgespa.data import load_data

    assert load_data(str(ill)).no_images == ("dog/notes.txt",)
    assert any("left out: dog/notes.txt" in text for text in caplog.messages)
