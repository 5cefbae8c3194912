"""What there is to know of the components of an output over samples, without a second copy of it."""

from __future__ import annotations

from collections.abc import Iterator  # for annotations only: Python 3.8 cannot subscript them

import numpy as np

PART_ELEMENTS = 1 << 19


def axes_of(shape: tuple[int, ...]) -> list[int]:
    """Dimensions along which an output [N, ...] is taken apart: all but that of samples.

    Which of them holds channels, fields or anchors is not known of [N, 3, 9, 8, 8]; along a wrong one, right outputs
    are right, too.
    """
    return list(range(1, len(shape))) or [0]


def parts_of(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the second dimension of [N, C, ...], of half a million numbers of one sample or one index."""
    rows = shape[1] if len(shape) > 1 else 1
    step = max(1, PART_ELEMENTS * rows // max(1, int(np.prod(shape[1:]))))
    for at in range(0, rows, step):
        yield slice(at, at + step)


class Components:
    """Means and largest values of quantities at the positions of one sample, for each component along each axis.

    Args:
        shape: Of the output, [N, ...].
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._sizes = shape[1:] or (1,)
        self._found: dict[tuple[str, int], np.ndarray] = {}

    def add(self, at: slice, largest: bool = False, **quantities: np.ndarray) -> None:
        """See one part.

        Args:
            at: Of the second dimension, from `parts_of`.
            largest: Take the largest, not the mean.
            **quantities: Arrays by name, of the positions in it.
        """
        for name, array in quantities.items():
            places = np.atleast_1d(array)
            for axis, size in enumerate(self._sizes):
                others = tuple(each for each in range(places.ndim) if each != axis)
                found = places.max(axis=others) if largest else places.sum(axis=others) * (size / np.prod(self._sizes))
                whole = self._found.setdefault((name, axis), np.zeros(size))
                where = at if axis == 0 else slice(None)
                whole[where] = np.maximum(whole[where], found) if largest else whole[where] + found

    def of(self, name: str, axis: int) -> np.ndarray:
        """A quantity, by component along an axis of the output."""
        return self._found[name, max(axis - 1, 0)]


def thinned(array: np.ndarray, every: tuple[int, ...]) -> np.ndarray:
    """Every n-th index of each dimension but the first, of samples."""
    return array[(slice(None), *(slice(None, None, step) for step in every))]


def compared(a: np.ndarray, b: np.ndarray) -> Components:
    """Outputs a and b over samples.

    Returns:
        The means of ``ours`` and ``theirs``, the variances, ``both``, their covariance, and ``error``, the square of
        a - b; the largest ``most`` = ``|a - b|`` and ``size`` = ``|b|``.
    """
    result = Components(b.shape)
    for at in parts_of(b.shape):
        one, other = (_part(each, at).astype(np.float64) for each in (a, b))
        size, wrong = np.abs(other).max(axis=0), one - other
        result.add(at, largest=True, most=np.abs(wrong).max(axis=0), size=size)
        one -= one.mean(axis=0)
        other -= other.mean(axis=0)
        result.add(
            at,
            error=np.square(wrong).mean(axis=0),
            ours=np.square(one).mean(axis=0),
            theirs=np.square(other).mean(axis=0),
            both=(one * other).mean(axis=0),
        )
    return result


def unsure(own: np.ndarray, once: np.ndarray, rough: np.ndarray | None, shape: tuple[int, ...]) -> Components:
    """An output in single precision, in double, and once more with wrong operators, if there is that; see `scales_of`.

    Returns:
        The largest ``rounding`` = ``|own - once|``, and the mean ``noise``, the square of ``rough - once``.
    """
    result = Components(shape)
    for at in parts_of(shape):
        exact = _part(once, at)
        result.add(at, largest=True, rounding=np.abs(_part(own, at).astype(np.float64) - exact).max(axis=0))
        if rough is not None:
            result.add(at, noise=np.square(_part(rough, at) - exact).mean(axis=0))
    return result


def _part(array: np.ndarray, at: slice) -> np.ndarray:
    return array[:, at] if array.ndim > 1 else array
