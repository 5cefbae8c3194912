"""Layers with weights of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgespa.models.from_onnx.fusing import LAYER_NORM
from edgespa.models.from_onnx.fusing import LINEAR as LINEAR
from edgespa.models.from_onnx.lowering.place import Array, Made, Place, Step, layer, spatial
from edgespa.models.from_onnx.lowering.windows import pads_of

_CONVOLUTIONS: Mapping[tuple[str, int], Any] = MappingProxyType(
    {
        ("Conv", 1): nn.Conv1d,
        ("Conv", 2): nn.Conv2d,
        ("Conv", 3): nn.Conv3d,
        ("ConvTranspose", 1): nn.ConvTranspose1d,
        ("ConvTranspose", 2): nn.ConvTranspose2d,
        ("ConvTranspose", 3): nn.ConvTranspose3d,
    }
)


class PaddedFirst(nn.Module):
    """A layer on an input that is padded unevenly.

    Args:
        pads: As `torch.nn.functional.pad` takes them.
        value: Of what is put around.
        inner: The layer.
    """

    def __init__(self, pads: tuple[int, ...], value: float, inner: nn.Module) -> None:
        super().__init__()
        self.pads, self.value, self.inner = pads, value, inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pad, then run the layer."""
        result: torch.Tensor = self.inner(F.pad(x, self.pads, value=self.value))
        return result


def weight_of(place: Place, index: int, what: str = "weight") -> Array:
    """A constant that a layer cannot be without.

    Raises:
        ModelError: An input of the network reaches it.
    """
    value = place.constant(index)
    if value is None:
        raise place.refusal(f"its {what} is computed from an input")
    return value


def convolution(place: Place) -> Made:
    """Convolution, of any groups, strides and padding, and its transpose."""
    weight = weight_of(place, 1)
    bias = weight_of(place, 2, "bias") if place.has(2) else None
    rank = weight.ndim - 2
    kind = _CONVOLUTIONS.get((place.node.op_type, rank))
    if kind is None or spatial(place) != rank:
        raise place.refusal(f"over {rank} dimensions")
    values = place.attributes
    stride, dilation = (tuple(values.get(name, (1,) * rank)) for name in ("strides", "dilations"))
    groups = int(values.get("group", 1))
    kernel = tuple(weight.shape[2:])
    transposed = place.node.op_type == "ConvTranspose"
    common: dict[str, Any] = {
        "kernel_size": kernel, "stride": stride, "dilation": dilation, "groups": groups, "bias": bias is not None,
        "device": "meta",
    }  # fmt: skip
    if transposed:
        more = tuple(values.get("output_padding", (0,) * rank))
        begins, ends = _transposed_pads(place, kernel, stride, dilation, more)
        channels = (weight.shape[0], weight.shape[1] * groups)
        common["output_padding"] = tuple(
            extra + begin - end for extra, begin, end in zip(more, begins, ends, strict=True)
        )
        ends = begins
    else:
        begins, ends = pads_of(place, kernel, stride, dilation)
        channels = (weight.shape[1] * groups, weight.shape[0])
    if place.shape()[1] != channels[0] or weight.shape[0] % groups:
        raise place.refusal(f"weights for {channels[0]} channels, and {place.shape()[1]} come in")
    even = begins == ends
    made = layer(kind(*channels, padding=begins if even else 0, **common), weight=weight, bias=bias)
    if not even:
        pads = tuple(size for pair in reversed(list(zip(begins, ends, strict=True))) for size in pair)
        made = PaddedFirst(pads, 0.0, made)
    return Made(made, place.inputs[:1], place.inputs[1], ("conv", place.inputs[1:], stride, dilation, begins, ends))


