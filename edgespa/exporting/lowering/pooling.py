"""Maximum pooling with its padding in so many words, in zeros where that is the same.

TFLite's own pads with minus infinity in an operator that XNNPACK does not take, and of an activation with infinities in
it there is no int8. Behind a ReLU, zeros do as well. litert-torch 0.8 drops ``ceil_mode`` where there is no padding.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from edgespa.graph.program import Program, settle

aten = torch.ops.aten
_DIMENSIONS = {aten.max_pool1d.default: 1, aten.max_pool2d.default: 2}
_NEVER_NEGATIVE = {
    *(aten.relu.default, aten.relu_.default, aten.relu6.default, aten.sigmoid.default, aten.hardsigmoid.default),
    *(aten.softmax.int, aten.abs.default, aten.exp.default, aten.square.default, aten.softplus.default),
}
# Not negative if none of what they take is.
_AS_THEIR_INPUTS = {
    *(aten.max_pool1d.default, aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default),
    *(aten.cat.default, aten.add.Tensor, aten.mul.Tensor, aten.dropout.default, aten.clone.default),
    *(aten.slice.Tensor, aten.permute.default, aten.view.default, aten.reshape.default, aten.contiguous.default),
}


def plain_pooling(program: Program) -> Program:
    """A program whose maximum pooling has neither padding nor ``ceil_mode`` where constants can stand for them.

    Args:
        program: Not changed. Padding of what may be negative is left as it is.
    """
    result = program.copy()
    changed = [_rewrite(result, node) for node in list(result.graph.nodes) if node.target in _DIMENSIONS]
    if any(changed):
        settle(result)
    return result


def _rewrite(program: Program, node: fx.Node) -> bool:
    dimensions = _DIMENSIONS[node.target]  # type: ignore[index]
    given: list[Any] = [*node.args[1:], *[None] * (6 - len(node.args))]
    kernel, stride, padding, dilation, ceil = given
    kernel = _each(kernel, dimensions, [1])
    stride = _each(stride, dimensions, kernel)
    padding, dilation = _each(padding, dimensions, [0]), _each(dilation, dimensions, [1])
    zeros = _is_never_negative(node.args[0])
    if not (ceil or (any(padding) and zeros)):
        return False
    before, after = node.args[0].meta["val"].shape, node.meta["val"].shape  # type: ignore[union-attr]
    amounts: list[int] = []
    for side in reversed(range(dimensions)):  # the last dimension comes first
        at = side - dimensions
        end = (int(after[at]) - 1) * stride[side] + dilation[side] * (kernel[side] - 1) + 1
        amounts += [padding[side], max(0, end - int(before[at]) - padding[side])]
    value: Any = node.args[0]
    with program.graph.inserting_before(node):
        if any(amounts):
            padded = (value, amounts, 0.0 if zeros else -math.inf)
            value = program.graph.call_function(aten.constant_pad_nd.default, padded)
    node.args = (value, kernel, stride, [0] * dimensions, dilation, False)
    return True


def _each(value: Any, dimensions: int, usual: list[int]) -> list[int]:
    numbers = [value] if isinstance(value, int) else list(value or usual)
    return numbers * dimensions if len(numbers) == 1 else numbers


def _is_never_negative(value: Any) -> bool:
    if not isinstance(value, fx.Node):
        return isinstance(value, int | float) and value >= 0
    if value.target in (aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default):
        least = value.args[1] if len(value.args) > 1 else None
        return isinstance(least, int | float) and least >= 0
    if value.target in _NEVER_NEGATIVE:
        return True
    if value.target is aten.constant_pad_nd.default:
        return all(map(_is_never_negative, (value.args[0], *value.args[2:])))
    if value.target not in _AS_THEIR_INPUTS:
        return False
    first: Any = value.args[0]
    taken = first if isinstance(first, list | tuple) else [first]
    if value.target in (aten.add.Tensor, aten.mul.Tensor):
        taken = value.args[:2] if not value.kwargs else [None]
    return all(map(_is_never_negative, taken))
