"""Every n-th row and column, as a pooling over windows of one value: ncnn has no slices with a step."""

from __future__ import annotations

from typing import Any

import torch

from edgespa.exporting.lowering.nodes import rank
from edgespa.graph.program import Program, settle

aten = torch.ops.aten
_USUAL = (0, None, None, 1)  # dimension, start, end, step


def plain_strides(program: Program) -> Program:
    """A program that takes every n-th row or column of maps [N, C, H, W] by a maximum over one value.

    Args:
        program: Not changed.
    """
    result = program.copy()
    graph = result.graph
    changed = False
    for node in list(graph.nodes):
        if node.target is not aten.slice.Tensor or rank(node.args[0]) != 4:
            continue
        arguments: Any = (*node.args, *_USUAL[len(node.args) - 1 :])
        value, dim, start, end, step = arguments
        if step == 1 or dim % 4 < 2:
            continue
        steps = [step if dim % 4 == each else 1 for each in (2, 3)]
        with graph.inserting_before(node):
            if start or (end is not None and end < value.meta["val"].shape[dim]):
                value = graph.call_function(aten.slice.Tensor, (value, dim, start, end))
            value = graph.call_function(aten.max_pool2d.default, (value, [1, 1], steps))
        value.meta = dict(node.meta)  # the next slice asks for its sizes
        node.replace_all_uses_with(value)
        graph.erase_node(node)
        changed = True
    if changed:
        settle(result)
    return result
