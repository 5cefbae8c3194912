"""The widths of groups and of heads, and the residual blocks that go, of least loss within a density, all at once.

By `edgespa.selection.knapsack`; within a time on a device: `edgespa.latency.shapes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import JsonValue

from edgespa.errors import BudgetError
from edgespa.graph.forms import Form, Part
from edgespa.graph.groups import Kept
from edgespa.graph.head_widths import VARIABLE
from edgespa.pruning.cut import carried_over
from edgespa.pruning.head_losses import HeadLoss
from edgespa.pruning.losses import BlockLoss
from edgespa.selection.along import Along
from edgespa.selection.knapsack import Shapes, Terms, fastest, knapsack
from edgespa.selection.select import Budget
from edgespa.tasks.base import Base

_ROUNDS = 4
_EASE = 1e-9
_BLOCK = "block "
"""What the variable of a block is called by, before the block's name: groups have names like those of blocks."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is left of a network.

    Attributes:
        widths: Of groups how many units each keeps; others are whole.
        removed: Residual blocks that are gone.
        heads: New widths of the heads of attention, by group of `edgespa.graph.head_widths`; others are as they were.
    """

    widths: Mapping[str, int]
    removed: tuple[str, ...] = ()
    heads: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def plain(self) -> dict[str, JsonValue]:
        """For a state, or the provenance of a task."""
        found: dict[str, JsonValue] = {"widths": dict(self.widths), "removed": list(self.removed)}
        return found | ({"heads": dict(self.heads)} if self.heads else {})

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Shape:
        """From `plain`, with whatever else is there.

        Args:
            plain: It.
        """
        return cls(plain["widths"], tuple(plain["removed"]), plain.get("heads", {}))


@dataclasses.dataclass(frozen=True)
class Losses:
    """What a network loses with what may go.

    Attributes:
        widths: Of each group that may be pruned what it loses at each width that it may have.
        blocks: Residual blocks that may go, in the order of the network.
        heads: Widths of the heads of attention that may shrink, by group of `edgespa.graph.head_widths`.
    """

    widths: Mapping[str, Mapping[int, float]]
    blocks: Mapping[str, BlockLoss] = dataclasses.field(default_factory=dict)
    heads: Mapping[str, HeadLoss] = dataclasses.field(default_factory=dict)


class Lost:
    """What is lost over widths of groups and heads, and over blocks; what is in a block that is gone loses no more.

    Args:
        losses: Of all that may go.

    Attributes:
        terms: Over all variables.
        widths: Of each group, and of each width of heads, those that it may have, ascending.
    """

    def __init__(self, losses: Losses) -> None:
        blocks, heads = losses.blocks, losses.heads
        self._losses, self._blocks = losses, blocks
        over = {**losses.widths, **{VARIABLE + name: each.losses for name, each in heads.items()}}
        self.widths = {name: tuple(sorted(own)) for name, own in over.items()}
        owner = {name: _BLOCK + block for block, each in blocks.items() for name in each.groups}
        for name, head in heads.items():
            inside = next((block for block, each in blocks.items() if head.nodes <= each.nodes), None)
            if inside is not None:
                owner[VARIABLE + name] = _BLOCK + inside
        self._owner = owner
        self.terms = Terms(
            {name: len(own) for name, own in self.widths.items()} | {_BLOCK + name: 2 for name in blocks}
        )
        for name, own in over.items():
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

    def chosen(self, shapes: Shapes) -> Shape:
        """What is left: of groups and heads that are of no block that is gone."""
        gone = tuple(name for name in self._blocks if not shapes.choice[_BLOCK + name])
        lost = {_BLOCK + name for name in gone}
        left = {n: own[shapes.choice[n]] for n, own in self.widths.items() if self._owner.get(n) not in lost}
        heads = {
            name: left[VARIABLE + name]
            for name, each in self._losses.heads.items()
            if VARIABLE + name in left and left[VARIABLE + name] < max(each.losses)
        }
        return Shape({name: size for name, size in left.items() if name in self._losses.widths}, gone, heads)

    def of(self, shape: Shape) -> dict[str, float]:
        """What each part of it loses.

        Args:
            shape: From `chosen`.
        """
        own = self._losses
        return (
            {name: own.widths[name][width] for name, width in shape.widths.items()}
            | {name: own.blocks[name].loss for name in shape.removed}
            | {VARIABLE + name: own.heads[name].losses[width] for name, width in shape.heads.items()}
        )


@dataclasses.dataclass(frozen=True)
class Shaped:
    """What is left within a density.

    Attributes:
        shape: It.
        density: That it comes to.
        losses: What each part of it loses.
    """

    shape: Shape
    density: float
    losses: Mapping[str, float]


def shapes_within(base: Base, losses: Losses, budget: Budget) -> Shaped:
    """The widths of groups and heads, and the blocks that go, of least loss within a density.

    Args:
        base: The network.
        losses: Of all that may go. Of a density of channels no blocks do, nor dimensions of heads: it counts those
            channels that there are.
        budget: What may remain.

    Raises:
        BudgetError: If it cannot be reached; it says the least that can.
    """
    lost = Lost(losses if budget.of != "channels" else Losses(losses.widths))
    costs = Along(_parts(base, budget.of), base.groups, lost.widths, lost.nodes, heads=base.head_widths.sizes)
    whole = costs.total(lost.everything.choice)
    aim = budget.density * whole
    for _ in range(_ROUNDS):
        shapes = knapsack(lost.terms, costs, aim)
        if shapes is None:
            break
        shape = lost.chosen(shapes)
        density = _density(base, shape, budget.of)
        if density <= budget.density + _EASE:
            return Shaped(shape, density, lost.of(shape))
        aim *= budget.density / density  # units that are not alike count by their mean
    least = _density(base, lost.chosen(fastest(lost.terms, costs)), budget.of)
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


def cut_down(base: Base, shape: Shape) -> tuple[Base, Kept]:
    """The network without some blocks and with narrower heads, and a selection of it with these widths.

    Args:
        base: The network.
        shape: What is left of it.
    """
    narrow = base.narrowed(shape.heads) if shape.heads else base
    smaller = narrow.without_blocks(shape.removed)
    return smaller, carried_over(kept_of(narrow, shape.widths), narrow.groups, smaller.groups)


def density_of(base: Base, smaller: Base, kept: Kept, quantity: str) -> float:
    """What is left of a network.

    Args:
        base: The network.
        smaller: It without some blocks, and with narrower heads.
        kept: Units of that.
        quantity: See `edgespa.selection.select.Budget.of`.
    """
    if quantity == "channels":
        return smaller.groups.channel_density(kept)
    cost, whole = smaller.cost.cost(kept), base.cost.cost()
    return float(getattr(cost, quantity) / max(getattr(whole, quantity), 1))


def _density(base: Base, shape: Shape, quantity: str) -> float:
    return density_of(base, *cut_down(base, shape), quantity)


def _parts(base: Base, quantity: str) -> list[Part]:
    if quantity != "channels":
        return base.cost_parts(quantity)
    forms = [Form(group.channels, ((0, ((name, 1.0),)),)) for name, group in base.groups.groups.items()]
    return [Part(form.groups, form, frozenset()) for form in forms]
