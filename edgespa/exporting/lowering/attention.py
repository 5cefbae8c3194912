"""Attention without a dimension of heads, which torch.onnx does not know."""

from __future__ import annotations

from typing import Any

import torch

from edgespa.exporting.lowering.nodes import rank
from edgespa.graph.program import Program, settle

aten = torch.ops.aten


def with_heads(program: Program) -> Program:
    """A program whose attention is over [N, heads, L, E], with one head where there was no such dimension.

    Args:
        program: Not changed.
    """
    result = program.copy()
    graph = result.graph
    changed = False
    for node in list(graph.nodes):
        if node.target is not aten.scaled_dot_product_attention.default or rank(node.args[0]) != 3:
            continue
        with graph.inserting_before(node):
            taken = [
                graph.call_function(aten.unsqueeze.default, (each, 1)) if rank(each) == 3 else each
                for each in node.args[:4]
            ]
            whole = graph.call_function(node.target, (*taken, *node.args[4:]), node.kwargs)
            one: Any = graph.call_function(aten.squeeze.dim, (whole, 1))
        node.replace_all_uses_with(one)
        graph.erase_node(node)
        changed = True
    if changed:
        settle(result)
    return result
