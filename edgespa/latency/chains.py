"""From a kind of layer and its widths to a small network that has nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgespa.graph.kinds import Kind

Shapes = tuple[tuple[int, ...], ...]
_MAP, _ROW = 14, 64
_FUNCTIONS = {
    **{name: getattr(functional, name) for name in ("relu", "relu6", "silu", "hardswish", "hardsigmoid", "gelu")},
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
_CONVOLUTIONS: Mapping[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: Mapping[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class Chain(nn.Module):
    """One layer, and what is fused to it.

    Args:
        kind: What it is. widths: As many as ``kind.axes``. around: Where something is added to a convolution, what a
            network has around that: ``beside``, another convolution
            that makes what is added, without which a runtime whose convolutions have a layout of their own fuses no
            sum; ``behind``, one that reads the sum, for what lies in between where sums are in float and layers in
            int8. `edgespa.exporting.branches` marks it, so that it does not count.

    Attributes:
        shapes: Of its inputs; a second one is what is added.
        beside: Another convolution.
        behind: Likewise.
    """

    def __init__(self, kind: Kind, widths: tuple[int, ...], *, around: str | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.beside: nn.Module | None = None
        self.behind: nn.Module | None = None
        self.main, self.shapes = _of_weights(kind, widths) if _has_weights(kind) else _of_elements(kind, widths)
        if "add" in kind.after:
            with torch.no_grad():
                found = self._begun(torch.zeros(self.shapes[0]))
            self.shapes = (*self.shapes, tuple(found.shape))
            if around is not None and kind.operator != "linear":
                channels = found.shape[1]
                setattr(self, around, _CONVOLUTIONS[found.dim() - 2](channels, channels, 1, groups=channels))

    def forward(self, *inputs: Tensor) -> Tensor:
        """The layer, and behind it what is fused."""
        value = self._begun(*inputs[: 1 if "add" in self.kind.after else None])
        for name in self.kind.after:
            if name == "add":
                value = value + (inputs[-1] if self.beside is None else self.beside(inputs[-1]))
            else:
                value = _FUNCTIONS[name](value)
        return value if self.behind is None else self.behind(value)

    def _begun(self, *inputs: Tensor) -> Tensor:
        value = inputs[0]
        if self.kind.before:
            value = functional.pad(value, list(self.kind.before))
        result: Tensor = self.main(value, *inputs[1:])
        return result


def _has_weights(kind: Kind) -> bool:
    return kind.operator in ("conv", "depthwise", "grouped", "deconv", "linear")


def _of_weights(kind: Kind, widths: tuple[int, ...]) -> tuple[nn.Module, Shapes]:
    if kind.operator == "linear":
        into, out = widths
        tokens = kind.size[0] if kind.size else 1
        return nn.Linear(into, out), ((1, tokens, into) if tokens > 1 else (1, into),)
    into, out, groups = widths[0], widths[-1], 1
    if kind.operator == "depthwise":
        groups = into
    elif kind.operator == "grouped":
        groups = max(1, into // kind.inner[0])
        into, out = groups * kind.inner[0], groups * kind.inner[1]
    make = (_TRANSPOSED if kind.operator == "deconv" else _CONVOLUTIONS)[len(kind.kernel)]
    layer = make(into, out, kind.kernel, kind.stride, kind.padding, groups=groups, dilation=kind.dilation)
    return layer, ((1, into, *kind.size),)


class _Call(nn.Module):
    """An operator without weights."""

    def __init__(self, kind: Kind, count: int) -> None:
        super().__init__()
        self.kind = kind
        if kind.operator == "layer_norm":
            self.norm: nn.Module = nn.LayerNorm(kind.inner[0])
        elif kind.operator == "batch_norm":
            self.norm = nn.BatchNorm2d(count)

    def forward(self, value: Tensor, *others: Tensor) -> Tensor:
        operator, kind = self.kind.operator, self.kind
        if operator in ("add", "div"):
            return value + others[0] if operator == "add" else value / (others[0] * others[0] + 1)
        if operator in ("mul", "mul_channels"):
            return value * others[0]
        if operator == "attention":
            query, key, content = (each.unsqueeze(0) for each in (value, *others))
            return functional.scaled_dot_product_attention(query, key, content).squeeze(0)
        if operator == "matmul":
            return value @ others[0]
        if operator in ("layer_norm", "batch_norm"):
            result: Tensor = self.norm(value)
            return result
        if operator == "softmax":
            return value.softmax(-1)
        if operator == "transpose":
            return value.transpose(1, 2).contiguous()
        if operator == "concat":
            return torch.cat([value, others[0]], 1)
        if operator == "slice":
            return value[:, :, ::2, ::2]
        if operator == "mean":
            return value.mean((2, 3))
        if operator == "upsample":
            return functional.interpolate(value, scale_factor=2.0)
        if operator.endswith("_pool"):
            pool = functional.max_pool2d if operator == "max_pool" else functional.avg_pool2d
            return pool(value, list(kind.kernel), list(kind.stride), list(kind.padding))
        result = _FUNCTIONS[operator](value)
        return result


def _of_elements(kind: Kind, widths: tuple[int, ...]) -> tuple[nn.Module, Shapes]:
    """A module that touches about so many numbers, and the shapes of its inputs."""
    count, operator = widths[0], kind.operator
    if operator == "attention":
        heads, size = widths
        into, other = kind.size[0], kind.size[-1]
        # Of rank 3: what has four dimensions is turned to channels last where it goes into a TFLite file.
        return _Call(kind, count), ((heads, into, size), (heads, other, size), (heads, other, size))
    if operator in ("layer_norm", "softmax"):
        return _Call(kind, count), ((1, max(1, count // kind.inner[0]), kind.inner[0]),)
    if operator == "matmul":
        heads = max(1, count // _ROW**3)
        return _Call(kind, count), ((heads, _ROW, _ROW), (heads, _ROW, _ROW))
    if operator == "transpose":
        return _Call(kind, count), ((1, max(1, count // _ROW), _ROW),)
    share = {"concat": 2, "upsample": 4}.get(operator, 1)  # what counts is what comes out
    extra = 4 if operator == "slice" else 1
    channels = max(1, math.ceil(count * extra / share / _MAP**2))
    shape = (1, channels, _MAP, _MAP)
    others: Shapes = ()
    if operator in ("add", "mul", "div", "concat"):
        others = (shape,)
    elif operator == "mul_channels":
        others = ((1, channels, 1, 1),)
    return _Call(kind, channels), (shape, *others)
