"""Factors of lower rank for the products of attention, by their closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgespa.selection.heads import outputs, query_key, roots, tails, value_output

TOKENS, INPUTS, WIDTH = 60, 12, 8


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram(rows: Tensor) -> Tensor:
    return rows.mT @ rows


@pytest.mark.parametrize("rank", [1, 3, 6, 8])
def test_the_error_is_that_of_the_singular_values_that_are_left_out(rank: int) -> None:
    queries, keys = random(TOKENS, WIDTH), random(TOKENS, WIDTH, seed=1) @ random(WIDTH, WIDTH, seed=2)
    values, of_query, of_key = query_key(gram(queries)[None], gram(keys))
    logits = queries @ keys.T
    narrow = (queries @ of_query[0, :rank].T) @ (keys @ of_key[:rank].T).T
    assert float((logits - narrow).norm() / logits.norm()) == pytest.approx(float(tails(values)[rank]), abs=1e-7)
    # no pair of that rank is nearer
    left, exact, right = torch.linalg.svd(logits)
    best = (left[:, :rank] * exact[:rank]) @ right[:rank]
    assert float((logits - narrow).norm()) == pytest.approx(float((logits - best).norm()), abs=1e-6)
    assert values.tolist() == pytest.approx(exact[:WIDTH].tolist())


def test_it_is_the_formula_over_the_inputs_of_the_layers() -> None:
    """svd(L' Wq Wk' L) with X'X = LL', X with a column of ones."""
    inputs = torch.cat([random(TOKENS, INPUTS), torch.ones(TOKENS, 1, dtype=torch.float64)], 1)
    wq, wk = random(INPUTS + 1, WIDTH, seed=1), random(INPUTS + 1, WIDTH, seed=2)
    lower = torch.linalg.cholesky(gram(inputs))
    left, values, right = torch.linalg.svd(lower.T @ wq @ wk.T @ lower)
    rank = 5
    narrow_q = torch.linalg.solve(lower.T, left[:, :rank] * values[:rank].sqrt())
    narrow_k = torch.linalg.solve(lower.T, right[:rank].T * values[:rank].sqrt())
    found, of_query, of_key = query_key(gram(inputs @ wq)[None], gram(inputs @ wk))
    assert found.tolist() == pytest.approx(values[:WIDTH].tolist())
    torch.testing.assert_close(wq @ of_query[0, :rank].T @ (wk @ of_key[:rank].T).T, narrow_q @ narrow_k.T)


def test_at_full_rank_nothing_changes() -> None:
    queries, keys = random(2, TOKENS, WIDTH), random(TOKENS, WIDTH, seed=1)
    _, of_queries, of_key = query_key(gram(queries), gram(keys))
    for own, matrix in zip(queries, of_queries, strict=True):
        torch.testing.assert_close((own @ matrix.T) @ (keys @ of_key.T).T, own @ keys.T)
    attended, weights = random(1, TOKENS, WIDTH), random(1, 20, WIDTH, seed=3)
    _, matrix = value_output(gram(attended), weights)
    columns = outputs(gram(attended), weights, matrix)
    torch.testing.assert_close(attended[0] @ matrix.T @ columns[0].T, attended[0] @ weights[0].T)


@pytest.mark.parametrize("rank", [1, 4, 7])
def test_heads_that_share_a_key_are_one_stack(rank: int) -> None:
    queries, keys = random(3, TOKENS, WIDTH), random(TOKENS, WIDTH, seed=1)
    values, of_queries, of_key = query_key(gram(queries), gram(keys))
    logits = torch.cat([own @ keys.T for own in queries])
    parts = zip(queries, of_queries, strict=True)
    narrow = torch.cat([own @ matrix[:rank].T @ (keys @ of_key[:rank].T).T for own, matrix in parts])
    assert float((logits - narrow).norm() / logits.norm()) == pytest.approx(float(tails(values)[rank]), abs=1e-7)


@pytest.mark.parametrize("rank", [1, 4, 7])
@pytest.mark.parametrize("out", [20, 5])
def test_what_is_handed_on_keeps_its_bound(rank: int, out: int) -> None:
    attended, weights = random(1, TOKENS, WIDTH), random(1, out, WIDTH, seed=3)
    values, matrix = value_output(gram(attended), weights)
    columns = outputs(gram(attended), weights, matrix[:rank])
    handed = attended[0] @ weights[0].T
    narrow = attended[0] @ matrix[:rank].T @ columns[0].T
    assert float((handed - narrow).norm() / handed.norm()) == pytest.approx(float(tails(values)[rank]), abs=1e-7)


def test_heads_that_share_a_value_are_better_than_dimensions_that_are_left_out() -> None:
    attended = random(2, TOKENS, WIDTH) @ random(2, WIDTH, WIDTH, seed=5)
    weights = random(2, 20, WIDTH, seed=3)
    for rank in (2, 4, 6):
        _, matrix = value_output(gram(attended), weights)
        columns = outputs(gram(attended), weights, matrix[:rank])
        handed = [one @ weight.T for one, weight in zip(attended, weights, strict=True)]
        narrow = [one @ matrix[:rank].T @ own.T for one, own in zip(attended, columns, strict=True)]
        cut = [one[:, :rank] @ weight[:, :rank].T for one, weight in zip(attended, weights, strict=True)]
        assert float((sum(handed) - sum(narrow)).norm()) < float((sum(handed) - sum(cut)).norm())  # type: ignore[union-attr]


def test_dimensions_that_no_token_showed_do_no_harm() -> None:
    queries, keys = random(TOKENS, WIDTH), random(TOKENS, WIDTH, seed=1)
    queries[:, 2] = 0
    keys[:, 5] = keys[:, 4]
    values, of_query, of_key = query_key(gram(queries)[None], gram(keys))
    assert bool(torch.isfinite(of_query).all())
    assert float(values[-1]) < 1e-5 * float(values[0])
    torch.testing.assert_close(
        (queries @ of_query[0, :7].T) @ (keys @ of_key[:7].T).T, queries @ keys.T, rtol=1e-5, atol=1e-5
    )
    nothing = torch.zeros(1, WIDTH, WIDTH, dtype=torch.float64)
    assert bool(torch.isfinite(torch.cat([each.flatten() for each in query_key(nothing, nothing[0])])).all())
    assert tails(torch.zeros(2, 3)).tolist() == [0, 0, 0, 0]
    root, inverse = roots(gram(queries))
    torch.testing.assert_close(root @ root.T, gram(queries))
    assert bool(torch.isfinite(inverse).all())


def test_errors_of_all_ranks_by_hand() -> None:
    assert tails(torch.tensor([4.0, 2.0, 2.0, 1.0])).tolist() == pytest.approx([1, 0.6, 5**0.5 / 5, 0.2, 0])
    assert tails(torch.tensor([[4.0, 3.0], [0.0, 0.0]])).tolist() == pytest.approx([1, 0.6, 0])
