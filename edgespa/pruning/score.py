"""Scores of all units of a program, from its weights and, where the criterion asks for them, gradients on data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from edgespa.errors import AdapterError, ConfigError
from edgespa.graph.groups import Groups, Mask, Slot
from edgespa.pruning.criteria import Criterion, Scores, criterion_named, normalise, slots_of, unit_scores

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]


def score_units(
    groups: Groups,
    kept: Mapping[str, Mask],
    weights: Mapping[str, Tensor],
    criterion: str,
    normalisation: str,
    generator: torch.Generator,
    *,
    loss: Loss | None = None,
    batches: Batches = (),
) -> dict[str, Scores]:
    """Score every unit that is still there.

    With gradients the scores are taken per batch and averaged: ``mean_b |sum w * dL_b/dw|``.

    Args:
        groups: Channel groups of the whole program.
        kept: Units that are there; the weights are sliced to them.
        weights: Tensors of the compacted program by name, adapters included.
        criterion: A name in `CRITERIA`.
        normalisation: See `edgespa.pruning.criteria.normalise`.
        generator: For the random criterion.
        loss: ``(weights, inputs, labels) -> scalar``, for criteria that need gradients.
        batches: Inputs and labels.

    Returns:
        Per group ``[units]``; units that are gone are NaN.

    Raises:
        ConfigError: If the criterion is unknown, or needs a loss and batches that are not given.
        AdapterError: If a score is not finite; it names the group.
    """
    rule = criterion_named(criterion)
    alive = groups.alive(kept)
    positions = {slot: np.flatnonzero(alive[ids]) for slot, ids in groups.units.items()}
    if criterion == "random":
        return _random(groups, kept, generator)
    if rule.needs_gradient:
        if loss is None:
            raise ConfigError(f"the criterion {criterion} needs labelled data", "choose another, or use: edgespa adapt")
        scores = _from_gradients(groups, positions, weights, rule, normalisation, loss, batches)
    else:
        scores = _from_tensors(groups, positions, weights, {}, rule, normalisation)
    for name, values in scores.items():
        if not np.isfinite(values[kept[name]]).all():
            raise AdapterError(
                f"group {name}: its {criterion} scores are not finite",
                "check the weights of the model, or train with a lower learning rate (--lr)",
            )
    return scores


def _from_gradients(
    groups: Groups,
    positions: Mapping[Slot, np.ndarray],
    weights: Mapping[str, Tensor],
    rule: Criterion,
    normalisation: str,
    loss: Loss,
    batches: Batches,
) -> dict[str, Scores]:
    total: dict[str, Scores] = {}
    count = 0
    read = {slot.tensor for group in groups.groups.values() for slot in slots_of(group, rule)}
    for inputs, labels in batches:
        leaves = {name: weights[name].detach().clone().requires_grad_(True) for name in read}
        names = list(leaves)
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            loss({**weights, **leaves}, inputs, labels), [leaves[name] for name in names], allow_unused=True
        )
        known = {name: gradient for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
        scores = _from_tensors(groups, positions, weights, known, rule, "none")
        for name, values in scores.items():
            total[name] = total[name] + values if name in total else values
        count += 1
    if not count:
        raise ConfigError(f"the criterion {rule.name} needs at least one batch of data", "give more images")
    result = {}
    for name, values in total.items():
        there = ~np.isnan(values)
        mean = values / count
        mean[there] = normalise(mean[there], normalisation)
        result[name] = mean
    return result


def _from_tensors(
    groups: Groups,
    positions: Mapping[Slot, np.ndarray],
    weights: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    rule: Criterion,
    normalisation: str,
) -> dict[str, Scores]:
    cache: dict[Slot, Scores] = {}

    def index_scores(slot: Slot) -> Scores:
        if slot not in cache:
            values = rule.score(weights[slot.tensor], gradients.get(slot.tensor), slot.dim)
            whole = np.full(len(groups.units[slot]), np.nan)
            whole[positions[slot]] = values.detach().cpu().numpy()
            cache[slot] = whole
        return cache[slot]

    result = {}
    for name, group in groups.groups.items():
        own = {slot: index_scores(slot) for slot in slots_of(group, rule)}
        result[name] = unit_scores(group, own, rule, normalisation)
    return result


def _random(groups: Groups, kept: Mapping[str, Mask], generator: torch.Generator) -> dict[str, Scores]:
    result = {}
    for name, group in groups.groups.items():
        values = torch.rand(len(group), generator=generator, dtype=torch.float64).numpy()
        result[name] = np.where(kept[name], values, np.nan)
    return result


def cross_entropy_of(call: Callable[..., Tensor]) -> Loss:
    """The loss of a classifier that is called with its weights."""

    def loss(weights: Mapping[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(call(weights, inputs), labels)

    return loss
