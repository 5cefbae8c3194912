"""Transposed convolutions of all arguments, as padding-free ones and slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgespa.device import runner
from edgespa.exporting import tflite_file
from edgespa.exporting.converter import Form
from edgespa.exporting.lowering import plain_upsampling, without_batch_norms
from edgespa.graph.program import Program
from edgespa.graph.trace import trace

aten = torch.ops.aten
VARIANTS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((8, 8), {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}),
    ((8, 8), {"kernel_size": 4, "stride": 2, "padding": 1, "output_padding": 1}),
    ((7, 9), {"kernel_size": 5, "stride": 2, "padding": 2, "output_padding": 1, "bias": False}),
    ((7, 4), {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2), "output_padding": (1, 0)}),
    ((5, 5), {"kernel_size": (4, 3), "stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2)}),
    ((5, 5), {"kernel_size": 2, "stride": 4, "padding": 1, "output_padding": 3}),
    ((5, 5), {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "dilation": 2, "groups": 2}),
    ((5, 6), {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 2), "dilation": (2, 3), "output_padding": 1}),
    ((1, 1), {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "groups": 6}),
    ((9,), {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}),
    ((9,), {"kernel_size": 4, "stride": 3, "padding": 2, "output_padding": 2, "dilation": 2, "groups": 3}),
]
AS_THEY_ARE: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((8, 8), {"kernel_size": 4, "stride": 2, "padding": 1}),
    ((8, 8), {"kernel_size": 3, "stride": 2}),
    ((8, 8), {"kernel_size": 3, "padding": 1}),
    ((9,), {"kernel_size": 2, "stride": 2}),
]


def upsampling(size: tuple[int, ...], arguments: dict[str, Any]) -> Program:
    torch.manual_seed(0)
    layer = (nn.ConvTranspose1d, nn.ConvTranspose2d)[len(size) - 1](6, 12, **arguments)
    return trace(layer.eval(), (torch.randn(2, 6, *size),))


def transposed(program: Program) -> list[Any]:
    return [node for node in program.graph.nodes if "conv_transpose" in str(node.target)]


@pytest.mark.parametrize(("size", "arguments"), VARIANTS)
def test_is_a_padding_free_one_and_slices(size: tuple[int, ...], arguments: dict[str, Any]) -> None:
    program = upsampling(size, arguments)
    plain = plain_upsampling(program)
    (x,) = program.example_inputs(3)
    torch.testing.assert_close(plain(x), program(x))
    (node,) = transposed(plain)
    assert node.target is aten.conv_transpose2d.input
    assert node.args[4:6] == ([0, 0], [0, 0])
    assert node.args[7] == [1, 1]


@pytest.mark.parametrize(("size", "arguments"), AS_THEY_ARE)
def test_what_is_converted_rightly_stays(size: tuple[int, ...], arguments: dict[str, Any]) -> None:
    program = upsampling(size, arguments)
    assert plain_upsampling(program).module.code == program.module.code


@pytest.mark.law(1)
@pytest.mark.usefixtures("converters")
@pytest.mark.parametrize(("size", "arguments"), [*VARIANTS[:4], VARIANTS[6], VARIANTS[10]])
def test_tflite_computes_it(size: tuple[int, ...], arguments: dict[str, Any], tmp_path: Path) -> None:
    program, path = upsampling(size, arguments), tmp_path / "m.tflite"
    tflite_file.write_fp32(program, path, Form(layout="nchw"))
    inputs, outputs = tflite_file.specs(path, Form(layout="nchw"))
    variant = {
        **{"name": "x", "file": path.name, "format": "tflite", "preprocess": None},
        **{"inputs": [spec.model_dump() for spec in inputs], "outputs": [spec.model_dump() for spec in outputs]},
    }
    (x,) = program.example_inputs(2, seed=1)
    (got,) = runner.infer(runner.open_model(tmp_path, variant, 1, runner.import_runtime("tflite")[0]), [x.numpy()])
    wanted = program(x).detach().numpy()
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_a_batch_norm_behind_it_goes_into_it(groups: int, bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.ConvTranspose2d(6, 12, 3, 2, 1, 1, groups=groups, bias=bias), nn.BatchNorm2d(12), nn.ReLU()
    )
    for tensor in (model[1].weight, model[1].bias, model[1].running_mean, model[1].running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
    program = trace(model.eval(), (torch.randn(2, 6, 5, 5),))
    folded = without_batch_norms(program)
    assert not [node for node in folded.graph.nodes if node.target is aten.batch_norm.default]
    (x,) = program.example_inputs(3)
    torch.testing.assert_close(folded(x), program(x))
