"""Evaluation and training form of a program: flags, and operators that stand in for others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgespa.adapters.adapted import AdaptedProgram
from edgespa.adapters.forms import depthwise_in_float32
from edgespa.graph.trace import trace

CONV = torch.ops.aten.conv2d.default


def depthwise(**options: object) -> nn.Conv2d:
    settings = {"kernel_size": 3, "padding": 1, "groups": 8, **options}
    return nn.Conv2d(8, 8, **settings)  # type: ignore[arg-type]


def adapted(layer: nn.Module) -> AdaptedProgram:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.Flatten(), nn.LazyLinear(3)).eval()
    inputs = torch.randn(2, 3, 12, 12)
    net(inputs)
    program = trace(net, (inputs,))
    return AdaptedProgram(program, {}, [name for name, _ in program.tensors()])


def stand_ins(model: AdaptedProgram) -> int:
    return sum(node.target is depthwise_in_float32 for node in model.module.graph.nodes)


@pytest.mark.parametrize(
    ("layer", "count"),
    [
        (depthwise(), 0),
        (depthwise(stride=2), 1),
        (depthwise(kernel_size=5, padding=2), 1),
        (depthwise(dilation=2), 1),
        (nn.Conv2d(8, 16, 3, groups=8), 1),
        (nn.Conv2d(8, 8, 3, stride=2, groups=2), 0),
        (nn.Conv2d(8, 8, 3, stride=2), 0),
    ],
    ids=["plain", "stride", "kernel", "dilation", "multiplier", "grouped", "dense"],
)
def test_depthwise_convolutions_that_are_slow_in_bf16_are_computed_in_float32(layer: nn.Module, count: int) -> None:
    model = adapted(layer)
    assert stand_ins(model) == 0
    model.set_training(True)
    assert stand_ins(model) == count
    model.set_training(True)
    assert stand_ins(model) == count
    model.set_training(False)
    assert stand_ins(model) == 0


def test_a_merged_program_has_nothing_that_stands_in() -> None:
    model = adapted(depthwise(stride=2))
    inputs = model.program.example_inputs(batch=4)
    expected = model.program(*inputs)
    model.set_training(True)
    assert torch.equal(model(*inputs), expected)  # without autocast there is nothing to stand in for
    merged = model.merged()
    assert [node.target for node in merged.graph.nodes if "conv" in node.name] == [CONV, CONV]
    assert torch.equal(merged(*inputs), expected)


def test_a_stand_in_is_the_float32_convolution_in_the_type_of_autocast() -> None:
    torch.manual_seed(0)
    layer, settings = depthwise(stride=2), ([2, 2], [1, 1], [1, 1], 8)
    inputs = torch.randn(4, 8, 12, 12, requires_grad=True)
    wide = layer(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = CONV(inputs, layer.weight, layer.bias, *settings)
        result = depthwise_in_float32(inputs, layer.weight, layer.bias, *settings)
    assert result.dtype == narrow.dtype == torch.bfloat16
    assert torch.equal(result, wide.bfloat16())
    assert not torch.equal(result, narrow)
    of = [inputs, *layer.parameters()]
    pairs = zip(torch.autograd.grad(result.float().sum(), of), torch.autograd.grad(wide.sum(), of), strict=True)
    assert all(torch.equal(own, expected) for own, expected in pairs)  # gradients of one are exact in bfloat16


def test_double_precision_stays() -> None:
    layer = depthwise(stride=2).double()
    inputs = torch.randn(4, 8, 12, 12, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        result = depthwise_in_float32(inputs, layer.weight, layer.bias, [2, 2], [1, 1], [1, 1], 8)
        assert result.dtype == CONV(inputs, layer.weight, layer.bias, [2, 2], [1, 1], [1, 1], 8).dtype == torch.float64
