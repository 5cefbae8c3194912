"""Criteria: one score per unit, from tensors alone. The lower the score, the sooner a unit goes.

A criterion scores the *indices of a slot*; the scores of a unit are summed over its indices of a slot, normalised over
the slot, and averaged over the slots that the criterion looks at (`unit_scores`).

Structured Pruning Adapters (Hedegaard et al. 2022, arXiv 2211.10155, section 5) ranks filters globally after
normalising the scores of each layer: ``l1`` for weights, ``l2`` for gradient and Taylor, and by the sum for relevance,
which for scores that are not negative, as all here are, is ``l1``. ``mean`` divides by the layer's mean
instead, so that a filter of a wide layer is not at a disadvantage; it is the default here (a deviation).

A criterion of one's own comes from an entry point of the group ``edgespa.criteria`` that names a `Criterion`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgespa.errors import ConfigError
from edgespa.graph.groups import Group, Slot

Scores = NDArray[np.float64]
Side = Literal["writers", "readers", "scales", "parameters", "activations"]
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


def geometric_median(weight: Tensor, dim: int) -> Tensor:
    """``sum_j ||w_i - w_j||`` over all other slices j along a dimension: small near the geometric median.

    Filter pruning via geometric median (He et al. 2019, arXiv 1811.00250, eq. 6 to 8): such a filter is best replaced
    by the others. Euclidean distances.

    Args:
        weight: Any shape.
        dim: The dimension whose indices are scored.

    Returns:
        ``[weight.shape[dim]]``, non-negative.
    """
    rows = (
        weight.detach().double().movedim(dim, 0).flatten(1) if weight.dim() > 1 else weight.detach().double()[:, None]
    )
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def activation_sum(activation: Tensor, gradient: Tensor, dim: int) -> Tensor:
    """``sum dL/da`` over everything but one dimension, signed.

    The gradient criterion of Structured Pruning Adapters, table 1 (after Sun et al. 2017, arXiv 1706.06197), on the
    outputs of a layer.

    Args:
        activation: Not looked at.
        gradient: Of the loss by the activation, batch first.
        dim: The channel dimension.
    """
    return gradient.detach().double().sum([other for other in range(gradient.dim()) if other != dim])


def activation_taylor(activation: Tensor, gradient: Tensor, dim: int) -> Tensor:
    """``sum a * dL/da`` over everything but one dimension, signed (Molchanov et al. 2017, arXiv 1611.06440, eq. 8).

    With L the sum of the output relevances of a program made for it (`edgespa.selection.relevance`), this is also the
    layer-wise relevance of a channel.

    Args:
        activation: Outputs of a layer, batch first.
        gradient: Of the loss by them, same shape.
        dim: The channel dimension.
    """
    return taylor(activation, gradient, dim)


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
        side: What is looked at: the rows that write a channel, the columns that read it, the scale of the batch norm
            that follows (rows where there is none), all parameters of the unit, or the outputs of the layers that
            write it.
        needs_gradient: Whether gradients of the loss, and so labelled data, are needed.
        score: ``(weight, gradient or None, dim) -> [indices]``; for activations ``(outputs, gradient, dim)``.
        signed: Whether the scores of a unit's slots are added with their signs before the absolute value is taken.
        relevance: Whether the gradients are those of layer-wise relevance propagation, not of the loss.
        squared: Whether the score of a batch is squared before the batches are averaged. Such a score depends on what
            a batch is, so batches that are one in a training step are one here, too.
    """

    name: str
    side: Side
    needs_gradient: bool
    score: Callable[[Tensor, Tensor | None, int], Tensor]
    signed: bool = False
    relevance: bool = False
    squared: bool = False


