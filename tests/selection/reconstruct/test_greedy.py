"""Greedy selection against all subsets, by hand, and against the direct solution of every size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgespa.errors import ConfigError
from edgespa.selection.reconstruct import Problem, greedy, residual, reweight

Blocks = list[list[int]]


def table(blocks: Blocks) -> Tensor:
    width = max(map(len, blocks))
    return torch.tensor([[*block, *[-1] * (width - len(block))] for block in blocks])


def problem(inputs: Tensor, targets: Tensor, blocks: Blocks, always: list[int] | None = None) -> Problem:
    return Problem(
        inputs.T @ inputs,
        inputs.T @ targets,
        float(targets.square().sum()),
        table(blocks),
        torch.tensor(always or []).long(),
    )


def left_over(inputs: Tensor, targets: Tensor, columns: list[int]) -> float:
    """``min_W ||Y - B_S W||^2`` by another way: an orthonormal basis of the columns."""
    if not columns:
        return float(targets.square().sum())
    basis, values, _ = torch.linalg.svd(inputs[:, columns], full_matrices=False)
    basis = basis[:, values > 1e-9 * values[0]]
    return float((targets - basis @ (basis.T @ targets)).square().sum())


def random_case(
    seed: int, units: int = 6, width: int = 2, outputs: int = 3, rows: int = 40
) -> tuple[Tensor, Tensor, Blocks]:
    generator = torch.Generator().manual_seed(seed)
    columns = units * width
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(rows, columns, generator=generator, dtype=torch.float64) @ (mixing + 2 * torch.eye(columns))
    weight = torch.randn(columns, outputs, generator=generator, dtype=torch.float64)
    return inputs, inputs @ weight, np.arange(columns).reshape(units, width).tolist()


def test_one_column_has_a_closed_form() -> None:
    # Y = 2 a + 1 b with a, b orthogonal, |a|^2 = 4, |b|^2 = 9: gains (a.y)^2/|a|^2 = 16 and 9
    inputs = torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    targets = inputs @ torch.tensor([[2.0], [1.0]], dtype=torch.float64)
    path = greedy([problem(inputs, targets, [[0], [1]])])
    assert path.order.tolist() == [0, 1]
    assert path.errors == pytest.approx([1, 9 / 25, 0])
    assert path.ratio == pytest.approx(1)
    assert path.least_errors == pytest.approx([1, 9 / 25, 0], abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("targets_of", ["its own", "others"])
def test_every_step_is_the_best_one_and_the_errors_are_true(seed: int, targets_of: str) -> None:
    inputs, targets, blocks = random_case(seed)
    if targets_of == "others":  # the asymmetric form: targets are no function of these inputs
        targets = targets + torch.randn(targets.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    path = greedy([problem(inputs, targets, blocks)])
    energy = float(targets.square().sum())
    chosen: list[int] = []
    for count, unit in enumerate(path.order, 1):
        trials = {
            other: left_over(inputs, targets, [c for u in [*chosen, other] for c in blocks[u]])
            for other in range(len(blocks))
            if other not in chosen
        }
        assert min(trials, key=trials.__getitem__) == unit
        assert path.errors[count] * energy == pytest.approx(trials[unit], rel=1e-8, abs=1e-8 * energy)
        chosen.append(int(unit))


@pytest.mark.parametrize("seed", range(8))
def test_the_guarantee_holds_over_all_subsets(seed: int) -> None:
    inputs, targets, blocks = random_case(seed)
    path = greedy([problem(inputs, targets, blocks)])
    energy = float(targets.square().sum())
    assert 0 < path.ratio < 1
    for size in range(1, len(blocks)):
        best = min(
            left_over(inputs, targets, [c for unit in chosen for c in blocks[unit]])
            for chosen in itertools.combinations(range(len(blocks)), size)
        )
        explained = 1 - best / energy
        assert path.least_errors[size] <= best / energy + 1e-9 <= path.errors[size] + 2e-9
        assert 1 - path.errors[size] >= (1 - np.exp(-path.ratio)) * explained - 1e-9


def test_the_bound_says_something_where_units_are_nearly_orthogonal() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.linalg.qr(torch.randn(50, 8, generator=generator, dtype=torch.float64))[0]
    targets = inputs @ torch.diag(torch.arange(8, 0, -1).double())
    path = greedy([problem(inputs, targets, [[c] for c in range(8)])])
    assert path.order.tolist() == list(range(8))
    assert path.least_errors == pytest.approx(path.errors, abs=1e-8)


def test_the_best_subset_is_found_where_greedy_is_exact_and_missed_where_it_is_not() -> None:
    # The first column alone explains most, but the other two together all of it.
    inputs = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.3, 0.0, 0.0]], dtype=torch.float64)
    targets = torch.tensor([[1.0], [1.0], [0.0]], dtype=torch.float64)
    path = greedy([problem(inputs, targets, [[0], [1], [2]])])
    assert path.order[0] == 0
    assert path.errors[2] > 0.01
    assert left_over(inputs, targets, [1, 2]) == pytest.approx(0)
    assert path.least_errors[2] == pytest.approx(0)


def test_several_readers_are_summed() -> None:
    cases = [random_case(seed) for seed in (1, 2, 3)]
    path = greedy([problem(*case) for case in cases])
    chosen: list[int] = []
    for unit in path.order:
        sums = {
            other: sum(
                left_over(inputs, targets, [c for u in [*chosen, other] for c in blocks[u]])
                for inputs, targets, blocks in cases
            )
            for other in range(6)
            if other not in chosen
        }
        assert min(sums, key=sums.__getitem__) == unit
        chosen.append(int(unit))
    assert path.order.tolist() != greedy([problem(*cases[0])]).order.tolist()


def test_readers_can_be_made_to_count_alike() -> None:
    loud, quiet = random_case(1), random_case(2)
    first, second = problem(loud[0], loud[1] * 1000, loud[2]), problem(quiet[0], quiet[1] * 1e-3, quiet[2])
    assert greedy([first, second]).order.tolist() == greedy([first]).order.tolist()
    assert greedy([first, second], relative=True).order.tolist() != greedy([first]).order.tolist()
    scaled = greedy([problem(*loud), problem(quiet[0], quiet[1] * 7, quiet[2])], relative=True)
    assert scaled.order.tolist() == greedy([first, second], relative=True).order.tolist()


def test_columns_that_are_always_there_are_taken_out_first() -> None:
    inputs, targets, blocks = random_case(4)
    path = greedy([problem(inputs, targets, blocks[1:], always=blocks[0])])
    base = left_over(inputs, targets, blocks[0])
    for size in range(1, 6):
        columns = [c for unit in path.order[:size] for c in blocks[1:][unit]] + blocks[0]
        assert path.errors[size] == pytest.approx(left_over(inputs, targets, columns) / base, abs=1e-8)


def test_units_of_different_sizes() -> None:
    inputs, targets, _ = random_case(5)
    blocks: Blocks = [[0], [1, 2, 3, 4], [5, 6], [7], [8, 9, 10], [11]]
    path = greedy([problem(inputs, targets, blocks)])
    energy = float(targets.square().sum())
    assert sorted(path.order) == list(range(6))
    for size in range(1, 7):
        columns = [c for unit in path.order[:size] for c in blocks[unit]]
        assert path.errors[size] == pytest.approx(left_over(inputs, targets, columns) / energy, abs=1e-8)


def test_dead_and_equal_columns() -> None:
    inputs, targets, blocks = random_case(6)
    inputs = inputs.clone()
    inputs[:, blocks[2]] = 0  # a dead unit
    inputs[:, blocks[4]] = inputs[:, blocks[1]]  # two equal ones
    targets = inputs @ torch.ones(12, 3, dtype=torch.float64)
    path = greedy([problem(inputs, targets, blocks)])
    assert np.isfinite(path.errors).all()
    assert path.errors[4] == pytest.approx(0, abs=1e-9)
    assert path.order[-2:].tolist() in ([2, 4], [2, 1])  # nothing to gain: in the order of their indices
    assert path.ratio == 0
    assert (path.least_errors <= path.errors).all()


def test_nothing_to_explain_is_no_error() -> None:
    zero = torch.zeros(5, 4, dtype=torch.float64)
    path = greedy([problem(zero, zero[:, :2], [[0, 1], [2, 3]])])
    assert path.order.tolist() == [0, 1]
    assert path.errors.tolist() == [0, 0, 0]


def test_part_of_the_path() -> None:
    case = random_case(7)
    whole, part = greedy([problem(*case)]), greedy([problem(*case)], count=3)
    assert part.order.tolist() == whole.order[:3].tolist()
    assert part.errors == pytest.approx(whole.errors[:4])
    assert greedy([problem(*case)], count=99).order.tolist() == whole.order.tolist()
    bare = greedy([problem(*case)], guarantee=False)
    assert bare.ratio == 0
    assert bare.order.tolist() == whole.order.tolist()


def test_readers_of_other_units_are_refused() -> None:
    with pytest.raises(ConfigError, match="units"):
        greedy([problem(*random_case(1)), problem(*random_case(1, units=5))])
    with pytest.raises(ConfigError, match="at least one reader"):
        greedy([])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    units=st.integers(1, 9),
    width=st.integers(1, 4),
    outputs=st.integers(1, 4),
    rows=st.integers(1, 30),
)
def test_errors_fall_and_match_the_solved_weights(seed: int, units: int, width: int, outputs: int, rows: int) -> None:
    inputs, targets, blocks = random_case(seed, units, width, outputs, rows)
    case = problem(inputs, targets, blocks)
    path = greedy([case])
    assert sorted(path.order) == list(range(units))
    assert (np.diff(path.errors) <= 1e-9).all()
    assert path.errors[-1] == pytest.approx(0, abs=1e-8)
    for size in range(units + 1):
        columns = torch.tensor([c for unit in path.order[:size] for c in blocks[unit]]).long()
        weights = reweight(case.gram, case.cross, columns)
        error = residual(case.gram, case.cross, case.energy, weights) / case.energy
        assert error == pytest.approx(path.errors[size], abs=1e-6)
