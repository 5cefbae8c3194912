"""The layers of a program as runtimes see them: what is fused is one, and each has widths that units decide.

So the time of any selection can be foretold without building it (`edgespa.latency.predict`), as `edgespa.graph.cost`
does with multiply-accumulates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgespa.graph.forms import Ratio
from edgespa.graph.groups import Groups, Mask
from edgespa.graph.kinds import Kind
from edgespa.graph.program import Program, shape_of
from edgespa.graph.rules.registry import is_pointwise, named_arguments, operator_name, resolve

_FREE = frozenset(
    (
        *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "expand_as"),
        *("dropout", "detach", "alias", "contiguous", "clone", "to", "_to_copy", "lift_fresh_copy", "sym_size"),
        *("numel", "feature_dropout", "native_dropout", "type_as", "view_as", "broadcast_to"),
    )
)  # fmt: skip
_MOVES = {
    **dict.fromkeys(("transpose", "permute", "t", "numpy_T", "movedim", "swapaxes", "pixel_shuffle"), "transpose"),
    **dict.fromkeys(("cat", "concat", "stack", "pad", "constant_pad_nd", "repeat", "roll", "tile"), "concat"),
    **dict.fromkeys(("slice", "split", "split_with_sizes", "chunk", "unbind", "index", "gather", "select"), "slice"),
    "index_select": "slice", "narrow": "slice",
}  # fmt: skip
_ACTIVATIONS = {
    **{name: name for name in ("relu", "relu6", "sigmoid", "silu", "hardswish", "hardsigmoid", "gelu", "tanh")},
    **dict.fromkeys(("hardtanh", "clamp", "clip"), "relu6"), **dict.fromkeys(("leaky_relu", "clamp_min"), "relu"),
}  # fmt: skip
_REDUCTIONS = ("mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "sum", "amax", "max", "adaptive_max_pool2d")
_POOLS = {"max_pool2d": "max_pool", "avg_pool2d": "avg_pool", "max_pool1d": "max_pool", "avg_pool1d": "avg_pool"}
_NORMS = {"layer_norm": "layer_norm", "group_norm": "layer_norm", "rms_norm": "layer_norm", "softmax": "softmax"}
_POINTWISE = {"add": "add", "sub": "add", "mul": "mul", "div": "div"}
_MATRICES = ("matmul", "bmm", "mm", "baddbmm", "einsum")
_LONGEST_CHAIN = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Dim:
    """One width of a layer: a product of sizes.

    Attributes:
        rest: Of the sizes that cannot shrink.
        axes: Unit ids of those that can.
        heads: What is left of it where heads of attention are narrower.
    """

    rest: int
    axes: tuple[NDArray[np.int64], ...] = ()
    heads: tuple[Ratio, ...] = ()

    @property
    def shrinks(self) -> bool:
        """Whether it can become narrower."""
        return bool(self.axes or self.heads)

    def count(self, alive: Mask | None = None, heads: Mapping[str, int] | None = None) -> int:
        """How wide it is.

        Args:
            alive: Which units are; all of them by default.
            heads: Widths of the heads, those of `Layers.heads` by default.
        """
        sizes = (len(ids) if alive is None else int(alive[ids].sum()) for ids in self.axes)
        found = self.rest * math.prod(sizes)
        return found if heads is None else round(found * math.prod(ratio(heads) for ratio in self.heads))


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A layer.

    Attributes:
        name: Of the module that holds its weights, or of its node.
        node: The node of the graph that it begins with.
        kind: What it is.
        dims: Its widths, as many as ``kind.axes``: in and out; heads and their size; numbers touched.
    """

    name: str
    node: str
    kind: Kind
    dims: tuple[Dim, ...]


@dataclasses.dataclass(frozen=True)
class Layers:
    """All layers of a program.

    Attributes:
        layers: In the order of the graph.
        unknown: Operators that no kind stands for, with how many nodes there are of each: they count nothing.
        heads: Widths of heads of attention that can shrink, beside channel groups, with their sizes.
    """

    layers: tuple[Layer, ...]
    unknown: Mapping[str, int]
    heads: Mapping[str, int] = dataclasses.field(default_factory=dict)


def find_layers(program: Program, groups: Groups) -> Layers:
    """Read the layers off a program.

    Args:
        program: Whole, with ``meta["val"]`` on its nodes.
        groups: Its channel groups.
    """
    return _Reader(program, groups).read()


