"""How far each component of an activation moves from image to image: a running variance of each element."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_ELEMENTS = 1 << 18
_STILL = 1e-6
"""A component that moves by less of its own size is a constant: nobody can lose it."""


class Spread:
    """Standard deviations over samples, element by element.

    Of large activations every n-th row and column is seen.
    """

    def __init__(self) -> None:
        self._count = 0
        self._first: NDArray[np.float32] | None = None
        self._sum: NDArray[np.float64]
        self._squares: NDArray[np.float64]

    def add(self, array: NDArray[np.float32]) -> None:
        """See some more samples.

        Args:
            array: [N, ...]; of one shape but for N.
        """
        thin = _thinned(array if array.ndim > 1 else array.reshape(len(array) if array.ndim else 1, -1))
        if self._first is None:
            self._first = thin[0].copy()
            self._sum, self._squares = np.zeros(thin.shape[1:]), np.zeros(thin.shape[1:])
        with np.errstate(invalid="ignore", over="ignore"):
            moved = thin.astype(np.float64) - self._first  # of numbers about a large mean, squares alone say nothing
            self._sum += moved.sum(axis=0)
            self._squares += np.square(moved).sum(axis=0)
        self._count += len(thin)

    def least(self) -> float | None:
        """The standard deviation of the component that moves least, of those that move at all.

        A component is what has one index along one of the dimensions behind the batch, whichever it may be: the median
        of its elements counts.

        Returns:
            None if there are fewer than two samples, or nothing moves.
        """
        if self._first is None or self._count < 2:
            return None
        mean = self._sum / self._count
        deviation = np.sqrt(np.maximum(self._squares / self._count - np.square(mean), 0))
        size = np.abs(self._first + mean)
        moving = np.isfinite(deviation) & (deviation > _STILL * np.maximum(size, np.finfo(np.float32).tiny))
        deviation = np.where(moving, deviation, np.nan)
        least = np.inf
        for axis in range(deviation.ndim):
            rows = np.moveaxis(deviation, axis, 0).reshape(deviation.shape[axis], -1)
            rows = rows[~np.isnan(rows).all(axis=1)]
            if len(rows):
                least = min(least, float(np.nanmedian(rows, axis=1).min()))
        return least if np.isfinite(least) else None


def _thinned(array: NDArray[np.float32]) -> NDArray[np.float32]:
    while array[0].size > MOST_ELEMENTS:
        longest = 1 + int(np.argmax(array.shape[1:]))
        array = array[(slice(None),) * longest + (slice(None, None, 2),)]
    return array
