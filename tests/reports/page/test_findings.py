"""What sections make of evaluations and of looks at data."""

from __future__ import annotations

from typing import Any

import pytest

from edgespa.findings.dataset import Health
from edgespa.findings.evaluation import Details
from edgespa.reports.page.answers import answers, matrix_of
from edgespa.reports.page.data import health
from edgespa.reports.page.found import Found, FoundEvaluation, FoundHealth
from edgespa.reports.page.parts import Cell, Chart, Table, Tiles, Words

pytest.importorskip("plotly")
MEASURE = {"name": "accuracy", "title": "accuracy", "percent": True}
RECALL = {"name": "recall", "title": "recall", "percent": True}


def details(**changes: Any) -> Details:
    """Ten ants of which two are taken for bees, five bees that are all right, no cow."""
    subject = {
        "name": "onnx-int8",
        "runtime": "onnxruntime 1.31.1",
        "values": {"accuracy": 13 / 15},
        "classes": [
            {"index": 0, "count": 10, "said": 8, "figures": {"recall": 0.8}},
            {"index": 1, "count": 5, "said": 7, "figures": {"recall": 1.0}},
            {"index": 2, "count": 0, "said": 0, "figures": {"recall": None}},
        ],
        "confusions": [{"right": 0, "said": 1, "count": 2}],
        "wrong": [
            {"file": "ant/7.png", "index": 7, "right": 0, "said": 1, "confidence": 0.9, "confidence_right": 0.1},
            {"file": "ant/9.png", "index": 9, "right": 0, "said": 1, "confidence": 0.6, "confidence_right": 0.3},
        ],
        "wrong_count": 2,
    }
    return Details.model_validate(
        {
            "model": "insects", "kind": "classes", "data": "insects:test", "count": 15, "measures": [MEASURE],
            "columns": [RECALL], "class_names": ["ant", "bee", "cow"], "subjects": [{**subject, **changes}],
        }
    )  # fmt: skip


def texts(table: Any) -> list[list[str]]:
    assert isinstance(table, Table)
    return [[each.text for each in row] for row in table.cells]


def test_the_matrix_by_hand() -> None:
    told = details()
    assert matrix_of(told, told.subjects[0]) == [[8, 2, 0], [0, 5, 0], [0, 0, 0]]


def test_an_evaluation_is_shown_by_class_and_by_sample() -> None:
    section = answers(Found(evaluations=(FoundEvaluation("d.json", "d.json", details()),)))
    whole, matrix, bars, by_class, confusions, wrong = section.pieces
    assert texts(whole) == [["onnx-int8", "onnxruntime 1.31.1", "86.67%", "2"]]
    assert isinstance(matrix, Chart)
    assert matrix.figure["data"][0]["z"][0] == [0.8, 0.2, 0.0]
    assert isinstance(bars, Chart)
    assert bars.figure["data"][0]["x"] == ["ant", "bee"]  # the worst first, and none of which there is nothing
    assert [row[:4] for row in texts(by_class)] == [
        ["onnx-int8", "ant", "10", "8"], ["onnx-int8", "bee", "5", "7"], ["onnx-int8", "cow", "0", "0"],
    ]  # fmt: skip
    assert texts(confusions) == [["ant", "bee", "2"]]
    assert texts(wrong)[0] == ["ant/7.png", "ant", "bee", "90.0%", "10.0%"]


def test_the_matrix_of_objects_says_what_is_missed_and_what_is_nowhere() -> None:
    rows = [
        {"index": 0, "count": 10, "said": 9, "both": 6, "figures": {"recall": 0.6}},
        {"index": 1, "count": 5, "said": 8, "both": 4, "figures": {"recall": 0.8}},
        {"index": 2, "count": 0, "said": 1, "both": 0, "figures": {"recall": None}},
    ]
    told = details(classes=rows).model_copy(update={"counted": "objects", "kind": "detection"})
    assert matrix_of(told, told.subjects[0]) == [[6, 2, 0, 2], [0, 4, 0, 1], [0, 0, 0, 0], [3, 2, 1, 0]]
    chart = next(
        each
        for each in answers(Found(evaluations=(FoundEvaluation("d", "d", told),))).pieces
        if isinstance(each, Chart) and "taken for" in each.caption
    )
    (trace,) = chart.figure["data"]
    assert (trace["x"][-1], trace["y"][-1]) == ("(not found)", "(nothing there)")
    assert trace["hovertext"][0][3].startswith("ant, not found")
    assert trace["hovertext"][3][1].startswith("bee where nothing is")
    assert "2 of 10" in trace["hovertext"][0][1]


