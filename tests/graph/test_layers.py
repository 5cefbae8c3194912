"""The layers of programs: what is fused, and widths that follow the units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from edgespa.errors import ConfigError
from edgespa.graph.groups import find_groups
from edgespa.graph.kinds import Kind
from edgespa.graph.layers import Layers, find_layers
from edgespa.graph.surgery import compact
from edgespa.graph.trace import trace
from edgespa.tasks.base import Base


def kinds(layers: Layers) -> list[str]:
    return [str(layer.kind) for layer in layers.layers]


def of(module: nn.Module, *shape: int) -> Layers:
    program = trace(module.eval(), (torch.randn(2, *shape),))
    return find_layers(program, find_groups(program))


def test_the_toy_network(toy_base: Base) -> None:
    found = toy_base.layers
    assert kinds(found) == [
        "conv k3x3 p1x1 @8x8 +relu",
        "conv k3x3 p1x1 @8x8 +relu",
        "depthwise k3x3 p1x1 @8x8",
        "conv k1x1 @8x8 +add",
        "mean",
        "linear @1",
    ]
    assert [layer.name for layer in found.layers][:4] == ["conv1", "conv2", "depthwise", "conv3"]
    assert [tuple(dim.count() for dim in layer.dims) for layer in found.layers][:4] == [
        (3, 16),
        (16, 24),
        (24,),
        (24, 16),
    ]
    assert not found.unknown


@pytest.mark.parametrize("seed", range(4))
def test_widths_are_those_of_the_compact_program(toy_base: Base, seed: int) -> None:
    """The layers of what was cut are the layers with the kept units."""
    random = np.random.default_rng(seed)
    kept = {name: random.random(len(mask)) < 0.6 for name, mask in toy_base.groups.all_kept().items()}
    for mask in kept.values():
        mask[0] = True
    smaller = compact(toy_base.program, toy_base.groups, kept)
    alive = toy_base.groups.alive(kept)
    expected = [tuple(dim.count() for dim in layer.dims) for layer in find_layers(smaller, find_groups(smaller)).layers]
    assert [tuple(dim.count(alive) for dim in layer.dims) for layer in toy_base.layers.layers] == expected


class _Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.a(x) + self.b(x))


class _Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.silu(self.conv(x))
        return y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(16, 48), nn.Linear(16, 16), nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [part.reshape(-1, 5, 2, 8).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1)]
        seen = nn.functional.scaled_dot_product_attention(*parts)
        return x + self.out(seen.transpose(1, 2).reshape(-1, 5, 16))


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (_Sum(), (3, 8, 8), ["conv k1x1 @8x8", "conv k3x3 p1x1 @8x8 +add +relu"]),
        (
            _Gate(),
            (3, 8, 8),
            ["conv k3x3 s2x2 p1x1 @8x8 +silu", "mean", "conv k1x1 @1x1 +sigmoid", "mul_channels"],
        ),
        (nn.Sequential(nn.ConstantPad2d((0, 1, 0, 1), 0.0), nn.Conv2d(3, 8, 3, 2), nn.ReLU6()), (3, 8, 8),
         ["conv k3x3 s2x2 z0x1x0x1 @8x8 +relu6"]),
        (nn.Sequential(nn.Conv2d(8, 16, 3, groups=4), nn.MaxPool2d(2)), (8, 8, 8),
         ["grouped k3x3 w2x4 @8x8", "max_pool k2x2 s2x2"]),
        (nn.ConvTranspose2d(3, 8, 2, 2), (3, 8, 8), ["deconv k2x2 s2x2 @8x8"]),
    ],
)  # fmt: skip
def test_what_is_fused_is_one(module: nn.Module, shape: Sequence[int], expected: list[str]) -> None:
    found = of(module, *shape)
    assert kinds(found) == expected
    assert not found.unknown
    assert all(Kind.parse(text) == layer.kind for text, layer in zip(expected, found.layers, strict=True))


def test_attention() -> None:
    found = kinds(of(_Attention(), 5, 16))
    assert found.count("attention @5x5") == 1
    assert "layer_norm w16" in found
    assert "linear @5" in found
    assert "linear @5 +add" in found


def test_what_nothing_stands_for_is_told() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(torch.relu(x), 1)

    found = of(Odd(), 8)
    assert found.unknown == {"cumsum": 1}
    assert kinds(found) == ["relu"]


@pytest.mark.parametrize(
    "text",
    [
        "conv", "conv k3x3 @8x8 +nothing", "conv k3x3 k3x3", "conv k3x3 s0x0 @8x8", "conv k3 s2x2", "rm -rf",
        "conv k3x3  @8x8", "conv k99999x1", "conv k3x3 s1x1", "x" * 1000, "conv k3x3 @8x8 +relu +relu +relu +relu", "",
    ],
)  # fmt: skip
def test_what_is_no_kind_is_refused(text: str) -> None:
    if text == "conv":  # it is one, of nothing
        assert str(Kind.parse(text)) == text
        return
    with pytest.raises(ConfigError):
        Kind.parse(text)
