"""Operators that layers of ``torch.nn`` are: which layer, with which settings, and where its tensors are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer that takes an operator's place.

    Attributes:
        path: Its name, dotted.
        kind: Its class in ``torch.nn``.
        arguments: Of its constructor, as they would be typed.
        options: Those by name, where they are not the usual ones.
        tensors: Name of a tensor to what the layer calls it.
        inputs: What it is called with.
    """

    path: str
    kind: str
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...]
    tensors: Mapping[str, str]
    inputs: tuple[fx.Node, ...]

    @property
    def recipe(self) -> tuple[Any, ...]:
        """What makes it the same as another."""
        return (self.kind, self.arguments, self.options, tuple(self.tensors.items()))

    def made(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The layer with copies of its tensors.

        Args:
            tensors: Of the program.
        """
        with torch.device("meta"):
            layer: nn.Module = getattr(nn, self.kind)(*self.arguments, **dict(self.options))
        for name, leaf in self.tensors.items():
            own = tensors[name].detach().clone()
            if leaf in layer._parameters:
                layer.register_parameter(leaf, nn.Parameter(own, requires_grad=own.is_floating_point()))
            else:
                layer.register_buffer(leaf, own)
        if "num_batches_tracked" in layer._buffers:
            layer.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))
        return layer


def match(node: fx.Node, shapes: Shapes, parameters: set[str]) -> Layer | None:
    """The layer that an operator is, if it is one.

    Args:
        node: A call.
        shapes: Of all tensors of the program.
        parameters: Those of them that learn: what a layer learns has to be one.
    """
    made = _KINDS.get(node.target)
    if made is None:
        return None
    found = made(node, bound(node), shapes)
    if found is None or any(
        (name in parameters) == leaf.startswith("running_") for name, leaf in found.tensors.items()
    ):
        return None
    return found


def bound(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by the names of its operator's schema, defaults included."""
    values: dict[str, Any] = {}
    for index, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if index < len(node.args) and not argument.kwarg_only:
            values[argument.name] = node.args[index]
        else:
            values[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return values


def _owned(values: Mapping[str, Any], leaves: Mapping[str, str]) -> tuple[str, dict[str, str]] | None:
    """The one place of some tensors, and what the layer calls each; None where they lie otherwise."""
    found: dict[str, str] = {}
    places = set()
    for argument, leaf in leaves.items():
        value = values[argument]
        if value is None:
            continue
        if not isinstance(value, fx.Node) or value.op != "get_attr":
            return None
        place, _, name = str(value.target).rpartition(".")
        if name != leaf:
            return None
        places.add(place)
        found[str(value.target)] = leaf
    if len(places) != 1 or not (place := places.pop()):
        return None
    return place, found


_WEIGHTS = {"weight": "weight", "bias": "bias"}


def _one(value: Any) -> Any:
    """Equal sizes as one number, as one types them."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        sizes = tuple(value)
        return sizes[0] if len(set(sizes)) == 1 else sizes
    return value


def _unusual(**options: tuple[Any, Any]) -> tuple[tuple[str, Any], ...]:
    """Of options with their usual values, those that have another."""
    return tuple((name, value) for name, (value, usual) in options.items() if value != usual)


def _plain(*values: Any) -> bool:
    """Whether no size among them is computed."""
    flat = [each for value in values for each in (value if isinstance(value, Sequence) else [value])]
    return not any(isinstance(each, fx.Node) for each in flat)


def _convolution(dims: int, transposed: bool = False) -> Callable[..., Layer | None]:
    def made(node: fx.Node, values: dict[str, Any], shapes: Shapes) -> Layer | None:
        owned = _owned(values, _WEIGHTS)
        settings = [values["stride"], values["padding"], values["dilation"], values.get("output_padding", 0)]
        if owned is None or values["weight"] is None or not _plain(*settings, values["groups"]):
            return None
        path, tensors = owned
        shape = shapes[str(values["weight"].target)]
        groups = values["groups"]
        sizes = (shape[0], shape[1] * groups) if transposed else (shape[1] * groups, shape[0])
        options = _unusual(
            stride=(_one(values["stride"]), 1),
            padding=(_one(values["padding"]), "valid" if isinstance(values["padding"], str) else 0),
            output_padding=(_one(values.get("output_padding", 0)), 0),
            dilation=(_one(values["dilation"]), 1),
            groups=(groups, 1),
            bias=(values["bias"] is not None, True),
        )
        kind = f"Conv{'Transpose' if transposed else ''}{dims}d"
        return Layer(path, kind, (*sizes, _one(shape[2:])), options, tensors, (values["input"],))

    return made


def _linear(node: fx.Node, values: dict[str, Any], shapes: Shapes) -> Layer | None:
    owned = _owned(values, _WEIGHTS)
    if owned is None:
        return None
    shape = shapes[str(values["weight"].target)] if isinstance(values["weight"], fx.Node) else ()
    if len(shape) != 2:
        return None
    options = _unusual(bias=(values["bias"] is not None, True))
    return Layer(owned[0], "Linear", (shape[1], shape[0]), options, owned[1], (values["input"],))


def _batch_norm(node: fx.Node, values: dict[str, Any], shapes: Shapes) -> Layer | None:
    owned = _owned(values, {**_WEIGHTS, "running_mean": "running_mean", "running_var": "running_var"})
    mean, kind = values["running_mean"], {2: "1d", 3: "1d", 4: "2d", 5: "3d"}.get(_dims(values["input"]))
    affine = values["weight"] is not None
    if owned is None or mean is None or kind is None or affine != (values["bias"] is not None):
        return None
    options = _unusual(eps=(values["eps"], 1e-5), momentum=(values["momentum"], 0.1), affine=(affine, True))
    size = shapes[str(mean.target)][0]
    return Layer(owned[0], f"BatchNorm{kind}", (size,), options, owned[1], (values["input"],))


def _dims(value: Any) -> int:
    held = value.meta.get("val") if isinstance(value, fx.Node) else None
    return held.dim() if isinstance(held, Tensor) else 0


def _layer_norm(node: fx.Node, values: dict[str, Any], shapes: Shapes) -> Layer | None:
    owned = _owned(values, _WEIGHTS)
    if owned is None or values["weight"] is None or not _plain(values["normalized_shape"]):
        return None
    options = _unusual(eps=(values["eps"], 1e-5), bias=(values["bias"] is not None, True))
    sizes = tuple(values["normalized_shape"])
    return Layer(
        owned[0], "LayerNorm", (sizes[0] if len(sizes) == 1 else sizes,), options, owned[1], (values["input"],)
    )


def _group_norm(node: fx.Node, values: dict[str, Any], shapes: Shapes) -> Layer | None:
    owned = _owned(values, _WEIGHTS)
    if owned is None or values["weight"] is None or values["bias"] is None:
        return None
    size = shapes[str(values["weight"].target)][0]
    options = _unusual(eps=(values["eps"], 1e-5))
    return Layer(owned[0], "GroupNorm", (values["num_groups"], size), options, owned[1], (values["input"],))


def _embedding(node: fx.Node, values: dict[str, Any], shapes: Shapes) -> Layer | None:
    owned = _owned(values, {"weight": "weight"})
    if owned is None or values["scale_grad_by_freq"] or values["sparse"]:
        return None
    padding = values["padding_idx"]
    options = _unusual(padding_idx=(None if padding == -1 else padding, None))
    shape = shapes[str(values["weight"].target)]
    return Layer(owned[0], "Embedding", shape, options, owned[1], (values["indices"],))


def _prelu(node: fx.Node, values: dict[str, Any], shapes: Shapes) -> Layer | None:
    owned = _owned(values, {"weight": "weight"})
    if owned is None or len(shape := shapes[str(values["weight"].target)]) != 1:
        return None
    arguments = () if shape == (1,) else shape
    return Layer(owned[0], "PReLU", arguments, (), owned[1], (values["self"],))


def _dropout(kind: str) -> Callable[..., Layer | None]:
    def made(node: fx.Node, values: dict[str, Any], shapes: Shapes) -> Layer | None:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = str(stack[-1][0]) if stack and "Dropout" in str(stack[-1][1]) else ""
        return Layer(path, kind, (values["p"],), (), {}, (values["input"],))

    return made


_aten = torch.ops.aten
_KINDS: dict[Any, Callable[..., Layer | None]] = {
    **{getattr(_aten, f"conv{dims}d").default: _convolution(dims) for dims in (1, 2, 3)},
    **{getattr(_aten, f"conv{dims}d").padding: _convolution(dims) for dims in (1, 2, 3)},
    _aten.conv_transpose1d.default: _convolution(1, transposed=True),
    _aten.conv_transpose2d.input: _convolution(2, transposed=True),
    _aten.conv_transpose3d.input: _convolution(3, transposed=True),
    _aten.linear.default: _linear,
    _aten.batch_norm.default: _batch_norm,
    _aten.layer_norm.default: _layer_norm,
    _aten.group_norm.default: _group_norm,
    _aten.embedding.default: _embedding,
    _aten.prelu.default: _prelu,
    _aten.dropout.default: _dropout("Dropout"),
    _aten.feature_dropout.default: _dropout("Dropout2d"),
    _aten.alpha_dropout.default: _dropout("AlphaDropout"),
}