def test_the_matrix_of_pixels_says_shares() -> None:
    told = details().model_copy(update={"counted": "pixels", "kind": "segmentation"})
    chart = answers(Found(evaluations=(FoundEvaluation("d", "d", told),))).pieces[1]
    assert isinstance(chart, Chart)
    assert chart.figure["data"][0]["text"][0] == ["80.0%", "20.0%", ""]


def test_a_matrix_of_confusions_that_are_more_than_there_are_is_no_crash() -> None:
    """The file may be anybody's."""
    told = details(confusions=[{"right": 0, "said": 1, "count": 99}])
    assert matrix_of(told, told.subjects[0])[0] == [0, 99, 0]
    assert answers(Found(evaluations=(FoundEvaluation("d", "d", told),))).pieces


def test_numbers_have_no_classes_and_still_their_worst_samples() -> None:
    told = Details.model_validate(
        {
            "model": "m", "kind": "regression", "data": "d", "count": 3, "counted": "samples",
            "measures": [{"name": "r2", "title": "R2"}],
            "by_sample": {"name": "mae", "title": "mean absolute error", "rises": False},
            "subjects": [
                {"name": "program", "values": {"r2": 0.5}, "wrong": [{"file": "item 2", "index": 2, "value": 3.5}]}
            ],
        }
    )  # fmt: skip
    whole, wrong = answers(Found(evaluations=(FoundEvaluation("d", "d", told),))).pieces
    assert texts(whole)[0][0] == "program"
    assert isinstance(wrong, Table)
    assert list(wrong.columns) == ["sample", "mean absolute error"]
    assert texts(wrong) == [["item 2", "3.5"]]


def test_the_health_of_data() -> None:
    told = Health.model_validate(
        {
            "sets": [
                {
                    "name": "insects:train", "kind": "classes", "count": 12, "usable": 11,
                    "classes": [{"name": "ant", "images": 10}, {"name": "bee", "images": 1}],
                    "unusable": [{"file": "bee/3.jpg", "why": "it ends in the middle"}],
                    "sizes": [{"width": 32, "height": 24, "images": 11}], "sizes_count": 1,
                    "turned": {"count": 2, "files": ["ant/1.jpg", "ant/2.jpg"]},
                }
            ],
            "alike": [
                {"files": ["a.png", "b.png"], "count": 2, "classes": ["ant", "bee"], "exact": True, "sets": [0, 1]}
            ],
            "exact_copies": 1, "shared": 1,
            "remarks": [{"level": "warning", "text": "10 of 11 images are ants", "hint": "--class-weights balanced"}],
        }
    )  # fmt: skip
    section = health(Found(healths=(FoundHealth("h.json", "h.json", told),)))
    tiles, words, classes, sizes, unusable, alike = section.pieces
    assert isinstance(tiles, Tiles)
    assert ("cannot be used", "1", "", "bad") in tiles.tiles
    assert ("stored turned", "2", "", "doubt") in tiles.tiles
    assert isinstance(words, Words)
    assert list(words.lines) == ["10 of 11 images are ants: --class-weights balanced"]
    assert isinstance(classes, Chart)
    assert classes.figure["data"][0]["y"] == [10, 1]
    assert isinstance(sizes, Chart)
    assert texts(unusable) == [["bee/3.jpg", "it ends in the middle"]]
    (row,) = alike.cells  # type: ignore[union-attr]
    assert row[2] == Cell("both sets", mark="bad")
    assert row[3].mark == "bad"
