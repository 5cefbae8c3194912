"""Queries, keys and values as slices of what projects them, not as a tensor of five dimensions, which ncnn has not."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgespa.exporting.lowering.nodes import rank
from edgespa.graph.program import Program, settle

aten = torch.ops.aten
_RESHAPES = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_PARTS_FIRST = [2, 0, 3, 1, 4]


def plain_projections(program: Program) -> Program:
    """A program whose projections [N, L, parts * heads * E] are cut into parts before they are divided into heads.

    Args:
        program: Not changed.
    """
    result = program.copy()
    graph = result.graph
    changed = False
    for node in list(graph.nodes):
        if node.target is aten.permute.default and list(node.args[1]) == _PARTS_FIRST:
            changed |= _rewrite(graph, node)
    if changed:
        settle(result)
    return result


def _rewrite(graph: fx.Graph, turned: fx.Node) -> bool:
    divided: Any = turned.args[0]
    wanted = _parts(turned)
    if divided.target not in _RESHAPES or rank(divided.args[0]) != 3 or wanted is None:
        return False
    whole: Any = divided.args[0]
    batch, length = divided.args[1][:2]
    sizes = divided.meta["val"].shape[2:]
    if not all(isinstance(each, int) and each > 0 for each in sizes):
        return False
    parts, heads, width = sizes
    with graph.inserting_before(turned):
        for node, part in wanted:
            first = part % parts * heads * width
            own: Any = graph.call_function(aten.slice.Tensor, (whole, 2, first, first + heads * width))
            own = graph.call_function(aten.reshape.default, (own, [batch, length, heads, width]))
            node.replace_all_uses_with(graph.call_function(aten.permute.default, (own, [0, 2, 1, 3])))
    for node, _ in wanted:
        graph.erase_node(node)
    for user in list(turned.users):  # what gave the parts
        graph.erase_node(user)
    graph.erase_node(turned)
    if not divided.users:
        graph.erase_node(divided)
    return True


def _parts(turned: fx.Node) -> list[tuple[fx.Node, int]] | None:
    """Each node that is one part, with its number; None if something else is made of them."""
    found: list[tuple[fx.Node, Any]] = []
    for user in turned.users:
        if user.target is aten.unbind.int and (len(user.args) == 1 or user.args[1] == 0):
            found += [(each, each.args[1]) for each in user.users]
        elif user.target is aten.select.int and user.args[1] == 0:
            found.append((user, user.args[2]))
        else:
            return None
    return found
