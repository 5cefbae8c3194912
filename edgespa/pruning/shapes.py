"""The widths, and the residual blocks that go, of least loss within a density, over all groups at once.

By `edgespa.selection.knapsack`; within a time on a device: `edgespa.latency.shapes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from edgespa.errors import BudgetError
from edgespa.graph.forms import Form, Part
from edgespa.graph.groups import Kept
from edgespa.pruning.cut import carried_over
from edgespa.pruning.losses import BlockLoss
from edgespa.selection.along import Along
from edgespa.selection.knapsack import Shapes, Terms, fastest, knapsack
from edgespa.selection.select import Budget
from edgespa.tasks.base import Base

_ROUNDS = 4
_EASE = 1e-9
_BLOCK = "block "
"""What the variable of a block is called by, before the block's name: groups have names like those of blocks."""


class Lost:
    """What is lost over the widths of groups and over blocks; the widths of a block that is gone lose nothing more.

    Args:
        losses: Of each group that may be pruned what it loses at each width that it may have.
        blocks: Residual blocks that may go, in the order of the network.

    Attributes:
        terms: Over all variables.
        widths: Of each group those that it may have, ascending.
    """

    def __init__(self, losses: Mapping[str, Mapping[int, float]], blocks: Mapping[str, BlockLoss]) -> None:
        self._losses, self._blocks = losses, blocks
        self.widths = {name: tuple(sorted(own)) for name, own in losses.items()}
        owner = {name: _BLOCK + block for block, each in blocks.items() for name in each.groups}
        self.terms = Terms(
            {name: len(own) for name, own in self.widths.items()} | {_BLOCK + name: 2 for name in blocks}
        )
        for name, own in losses.items():
            values = np.array([own[width] for width in self.widths[name]])
            if name in owner:
                self.terms.add((name, owner[name]), values[:, None] * np.array([0.0, 1.0]))
            else:
                self.terms.add((name,), values)
        for name, each in blocks.items():
            self.terms.add((_BLOCK + name,), [each.loss, 0.0])

    @property
    def nodes(self) -> dict[str, frozenset[str]]:
        """By the variable of each block the nodes that are computed in it."""
        return {_BLOCK + name: each.nodes for name, each in self._blocks.items()}

    @property
    def everything(self) -> Shapes:
        """Nothing is gone; what that takes is not known here."""
        return Shapes({name: size - 1 for name, size in self.terms.sizes.items()}, 0.0, 0.0)

    def chosen(self, shapes: Shapes) -> tuple[dict[str, int], tuple[str, ...]]:
        """How many units each group keeps that is of no block that is gone, and which blocks those are."""
        gone = tuple(name for name in self._blocks if not shapes.choice[_BLOCK + name])
        inside = {name for block in gone for name in self._blocks[block].groups}
        return {name: own[shapes.choice[name]] for name, own in self.widths.items() if name not in inside}, gone

    def of(self, widths: Mapping[str, int], removed: tuple[str, ...]) -> dict[str, float]:
        """What each of them loses."""
        return {name: self._losses[name][width] for name, width in widths.items()} | {
            name: self._blocks[name].loss for name in removed
        }


@dataclasses.dataclass(frozen=True)
class Shaped:
    """Widths within a density.

    Attributes:
        widths: Of each group that may be pruned, and that is of no block that is gone, how many units it keeps.
        removed: Residual blocks that are gone.
        density: That they come to.
        losses: What each of them loses.
    """

    widths: Mapping[str, int]
    removed: tuple[str, ...]
    density: float
    losses: Mapping[str, float]


def shapes_within(
    base: Base, losses: Mapping[str, Mapping[int, float]], budget: Budget, blocks: Mapping[str, BlockLoss] | None = None
) -> Shaped:
    """The widths, and the blocks that go, of least loss within a density.

    Args:
        base: The network.
        losses: Of each group that may be pruned what it loses at each width that it may have.
        budget: What may remain.
        blocks: Residual blocks that may go; of a density of channels none do, for it counts those that there are.

    Raises:
        BudgetError: If it cannot be reached; it says the least that can.
    """
    lost = Lost(losses, blocks or {} if budget.of != "channels" else {})
    costs = Along(_parts(base, budget.of), base.groups, lost.widths, lost.nodes)
    whole = costs.total(lost.everything.choice)
    aim = budget.density * whole
    for _ in range(_ROUNDS):
        shapes = knapsack(lost.terms, costs, aim)
        if shapes is None:
            break
        widths, removed = lost.chosen(shapes)
        density = _density(base, widths, removed, budget.of)
        if density <= budget.density + _EASE:
            return Shaped(widths, removed, density, lost.of(widths, removed))
        aim *= budget.density / density  # units that are not alike count by their mean
    least = _density(base, *lost.chosen(fastest(lost.terms, costs)), budget.of)
    raise BudgetError(
        f"{budget.of} density {budget.density:g} cannot be reached: the least is {np.ceil(least * 1e4) / 1e4:g}",
        "ask for that, or lower --round-to or --min-width, or keep fewer layers whole",
    )


def kept_of(base: Base, widths: Mapping[str, int]) -> Kept:
    """A selection with these widths; which units does not matter.

    Args:
        base: The network.
        widths: Of groups; others are whole.
    """
    kept = base.groups.all_kept()
    for name, count in widths.items():
        kept[name] = np.arange(len(kept[name])) < count
    return kept


def cut_down(base: Base, widths: Mapping[str, int], removed: tuple[str, ...]) -> tuple[Base, Kept]:
    """The network without some blocks, and a selection of it with these widths.

    Args:
        base: The network.
        widths: Of its groups.
        removed: Residual blocks that go.
    """
    smaller = base.without_blocks(removed)
    return smaller, carried_over(kept_of(base, widths), base.groups, smaller.groups)


def density_of(base: Base, smaller: Base, kept: Kept, quantity: str) -> float:
    """What is left of a network.

    Args:
        base: The network.
        smaller: It without some blocks.
        kept: Units of that.
        quantity: See `edgespa.selection.select.Budget.of`.
    """
    if quantity == "channels":
        return smaller.groups.channel_density(kept)
    cost, whole = smaller.cost.cost(kept), base.cost.cost()
    return float(getattr(cost, quantity) / max(getattr(whole, quantity), 1))


def _density(base: Base, widths: Mapping[str, int], removed: tuple[str, ...], quantity: str) -> float:
    return density_of(base, *cut_down(base, widths, removed), quantity)


def _parts(base: Base, quantity: str) -> list[Part]:
    if quantity != "channels":
        return base.cost.parts(quantity)
    forms = [Form(group.channels, ((0, ((name, 1.0),)),)) for name, group in base.groups.groups.items()]
    return [Part(form.groups, form, frozenset()) for form in forms]
