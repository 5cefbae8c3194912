"""Block greedy on Schur complements: the nested choice of units for every size, from one pass.

With ``R`` the Schur complement of ``G`` on what is chosen and ``T`` the cross moments left over, the gain of a unit
with columns ``c`` is ``tr(T_c^T R_cc^+ T_c)`` (El Halabi et al. 2022, arXiv 2203.04940, gives the gain of a single
column; the block form and the several readers are ours). Taking a unit in costs one update of low rank.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgespa.errors import ConfigError
from edgespa.selection.reconstruct.solve import TOLERANCE, inverse_root

_SHRINK_BELOW = 0.75  # what is chosen is dropped from R when this fraction of its columns remains


@dataclasses.dataclass(frozen=True)
class Problem:
    """What one reader has to reconstruct.

    Attributes:
        gram: ``G = B^T B``, ``[n, n]``, float64.
        cross: ``T = B^T Y``, ``[n, o]``, float64.
        energy: ``||Y||^2``.
        units: ``[units, b]``: the columns of each unit; -1 fills the rows of units that have fewer.
        always: Columns that are there whatever is chosen: the constant, fixed inputs, units of other groups.
    """

    gram: Tensor
    cross: Tensor
    energy: float
    units: Tensor
    always: Tensor


@dataclasses.dataclass(frozen=True)
class Path:
    """The nested solutions of a greedy pass: the best ``k`` units are the first ``k`` of the order.

    Attributes:
        order: Units, best first; all of them, or as many as were asked for.
        errors: ``[len(order) + 1]``: what is not explained with k units, relative to what is not explained with none.
        least_errors: The same figure that *no* choice of k units can go below; see `greedy`.
        ratio: Lower bound of the submodularity ratio; the gain of the first k is at least
            ``1 - exp(-ratio)`` of that of the best k.
    """

    order: NDArray[np.int64]
    errors: NDArray[np.float64]
    least_errors: NDArray[np.float64]
    ratio: float


def greedy(
    problems: Sequence[Problem], count: int | None = None, *, relative: bool = False, guarantee: bool = True
) -> Path:
    """Choose units one at a time, each time the one that explains most of what is left, summed over readers.

    The bound: ``F`` is weakly submodular with a ratio of at least the least eigenvalue of the Gram matrix whose unit
    blocks are whitened (Das and Kempe 2011, arXiv 1102.3975, lemma 2.4, for blocks). So the best k explain at most
    ``F(greedy k) / (1 - exp(-ratio))``, and at most the sum of the k largest first gains divided by the ratio, and
    at most what all units explain. The least of the three is reported; with collinear units the last one is all.

    Args:
        problems: One per reader, over the same units in the same order.
        count: How many units to choose; all by default.
        relative: Divide each reader's part by its energy, so that readers count alike; the plain sum by default.
        guarantee: Compute the ratio (an eigenvalue problem of the size of ``G``); else it is taken as 0.

    Returns:
        The order and its curves. Ties go to the unit that comes first.

    Raises:
        ConfigError: If there is no problem, or they have different numbers of units.
    """
    sizes = {len(problem.units) for problem in problems}
    if len(sizes) != 1:
        raise ConfigError(f"readers over {sorted(sizes)} units: they need the same ones, and at least one reader")
    units = sizes.pop()
    steps = units if count is None else min(count, units)
    states = [_State(problem, relative) for problem in problems]
    total = sum(state.total for state in states)
    ratio = min(state.ratio() for state in states) if guarantee else 0.0
    left = np.ones(units, dtype=bool)
    order: list[int] = []
    explained = [0.0]
    first: NDArray[np.float64] = np.zeros(units)
    for step in range(steps):
        gains = np.sum([state.gains() for state in states], axis=0)
        if step == 0:
            first = gains
        best = int(np.argmax(np.where(left, gains, -math.inf)))
        for state in states:
            state.take(best)
        left[best] = False
        order.append(best)
        explained.append(explained[-1] + max(0.0, float(gains[best])))
    reached = np.array(explained)
    ceiling = reached[-1] if steps == units else total
    best_first = np.concatenate([[0.0], np.cumsum(np.sort(first)[::-1][:steps])]) if steps else np.zeros(1)
    bound = np.full(steps + 1, ceiling)
    if ratio > 0:
        bound = np.minimum(bound, reached / -math.expm1(-ratio))
        bound = np.minimum(bound, best_first / ratio)
    return Path(
        np.array(order, dtype=np.int64), _relative(total, reached), _relative(total, np.maximum(bound, reached)), ratio
    )


def _relative(total: float, explained: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is left, relative to all of it; nothing at all to explain is no error."""
    return np.clip(1 - explained / total, 0.0, 1.0) if total > 0 else np.zeros_like(explained)


