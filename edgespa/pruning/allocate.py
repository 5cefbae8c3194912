"""How a budget is shared out over groups: a number of units each, aligned, within the budget.

All allocations go through `edgespa.selection.select.select`: each gives the unit at place p of a group's order a score
that falls along the order, and one threshold over all groups then says how many each keeps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgespa.graph.groups import Kept
from edgespa.pruning.config import PruneConfig
from edgespa.pruning.rank import by_rank
from edgespa.pruning.survey import Network
from edgespa.selection.criteria import Scores
from edgespa.selection.reconstruct import Path
from edgespa.selection.select import select

_TIE = 1e-9  # units whose score is the same go from the back of the order


def shared_out(network: Network, config: PruneConfig, scores: Mapping[str, Scores]) -> Kept:
    """The selection of some scores under the configuration's budget; groups without scores stay whole.

    Raises:
        BudgetError: If the budget cannot be reached.
    """
    base = network.base
    filled = {name: scores.get(name, np.zeros(len(group))) for name, group in base.groups.groups.items()}
    whole = [name for name in filled if name not in scores]
    return select(base.groups, filled, config.budget_of(config.density), config.constraints, base.cost, whole=whole)


def uniform(network: Network) -> dict[str, Scores]:
    """The same fraction of every group."""
    return {name: by_rank(range(len(network.group(name)))) for name in network.of_group}


def equal_error(paths: Mapping[str, Path]) -> dict[str, Scores]:
    """The same relative reconstruction error everywhere, by the greedy curves: needs no labels."""
    return {name: falling(path.errors[:-1]) for name, path in paths.items()}


def equal_accuracy(losses: Mapping[str, NDArray[np.float64]]) -> dict[str, Scores]:
    """The same loss of accuracy everywhere (El Halabi et al. 2022, arXiv 2203.04940, after Kuzmin et al. 2019).

    Args:
        losses: Per group the accuracy that is lost with k of its units alone kept, ``[units]`` for k from 0.
    """
    return {name: falling(values) for name, values in losses.items()}


def falling(values: NDArray[np.float64]) -> Scores:
    """Scores along an order that never rise, and tell equal ones apart by their place."""
    clean = np.maximum.accumulate(np.asarray(values, dtype=np.float64)[::-1])[::-1]
    return clean + _TIE * by_rank(range(len(clean)))
