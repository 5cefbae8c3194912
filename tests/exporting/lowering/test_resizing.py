"""Resizing to the nearest by any ratio, and with antialiasing: the same values in operators that converters know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgespa.exporting import tflite_file
from edgespa.exporting.converter import Form
from edgespa.exporting.lowering import plain_resizing
from edgespa.graph.trace import trace


class Resize(nn.Module):
    def __init__(self, how: dict[str, Any]) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, **self.how)


CHANGED: list[dict[str, Any]] = [
    {"size": (11, 14)},
    {"size": (5, 8)},
    {"scale_factor": 1.7},
    {"scale_factor": (0.6, 1.7), "mode": "nearest-exact"},
    {"size": (5, 4), "mode": "bilinear", "antialias": True},
    {"size": (4, 13), "mode": "bilinear", "antialias": True, "align_corners": True},
    {"scale_factor": 0.6, "mode": "bilinear", "antialias": True},
    {"size": (13, 3), "mode": "bicubic", "antialias": True},
]
AS_THEY_ARE: list[dict[str, Any]] = [{"scale_factor": 2}, {"size": (16, 24)}, {"size": (11, 14), "mode": "bilinear"}]


@pytest.mark.parametrize("how", CHANGED, ids=str)
def test_gives_the_same_values(how: dict[str, Any]) -> None:
    program = trace(Resize(how).eval(), (torch.randn(2, 3, 8, 8),))
    plain = plain_resizing(program)
    assert not [node for node in plain.graph.nodes if node.op == "call_function" and "upsample" in str(node.target)]
    (x,) = program.example_inputs(3)
    torch.testing.assert_close(plain(x), program(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", AS_THEY_ARE, ids=str)
def test_what_is_converted_rightly_stays(how: dict[str, Any]) -> None:
    program = trace(Resize(how).eval(), (torch.randn(2, 3, 8, 8),))
    assert plain_resizing(program).module.code == program.module.code


@pytest.mark.law(1)
@pytest.mark.usefixtures("converters")
@pytest.mark.parametrize("how", [CHANGED[0], CHANGED[2], CHANGED[4]], ids=str)
def test_tflite_computes_it(how: dict[str, Any], tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    program = trace(Resize(how).eval(), (torch.randn(2, 3, 8, 8),))
    tflite_file.write_fp32(program, tmp_path / "m.tflite", Form(layout="nchw"))
    (x,) = program.example_inputs(1, seed=1)
    (got,) = Interpreter(str(tmp_path / "m.tflite")).get_signature_runner()(args_0=x.numpy()).values()
    torch.testing.assert_close(torch.from_numpy(got), program(x), rtol=1e-5, atol=1e-5)
