"""Moments that come in parts, and the weights that follow from them."""

from __future__ import annotations

import pytest
import torch

from edgespa.selection.reconstruct import Moments, residual, reweight
from edgespa.selection.reconstruct.solve import inverse_root, pseudo_inverse


def test_moments_by_hand() -> None:
    moments = Moments(2, 1, constant=True)
    moments.add(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, -1.0]]))
    assert moments.gram().tolist() == [[5, 11, 3], [11, 25, 7], [3, 7, 2]]
    assert moments.cross().tolist() == [[-1], [-1], [0]]
    assert moments.rows == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_parts_add_up_in_float64(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 1000, generator=generator).to(dtype)
    other = torch.randn(3, 1000, generator=generator).to(dtype)
    moments = Moments(5, 3, constant=True)
    for part, mate in zip(rows.split(130, 1), other.split(130, 1), strict=True):
        moments.add(part, mate)
    whole = torch.cat([rows.double(), torch.ones(1, 1000, dtype=torch.float64)])
    assert torch.allclose(moments.gram(), whole @ whole.T, rtol=1e-12)
    assert torch.equal(moments.gram(), moments.gram().T)
    assert torch.allclose(moments.cross(), whole @ other.double().T, rtol=1e-12, atol=1e-10)


def test_small_values_are_not_lost_beside_large_ones() -> None:
    # In float32 a sum of 1e8 would swallow the ones.
    moments = Moments(1)
    moments.add(torch.full((1, 1), 1e4))
    for _ in range(100):
        moments.add(torch.ones(1, 1))
    assert moments.gram().item() == 1e8 + 100


def test_strided_rows_and_merging() -> None:
    rows = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    whole, one, two = Moments(6, 2), Moments(6, 2), Moments(6, 2)
    whole.add(rows, rows[:2])
    one.add(rows[:, ::2], rows[:2, ::2])
    two.add(rows.T.contiguous().T[:, 1::2], rows[:2, 1::2])
    merged = one.merged(two)
    assert torch.allclose(merged.gram(), whole.gram())
    assert torch.allclose(merged.cross(), whole.cross())
    assert merged.rows == 40
    merged.add(rows, rows[:2])  # and neither of the two has changed
    assert torch.allclose(one.merged(two).gram(), whole.gram())


def test_one_column_by_hand() -> None:
    # w = <b, y> / <b, b>
    gram = torch.tensor([[4.0, 1.0], [1.0, 9.0]], dtype=torch.float64)
    cross = torch.tensor([[2.0, 6.0], [1.0, 1.0]], dtype=torch.float64)
    weights = reweight(gram, cross, torch.tensor([0]))
    assert weights == pytest.approx(torch.tensor([[0.5, 1.5], [0, 0]], dtype=torch.float64))
    assert residual(gram, cross, 20.0, weights) == pytest.approx(20 - 2 * 2 / 4 - 6 * 6 / 4)


def test_the_solution_is_that_of_least_squares_and_beats_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    targets = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    kept = torch.tensor([0, 2, 3, 7])
    gram, cross, energy = inputs.T @ inputs, inputs.T @ targets, float(targets.square().sum())
    weights = reweight(gram, cross, kept)
    assert torch.allclose(weights[kept], torch.linalg.lstsq(inputs[:, kept], targets).solution, atol=1e-9)
    assert not weights[[1, 4, 5, 6]].any()
    best = residual(gram, cross, energy, weights)
    assert best == pytest.approx(float((targets - inputs @ weights).square().sum()))
    for _ in range(20):
        other = weights.clone()
        other[kept] += 0.01 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
        assert residual(gram, cross, energy, other) > best


def test_all_columns_give_the_old_weights_back() -> None:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    gram = inputs.T @ inputs
    assert torch.allclose(reweight(gram, gram @ weight, torch.arange(6)), weight, atol=1e-8)


