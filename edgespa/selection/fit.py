"""The largest density whose time fits a limit, from as few measurements as possible. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

TOLERANCE = 0.04
"""A time that is at most so much below its limit is near enough."""
MOST = 14
"""Measurements."""
_EDGE = 0.1  # of an interval: no trial lies nearer to its ends
_STEPS = 24  # halvings in search of a candidate that has not been measured


@dataclasses.dataclass(frozen=True)
class Trial(Generic[K]):
    """One measured candidate.

    Attributes:
        density: Asked of it.
        key: What it is; densities with the same key are one candidate.
        time: Measured.
    """

    density: float
    key: K
    time: float


@dataclasses.dataclass(frozen=True)
class Search(Generic[K]):
    """What a search has found.

    Attributes:
        chosen: The candidate with the largest density within the limit; None if not even the smallest is.
        trials: All that were measured, in that order.
    """

    chosen: Trial[K] | None
    trials: tuple[Trial[K], ...]

    @property
    def fastest(self) -> Trial[K]:
        """The measured candidate that took least."""
        return min(self.trials, key=lambda trial: trial.time)


def largest_within(
    limit: float,
    candidate: Callable[[float], K],
    measure: Callable[[K], float],
    *,
    low: float,
    high: float = 1.0,
    tolerance: float = TOLERANCE,
    most: int = MOST,
) -> Search[K]:
    """Find the largest density within a limit.

    The whole (`high`) is measured first, then the smallest (`low`); then, between one that fits and one that does not,
    where a straight line through both meets the limit less half the tolerance, but never nearer than a tenth of the
    interval to one of them; or in the middle, after two steps on the same side. So a curve or a noisy measurement
    costs steps and not the result. The search ends with
    a time in ``[(1 - tolerance) limit, limit]``, or when nothing unmeasured lies in between, or after `most`
    measurements.

    Args:
        limit: Of the time.
        candidate: From a density to what it gives; several may give the same.
        measure: Its time. Called once for each candidate.
        low: The smallest density that can be had.
        high: The largest.
        tolerance: Relative; 0 for as near as can be.
        most: Measurements.
    """
    known: dict[K, float] = {}
    trials: list[Trial[K]] = []

    def tried(density: float) -> Trial[K]:
        key = candidate(density)
        if key not in known:
            known[key] = measure(key)
            trials.append(Trial(density, key, known[key]))
        return Trial(density, key, known[key])

    above = tried(high)
    if above.time <= limit:
        return Search(above, tuple(trials))
    below = tried(low)
    if below.time > limit:
        return Search(None, tuple(trials))
    sides: list[bool] = []
    while below.time < (1 - tolerance) * limit and len(trials) < most:
        aim = (1 - tolerance / 2) * limit
        share = (aim - below.time) / (above.time - below.time) if above.time > below.time else 0.5
        stuck = len(sides) > 1 and sides[-1] == sides[-2]
        share = 0.5 if stuck else min(1 - _EDGE, max(_EDGE, share))
        density = _unmeasured(below.density, above.density, share, candidate, known)
        if density is None:
            break
        found = tried(density)
        sides.append(found.time <= limit)
        below, above = (found, above) if sides[-1] else (below, found)
    # A candidate that fits may lie above one that by noise does not.
    fitting = [trial for trial in trials if trial.time <= limit]
    return Search(max(fitting, key=lambda trial: trial.density), tuple(trials))


def _unmeasured(
    low: float, high: float, share: float, candidate: Callable[[float], K], known: dict[K, float]
) -> float | None:
    """A density between two whose candidate is new, near a share of the way; None if there is none."""
    first = low + share * (high - low)
    if candidate(first) not in known:
        return first
    # Towards whichever end is another candidate than the one met here.
    for end in (high, low):
        left, right = first, end
        for _ in range(_STEPS):
            middle = (left + right) / 2
            key = candidate(middle)
            if key not in known:
                return middle
            left, right = (middle, right) if key == candidate(left) else (left, middle)
    return None
