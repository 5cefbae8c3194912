"""Adaptive maximum pooling and means with a divisor: the same values, in both formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgespa.exporting import onnx_file, tflite_file
from edgespa.exporting.converter import Form
from edgespa.exporting.lowering import plain_windows
from edgespa.graph.program import Program
from edgespa.graph.trace import trace


class Places(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.adaptive_max_pool2d_with_indices(x, 4)


LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.AdaptiveMaxPool2d(1), (2, 3, 8, 6)),
    (nn.AdaptiveMaxPool2d((4, 3)), (2, 3, 8, 6)),
    (nn.AdaptiveMaxPool2d(5), (2, 3, 8, 13)),
    (nn.AdaptiveMaxPool1d(4), (2, 3, 12)),
    (nn.AdaptiveMaxPool1d(5), (2, 3, 12)),
    (nn.AvgPool2d(2, divisor_override=3), (2, 3, 8, 6)),
    (nn.AvgPool2d((3, 2), 2, 1, count_include_pad=False, divisor_override=4), (2, 3, 8, 6)),
]


def program_of(layer: nn.Module, shape: tuple[int, ...]) -> Program:
    return trace(layer.eval(), (torch.randn(shape),))


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
def test_gives_the_same_values(layer: nn.Module, shape: tuple[int, ...]) -> None:
    program = program_of(layer, shape)
    plain = plain_windows(program)
    assert plain.module.code != program.module.code
    assert "adaptive_max" not in plain.module.code
    (x,) = program.example_inputs(3)
    torch.testing.assert_close(plain(x), program(x))


def test_what_is_known_or_read_otherwise_stays() -> None:
    for layer in (nn.AvgPool2d(2, ceil_mode=True, divisor_override=3), nn.AvgPool2d(2), Places()):
        program = program_of(layer, (2, 3, 8, 8))
        assert plain_windows(program).module.code == program.module.code


@pytest.mark.law(1)
@pytest.mark.usefixtures("converters")
@pytest.mark.parametrize(("layer", "shape"), [LAYERS[0], LAYERS[2], LAYERS[5]], ids=str)
def test_both_formats_compute_it(layer: nn.Module, shape: tuple[int, ...], tmp_path: Path) -> None:
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    program = program_of(layer, shape)
    (x,) = program.example_inputs(1, seed=1)
    onnx_file.write_fp32(program, tmp_path / "m.onnx", Form())
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(got, program(x).numpy(), rtol=1e-5, atol=1e-6)
    tflite_file.write_fp32(program, tmp_path / "m.tflite", Form(layout="nchw"))
    (got,) = Interpreter(str(tmp_path / "m.tflite")).get_signature_runner()(args_0=x.numpy()).values()
    np.testing.assert_allclose(got, program(x).numpy(), rtol=1e-5, atol=1e-6)
