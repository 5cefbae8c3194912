"""What does not depend on the inputs: numbers are folded when a program is made, tensors before a converter sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgespa.graph.constants import MOST_ELEMENTS, folded
from edgespa.graph.program import BATCH, Program
from edgespa.graph.trace import trace


class Net(nn.Module):
    """A convolution [N, 8, 6, 6], buffers, a parameter, and a function over them."""

    def __init__(self, run: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.run = nn.Conv2d(3, 8, 3), run
        self.register_buffer("strides", torch.tensor([8.0, 16.0]))
        self.register_buffer("count", torch.tensor([3]))
        self.gain = nn.Parameter(torch.randn(8))
        self.table = nn.Parameter(torch.randn(1, 8, 3, 3))

    def forward(self, x: Tensor) -> Any:
        return self.run(self, self.conv(x))


def sines(m: Net, y: Tensor) -> Tensor:
    places = torch.arange(y.shape[2], dtype=torch.float64)
    rates = 1.0 / 10000 ** (torch.arange(4, dtype=torch.float64) / 4)
    angles = places[:, None] * rates[None]
    return y + torch.cat([angles.sin(), angles.cos()], 1).to(y.dtype).T[:, :, None]


def grid(m: Net, y: Tensor) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(6) + 0.5, torch.arange(6) + 0.5, indexing="ij")
    anchors = torch.stack([columns, rows], 0).flatten(1) * m.strides[0]
    return y.flatten(2)[:, :2] + anchors


def filled(m: Net, y: Tensor) -> Tensor:
    return y.flatten(2).mean(1) * torch.cat([torch.full((18,), m.strides[0]), torch.full((18,), m.strides[1])])


FOLDED: dict[str, Callable[[Any, Tensor], Any]] = {
    "sines": sines,
    "grid": grid,
    "filled": filled,
    "sorted": lambda m, y: y.mean((2, 3)) + torch.arange(8).flip(0).sort()[0].cumsum(0),
    "masked": lambda m, y: y.masked_fill(torch.tril(torch.ones(6, 6)) == 0, -1.0),
    "linspace": lambda m, y: y * torch.linspace(0, 1, 6).pow(2) + torch.eye(6)[2].clamp(min=0.1),
    "resized": lambda m, y: y + F.interpolate(m.table, size=(6, 6), mode="bicubic"),
    "gained": lambda m, y: F.conv2d(y, m.conv.weight.repeat(1, 3, 1, 1)[:, :8] * m.gain.exp().view(-1, 1, 1, 1)),
}


def ops(program: Program) -> list[str]:
    return [node.target.__name__ for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("name", FOLDED)
def test_only_what_depends_on_the_inputs_is_left(name: str) -> None:
    model = Net(FOLDED[name]).eval()
    x = torch.randn(5, 3, 8, 8)
    program = trace(model, (x[:1],))
    plain = folded(program)
    assert plain.inputs == program.inputs
    assert plain.inputs[0].shape == (BATCH, 3, 8, 8)
    assert torch.equal(plain(x), program(x))
    torch.testing.assert_close(plain(x), model(x))
    # every operator that is left comes to the input in the end
    reached = {node for node in plain.graph.nodes if node.op == "placeholder"}
    for node in plain.graph.nodes:
        reached |= {node} if any(source in reached for source in node.all_input_nodes) else set()
    assert all(node in reached for node in plain.graph.nodes if node.op == "call_function")
    assert len(ops(plain)) < len(ops(program))
    assert "_assert_tensor_metadata.default" not in ops(plain)


def test_numbers_of_buffers_are_plain_from_the_trace_on() -> None:
    program = trace(Net(filled).eval(), (torch.randn(1, 3, 8, 8),))
    assert "item.default" not in ops(program)
    sliced = trace(Net(lambda m, y: y[:, : m.count[0].item()] * 2).eval(), (torch.randn(1, 3, 8, 8),))
    assert ops(sliced) == ["conv2d.default", "slice.Tensor", "mul.Tensor"]  # no checks of a size that is known
    assert sliced(torch.randn(4, 3, 8, 8)).shape == (4, 3, 6, 6)


def test_parameters_stay_until_files_are_made() -> None:
    program = trace(
        Net(lambda m, y: y / m.gain[0].exp().item() * m.gain.exp().view(-1, 1, 1)).eval(), (torch.randn(1, 3, 8, 8),)
    )
    assert {"gain", "conv.weight"} <= set(program.state())
    assert "item.default" in ops(program)
    plain = folded(program)
    assert ops(plain) == ["conv2d.default", "div.Tensor", "mul.Tensor"]
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(plain(x), program(x))
    assert "gain" in program.state()  # the program itself is not changed


def test_what_is_not_folded() -> None:
    x = torch.randn(2, 3, 8, 8)

    def left(run: Callable[[Any, Tensor], Any]) -> list[str]:
        program = trace(Net(run).eval(), (x[:1],))
        plain = folded(program)
        elements = sum(tensor.numel() for _, tensor in plain.tensors())
        assert elements <= sum(tensor.numel() for _, tensor in program.tensors()) + MOST_ELEMENTS // 4
        return ops(plain)

    assert "rand.default" in left(lambda m, y: y + 0 * torch.rand(8, 1, 1))
    assert "dropout.default" in left(lambda m, y: y + F.dropout(m.table[..., :1, :1], 0.5, True) * 0)
    assert "expand.default" in left(
        lambda m, y: (y.mean((2, 3))[:, :, None] + m.gain.exp()[:, None].expand(8, 99_999)).sum(2)
    )
    size = MOST_ELEMENTS // 8 + 1
    large = left(lambda m, y: (y.mean((2, 3))[:, :, None] + torch.arange(8.0)[:, None] * torch.arange(size)).amax(2))
    assert large.count("mul.Tensor") == 1
    # views of weights, which converters know, and constants that are outputs
    assert "select.int" in left(lambda m, y: y.mean((2, 3)) @ m.conv.weight[:, 0, :, 0])
    assert "mul.Tensor" in left(lambda m, y: (y, m.gain.exp() * 2))
