"""A latency as a budget for every layer at once: the widths that lose least within it, by the device's table.

The table foretells, the device decides: the network with the chosen widths is measured there, the foretold times are
corrected by what it took, and the widths are chosen again, until a candidate fits or `MOST` were measured.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping

from edgespa.errors import BudgetError
from edgespa.latency.predict import Predictor
from edgespa.pruning.losses import BlockLoss
from edgespa.pruning.shapes import Lost
from edgespa.selection.along import Along
from edgespa.selection.fit import TOLERANCE
from edgespa.selection.knapsack import Shapes, fastest, knapsack

log = logging.getLogger(__name__)

MOST = 4
"""Candidates that are measured, besides the whole network."""

Measure = Callable[[Mapping[str, int], tuple[str, ...]], float]
"""From how many units each group keeps, and the blocks that are gone, to the time in ms; other groups are whole."""
UNREACHABLE = "ask for more; or allow narrower layers (--round-to 1), or try another --variant or more --threads"
"""What to do about a time that nothing is within."""

_NEAR = 0.75
"""Of the limit: what takes less was cut by a table that is wrong."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Widths that were measured.

    Attributes:
        widths: Of each group that may be pruned, and that is of no block that is gone, how many units it keeps.
        removed: Residual blocks that are gone.
        loss: The sum of what the groups lose.
        predicted_ms: By the table, as it was corrected then.
        measured_ms: What it took.
    """

    widths: Mapping[str, int]
    removed: tuple[str, ...]
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
    losses: Mapping[str, Mapping[int, float]],
    predictor: Predictor,
    limit_ms: float,
    measure: Measure,
    blocks: Mapping[str, BlockLoss] | None = None,
    tolerance: float = TOLERANCE,
) -> Fitted:
    """Choose widths, measure them, and choose again.

    Args:
        losses: Of each group that may be pruned what it loses at each width that it may have.
        predictor: Foretells times.
        limit_ms: Of the time.
        measure: Measures widths. Called once for each candidate, and for the whole.
        blocks: Residual blocks that may go, in the order of the network.
        tolerance: A time that is at most so much below the limit is near enough.

    Raises:
        BudgetError: The fastest widths were measured and take longer; it says how long.
    """
    lost = Lost(losses, blocks or {})
    times = Along(predictor.parts(), predictor.groups, lost.widths, lost.nodes, predictor.fixed_ms)

    def measured(shapes: Shapes, scale: float) -> Candidate:
        chosen, gone = lost.chosen(shapes)
        return Candidate(chosen, gone, shapes.loss, scale * shapes.time, measure(chosen, gone))

    everything = lost.everything
    whole = measured(dataclasses.replace(everything, time=times.total(everything.choice)), 1.0)
    if whole.measured_ms <= limit_ms:
        return Fitted(whole, whole, ())
    tried: list[Candidate] = []
    scale = whole.measured_ms / whole.predicted_ms
    aim = (1 - tolerance / 2) * limit_ms
    while len(tried) < MOST:
        shapes = knapsack(lost.terms, times, aim / scale) or fastest(lost.terms, times)
        if lost.chosen(shapes) in [(each.widths, each.removed) for each in tried]:
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
        slowest = next((each.measured_ms for each in tried if (each.widths, each.removed) == least), None)
        if slowest is not None:
            raise BudgetError(
                f"{limit_ms:g} ms cannot be reached: the fastest candidate takes {slowest:.3g} ms",
                UNREACHABLE,
            )
    best = min(fitting, key=lambda each: each.loss, default=None)
    near = best is not None and best.measured_ms >= _NEAR * limit_ms
    return Fitted(best if near else None, whole, tuple(tried))