@pytest.mark.parametrize("broken", ["dead", "twice", "few rows"])
def test_singular_moments(broken: str) -> None:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(3 if broken == "few rows" else 50, 6, generator=generator, dtype=torch.float64)
    if broken == "dead":
        inputs[:, 2] = 0
    if broken == "twice":
        inputs[:, 2] = inputs[:, 4]
    targets = inputs @ torch.ones(6, 2, dtype=torch.float64)
    weights = reweight(inputs.T @ inputs, inputs.T @ targets, torch.arange(6))
    assert torch.isfinite(weights).all()
    assert weights.abs().max() < 10
    assert (targets - inputs @ weights).abs().max() < 1e-4
    if broken == "dead":
        assert not weights[2].any()


def test_what_the_rows_leave_open_stays_as_it_was() -> None:
    generator = torch.Generator().manual_seed(6)
    inputs = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    old = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    kept = torch.arange(7)
    gram, cross = inputs.T @ inputs, inputs.T @ (inputs @ old)
    new = reweight(gram, cross, kept, old)
    change = (new - old)[kept]
    assert torch.allclose(inputs @ new, inputs @ old, atol=1e-4)  # 4 rows, 7 columns: an exact fit
    _, _, basis = torch.linalg.svd(inputs[:, kept], full_matrices=True)
    assert (basis[4:] @ change).abs().max() < 1e-2  # nothing moves where no row looks
    assert (basis[4:] @ reweight(gram, cross, kept)[kept]).abs().max() < 1e-2  # without it, nothing is there
    assert (basis[4:] @ new[kept]).abs().max() > 0.1
    assert not new[7:].any()


def test_where_the_rows_decide_the_old_weights_do_not_count() -> None:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    targets = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    old = 100 * torch.randn(8, 3, generator=generator, dtype=torch.float64)
    gram, cross, kept = inputs.T @ inputs, inputs.T @ targets, torch.arange(6)
    assert torch.allclose(reweight(gram, cross, kept, old), reweight(gram, cross, kept), atol=1e-6)


def test_nothing_kept_or_nothing_there() -> None:
    gram = torch.zeros(3, 3, dtype=torch.float64)
    assert not reweight(gram, torch.ones(3, 1, dtype=torch.float64), torch.arange(3)).any()
    assert not reweight(torch.eye(3, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64), torch.arange(0)).any()


def test_the_pseudo_inverse_cuts_what_is_below_the_tolerance() -> None:
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
    matrix = rotation @ torch.diag(torch.tensor([4.0, 1.0, 1e-9], dtype=torch.float64)) @ rotation.T
    expected = rotation @ torch.diag(torch.tensor([0.25, 1.0, 0.0], dtype=torch.float64)) @ rotation.T
    assert torch.allclose(pseudo_inverse(matrix, 1e-8, 4.0), expected, atol=1e-9)
    assert pseudo_inverse(matrix, 1e-12, 4.0).abs().max() > 1e6
    assert torch.linalg.matrix_rank(inverse_root(matrix, 1e-8, 4.0)) == 2


@pytest.mark.parametrize(("lines", "taps"), [(9, 3), (5, 3), (4, 3), (3, 3), (8, 2), (6, 5), (7, 1)])
def test_windows_that_slide_give_the_moments_of_their_rows(lines: int, taps: int) -> None:
    generator = torch.Generator().manual_seed(lines)
    slab = torch.randn(4, 2, lines, 5, generator=generator)
    places = lines - taps + 1
    partners = torch.randn(3, places, 5, generator=generator)
    # rows (place, n), columns (channel, tap, m)
    rows = torch.stack([slab[:, :, p : p + taps].transpose(1, 2) for p in range(places)], 3).reshape(8 * taps, -1)
    direct, sliding = Moments(8 * taps, 3, constant=True), Moments(8 * taps, 3, constant=True)
    for _ in range(2):
        direct.add(rows, partners.flatten(1))
        sliding.add_sliding(slab, taps, partners)
    assert sliding.rows == direct.rows == 2 * 5 * places
    assert torch.allclose(sliding.gram(), direct.gram(), rtol=1e-12, atol=1e-12)
    assert torch.allclose(sliding.cross(), direct.cross(), rtol=1e-12, atol=1e-12)
