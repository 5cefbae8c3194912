"""The optimal weights on the columns that remain."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-12
"""Added to the diagonal of a Gram matrix, relative to its largest entry, before it is solved."""

TOLERANCE = 1e-12
"""Eigenvalues below this, relative to the largest entry of the whole Gram matrix's diagonal, count as zero."""


def reweight(gram: Tensor, cross: Tensor, kept: Tensor, prior: Tensor | None = None, ridge: float = RIDGE) -> Tensor:
    """``argmin_W ||Y - B_S W||^2 + ridge * max(diag G) * ||W - W_0||^2`` over weights that are zero outside of ``S``.

    The ridge decides nothing but what the rows leave open: with fewer rows than columns, the fit that is nearest to
    the old weights, which says more about other images than the one that is nearest to zero (a deviation).

    Args:
        gram: ``G = B^T B``, ``[n, n]``, float64.
        cross: ``T = B^T Y``, ``[n, o]``, float64.
        kept: ``S``: indices of the columns that remain.
        prior: ``W_0``, ``[n, o]``, such as the old weights; zero by default.
        ridge: Relative to the largest diagonal entry. Dead columns make ``G`` singular; with it they keep ``W_0``.

    Returns:
        ``[n, o]``, zero in the rows of columns that are gone.
    """
    result = torch.zeros_like(cross)
    start = torch.zeros_like(cross[kept]) if prior is None else prior[kept]
    largest = float(gram.diagonal().max()) if gram.numel() else 0.0
    if not kept.numel() or largest <= 0:
        result[kept] = start
        return result
    matrix = gram[kept][:, kept]
    left = cross[kept] - matrix @ start
    matrix.diagonal().add_(ridge * largest)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    # A failure is rounding on a matrix that is singular to working precision: cut what is not there.
    change = pseudo_inverse(matrix, TOLERANCE, largest) @ left if failed else torch.cholesky_solve(left, factor)
    result[kept] = start + change
    return result


def pseudo_inverse(matrix: Tensor, tolerance: float, largest: float) -> Tensor:
    """``M^+`` of a symmetric matrix, without eigenvalues below ``tolerance * largest``; ``[..., n, n]``."""
    root = inverse_root(matrix, tolerance, largest)
    return root @ root.mT


def inverse_root(matrix: Tensor, tolerance: float, largest: float) -> Tensor:
    """``F`` with ``F F^T = M^+``, a column of zeros per eigenvalue below ``tolerance * largest``; ``[..., n, n]``."""
    values, vectors = torch.linalg.eigh(matrix)
    there = values > tolerance * largest
    scale = torch.where(there, values.clamp_min(torch.finfo(values.dtype).tiny).rsqrt(), torch.zeros_like(values))
    root: Tensor = vectors * scale.unsqueeze(-2)
    return root


def residual(gram: Tensor, cross: Tensor, energy: float, weights: Tensor) -> float:
    """``||Y - B W||^2 = ||Y||^2 - 2 tr(W^T T) + tr(W^T G W)``, never below zero."""
    explained = 2 * (weights * cross).sum() - (weights * (gram @ weights)).sum()
    return max(0.0, energy - float(explained))
