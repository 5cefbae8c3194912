"""Transposed convolutions as TFLite knows them: without dilation, and with its own two kinds of padding only.

litert-torch 0.8 refuses most others, and converts some wrongly: of a 4 x 4 kernel with stride 2, padding 1 and
output_padding 1 came a file with a relative error of 0.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from edgespa.exporting.lowering.nodes import attribute, free_name
from edgespa.graph.program import Program, assign, drop_unread, fetch, settle

aten = torch.ops.aten
_DIMENSIONS = {aten.conv_transpose1d.default: 1, aten.conv_transpose2d.input: 2}


class _Transposed(NamedTuple):
    """The arguments of one, with a number for each of two spatial dimensions."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    dilation: tuple[int, ...]

    def is_known(self, kernel: Sequence[int]) -> bool:
        """Whether it is converted rightly as it is: all sides "valid", all "same", or all a usual convolution."""
        if any(self.output_padding) or any(each != 1 for each in self.dilation):
            return False
        sides = list(zip(kernel, self.stride, self.padding, strict=True))
        valid = all(padding == 0 for _, _, padding in sides)
        same = all(size - stride == 2 * padding for size, stride, padding in sides)
        usual = all(stride == 1 and padding < size for size, stride, padding in sides)
        return valid or same or usual


def plain_upsampling(program: Program) -> Program:
    """A program whose transposed convolutions are padding-free ones, of which the edges are sliced off.

    Padding only drops what lies at the edges of the whole result, and output padding drops less at the far ones; where
    it asks for more than there is, zeros behind the kernel make that. A dilated kernel is one with zeros in between. In
    one dimension it is one over images of height 1.

    Args:
        program: Not changed. Those in three dimensions, and of weights that are computed, are left as they are.
    """
    result = program.copy()
    changed = [
        _rewrite(result, node)
        for node in list(result.graph.nodes)
        if node.target in _DIMENSIONS and attribute(node.args[1])
    ]
    if any(changed):
        drop_unread(result.module)
        settle(result)
    return result


def _rewrite(program: Program, node: fx.Node) -> bool:
    flat = _DIMENSIONS[node.target] == 1  # type: ignore[index]
    how = _arguments(node, flat)
    name = attribute(node.args[1])
    weight = fetch(program.module, name).detach()
    if flat:
        weight = weight.unsqueeze(2)
    if how.is_known(weight.shape[2:]):
        return False
    beyond = [max(0, more - cut) for more, cut in zip(how.output_padding, how.padding, strict=True)]
    weight = _spread(weight, how.dilation, beyond)
    new = free_name(program, f"{name}_spread")
    assign(program.module, new, weight.contiguous())
    graph = program.graph
    with graph.inserting_before(node):
        value: Any = node.args[0]
        if flat:
            value = graph.call_function(aten.unsqueeze.default, (value, 2))
        bias = node.args[2] if len(node.args) > 2 else None
        whole = (value, graph.get_attr(new), bias, list(how.stride), [0, 0], [0, 0], how.groups, [1, 1])
        value = graph.call_function(aten.conv_transpose2d.input, whole)
        for side, cut in enumerate(how.padding):
            if cut:
                size = int(node.meta["val"].shape[side + 2 - flat])
                value = graph.call_function(aten.slice.Tensor, (value, side + 2, cut, cut + size))
        if flat:
            value = graph.call_function(aten.squeeze.dim, (value, 2))
    node.replace_all_uses_with(value)
    graph.erase_node(node)
    return True


def _arguments(node: fx.Node, flat: bool) -> _Transposed:
    given: list[Any] = [*node.args[3:], *[None] * (8 - len(node.args))]
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    found = [node.kwargs.get(name, value) for name, value in zip(names, given, strict=True)]
    stride, padding, output_padding, groups, dilation = found

    def both(value: Any, usual: int) -> tuple[int, ...]:
        numbers = [usual] if value is None else [value] if isinstance(value, int) else list(value)
        return (usual, *numbers) if flat else (*numbers, *numbers)[:2]

    return _Transposed(both(stride, 1), both(padding, 0), both(output_padding, 0), groups or 1, both(dilation, 1))


def _spread(weight: Tensor, dilation: Sequence[int], beyond: Sequence[int]) -> Tensor:
    """Zeros between the rows and columns of kernels, and behind them.

    Args:
        weight: [C_in, C_out / groups, kH, kW].
        dilation: Distance between neighbours.
        beyond: Rows and columns more.
    """
    sizes = [step * (size - 1) + 1 + more for size, step, more in zip(weight.shape[2:], dilation, beyond, strict=True)]
    result = weight.new_zeros((*weight.shape[:2], *sizes))
    rows, columns = (step * (size - 1) + 1 for size, step in zip(weight.shape[2:], dilation, strict=True))
    result[:, :, : rows : dilation[0], : columns : dilation[1]] = weight
    return result
