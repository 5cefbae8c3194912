"""Images that are repeated, as concatenations: of a repeat litert-torch 0.8 swaps height and width, channels last."""

from __future__ import annotations

from typing import Any

import torch

from edgespa.exporting.lowering.nodes import rank
from edgespa.graph.program import Program, settle

aten = torch.ops.aten


def plain_repeats(program: Program) -> Program:
    """A program that repeats no images [N, C, H, W] along their dimensions, but joins them with themselves.

    Args:
        program: Not changed.
    """
    result = program.copy()
    graph = result.graph
    changed = False
    for node in list(graph.nodes):
        if node.target is not aten.repeat.default or rank(node.args[0]) != 4:
            continue
        counts: Any = node.args[1]
        if len(counts) != 4 or not all(isinstance(count, int) and count > 0 for count in counts):
            continue
        value: Any = node.args[0]
        with graph.inserting_before(node):
            for dim, count in enumerate(counts):
                if count > 1:
                    value = graph.call_function(aten.cat.default, ([value] * count, dim))
        node.replace_all_uses_with(value)
        graph.erase_node(node)
        changed = True
    if changed:
        settle(result)
    return result
