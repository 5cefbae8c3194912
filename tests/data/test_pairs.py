"""Photographs and their masks are no classes, and classes of any name are."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgespa.data import load_data
from edgespa.errors import DataError

RANDOM = np.random.default_rng(4)
SIZE = (24, 30)


def _stored(pixels: np.ndarray, suffix: str) -> bytes:
    buffer = io.BytesIO()
    kind = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "gif": "GIF"}[suffix]
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def photo(suffix: str = "jpg", grey: bool = False) -> bytes:
    """As many colours as pixels, nearly: noise on a slope."""
    slope = np.linspace(20, 200, SIZE[1])[None, :, None] + RANDOM.normal(0, 18, (*SIZE, 3))
    pixels = slope.clip(0, 255).astype(np.uint8)
    return _stored(pixels[:, :, 0] if grey else pixels, suffix)


def mask(suffix: str = "png", colours: bool = False) -> bytes:
    """A few areas."""
    areas = np.zeros(SIZE, np.uint8)
    areas[5:15, 4:20], areas[16:20, 10:28] = 1, 2
    palette = np.array([[0, 0, 0], [128, 64, 0], [0, 255, 9]], np.uint8)
    return _stored(palette[areas] if colours else areas * 90, suffix)


def drawing() -> bytes:
    """Few colours too: a sketch."""
    return mask("png", colours=True)


Files = dict[str, bytes]


def _of(count: int, **folders: Callable[[], bytes]) -> Files:
    """``photo_=...``: a name that ends in ``jpg`` or ``png``, ``{}`` for the number."""
    return {name.format(number): make() for number in range(count) for name, make in folders.items()}


NOT_CLASSES: dict[str, Files] = {
    "images and masks": _of(5, **{"images/{:03}.jpg": photo, "masks/{:03}.png": mask}),
    "photo and mask": _of(3, **{"photo/{}.jpg": photo, "mask/{}.png": mask}),
    "masks of colours": _of(4, **{"img/{}.png": lambda: photo("png"), "labels/{}.png": lambda: mask(colours=True)}),
    "as jpg": _of(4, **{"image/{}.jpg": photo, "annotations/{}.jpg": lambda: mask("jpg")}),
    "VOC": _of(4, **{
        "JPEGImages/{}.jpg": photo, "SegmentationClass/{}.png": mask, "SegmentationObject/{}.png": mask,
        "Annotations/{}.xml": lambda: b"<a/>",
    }),
    "two masks to each": _of(4, **{
        "images/{}.jpg": photo, "gtFine/{}_labelIds.png": mask, "gtFine/{}_color.png": mask,
    }),
    "suffix of a letter": _of(4, **{"701_StillsRaw/0001TP_{:05}.png": lambda: photo("png"),
                                    "LabeledApproved_label/0001TP_{:05}_L.png": mask}),
    "DRIVE": _of(4, **{
        "images/{}_training.tif": lambda: photo("tif"), "1st_manual/{}_manual1.gif": lambda: mask("gif"),
    }),
    "nnU-Net": _of(4, **{"imagesTr/case_{:03}.png": lambda: photo("png"), "labelsTr/case_{:03}.png": mask}),
    "X-rays": _of(4, **{"CXR_png/{}.png": lambda: photo("png", grey=True), "ManualMask/{}.png": mask}),
    "masks of some": {**_of(6, **{"images/{}.jpg": photo}), **_of(2, **{"masks/{}.png": mask})},
    "words in one": _of(4, **{"train/{}.png": lambda: photo("png"), "trainannot/{}.png": mask}),
    "of another split": _of(4, **{"train/{}_01.jpg": photo, "train_masks/{}_01_mask.gif": lambda: mask("gif")}),
    "splits": _of(4, **{"train/{}.png": lambda: photo("png"), "test/{}.png": lambda: photo("png")}),
    "splits of a year": _of(4, **{
        "train2017/{}.jpg": photo, "val2017/{}.jpg": photo, "annotations/i.json": lambda: b"",
    }),
    "in one folder": _of(4, **{"{}.jpg": photo, "{}.png": mask}),
    "in one folder, named": _of(4, **{"{}.png": lambda: photo("png"), "{}_mask.png": mask}),
    "both named": _of(4, **{"{}_sat.jpg": photo, "{}_mask.png": mask}),
    "inside of classes": _of(4, **{
        "benign/benign ({}).png": lambda: photo("png"), "benign/benign ({})_mask.png": mask,
        "normal/normal ({}).png": lambda: photo("png"), "normal/normal ({})_mask.png": mask,
    }),
}  # fmt: skip
CLASSES: dict[str, Files] = {
    "the same names": _of(6, **{f"{name}/{{:04}}.jpg": photo for name in ("cat", "dog", "ant")}),
    "masks that are worn": _of(6, **{"with_mask/{:04}.jpg": photo, "without_mask/{:04}.jpg": photo}),
    "mask and no mask": _of(6, **{"mask/{:04}.jpg": photo, "image/{:04}.jpg": photo}),
    "a class called images": _of(6, **{"images/{:04}.jpg": photo, "labels/{:04}.jpg": photo}),
    "other names": {**_of(4, **{"images/{}.jpg": photo}), **_of(4, **{"masks/m{}.png": mask})},
    "photographs and sketches": _of(6, **{"photo/{:04}.png": lambda: photo("png"), "sketch/{:04}.png": drawing}),
    "flat all of them": _of(6, **{"label/{:04}.png": drawing, "logo/{:04}.png": drawing}),
    "digits": _of(6, **{f"{name}/{{}}.png": mask for name in range(10)}),
    "two kinds of file": {**_of(4, **{"cat/{}.jpg": photo, "dog/{}.jpg": photo}), **_of(4, **{"cat/{}.png": photo})},
    "vehicles": _of(4, **{"train/{}.jpg": photo, "bus/{}.jpg": photo}),
    "many": {f"{name}/1.png": mask() if name == "mask" else photo("png") for name in [*"abcdefghi", "mask"]},
}  # fmt: skip


def write(folder: Path, files: Files, packed: bool) -> Path:
    if packed:
        with zipfile.ZipFile(folder / "d.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(f"top/{name}", content)
        return folder / "d.zip"
    for name, content in files.items():
        (folder / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "d" / name).write_bytes(content)
    return folder / "d"


REFUSED = {
    "masks of colours": "is a mask of colours",
    "as jpg": "different values: depths or shades",
    "two masks to each": "has several masks",
    "splits": "look like splits",
    "splits of a year": "look like splits",
    "inside of classes": "look like masks",
}


def source_is_gif(name: str) -> bool:
    """A palette numbers its colours itself."""
    return any(file.endswith(".gif") for file in NOT_CLASSES[name])


@pytest.mark.parametrize("name", NOT_CLASSES)
@pytest.mark.parametrize("packed", [False, True])
def test_masks_are_no_classes(tmp_path: Path, name: str, packed: bool) -> None:
    """They are learned as masks, or asked about; whoever wants images alone gets the photographs."""
    source = write(tmp_path, NOT_CLASSES[name], packed)
    if name in REFUSED:
        with pytest.raises(DataError, match=REFUSED[name]):
            load_data(str(source))
    else:
        data = load_data(str(source))
        assert data.kind == "segmentation"
        assert data.classes == (("0", "1", "2") if source_is_gif(name) else ("0", "90", "180"))
        assert data.answer(0).shape == data.image(0).shape[:2]
        assert np.unique(data.answer(0)).tolist() == [0, 1, 2]
    if REFUSED.get(name, "").startswith("look like"):
        with pytest.raises(DataError, match="look like"):
            load_data(str(source), labelled=False)
    else:
        images = load_data(str(source), labelled=False)
        assert all(len(np.unique(images.image(index))) > 64 for index in range(len(images)))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("packed", [False, True])
def test_classes_stay_classes(tmp_path: Path, name: str, packed: bool) -> None:
    source = write(tmp_path, CLASSES[name], packed)
    data = load_data(str(source))
    assert data.classes == tuple(sorted({file.partition("/")[0] for file in CLASSES[name]}))
    assert len(data) == len(CLASSES[name])


ANNOTATED: dict[str, tuple[Files, str | None, str]] = {
    "VOC": (_of(3, **{"JPEGImages/{}.jpg": photo, "Annotations/{}.xml": lambda: b"<a/>"}), None, "JPEGImages"),
    "VOC whole": (
        _of(3, **{"JPEGImages/{}.jpg": photo, "Annotations/{}.xml": lambda: b"<a/>",
                  "ImageSets/Main/{}.txt": lambda: b""}), None, "JPEGImages"),
    "texts": (
        _of(3, **{"train/images/{}.jpg": photo, "train/labels/{}.txt": lambda: b"a cat"}), "train", "train/images"),
    "texts the other way": (
        _of(3, **{"images/train/{}.jpg": photo, "labels/train/{}.txt": lambda: b"a cat"}), None, "images/train"),
    "masks the other way": (_of(3, **{"images/val/{}.jpg": photo, "masks/val/{}.png": mask}), None, "images/val"),
    "COCO": ({**_of(3, **{"images/{}.jpg": photo}), "annotations/instances.json": b"{}"}, None, "images"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANNOTATED)
@pytest.mark.parametrize("packed", [False, True])
def test_annotations_are_told_and_the_images_alone_can_be_named(tmp_path: Path, name: str, packed: bool) -> None:
    files, split, images = ANNOTATED[name]
    source = write(tmp_path, files, packed)
    with pytest.raises(DataError) as caught:
        load_data(f"{source}:{split}" if split else str(source))
    assert "annotations" in f"{caught.value.message} {caught.value.hint}"
    named = str(caught.value.hint).rpartition(" ")[2]
    assert named.endswith(images)
    assert len(load_data(named, labelled=False)) == 3


def test_a_split_of_the_other_way_is_suggested(tmp_path: Path) -> None:
    source = write(tmp_path, ANNOTATED["texts the other way"][0], False)
    with pytest.raises(DataError, match="no split 'train'") as caught:
        load_data(f"{source}:train", labelled=False)
    assert "images/train" in str(caught.value.hint)


def test_many_files_take_no_time(tmp_path: Path) -> None:
    """None of them is opened."""
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for index in range(20_000):
            archive.writestr(f"{index % 20}/image_{index:05}.{'jpg' if index % 3 else 'png'}", b"")
    before = time.process_time()
    assert len(load_data(str(tmp_path / "d.zip"))) == 20_000
    assert time.process_time() - before < 3


def test_camvid(data_dir: Path) -> None:
    source = data_dir / "camvid_240x180.zip"
    data = load_data(f"{source}:train")
    assert (len(data), len(data.classes), data.classes[0]) == (367, 11, "sky")  # the twelfth is "unlabelled"
    assert set(np.unique(data.answer(0))) <= {*range(11), 255}
    assert len(load_data(f"{source}:train", labelled=False)) == 367
    assert len(load_data(f"{source}:train/images", labelled=False)) == 367
