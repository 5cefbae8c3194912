"""The widths, or the density, whose compact model is as fast as asked, measured where it will run.

Candidates are untrained: a network is as fast with any weights. Each is cut as the real one will be (the same method,
the same alignment), exported, and measured on the device (`edgespa.latency.stopwatch`). With a latency table of the
device each layer's width is found for itself (`fit_shapes`), else one density for all (`fit`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping

from pydantic import JsonValue

from edgespa.errors import BudgetError
from edgespa.graph.surgery import compact
from edgespa.latency.known import Foretold
from edgespa.latency.shapes import UNREACHABLE, fitted
from edgespa.latency.stopwatch import LatencyBudget, Stopwatch
from edgespa.pruning.run import Pruning
from edgespa.pruning.shapes import Lost, Shape, cut_down, density_of, kept_of
from edgespa.selection.fit import Search, largest_within

log = logging.getLogger(__name__)

Progress = Callable[[float, float | None, str], None]
Widths = tuple[tuple[str, int], ...]
"""Per group that loses some units how many it keeps: what a candidate is."""

_LEAST = 1e-3
_HALVINGS = 9


@dataclasses.dataclass(frozen=True)
class LatencyFit:
    """What came of it.

    Attributes:
        budget: What was asked.
        density: Found.
        of: What it is a fraction of.
        expected_ms: Of the candidate.
        whole_ms: Of the whole network.
        estimated: The device was away: nothing was measured.
        trials: All candidates: density, MACs and latency in ms; and what was foretold, where there was a table.
        shape: What is left, where each width was found for itself.
        losses: What each part of it loses, by the method.
    """

    budget: LatencyBudget
    density: float
    of: str
    expected_ms: float
    whole_ms: float
    estimated: bool
    trials: tuple[dict[str, float], ...]
    shape: Shape | None = None
    losses: Mapping[str, float] | None = None

    def account(self) -> dict[str, JsonValue]:
        """For the provenance of a task."""
        rows: list[JsonValue] = [{key: round(value, 6) for key, value in row.items()} for row in self.trials]
        shapes: dict[str, JsonValue] = {}
        if self.shape is not None and self.losses is not None:
            shapes |= self.shape.plain()
            shapes["losses"] = {name: float(f"{value:.3g}") for name, value in self.losses.items()}
        return {
            "asked_ms": self.budget.latency_ms,
            "device": self.budget.device.name,
            "variant": self.budget.variant,
            "threads": self.budget.threads,
            "density": self.density,
            "of": self.of,
            "expected_ms": self.expected_ms,
            "whole_ms": self.whole_ms,
            "estimated": self.estimated,
            "emulated": self.budget.device.emulated,
            "trials": rows,
            **shapes,
        }


def fit(pruning: Pruning, stopwatch: Stopwatch, progress: Progress | None = None) -> LatencyFit:
    """Find the density of a method whose compact network fits a latency budget.

    Args:
        pruning: The network, the method, its alignment, and what its density is a fraction of.
        stopwatch: Measures.
        progress: Told ``(done, total, text)``.

    Raises:
        BudgetError: Even the smallest network that the method can make is slower; it says how fast that is.
    """
    base, budget = pruning.base, stopwatch.budget
    made: dict[Widths, Mapping[str, int]] = {}

    def candidate(density: float) -> Widths:
        counts = pruning.widths(density)
        key = tuple(sorted(counts.items()))
        made[key] = counts
        return key

    done = 0
    figures: dict[Widths, tuple[int, float]] = {}

    def measure(key: Widths) -> float:
        nonlocal done
        kept = kept_of(base, made[key])
        cost = base.cost.cost(kept)
        if progress is not None:
            progress(done, None, f"latency on {budget.device.name}: {cost.macs / 1e6:.4g}M MACs")
        done += 1
        value = stopwatch.latency_ms(compact(base.program, base.groups, kept), cost.macs, cost.size_bytes)
        figures[key] = (cost.macs, value)
        log.info("%s MACs: %.4g ms", f"{cost.macs:,}", value)
        return value

    low = _smallest(pruning)
    search = largest_within(budget.latency_ms, candidate, measure, low=low)
    if search.chosen is None:
        raise _unreachable(budget, search, figures, stopwatch.estimated)
    trials = tuple(
        {"density": trial.density, "macs": float(figures[trial.key][0]), "latency_ms": trial.time}
        for trial in search.trials
    )
    chosen = search.chosen
    return LatencyFit(
        budget, chosen.density, pruning.config.budget, chosen.time, search.trials[0].time, stopwatch.estimated, trials
    )


def fit_shapes(
    pruning: Pruning, stopwatch: Stopwatch, foretold: Foretold, progress: Progress | None = None
) -> LatencyFit | None:
    """Find the widths of a method that lose least within a latency budget; None if no candidate came near.

    Args:
        pruning: The network, the method and its alignment.
        stopwatch: Measures.
        foretold: The device's table for the network.
        progress: Told ``(done, total, text)``.

    Raises:
        BudgetError: Even the fastest network that the method can make is slower; it says how fast that is.
    """
    base, budget = pruning.base, stopwatch.budget
    costs: list[tuple[float, int]] = []

    def measure(shape: Shape) -> float:
        smaller, kept = cut_down(base, shape)
        cost = smaller.cost.cost(kept)
        if progress is not None:
            progress(len(costs), None, f"latency on {budget.device.name}: {cost.macs / 1e6:.4g}M MACs")
        costs.append((density_of(base, smaller, kept, pruning.config.budget), cost.macs))
        took = stopwatch.latency_ms(compact(smaller.program, smaller.groups, kept), cost.macs, cost.size_bytes)
        if stopwatch.estimated:  # the table was measured on the device, which is more than published latencies are
            took = foretold.shape_ms(shape)
        return took

    losses = pruning.learnt.all_losses()
    found = fitted(losses, foretold.predictor, budget.latency_ms, measure)
    chosen = found.chosen
    if chosen is None:
        return None
    measured = [found.whole, *found.candidates]
    trials = tuple(
        {"density": density, "macs": float(macs), "latency_ms": each.measured_ms, "foretold_ms": each.predicted_ms}
        for each, (density, macs) in zip(measured, costs, strict=True)
    )
    return LatencyFit(
        budget,
        costs[measured.index(chosen)][0],
        pruning.config.budget,
        chosen.measured_ms,
        found.whole.measured_ms,
        stopwatch.estimated,
        trials,
        chosen.shape,
        Lost(losses).of(chosen.shape),
    )


def _unreachable(
    budget: LatencyBudget, search: Search[Widths], figures: Mapping[Widths, tuple[int, float]], estimated: bool
) -> BudgetError:
    fastest = search.fastest
    how = "by the estimate " if estimated else ""
    return BudgetError(
        f"{budget.latency_ms:g} ms cannot be reached on {budget.device.name}: {how}the fastest candidate takes "
        f"{fastest.time:.3g} ms, at a density of {fastest.density:.3g} ({figures[fastest.key][0] / 1e6:.3g}M MACs)",
        UNREACHABLE,
    )


def _smallest(pruning: Pruning) -> float:
    """The least density that a selection of the method can have, to a few parts in a thousand."""

    def possible(density: float) -> bool:
        try:
            pruning.widths(density)
        except BudgetError:
            return False
        return True

    low, high = _LEAST, 1.0
    if possible(low):
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    return high
