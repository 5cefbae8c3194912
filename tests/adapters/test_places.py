"""Where weights stand: by hand, on small networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgespa.adapters.base import Place
from edgespa.adapters.insertion import INSERTED, inserted_tensors, with_biases
from edgespa.adapters.places import find_places, norm_tensors
from edgespa.graph.trace import trace


def test_every_kind_of_layer(make: Callable[..., Any]) -> None:
    places = find_places(make("splora", "convolutions").base)
    assert places == {
        "stem.weight": Place("conv"),
        "grouped.weight": Place("conv", groups=2),
        "depthwise.weight": Place("conv", groups=24),
        "back.weight": Place("conv"),
        "down.weight": Place("conv"),
        "up.weight": Place("conv_transpose", 1, 0),
        "wide.weight": Place("linear"),
        "head.weight": Place("linear"),
    }


def test_projections_that_are_held_as_one_parameter(make: Callable[..., Any]) -> None:
    base = make("splora", "tokens").base
    places = find_places(base)
    assert places["attention.in_proj_weight"] == Place("linear")  # used whole
    assert places["cross.in_proj_weight"] == Place("linear")  # split into q and kv
    assert places["mix"] == Place("matmul", 1, 0)
    assert "position" not in places
    assert "token" not in places
    assert norm_tensors(base) == {f"norm{n}.{what}": "layer_norm" for n in (1, 2) for what in ("weight", "bias")}


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.left = nn.Parameter(torch.randn(4, 6))
        self.flipped = nn.Parameter(torch.randn(6, 4))
        self.stack = nn.Parameter(torch.randn(2, 6, 6))
        self.both = nn.Parameter(torch.randn(6, 6))
        self.bias = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        values = self.table(x.long().clamp(0, 6)) + self.bias  # [N, 6, 6]
        values = torch.nn.functional.linear(values, self.flipped.t()) @ self.left
        values = values @ self.stack[1]
        return torch.nn.functional.linear(values @ self.both, self.both)


def test_transposed_selected_and_ambiguous_weights() -> None:
    program = trace(Odd(), (torch.randn(2, 6),))
    places = find_places(program)
    assert places["table.weight"] == Place("embedding", 1, 0)
    assert places["flipped"] == Place("linear", 1, 0)
    assert places["left"] == Place("matmul", 1, 0)
    assert places["stack"] == Place("matmul", 2, 1)
    assert "both" not in places  # once from the left, once from the right
    assert "bias" not in places


def test_biases_are_inserted_where_there_is_no_shift(make: Callable[..., Any]) -> None:
    base = make("splora", "convolutions").base
    program = with_biases(base)
    # stem has a batch norm behind it; the others have biases already
    assert set(inserted_tensors(program)) == {f"{INSERTED}.bias.back", f"{INSERTED}.bias.wide"}
    shapes = {name: tuple(tensor.shape) for name, tensor in program.tensors()}
    assert shapes[f"{INSERTED}.bias.back"] == (16,)
    inputs = base.example_inputs()
    with torch.no_grad():
        assert torch.equal(program(*inputs), base(*inputs))
        moved = program.with_state({f"{INSERTED}.bias.wide": torch.ones(40)})(*inputs)
    assert not torch.allclose(moved, base(*inputs))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_bias_of_a_transposed_convolution_has_the_size_of_its_output(groups: int) -> None:
    net = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False), nn.Flatten(), nn.Linear(6 * 36, 2))
    program = with_biases(trace(net, (torch.randn(2, 4, 4, 4),)))
    (name,) = inserted_tensors(program)
    assert dict(program.tensors())[name].shape == (6,)
