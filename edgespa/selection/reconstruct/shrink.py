"""What to do where there are few rows: second moments that are not taken at their word."""

from __future__ import annotations

import math

from torch import Tensor

ENOUGH = 1.5
"""Rows per column from which moments are left as they are: the least-squares problem of the paper."""
_MOST = 0.99  # of the scaled identity, so that what was seen always counts


def shrinkage(gram: Tensor, rows: int, *, constant: bool) -> float:
    """What to add to the diagonal of ``G`` so that it is nearer to that of *all* images; 0 with enough rows.

    With about as many rows as kept columns, least squares fits the noise of its rows exactly, and what it computes on
    other images is far off; with fewer rows than columns, every choice of units looks perfect. The remedy is a
    covariance that is shrunk towards a scaled identity, ``(1 - rho) S + rho mu I`` with ``mu = tr(S) / p``, and the
    ``rho`` of least expected squared error for normal rows (Chen et al. 2010, "Shrinkage Algorithms for MMSE Covariance
    Estimation", arXiv 0907.4698, eq. 23):

        rho = ((1 - 2/p) tr(S^2) + tr(S)^2) / ((n + 1 - 2/p) (tr(S^2) - tr(S)^2 / p)), at most 1

    Up to a factor that is ``G + lambda I``. With targets ``Y = B W`` it is the same as adding ``lambda ||W - W'||^2``:
    new weights stay near the old ones, and a unit that no row tells anything about is judged by its weights. A
    deviation from El Halabi et al. 2022 (arXiv 2203.04940), who solve the plain problem.

    Args:
        gram: ``G = B^T B``, ``[n, n]``; with ``constant`` the last column is that of ones.
        rows: How many rows it comes from.
        constant: Whether there is such a column. It is not shrunk, and the others are taken about their means.

    Returns:
        ``lambda >= 0``.
    """
    columns = len(gram) - constant
    if not columns or rows < 1 or rows >= ENOUGH * columns:
        return 0.0
    moments = gram[:columns, :columns] / rows
    if constant:
        mean = gram[:columns, -1:] / rows
        moments = moments - mean @ mean.T
    trace, squares = float(moments.trace()), float(moments.square().sum())
    if not (math.isfinite(squares) and trace > 0):
        return 0.0
    spread = (rows + 1 - 2 / columns) * (squares - trace**2 / columns)
    share = ((1 - 2 / columns) * squares + trace**2) / spread if spread > 0 else 1.0
    share = min(max(share, 0.0), _MOST)
    return rows * share / (1 - share) * trace / columns
