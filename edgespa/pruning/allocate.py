"""How a budget is shared out over groups: a number of units each, aligned, within the budget.

All allocations go through `edgespa.selection.select.select`: each gives the unit at place p of a group's order a score
that falls along the order, and one threshold over all groups then says how many each keeps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgespa.data.inputs import samples_in
from edgespa.graph.groups import Kept
from edgespa.objectives.evaluate import Tally, sums_of
from edgespa.pruning.config import PruneConfig
from edgespa.pruning.evidence import Evidence, solve
from edgespa.pruning.images import Images
from edgespa.pruning.rank import by_rank
from edgespa.pruning.survey import Network, Tick
from edgespa.selection.criteria import Scores
from edgespa.selection.reconstruct import Path
from edgespa.selection.select import select

LEVELS = (0.125, 0.25, 0.5, 0.75)
"""Fractions of a group at which its loss of accuracy is measured; linear in between."""
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


def accuracy_losses(
    network: Network,
    paths: Mapping[str, Path],
    evidence: Mapping[str, list[Evidence]],
    held_out: Images,
    reweighted: bool,
    tick: Tick,
) -> dict[str, NDArray[np.float64]]:
    """What pruning each group alone costs in accuracy on labelled images, at `LEVELS`, in between by interpolation.

    Of images with targets it is their `edgespa.objectives.evaluate.quality` that is lost, which has no lower bound:
    where nothing is kept all of it, or as much as at the worst of the levels.

    Args:
        network: The network.
        paths: Per group its order.
        evidence: Per reader, on the original network.
        held_out: Labelled images.
        reweighted: Whether readers get new weights.
        tick: Told what has been done.

    Returns:
        Per group ``[units]``: the loss with k = 0, 1, ... units kept; with none, all of the accuracy.

    Raises:
        DataError: If the images have neither classes nor targets, or others than the network gives.
    """
    held_out.require_answers("equal-accuracy")
    base = network.base
    full = _accuracy(network, {}, held_out)
    state = base.program.state()
    losses = {}
    for name, path in paths.items():
        size = len(network.group(name))
        points = sorted({max(1, round(level * size)) for level in LEVELS} - {size})
        found = []
        for count in points:
            mask = np.zeros(size, dtype=bool)
            mask[path.order[:count]] = True
            alive = base.groups.alive({name: mask})
            found.append(
                max(
                    0.0, full - _accuracy(network, _pruned(network, state, name, alive, evidence, reweighted), held_out)
                )
            )
            tick(f"{name} with {count} of {size}")
        losses[name] = np.interp(np.arange(size), [0, *points, size], [max(full, *found), *found, 0.0])
    return losses


def _pruned(
    network: Network,
    state: Mapping[str, Tensor],
    name: str,
    alive: NDArray[np.bool_],
    evidence: Mapping[str, list[Evidence]],
    reweighted: bool,
) -> dict[str, Tensor]:
    """Tensors with one group's removed units at zero, and its readers solved anew."""
    changed = network.erased(alive, state)
    if reweighted:
        for reader in network.of_group[name]:
            solved = solve(
                reader,
                evidence[reader.node],
                alive,
                alive,
                state[reader.weight],
                state[reader.bias] if reader.bias else None,
            )
            changed.update(solved.tensors(reader, state))
    return changed


@torch.no_grad()
def _accuracy(network: Network, changed: Mapping[str, Tensor], images: Images) -> float:
    data, module, objective = images.data, network.base.program.module, images.objective
    tally = Tally(objective)
    for index in range(images.batches):
        inputs = images.batch(index)
        output = torch.func.functional_call(module, dict(changed), inputs)
        tally.add(sums_of(output, images.targets(index), data, objective), samples_in(inputs))
    return objective.measure.merit(objective.values(tally.whole(), images.table)[0])
