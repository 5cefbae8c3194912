"""Repeated images, in TFLite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgespa.exporting import tflite_file
from edgespa.exporting.converter import Form
from edgespa.exporting.lowering import plain_repeats
from edgespa.graph.trace import trace


class Repeated(nn.Module):
    def __init__(self, *counts: int) -> None:
        super().__init__()
        self.conv, self.counts = nn.Conv2d(3, 4, 3, padding=1), counts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.conv(x)[:, :3].repeat(*self.counts)[:, :3])


@pytest.mark.law(1)
@pytest.mark.usefixtures("converters")
@pytest.mark.parametrize("counts", [(1, 1, 2, 1), (1, 2, 1, 3), (1, 3, 2, 2), (1, 1, 1, 1)], ids=str)
def test_tflite_computes_it(counts: tuple[int, ...], tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    program = trace(Repeated(*counts).eval(), (torch.randn(2, 3, 4, 6),))
    (x,) = program.example_inputs(1, seed=1)
    plain = plain_repeats(program)
    assert "repeat" not in plain.module.code
    torch.testing.assert_close(plain(x), program(x))
    tflite_file.write_fp32(program, tmp_path / "m.tflite", Form())
    runner = Interpreter(str(tmp_path / "m.tflite")).get_signature_runner()
    (got,) = runner(args_0=x.permute(0, 2, 3, 1).numpy()).values()
    torch.testing.assert_close(torch.from_numpy(got).permute(0, 3, 1, 2), program(x), rtol=1e-5, atol=1e-5)