class _Reader:
    def __init__(self, program: Program, groups: Groups) -> None:
        self._program, self._groups = program, groups
        self._varying = _varying(program)
        self._taken: set[fx.Node] = set()

    def read(self) -> Layers:
        nodes = [node for node in self._program.graph.nodes if node in self._varying and node.op == "call_function"]
        found: dict[fx.Node, Layer] = {}
        for node in reversed(nodes):  # of two layers that are added, the later one is what the sum is fused to
            if _is_weighed(node):
                found[node] = self._weighed(node)
        unknown: dict[str, int] = {}
        for node in nodes:
            name = operator_name(node)
            if node in found or node in self._taken or name in _FREE or not name or _is_all(node, name):
                continue
            layer = self._plain(node, name)
            if layer is not None:
                found[node] = layer
            else:
                unknown[name] = unknown.get(name, 0) + 1
        return Layers(tuple(found[node] for node in nodes if node in found), unknown)

    def _weighed(self, node: fx.Node) -> Layer:
        name, arguments = operator_name(node), named_arguments(node)
        source: fx.Node = arguments["input"]
        after = self._after(node)
        if name == "linear":
            shape = shape_of(node.meta["val"])
            kind = Kind("linear", size=(max(1, math.prod(shape[1:-1])),), after=after)
            return Layer(
                self._layer_name(arguments["weight"]), node.name, kind, (self._dim(source, -1), self._dim(node, -1))
            )
        rank = len(shape_of(node.meta["val"])) - 2
        numbers = {key: _listed(arguments[key], rank) for key in ("stride", "padding", "dilation")}
        kernel = tuple(shape_of(arguments["weight"].meta["val"])[2:])
        if isinstance(arguments["padding"], str):
            same = arguments["padding"] == "same"
            numbers["padding"] = tuple((size - 1) // 2 if same else 0 for size in kernel)
        before: tuple[int, ...] = ()
        if operator_name(source) in ("pad", "constant_pad_nd") and len(source.users) == 1:
            amounts = tuple(int(each) for each in resolve(named_arguments(source)["pad"]))
            if len(amounts) <= 2 * rank and min(amounts) >= 0:
                self._taken.add(source)
                before, source = amounts, source.all_input_nodes[0]
        count, channels = int(arguments["groups"]), shape_of(arguments["input"].meta["val"])[1]
        size = tuple(shape_of(source.meta["val"])[2:])
        into, out = self._dim(source, 1), self._dim(node, 1)
        operator = "deconv" if "transpose" in name else "conv"
        inner: tuple[int, ...] = ()
        dims: tuple[Dim, ...] = (into, out)
        if count == channels and count > 1:
            operator, dims = "depthwise", (out,)
        elif count > 1:
            inner = (channels // count, shape_of(node.meta["val"])[1] // count)
            operator, dims = "grouped", (into,)
        kind = Kind(operator, kernel, **numbers, size=size, before=before, inner=inner, after=after)
        return Layer(self._layer_name(arguments["weight"]), node.name, kind, dims)

    def _after(self, node: fx.Node) -> tuple[str, ...]:
        """What is fused to a layer; those nodes are taken. A norm behind a convolution is in its weights."""
        chain: list[str] = []
        value = node
        while len(value.users) == 1 and len(chain) < _LONGEST_CHAIN:
            user = next(iter(value.users))
            name = operator_name(user)
            if user in self._taken or user.op != "call_function":
                break
            in_weights = name == "batch_norm" and not chain and operator_name(node) != "linear"
            if in_weights or name in ("dropout", "clone", "contiguous", "detach"):
                pass
            elif name in _ACTIVATIONS and (not chain or chain[-1] == "add"):
                chain.append(_ACTIVATIONS[name])
            elif name == "add" and "add" not in chain and self._adds_another(user, value):
                chain.append("add")
            else:
                break
            self._taken.add(user)
            value = user
        return tuple(chain)

    def _adds_another(self, node: fx.Node, value: fx.Node) -> bool:
        """Whether a sum is that of two values of the same size, both of which depend on the input."""
        operands = [each for each in node.args[:2] if isinstance(each, fx.Node)]
        if len(operands) != 2 or not all(each in self._varying for each in operands) or operands[0] is operands[1]:
            return False
        return len({tuple(shape_of(each.meta["val"])) for each in operands}) == 1

    def _plain(self, node: fx.Node, name: str) -> Layer | None:
        """A layer without weights."""
        arguments = named_arguments(node)
        first = next((each for each in node.all_input_nodes if each in self._varying), node)
        value = node.meta.get("val")
        if name == "scaled_dot_product_attention":
            query, key = arguments["query"], arguments["key"]
            length = shape_of(query.meta["val"])[-2], shape_of(key.meta["val"])[-2]
            dims = (self._product(query, range(1, len(shape_of(query.meta["val"])) - 2)), self._dim(query, -1))
            return Layer(node.name, node.name, Kind("attention", size=length), dims)
        if not isinstance(value, Tensor) and not isinstance(first.meta.get("val"), Tensor):
            return None
        whole = node if isinstance(value, Tensor) else first
        inner: tuple[int, ...] = ()
        shape = shape_of(whole.meta["val"])
        if name in _MOVES:
            operator = _MOVES[name]
        elif name in _REDUCTIONS:
            operator, whole = "mean", first
        elif name in _POOLS:
            kernel = _listed(arguments["kernel_size"], len(shape) - 2)
            stride = _listed(arguments["stride"] or arguments["kernel_size"], len(shape) - 2)
            padding = _listed(arguments["padding"], len(shape) - 2)
            kind = Kind(_POOLS[name], kernel, stride, padding, (1,) * len(kernel))
            return Layer(node.name, node.name, kind, (self._elements(first),))
        elif name in _NORMS:
            operator, axis = _NORMS[name], int(arguments.get("dim", -1) if name == "softmax" else -1)
            inner = (shape[axis],)
        elif name == "batch_norm":
            operator = "batch_norm"
        elif "upsample" in name or "interpolate" in name:
            operator = "upsample"
        elif name in _ACTIVATIONS:
            operator = _ACTIVATIONS[name]
        elif name in _MATRICES:
            terms = [self._elements(node), self._dim(first, -1)]
            dim = Dim(terms[0].rest * terms[1].rest, (*terms[0].axes, *terms[1].axes))
            return Layer(node.name, node.name, Kind("matmul"), (dim,))
        elif is_pointwise(node):
            operator = _POINTWISE.get(name, "mul")
            if operator == "mul" and name == "mul" and self._is_scaling(node):
                operator = "mul_channels"
        else:
            return None
        return Layer(node.name, node.name, Kind(operator, inner=inner), (self._elements(whole),))

    @staticmethod
    def _is_scaling(node: fx.Node) -> bool:
        """Whether one operand is a number for each channel, as of squeeze and excitation."""
        shapes = [
            tuple(shape_of(each.meta["val"]))
            for each in node.all_input_nodes
            if isinstance(each.meta.get("val"), Tensor)
        ]
        return len(set(shapes)) == 2 and any(len(each) == 4 and each[2:] == (1, 1) for each in shapes)

    def _dim(self, node: fx.Node, dim: int) -> Dim:
        return self._product(node, (dim,))

    def _elements(self, node: fx.Node) -> Dim:
        return self._product(node, range(1, len(shape_of(node.meta["val"]))))

    def _product(self, node: fx.Node, dims: Any) -> Dim:
        """The product of some sizes; the batch, the first of them, is 1."""
        shape = shape_of(node.meta["val"])
        results = self._groups.axes.get(node.name) or [{}]
        rest, axes = 1, []
        for dim in dims:
            ids = results[0].get(dim % len(shape))
            if ids is None:
                rest *= int(shape[dim])
            else:
                axes.append(ids)
        return Dim(rest, tuple(axes))

    @staticmethod
    def _layer_name(weight: Any) -> str:
        target = str(weight.target) if isinstance(weight, fx.Node) else str(weight)
        return target.removesuffix(".weight")


def _varying(program: Program) -> set[fx.Node]:
    """Nodes whose values depend on what goes in; the others are constants by the time that a file is written."""
    found: set[fx.Node] = set()
    for node in program.graph.nodes:
        varies = node.op == "placeholder" or any(each in found for each in node.all_input_nodes)
        if varies and not isinstance(node.meta.get("val"), int | torch.SymInt):
            found.add(node)
    return found


def _is_all(node: fx.Node, name: str) -> bool:
    """Whether a slice is all of what it is of."""
    value = node.meta.get("val")
    return name == "slice" and shape_of(value) == shape_of(node.all_input_nodes[0].meta["val"])


def _is_weighed(node: fx.Node) -> bool:
    name = operator_name(node)
    if name != "linear" and not name.startswith("conv"):
        return False
    if name not in ("linear", *(f"conv{n}d" for n in (1, 2, 3)), *(f"conv_transpose{n}d" for n in (1, 2, 3))):
        return False
    return isinstance(named_arguments(node)["weight"], fx.Node)


def _listed(value: Any, rank: int) -> tuple[int, ...]:
    values = resolve(value)
    if isinstance(values, str):
        return (0,) * rank
    numbers = [int(each) for each in values] if isinstance(values, list | tuple) else [int(values)]
    return tuple(numbers * rank if len(numbers) == 1 else numbers)
