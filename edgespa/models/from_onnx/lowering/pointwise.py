"""Element-wise operators, reductions, and types."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from edgespa.models.from_onnx.lowering.place import Made, Place, Step

_BINARY: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div, "Pow": torch.pow}
)
_NEUTRAL: Mapping[str, float] = MappingProxyType({"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0, "Pow": 1.0})


def with_number(x: Tensor, function: Callable[..., Tensor], number: float) -> Tensor:
    """``function(x, number)``."""
    return function(x, number)


def from_number(x: Tensor, function: Callable[..., Tensor], number: float) -> Tensor:
    """``function(number, x)``."""
    return function(torch.full((), number, dtype=x.dtype), x) if function is torch.div else function(number, x)


def reversed_sub(number: float, x: Tensor) -> Tensor:
    """``number - x``."""
    return torch.rsub(x, number)


def whole_division(a: Tensor, b: Tensor) -> Tensor:
    """Of whole numbers, towards 0."""
    return torch.div(a, b, rounding_mode="trunc")


def binary(place: Place) -> Made:
    """Of two values, the smaller one broadcast; a single number is one in torch, too."""
    kind = place.node.op_type
    if place.attributes.get("broadcast", 0) and "axis" in place.attributes:
        raise place.refusal("broadcast along an axis, as before opset 7")
    function = _BINARY[kind]
    import onnx

    floating = place.dtype(place.inputs[0]) in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    if kind == "Div" and not floating:
        function = whole_division
    out = place.sizes(place.node.output[0])[0]
    for index, other in ((1, 0), (0, 1)):
        value = place.constant(index)
        if value is None or value.size != 1 or not floating or place.shape(other) != out:
            continue
        number = float(value.ravel()[0])
        if index == 1:
            if number == _NEUTRAL[kind]:
                return Made(None, place.inputs[:1])
            return Made(Step(with_number, function, number), place.inputs[:1])
        reverse = reversed_sub if kind == "Sub" else function
        if kind in ("Add", "Mul"):
            return Made(Step(with_number, function, number), place.inputs[1:])
        return Made(Step(from_number, reverse, number), place.inputs[1:])
    return Made(Step(function), place.inputs)


def several(place: Place) -> Made:
    """Sum, mean, least or largest of any number of values."""
    functions: dict[str, Callable[..., Any]] = {
        "Sum": operator.add, "Mean": operator.add, "Min": torch.minimum, "Max": torch.maximum,
    }  # fmt: skip
    divide = len(place.inputs) if place.node.op_type == "Mean" else 1
    if len(place.inputs) == 1:
        return Made(None, place.inputs)
    return Made(Step(folded, join=functions[place.node.op_type], divide=divide), place.inputs)


def folded(*tensors: Tensor, join: Callable[..., Tensor], divide: int) -> Tensor:
    """One after the other."""
    found = functools.reduce(join, tensors)
    return found / divide if divide != 1 else found


def clip(place: Place) -> Made:
    """Between bounds that are constants."""
    bounds: list[float | None] = []
    for index, name in ((1, "min"), (2, "max")):
        value = place.attributes.get(name)
        if place.has(index):
            given = place.constant(index)
            if given is None:
                raise place.refusal("its bounds depend on the inputs")
            value = given.ravel()[0]
        bounds.append(None if value is None or abs(float(value)) > _BEYOND else float(value))
    low, high = bounds
    if low is None and high is None:
        return Made(None, place.inputs[:1])
    if low == 0.0:
        return Made(
            nn.ReLU() if high is None else nn.ReLU6() if high == _SIX else nn.Hardtanh(0.0, high), place.inputs[:1]
        )
    return Made(Step(torch.clamp, min=low, max=high), place.inputs[:1])


_SIX, _BEYOND = 6.0, 3e38
_REDUCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin}
)


def reduction(place: Place) -> Made:
    """Over some dimensions; over none that are named, all."""
    kind, rank = place.node.op_type, len(place.shape())
    axes = place.numbers(1, "axes")
    if not axes and place.attributes.get("noop_with_empty_axes", 0):
        return Made(None, place.inputs[:1])
    over = tuple(sorted({axis % rank for axis in axes})) if axes else tuple(range(rank))
    keep = bool(place.attributes.get("keepdims", 1))
    if kind in _REDUCTIONS:
        return Made(Step(_REDUCTIONS[kind], over, keep), place.inputs[:1])
    if kind in ("ReduceL1", "ReduceL2"):
        return Made(Step(normed, 1.0 if kind == "ReduceL1" else 2.0, over, keep), place.inputs[:1])
    if kind == "ReduceSumSquare":
        return Made(Step(sum_of_squares, over, keep), place.inputs[:1])
    if kind == "ReduceLogSumExp":
        return Made(Step(torch.logsumexp, over, keep), place.inputs[:1])
    if kind == "ReduceProd" and len(over) == 1:
        return Made(Step(torch.prod, over[0], keep), place.inputs[:1])
    raise place.refusal(f"over {len(over)} dimensions")


def normed(x: Tensor, order: float, axes: tuple[int, ...], keep: bool) -> Tensor:
    """A norm over dimensions."""
    result: Tensor = torch.linalg.vector_norm(x, order, axes, keep)
    return result


def sum_of_squares(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    """Over dimensions."""
    return (x * x).sum(axes, keep)


def cast(place: Place) -> Made:
    """To another type; numbers with fractions stay what they are."""
    import onnx

    wanted = int(place.attributes["to"])
    if wanted == place.dtype(place.inputs[0]):
        return Made(None, place.inputs[:1])
    kind = getattr(torch, str(onnx.helper.tensor_dtype_to_np_dtype(wanted)), None)
    if kind is None:
        raise place.refusal(f"a type that torch does not have ({wanted})")
    return Made(Step(torch.Tensor.to, kind), place.inputs[:1])


def softmax(place: Place) -> Made:
    """Along an axis; before opset 13 over all dimensions from it on, taken as one."""
    shape = place.shape()
    axis = int(place.attributes.get("axis", -1 if place.opset >= _SOFTMAX_ALONG else 1)) % len(shape)
    kind = nn.LogSoftmax if place.node.op_type == "LogSoftmax" else nn.Softmax
    if place.opset < _SOFTMAX_ALONG and math.prod(shape[axis + 1 :]) != 1:
        return Made(Step(over_the_rest, kind(1), axis), place.inputs[:1])
    return Made(kind(axis), place.inputs[:1])


def over_the_rest(x: Tensor, function: nn.Module, axis: int) -> Tensor:
    """A function of rows on a tensor that is flattened from a dimension on."""
    result: Tensor = function(x.flatten(axis).flatten(0, axis - 1) if axis > 1 else x.flatten(axis)).reshape(x.shape)
    return result


_SOFTMAX_ALONG = 13


POINTWISE: Mapping[str, Callable[[Place], Made]] = MappingProxyType(
    {
        **dict.fromkeys(_BINARY, binary),
        **dict.fromkeys(("Sum", "Mean", "Min", "Max"), several),
        **dict.fromkeys(
            (*_REDUCTIONS, "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceProd"), reduction
        ),
        "Clip": clip,
        "Cast": cast,
        "Softmax": softmax,
        "LogSoftmax": softmax,
    }
)
