"""Pascal VOC: what is read, and what is wrong with a file, with its name and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgespa.data import load_data
from edgespa.data.boxes import BoxAnswers
from edgespa.errors import DataError
from tests.data.annotated import Files, picture, voc, written, xml


def _load(path: Path, files: Files, split: str = "train") -> str:
    """What is said of files that cannot be used."""
    with pytest.raises(DataError) as caught:
        load_data(f"{written(files, path)}:{split}")
    return f"{caught.value.message} | {caught.value.hint}"


BOMB = b'<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation><filename>&b;</filename></annotation>'
OUTSIDE = b'<!DOCTYPE annotation SYSTEM "file:///etc/passwd"><annotation/>'
WRONG: dict[str, tuple[bytes, str]] = {
    "entities": (BOMB, "a.xml, line 1: it defines a document type"),
    "another file": (OUTSIDE, "a.xml, line 1: it defines a document type"),
    "cut off": (xml([(0, 1, 1, 5, 5)], (40, 60))[:-5], "a.xml, line 3: not whole XML"),
    "no such encoding": (b'<?xml version="1.0" encoding="utf-99"?><annotation/>', "not whole XML"),
    "another document": (b"<svg></svg>", "no annotation of Pascal VOC: it begins with <svg>"),
    "deep": (b"<annotation>" + b"<a>" * 50, "too much of it"),
    "no number": (
        xml([(0, 1, 1, 5, 5)], (40, 60)).replace(b"<xmax>5", b"<xmax>five"),
        "line 2: <xmax> is 'five', no number",
    ),
    "not a number": (
        xml([(0, 1, 1, 5, 5)], (40, 60)).replace(b"<xmax>5", b"<xmax>nan"),
        "a coordinate that is not a number",
    ),
    "no side": (xml([(0, 1, 1, 5, 5)], (40, 60)).replace(b"xmax", b"xother"), "an object without <xmax>"),
    "no name": (xml([("", 1, 1, 5, 5)], (40, 60)), "line 2: an object without a <name>"),
    "no area": (
        xml([(0, 1, 1, 5, 5), (0, 9, 9, 5, 12)], (40, 60)),
        "line 3: a box from 10, 10 to 5, 12, which has no area",
    ),
    "outside": (
        xml([(0, 30, 1, 70, 5)], (40, 60)),
        "a.xml, line 2: a box from (30, 1) to (70, 5), outside of the picture of 60 x 40",
    ),
    "another picture": (
        xml([(0, 1, 1, 5, 5)], (80, 60)),
        "a.xml is of a picture of 60 x 80, and JPEGImages/a.jpg has 60 x 40",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_wrong_is_named(name: str, tmp_path: Path) -> None:
    content, words = WRONG[name]
    said = _load(tmp_path, {**voc(), "Annotations/a.xml": content})
    assert words in said
    assert "1 of 3 image cannot" in said


def test_files_without_each_other(tmp_path: Path) -> None:
    files = voc()
    del files["Annotations/a.xml"], files["JPEGImages/b.jpg"]
    said = _load(tmp_path, {**files, "ImageSets/Main/train.txt": b"a\nb\nx\n"})
    assert "train.txt names a, which has no annotation" in said
    assert "Annotations/b.xml has no picture: none is called b" in said
    assert "train.txt names x, which has neither picture nor annotation" in said


def test_pictures_without_annotation_are_counted_where_no_list_names_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {name: content for name, content in voc().items() if not name.startswith("ImageSets")}
    del files["Annotations/a.xml"]
    assert len(load_data(str(written(files, tmp_path)))) == 3
    assert "1 pictures have no annotation" in caplog.text


def test_ends_of_boxes_and_what_is_difficult(tmp_path: Path) -> None:
    """Counted from 1, both ends inside; some tools write 0, and sizes of 0."""
    whole = xml([("x", 0, 0, 60, 40), ("y", 4, 4, 5, 5, 1)], (0, 0)).replace(b"<xmin>1<", b"<xmin>0<")
    data = load_data(str(written({"p/a.jpg": picture((40, 60)), "p/a.xml": whole}, tmp_path)))
    objects, size = data.answer(0)
    assert objects.boxes.tolist() == [[0, 0, 60, 40], [4, 4, 5, 5]]
    assert objects.ignored.tolist() == [False, True]
    assert (size, data.classes) == ((40, 60), ("x", "y"))


def test_the_file_name_inside_counts_where_the_own_does_not_fit(tmp_path: Path) -> None:
    files = {"i/a.jpg": picture((40, 60)), "annotations/0001.xml": xml([(0, 1, 1, 5, 5)], None, "a.jpg")}
    files["i/b.jpg"] = picture((40, 60))
    assert len(load_data(str(written(files, tmp_path)))) == 1


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize(
    ("turn", "box"),
    # drawn at (2, 4) to (10, 8) on a picture that is stored 60 wide and 40 high
    [(1, [2, 4, 10, 8]), (5, [4, 2, 8, 10]), (6, [32, 2, 36, 10]), (7, [32, 50, 36, 58]), (8, [4, 50, 8, 58])],
)
def test_boxes_of_a_picture_as_it_is_stored_turn_with_it(
    turn: int, box: list[float], kind: str, tmp_path: Path
) -> None:
    end = {"JPEG": "jpg", "TIFF": "tif", "PNG": "png"}[kind]
    files = {f"a.{end}": picture((40, 60), turn, kind), "a.xml": xml([(0, 2, 4, 10, 8)], (40, 60))}
    objects, size = load_data(str(written(files, tmp_path))).answer(0)
    assert size == ((40, 60) if turn < 5 else (60, 40))
    assert objects.boxes.tolist() == [box]


def test_boxes_of_a_picture_as_it_is_seen_stay(tmp_path: Path) -> None:
    files = {"a.jpg": picture((40, 60), 6), "a.xml": xml([(0, 2, 4, 10, 8)], (60, 40))}
    objects, size = load_data(str(written(files, tmp_path))).answer(0)
    assert (size, objects.boxes.tolist()) == ((60, 40), [[2, 4, 10, 8]])


def test_blood_cells(data_dir: Path) -> None:
    source = data_dir / "bccd_voc.zip"
    for split, pictures, boxes in (
        ("train", 205, [209, 2382, 214]),
        ("val", 87, [83, 968, 87]),
        ("test", 72, [69, 805, 71]),
    ):
        data = load_data(f"{source}:{split}")
        assert (len(data), data.classes) == (pictures, ("Platelets", "RBC", "WBC"))
        answers = data.answers
        assert isinstance(answers, BoxAnswers)
        assert answers.counts(np.arange(pictures), 3).tolist() == boxes
        assert (answers.boxes[:, 2:] > answers.boxes[:, :2]).all()
    assert len(load_data(str(source), labelled=False)) == 364
