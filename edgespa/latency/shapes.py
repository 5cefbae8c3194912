"""A latency as a budget for every layer at once: the widths that lose least within it, by the device's table.

The table foretells, the device decides: the network with the chosen widths is measured there, the foretold times are
corrected by what it took, and the widths are chosen again, until a candidate fits or `MOST` were measured.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from edgespa.errors import BudgetError
from edgespa.latency.predict import Predictor
from edgespa.pruning.shapes import Losses, Lost, Shape
from edgespa.selection.along import Along
from edgespa.selection.fit import TOLERANCE
from edgespa.selection.knapsack import Shapes, fastest, knapsack

log = logging.getLogger(__name__)

MOST = 4
"""Candidates that are measured, besides the whole network."""

Measure = Callable[[Shape], float]
"""From what is left of the network to the time in ms."""
UNREACHABLE = "ask for more; or allow narrower layers (--round-to 1), or try another --variant or more --threads"
"""What to do about a time that nothing is within."""

_NEAR = 0.75
"""Of the limit: what takes less was cut by a table that is wrong."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A shape that was measured.

    Attributes:
        shape: What is left: of every group that may be pruned, and that is of no block that is gone.
        loss: The sum of what that loses.
        predicted_ms: By the table, as it was corrected then.
        measured_ms: What it took.
    """

    shape: Shape
    loss: float
    predicted_ms: float
    measured_ms: float


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What came of it.

    Attributes:
        chosen: The candidate of least loss that is within the limit; None if none was, or only by far: the table then
            says nothing of this device.
        whole: The network with nothing gone.
        candidates: All that were measured, without the whole.
    """

    chosen: Candidate | None
    whole: Candidate
    candidates: tuple[Candidate, ...]


def fitted(
    losses: Losses, predictor: Predictor, limit_ms: float, measure: Measure, tolerance: float = TOLERANCE
) -> Fitted:
    """Choose a shape, measure it, and choose again.

    Args:
        losses: Of all that may go.
        predictor: Foretells times.
        limit_ms: Of the time.
        measure: Measures shapes. Called once for each candidate, and for the whole.
        tolerance: A time that is at most so much below the limit is near enough.

    Raises:
        BudgetError: The fastest shape was measured and takes longer; it says how long.
    """
    lost = Lost(losses)
    heads = predictor.layers.heads
    times = Along(predictor.parts(), predictor.groups, lost.widths, lost.nodes, predictor.fixed_ms, heads)

    def measured(shapes: Shapes, scale: float) -> Candidate:
        shape = lost.chosen(shapes)
        return Candidate(shape, shapes.loss, scale * shapes.time, measure(shape))

    everything = lost.everything
    whole = measured(dataclasses.replace(everything, time=times.total(everything.choice)), 1.0)
    if whole.measured_ms <= limit_ms:
        return Fitted(whole, whole, ())
    tried: list[Candidate] = []
    scale = whole.measured_ms / whole.predicted_ms
    aim = (1 - tolerance / 2) * limit_ms
    while len(tried) < MOST:
        shapes = knapsack(lost.terms, times, aim / scale) or fastest(lost.terms, times)
        if lost.chosen(shapes) in [each.shape for each in tried]:
            break
        found = measured(shapes, scale)
        tried.append(found)
        log.info("%.4g ms foretold, %.4g ms measured", found.predicted_ms, found.measured_ms)
        if (1 - tolerance) * limit_ms <= found.measured_ms <= limit_ms:
            break
        scale *= found.measured_ms / found.predicted_ms
        if len(tried) == MOST - 1 and all(each.measured_ms > limit_ms for each in tried):
            aim *= 1 - tolerance  # the last one should fit
    fitting = [each for each in tried if each.measured_ms <= limit_ms]
    if not fitting:
        least = lost.chosen(fastest(lost.terms, times))
        slowest = next((each.measured_ms for each in tried if each.shape == least), None)
        if slowest is not None:
            raise BudgetError(
                f"{limit_ms:g} ms cannot be reached: the fastest candidate takes {slowest:.3g} ms",
                UNREACHABLE,
            )
    best = min(fitting, key=lambda each: each.loss, default=None)
    near = best is not None and best.measured_ms >= _NEAR * limit_ms
    return Fitted(best if near else None, whole, tuple(tried))