def _with_gradient(function: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[[Tensor, Tensor | None, int], Tensor]:
    def score(values: Tensor, gradient: Tensor | None, dim: int) -> Tensor:
        if gradient is None:  # the loss does not depend on it
            return torch.zeros(values.shape[dim], dtype=torch.float64)
        return function(values, gradient, dim)

    return score


CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        Criterion("l1", "writers", False, lambda weight, _, dim: magnitude(weight, dim, 1)),
        Criterion("l2", "writers", False, lambda weight, _, dim: magnitude(weight, dim, 2)),
        Criterion("taylor", "readers", True, _with_gradient(taylor), signed=True),
        # Optimal Brain Connection, Chen et al. 2025, arXiv 2508.05521, see `edgespa.selection.score.score_units`
        Criterion("jacobian", "parameters", True, _with_gradient(taylor), signed=True, squared=True),
        Criterion("random", "writers", False, lambda weight, _, dim: torch.ones(weight.shape[dim])),
        Criterion("geometric-median", "writers", False, lambda weight, _, dim: geometric_median(weight, dim)),
        # Network Slimming, Liu et al. 2017, arXiv 1708.06519
        Criterion("bn-scale", "scales", False, lambda weight, _, dim: magnitude(weight, dim, 1)),
        Criterion("gradient", "activations", True, _with_gradient(activation_sum)),
        Criterion("taylor-activation", "activations", True, _with_gradient(activation_taylor)),
        Criterion("lrp", "activations", True, _with_gradient(activation_taylor), relevance=True),
    )
}
GROUP = "edgespa.criteria"


def criterion_names() -> tuple[str, ...]:
    """All criteria, those of entry points last; nothing is imported for it."""
    return (*CRITERIA, *(name for name in _plugins() if name not in CRITERIA))


def criterion_named(name: str) -> Criterion:
    """The criterion of a name.

    Raises:
        ConfigError: If there is none, or its entry point is of no use; it names the package.
    """
    if name in CRITERIA:
        return CRITERIA[name]
    point = _plugins().get(name)
    if point is None:
        raise ConfigError(f"unknown criterion '{name}'", f"choose one of: {', '.join(criterion_names())}")
    where = f"the criterion '{name}' of {point.dist.name if point.dist else point.value}"
    try:
        found = point.load()
    except Exception as error:  # the code of a plugin
        raise ConfigError(f"{where} cannot be imported: {error}", "repair or uninstall that package") from error
    if not isinstance(found, Criterion):
        raise ConfigError(f"{where} is not an edgespa.selection.criteria.Criterion", "repair that package")
    return found


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def slots_of(group: Group, criterion: Criterion, chosen: Collection[str] = ()) -> tuple[Slot, ...]:
    """The slots that a criterion looks at: those of its side, or of the other side if the group has none there.

    Args:
        group: The channel group.
        criterion: Which side counts.
        chosen: Tensors that are scales of batch norms, or parameters, for a criterion that looks at those.
    """
    if criterion.side in ("scales", "parameters"):
        own = tuple(slot for slot in group.slots if slot.tensor in chosen)
        return own or group.writers or group.readers
    return (group.readers or group.writers) if criterion.side == "readers" else (group.writers or group.readers)


def unit_scores(
    group: Group,
    index_scores: Mapping[Slot, Scores],
    criterion: Criterion,
    normalisation: str,
    chosen: Collection[str] = (),
) -> Scores:
    """Scores of a group's units from the scores of slot indices.

    Args:
        group: The channel group.
        index_scores: Per slot of `slots_of` a score for each index of the uncompacted tensor; NaN where gone.
        criterion: Says which slots count.
        normalisation: As in `normalise`, over the units that are still there.
        chosen: See `slots_of`.

    Returns:
        ``[units]``; units that are gone are NaN. Zeros for a group that no weight writes or reads.
    """
    per_slot = [
        np.array([index_scores[slot][indices].sum() for indices in group.slots[slot]], dtype=np.float64)
        for slot in slots_of(group, criterion, chosen)
    ]
    return combined(per_slot, len(group), criterion.signed, normalisation)


def combined(per_place: Sequence[Scores], units: int, signed: bool, normalisation: str) -> Scores:
    """One score per unit from its scores at several places: normalised at each, then averaged.

    Args:
        per_place: Per slot or layer ``[units]``; units that are gone are NaN.
        units: Number of units.
        signed: Add with their signs first, and take the absolute value of the sum.
        normalisation: As in `normalise`.
    """
    if not per_place:
        return np.zeros(units)
    places = [np.abs(np.sum(per_place, axis=0))] if signed else list(per_place)
    there = ~np.isnan(places[0])
    total = np.full(units, np.nan)
    total[there] = np.mean([normalise(scores[there], normalisation) for scores in places], axis=0)
    return total
