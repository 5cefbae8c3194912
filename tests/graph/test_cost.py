"""Costs by hand."""

from __future__ import annotations

from typing import Any

import pytest

from edgespa.graph.cost import CostModel

# (multiply-accumulates for batch 1, parameters)
BY_HAND = {
    # a: 3*9*8*64, b: 8*9*6*64, c: 6*9*8*64, fc: 8*5; batch norm has 2 * 8 parameters
    "residual": (13824 + 27648 + 27648 + 40, (216 + 8) + 16 + (432 + 6) + (432 + 8) + 45),
    "depthwise": (216 * 64 + 72 * 64 + 48 * 64 + 30, 224 + 80 + 54 + 35),
    "grouped_same_places": (3 * 9 * 12 * 64 + 6 * 9 * 16 * 64 + 80, 336 + (16 * 54 + 16) + 85),
    "transposed": (216 * 64 + 64 * 8 * 6 * 4 + 30, 224 + (8 * 6 * 4 + 6) + 35),
    # two projections of 5 tokens, 3 heads of 4: q k^T and the sum of v are 5 * 5 * 12 each
    "attention": (5 * 6 * 12 + 4 * 5 * 144 + 2 * 300 + 5 * 60, 84 + 4 * 156 + 65),
    "attention_einsum": (5 * 6 * 12 + 4 * 5 * 144 + 2 * 300 + 5 * 60, 84 + 4 * 156 + 65),
    "attention_explicit": (5 * 6 * 12 + 4 * 5 * 144 + 2 * 300 + 5 * 60, 84 + 4 * 156 + 65),
    # q and k of size 4, v of size 7
    "attention_one_head": (2 * 5 * 24 + 5 * 42 + 25 * 4 + 25 * 7 + 5 * 35, 2 * 28 + 49 + 40),
    "attention_grouped_query": (5 * 72 + 2 * 5 * 36 + 2 * 25 * 12 + 5 * 60, 84 + 2 * 42 + 65),
    "matrix_products": (216 * 64 + 48 + 30 + 8, 224 + 48 + 30 + 8 + 5),
    "static_batch": (216 * 64 + 8 * 9 * 6 * 64 + 30, 224 + 438 + 35),
    "embedding": (5 * 42 + 35, 60 + 49 + 40),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_whole_program(zoo: Any, name: str) -> None:
    case = zoo(name)
    cost = CostModel(case.program, case.groups).cost()
    assert (cost.macs, cost.parameters) == BY_HAND[name]


def test_bytes_count_buffers_and_element_sizes(zoo: Any) -> None:
    residual, half = zoo("residual"), zoo("half")
    assert CostModel(residual.program, residual.groups).cost().size_bytes == 4 * (BY_HAND["residual"][1] + 16)
    assert CostModel(half.program, half.groups).cost().size_bytes == 2 * (224 + 438 + 12 + 12 + 35)


def test_some_units_removed(zoo: Any) -> None:
    case = zoo("residual")
    kept = case.groups.all_kept()
    kept["a"][:3], kept["b"][:2] = False, False  # 5 and 4 are left
    cost = CostModel(case.program, case.groups).cost(kept)
    assert cost.macs == 64 * 9 * (3 * 5 + 5 * 4 + 4 * 5) + 25
    assert cost.parameters == (27 * 5 + 5) + 10 + (45 * 4 + 4) + (36 * 5 + 5) + 30


def test_macs_of_each_node(zoo: Any) -> None:
    case = zoo("depthwise")
    assert CostModel(case.program, case.groups).node_macs() == {
        "conv2d": 216 * 64, "conv2d_1": 72 * 64, "conv2d_2": 48 * 64, "linear": 30,
    }  # fmt: skip
