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
