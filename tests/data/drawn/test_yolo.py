"""YOLO: what a line says, what is wrong with one, and what data.yaml names."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespa.data import load_data
from edgespa.data.drawn.marked import Wrong
from edgespa.data.drawn.yolo import parse_line
from edgespa.errors import DataError
from tests.data.annotated import Files, picture, written, yolo, yolo_named

WRONG = {
    "0 .5 .5 .2": "4 numbers",
    "0 .5 .5 .2 x": "has what is no number",
    "0 .5 nan .2 .2": "a value that is not a number",
    "1.5 .5 .5 .2 .2": "the class 1.5",
    "-1 .5 .5 .2 .2": "the class -1",
    "0 .5 .5 0 .2": "a box of width 0",
    "0 .5 .5 -.1 .2": "a box of width -0.1",
    "0 .9 .5 .4 .2": "a box outside of its picture",
    "0 320 240 50 60": "320 240 50 60 is pixels",
    "0 .1 .1 .2 .2 .3": "6 numbers are neither a box nor a polygon",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_line_that_is_wrong_is_named(line: str) -> None:
    with pytest.raises(Wrong, match=r"f\.txt, line 3: ") as caught:
        parse_line(line, "f.txt, line 3", 3)
    assert WRONG[line] in str(caught.value)


def test_boxes_polygons_and_key_points() -> None:
    assert parse_line("2 0.5 0.25 0.5 0.125", "", 1).box == (0.25, 0.1875, 0.75, 0.3125)
    assert parse_line("1 0.25 0.5 0.75 0.25 0.5 1", "", 1).box == (0.25, 0.25, 0.75, 1)
    assert parse_line("0 0.5 0.5 0.5 0.5 0.1 0.1 2", "", 1, points=True).box == (0.25, 0.25, 0.75, 0.75)


def _said(files: Files, path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_data(f"{written(files, path)}:train")
    return f"{caught.value.message} | {caught.value.hint}"


def test_a_file_without_a_picture_is_named(tmp_path: Path) -> None:
    said = _said({**yolo(), "labels/train/zzz.txt": b"0 .5 .5 .1 .1\n"}, tmp_path)
    assert "labels/train/zzz.txt has no picture" in said


@pytest.mark.parametrize("line", WRONG)
def test_where_there_is_one_picture_its_only_line_is_named(line: str, tmp_path: Path) -> None:
    files = {"data.yaml": b"names: [cat, dog, emu]\n", "images/train/a.png": picture((8, 8))}
    said = _said({**files, "labels/train/a.txt": line.encode()}, tmp_path)
    assert "labels/train/a.txt, line 1: " in said


NAMES = {
    "names: [cat, yes, emu]": "no list of texts",
    "names: {0: cat, 2: dog}": "names have the numbers [0, 2]",
    "names: []": "no list of texts",
    "nc: 4\nnames: [cat, dog, emu]": "nc is 4, and 3 names",
    "names: [cat": "not whole YAML",
    "a: &a [1]\nnames: [cat, *a]": "aliases",
    "names: !!python/object/apply:os.system ['true']": "not whole YAML",
}


@pytest.mark.parametrize("text", NAMES)
def test_names_that_are_none(text: str, tmp_path: Path) -> None:
    said = _said({**yolo(), "data.yaml": text.encode()}, tmp_path)
    assert NAMES[text] in said
    assert "data.yaml" in said


def test_numbers_are_names_where_nothing_says_them(tmp_path: Path) -> None:
    files = yolo_named()
    del files["classes.txt"]
    assert load_data(f"{written(files, tmp_path)}:train").classes == ("0", "1", "2")


def test_names_above_all_folders_are_found(tmp_path: Path) -> None:
    files = {"classes.txt": b"cat\ndog\n", "all/a.jpg": picture((40, 60)), "all/a.txt": b"1 .5 .5 .2 .2\n"}
    assert load_data(str(written(files, tmp_path))).classes == ("cat", "dog")


def test_splits_of_the_yaml_go_before_folders_and_may_be_lists(tmp_path: Path) -> None:
    files = {f"images/{name}.jpg": picture((40, 60)) for name in "abcd"}
    files |= {f"labels/{name}.txt": b"0 .5 .5 .2 .2\n" for name in "abcd"}
    files["train.txt"] = b"./images/a.jpg\n/their/own/images/c.jpg\n"
    files["data.yaml"] = b"path: /their/own\ntrain: train.txt\nval: images\nnames: [cat]\n"
    path = written(files, tmp_path)
    assert [len(load_data(f"{path}:{split}")) for split in ("train", "val")] == [2, 4]
    (path / "train.txt").write_text("images/a.jpg\nimages/e.jpg\n")
    with pytest.raises(DataError, match=r"train\.txt, line 2: there is no such picture"):
        load_data(f"{path}:train")
