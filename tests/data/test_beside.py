"""What Python users have at hand beside their images: numbers, several labels, boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import edgespa as es
from edgespa.config import Preprocess
from edgespa.data import prepare
from edgespa.data.boxes import Objects
from edgespa.data.datasets import of_dataset
from edgespa.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3), dtype=np.uint8)
NUMBERS = np.random.default_rng(1).normal(50, 20, (12, 3)).astype(np.float32)
YES = np.random.default_rng(2).integers(0, 2, (12, 3))


class Items(Dataset[Any]):
    def __init__(self, answers: Any, classes: tuple[str, ...] = (), images: Any = IMAGES) -> None:
        self.answers, self.images = answers, images
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.answers[index]


@pytest.mark.parametrize(
    ("answers", "kind", "table"),
    [
        (NUMBERS, "regression", NUMBERS),
        (torch.from_numpy(NUMBERS), "regression", NUMBERS),
        (NUMBERS[:, 0], "regression", NUMBERS[:, :1]),
        (NUMBERS[:, :1], "regression", NUMBERS[:, :1]),
        (torch.from_numpy(NUMBERS[:, 0]), "regression", NUMBERS[:, :1]),
        (YES, "multi-label", YES),
        (YES.astype(bool), "multi-label", YES),
        (torch.from_numpy(YES), "multi-label", YES),
    ],
)
def test_tables(answers: Any, kind: str, table: np.ndarray) -> None:
    for given in (
        (IMAGES, answers),
        Items(answers),
        TensorDataset(torch.from_numpy(IMAGES).permute(0, 3, 1, 2), torch.as_tensor(answers)),
    ):
        data = of_dataset(given, "mine", True)
        assert (data.kind, data.classes) == (kind, tuple(str(k) for k in range(table.shape[1])))
        assert data.targets is not None
        np.testing.assert_array_equal(data.targets, table.astype(np.float32))
        assert not of_dataset(given, "mine", False).answered  # the images alone


def test_numbers_of_classes_in_columns_are_classes() -> None:
    data = of_dataset((IMAGES, np.arange(12)[:, None] % 3), "mine", True)
    assert (data.kind, data.classes, data.labels[:4].tolist()) == ("classes", ("0", "1", "2"), [0, 1, 2, 0])


def test_columns_have_names() -> None:
    assert of_dataset(Items(NUMBERS, ("x", "y", "z")), "mine", True).classes == ("x", "y", "z")
    with pytest.raises(DataError, match="3 columns, but 2 names"):
        of_dataset(Items(NUMBERS, ("x", "y")), "mine", True)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (np.eye(12, dtype=np.float32), "one 1 each"),
        (YES * 2, "integer targets other than 0 and 1"),
        (np.where(NUMBERS > 60, np.nan, NUMBERS), "not finite"),
        ([NUMBERS[0], NUMBERS[1, :2]], "item 1 has"),
    ],
)
def test_what_is_no_table(answers: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        of_dataset(Items(answers), "mine", True)


def _boxes(*boxes: tuple[float, ...], **more: Any) -> dict[str, Any]:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.arange(len(boxes)), **more}


def test_boxes() -> None:
    answers = [_boxes((1, 2, 5, 6), (0, 0, 8, 8), iscrowd=torch.tensor([0, 1])), _boxes()]
    data = of_dataset(Items(answers, ("a", "b")), "mine", True)
    assert (data.kind, data.classes, data.answer(1).size) == ("detection", ("a", "b"), (8, 8))
    how = Preprocess(height=16, width=8, channels=3, mean=(0,) * 3, std=(1,) * 3)
    objects = next(prepare(data, how).batches(2))[1]
    assert objects[0].boxes.tolist() == [[1, 4, 5, 12], [0, 0, 8, 16]]
    assert objects[0].ignored.tolist() == [False, True]
    assert len(objects[1]) == 0
    floats = of_dataset(Items(answers, images=torch.zeros(2, 3, 16, 8)), "mine", True)  # go to the model as they are
    assert next(prepare(floats, how).batches(2))[1][0].boxes.tolist() == [[1, 2, 5, 6], [0, 0, 8, 8]]
    same = [Objects(torch.tensor([[1.0, 2, 5, 6]]), torch.tensor([1]), torch.tensor([False]))]
    assert of_dataset(Items(same), "mine", True).classes == ("0", "1")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_boxes((5, 5, 5, 9)), "item 1: a box from"),
        (_boxes((5, 5, 20, 9)), "outside of the picture"),
        ({"boxes": torch.zeros(2, 3), "labels": [0, 1]}, "item 1"),
        ({**_boxes((1, 1, 5, 5)), "labels": [0, 1]}, "1 boxes and 2 labels"),
        ({**_boxes((1, 1, 5, 5)), "labels": [-1]}, "the label -1"),
        (3, "item 1 has no boxes"),
    ],
)
def test_boxes_that_are_none(answer: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        of_dataset(Items([_boxes((1, 1, 5, 5)), answer]), "mine", True)


TWICE = np.random.default_rng(5).integers(0, 255, (12, 16, 16, 3), dtype=np.uint8)
WANTED = {
    "arrays": (list(TWICE), TWICE / np.float32(255)),
    "pictures": ([Image.fromarray(each) for each in TWICE], TWICE / np.float32(255)),
    "tensors": (torch.from_numpy(TWICE).permute(0, 3, 1, 2), TWICE / np.float32(255)),
    "numbers": (list((TWICE[..., :1] / 99).astype(np.float32)), (TWICE[..., :1] / 99).astype(np.float32)),
}


@pytest.mark.parametrize("name", WANTED)
def test_pictures(name: str) -> None:
    given, wanted = WANTED[name]
    data = of_dataset(Items(given), "mine", True)
    assert (data.kind, data.classes) == ("image", ())
    how = Preprocess(height=8, width=8, channels=3, mean=(0,) * 3, std=(1,) * 3)
    targets = next(prepare(data, how).batches(12))[1]
    np.testing.assert_allclose(targets.numpy(), wanted.transpose(0, 3, 1, 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.zeros((16, 24, 3), np.uint8), "24 x 16, its picture 8 x 8: not 2 times"),
        (np.zeros((16, 16, 1), np.uint8), "has 1 channels"),
        (np.zeros((16, 16, 3), np.int64), "a picture of int64"),
        (7, "item 1 has int beside its image"),
    ],
)
def test_pictures_that_are_none(answer: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        of_dataset(Items([TWICE[0], answer]), "mine", True)


def test_adapt_takes_arrays_of_numbers(tmp_path: Path) -> None:
    images = np.zeros((64, 8, 8, 1), np.uint8)
    levels = np.random.default_rng(0).integers(0, 255, 64)
    images[:] = levels[:, None, None, None]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)).eval()
    targets = (levels * 3.0).astype(np.float32)
    task = es.adapt(
        net, data=(images, targets), output=tmp_path / "t.spa", input_shape=(1, 1, 8, 8), adapter="full", epochs=15,
        batch_size=8, lr=0.02,
    )  # fmt: skip
    assert task.metrics["validation_r2"] > 0.9
