"""Pooling that converters refuse or get wrong: the largest of adaptive windows, means with a divisor of their own."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from edgespa.graph.program import Program, settle

aten = torch.ops.aten
_ADAPTIVE = {aten.adaptive_max_pool1d.default: 1, aten.adaptive_max_pool2d.default: 2}
_DIVISOR = 6


def plain_windows(program: Program) -> Program:
    """A program with pooling over windows of one size, or over slices, and with no divisor but the size of the window.

    Args:
        program: Not changed. Where the places of the largest are read, it is left as it is.
    """
    result = program.copy()
    changed = False
    for node in list(result.graph.nodes):
        if node.target in _ADAPTIVE:
            changed |= _largest(result.graph, node, _ADAPTIVE[node.target])
        elif node.target is aten.avg_pool2d.default:
            changed |= _mean(result.graph, node)
    if changed:
        result.graph.eliminate_dead_code()
        settle(result)
    return result


def _largest(graph: fx.Graph, node: fx.Node, dimensions: int) -> bool:
    values = [user for user in node.users if user.target is operator.getitem and user.args[1] == 0]
    if any(user not in values and user.users for user in node.users):
        return False
    value: Any = node.args[0]
    before = [int(size) for size in value.meta["val"].shape[-dimensions:]]
    after = [int(size) for size in node.meta["val"][0].shape[-dimensions:]]
    with graph.inserting_before(node):
        if all(old % new == 0 for old, new in zip(before, after, strict=True)):
            pool = aten.max_pool1d.default if dimensions == 1 else aten.max_pool2d.default
            sizes = [old // new for old, new in zip(before, after, strict=True)]
            value = graph.call_function(pool, (value, sizes, sizes))
        else:
            for dim, old, new in zip(range(-dimensions, 0), before, after, strict=True):
                value = _along(graph, value, dim, old, new)
    for user in values:
        user.replace_all_uses_with(value)
    return True


def _along(graph: fx.Graph, value: Any, dim: int, before: int, after: int) -> fx.Node:
    """The largest of each window along one dimension: floor(i * before / after) to ceil((i + 1) * before / after)."""
    parts = []
    for index in range(after):
        first, end = index * before // after, math.ceil((index + 1) * before / after)
        window = graph.call_function(aten.slice.Tensor, (value, dim, first, end))
        parts.append(graph.call_function(aten.amax.default, (window, [dim], True)))
    return graph.call_function(aten.cat.default, (parts, dim))


def _mean(graph: fx.Graph, node: fx.Node) -> bool:
    divisor: Any = node.args[_DIVISOR] if len(node.args) > _DIVISOR else None
    given: Any = node.args[1:_DIVISOR]
    if not divisor or given[3]:  # with ceil_mode, windows are of several sizes
        return False
    kernel, stride, padding, _, _ = given
    size = math.prod(kernel) if len(kernel) == 2 else kernel[0] ** 2
    with graph.inserting_after(node):
        scaled = graph.call_function(aten.mul.Tensor, (node, size / divisor))
    node.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)
    node.args = (node.args[0], kernel, stride, padding, False, True)
    return True
