"""Narrower heads of attention: the pairs of factors of lower rank that change products least. Pure maths.

A head compares tokens by ``Q K^T`` and hands on ``A Wo^T``, with ``Q``, ``K`` and the attended values ``A`` one row per
token and one column per dimension of the head. A pair of fewer dimensions that is nearest to a product in the Frobenius
norm, over all tokens at once, has a closed form (Eckart and Young 1936): with ``Q^T Q = F F^T``, ``K^T K = E E^T`` and
the singular value decomposition ``F^T E = u s v^T``,

    Q* = Q F^-T u_r s_r^1/2,   K* = K E^-T v_r s_r^1/2,   ||Q K^T - Q* K*^T||^2 = sum of s_i^2 over i > r

Both are linear in what the head has now, so the weights and biases of the layers that write it are multiplied by a
matrix, and nothing else changes; the scale of the logits stays that of the old width. Written in the inputs ``X`` of
the layers, a column of ones with them, this is ``svd(L^T Wq Wk^T L)`` with ``X^T X = L L^T``: ``F = L^T Wq`` up to a
rotation.

Matrices are of full rank here, their rows in the order of the singular values: of a lower rank the first ones count,
so the errors of all ranks are known at once (`tails`).

Deviations from what is exact: heads that share a key are one stack of queries, which has the same closed form; heads
that share a value are treated as if their attended values had the same second moments, those of all of them together,
and the layer behind them is then fitted to each by least squares.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-12
"""Eigenvalues below this, relative to the largest, count as zero: what no token showed."""


def roots(gram: Tensor) -> tuple[Tensor, Tensor]:
    """``F`` with ``F F^T = G``, and ``F^-T`` where ``G`` has anything.

    Args:
        gram: ``G``, ``[..., d, d]``, float64, of rows that are tokens.

    Returns:
        Both ``[..., d, d]``.
    """
    values, vectors = torch.linalg.eigh(gram)
    there = values > TOLERANCE * values.amax(-1, keepdim=True).clamp_min(torch.finfo(gram.dtype).tiny)
    scale = torch.where(there, values.clamp_min(0).sqrt(), torch.zeros_like(values))
    inverse = torch.where(there, 1 / scale.clamp_min(torch.finfo(gram.dtype).tiny), torch.zeros_like(values))
    return vectors * scale.unsqueeze(-2), vectors * inverse.unsqueeze(-2)


def query_key(queries: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What to multiply queries and keys by, from the left of a token's column.

    Args:
        queries: Second moments of the queries of heads that share a key, ``[heads, d, d]``, float64.
        key: Second moments of that key, ``[d, d]``.

    Returns:
        Singular values ``[d]``, falling; matrices of the queries ``[heads, d, d]``; that of the key ``[d, d]``.
    """
    heads, width, _ = queries.shape
    own, own_inverse = roots(queries)
    other, other_inverse = roots(key)
    left, values, right = torch.linalg.svd((own.mT @ other).reshape(heads * width, width), full_matrices=False)
    scale = values.sqrt()
    of_queries = (own_inverse @ (left.reshape(heads, width, width) * scale)).mT
    return values, of_queries, (other_inverse @ (right.mT * scale)).mT


def value_output(attended: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """What to multiply values by, from the left of a token's column.

    Args:
        attended: Second moments of the attended values of heads that share a value, ``[heads, d, d]``, float64.
        weights: Columns of the layer that reads each head, ``[heads, out, d]``.

    Returns:
        Singular values ``[d]`` (of the product, for one head), falling; the matrix ``[d, d]``.
    """
    own, inverse = roots(attended.sum(0))
    stacked = torch.cat([own.mT @ weight.mT for weight in weights], dim=1)
    width = len(own)
    left, values, _ = torch.linalg.svd(stacked, full_matrices=False)
    if left.shape[1] < width:  # a layer of fewer outputs
        left = torch.cat([left, left.new_zeros(width, width - left.shape[1])], dim=1)
        values = torch.cat([values, values.new_zeros(width - len(values))])
    return values, (inverse @ (left * values.sqrt())).mT


def outputs(attended: Tensor, weights: Tensor, narrow: Tensor) -> Tensor:
    """The columns that read narrower values so that what is handed on changes least.

    Args:
        attended: Second moments of the attended values, ``[heads, d, d]``.
        weights: ``[heads, out, d]``.
        narrow: What the values are multiplied by, ``[r, d]``.

    Returns:
        ``[heads, out, r]``.
    """
    seen = narrow @ attended
    own, inverse = roots(seen @ narrow.T)
    del own
    return weights @ seen.mT @ inverse @ inverse.mT


def tails(values: Tensor) -> Tensor:
    """Relative error of the product at every rank: ``sqrt(sum of s_i^2 over i > r / sum of all)``.

    Args:
        values: Singular values ``[..., d]``, falling; of several heads in rows, whose products are one error.

    Returns:
        ``[d + 1]``, for the ranks 0 to d; zeros where there is nothing.
    """
    squares = values.reshape(-1, values.shape[-1]).square().sum(0)
    left = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
    return (left / left[0]).sqrt() if float(left[0]) > 0 else torch.zeros_like(left)
