"""Images turned to channels last where they end, so that no transpositions are left to convert."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgespa.exporting.lowering.nodes import attribute, rank
from edgespa.graph.program import Program, assign, drop_unread, fetch

aten = torch.ops.aten
_SPATIAL = (2, 3)
_REDUCTIONS = {aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default}


def channels_last(program: Program) -> Program:
    """A program that a converter can turn to NHWC without transpositions at its spatial reductions and flattenings.

    Where images end, they are turned to channels last in so many words, which cancels what the converter would insert:

    - a mean, sum, maximum or minimum over exactly height and width;
    - what is flattened into linear layers is flattened in the order (H, W, C), with the columns of the layers' weights
      in that order too.

    Args:
        program: Not changed. Only with the batch first; other graphs are left as they are.
    """
    result = program.copy()
    for node in list(result.graph.nodes):
        if node.op == "call_function" and not node._erased:
            _reduce_last(result, node)
            _flatten_last(result, node)
    result.graph.lint()
    result.module.recompile()
    drop_unread(result.module)
    return result


def _reduce_last(program: Program, node: fx.Node) -> None:
    """``mean(x, (2, 3))`` -> ``mean(permute(x, (0, 2, 3, 1)), (1, 2))``; so a flattened pooling to 1 x 1."""
    pooled = node.target is aten.adaptive_avg_pool2d.default
    if not (pooled or node.target in _REDUCTIONS) or len(node.args) < 2 or rank(node.args[0]) != 4 or node.kwargs:
        return
    dims: Any = node.args[1] if isinstance(node.args[1], list | tuple) else [node.args[1]]
    ends = [node]
    if pooled:
        ends = list(node.users)
        if list(dims) not in ([1], [1, 1]) or not ends or not all(_flattens(user) for user in ends):
            return
    elif tuple(sorted(int(dim) % 4 for dim in dims)) != _SPATIAL or any(node.args[2:]):
        return
    operator = aten.mean.dim if pooled else node.target
    with program.graph.inserting_before(node):
        turned = program.graph.call_function(aten.permute.default, (node.args[0], [0, 2, 3, 1]))
        reduced = program.graph.call_function(operator, (turned, [1, 2]))  # type: ignore[arg-type]
    for end in ends:
        end.replace_all_uses_with(reduced)
        program.graph.erase_node(end)
    if pooled:
        program.graph.erase_node(node)


def _flatten_last(program: Program, node: fx.Node) -> None:
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or rank(source) != 4 or not _flattens(node):
        return
    channels, height, width = (size for size in source.meta["val"].shape[1:])
    linears = _consumers(node)
    if not linears or not all(isinstance(size, int) for size in (channels, height, width)) or height * width == 1:
        return
    order = torch.arange(channels * height * width).reshape(channels, height, width).permute(1, 2, 0).flatten()
    for linear in linears:
        target = attribute(linear.args[1])
        weight, name = fetch(program.module, target), f"{target}_channels_last"
        assign(program.module, name, weight.detach()[:, order].contiguous())
        with program.graph.inserting_before(linear):
            column = program.graph.get_attr(name)
        linear.args = (linear.args[0], column, *linear.args[2:])
    with program.graph.inserting_before(node):
        turned = program.graph.call_function(aten.permute.default, (source, [0, 2, 3, 1]))
    node.args = (turned, *node.args[1:])


def _flattens(node: fx.Node) -> bool:
    """Whether a node makes [N, C*H*W] of [N, C, H, W]."""
    if node.target is aten.flatten.using_ints:
        return tuple(node.args[1:]) in ((1,), (1, -1), (1, 3))
    if node.target not in (aten.view.default, aten.reshape.default):
        return False
    source, value = node.args[0].meta["val"], node.meta["val"]  # type: ignore[union-attr]
    return value.dim() == 2 and str(value.shape[0]) == str(source.shape[0])


# What does the same to each element, in whatever order they come.
_ELEMENTWISE = {aten.dropout.default, aten.relu.default, aten.clone.default, aten.contiguous.default}


def _consumers(node: fx.Node) -> list[fx.Node]:
    """The linear layers that a flattened value ends in, all of them; empty if it goes anywhere else."""
    found: list[fx.Node] = []
    for user in node.users:
        if user.target in _ELEMENTWISE:
            inner = _consumers(user)
            if not inner:
                return []
            found += inner
        elif user.target is aten.linear.default and user.args[0] is node and attribute(user.args[1]):
            found.append(user)
        else:
            return []
    return found
