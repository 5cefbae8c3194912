"""What annotation tools write is found out by what a folder looks like; all say the same of the same pictures."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from edgespa.config import Preprocess
from edgespa.data import ImageData, load_data, prepare
from edgespa.errors import DataError
from tests.data.annotated import BOXES, CLASSES, LAYOUTS, SPLITS, picture, voc, written, xml, yolo

HOW = Preprocess(height=32, width=32, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)


def said(data: ImageData) -> list[list[tuple[float, ...]]]:
    """Of each picture class and box, in order."""
    found = [data.answer(index).objects for index in range(len(data))]
    return [
        [
            (label, *(round(side, 3) for side in box))
            for label, box in zip(each.labels.tolist(), each.boxes.tolist(), strict=True)
        ]
        for each in found
    ]


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_all_say_the_same(name: str, zipped: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(LAYOUTS[name](), tmp_path, zipped, top="inside/" if zipped else "")
    with caplog.at_level(logging.INFO):
        for split, names in SPLITS.items():
            data = load_data(f"{path}:{split}")
            assert (data.kind, data.has_boxes, data.labelled) == ("detection", True, False)
            assert data.classes == CLASSES
            assert said(data) == [BOXES[each] for each in names]
            images, targets = next(prepare(data, HOW).batches(8))
            assert len(images) == len(targets) == len(names)
    assert {"voc": "Pascal VOC", "coco": "COCO JSON", "yolo": "YOLO"}[name.split()[0]] in caplog.text
    assert "3 pictures, 1 of nothing, 3 boxes of 3 classes" in caplog.text


@pytest.mark.parametrize("name", LAYOUTS)
def test_splits_are_asked_about(name: str, tmp_path: Path) -> None:
    path = written(LAYOUTS[name](), tmp_path)
    with pytest.raises(DataError, match="has splits") as caught:
        load_data(str(path))
    assert ":train" in str(caught.value.hint)
    with pytest.raises(DataError, match="no split 'trian'") as caught:
        load_data(f"{path}:trian")
    assert "train" in str(caught.value.hint)
    assert len(load_data(str(path), labelled=False)) == 4  # the pictures alone: nothing leaks
    assert len(load_data(f"{path}:val", labelled=False)) == 1


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_split_needs_no_name(name: str, tmp_path: Path) -> None:
    files = {key: content for key, content in LAYOUTS[name]().items() if "val" not in key and "/d." not in key}
    if "data.yaml" in files:
        files["data.yaml"] = b"names: {0: cat, 1: dog, 2: emu}\n"
    assert said(load_data(str(written(files, tmp_path)))) == [BOXES[each] for each in SPLITS["train"]]


@pytest.mark.parametrize(("name", "folder"), [("voc", "JPEGImages"), ("coco", "val2017"), ("yolo", "images/val")])
def test_a_folder_of_pictures_can_be_named_where_nothing_else_is_needed(name: str, folder: str, tmp_path: Path) -> None:
    path = written(LAYOUTS[name](), tmp_path)
    assert len(load_data(f"{path}:{folder}", labelled=False)) == (4 if name == "voc" else 1)


def test_class_folders_stay_classes(tmp_path: Path) -> None:
    """With files of a tool beside the pictures, as some write them for classes too."""
    files = {f"{kind}/{name}.jpg": picture((20, 20)) for kind in ("cat", "dog") for name in "ab"}
    files |= {f"{kind}/{name}.xml": xml([(0, 1, 1, 5, 5)], (20, 20)) for kind in ("cat", "dog") for name in "ab"}
    path = written(files, tmp_path)
    assert load_data(str(path)).kind == "classes"
    data = load_data(str(path), wanted="boxes")
    assert (data.kind, len(data)) == ("detection", 4)


def test_text_beside_pictures_is_no_box(tmp_path: Path) -> None:
    files = {f"{kind}/{name}.jpg": picture((20, 20)) for kind in ("cat", "dog") for name in "ab"}
    files |= {f"{kind}/{name}.txt": b"a photograph of 1 animal\n" for kind in ("cat", "dog") for name in "ab"}
    assert load_data(str(written({**files, "meta.json": b'{"images": [1]}'}, tmp_path))).kind == "classes"


def test_masks_are_learned_where_there_are_both(tmp_path: Path) -> None:
    files = voc()
    files |= {f"SegmentationClass/{name}.png": b"" for name in "abcd"}
    with pytest.raises(DataError):  # looked at as masks, which these are not
        load_data(f"{written(files, tmp_path)}")
    assert load_data(f"{tmp_path / 'set'}:train", wanted="boxes").has_boxes


def test_what_is_wrong_is_told_of_all_and_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = yolo()
    files["labels/train/a.txt"] = b"0 .5 .5 .2 .2\n9 .5 .5 .2 .2\n"
    files["images/train/b.jpg"] = files["images/train/b.jpg"][:40]
    path = written(files, tmp_path)
    with pytest.raises(DataError) as caught:
        load_data(f"{path}:train")
    assert "2 of 3 images cannot be used" in caught.value.message
    assert "labels/train/a.txt, line 2: the class 9, and data.yaml names 3" in caught.value.message
    assert "images/train/b.jpg is not a whole image" in caught.value.message
    assert "--skip-bad-files" in str(caught.value.hint)
    data = load_data(f"{path}:train", skip=True)
    assert said(data) == [[]]
    assert "2 of 3 images cannot be used" in caplog.text
    assert "left out" in caplog.text


def test_nothing_left_is_an_error_all_the_same(tmp_path: Path) -> None:
    files = yolo()
    for name in "abc":
        files[f"images/train/{name}.jpg"] = b""
    with pytest.raises(DataError, match="3 of 3"):
        load_data(f"{written(files, tmp_path)}:train", skip=True)
