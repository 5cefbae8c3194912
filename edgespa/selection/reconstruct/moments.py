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

    def add_sliding(self, slab: Tensor, taps: int, partners: Tensor | None = None) -> None:
        """Take in the rows of windows that slide over lines, without building them; see `sliding_products`.

        Args:
            slab: ``[c, m, lines, n]``: a line has ``m`` columns per channel and ``n`` rows of ``B``.
            taps: Lines per window. The columns of ``B`` are (channel, tap, m), its rows (place, n); a window at place
                ``p`` looks at the lines from ``p`` on.
            partners: ``[partners, places, n]``, with ``lines - taps + 1`` places.
        """
        channels, inner, lines, width = slab.shape
        places, flat = lines - taps + 1, slab.to(torch.float64).reshape(channels * inner, lines, width)
        by_tap = (taps, channels, inner)
        products = sliding_products(flat, taps).view(*by_tap, *by_tap).permute(1, 0, 2, 4, 3, 5)
        self._upper += products.reshape(self.columns, self.columns).numpy()
        other = partners.to(torch.float64).reshape(len(partners), -1) if partners is not None else None
        if other is not None:
            cross = torch.stack([flat[:, tap : tap + places].reshape(len(flat), -1) @ other.T for tap in range(taps)])
            self._cross[: self.columns] += cross.view(*by_tap, -1).transpose(0, 1).reshape(self.columns, -1)
        if self.constant:
            sums = flat.sum(2).unfold(1, places, 1).sum(2).view(channels, inner, taps).transpose(1, 2)
            self._last += torch.cat([sums.flatten(), sums.new_full((1,), places * width)])
            if other is not None:
                self._cross[self.columns] += other.sum(1)
        self.rows += places * width

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


def sliding_products(lines: Tensor, taps: int) -> Tensor:
    """``sum over places p of x[a, p + i] x[b, p + j]`` for all taps i, j: the Gram matrix of windows over lines.

    Windows overlap: for one difference ``j - i`` the sums run over nearly the same lines. So those that all have in
    common are multiplied once, and the few at either end apart: ``taps`` products instead of ``taps (taps + 1) / 2``.

    Args:
        lines: ``[m, lines, n]``.
        taps: Lines per window, not more than there are.

    Returns:
        ``[taps, m, taps, m]``.
    """
    m, count, _ = lines.shape
    places = count - taps + 1
    result = lines.new_zeros(taps, m, taps, m)

    def product(first: int, last: int, apart: int) -> Tensor:
        return lines[:, first:last].reshape(m, -1) @ lines[:, first + apart : last + apart].reshape(m, -1).T

    for apart in range(taps):
        ends = taps - 1 - apart  # the windows that tap i sees first begin at the lines 0 to ends
        if ends >= places:
            parts = [product(tap, tap + places, apart) for tap in range(ends + 1)]
        else:
            common = product(ends, places, apart)
            before = [product(line, line + 1, apart) for line in range(ends)]
            after = [product(places + line, places + line + 1, apart) for line in range(ends)]
            parts = [sum([*before[tap:], *after[:tap]], common) for tap in range(ends + 1)]
        for tap, part in enumerate(parts):
            result[tap, :, tap + apart] = part
            result[tap + apart, :, tap] = part.T
    return result
