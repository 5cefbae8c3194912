"""Maximum pooling without padding of its own: the same values, and no infinities behind a ReLU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgespa.exporting import tflite_file
from edgespa.exporting.converter import Form
from edgespa.exporting.lowering import plain_pooling
from edgespa.graph.program import Program
from edgespa.graph.trace import trace

aten = torch.ops.aten


def pads_of(program: Program) -> list[float]:
    """What is padded with."""
    return [node.args[2] for node in program.graph.nodes if node.target is aten.constant_pad_nd.default]


class Spread(nn.Module):
    """The pools of a detector's neck over what a SiLU makes, which is below zero here and there."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.silu(x)
        y = nn.functional.max_pool2d(x, 5, 1, 2)
        return torch.cat([x, y, nn.functional.max_pool2d(y, 5, 1, 2)], 1)


VARIANTS: list[tuple[nn.Module, tuple[int, ...], list[float]]] = [
    (nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1)), (2, 4, 8, 8), [0.0]),
    (nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((2, 3), (1, 2), (1, 0))), (2, 4, 9, 7), [0.0, 0.0]),
    (nn.Sequential(nn.ReLU6(), nn.MaxPool2d(2, 2, 1)), (2, 4, 7, 8), [0.0]),
    (nn.Sequential(nn.Sigmoid(), nn.MaxPool2d(3, 1, 1, dilation=2)), (2, 4, 8, 8), [0.0]),
    (nn.Sequential(nn.ReLU(), nn.MaxPool1d(3, 2, 1)), (2, 4, 10), [0.0]),
    (nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True)), (2, 4, 8, 9), [0.0]),
    (nn.MaxPool2d(3, 2, 1), (2, 4, 8, 8), []),
    (nn.MaxPool2d(3, 2, ceil_mode=True), (2, 4, 8, 9), [-math.inf]),
    (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 4, 8, 9), [-math.inf]),
    (nn.Sequential(nn.LeakyReLU(), nn.MaxPool2d(3, 2, 1)), (2, 4, 8, 8), []),
    (Spread(), (2, 4, 8, 8), []),
]


@pytest.mark.parametrize(("model", "shape", "pads"), VARIANTS)
def test_is_the_same_pooling(model: nn.Module, shape: tuple[int, ...], pads: list[float]) -> None:
    program = trace(model.eval(), (torch.randn(shape),))
    plain = plain_pooling(program)
    assert pads_of(plain) == pads
    (x,) = program.example_inputs(3)
    torch.testing.assert_close(plain(x), program(x), rtol=0, atol=0)
    torch.testing.assert_close(plain(x - 5), program(x - 5), rtol=0, atol=0)


@pytest.mark.law(1)
@pytest.mark.usefixtures("converters")
@pytest.mark.parametrize(("model", "shape", "pads"), [VARIANTS[0], VARIANTS[7], VARIANTS[8]])
def test_tflite_computes_it(model: nn.Module, shape: tuple[int, ...], pads: list[Any], tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    program = trace(model.eval(), (torch.randn(shape),))
    tflite_file.write_fp32(program, tmp_path / "m.tflite", Form(layout="nchw"))
    (x,) = program.example_inputs(1, seed=1)
    runner = Interpreter(str(tmp_path / "m.tflite")).get_signature_runner()
    (got,) = runner(args_0=x.numpy()).values()
    torch.testing.assert_close(torch.from_numpy(got), program(x), rtol=0, atol=0)
    assert ("PADV2" in tflite_file.operators(tmp_path / "m.tflite")) == (pads != [0.0])
