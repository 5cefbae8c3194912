"""Time as a function of widths: a grid of measured points, and what lies between them. Pure.

Runtimes work in blocks of channels, so that the time over a width is a staircase: a width between two steps costs what
the next step costs, or more, where a runtime leaves its fast way for it. So what is measured lies on steps, between
them is interpolated in units of steps, and what a width off the steps costs besides is one factor for each class of
widths (multiples of 8, of 4, and others), measured for a few layers of each family.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgespa.selection.select import halved

CLASSES = (8, 4, 1)
"""Widths off the steps, by the largest of these that divides them."""
_STEPS_1, _STEPS_2 = 4, 3


def grid(full: int, step: int, axes: int) -> tuple[int, ...]:
    """The widths at which a dimension is measured: on steps, all if they are few, and the whole of it.

    Args:
        full: Its width.
        step: The runtime's block; of a narrow dimension halved, as selections do.
        axes: Of how many dimensions the time is a function: two are measured at fewer widths each.
    """
    own = halved(step, full)
    most = _STEPS_1 if axes == 1 else _STEPS_2
    if full <= own * most:
        return tuple(sorted({*range(own, full, own), full}))
    shares = (0.25, 0.5, 0.75) if axes == 1 else (0.25, 0.5)
    return tuple(sorted({*(own * math.ceil(share * full / own) for share in shares), full}))


def spread(least: int, most: int) -> tuple[int, ...]:
    """Powers of 4 around numbers: where a time grows with what is touched, the same for all networks.

    Args:
        least: The smallest that is asked about.
        most: The largest.
    """
    low = math.floor(math.log(max(1, least), 4) + 1e-9)
    high = max(low + 1, math.ceil(math.log(max(1, most), 4) - 1e-9))
    return tuple(4**power for power in range(low, high + 1))


@dataclasses.dataclass(frozen=True, eq=False)
class Staircase:
    """Time over one or two widths.

    Attributes:
        grids: Of each axis the widths that were measured, ascending.
        times: Measured, an axis for each, any unit.
        step: Of the runtime; widths off it cost what the next one does, times a factor. 1: there are no steps.
        factors: Per axis, by class of `CLASSES`; 1 where there is none.
    """

    grids: tuple[NDArray[np.float64], ...]
    times: NDArray[np.float64]
    step: int = 1
    factors: tuple[Mapping[int, float], ...] = ()

    @classmethod
    def of(
        cls,
        grids: Sequence[Sequence[int]],
        points: Mapping[tuple[int, ...], float],
        step: int = 1,
        factors: Sequence[Mapping[int, float]] = (),
    ) -> Staircase:
        """From measured points.

        Args:
            grids: The widths of each axis.
            points: The time at each of their combinations.
            step: See `Staircase`.
            factors: Likewise.

        Raises:
            KeyError: A combination was not measured.
        """
        times = np.array([points[at] for at in itertools.product(*grids)], dtype=np.float64)
        axes = tuple(np.asarray(own, dtype=np.float64) for own in grids)
        return cls(axes, times.reshape([len(own) for own in axes]), step, tuple(factors))

    def __call__(self, *widths: ArrayLike) -> NDArray[np.float64]:
        """The time at widths; those of all axes are broadcast together.

        Beyond the measured widths the line through the last two goes on, but not below zero; a width of 0 takes
        nothing.

        Args:
            *widths: One array for each axis.
        """
        own = np.broadcast_arrays(*(np.asarray(each, dtype=np.float64) for each in widths))
        factor = np.ones(own[0].shape)
        result = self.times
        weights = []
        for axis, values in enumerate(own):
            on, extra = self._on_steps(values, axis)
            factor = factor * extra
            weights.append(_hats(on, self.grids[axis]))
        if len(weights) == 1:
            found = weights[0] @ result
        else:
            found = np.einsum("...i,...j,ij->...", weights[0], weights[1], result)
        gone = np.any([values <= 0 for values in own], axis=0)
        return np.where(gone, 0.0, np.maximum(found, 0.0) * factor)

    def _on_steps(self, values: NDArray[np.float64], axis: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Each width as the step that it costs, and by how much more it costs."""
        if self.step <= 1:
            return values, np.ones(values.shape)
        measured = np.isin(values, self.grids[axis])
        # A narrow dimension was measured on smaller steps.
        own = halved(self.step, int(self.grids[axis][-1]))
        up = np.ceil(values / own) * own
        # What is at most as wide as the whole costs at most what that does.
        top = self.grids[axis][-1]
        up = np.where((values <= top) & (up > top), top, up)
        factors = np.ones(values.shape)
        if axis < len(self.factors):
            classes = np.full(values.shape, CLASSES[-1])
            for size in CLASSES[::-1]:
                classes = np.where(values % size == 0, size, classes)
            for size, factor in self.factors[axis].items():
                factors = np.where((classes == size) & (values % own != 0), factor, factors)
        return np.where(measured, values, up), np.where(measured, 1.0, factors)


def _hats(values: NDArray[np.float64], knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of linear interpolation between knots; beyond them the lines of the two at the end go on."""
    if len(knots) == 1:  # nothing is known of how it grows
        return np.ones((*values.shape, 1))
    at = np.clip(np.searchsorted(knots, values, side="right") - 1, 0, len(knots) - 2)
    share = (values - knots[at]) / (knots[at + 1] - knots[at])
    weights = np.zeros((*values.shape, len(knots)))
    np.put_along_axis(weights, at[..., None], (1 - share)[..., None], -1)
    np.put_along_axis(weights, at[..., None] + 1, share[..., None], -1)
    return weights


def found_step(times: Mapping[int, float], widest: int = 16) -> int:
    """The block of a runtime, from the times at and below one of its widths.

    What is 8 narrower takes as long, or longer, where blocks are of 16; and something in between where they are of 8.

    Args:
        times: By how much narrower: 0, 4, 8 and 16 channels.
        widest: The widest block that there is.
    """
    gain = times[0] - times[widest]
    if gain <= 0:
        return widest
    step = widest
    while step > 4 and (times[0] - times[step // 2]) / gain > 0.5 * (step // 2) / widest:
        step //= 2
    return step
