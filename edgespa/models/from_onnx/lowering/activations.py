"""Activations, and other layers without weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from edgespa.models.from_onnx.lowering.place import Made, Place, Step

_SELU = {"alpha": 1.6732632, "gamma": 1.0507010}
_SIXTH = 1 / 6
_PLAIN = (
    "Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Log", "Neg", "Reciprocal", "Round", "Sign", "Sin", "Sqrt",
)  # fmt: skip
"""Functions that torch has under the same names."""


def number(place: Place, name: str, otherwise: float) -> float:
    """An attribute that is a number."""
    return float(place.attributes.get(name, otherwise))


def layer(kind: Callable[[], nn.Module]) -> Callable[[Place], Made]:
    """A module of torch that means the same."""
    return lambda place: Made(kind(), place.inputs[:1])


def function(call: Callable[..., Any]) -> Callable[[Place], Made]:
    """A function of torch that means the same."""
    return lambda place: Made(Step(call), place.inputs[:1])


def sloped(kind: Callable[[float], nn.Module], otherwise: float) -> Callable[[Place], Made]:
    """One with an ``alpha``."""
    return lambda place: Made(kind(number(place, "alpha", otherwise)), place.inputs[:1])


def gelu(place: Place) -> Made:
    """Exact, or by the tanh."""
    return Made(nn.GELU(place.text("approximate", "none")), place.inputs[:1])


def selu(place: Place) -> Made:
    """As torch has it; with other numbers, by its definition."""
    alpha, gamma = (number(place, name, usual) for name, usual in _SELU.items())
    if math.isclose(alpha, _SELU["alpha"], rel_tol=1e-6) and math.isclose(gamma, _SELU["gamma"], rel_tol=1e-6):
        return Made(nn.SELU(), place.inputs[:1])
    return Made(Step(scaled_elu, alpha, gamma), place.inputs[:1])


def scaled_elu(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """``gamma * x`` above 0, ``gamma * alpha * (exp(x) - 1)`` below."""
    return nn.functional.elu(x, alpha) * gamma


def hard_sigmoid(place: Place) -> Made:
    """As torch has it; with other numbers, by its definition."""
    alpha, beta = number(place, "alpha", 0.2), number(place, "beta", 0.5)
    if math.isclose(alpha, _SIXTH, rel_tol=1e-6) and beta == 0.5:
        return Made(nn.Hardsigmoid(), place.inputs[:1])
    return Made(Step(clipped_line, alpha, beta), place.inputs[:1])


def clipped_line(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * x + beta`` between 0 and 1."""
    return (x * alpha + beta).clamp(0, 1)


def across_channels(place: Place) -> Made:
    """Local response normalisation."""
    size = int(place.attributes["size"])
    numbers = (number(place, "alpha", 1e-4), number(place, "beta", 0.75), number(place, "bias", 1.0))
    return Made(nn.LocalResponseNorm(size, *numbers), place.inputs[:1])


def thresholded_relu(place: Place) -> Made:
    """``x`` above ``alpha``, else 0."""
    return Made(nn.Threshold(number(place, "alpha", 1.0), 0.0), place.inputs[:1])


ACTIVATIONS: Mapping[str, Callable[[Place], Made]] = MappingProxyType(
    {
        "Relu": layer(nn.ReLU),
        "Sigmoid": layer(nn.Sigmoid),
        "Tanh": layer(nn.Tanh),
        "HardSwish": layer(nn.Hardswish),
        "Mish": layer(nn.Mish),
        "Softplus": layer(nn.Softplus),
        "Softsign": layer(nn.Softsign),
        "LeakyRelu": sloped(nn.LeakyReLU, 0.01),
        "Elu": sloped(nn.ELU, 1.0),
        "Celu": sloped(nn.CELU, 1.0),
        "Gelu": gelu,
        "Selu": selu,
        "HardSigmoid": hard_sigmoid,
        "ThresholdedRelu": thresholded_relu,
        "LRN": across_channels,
        **{name: function(getattr(torch, name.lower())) for name in _PLAIN},
    }
)
