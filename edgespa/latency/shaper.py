"""Widths for a latency while a network is trained: at each pruning step by the scores of that step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgespa.graph.groups import Groups, Kept
from edgespa.latency.predict import Predictor
from edgespa.pruning.losses import lost_scores
from edgespa.selection.along import Along
from edgespa.selection.criteria import Scores
from edgespa.selection.knapsack import Terms, fastest, knapsack
from edgespa.selection.select import Constraints, allowed_widths, free_groups


class Shaper:
    """Keeps the units whose scores sum up to most within a time.

    With Taylor scores, what goes is the first-order estimate of the change of the loss.

    Args:
        predictor: Foretells the network.
        constraints: Alignment, minimum widths, protected groups.
        density: That the schedule of the training ends at.
        target_ms: What the network may take then, as foretold; on the way there it falls as the density does.
    """

    def __init__(self, predictor: Predictor, constraints: Constraints, density: float, target_ms: float) -> None:
        self.predictor, self.constraints = predictor, constraints
        self.density, self.target_ms = density, target_ms
        self._whole_ms = predictor.latency_ms()

    def limit_ms(self, density: float) -> float:
        """What the network may take at a density of the schedule."""
        share = (1 - density) / (1 - self.density) if self.density < 1 else 1.0
        return self._whole_ms - (self._whole_ms - self.target_ms) * share

    def __call__(self, groups: Groups, scores: Mapping[str, Scores], kept: Kept, density: float) -> Kept:
        """The selection of a step; what is gone stays gone.

        Args:
            groups: Channel groups, those of the predictor by name.
            scores: Per group one score per unit; of units that are gone they do not count.
            kept: Units that are still there.
            density: Of the schedule.
        """
        order, widths = {}, {}
        for name in free_groups(groups, self.constraints):
            there = np.flatnonzero(kept[name])
            order[name] = there[np.argsort(-scores[name][there], kind="stable")]
            widths[name] = allowed_widths(groups.groups[name], self.constraints, len(there))
        lost = lost_scores({name: scores[name][own] for name, own in order.items()})
        # Protected groups may have lost units before the training.
        fixed = {name: (int(mask.sum()),) for name, mask in kept.items() if name not in widths}
        losses = Terms({name: len(own) for name, own in {**widths, **fixed}.items()})
        for name, own in widths.items():
            losses.add((name,), lost[name][list(own)])
        predictor = self.predictor
        times = Along(
            predictor.parts(),
            predictor.groups,
            {**widths, **fixed},
            constant=predictor.fixed_ms,
            heads=predictor.layers.heads,
        )
        found = knapsack(losses, times, self.limit_ms(density)) or fastest(losses, times)
        result = {name: mask.copy() for name, mask in kept.items()}
        for name, own in widths.items():
            result[name] = np.zeros(len(kept[name]), dtype=bool)
            result[name][order[name][: own[found.choice[name]]]] = True
        return result
