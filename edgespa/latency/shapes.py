"""A latency as a budget for every layer at once: the widths that lose least within it, by the device's table.

The table foretells, the device decides: the network with the chosen widths is measured there, the foretold times are
corrected by what it took, and the widths are chosen again, until a candidate fits or `MOST` were measured.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping

from edgespa.errors import BudgetError
from edgespa.latency.along import Along
from edgespa.latency.predict import Predictor
from edgespa.selection.fit import TOLERANCE
from edgespa.selection.knapsack import Shapes, Terms, fastest, knapsack

log = logging.getLogger(__name__)

MOST = 4
"""Candidates that are measured, besides the whole network."""

Measure = Callable[[Mapping[str, int]], float]
"""From how many units each group keeps to the time in ms; groups that are not named are whole."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Widths that were measured.

    Attributes:
        widths: Of each group that may be pruned how many units it keeps.
        loss: The sum of what the groups lose.
        predicted_ms: By the table, as it was corrected then.
        measured_ms: What it took.
    """

    widths: Mapping[str, int]
    loss: float
    predicted_ms: float
    measured_ms: float


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What came of it.

    Attributes:
        chosen: The candidate of least loss that is within the limit; None if none was.
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
    tolerance: float = TOLERANCE,
) -> Fitted:
    """Choose widths, measure them, and choose again.

    Args:
        losses: Of each group that may be pruned what it loses at each width that it may have.
        predictor: Foretells times.
        limit_ms: Of the time.
        measure: Measures widths. Called once for each candidate, and for the whole.
        tolerance: A time that is at most so much below the limit is near enough.

    Raises:
        BudgetError: The fastest widths were measured and take longer; it says how long.
    """
    widths = {name: tuple(sorted(own)) for name, own in losses.items()}
    lost = Terms({name: len(own) for name, own in widths.items()})
    for name, own in losses.items():
        lost.add((name,), [own[width] for width in widths[name]])
    times = Along(predictor, widths)

    def measured(shapes: Shapes, scale: float) -> Candidate:
        chosen = {name: widths[name][place] for name, place in shapes.choice.items()}
        return Candidate(chosen, shapes.loss, scale * shapes.time, measure(chosen))

    everything = {name: len(own) - 1 for name, own in widths.items()}
    whole = measured(Shapes(everything, 0.0, times.total(everything)), 1.0)
    if whole.measured_ms <= limit_ms:
        return Fitted(whole, whole, ())
    tried: list[Candidate] = []
    scale = whole.measured_ms / whole.predicted_ms
    aim = (1 - tolerance / 2) * limit_ms
    while len(tried) < MOST:
        shapes = knapsack(lost, times, aim / scale) or fastest(lost, times)
        chosen = {name: widths[name][place] for name, place in shapes.choice.items()}
        if any(chosen == each.widths for each in tried):
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
        _require_possible(lost, times, widths, limit_ms, tried)
    return Fitted(min(fitting, key=lambda each: each.loss, default=None), whole, tuple(tried))


def _require_possible(
    lost: Terms,
    times: Along,
    widths: Mapping[str, tuple[int, ...]],
    limit_ms: float,
    tried: list[Candidate],
) -> None:
    """An error if the fastest widths that there are were measured, and take too long."""
    least = {name: widths[name][place] for name, place in fastest(lost, times).choice.items()}
    for each in tried:
        if each.widths == least:
            raise BudgetError(
                f"{limit_ms:g} ms cannot be reached: the fastest candidate takes {each.measured_ms:.3g} ms",
                "ask for more; or allow narrower layers (--round-to 1), or try another --variant or more --threads",
            )
