"""Resizing that litert-torch refuses or gets wrong, in operators that it knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgespa.exporting.lowering.nodes import free_name, rank
from edgespa.graph.program import Program, assign, settle

aten = torch.ops.aten
_NEAREST = {aten.upsample_nearest2d.vec, aten._upsample_nearest_exact2d.vec}
_SMOOTH = {aten._upsample_bilinear2d_aa.vec, aten._upsample_bicubic2d_aa.vec}
_SPATIAL = (2, 3)


def plain_resizing(program: Program) -> Program:
    """A program without resizing to the nearest by a ratio that is no whole number, and without antialiasing.

    The nearest rows and columns are chosen by their numbers. With antialiasing, rows and columns are sums of others:
    two products with matrices.

    Args:
        program: Not changed.
    """
    result = program.copy()
    changed = [_rewrite(result, node) for node in list(result.graph.nodes) if node.target in _NEAREST | _SMOOTH]
    if any(changed):
        settle(result)
    return result


def _rewrite(program: Program, node: fx.Node) -> bool:
    value: Any = node.args[0]
    sizes = [
        tuple(int(each.meta["val"].shape[dim]) for each in (value, node))
        for dim in _SPATIAL
        if rank(value) == rank(node) == 4
    ]
    nearest = node.target in _NEAREST
    if not sizes or (nearest and all(after % before == 0 for before, after in sizes)):
        return False
    graph = program.graph
    with graph.inserting_before(node):
        for dim, (before, _) in zip(_SPATIAL, sizes, strict=True):
            if nearest:
                numbers = _along(node, torch.arange(before, dtype=torch.float32), dim).round().long()
                value = graph.call_function(
                    aten.index_select.default, (value, dim, _constant(program, node, dim, numbers))
                )
                continue
            matrix = _along(node, torch.eye(before), dim)  # a row for each of the old ones
            if dim == 3:
                value = graph.call_function(aten.matmul.default, (value, _constant(program, node, dim, matrix)))
            else:
                value = graph.call_function(aten.matmul.default, (_constant(program, node, dim, matrix.T), value))
    node.replace_all_uses_with(value)
    graph.erase_node(node)
    return True


def _along(node: fx.Node, values: Tensor, dim: int) -> Tensor:
    """What the operator makes of values along one dimension.

    Args:
        node: The operator.
        values: [..., size].
        dim: Which of its dimensions that is.
    """
    size = int(node.meta["val"].shape[dim])
    # The other dimension keeps its size of 2: with a width of 1, torch 2.13 antialiases heights wrongly.
    rows = values.reshape(1, -1, 1, values.shape[-1]).expand(-1, -1, 2, -1)
    scales: Any = node.args[-1]
    scales = None if scales is None else [1.0, scales[1]] if dim == 3 else [scales[0], 1.0]
    target = None if scales else [2, size] if dim == 3 else [size, 2]
    turned = rows if dim == 3 else rows.transpose(2, 3)
    result: Tensor = node.target(turned.contiguous(), target, *node.args[2:-1], scales)  # type: ignore[operator]
    return (result if dim == 3 else result.transpose(2, 3))[:, :, 0].reshape(*values.shape[:-1], -1)


def _constant(program: Program, node: fx.Node, dim: int, values: Tensor) -> fx.Node:
    name = free_name(program, f"{node.name}_{'rows' if dim == 2 else 'columns'}")
    assign(program.module, name, values.contiguous())
    return program.graph.get_attr(name)
