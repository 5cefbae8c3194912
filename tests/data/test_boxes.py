"""Boxes go where their picture goes, by numbers worked out by hand; parts of them are drawn evenly."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import _pytree

from edgespa.api.classes import of_classes
from edgespa.config import Preprocess
from edgespa.data import ImageData, Numbering, prepare
from edgespa.data.arrays import ArraySource
from edgespa.data.boxes import BoxAnswers, Drawn, Objects, fit_objects
from edgespa.errors import ConfigError, DataError
from edgespa.objectives.base import on_device


def _how(height: int, width: int, **more: Any) -> Preprocess:
    return Preprocess(height=height, width=width, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3, **more)


def _objects(*boxes: tuple[float, ...], labels: list[int] | None = None, ignored: list[bool] | None = None) -> Objects:
    return Objects(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels if labels is not None else [0] * len(boxes), dtype=torch.int64),
        torch.tensor(ignored if ignored is not None else [False] * len(boxes), dtype=torch.bool),
    )


def _data(pictures: list[Objects], size: tuple[int, int] = (20, 40), classes: int = 3) -> ImageData:
    images = np.zeros((len(pictures), *size, 3), np.uint8)
    answers = BoxAnswers.of([Drawn(each, size) for each in pictures])
    return ImageData(ArraySource(images), None, [f"c{k}" for k in range(classes)], "made", answers=answers)


# A picture of 40 x 20 (width x height), and a box from (10, 4) to (30, 16) in it.
FITTED = {
    # twice as high, half as wide
    "stretch": (_how(40, 20), [[5, 8, 15, 32]]),
    # 40 x 20 covers 20 x 20 as it is; of the width the middle, from 10 on
    "crop": (_how(20, 20, resize="crop"), [[0, 4, 20, 16]]),
    # becomes 80 x 40, of that the middle 20 x 20 begins at (30, 10)
    "crop of more": (_how(20, 20, resize="crop", resize_to=(40, 40)), [[0, 0, 20, 20]]),
    # becomes 20 x 10, below 5 rows of padding
    "letterbox": (_how(20, 20, resize="letterbox"), [[5, 7, 15, 13]]),
    "letterbox enlarged": (_how(80, 80, resize="letterbox"), [[20, 28, 60, 52]]),
}


@pytest.mark.parametrize("name", FITTED)
def test_boxes_land_where_their_picture_lands(name: str) -> None:
    how, wanted = FITTED[name]
    found = fit_objects(Drawn(_objects((10, 4, 30, 16), labels=[2], ignored=[True]), (20, 40)), how)
    assert found.boxes.tolist() == wanted
    assert found.boxes.dtype == torch.float32
    assert (found.labels.tolist(), found.ignored.tolist()) == ([2], [True])


def test_what_a_crop_leaves_out_is_dropped_and_the_rest_cut() -> None:
    drawn = Drawn(
        _objects((0, 0, 10, 20), (0, 5, 12, 9), (29.5, 0, 40, 20), (12, 2, 14, 3), labels=[0, 1, 2, 0]), (20, 40)
    )
    found = fit_objects(drawn, _how(20, 20, resize="crop"))  # of the width 10 to 30
    assert found.boxes.tolist() == [[0, 5, 2, 9], [19.5, 0, 20, 20], [2, 2, 4, 3]]
    assert found.labels.tolist() == [1, 2, 0]


@pytest.mark.parametrize("kind", ["stretch", "crop", "letterbox"])
def test_a_bright_rectangle_stays_in_its_box(kind: str) -> None:
    images = np.zeros((1, 60, 100, 3), np.uint8)
    images[0, 20:40, 40:70] = 255
    answers = BoxAnswers.of([Drawn(_objects((40, 20, 70, 40)), (60, 100))])
    data = ImageData(ArraySource(images), None, ["c"], "made", answers=answers)
    image, objects = next(
        prepare(data, _how(48, 64, resize=kind, padding=(0,) if kind == "letterbox" else None)).batches(1)
    )
    rows, columns = np.nonzero(image[0, 0].numpy() > 0.5)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert objects[0].boxes[0].tolist() == pytest.approx(seen, abs=0.75)


def test_a_batch_is_a_list_of_objects() -> None:
    pictures = [_objects((1, 1, 5, 5)), _objects(), _objects((2, 2, 9, 9), (3, 3, 4, 4), labels=[1, 2])]
    prepared = prepare(_data(pictures), _how(20, 40))
    assert prepared.kind == "detection"
    ((images, targets),) = prepared.batches(3)
    assert images.shape == (3, 3, 20, 40)
    assert [each.labels.tolist() for each in targets] == [[0], [], [1, 2]]
    assert targets[1].boxes.shape == (0, 4)
    moved = on_device(targets, torch.device("meta"))
    assert all(each.boxes.is_meta and each.ignored.is_meta for each in moved)
    assert len(_pytree.tree_leaves(targets)) == 9


def test_a_part_is_drawn_evenly_over_the_rarest_classes() -> None:
    common, rare = _objects((1, 1, 5, 5)), _objects((1, 1, 5, 5), (2, 2, 4, 4), labels=[0, 1])
    data = _data([common] * 6 + [rare] * 2 + [_objects()] * 2)
    for seed in range(5):
        part = data.limit(3, seed)
        assert sorted(tuple(part.answer(index).objects.labels.tolist()) for index in range(3)) == [(), (0,), (0, 1)]
    assert data.answers is not None
    assert data.answers.groups(np.array([9, 7])).tolist() == [2, 0]  # of these, both classes are in one picture
    assert data.answers.groups(np.array([0, 1, 7])).tolist() == [0, 0, 1]
    assert _data([_objects()] * 3).answers.groups(np.arange(2)).tolist() == [0, 0]  # type: ignore[union-attr]
    rest, held = data.split(0.5, 1)
    rarest = [[each for each in range(len(some)) if len(some.answer(each).objects) == 2] for some in (rest, held)]
    assert [len(each) for each in rarest] == [1, 1]


def test_the_digest_is_of_the_boxes() -> None:
    pictures = [_objects((1, 1, 5, 5)), _objects((2, 2, 9, 9), labels=[1])]
    same, data = _data(pictures), _data(pictures)
    assert data.digest == same.digest
    changed = [
        _data([pictures[0], _objects((2, 2, 9, 9.5), labels=[1])]),
        _data([pictures[0], _objects((2, 2, 9, 9), labels=[2])]),
        _data([pictures[0], dataclasses.replace(pictures[1], ignored=torch.tensor([True]))]),
        _data([pictures[1], pictures[0]]),
        _data(pictures, (30, 40)),
        data.subset([1, 0]),
    ]
    assert len({data.digest, *(each.digest for each in changed)}) == 7


def test_classes_go_by_name(caplog: pytest.LogCaptureFixture) -> None:
    train = _data([_objects((1, 1, 5, 5), labels=[0]), _objects((1, 1, 5, 5), labels=[1])], classes=2)
    other = _data([_objects((1, 1, 5, 5), (2, 2, 9, 9), labels=[0, 0])], classes=1)
    other.classes = ("c1",)
    test = of_classes(train, other)
    assert test.classes == ("c0", "c1")
    assert test.answer(0).objects.labels.tolist() == [1, 1]
    assert "no boxes of 1 of the 2 classes" in caplog.text
    other.classes = ("c9",)
    with pytest.raises(ConfigError, match="c9"):
        of_classes(train, other)


def test_classes_are_numbered_as_asked() -> None:
    data = _data([_objects((1, 1, 5, 5), (2, 2, 9, 9), labels=[0, 2])])
    shifted = Numbering.of(None, 1)(data)
    assert (shifted.classes[1:], shifted.answer(0).objects.labels.tolist()) == (("c0", "c1", "c2"), [1, 3])
    named = Numbering.of(("c2", "x", "c0", "c1"), None)(data)
    assert (named.classes, named.answer(0).objects.labels.tolist()) == (("c2", "x", "c0", "c1"), [2, 0])
    with pytest.raises(DataError, match="'c0' has no output"):
        Numbering.of(None, -1)(data)
