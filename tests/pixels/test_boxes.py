"""What is read off a detector's outputs, against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edgespa.bundle.decoding import Columns, Decoding, Grid
from edgespa.pixels.boxes import anchors_of, decode_boxes, detections, suppressed

CELLS = ((-4.0, -2.0, 4.0, 2.0), (-2.0, -2.0, 2.0, 2.0))


def how(**fields: Any) -> dict[str, Any]:
    """As a manifest has it."""
    described = Decoding(size=(32, 64), scores=Columns(output=0), boxes=Columns(output=1), **fields)
    return dict(json.loads(described.model_dump_json()))


def arrays(*tables: Any) -> list[np.ndarray]:
    return [np.asarray(table, np.float32)[None] for table in tables]


def test_anchors_are_row_by_row_and_place_by_place() -> None:
    grid = Grid(rows=2, columns=2, stride=(16.0, 32.0), offset=(0.5, 0.5), cells=CELLS)
    found = anchors_of([grid.model_dump()], 8)
    assert found[0].tolist() == [12, 6, 20, 10]  # about (16, 8)
    assert found[1].tolist() == [14, 6, 18, 10]
    assert found[2].tolist() == [44, 6, 52, 10]  # one column to the right
    assert found[4].tolist() == [12, 22, 20, 26]  # one row below
    with pytest.raises(ValueError, match="8 anchors are described, and the outputs have 9"):
        anchors_of([grid.model_dump()], 9)


def test_deltas_move_and_grow_an_anchor() -> None:
    grid = Grid(rows=1, columns=1, stride=(32.0, 64.0), offset=(0.5, 0.5), cells=(CELLS[0],))
    described = how(coding="deltas", weights=(10, 10, 5, 5), anchors=(grid,), largest=math.log(4), overlap=None)
    # A quarter of the width to the right, half the height up; twice as wide, and as high as is allowed.
    (found,) = decode_boxes(arrays([[0.9]], [[2.5, -5.0, 5 * math.log(2), 50.0]]), described)
    assert found[0]["box"] == pytest.approx([26, 6, 42, 22], abs=1e-5)
    assert (found[0]["index"], found[0]["score"]) == (0, pytest.approx(0.9))


def test_distances_are_in_sizes_of_the_anchor_and_centerness_counts() -> None:
    grid = Grid(rows=1, columns=1, stride=(8.0, 8.0), cells=((-4.0, -4.0, 4.0, 4.0),))
    described = how(
        coding="distances", anchors=(grid,), activation="sigmoid", centerness=Columns(output=2), threshold=0.1
    )
    (found,) = decode_boxes(arrays([[0.0, -50.0]], [[0.0, 0.0, 1.5, 2.0]], [[0.0]]), described)
    assert found == [{"box": [0, 0, 12, 16], "index": 0, "score": pytest.approx(0.5)}]


def test_the_background_is_no_class() -> None:
    boxes = [[0, 0, 4, 4], [8, 8, 12, 12]]
    first = how(activation="softmax", background="first")
    (found,) = decode_boxes(arrays([[9, 0, 0], [0, 0, 9]], boxes), first)
    assert [each["index"] for each in found] == [1]
    last = how(activation="softmax", background="last")
    (found,) = decode_boxes(arrays([[9, 0, 0], [0, 0, 9]], boxes), last)
    assert [each["index"] for each in found] == [0]


def test_of_those_that_overlap_the_surest_stays_each_class_by_itself() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4], [20, 20, 30, 30], [5, 5, 5, 5], [5, 5, 5, 5]]
    classes = [0, 0, 0, 0, 1, 1]
    kept = suppressed(np.asarray(boxes, np.float32), np.asarray(classes), 0.5)
    assert kept.tolist() == [0, 2, 3, 4, 5]  # 0.9 is too much; boxes of no size overlap with nothing
    # The second goes because of the first, so it does not take the third with it.
    row = np.asarray([[0, 0, 10, 1], [0, 0, 7, 1], [0, 0, 4, 1]], np.float32)
    assert suppressed(row, np.zeros(3, np.int64), 0.55).tolist() == [0, 2]


def test_those_that_are_looked_at_later_change_nothing() -> None:
    """Many that overlap, of which a few are wanted: as if all had been looked at."""
    random = np.random.RandomState(0)
    corner = 40 * random.rand(600, 2).astype(np.float32)
    boxes = np.concatenate([corner, corner + 8 + 4 * random.rand(600, 2)], axis=1)[None]
    scores = random.rand(1, 600, 2).astype(np.float32)
    every = decode_boxes([scores, boxes], how(most=1200, overlap=0.3, candidates=1200))[0]
    assert 20 < len(every) < 600
    for most in (1, 7, 19, 200):
        assert decode_boxes([scores, boxes], how(most=most, overlap=0.3, candidates=1200))[0] == every[:most]


def test_candidates_are_the_best_of_each_class_each_grid_or_all() -> None:
    scores = [[0.9, 0.3], [0.8, 0.7], [0.6, 0.5], [0.04, 0.2]]
    boxes = [[8 * i, 0, 8 * i + 4, 4] for i in range(4)]

    def of(**fields: Any) -> list[tuple[float, int]]:
        (found,) = decode_boxes(arrays(scores, boxes), how(overlap=None, **fields))
        return [(round(each["score"], 3), each["index"]) for each in found]

    assert of(candidates=3) == [(0.9, 0), (0.8, 0), (0.7, 1)]
    assert of(pool="class", candidates=2) == [(0.9, 0), (0.8, 0), (0.7, 1), (0.5, 1)]
    assert of(only_best=True) == [(0.9, 0), (0.8, 0), (0.6, 0), (0.2, 1)]
    assert of(threshold=0.55, most=3) == [(0.9, 0), (0.8, 0), (0.7, 1)]


def test_one_output_with_all_in_rows() -> None:
    """As YOLO gives it: [N, 4 + classes, A], middles and sizes in pixels."""
    table = np.asarray([[10, 40], [10, 20], [8, 4], [4, 4], [0.2, 0.9], [0.6, 0.1]], np.float32)[None]
    described = Decoding(
        size=(32, 64),
        scores=Columns(output=0, first=4, rows=True),
        boxes=Columns(output=0, count=4, rows=True),
        coding="centres",
        threshold=0.25,
    ).model_dump()
    (found,) = decode_boxes([table], described)
    assert [(each["index"], each["box"]) for each in found] == [(0, [38, 18, 42, 22]), (1, [6, 8, 14, 12])]


def test_fractions_of_the_input_and_classes_that_entries_say() -> None:
    described = how(coding="centres", unit="input", classes=Columns(output=2), overlap=None)
    (found,) = decode_boxes(
        arrays([0.9, 0.01, 0.5], [[0.5, 0.5, 0.5, 1.5], [0] * 4, [0, 0, 1, 1]], [3, 0, 1]), described
    )
    assert found[0] == {"box": [16, 0, 48, 32], "index": 3, "score": pytest.approx(0.9)}  # cut off at the edges
    assert found[1]["index"] == 1


def test_what_is_no_number_is_no_box() -> None:
    boxes, classes, scores = detections(
        [np.asarray([[math.nan], [0.9]], np.float32), np.asarray([[0, 0, 1, 1]] * 2, np.float32)], how()
    )
    assert (len(boxes), len(classes), len(scores)) == (1, 1, 1)
    (none,) = decode_boxes(arrays([[0.01]], [[0, 0, 1, 1]]), how())
    assert none == []


@pytest.mark.parametrize(
    "change",
    [
        {"scores": None},
        {"size": "x"},
        {"coding": "deltas", "anchors": [{"rows": 10**18, "columns": 10**18, "cells": [1]}], "threshold": -1},
        {"threshold": []},
        {"boxes": {"output": 7, "first": 0, "count": None, "rows": False}},
        {"boxes": {"output": 1, "first": 0, "count": 2, "rows": False}, "threshold": -1},
        {"pool": "grid", "anchors": 3},
    ],
    ids=str,
)
def test_descriptions_that_nobody_checked(change: dict[str, Any]) -> None:
    """As ``run.py`` finds them in a bundle of a stranger's: whatever they are, it is one kind of error."""
    with pytest.raises(ValueError, match=r"."):
        decode_boxes(arrays([[0.5, 0.4]] * 3, [[0, 0, 1, 1]] * 3), {**how(), **change})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"coding": "deltas"}, "deltas need anchors"),
        ({"pool": "grid"}, "there is none"),
        ({"only_best": True, "pool": "class"}, "in the whole image"),
        ({"weights": (0, 1, 1, 1)}, "divided by 0"),
        ({"most": 1 << 40}, "less than or equal"),
        ({"threshold": math.nan}, "finite"),
    ],
)
def test_descriptions_of_nothing(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        how(**fields)


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        ([["batch", 5, 3], ["batch", 5, 4]], None),
        ([[1, 5], [1, 5, 4]], None),
        ([["batch", 5, 3]], "output 1 of 1"),
        ([["batch", 5, 3], ["batch", 4]], "5 places"),
        ([["batch", 5, 3], ["batch", 6, 4]], "5, 6 places"),
        ([["batch", 5, 3], ["batch", 6, 4, 1]], "4 dimensions"),
    ],
)
def test_a_description_fits_the_outputs_or_not(shapes: list[list[int | str]], problem: str | None) -> None:
    found = Decoding(size=(8, 8), scores=Columns(output=0), boxes=Columns(output=1)).problem(shapes)
    assert (found is None) if problem is None else (problem in str(found))
