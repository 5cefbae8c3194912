"""Costs by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from edgespa.graph.cost import CostModel
from edgespa.graph.groups import find_groups
from edgespa.graph.trace import trace

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


class Net(nn.Module):
    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.run(self, *inputs)


def par(*sizes: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(sizes))


STEPS, ROWS = (1, 9, 7), (1, 4, 12)
# The network, sizes of its inputs, multiply-accumulates of one sample
PRODUCTS: dict[str, tuple[nn.Module, tuple[tuple[int, ...], ...], int]] = {
    "gru": (Net(lambda m, x: m.r(x)[0], r=nn.GRU(7, 8, 2, batch_first=True)), (STEPS,), 9 * 24 * (7 + 8 + 8 + 8)),
    "steps_first": (Net(lambda m, x: m.r(x.transpose(0, 1))[0].mean(0), r=nn.GRU(7, 8)), (STEPS,), 9 * 24 * 15),
    "both_ways": (
        Net(lambda m, x: m.r(x)[0], r=nn.RNN(7, 8, 2, batch_first=True, bidirectional=True)),
        (STEPS,), 9 * 2 * 8 * (7 + 8 + 16 + 8),
    ),
    "projected": (
        Net(lambda m, x: m.r(x)[0], r=nn.LSTM(7, 8, 2, batch_first=True, proj_size=3)),
        (STEPS,), 9 * (32 * (7 + 3) + 3 * 8 + 32 * (3 + 3) + 3 * 8),
    ),
    "without_bias": (Net(lambda m, x: m.r(x)[0], r=nn.LSTM(7, 8, batch_first=True, bias=False)), (STEPS,), 9 * 32 * 15),
    "given_state": (
        Net(lambda m, x, h: m.r(x, h)[0], r=nn.GRU(7, 8, 2, batch_first=True)), (STEPS, (2, 1, 8)), 9 * 24 * 31,
    ),
    "lstm_cell": (Net(lambda m, x: m.r(x)[0], r=nn.LSTMCell(7, 8)), ((1, 7),), 32 * 15),
    "gru_cell": (Net(lambda m, x: m.r(x), r=nn.GRUCell(7, 8)), ((1, 7),), 24 * 15),
    "rnn_cell": (Net(lambda m, x: m.r(x), r=nn.RNNCell(7, 8, bias=False)), ((1, 7),), 8 * 15),
    "vector_weight": (Net(lambda m, x: nn.functional.linear(x, m.v), v=par(12)), (ROWS,), 48),
    "vector_and_bias": (Net(lambda m, x: nn.functional.linear(x, m.v, m.b[0]), v=par(12), b=par(1)), (ROWS,), 48),
    "linear_of_vector": (Net(lambda m, x: m.l(x.squeeze(0))[None], l=nn.Linear(12, 5)), ((1, 12),), 60),
    "matrix_and_vector": (Net(lambda m, x: x @ m.v, v=par(12)), (ROWS,), 48),
    "mv": (Net(lambda m, x: torch.mv(m.w, x.flatten())[None], w=par(5, 12)), ((1, 12),), 60),
    "addmv": (Net(lambda m, x: torch.addmv(m.b, m.w, x.flatten())[None], w=par(5, 12), b=par(5)), ((1, 12),), 60),
    "einsum_vector": (Net(lambda m, x: torch.einsum("ntc,c->nt", x, m.v), v=par(12)), (ROWS,), 48),
    "einsum_dots": (Net(lambda m, x: torch.einsum("...c,dc->...d", x, m.w), w=par(3, 12)), (ROWS,), 144),
    "inner": (Net(lambda m, x: torch.inner(x, m.w), w=par(5, 12)), ((1, 12),), 60),
    "tensordot": (Net(lambda m, x: torch.tensordot(x, m.w, ([1, 2], [0, 1])), w=par(4, 12, 5)), (ROWS,), 240),
    "bilinear": (Net(lambda m, x: m.b(x, x), b=nn.Bilinear(12, 12, 5)), ((1, 12),), 720),
    # the weights of a mask are made once, whatever the batch
    "once_for_all": (Net(lambda m, x: x @ m.g(m.t).T, g=nn.Linear(6, 12), t=par(9, 6)), ((1, 12),), 9 * 72 + 108),
    "state_without_batch": (
        Net(lambda m, x, s: (m.a(x) + s[0], torch.stack([m.a(x)] * 2)), a=nn.Linear(5, 6)), ((1, 5), (2, 1, 6)), 60,
    ),
    "table_without_batch": (
        Net(lambda m, x, t: m.a(x) @ m.b(t).T, a=nn.Linear(5, 6), b=nn.Linear(4, 6)),
        ((1, 5), (7, 4)), 30 + 7 * 24 + 42,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_every_kind(name: str) -> None:
    model, sizes, expected = PRODUCTS[name]
    program = trace(model.eval(), [torch.randn(each) for each in sizes])
    assert CostModel(program, find_groups(program)).cost().macs == expected
