"""Figures of classes and samples, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgespa.data.boxes import Objects
from edgespa.objectives.base import Objective
from edgespa.objectives.detailed import Closely, CloserBoxes, closer_for, overlaps, probabilities
from edgespa.objectives.image import Image
from edgespa.objectives.segmentation import Segmentation
from edgespa.objectives.table import Classes, MultiLabel, Regression


def named(index: int) -> str:
    return f"{index}.jpg"


def seen(objective: Objective, classes: int, *batches: tuple[Any, Any], most: int = 10) -> Closely:
    closer = closer_for(objective, classes, named, most)
    for outputs, targets in batches:
        closer(outputs, targets)
    return closer.result()


def logits(*rows: list[float]) -> Tensor:
    return torch.tensor(rows).log()


def test_classes() -> None:
    first = logits([0.9, 0.05, 0.05], [0.3, 0.6, 0.1])
    second = logits([0.02, 0.9, 0.08], [0.1, 0.8, 0.1])
    found = seen(Classes(), 3, (first, torch.tensor([0, 0])), (second, torch.tensor([1, 2])))  # one wrong in each batch
    assert found.counted == "images"
    assert [(each.count, each.said) for each in found.classes] == [(2, 1), (1, 3), (1, 0)]
    assert found.classes[0].figures == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    assert found.classes[1].figures == {"precision": pytest.approx(1 / 3), "recall": 1.0, "f1": 0.5}
    assert found.classes[2].figures == {"precision": None, "recall": 0.0, "f1": 0.0}
    assert [(each.right, each.said, each.count) for each in found.confusions] == [(0, 1, 1), (2, 1, 1)]
    assert found.wrong_count == 2
    assert [(each.file, each.right, each.said) for each in found.wrong] == [("3.jpg", 2, 1), ("1.jpg", 0, 1)]
    assert found.wrong[0].confidence == pytest.approx(0.8)
    assert found.wrong[0].confidence_right == pytest.approx(0.1)


def test_the_surest_of_many_are_kept() -> None:
    sure = torch.linspace(0.51, 0.99, 97)
    order = torch.randperm(97, generator=torch.Generator().manual_seed(0))
    outputs = torch.stack([1 - sure, sure], 1)[order].log()
    found = seen(Classes(), 2, (outputs, torch.zeros(97, dtype=torch.int64)), most=3)
    assert found.wrong_count == 97
    wanted = [f"{int((order == index).nonzero())}.jpg" for index in (96, 95, 94)]
    assert [each.file for each in found.wrong] == wanted
    none = seen(Classes(), 2, (outputs, torch.zeros(97, dtype=torch.int64)), most=0)
    assert (none.wrong, none.wrong_count) == ((), 97)


def test_a_class_that_the_data_have_not_is_wrong_and_has_no_name() -> None:
    found = seen(Classes(), 2, (logits([0.1, 0.2, 0.7], [0.8, 0.1, 0.1]), torch.tensor([1, 0])))
    assert [(each.count, each.said) for each in found.classes] == [(1, 1), (1, 0)]
    assert found.confusions == ()
    assert (found.wrong[0].right, found.wrong[0].said) == (1, None)


def test_probabilities_are_taken_as_they_are() -> None:
    shares = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    assert torch.equal(probabilities(shares), shares.double())
    assert torch.allclose(probabilities(shares.log().clamp(-50)), shares.double(), atol=1e-6)
    assert torch.allclose(probabilities(torch.tensor([[1.0, 3.0]])).sum(1), torch.ones(1, dtype=torch.float64))


def test_labels() -> None:
    outputs = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    found = seen(MultiLabel(), 2, (outputs, torch.tensor([[1.0, 1.0], [0.0, 1.0]])))
    assert [(each.count, each.said) for each in found.classes] == [(1, 2), (2, 1)]
    assert found.classes[0].figures["precision"] == 0.5
    assert found.classes[1].figures["recall"] == 0.5
    assert [(each.file, each.value) for each in found.wrong] == [("0.jpg", 0.5), ("1.jpg", 0.5)]


def test_pixels() -> None:
    masks = torch.tensor([[[0, 0], [1, 255]], [[1, 1], [1, 1]], [[255, 255], [255, 255]]])
    said = torch.tensor([[[0, 1], [1, 1]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]])
    outputs = torch.nn.functional.one_hot(said, 2).permute(0, 3, 1, 2).float()
    found = seen(Segmentation(), 2, (outputs[:1], masks[:1]), (outputs[1:], masks[1:]))
    assert found.counted == "pixels"
    assert [(each.count, each.said) for each in found.classes] == [(2, 1), (5, 6)]
    assert found.classes[0].figures["iou"] == 0.5
    assert found.classes[1].figures["iou"] == pytest.approx(5 / 6)
    assert [(each.right, each.said, each.count) for each in found.confusions] == [(0, 1, 1)]
    # Of the third nobody knows anything.
    assert [(each.file, each.value) for each in found.wrong] == [("0.jpg", 0.5), ("1.jpg", 1.0)]


def test_numbers() -> None:
    found = seen(Regression(), 1, (torch.tensor([[1.0], [5.0]]), torch.tensor([[1.5], [2.0]])))
    assert [(each.file, each.value) for each in found.wrong] == [("1.jpg", 3.0), ("0.jpg", 0.5)]
    assert found.classes == ()


def test_pictures_by_their_own_measure() -> None:
    right = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    said = right.clone()
    said[1] += 0.1
    found = seen(Image(), 0, (said + 0.001, right))
    assert [each.file for each in found.wrong] == ["1.jpg", "0.jpg"]
    assert found.by_sample is not None
    assert found.wrong[0].value == pytest.approx(-20 * np.log10(0.101), abs=0.1)


def objects(*rows: tuple[int, tuple[int, int, int, int]], ignored: bool = False) -> Objects:
    boxes = torch.tensor([box for _, box in rows]).float().reshape(-1, 4)
    return Objects(boxes, torch.tensor([label for label, _ in rows]), torch.full((len(rows),), ignored))


def test_boxes() -> None:
    pytest.importorskip("pycocotools")
    from edgespa.api.evaluating import Read
    from edgespa.bundle.decoding import Columns, Decoding

    how = Decoding(
        size=(100, 100),
        scores=Columns(output=1),
        boxes=Columns(output=0),
        classes=Columns(output=2),
        clip=False,
        threshold=0.05,
        candidates=10,
        overlap=None,
        most=10,
    )
    a, b, far = (0, 0, 10, 10), (20, 20, 30, 30), (60, 60, 70, 70)

    def answers(*rows: tuple[int, tuple[int, int, int, int], float]) -> list[Tensor]:
        rows = (*rows, *[(0, (0, 0, 0, 0), 0.0)] * (3 - len(rows)))
        return [
            torch.tensor([[box for _, box, _ in rows]]).float(),
            torch.tensor([[score for _, _, score in rows]]),
            torch.tensor([[label for label, _, _ in rows]]).float(),
        ]

    found = seen(
        Read(how),
        2,
        (answers((0, a, 0.9), (1, far, 0.8)), [objects((0, a), (1, b))]),  # one missed, one that is not there
        (answers((0, a, 0.9), (0, a, 0.8)), [objects((0, a))]),  # the same twice
        (answers((1, b, 0.1)), [objects((1, b))]),  # found, and not surely
        (answers((1, b, 0.9)), [objects((1, b), ignored=True)]),
    )
    assert [(each.count, each.said, each.both) for each in found.classes] == [(2, 3, 2), (2, 1, 0)]
    assert found.classes[0].figures["recall"] == 1.0
    assert found.classes[0].figures["precision"] == pytest.approx(2 / 3)
    assert found.classes[0].figures["map50"] == pytest.approx(1.0)
    assert found.classes[1].figures["recall"] == 0.0
    assert [(each.file, each.missed, each.false) for each in found.wrong] == [
        ("0.jpg", 1, 1),
        ("1.jpg", 0, 1),
        ("2.jpg", 1, 0),
    ]
    assert found.wrong_count == 3

    assert found.confusions == ()


def test_objects_that_are_taken_for_others() -> None:
    """Only where nothing of the right class has found it, each object once, and nothing that counts neither way."""
    pytest.importorskip("pycocotools")
    closer = CloserBoxes(object(), 3, named, 10)  # type: ignore[arg-type]  # only what it is told

    def rows(*rows: tuple[int, int, float, tuple[int, int, int, int]]) -> np.ndarray:
        return np.array([[0, 0, label, *box, score] for _, label, score, box in rows], float).reshape(-1, 8)

    a, b, c, near = (0, 0, 10, 10), (20, 20, 30, 30), (60, 60, 70, 70), (0, 0, 10, 8)
    there = rows((0, 0, 0.0, a), (0, 1, 0.0, b), (0, 2, 1.0, c))  # the third is ignored
    found = rows(
        (0, 2, 0.9, near),  # surer than the right one, which yet has it
        (0, 0, 0.5, a),
        (0, 0, 0.8, b),
        (0, 2, 0.7, b),  # it has been taken for a 0 already
        (0, 1, 0.6, c),
        (0, 1, 0.2, b),  # not surely
        (0, 7, 0.9, b),  # no class of the data
    )
    missed, false = closer._one(there, found)
    assert (missed, false) == (1, 5)
    seen = closer.result()
    assert [(each.right, each.said, each.count) for each in seen.confusions] == [(1, 0, 1)]
    assert [(each.count, each.said, each.both) for each in seen.classes] == [(1, 2, 1), (1, 1, 0), (0, 2, 0)]


def test_overlaps() -> None:
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], float)
    assert overlaps(np.array([0, 0, 10, 10], float), others) == pytest.approx([1, 1 / 3, 0])
