"""How often a file decides as the program does: only where there is a decision, and of numbers."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from edgespa.config import Preprocess
from edgespa.data import ImageData, prepare
from edgespa.errors import ParityError
from edgespa.exporting.agreement import Judge
from edgespa.exporting.parity import File
from edgespa.graph.trace import trace
from edgespa.objectives import kinds
from edgespa.objectives.base import Objective
from edgespa.objectives.measures import Measure


class FakeFile:
    name = "onnx-fp16"

    def __init__(self, wrong: float, output: int = 0) -> None:
        self.wrong, self.output = wrong, output

    def __call__(self, inputs: list[Any]) -> list[Any]:
        outputs = np.tile(np.arange(4, dtype=np.float32), (len(inputs[0]), 1))
        both = [outputs, outputs.copy()]
        both[self.output][-1, 0] = self.wrong
        return both


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_on_images_that_the_proof_does_not_see(
    toy_data: ImageData, toy_preprocess: Preprocess, wrong: float, labelled: bool
) -> None:
    data = prepare(toy_data, toy_preprocess)
    shape = tuple(data.tensor([0]).shape)
    network = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape[1:])), 4)).eval()
    program = trace(network, (torch.zeros(2, *shape[1:]),))
    judge = Judge(program, data if labelled else None, None if labelled else data, "classes")
    assert judge.of(cast("File", FakeFile(0.0)))[1] is not None
    for output in (0, 1):
        with pytest.raises(ParityError, match="not finite on some of"):
            judge.of(cast("File", FakeFile(wrong, output)))
    ordered = Judge(program, None, data, "classes", decides=False)
    assert ordered.of(cast("File", FakeFile(0.0))) == (None, None)


class Wrong(Objective):
    """The share that is wrong: the less the better."""

    name = "wrong"
    answers = "table"
    measures = (Measure("wrong", "wrong", percent=True, rises=False),)

    def loss(
        self, outputs: Any, targets: Any, weights: torch.Tensor | None = None, smoothing: float = 0.0
    ) -> torch.Tensor:
        raise NotImplementedError

    def sums(self, outputs: Any, targets: Any) -> torch.Tensor:
        return torch.stack([(outputs[0].argmax(1) != targets).sum().double(), torch.tensor(len(targets)).double()])

    def values(self, sums: torch.Tensor, table: torch.Tensor | None) -> tuple[float, ...]:
        return (float(sums[0] / sums[1]),)


@pytest.mark.parametrize("falls", [False, True])
def test_what_is_lost_has_the_direction_of_the_measure(
    toy_data: ImageData, toy_preprocess: Preprocess, monkeypatch: pytest.MonkeyPatch, falls: bool
) -> None:
    data = prepare(toy_data, toy_preprocess)
    if falls:
        monkeypatch.setitem(kinds._OPENED, "wrong", Wrong())
        data.kind = "wrong"
    shape = tuple(data.tensor([0]).shape)
    network = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape[1:])), 4)).eval()
    torch.nn.init.zeros_(network[1].weight)
    network[1].bias.data = torch.tensor([1.0, 0, 0, 0])  # it always says 0
    judge = Judge(trace(network, (torch.zeros(2, *shape[1:]),)), data, None, data.kind)
    share = float((data.labels == 0).double().mean()) - float((data.labels == 3).double().mean())
    assert judge.loss(cast("File", FakeFile(0.0))) == pytest.approx(share, abs=1e-12)  # that one always says 3
    assert judge.loss(cast("File", FakeFile(np.nan))) == np.inf
    assert judge.lost(judge.accuracy) == 0
    assert str(data.digest) in judge.identity
