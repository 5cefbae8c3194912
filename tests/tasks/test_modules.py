"""What each module has: sums are the network's, widths of a cut are those that are left, by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgespa.api.arguments import model_of
from edgespa.tasks.base import Base
from edgespa.tasks.modules import describe_modules


class Branches(nn.Module):
    """Two convolutions that are added, a depthwise one, attention, a norm, a parameter of its own, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.deep(self.norm(self.one(x) + self.two(x)).relu() * self.scale)
        tokens = y.flatten(2).transpose(1, 2)
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def opened(module: nn.Module, shape: tuple[int, ...]) -> Base:
    return Base.open(model_of(module.eval())[0], shape)


def by_name(rows: list[dict[str, Any]]) -> Mapping[str, dict[str, Any]]:
    assert len({row["module"] for row in rows}) == len(rows)
    return {row["module"]: row for row in rows}


@pytest.mark.parametrize("kept_share", [1.0, 0.5])
def test_sums_are_those_of_the_network(kept_share: float) -> None:
    base = opened(Branches(), (1, 3, 6, 6))
    kept = {name: np.arange(len(group)) < max(1, kept_share * len(group)) for name, group in base.groups.groups.items()}
    rows = describe_modules(base, kept)
    now, whole = base.cost.cost(kept), base.cost.cost()
    assert sum(row["macs"] for row in rows) == now.macs
    assert sum(row["parameters"] for row in rows) == now.parameters
    assert sum(row["base_macs"] for row in rows) == whole.macs
    assert sum(row["base_parameters"] for row in rows) == whole.parameters
    assert (now.macs < whole.macs) == (kept_share < 1)


def test_widths_by_hand() -> None:
    base = opened(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False)), (1, 1, 5, 5))
    ((name, group),) = base.groups.groups.items()
    rows = by_name(describe_modules(base, {name: np.arange(len(group)) < 3}))
    first, last = rows["0"], rows["2"]
    assert (first["channels"], first["base_channels"]) == (3, 8)
    assert (first["parameters"], first["base_parameters"]) == (3 * 10, 8 * 10)
    assert (first["macs"], first["base_macs"]) == (3 * 9 * 9, 8 * 9 * 9)
    assert (first["units"], first["fixed"], first["group"]) == (8, 0, "0")
    assert (last["channels"], last["base_channels"]) == (4, 4)
    assert (last["parameters"], last["base_parameters"]) == (12, 32)
    assert (last["units"], last["fixed"]) == (0, 4)
    assert "output of the network" in last["reason"]


def test_what_has_no_weights_is_where_it_was_called() -> None:
    rows = by_name(describe_modules(opened(Branches(), (1, 3, 6, 6))))
    products = [row for name, row in rows.items() if row["macs"] and not row["parameters"]]
    assert products, "the products of attention"
    assert all(row["channels"] is None for row in products)
    assert any(name.startswith("attention.") for name, row in rows.items() if row in products)


def test_blocks_that_went_are_there_with_nothing() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x).relu()

    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Sequential(*(Block() for _ in range(3))), nn.Conv2d(4, 2, 1))
    base = opened(net, (1, 1, 6, 6))
    removed = [block.name for block in base.blocks if block.removable][-1:]
    cut = base.without_blocks(tuple(removed))
    rows = by_name(describe_modules(cut))
    gone = rows[f"{removed[0]}.conv"]
    assert (gone["channels"], gone["parameters"], gone["macs"]) == (0, 0, 0)
    assert gone["base_parameters"] == 4 * 4 * 9 + 4
    assert sum(row["macs"] for row in rows.values()) == cut.cost.cost().macs


def test_a_module_that_is_called_twice_costs_twice_and_has_its_weights_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(self.conv(x)))

    base = opened(Twice(), (1, 4, 5, 5))
    row = by_name(describe_modules(base))["conv"]
    assert row["macs"] == 2 * 4 * 4 * 9 * 25
    assert row["parameters"] == 4 * 4 * 9 + 4
