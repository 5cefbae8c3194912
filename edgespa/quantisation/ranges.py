"""Where the range of an int8 activation ends: pure functions on what calibration images made of it.

- ``minmax``: the least and the largest value.
- ``percentile``: without one value in 10,000 at each end.
- ``entropy``: the limit T on |x| whose 128 levels say most of the distribution: least Kullback-Leibler divergence
  between the histogram clipped at T and its quantised form (Migacz 2017, "8-bit inference with TensorRT", slides
  19-27). There the range is always -T to T; here one that does not reach -T or T is not widened to it.
- ``mse``: the two ends between which the mean squared error is least: of what is clipped, and of rounding what is not,
  a twelfth of a level's square (Choukroun et al. 2019, arXiv 1902.06822, section 3; each end for itself, and zeros,
  which are exact, count for nothing).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgespa.quantisation.spread import Spread

METHODS = ("minmax", "percentile", "entropy", "mse")
PERCENTILE = 99.99
BINS, LEVELS = 1024, 128
VALUES_PER_IMAGE = 1024
_CANDIDATES, _ROUNDS, _STEPS = 128, 3, 255
HUGE = 1e30
"""What is larger is no activation, but stands for infinity: what pads before a maximum, or masks before a softmax."""

Range = tuple[float, float]


@dataclasses.dataclass
class Observed:
    """What one activation held, over all calibration images.

    Attributes:
        low: Its least value; of those that stand for numbers, as `high` and `values` are.
        high: Its largest value.
        values: Some from each image, drawn at random with a fixed seed.
        finite: Whether all it held were numbers below `HUGE`.
        spread: How far its components move from image to image, if that is asked for.
    """

    low: float = np.inf
    high: float = -np.inf
    values: list[NDArray[np.float32]] = dataclasses.field(default_factory=list)
    finite: bool = True
    spread: Spread | None = None

    @classmethod
    def of(cls, *, spread: bool) -> Observed:
        """Of nothing yet.

        Args:
            spread: Whether to see how far components move.
        """
        return cls(spread=Spread() if spread else None)

    def add(self, array: NDArray[np.float32]) -> None:
        """See what one more image made of it.

        Args:
            array: Of any shape, not empty.
        """
        if self.spread is not None:
            self.spread.add(array)
        flat = array.ravel()
        good = np.abs(flat) < HUGE
        if not good.all():
            self.finite, flat = False, flat[good]
        if not flat.size:
            return
        self.low = min(self.low, float(flat.min()))
        self.high = max(self.high, float(flat.max()))
        if flat.size > VALUES_PER_IMAGE:  # drawn, as evenly spaced ones would all be of a few channels
            flat = flat[np.random.default_rng(len(self.values)).integers(0, flat.size, VALUES_PER_IMAGE)]
        self.values.append(flat.copy())

    @property
    def width(self) -> float:
        """Of the range that int8 gives it, which always holds zero."""
        return max(self.high, 0.0) - min(self.low, 0.0) if self.low <= self.high else 0.0


def find_ranges(observed: Mapping[str, Observed], method: str) -> dict[str, Range]:
    """The range of each activation.

    Args:
        observed: By name.
        method: One of `METHODS`.
    """
    find = {"minmax": _minmax, "percentile": _percentile, "entropy": _entropy, "mse": _mse}[method]
    return {name: find(each) if each.values else (0.0, 0.0) for name, each in observed.items()}


def _minmax(each: Observed) -> Range:
    return each.low, each.high


def _percentile(each: Observed) -> Range:
    tail = (100 - PERCENTILE) / 100
    low, high = np.quantile(_joined(each.values), [tail, 1 - tail])
    return (float(low), float(high)) if low < high else _minmax(each)


def _entropy(each: Observed) -> Range:
    limit = entropy_limit(np.abs(_joined(each.values)))
    low, high = max(each.low, -limit), min(each.high, limit)
    return (low, high) if low < high else _minmax(each)


def _mse(each: Observed) -> Range:
    values = _joined(each.values).astype(np.float64)
    low, high = min(each.low, 0.0), max(each.high, 0.0)
    if low == high:
        return _minmax(each)
    ups, downs = _Side(values[values > 0], high), _Side(-values[values < 0], -low)
    top, bottom = _CANDIDATES - 1, _CANDIDATES - 1
    for _ in range(_ROUNDS):  # alternating: each end is best for the other one as it is
        top = int(np.argmin(ups.off + (ups.ends + downs.ends[bottom]) ** 2 * (ups.inside + downs.inside[bottom])))
        bottom = int(np.argmin(downs.off + (ups.ends[top] + downs.ends) ** 2 * (ups.inside[top] + downs.inside)))
    return max(each.low, -float(downs.ends[bottom])), min(each.high, float(ups.ends[top]))


class _Side:
    """What would become of the values on one side of zero, for each place where the range may end there."""

    def __init__(self, values: NDArray[np.float64], end: float) -> None:
        self.ends = end * np.arange(1, _CANDIDATES + 1) / _CANDIDATES
        ordered = np.sort(values)
        inside = np.searchsorted(ordered, self.ends, side="right")
        sums, squares = _sums(ordered), _sums(ordered**2)
        beyond = len(ordered) - inside
        clipped = squares[-1] - squares[inside] - 2 * self.ends * (sums[-1] - sums[inside]) + self.ends**2 * beyond
        self.off = np.maximum(clipped, 0)
        self.inside = inside / (12 * _STEPS**2)


def entropy_limit(magnitudes: NDArray[np.float32]) -> float:
    """The limit T of the method ``entropy``.

    Args:
        magnitudes: |x|, one dimension. Zeros are left out: int8 holds them exactly, and behind a ReLU they are so many
            that nothing else would count.

    Returns:
        T, at most the largest magnitude; that itself where nothing is gained by clipping.
    """
    magnitudes = magnitudes[magnitudes > 0]
    top = float(magnitudes.max(initial=0.0))
    if top <= 0:
        return top
    counts, edges = np.histogram(magnitudes, bins=BINS, range=(0.0, top))
    found = _divergences(counts.astype(np.float64))
    best = int(np.argmin(found))  # the first of equals: the narrowest
    return float(edges[_KEPT[best]]) if np.isfinite(found[best]) else top


_KEPT = np.arange(LEVELS, BINS + 1, LEVELS // 16)
# Where each level begins: bin j of k belongs to level floor(j * LEVELS / k). A row for each of `_KEPT`.
_EDGES = -(-np.arange(LEVELS + 1) * _KEPT[:, None] // LEVELS)


def _divergences(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(P || Q) for each of `_KEPT` bins k.

    P is the first k bins with all that lies beyond in the last one, Q those bins in `LEVELS` equal levels, each spread
    over its bins that are not empty. All k at once, by sums up to each bin: a recurrence that is written out has
    thousands of activations.
    """
    whole, filled = counts.sum(), counts > 0
    up_to = _sums(counts)
    inside = up_to[_KEPT]
    total = np.diff(up_to[_EDGES], axis=1)
    number = np.diff(_sums(filled.astype(np.float64))[_EDGES], axis=1)
    last, beyond = counts[_KEPT - 1], whole - inside
    # Sum of p log p; then of p log q.
    entropy = _sums(_log_weighted(counts))[_KEPT - 1] + _log_weighted(last + beyond)
    # A bin that only holds what was clipped has no mass in Q: a small one stands for it, as it must cost something.
    q = np.maximum(total / np.maximum(number, 1) / np.maximum(inside, 1)[:, None], 1e-9)
    crossed = (total * np.log(q)).sum(1) + beyond * np.where(last > 0, np.log(q[:, -1]), np.log(1e-9))
    return np.where(inside > 0, (entropy - crossed) / whole - np.log(whole), np.inf)


def _sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the first n values, for each n from 0."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _log_weighted(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values * np.log(np.maximum(values, 1.0))  # counts: a value is 0 or at least 1


def _joined(values: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(list(values))