def _transposed_pads(
    place: Place, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], more: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is cut off at both ends; torch cuts off as much at both, and puts to the end what is wanted there."""
    values = place.attributes
    rank = len(kernel)
    pads = tuple(values.get("pads", (0,) * 2 * rank))
    mode = place.text("auto_pad", "NOTSET")
    if "output_shape" in values or mode.startswith("SAME"):
        wanted = place.sizes(place.node.output[0])[0][2:]
        whole = [
            stride[axis] * (place.shape()[2 + axis] - 1) + more[axis] + (kernel[axis] - 1) * dilation[axis] + 1
            for axis in range(rank)
        ]
        total = [full - size for full, size in zip(whole, wanted, strict=True)]
        upper = mode == "SAME_UPPER"
        begins = [each // 2 if upper or each % 2 == 0 else each - each // 2 for each in total]
        pads = (*begins, *(each - begin for each, begin in zip(total, begins, strict=True)))
    begins_, ends = tuple(map(int, pads[:rank])), tuple(map(int, pads[rank:]))
    for begin, end, extra, step in zip(begins_, ends, more, stride, strict=True):
        if not 0 <= extra + begin - end < max(step, max(dilation)) or begin < 0:
            raise place.refusal("it cuts off more at its end than at its beginning")
    return begins_, ends


def linear(place: Place) -> Made:
    """``x @ weight + bias``, from ``MatMul`` and ``Add``."""
    weight = weight_of(place, 1)
    bias = weight_of(place, 2, "bias").ravel() if place.has(2) else None
    return _linear(place, weight.T, bias)


def _linear(place: Place, weight: Array, bias: Array | None) -> Made:
    if place.shape()[-1] != weight.shape[1]:
        raise place.refusal(f"weights for {weight.shape[1]} values, and {place.shape()[-1]} come in")
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    key = ("linear", place.inputs[1:], tuple(weight.shape))
    return Made(layer(made, weight=weight, bias=bias), place.inputs[:1], place.inputs[1], key)


def gemm(place: Place) -> Made:
    """``alpha * a @ b + beta * c``: a linear layer where ``b`` and ``c`` are weights."""
    values = place.attributes
    alpha, beta = float(values.get("alpha", 1.0)), float(values.get("beta", 1.0))
    turned = bool(values.get("transA", 0)), bool(values.get("transB", 0))
    weight = place.constant(1)
    bias = place.constant(2) if place.has(2) else None
    flat = bias is None or bias.size in (1, bias.shape[-1] if bias.ndim else 1)
    if weight is not None and not turned[0] and (bias is not None or not place.has(2)) and flat:
        matrix = weight if turned[1] else weight.T
        if bias is not None:
            bias = np.broadcast_to(beta * bias.ravel(), matrix.shape[:1]).astype(weight.dtype)
        return _linear(place, (alpha * matrix).astype(weight.dtype) if alpha != 1.0 else matrix, bias)
    return Made(Step(product, alpha, beta, *turned), place.inputs)


def product(
    a: torch.Tensor, b: torch.Tensor, *rest: Any,
) -> torch.Tensor:  # fmt: skip
    """``alpha * a @ b + beta * c``, each turned around first where that is said."""
    *given, alpha, beta, turn_a, turn_b = rest
    found = alpha * ((a.t() if turn_a else a) @ (b.t() if turn_b else b))
    result: torch.Tensor = found + beta * given[0] if given else found
    return result


def matmul(place: Place) -> Made:
    """A product of two values."""
    return Made(Step(torch.matmul), place.inputs)


def batch_norm(place: Place) -> Made:
    """Batch normalisation by stored statistics."""
    if place.attributes.get("training_mode", 0):
        raise place.refusal("it is in training mode", "export the model in evaluation mode: model.eval()")
    weight, bias, mean, variance = (
        weight_of(place, index, what) for index, what in enumerate(("scale", "bias", "mean", "variance"), 1)
    )
    kind = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}.get(spatial(place))
    if kind is None:
        raise place.refusal(f"over {spatial(place)} dimensions")
    made = kind(len(weight), eps=float(place.attributes.get("epsilon", 1e-5)), device="meta")
    made.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    tensors = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}
    return Made(layer(made, **tensors), place.inputs[:1], place.inputs[1], ("norm", place.inputs[1:]))


def instance_norm(place: Place) -> Made:
    """Normalisation of each channel of each sample."""
    weight, bias = weight_of(place, 1, "scale"), weight_of(place, 2, "bias")
    kind: Any = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}.get(spatial(place))
    if kind is None:
        raise place.refusal(f"over {spatial(place)} dimensions")
    made = kind(len(weight), eps=float(place.attributes.get("epsilon", 1e-5)), affine=True, device="meta")
    return Made(layer(made, weight=weight, bias=bias), place.inputs[:1], place.inputs[1], ("norm", place.inputs[1:]))


def group_norm(place: Place) -> Made:
    """Normalisation over groups of channels; before opset 21 its weights were by group."""
    weight, bias = weight_of(place, 1, "scale"), weight_of(place, 2, "bias")
    groups, channels = int(place.attributes["num_groups"]), place.shape()[1]
    if len(weight) != channels:
        weight, bias = (np.repeat(each, channels // groups) for each in (weight, bias))
    made = nn.GroupNorm(groups, channels, eps=float(place.attributes.get("epsilon", 1e-5)), device="meta")
    return Made(layer(made, weight=weight, bias=bias), place.inputs[:1], place.inputs[1], ("norm", place.inputs[1:]))


def layer_norm(place: Place) -> Made:
    """Normalisation over the last dimensions."""
    shape = place.shape()
    if place.node.op_type == LAYER_NORM:
        count = int(place.attributes["last"])
    else:
        count = len(shape) - int(place.attributes.get("axis", -1)) % len(shape)
        if any(place.node.output[1:]):
            raise place.refusal("its mean or its deviation is read, too")
    sizes = shape[len(shape) - count :]
    weight = np.broadcast_to(weight_of(place, 1, "scale"), sizes) if place.has(1) else None
    bias = np.broadcast_to(weight_of(place, 2, "bias"), sizes) if place.has(2) else None
    epsilon = float(place.attributes.get("epsilon", 1e-5))
    made = nn.LayerNorm(list(sizes), eps=epsilon, elementwise_affine=weight is not None, device="meta")
    named = layer(made, weight=weight, bias=bias) if weight is not None else made
    return Made(named, place.inputs[:1], place.inputs[1] if weight is not None else "", ("norm", place.inputs[1:]))


def prelu(place: Place) -> Made:
    """A slope below 0, one or one for each channel."""
    slope = place.constant(1)
    channels = place.shape()[1] if len(place.shape()) > 1 else 1
    by_channel = slope is not None and (slope.size == 1 or slope.shape == (channels, *(1,) * spatial(place)))
    if slope is None or not by_channel:
        return Made(Step(sloped), place.inputs)
    made = nn.PReLU(slope.size, device="meta")
    return Made(layer(made, weight=slope.ravel()), place.inputs[:1], place.inputs[1], ("prelu", place.inputs[1:]))


def sloped(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """``x`` above 0, ``slope * x`` below."""
    return torch.where(x < 0, slope * x, x)


WEIGHTED: Mapping[str, Callable[[Place], Made]] = MappingProxyType(
    {
        "Conv": convolution,
        "ConvTranspose": convolution,
        LINEAR: linear,
        "Gemm": gemm,
        "MatMul": matmul,
        "BatchNormalization": batch_norm,
        "InstanceNormalization": instance_norm,
        "GroupNormalization": group_norm,
        "LayerNormalization": layer_norm,
        LAYER_NORM: layer_norm,
        "PRelu": prelu,
    }
)
