"""Mean average precision of a few boxes, worked out by hand; and what batches and processes put together."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgespa.bundle.decoding import Columns, Decoding
from edgespa.data.boxes import Objects
from edgespa.errors import DataError, MissingExtraError
from edgespa.objectives.average_precision import average_precisions
from edgespa.objectives.boxes import Boxes
from edgespa.objectives.evaluate import Tally

pytest.importorskip("pycocotools", reason="PYCOCOTOOLS ABSENT: mean average precision was not measured")
SEEN = 51 / 101  # of the 101 recalls from 0 to 1 those up to a half


def there(picture: int, label: int, box: tuple[float, float, float, float], ignored: bool = False) -> list[float]:
    return [picture, 0, label, *box, ignored]


def found(picture: int, label: int, box: tuple[float, float, float, float], score: float) -> list[float]:
    return [picture, 1, label, *box, score]


A, B, FAR = (0, 0, 10, 10), (20, 20, 30, 30), (50, 50, 60, 60)
HIGHER = (0, 0, 10, 7.2)  # 0.72 of A: right up to an overlap of 0.7


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([there(0, 0, A), found(0, 0, A, 0.9)], (1, 1)),
        ([there(0, 0, A), there(1, 0, B), found(0, 0, A, 0.9)], (SEEN, SEEN)),
        ([there(0, 0, A), found(1, 0, A, 0.9)], (0, 0)),  # in another picture
        ([there(0, 0, A), found(0, 1, A, 0.9)], (0, 0)),  # of another class
        ([there(0, 0, A), found(0, 0, HIGHER, 0.9)], (0.5, 1)),
        ([there(0, 0, A), found(0, 0, FAR, 0.9), found(0, 0, A, 0.8)], (0.5, 0.5)),  # wrong first
        ([there(0, 0, A), found(0, 0, A, 0.9), found(0, 0, A, 0.8)], (1, 1)),  # found twice, once all are found
        ([there(0, 0, A), there(0, 1, B), found(0, 0, A, 0.9)], (0.5, 0.5)),  # mean over classes
        ([there(0, 0, A), there(0, 0, B, True), found(0, 0, B, 0.9), found(0, 0, A, 0.8)], (1, 1)),
        ([there(0, 0, A, True), found(0, 0, A, 0.9)], (0, 0)),  # of nothing that counts there is no mean
        ([there(0, 0, A)], (0, 0)),
        ([found(0, 0, A, 0.9)], (0, 0)),
    ],
)
def test_by_hand(rows: list[list[float]], wanted: tuple[float, float], capsys: pytest.CaptureFixture[str]) -> None:
    assert average_precisions(np.asarray(rows, float)) == pytest.approx(wanted, abs=1e-9)
    assert capsys.readouterr().out == ""


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pycocotools") as caught:
        average_precisions(np.zeros((0, 8)))
    assert "[detection]" in str(caught.value.hint)
    with pytest.raises(MissingExtraError, match="pycocotools"):  # before any image is looked at
        Plain().require()


class Plain(Boxes):
    """Outputs (corners [N, A, 4], scores [N, A, classes])."""

    name = "plain"

    @property
    def decoding(self) -> Decoding:
        return Decoding(size=(64, 64), scores=Columns(output=1), boxes=Columns(output=0))

    def loss(self, outputs: Any, targets: Any, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        raise NotImplementedError


def batch(pictures: int, seed: int) -> tuple[tuple[Tensor, Tensor], list[Objects]]:
    random = torch.Generator().manual_seed(seed)
    corner = 40 * torch.rand(pictures, 6, 2, generator=random)
    boxes = torch.cat([corner, corner + 4 + 16 * torch.rand(pictures, 6, 2, generator=random)], 2)
    labels = torch.randint(0, 3, (pictures, 6), generator=random)
    targets = [Objects(b[:n], c[:n], c[:n] > 5) for n, b, c in zip((0, 1, 2, 4, 6) * 4, boxes, labels, strict=False)]
    scores = torch.nn.functional.one_hot(labels, 3) * 0.5 + 0.4 * torch.rand(pictures, 6, 3, generator=random)
    return (boxes + 3 * torch.rand(boxes.shape, generator=random), scores), targets


@pytest.mark.parametrize("sizes", [[16], [8, 8], [1, 15], [5, 4, 7]], ids=str)
def test_batches_come_to_one(sizes: list[int]) -> None:
    objective = Plain()
    (boxes, scores), targets = batch(16, 0)
    whole = objective.sums((boxes, scores), targets)
    tally, at = Tally(objective), 0
    for size in sizes:
        part = slice(at, at + size)
        tally.add(objective.sums((boxes[part], scores[part]), targets[part]), size)
        at += size
    torch.testing.assert_close(tally.whole(), whole, rtol=0, atol=0)
    assert 0.05 < objective.values(whole, None)[0] < objective.values(whole, None)[1] < 1


class Together:
    """Two processes, each a thread: what one of them adds the other has, too."""

    count = 2

    def __init__(self, index: int, shared: list[Any], barrier: threading.Barrier) -> None:
        self.index, self._shared, self._barrier = index, shared, barrier

    def total(self, values: Tensor) -> Tensor:
        self._shared[self.index] = values
        self._barrier.wait()
        result = self._shared[0] + self._shared[1]
        self._barrier.wait()
        return result

    def totals(self, numbers: list[float]) -> list[float]:
        return list(self.total(torch.tensor(numbers, dtype=torch.float64)).tolist())

    def from_main(self, values: Tensor) -> Tensor:
        return self.total(values if self.index == 0 else torch.zeros_like(values))


@pytest.mark.parametrize("second", [7, 0])
def test_processes_come_to_one(second: int) -> None:
    objective = Plain()
    (boxes, scores), targets = batch(16, 0)
    parts = (slice(0, 16 - second), slice(16 - second, 16))
    shared, barrier, results = [None, None], threading.Barrier(2), {}

    def process(index: int) -> None:
        tally = Tally(objective)
        own = boxes[parts[index]]
        if len(own):
            sums = objective.sums((own, scores[parts[index]]), targets[parts[index]])
            tally.add(sums, len(own))
        results[index] = tally.whole(Together(index, shared, barrier))  # type: ignore[arg-type]

    threads = [threading.Thread(target=process, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    whole = objective.sums((boxes, scores), targets)
    for result in results.values():
        torch.testing.assert_close(result, whole, rtol=0, atol=0)
    assert len(results) == 2


def test_outputs_that_are_not_what_is_read() -> None:
    class Data:
        name, classes = "drawn", ("a", "b", "c")

    (boxes, scores), _ = batch(2, 0)
    assert Plain().take((boxes, scores), Data()) == (boxes, scores)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="5, 6 places") as caught:
        Plain().take((boxes[:, :5], scores), Data())  # type: ignore[arg-type]
    assert caught.value.hint == "correct the decoding of the objective plain"
