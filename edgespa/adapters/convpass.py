"""Convpass: a convolutional bypass beside each residual branch.

Jie, Deng: Convolutional Bypasses Are Better Vision Transformer Adapters, 2022, https://arxiv.org/abs/2207.07039,
section 3.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, fx

from edgespa.adapters.base import PLAIN, Adapter, Place, Tensors
from edgespa.adapters.insertion import add_parameter, finish, read
from edgespa.adapters.places import sizes_of
from edgespa.errors import AdapterError
from edgespa.graph.program import Program

aten = torch.ops.aten
_ADD = aten.add.Tensor
_NORMS = (aten.layer_norm.default, aten.rms_norm.default)
_MOST_PREFIX_TOKENS = 8
_NONE = "convpass inserts operators and changes no weight"


class Convpass(Adapter):
    """``y + s * up(act(conv(act(down(x)))))`` beside each residual addition (eq. 4), ``dim`` channels wide inside.

    ``down`` and ``up`` are 1 x 1, ``conv`` is 3 x 3 with padding, ``act`` is x * sigmoid(1.702 x). ``x`` is what the
    branch reads: the normalised stream where the branch begins with a layer norm, as the attention and MLP of a vision
    transformer do, else the stream itself, as in a residual network. Patch tokens are put on their grid; each prefix
    token (CLS) is an image of one pixel. ``up`` starts at zero, so the program computes what it did; ``conv`` at
    identity, ``down`` Xavier-uniform.

    It cannot be merged, so it stays in the program as ordinary operators with ordinary parameters, which compaction
    slices like any others; the inner channels are never pruned. The weights of the network stay frozen. Deviations: no
    dropout inside; also for networks other than vision transformers.
    """

    kind = "convpass"
    defaults = MappingProxyType({"dim": 8, "scale": 1.0})
    default_lr = 3e-2
    unfit = "frozen"

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """See `Adapter.check_options`."""
        if int(options.get("dim", 1)) < 1:
            raise AdapterError(f"a Convpass of width {options['dim']}", "give --adapter-option dim=8")

    @classmethod
    def extended(cls, program: Program, options: Mapping[str, Any]) -> Program:
        """See `Adapter.extended`.

        Raises:
            AdapterError: If the program has no residual addition whose input is an image or tokens of one.
        """
        cls.check_options(options)
        result = program.copy()
        branches = _branches(result.graph)
        if not branches:
            raise AdapterError(
                "convpass found no residual branch on images or on tokens of one",
                "choose another adapter, such as splora",
            )
        dim, scale = int(options["dim"]), float(options["scale"])
        for number, branch in enumerate(branches):
            _insert(result.module, branch, f"convpass.{number}", dim, scale)
        return finish(result)

    @classmethod
    def for_weight(
        cls, weight: Tensor, options: Mapping[str, Any], generator: torch.Generator, place: Place = PLAIN
    ) -> Self | None:
        """Always None: see the class."""
        return None

    @classmethod
    def from_tensors(
        cls, tensors: Tensors, options: Mapping[str, Any], shape: tuple[int, ...], place: Place = PLAIN
    ) -> Self:
        """Refused: there are no factors of a weight."""
        raise AdapterError(_NONE, "make the task file again")

    def changed(self, weight: Tensor) -> Tensor:
        """Refused: there are no factors of a weight."""
        raise AdapterError(_NONE)

    def sliced(self, dim: int, indices: Tensor) -> Self:
        """Refused: there are no factors of a weight."""
        raise AdapterError(_NONE)


@dataclasses.dataclass(frozen=True)
class _Branch:
    """A residual addition, what its branch reads, and how that is laid out.

    Attributes:
        addition: The node whose result gets the bypass added.
        inner: What it adds to the stream.
        source: What the bypass reads.
        channels: Its number of channels.
        last: Whether channels are the last dimension (tokens, channels-last images) or the second.
        grid: For tokens the rows and columns of the image.
        prefix: For tokens how many come before those of the image.
    """

    addition: fx.Node
    inner: fx.Node
    source: fx.Node
    channels: int
    last: bool
    grid: tuple[int, int] | None = None
    prefix: int = 0


def _branches(graph: fx.Graph) -> list[_Branch]:
    nodes = list(graph.nodes)
    number = {node: index for index, node in enumerate(nodes)}
    above: dict[fx.Node, int] = {}  # ancestors as bits
    for node in nodes:
        bits = 0
        for source in node.all_input_nodes:
            bits |= above[source] | 1 << number[source]
        above[node] = bits
    found = []
    grids = [
        size[2:] for node in nodes if node.target is aten.conv2d.default and len(size := sizes_of(node) or ()) == 4
    ]
    for node in nodes:
        if node.target is not _ADD or len(node.args) < 2 or not all(isinstance(arg, fx.Node) for arg in node.args[:2]):
            continue
        one, other = node.args[:2]
        assert isinstance(one, fx.Node)
        assert isinstance(other, fx.Node)
        if one is other or sizes_of(one) != sizes_of(other):
            continue
        for stream, branch in ((one, other), (other, one)):
            if above[branch] >> number[stream] & 1:
                normed = [user for user in stream.users if user.target in _NORMS and above[branch] >> number[user] & 1]
                laid_out = _laid_out(node, branch, normed[0] if normed else stream, bool(normed), grids)
                if laid_out is not None:
                    found.append(laid_out)
                break
    return found


def _laid_out(
    addition: fx.Node, inner: fx.Node, source: fx.Node, normed: bool, grids: list[tuple[int, ...]]
) -> _Branch | None:
    size = sizes_of(source) or ()
    batched = source.meta["val"].shape if size else ()
    if any(isinstance(each, torch.SymInt) for each in batched[1:]):
        return None  # the batch is not first
    if len(size) == 4:
        return _Branch(addition, inner, source, size[3 if normed else 1], normed)
    if len(size) == 3:
        fits = [grid for grid in grids if 0 <= size[1] - math.prod(grid) <= _MOST_PREFIX_TOKENS]
        if fits:
            rows, columns = fits[-1]
            return _Branch(addition, inner, source, size[2], True, (rows, columns), size[1] - rows * columns)
    return None


def _insert(module: fx.GraphModule, branch: _Branch, name: str, dim: int, scale: float) -> None:
    graph, channels = module.graph, branch.channels
    value = branch.source.meta["val"]
    flat = branch.last
    generator = torch.Generator().manual_seed(0)

    def add(part: str, weight: Tensor) -> None:
        add_parameter(module, f"{name}.{part}.weight", weight.to(value.dtype).to(value.device))
        bias = torch.zeros(weight.shape[0], dtype=value.dtype, device=value.device)
        add_parameter(module, f"{name}.{part}.bias", bias)

    bound = math.sqrt(6 / (dim + channels))
    down = (torch.rand(dim, channels, generator=generator) * 2 - 1) * bound
    identity = torch.zeros(dim, dim, 3, 3)
    identity[:, :, 1, 1] = torch.eye(dim)
    up = torch.zeros(channels, dim)
    add("down", down if flat else down[:, :, None, None])
    add("conv", identity)
    add("up", up if flat else up[:, :, None, None])

    with graph.inserting_after(branch.addition):
        first = graph.call_function(aten.mul.Tensor, (branch.addition, 1.0))  # marks the place, and goes again
    with graph.inserting_before(first):
        earlier = set(graph.nodes)
        result = _bypass(graph, branch, name, scale)
        for node in set(graph.nodes) - earlier:  # a part of the block that the branch is in: see graph/regions.py
            node.meta["nn_module_stack"] = branch.inner.meta.get("nn_module_stack")
        total = graph.call_function(_ADD, (branch.addition, result))
        total.meta["nn_module_stack"] = branch.addition.meta.get("nn_module_stack")
    branch.addition.replace_all_uses_with(total, delete_user_cb=lambda user: user not in (first, total))
    graph.erase_node(first)


def _bypass(graph: fx.Graph, branch: _Branch, name: str, scale: float) -> fx.Node:
    def call(target: Callable[..., Any], *arguments: Any) -> fx.Node:
        return graph.call_function(target, arguments)

    def part(which: str) -> tuple[fx.Node, fx.Node]:
        return read(graph, f"{name}.{which}.weight"), read(graph, f"{name}.{which}.bias")

    def act(node: fx.Node) -> fx.Node:
        gate = call(aten.sigmoid.default, call(aten.mul.Tensor, node, 1.702))
        return call(aten.mul.Tensor, node, gate)

    convolution = aten.conv2d.default
    if not branch.last:
        inner = act(call(convolution, branch.source, *part("down")))
        inner = act(call(convolution, inner, *part("conv"), [1, 1], [1, 1]))
        return call(aten.mul.Tensor, call(convolution, inner, *part("up")), scale)
    inner = act(call(aten.linear.default, branch.source, *part("down")))
    weight, bias = part("conv")
    if branch.grid is None:
        image = call(convolution, call(aten.permute.default, inner, [0, 3, 1, 2]), weight, bias, [1, 1], [1, 1])
        inner = call(aten.permute.default, image, [0, 2, 3, 1])
    else:
        rows, columns = branch.grid
        tokens = call(aten.slice.Tensor, inner, 1, branch.prefix, branch.prefix + rows * columns)
        image = call(aten.permute.default, call(aten.unflatten.int, tokens, 1, [rows, columns]), [0, 3, 1, 2])
        image = call(convolution, image, weight, bias, [1, 1], [1, 1])
        tokens = call(aten.transpose.int, call(aten.flatten.using_ints, image, 2, 3), 1, 2)
        if branch.prefix:
            centre = call(aten.select.int, call(aten.select.int, weight, 3, 1), 2, 1)
            prefix = call(aten.slice.Tensor, inner, 1, 0, branch.prefix)
            tokens = call(aten.cat.default, [call(aten.linear.default, prefix, centre, bias), tokens], 1)
        inner = tokens
    return call(aten.mul.Tensor, call(aten.linear.default, act(inner), *part("up")), scale)
