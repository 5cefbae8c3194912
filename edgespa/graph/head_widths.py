"""Widths of heads that can shrink, and programs with narrower ones: units are dimensions that all heads have."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgespa.graph.forms import Form, Part, Ratio
from edgespa.graph.groups import Group, Groups, Kept, Slot, find_groups
from edgespa.graph.heads import ATTENTION, Attention, Rows, Side, find_attentions
from edgespa.graph.layers import Layers
from edgespa.graph.program import Program, settle, shape_of
from edgespa.graph.rules.registry import named_arguments, operator_name
from edgespa.graph.surgery import compact


def with_scales(program: Program) -> Program:
    """The program whose attention says the scale that it has: one over the root of the width of its heads as it is."""
    result = program.copy()
    for node in result.graph.nodes:
        if operator_name(node) == ATTENTION and named_arguments(node).get("scale") is None:
            width = shape_of(named_arguments(node)["query"].meta["val"])[-1]
            node.kwargs = {**node.kwargs, "scale": width**-0.5}
    settle(result)
    return result


@dataclasses.dataclass(frozen=True)
class Width:
    """A width that can shrink: the unit ``k`` is the k-th dimension of all heads of some products.

    Attributes:
        group: The channel group of the labelling by widths.
        products: ``(attention's node, "query-key" or "value-output")``; several where one weight is split into them.
        size: The width now.
    """

    group: str
    products: tuple[tuple[str, str], ...]
    size: int


VARIABLE = "heads of "
"""What a width is called by beside channel groups, before the name of its group: these may be named alike."""


@dataclasses.dataclass(frozen=True, eq=False)
class HeadWidths:
    """The widths of the heads of a program beside its channel groups: what a search over widths knows of them.

    Attributes:
        groups: The labelling of the program by widths.
        widths: Those that can shrink, by `VARIABLE` and the name of their group. Where a channel group takes a head
            apart, none is here: its dimensions are units of that group.
    """

    groups: Groups
    widths: Mapping[str, Width]

    @classmethod
    def of(cls, program: Program, groups: Groups) -> HeadWidths:
        """Look at a program.

        Args:
            program: The program.
            groups: Its channel groups.
        """
        attentions = find_attentions(program)
        if not attentions:
            return cls(groups, {})
        own, widths, _ = find_widths(with_scales(program), attentions)
        known = {attention.node: attention for attention in attentions}
        found = {
            VARIABLE + width.group: width
            for width in widths
            if all(_whole_heads(groups, _sides(known[node], what), what) for node, what in width.products)
        }
        return cls(own, found)

    @property
    def sizes(self) -> dict[str, int]:
        """As they are."""
        return {name: width.size for name, width in self.widths.items()}

    def layers(self, layers: Layers, by_widths: Layers) -> Layers:
        """Layers whose widths say what is left of them where heads are narrower.

        Args:
            layers: Of the program, by its channel groups.
            by_widths: Of the same by `groups`.
        """
        if not self.widths:
            return layers
        found = []
        for layer, other in zip(layers.layers, by_widths.layers, strict=True):
            dims = tuple(
                dataclasses.replace(dim, heads=self._ratios(beside.axes))
                for dim, beside in zip(layer.dims, other.dims, strict=True)
            )
            found.append(dataclasses.replace(layer, dims=dims))
        return dataclasses.replace(layers, layers=tuple(found), heads=self.sizes)

    def _ratios(self, axes: Iterable[NDArray[np.int64]]) -> tuple[Ratio, ...]:
        found = []
        for fixed, shares in Form.of(1.0, list(axes), self.groups).axes:
            own = tuple((VARIABLE + name, share) for name, share in shares if VARIABLE + name in self.widths)
            others = sum(share * len(self.groups.groups[n]) for n, share in shares if VARIABLE + n not in self.widths)
            if own:
                stays = fixed + others
                found.append(Ratio(stays, own, stays + sum(share * self.widths[name].size for name, share in own)))
        return tuple(found)

    def parts(self, parts: Sequence[Part], by_widths: Sequence[Part]) -> list[Part]:
        """Parts of a cost, over channel groups and over widths of heads: it grows in proportion to each.

        Args:
            parts: Over the channel groups of the program.
            by_widths: The same over `groups`.
        """
        if not self.widths:
            return list(parts)
        whole = {name: np.float64(len(group)) for name, group in self.groups.groups.items()}
        return [self._part(own, other, whole) for own, other in zip(parts, by_widths, strict=True)]

    def _part(self, own: Part, other: Part, whole: Mapping[str, ArrayLike]) -> Part:
        names = [name for name in other.groups if VARIABLE + name in self.widths]
        if not names:
            return own

        def over(counts: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
            narrow = other.over({**whole, **{name: counts[VARIABLE + name] for name in names}})
            return own.over(counts) * narrow / np.maximum(other.over(whole), 1)

        return Part((*own.groups, *(VARIABLE + name for name in names)), over, own.nodes)


def _whole_heads(groups: Groups, sides: tuple[Side, Side], what: str) -> bool:
    """Whether all dimensions of a head are of one unit of a channel group, or of none."""
    for side, dim in zip(sides, (0, 0 if what == "query-key" else 1), strict=True):
        ids = groups.units.get(Slot(side.weight, dim))
        if ids is not None and any(len(set(ids[rows].tolist())) > 1 for rows in side.rows):
            return False
    return True


def find_widths(
    program: Program, attentions: tuple[Attention, ...]
) -> tuple[Groups, tuple[Width, ...], dict[tuple[str, str], str]]:
    """Which widths can shrink, and why the others cannot.

    Args:
        program: The program.
        attentions: From `find_attentions`.

    Returns:
        The channel groups by widths; the widths; and per product that stays as it is the reason.
    """
    groups = find_groups(program, widths=True)
    by_group: dict[str, list[tuple[str, str]]] = {}
    why: dict[tuple[str, str], str] = {}
    for attention in attentions:
        for what in ("query-key", "value-output"):
            product = (attention.node, what)
            if what in attention.why_not:
                why[product] = attention.why_not[what]
                continue
            name = _group_of(groups, attention, what)
            if name is None:
                why[product] = "the graph ties its width to something else"
            else:
                by_group.setdefault(name, []).append(product)
    known = {attention.node: attention for attention in attentions}
    widths = []
    for name, products in by_group.items():
        sides = {side.weight for product in products for side in _sides(known[product[0]], product[1])}
        others = {s.tensor for s in (*groups.groups[name].writers, *groups.groups[name].readers)} - sides
        if others:
            words = f"its width is also that of {', '.join(sorted(others)[:3])}"
            why.update(dict.fromkeys(products, words))
            continue
        widths.append(Width(name, tuple(products), len(groups.groups[name])))
    return groups, tuple(widths), why


def _sides(attention: Attention, what: str) -> tuple[Side, Side]:
    pair = (attention.query, attention.key) if what == "query-key" else (attention.value, attention.output)
    one, other = pair
    assert one is not None
    assert other is not None
    return one, other


def _group_of(groups: Groups, attention: Attention, what: str) -> str | None:
    """The group whose units are the dimensions of the heads of a product, in their order; None if there is none."""
    one, other = _sides(attention, what)
    for name, group in groups.groups.items():
        slots = [Slot(one.weight, 0), Slot(other.weight, 0 if what == "query-key" else 1)]
        if all(slot in group.slots for slot in slots) and all(
            _are(group, slot, side.rows) for slot, side in zip(slots, (one, other), strict=True)
        ):
            return name
    return None


def _are(group: Group, slot: Slot, rows: Rows) -> bool:
    """Whether unit k holds at least the k-th dimension of every head."""
    if len(group) != rows.shape[1]:
        return False
    return all(set(rows[:, index].tolist()) <= set(np.asarray(own).tolist()) for index, own in
               enumerate(group.slots[slot]))  # fmt: skip


def narrowed(program: Program, widths: Mapping[str, int]) -> Program:
    """The program with narrower heads: the first dimensions of each head are those that it keeps.

    Args:
        program: The program; it is not changed.
        widths: New width by group of `find_widths`.

    Raises:
        GraphError: If there is no such width, or the graph cannot follow.
    """
    scaled = with_scales(program)
    groups = find_groups(scaled, widths=True)
    return compact(scaled, groups, kept_of(groups, widths))


def kept_of(groups: Groups, widths: Mapping[str, int]) -> Kept:
    """Masks that keep the first dimensions of each head."""
    return {name: np.arange(len(groups.groups[name])) < size for name, size in widths.items()}


def products(attentions: tuple[Attention, ...], width: Width) -> Iterator[tuple[Attention, str]]:
    """The attentions and products that share a width."""
    known = {attention.node: attention for attention in attentions}
    for node, what in width.products:
        yield known[node], what
