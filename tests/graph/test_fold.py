"""Standardised weights become plain ones; what is not one, or is used elsewhere, stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgespa.graph.trace import trace


class Net(nn.Module):
    """A convolution whose weight is computed by a function of it and of the input."""

    def __init__(self, weight: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.compute = weight

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.compute(self.conv.weight, x), self.conv.bias)


def standardised(weight: Tensor, _: Tensor) -> Tensor:
    mean, var = weight.mean((1, 2, 3), keepdim=True), weight.var((1, 2, 3), keepdim=True)
    return (weight - mean) * torch.rsqrt(var + 1e-6)


def operators(net: nn.Module) -> set[str]:
    program = trace(net, (torch.zeros(2, 3, 8, 8),))
    return {node.target.__name__ for node in program.graph.nodes if node.op == "call_function"}


def test_standardised_weight_is_a_plain_one() -> None:
    net = Net(standardised)
    before = net.conv.weight.detach().clone()
    inputs = torch.randn(2, 3, 8, 8)
    program = trace(net, (inputs,))
    assert {node.target.__name__ for node in program.graph.nodes if node.op == "call_function"} == {"conv2d.default"}
    state = program.state()
    assert set(state) == {"conv.weight", "conv.bias"}
    torch.testing.assert_close(state["conv.weight"], standardised(before, inputs))
    torch.testing.assert_close(program(inputs), net(inputs))
    assert torch.equal(net.conv.weight, before)  # the model is not touched


def test_scaled_weight_is_left_alone() -> None:
    assert "mul.Tensor" in operators(Net(lambda weight, _: weight * 2.0))


def test_weight_that_depends_on_the_input_is_left_alone() -> None:
    assert "mean.dim" in operators(Net(lambda weight, x: standardised(weight, x) * x.mean((0, 1, 2, 3), keepdim=True)))


def test_weight_that_is_read_elsewhere_is_left_alone() -> None:
    class Twice(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.conv.weight.sum()

    assert "rsqrt.default" in operators(Twice(standardised))
