"""COCO: what is read, and what is wrong with a document, with the place in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgespa.data import load_data
from edgespa.data.drawn.coco import mirrored_pairs
from edgespa.errors import DataError
from tests.data.annotated import SIZES, document, picture, written

NAMES = ("a", "b", "c")


def _path(content: bytes, path: Path) -> Path:
    files = {f"images/{name}.jpg": picture(SIZES[name]) for name in NAMES}
    return written({**files, "annotations/instances.json": content}, path)


def _changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    whole = document(NAMES)
    change(whole)
    return json.dumps(whole).encode()


def _box(*box: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda whole: whole["annotations"][1].update(bbox=list(box))


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no area": (_box(5, 5, 0, 9), "annotations[1]: a box from (5, 5) to (5, 14), which has no area"),
    "outside": (
        _box(50, 5, 20, 9),
        "annotations[1]: a box from (50, 5) to (70, 14), outside of the picture of 60 x 40",
    ),
    "not finite": (_box(5, 5, float("nan"), 9), "annotations[1]: bbox is no [x, y, width, height]"),
    "three numbers": (_box(5, 5, 9), "annotations[1]: bbox is no"),
    "of nothing": (
        lambda whole: whole["annotations"][1].update(image_id="zz"),
        "annotations[1] is of the image 'zz', which is not among",
    ),
    "no such category": (lambda whole: whole["annotations"][1].update(category_id=5), "annotations[1]: the category 5"),
    "an id twice": (lambda whole: whole["annotations"][1].update(id=0), "annotations[1]: the id 0 is there twice"),
    "no such file": (lambda whole: whole["images"][1].update(file_name="../../b.png"), "images[1]: there is no image"),
    "another size": (lambda whole: whole["images"][1].update(width=61), "is of a picture of 61 x 40"),
    "the same file": (lambda whole: whole["images"][1].update(file_name="a.jpg"), "is of images/a.jpg, which"),
}
BROKEN: dict[str, tuple[bytes, str]] = {
    "an image twice": (_changed(lambda whole: whole["images"][1].update(id="a")), "images[1]: the id 'a'"),
    "a category twice": (_changed(lambda whole: whole["categories"][1].update(id=3)), "categories[2]: the id 3"),
    "a name twice": (
        _changed(lambda whole: whole["categories"][1].update(name="cat")),
        "two categories are called 'cat'",
    ),
    "no image": (_changed(lambda whole: whole["annotations"][0].pop("image_id")), "annotations[0] has no 'image_id'"),
    "no list": (_changed(lambda whole: whole.update(images=[3])), "images[0] has no 'id'"),
    "cut off": (json.dumps(document(NAMES), indent=1).encode()[:-9], "not whole JSON"),
    "without an end": (b'{"images": [], "annotations": [], "categories": [' + b"[" * 100_000, "instances.json"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_annotation_that_is_wrong_is_named(name: str, tmp_path: Path) -> None:
    change, words = WRONG[name]
    path = _path(_changed(change), tmp_path)
    with pytest.raises(DataError) as caught:
        load_data(str(path))
    assert words in caught.value.message
    assert "instances.json" in caught.value.message
    assert "--skip-bad-files" in str(caught.value.hint)
    assert len(load_data(str(path), skip=True)) in (2, 3)


@pytest.mark.parametrize("name", BROKEN)
def test_a_document_that_is_wrong_is_named(name: str, tmp_path: Path) -> None:
    content, words = BROKEN[name]
    with pytest.raises(DataError) as caught:
        load_data(str(_path(content, tmp_path)), skip=True)
    assert words in caught.value.message


def test_crowds_are_ignored_and_ids_need_no_order(tmp_path: Path) -> None:
    whole = document(NAMES)
    whole["annotations"][0]["iscrowd"] = 1
    whole["annotations"].reverse()
    data = load_data(str(_path(json.dumps(whole).encode(), tmp_path)))
    objects = data.answer(0).objects
    assert data.classes == ("cat", "dog", "emu")
    assert (objects.labels.tolist(), objects.ignored.tolist()) == ([2, 0], [False, True])


def test_left_and_right() -> None:
    names = ["nose", "left_eye", "right_eye", "l-hip", "r-hip", "LeftKnee", "RightKnee", "tail"]
    assert mirrored_pairs(names) == ((1, 2), (3, 4), (5, 6))
    assert mirrored_pairs(["tip", "bleft", "palm"]) == ()


@pytest.mark.parametrize("name", ["annotations/instances_train.json", "train/_annotations.coco.json"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"[1]", b"{}", b"", b"\xff\xfe"])
def test_what_is_called_so_is_told_also_if_it_is_none(name: str, content: bytes, tmp_path: Path) -> None:
    files = {"images/a.png": picture((8, 8)), "train/a.png": picture((8, 8)), name: content}
    with pytest.raises(DataError, match=name.split("/")[-1]):
        load_data(f"{written(files, tmp_path)}:train")
