"""Rounding by a Gram matrix, beside brute force and the formulas written out."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from edgespa.quantisation.rounding import (
    LEVELS,
    MOST_COLUMNS,
    compensated,
    descended,
    exhausted,
    lost,
    nearest,
    rounded,
    scales,
    steadied,
)


def a_layer(groups: int, rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights, and the Gram matrix of inputs that say much the same."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(groups, rows, columns, generator=generator)
    mixed = torch.randn(groups, 500, 3, generator=generator) @ torch.randn(groups, 3, columns, generator=generator)
    inputs = mixed + 0.1 * torch.randn(groups, 500, columns, generator=generator)
    return weights, (inputs.mT @ inputs).double()


@pytest.mark.parametrize("how", ["compensated", "exhausted", "rounded", "nearest"])
def test_the_scale_can_be_read_off_the_levels(how: str) -> None:
    weights, gram = a_layer(2, 5, 8)
    levels = {
        "compensated": lambda: compensated(weights, gram),
        "exhausted": lambda: exhausted(weights, gram),
        "rounded": lambda: rounded(weights, gram),
        "nearest": lambda: nearest(weights),
    }[how]()
    assert torch.equal(levels, levels.round())
    assert torch.equal(levels.abs().amax(-1), torch.full((2, 5), float(LEVELS)))
    again = levels * scales(weights)  # as those who write files do
    torch.testing.assert_close(nearest(again), levels, rtol=0, atol=0)


def test_exhausted_is_the_best_of_all() -> None:
    weights, gram = a_layer(3, 1, 5)
    found = lost(exhausted(weights, gram), weights, gram)
    for group in range(3):
        exact = (weights[group, 0] / scales(weights)[group, 0]).double()
        place = int(exact.abs().argmax())
        costs = []
        for way in product((0, 1), repeat=5):
            error = exact.floor() + torch.tensor(way) - exact
            error[place] = 0
            error = error * scales(weights)[group, 0]
            costs.append(float(error @ gram[group] @ error))
        assert float(found[group, 0]) == pytest.approx(min(costs), rel=1e-4, abs=1e-9)


def test_compensated_is_what_the_paper_says() -> None:
    """Weight by weight with the inverse of what is left, which the Cholesky factor stands for."""
    weights, gram = a_layer(1, 4, 6)
    damped = gram[0] + 0.01 * gram[0].diagonal().mean() * torch.eye(6)
    order = gram[0].diagonal().argsort(descending=True).tolist()
    left, scale = weights[0].double().clone(), scales(weights)[0].double()
    wanted = torch.zeros_like(left)
    remaining = list(order)
    for column in order:
        inverse = torch.linalg.inv(damped[remaining][:, remaining])
        level = (left[:, column] / scale[:, 0]).round().clamp(-LEVELS, LEVELS)
        largest = weights[0].abs().argmax(1) == column
        level = torch.where(largest, weights[0, :, column].sign() * LEVELS, level)
        wanted[:, column] = level
        error = (left[:, column] - level * scale[:, 0]) / inverse[0, 0]
        left[:, remaining] -= error[:, None] * inverse[0]
        remaining.remove(column)
    assert torch.equal(compensated(weights, gram)[0].double(), wanted)


def test_inputs_that_say_nothing_of_each_other_are_rounded_to_the_nearest() -> None:
    weights, _ = a_layer(1, 4, 200)
    gram = torch.diag(torch.rand(200) + 0.5).double()[None]
    assert torch.equal(compensated(weights, gram), nearest(weights))


@pytest.mark.parametrize("columns", [5, 25, 140, 300])
def test_outputs_are_nearer_than_by_rounding_to_the_nearest(columns: int) -> None:
    weights, gram = a_layer(2, 6, columns)
    plain, ours = lost(nearest(weights), weights, gram), lost(rounded(weights, gram), weights, gram)
    assert float(ours.sum()) < 0.4 * float(plain.sum())


def test_descended_is_never_worse_and_no_single_step_would_help() -> None:
    weights, gram = a_layer(2, 3, 12)
    levels = descended(nearest(weights), weights, gram)
    least = lost(levels, weights, gram)
    assert (least <= lost(nearest(weights), weights, gram)).all()
    for column, step in product(range(12), (-1.0, 1.0)):
        other = levels.clone()
        other[..., column] += step
        allowed = (other[..., column].abs() <= LEVELS) & (weights.abs().argmax(-1) != column)
        assert ((lost(other, weights, gram) >= least * (1 - 1e-9)) | ~allowed).all()


@pytest.mark.parametrize("columns", [4, 30])
def test_groups_do_not_meet(columns: int) -> None:
    weights, gram = a_layer(3, 2, columns)
    alone = torch.cat([rounded(weights[at : at + 1], gram[at : at + 1]) for at in range(3)])
    assert torch.equal(rounded(weights, gram), alone)


@pytest.mark.parametrize("columns", [4, 30])
def test_weights_of_zeros_and_inputs_of_zeros(columns: int) -> None:
    weights, gram = a_layer(1, 3, columns)
    weights[0, 1] = 0
    gram[:, 2] = gram[:, :, 2] = 0
    levels = rounded(weights, gram)
    assert torch.isfinite(levels).all()
    assert not levels[0, 1].any()
    assert torch.isfinite(rounded(weights, torch.zeros_like(gram))).all()


def test_too_many_columns_go_to_the_nearest() -> None:
    weights = torch.randn(1, 2, MOST_COLUMNS + 1)
    assert torch.equal(rounded(weights, torch.empty(1, 0, 0)), nearest(weights))


def test_few_rows_are_drawn_to_the_diagonal_and_many_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(20, 20, generator=generator)
    inputs = torch.randn(20_000, 20, generator=generator) @ mixing
    true = (mixing.T @ mixing).double()[None]

    def off(count: int, steady: bool) -> float:
        gram = (inputs[:count].T @ inputs[:count]).double()[None]
        return float(((steadied(gram, count) if steady else gram) / count - true).norm() / true.norm())

    assert off(15, True) < 0.85 * off(15, False)
    assert off(20_000, True) == pytest.approx(off(20_000, False), abs=0.003)
    assert torch.equal(steadied(torch.eye(5).double()[None], 3), torch.eye(5).double()[None])
    _, gram = a_layer(2, 3, 6)
    assert torch.equal(steadied(gram, 10).diagonal(dim1=1, dim2=2), gram.diagonal(dim1=1, dim2=2))
