"""Block masks of SPLoPA: which blocks are kept, and which units are gone with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgespa.adapters.adapted import AdaptedProgram
from edgespa.adapters.base import Adapter
from edgespa.adapters.splopa import SPLoPA
from edgespa.graph.groups import Group, Groups, Kept, Slot
from edgespa.selection.select import align_units


def masked_adapters(adapters: Mapping[str, Adapter]) -> dict[str, SPLoPA]:
    """Those that have a block mask."""
    return {name: own for name, own in adapters.items() if isinstance(own, SPLoPA) and own.mask is not None}


def storage(model: AdaptedProgram) -> dict[str, int] | None:
    """What masked blocks inside the remaining weights save: storage, not time. None without block masks.

    Args:
        model: A program with adapters.

    Returns:
        Blocks that are ``kept``, ``of`` how many, and ``zero_weights`` of the merged program.
    """
    masked = masked_adapters({name: model.adapter_of(name) for name in model.adapted})
    if not masked:
        return None
    state = model.merged().state()
    masks = [adapter.mask for adapter in masked.values() if adapter.mask is not None]
    return {
        "kept": sum(int(mask.bool().sum()) for mask in masks),
        "of": sum(mask.numel() for mask in masks),
        "zero_weights": sum(int((state[name] == 0).sum()) for name in masked),
    }


def block_magnitudes(weight: Tensor, adapter: SPLoPA) -> Tensor:
    """Mean absolute adapted weight of each block, over the mean of the layer.

    Args:
        weight: The frozen weight.
        adapter: Of that weight; its mask is not applied, so that a masked block may come back.

    Returns:
        ``[R, C]``, float64.
    """
    assert adapter.mask is not None
    values = (weight.detach() + adapter.delta().detach().to(weight.dtype)).double().abs()
    values = values.reshape(*weight.shape[:2], -1).mean(2)
    rows, columns = adapter.rows.long() // adapter.block, adapter.columns.long() // adapter.block
    shape = adapter.mask.shape
    total = values.new_zeros(shape).index_put_((rows[:, None], columns[None]), values, accumulate=True)
    count = values.new_zeros(shape).index_put_((rows[:, None], columns[None]), torch.ones_like(values), accumulate=True)
    return total / count / values.mean().clamp_min(torch.finfo(torch.float64).tiny)


def block_masks(
    adapters: Mapping[str, SPLoPA], weights: Mapping[str, Tensor], options: Mapping[str, Any], density: float
) -> dict[str, Tensor]:
    """The blocks to keep, ranked over all layers at once.

    ``magnitude``: the fraction `density` with the highest `block_magnitudes`. ``movement``: with the highest scores
    (Sanh et al. 2020, section 4). ``threshold``: those with sigmoid(score) at or above the threshold, whatever fraction
    that is (soft movement pruning, section 5). Each layer keeps at least its best block.

    Args:
        adapters: By tensor, all with masks.
        weights: The frozen weights.
        options: Of SPLoPA.
        density: Fraction of the blocks of these adapters.

    Returns:
        Boolean ``[R, C]`` per tensor.
    """
    how = str(options["mask"])
    if how == "magnitude":
        ranked = {name: block_magnitudes(weights[name], adapter) for name, adapter in adapters.items()}
    else:
        ranked = {
            name: adapter.scores.detach().double() for name, adapter in adapters.items() if adapter.scores is not None
        }
    if how == "threshold":
        masks = {name: torch.sigmoid(scores) >= float(options["threshold"]) for name, scores in ranked.items()}
    else:
        pooled = torch.cat([scores.flatten() for scores in ranked.values()]) if ranked else torch.zeros(0)
        order = pooled.argsort(descending=True, stable=True)
        chosen = torch.zeros(len(pooled), dtype=torch.bool)
        chosen[order[: max(1, round(density * len(pooled)))]] = True
        parts = torch.split(chosen, [scores.numel() for scores in ranked.values()])
        masks = {name: part.reshape(ranked[name].shape) for name, part in zip(ranked, parts, strict=True)}
    for name, mask in masks.items():
        if not bool(mask.any()):
            mask.view(-1)[int(ranked[name].argmax())] = True
    return masks


def penalty(adapters: Mapping[str, SPLoPA]) -> Tensor | None:
    """Mean of sigmoid(score) over all blocks: what an L1 penalty on soft masks adds to the loss (section 5)."""
    scores = [adapter.scores.flatten() for adapter in adapters.values() if adapter.scores is not None]
    return torch.sigmoid(torch.cat(scores)).mean() if scores else None


def dead_indices(adapter: SPLoPA, dim: int) -> np.ndarray:
    """Whether all blocks of a row (dim 0) or a column (dim 1) are masked, per index of the weight."""
    assert adapter.mask is not None
    positions = (adapter.rows, adapter.columns)[dim].long() // adapter.block
    alive = adapter.mask.bool().any(1 - dim)
    return np.asarray((~alive.index_select(0, positions)).cpu().numpy(), dtype=bool)


def without_dead_units(groups: Groups, kept: Kept, adapters: Mapping[str, SPLoPA], round_to: int) -> Kept:
    """Take off the units that nothing writes, or nothing reads, any more because of masked blocks.

    A unit goes if all weights that write it have its rows masked, or all that read it its columns; a width that
    ``round_to`` (halved until it is at most half of the group) does not divide is rounded up by keeping some of them.

    Args:
        groups: Channel groups of the whole program.
        kept: Units that are there; the adapters are sliced to them.
        adapters: By tensor, with masks.
        round_to: Alignment of channel counts.
    """
    result = {name: mask.copy() for name, mask in kept.items()}
    alive = groups.alive(kept)
    dead: dict[Slot, np.ndarray] = {}
    for name, adapter in adapters.items():
        for dim in (0, 1):
            ids = groups.units.get(slot := Slot(name, dim))
            if ids is not None and adapter.mask is not None:
                dead[slot] = np.zeros(len(ids), dtype=bool)
                dead[slot][alive[ids]] = dead_indices(adapter, dim)
    for name, group in groups.groups.items():
        gone = _all_dead(group, group.writers, dead) | _all_dead(group, group.readers, dead)
        there = np.flatnonzero(result[name])
        going = there[gone[there]]
        step = align_units(group, round_to)
        wanted = len(there) - len(going)
        width = min(len(there), max(step if len(there) >= step else 1, -(-wanted // step) * step))
        result[name][going[: len(there) - width]] = False
    return result


def _all_dead(group: Group, slots: tuple[Slot, ...], dead: Mapping[Slot, np.ndarray]) -> np.ndarray:
    if not slots or any(slot not in dead for slot in slots):
        return np.zeros(len(group), dtype=bool)
    per_slot = [np.array([dead[slot][indices].all() for indices in group.slots[slot]]) for slot in slots]
    return np.asarray(np.logical_and.reduce(per_slot), dtype=bool)
