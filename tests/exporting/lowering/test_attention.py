"""Attention without heads gets one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgespa.exporting import onnx_file
from edgespa.exporting.converter import Form
from edgespa.exporting.lowering import with_heads
from edgespa.graph.trace import trace


class Attend(nn.Module):
    def __init__(self, heads: bool, how: dict[str, Any]) -> None:
        super().__init__()
        self.heads, self.how = heads, how
        self.mask: torch.Tensor
        self.register_buffer("mask", torch.ones(5, 5, dtype=torch.bool).tril())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unflatten(-1, (2, 8)).transpose(1, 2) if self.heads else x
        mask = {"attn_mask": self.mask} if "scale" in self.how else {}
        y: torch.Tensor = F.scaled_dot_product_attention(x, x.sin(), x, **mask, **self.how)
        return y


@pytest.mark.law(2)
@pytest.mark.usefixtures("converters")
@pytest.mark.parametrize("how", [{}, {"is_causal": True}, {"scale": 0.3}], ids=str)
def test_onnx_knows_it(how: dict[str, Any], tmp_path: Path) -> None:
    import onnxruntime

    program = trace(Attend(False, how).eval(), (torch.randn(2, 5, 16),))
    (x,) = program.example_inputs(3)
    torch.testing.assert_close(with_heads(program)(x), program(x))
    onnx_file.write_fp32(program, tmp_path / "m.onnx", Form())
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(got, program(x).numpy(), rtol=1e-5, atol=1e-6)


def test_heads_that_are_there_stay() -> None:
    program = trace(Attend(True, {}).eval(), (torch.randn(2, 5, 16),))
    assert with_heads(program).module.code == program.module.code
