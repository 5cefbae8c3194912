"""Shrinking the moments of few rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edgespa.selection.reconstruct import Problem, greedy, reweight, shrinkage
from edgespa.selection.reconstruct.shrink import ENOUGH

COLUMNS = 12


def drawn(rows: int, seed: int = 0, columns: int = COLUMNS) -> Tensor:
    """Rows of a covariance with falling eigenvalues in a fixed rotation."""
    fixed = torch.Generator().manual_seed(99)
    rotation = torch.linalg.qr(torch.randn(columns, columns, generator=fixed, dtype=torch.float64))[0]
    scale = 0.7 ** torch.arange(columns, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scale @ rotation


def with_ones(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)


def test_by_hand() -> None:
    # S = diag(2, 1/2): tr = 5/2, tr S^2 = 17/4, mu = 5/4; two rows, two columns
    rows = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    share = (0 * 17 / 4 + 25 / 4) / ((2 + 1 - 1) * (17 / 4 - 25 / 8))
    assert share > 1  # and is cut to 0.99
    assert shrinkage(rows.T @ rows, 2, constant=False) == pytest.approx(2 * 99 * 5 / 4)
    rows = torch.tensor([[2.0, 0.1, 0.0], [-2.0, 0.1, 0.2], [2.1, 0.0, 0.1]] * 2)[:4].double()
    s = (rows.T @ rows / 4).numpy()
    share = (np.sum(s * s) / 3 + np.trace(s) ** 2) / ((4 + 1 / 3) * (np.sum(s * s) - np.trace(s) ** 2 / 3))
    assert 0.1 < share < 0.9
    expected = 4 * share / (1 - share) * np.trace(s) / 3
    assert shrinkage(rows.T @ rows, 4, constant=False) == pytest.approx(expected)


def test_the_mean_is_taken_off_where_there_is_a_constant() -> None:
    rows = drawn(10)
    moved = rows + 100
    centred = moved - moved.mean(0)
    wide = with_ones(moved)
    assert shrinkage(wide.T @ wide, 10, constant=True) == pytest.approx(
        shrinkage(centred.T @ centred, 10, constant=False), rel=1e-6
    )


def test_enough_rows_are_taken_at_their_word() -> None:
    enough = int(ENOUGH * COLUMNS)
    for rows, shrinks in ((1, True), (COLUMNS, True), (enough - 1, True), (enough, False), (1000, False)):
        case = drawn(rows)
        assert (shrinkage(case.T @ case, rows, constant=False) > 0) == shrinks


def test_what_is_not_there_is_not_shrunk() -> None:
    assert shrinkage(torch.zeros(4, 4, dtype=torch.float64), 2, constant=False) == 0
    assert shrinkage(torch.ones(1, 1, dtype=torch.float64), 1, constant=True) == 0
    assert shrinkage(torch.full((3, 3), float("nan"), dtype=torch.float64), 2, constant=False) == 0
    one = torch.tensor([[4.0]], dtype=torch.float64)  # a single column is its own mean variance
    assert shrinkage(one, 1, constant=False) == pytest.approx(99 * 4)


@pytest.mark.parametrize("rows", [6, 12, 17])
def test_it_is_nearer_to_the_covariance_of_all(rows: int) -> None:
    true = drawn(200_000, seed=5)
    true = true.T @ true / len(true)
    plain, shrunk = [], []
    for seed in range(20):
        case = drawn(rows, seed)
        gram = case.T @ case
        ridge = shrinkage(gram, rows, constant=False)
        share = ridge / (ridge + rows * float(gram.trace()) / rows / COLUMNS)
        mean = float(gram.trace()) / rows / COLUMNS
        plain.append(float((gram / rows - true).norm()))
        shrunk.append(float(((1 - share) * gram / rows + share * mean * torch.eye(COLUMNS) - true).norm()))
    assert np.mean(shrunk) < 0.95 * np.mean(plain)


@pytest.mark.parametrize("rows", [12, 24, 35])
def test_other_rows_are_fitted_better(rows: int) -> None:
    columns, plain, shrunk = 24, [], []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        mix = torch.randn(40, columns, generator=generator, dtype=torch.float64) / 6
        every = (torch.randn(rows + 2000, 40, generator=generator, dtype=torch.float64) @ mix).relu()  # as of a layer
        weight = torch.randn(columns + 1, 5, generator=generator, dtype=torch.float64)
        seen, test = with_ones(every[:rows]), with_ones(every[rows:])
        for errors, ridge in (
            (plain, 0.0),
            (shrunk, shrinkage(seen.T @ seen, rows, constant=True)),
        ):
            gram = seen.T @ seen
            gram.diagonal()[:columns] += ridge
            cross = gram @ weight
            case = Problem(
                gram, cross, float((weight * cross).sum()), torch.arange(columns)[:, None], torch.tensor([columns])
            )
            order = greedy([case]).order
            for size in (6, 12, 18):
                kept = torch.from_numpy(np.concatenate([order[:size], [columns]]))
                errors.append(float((test @ (weight - reweight(gram, cross, kept, weight))).norm()))
    assert np.mean(shrunk) < 0.97 * np.mean(plain)