class _State:
    """One reader's Schur complement; columns that are chosen are zero, and dropped from time to time."""

    def __init__(self, problem: Problem, relative: bool) -> None:
        columns = problem.gram.shape[0]
        self._tolerance = TOLERANCE
        self._largest = float(problem.gram.diagonal().max()) if columns else 0.0
        free = torch.zeros(columns, dtype=torch.bool)
        free[problem.units[problem.units >= 0]] = True
        schur, cross, explained = _without(problem.gram, problem.cross, problem.always, self._largest)
        # One more row and column of zeros stands for the columns that a short unit does not have.
        where = torch.full((columns + 1,), -1)
        kept = free.nonzero().flatten()
        where[kept] = torch.arange(len(kept))
        self._r = _padded(schur[kept][:, kept], 1, 1)
        self._t = _padded(cross[kept], 1, 0)
        self._units = torch.where(problem.units < 0, len(kept), where[problem.units])
        self._alive = torch.ones(len(problem.units), dtype=torch.bool)
        left = max(0.0, problem.energy - explained)
        self._scale = 1 / left if relative and left > 0 else 1.0
        self.total = left * self._scale

    def gains(self) -> NDArray[np.float64]:
        """What each unit would explain now; 0 for those that are chosen."""
        gains = torch.zeros(len(self._units), dtype=torch.float64)
        units = self._units[self._alive]
        if not len(units):
            return gains.numpy()
        if units.shape[1] == 1:
            column = units[:, 0]
            diagonal = self._r.diagonal()[column]
            found = self._t[column].square().sum(1) / diagonal.clamp_min(torch.finfo(torch.float64).tiny)
            gains[self._alive] = torch.where(diagonal > self._tolerance * self._largest, found, 0.0)
        else:
            root = inverse_root(self._blocks(units), self._tolerance, self._largest)
            gains[self._alive] = (root.mT @ self._t[units]).square().sum((1, 2))
        return gains.numpy() * self._scale

    def take(self, unit: int) -> None:
        """Choose a unit."""
        own = self._units[unit]
        root = inverse_root(self._blocks(own[None])[0], self._tolerance, self._largest)
        left = self._r[:, own] @ root
        self._t.addmm_(left, root.T @ self._t[own], alpha=-1)
        self._r.addmm_(left, left.T, alpha=-1)
        self._r[own] = 0
        self._r[:, own] = 0
        self._t[own] = 0
        self._alive[unit] = False
        columns = int((self._units[self._alive] < len(self._r) - 1).sum())
        if columns < _SHRINK_BELOW * (len(self._r) - 1):
            self._shrink()

    def _blocks(self, units: Tensor) -> Tensor:
        return self._r[units[:, :, None], units[:, None, :]]

    def _shrink(self) -> None:
        last = len(self._r) - 1
        units = self._units[self._alive]
        kept = torch.unique(units[units < last])
        where = torch.full((last + 1,), len(kept))
        where[kept] = torch.arange(len(kept))
        with_last = torch.cat([kept, torch.tensor([last])])
        self._r = self._r[with_last][:, with_last].contiguous()
        self._t = self._t[with_last].contiguous()
        self._units = torch.where(self._alive[:, None], where[self._units], len(kept))

    def ratio(self) -> float:
        """Lower bound of the submodularity ratio: the least eigenvalue of R with whitened unit blocks, in [0, 1]."""
        root = inverse_root(self._blocks(self._units), self._tolerance, self._largest)
        units, width = self._units.shape
        whitening = torch.zeros(len(self._r), units * width, dtype=torch.float64)
        columns = torch.arange(units * width).view(units, 1, width).expand(units, width, width)
        whitening[self._units[:, :, None].expand_as(columns), columns] = root
        whitening = whitening[:, whitening.any(0)]
        if not whitening.shape[1]:
            return 1.0
        least = float(torch.linalg.eigvalsh(whitening.T @ self._r @ whitening)[0])
        return min(1.0, max(0.0, least - 1e-10))


def _without(gram: Tensor, cross: Tensor, always: Tensor, largest: float) -> tuple[Tensor, Tensor, float]:
    """``R`` and ``T`` after columns that are always there, and what those explain."""
    if not always.numel():
        return gram.clone(), cross.clone(), 0.0
    root = inverse_root(gram[always][:, always], TOLERANCE, largest)
    left = gram[:, always] @ root
    upper = root.T @ cross[always]
    schur = gram - left @ left.T
    rest = cross - left @ upper
    schur[always] = 0
    schur[:, always] = 0
    return schur, rest, float(upper.square().sum())


def _padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    result = matrix.new_zeros(matrix.shape[0] + rows, matrix.shape[1] + columns)
    result[: matrix.shape[0], : matrix.shape[1]] = matrix
    return result
