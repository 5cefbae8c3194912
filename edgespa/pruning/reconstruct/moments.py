"""Second moments of a layer's inputs, streamed: memory does not grow with the number of images."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg.blas import dsyrk
from torch import Tensor


class Moments:
    """``G = B^T B`` and ``X = B^T C`` over rows that come in parts; products and sums in float64.

    ``C`` are the targets, or anything that they are a linear function of: with the *original* inputs ``A`` as ``C``,
    ``B^T Y = X W`` for ``Y = A W`` needs no further pass.

    Args:
        columns: Columns of ``B``.
        partners: Columns of ``C``; 0 if the targets are to be made from ``G``.
        constant: Append a column of ones to ``B``, as the last: what a bias multiplies.
    """

    def __init__(self, columns: int, partners: int = 0, *, constant: bool = False) -> None:
        self.columns = columns
        self.constant = constant
        self.rows = 0
        # Fortran order: what BLAS updates in place. Only the upper triangle is filled.
        self._upper = np.zeros((columns, columns), dtype=np.float64, order="F")
        self._last = torch.zeros(columns + constant, dtype=torch.float64)  # of the column of ones
        self._cross = torch.zeros(columns + constant, partners, dtype=torch.float64)

    def add(self, rows: Tensor, partners: Tensor | None = None) -> None:
        """Take in some rows.

        Args:
            rows: ``[columns, m]``: one *column* per row of ``B``; any floating type.
            partners: ``[partners, m]``.
        """
        block = rows.to(torch.float64).contiguous()
        self._upper = dsyrk(1.0, block.numpy().T, beta=1.0, c=self._upper, trans=1, overwrite_c=1)
        other = partners.to(torch.float64) if partners is not None else None
        if other is not None:
            self._cross[: self.columns].addmm_(block, other.T)
        if self.constant:
            self._last += torch.cat([block.sum(1), block.new_full((1,), block.shape[1])])
            if other is not None:
                self._cross[self.columns] += other.sum(1)
        self.rows += block.shape[1]

    def gram(self) -> Tensor:
        """``G``, ``[columns + constant, columns + constant]``, symmetric to the last bit."""
        upper = torch.from_numpy(np.triu(self._upper))
        gram = self._last.new_zeros(len(self._last), len(self._last))
        gram[: self.columns, : self.columns] = upper + upper.triu(1).T
        if self.constant:
            gram[-1], gram[:, -1] = self._last, self._last
        return gram

    def cross(self) -> Tensor:
        """``X = B^T C``, ``[columns + constant, partners]``."""
        return self._cross.clone()

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets of rows."""
        result = Moments(self.columns, self._cross.shape[1], constant=self.constant)
        result._upper = np.asfortranarray(self._upper + other._upper)
        result._cross, result._last = self._cross + other._cross, self._last + other._last
        result.rows = self.rows + other.rows
        return result
