"""Widths of heads that can shrink, and programs with narrower ones: units are dimensions that all heads have."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from edgespa.graph.groups import Group, Groups, Kept, Slot, find_groups
from edgespa.graph.heads import ATTENTION, Attention, Rows, Side
from edgespa.graph.program import Program, refresh, shape_of
from edgespa.graph.rules.registry import named_arguments, operator_name
from edgespa.graph.surgery import compact


def with_scales(program: Program) -> Program:
    """The program whose attention says the scale that it has: one over the root of the width of its heads as it is."""
    result = program.copy()
    for node in result.graph.nodes:
        if operator_name(node) == ATTENTION and named_arguments(node).get("scale") is None:
            width = shape_of(named_arguments(node)["query"].meta["val"])[-1]
            node.kwargs = {**node.kwargs, "scale": width**-0.5}
    result.graph.lint()
    result.module.recompile()
    refresh(result.module)
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
