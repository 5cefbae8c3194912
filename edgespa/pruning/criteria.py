"""Criteria: one score per unit, from tensors alone. The lower the score, the sooner a unit goes.

A criterion scores the *indices of a slot*; the scores of a unit are summed over its indices of a slot, normalised over
the slot, and averaged over the slots that the criterion looks at (`unit_scores`).

Structured Pruning Adapters (Hedegaard et al. 2022, arXiv 2211.10155, section 5) ranks filters globally after
normalising the scores of each layer; ``l1`` and ``l2`` are its normalisations. ``mean`` divides by the layer's mean
instead, so that a filter of a wide layer is not at a disadvantage; it is the default here (a deviation).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgespa.errors import ConfigError
from edgespa.graph.groups import Group, Slot

Scores = NDArray[np.float64]
Side = Literal["writers", "readers"]
Normalisation = Literal["mean", "l1", "l2", "none"]
NORMALISATIONS: tuple[str, ...] = get_args(Normalisation)


def magnitude(weight: Tensor, dim: int, power: int) -> Tensor:
    """``sum |w|**power`` over everything but one dimension (for power 2, its square root).

    Args:
        weight: Any shape.
        dim: The dimension whose indices are scored.
        power: 1 or 2.

    Returns:
        ``[weight.shape[dim]]``, non-negative.
    """
    others = [other for other in range(weight.dim()) if other != dim]
    values = weight.detach().double().abs()
    if power == 1:
        return values.sum(others) if others else values
    return values.square().sum(others).sqrt() if others else values


def taylor(weight: Tensor, gradient: Tensor, dim: int) -> Tensor:
    """``sum w * dL/dw`` over everything but one dimension: the first-order change of the loss when an index goes.

    On the *columns* of the weights that read a channel this equals ``sum a * dL/da`` over the channel's activations
    (Molchanov et al. 2017, arXiv 1611.06440, eq. 8), because both are the derivative by a gate on the channel. It is
    signed; the absolute value is taken after summing over a unit's slots. On the rows that write the channel the sum
    would vanish where a batch norm in training mode follows.

    Args:
        weight: Any shape.
        gradient: Of the loss, same shape.
        dim: The dimension whose indices are scored.

    Returns:
        ``[weight.shape[dim]]``, signed.
    """
    product = weight.detach().double() * gradient.detach().double()
    others = [other for other in range(weight.dim()) if other != dim]
    return product.sum(others) if others else product


def normalise(scores: Scores, how: str) -> Scores:
    """Scale the scores of one layer: ``l1`` to sum 1, ``l2`` to norm 1, ``mean`` to mean 1, or not at all."""
    magnitude_ = np.abs(scores)
    scale = {
        "l1": magnitude_.sum(),
        "l2": float(np.sqrt(np.square(magnitude_).sum())),
        "mean": magnitude_.mean() if len(scores) else 1.0,
        "none": 1.0,
    }[how]
    return scores / scale if 0 < scale < np.inf else scores


@dataclasses.dataclass(frozen=True)
class Criterion:
    """How units are scored.

    Attributes:
        name: Its name on the command line.
        side: Which slots are looked at: the rows that write a channel, or the columns that read it.
        needs_gradient: Whether gradients of the loss, and so labelled data, are needed.
        score: ``(weight, gradient or None, dim) -> [indices]``.
        signed: Whether the scores of a unit's slots are added with their signs before the absolute value is taken.
    """

    name: str
    side: Side
    needs_gradient: bool
    score: Callable[[Tensor, Tensor | None, int], Tensor]
    signed: bool = False


def _taylor(weight: Tensor, gradient: Tensor | None, dim: int) -> Tensor:
    if gradient is None:
        return torch.zeros(weight.shape[dim], dtype=torch.float64)
    return taylor(weight, gradient, dim)


CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        Criterion("l1", "writers", False, lambda weight, _, dim: magnitude(weight, dim, 1)),
        Criterion("l2", "writers", False, lambda weight, _, dim: magnitude(weight, dim, 2)),
        Criterion("taylor", "readers", True, _taylor, signed=True),
        Criterion("random", "writers", False, lambda weight, _, dim: torch.ones(weight.shape[dim])),
    )
}


def criterion_named(name: str) -> Criterion:
    """The criterion of a name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in CRITERIA:
        raise ConfigError(f"unknown criterion '{name}'", f"choose one of: {', '.join(CRITERIA)}")
    return CRITERIA[name]


def slots_of(group: Group, criterion: Criterion) -> tuple[Slot, ...]:
    """The slots that a criterion looks at: those of its side, or of the other side if the group has none there."""
    own, other = (group.writers, group.readers) if criterion.side == "writers" else (group.readers, group.writers)
    return own or other


def unit_scores(group: Group, index_scores: Mapping[Slot, Scores], criterion: Criterion, normalisation: str) -> Scores:
    """Scores of a group's units from the scores of slot indices.

    Args:
        group: The channel group.
        index_scores: Per slot of `slots_of` a score for each index of the uncompacted tensor; NaN where gone.
        criterion: Says which slots count.
        normalisation: As in `normalise`, over the units that are still there.

    Returns:
        ``[units]``; units that are gone are NaN. Zeros for a group that no weight writes or reads.
    """
    per_slot = [
        np.array([index_scores[slot][indices].sum() for indices in group.slots[slot]], dtype=np.float64)
        for slot in slots_of(group, criterion)
    ]
    if not per_slot:
        return np.zeros(len(group))
    if criterion.signed:
        per_slot = [np.abs(np.sum(per_slot, axis=0))]
    there = ~np.isnan(per_slot[0])
    total = np.full(len(group), np.nan)
    total[there] = np.mean([normalise(scores[there], normalisation) for scores in per_slot], axis=0)
    return total
