"""A penalty that pulls whole units towards zero before they are removed. Pure maths.

DepGraph (Fang et al. 2023, arXiv 2301.12900), section 3.3, "group-level pruning", its sparse learning:

    R = sum_k gamma_k I_k,   I_k = sum over the slots of unit k of ||w[k]||^2,
    gamma_k = 2 ** (alpha (I_max - I_k) / (I_max - I_min)),   alpha = 4,

with the sum over all units of all groups and the extremes those of a group: what holds little is pulled sixteen times
as hard as what holds most. All that lives and dies with a unit is penalised together, so that all of it is small when
it goes.

Deviations: `I` counts every parameter of a unit (rows that write it, columns that read it, biases, scale and shift of
norms), where their code leaves out biases and shifts; of an adapted weight it counts the *adapted* one, so that factors
learn to take off what the frozen weight has; the penalty is a part of the loss of AdamW, where theirs is that of SGD;
and its strength grows (`edgespa.adaptation.timeline.Timeline.sparsity`; growing is after Wang et al. 2021, arXiv
2012.09243), where theirs is constant.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from edgespa.graph.groups import Groups, Mask, Slot

ALPHA = 4.0


class UnitPenalty:
    """The penalty on the units that are there, as a function of the tensors that hold them.

    Args:
        groups: Channel groups of the whole program.
        kept: Units that are there; the tensors are sliced to them.
        parameters: Names of the tensors that count.
    """

    def __init__(self, groups: Groups, kept: Mapping[str, Mask], parameters: Collection[str]) -> None:
        alive = groups.alive(kept)
        self._count = groups.unit_count
        self._slots: dict[Slot, Tensor] = {
            slot: torch.from_numpy(ids[alive[ids]])
            for slot, ids in groups.units.items()
            if slot.tensor in parameters and ids.any()
        }
        self._groups = [
            torch.from_numpy(there) for group in groups.groups.values() if len(there := group.ids[alive[group.ids]])
        ]

    def norms(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """``I`` of every unit id, ``[unit ids]``; differentiable.

        Args:
            tensors: By name, in the shapes of the compacted program.
        """
        total: Tensor | None = None
        for slot, ids in self._slots.items():
            values = tensors[slot.tensor].float().square()
            if values.dim() > 1:
                values = values.sum([dim for dim in range(values.dim()) if dim != slot.dim])
            if total is None:
                total = values.new_zeros(self._count)
            total = total.index_add(0, ids.to(values.device), values)
        return torch.zeros(self._count) if total is None else total

    def __call__(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """``R``, a scalar; ``gamma`` is not differentiated.

        Args:
            tensors: As for `norms`.
        """
        norms = self.norms(tensors)
        terms = []
        for ids in self._groups:
            own = norms[ids.to(norms.device)]
            terms.append((strengths(own.detach()) * own).sum())
        return torch.stack(terms).sum() if terms else norms.sum()


def strengths(norms: Tensor, alpha: float = ALPHA) -> Tensor:
    """``gamma`` of a group's units, from 1 for what holds most to ``2 ** alpha``; 1 where all are alike.

    Args:
        norms: ``I``, ``[units]``.
        alpha: Its exponent.
    """
    most, least = norms.max(), norms.min()
    spread = most - least
    if not bool(spread > 0):
        return torch.ones_like(norms)
    return torch.pow(2.0, alpha * (most - norms) / spread)
