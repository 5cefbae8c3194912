"""A program as a `torch.fx.GraphModule` of ordinary layers: it trains, compiles and is saved without edgespa.

In a `Program` a layer is an operator that reads tensors. Where an operator with its tensors is what a layer of
``torch.nn`` computes, and nobody else reads them, that layer takes their place, under the name that the tensors had.
What is no such layer stays a call of its operator, on parameters of the same names.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from edgespa.exporting.onward.matching import Layer, match
from edgespa.exporting.onward.naming import Names, identifier
from edgespa.graph.program import Program
from edgespa.models.interface import nested_outputs, with_plain_inputs

log = logging.getLogger(__name__)

STACK = "nn_module_stack"
LAYERS = "layers"
"""Of the metadata of a network: its layers by path, as `edgespa.exporting.onward.matching.Layer`."""


@dataclasses.dataclass
class _Plan:
    """Which operators become layers.

    Attributes:
        layers: By node.
        names: From names of tensors to names of attributes.
    """

    layers: dict[fx.Node, Layer]
    names: Names


def ordinary(program: Program) -> fx.GraphModule:
    """The program as a module of ordinary layers, in evaluation form; ``.train()`` gives it that for training.

    In training form batch norms take the statistics of the batch and keep their own, and dropouts drop. What only the
    Python code of the original did in training form (stochastic depth, dropout within attention) is not in a program.

    Args:
        program: Compact and merged; not changed. Its tensors are copied.

    Returns:
        A module that takes the program's inputs one after the other and gives what the program gives, with dicts in
        the place of containers of other libraries. Its parameters and buffers have the program's names, where these
        are names in Python, and learn.
    """
    program = with_plain_inputs(program)
    plan = _planned(program)
    root = nn.Module()
    graph = fx.Graph()
    copied: dict[fx.Node, Any] = {}
    tensors = dict(program.tensors())
    readers = _Readers(root, graph, plan.names, tensors)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            copied[node] = graph.placeholder(identifier(node.name, "x"))
        elif node.op == "get_attr":
            continue  # it is read where it is needed first
        elif node.op == "output":
            graph.output(_as_written(program, node, lambda each: copied[each] if each in copied else readers(each)))
        elif node in plan.layers:
            layer = plan.layers[node]
            path = plan.names(layer.path)
            _put(root, path, layer.made(tensors))
            copied[node] = graph.call_module(path, tuple(copied[each] for each in layer.inputs))
        else:
            arguments = fx.node.map_arg(
                (node.args, node.kwargs), lambda each: copied[each] if each in copied else readers(each)
            )
            copied[node] = graph.call_function(node.target, *arguments)
        if node in copied:
            copied[node].meta = {STACK: _stack(node, plan.names), "val": node.meta.get("val")}
    graph.lint()
    module = fx.GraphModule(root, graph, class_name="Network")
    module.meta[LAYERS] = {plan.names(layer.path): layer for layer in plan.layers.values()}
    return module.eval()


def stripped(module: fx.GraphModule) -> fx.GraphModule:
    """The module without what is known of its operators besides: it is changed, and given back.

    Args:
        module: Of `ordinary`.
    """
    module.meta.clear()
    for node in module.graph.nodes:
        node.meta = {}
    return module


def frozen_norms(module: fx.GraphModule) -> int:
    """How many batch norms are no layers: they keep their statistics in training form, too."""
    norms = (torch.ops.aten.batch_norm.default, torch.ops.aten.instance_norm.default)
    return sum(node.target in norms for node in module.graph.nodes)


def _planned(program: Program) -> _Plan:
    """Operators with all tensors under one name become layers, if all that reads those tensors is the same layer."""
    tensors = {name: tuple(tensor.shape) for name, tensor in program.tensors()}
    parameters = {name for name, tensor in program.tensors() if isinstance(tensor, nn.Parameter)}
    found = {
        node: layer
        for node in program.graph.nodes
        if node.op == "call_function" and (layer := match(node, tensors, parameters)) is not None
    }
    below: dict[str, set[str]] = {}
    for name in tensors:
        below.setdefault(name.rpartition(".")[0], set()).add(name)
    wrong = {layer.path for layer in found.values() if layer.tensors and below[layer.path] != set(layer.tensors)}
    kinds: dict[str, Layer] = {}
    for layer in found.values():
        if kinds.setdefault(layer.path, layer).recipe != layer.recipe:
            wrong.add(layer.path)
    holders = {prefix for name in tensors for prefix in _above(name)}
    for node in program.graph.nodes:
        if node not in found and node.op in ("call_function", "output"):
            wrong |= {str(each.target).rpartition(".")[0] for each in node.all_input_nodes if each.op == "get_attr"}
    names = Names(tensors)
    layers: dict[Any, Any] = {}
    free: set[Any] = set()
    for node, layer in found.items():
        if layer.tensors and layer.path in wrong:
            continue
        if not layer.tensors and (layer.path in wrong or layer.path in holders or not layer.path):
            layer = dataclasses.replace(layer, path=_unused(layer.kind.lower(), holders | free))
            free.add(layer.path)
        layers[node] = layer
    return _Plan(layers, names)


def _above(name: str) -> list[str]:
    """All that a dotted name lies in, and itself."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _unused(wanted: str, taken: set[str]) -> str:
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name


class _Readers:
    """The nodes that read tensors, one for each, made where they are needed first."""

    def __init__(self, root: nn.Module, graph: fx.Graph, names: Names, tensors: Mapping[str, Tensor]) -> None:
        self._root, self._graph, self._names, self._tensors = root, graph, names, tensors
        self._made: dict[str, fx.Node] = {}

    def __call__(self, node: fx.Node) -> fx.Node:
        name = str(node.target)
        if name not in self._made:
            path = self._names(name)
            tensor = self._tensors[name]
            own = tensor.detach().clone()
            holder, leaf = _holder(self._root, path)
            if isinstance(tensor, nn.Parameter):
                holder.register_parameter(leaf, nn.Parameter(own, requires_grad=own.is_floating_point()))
            else:
                holder.register_buffer(leaf, own)
            self._made[name] = self._graph.get_attr(path)
        return self._made[name]


def _holder(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that has the last part of a path; it is made as far as it is not there."""
    *above, leaf = path.split(".")
    for part in above:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root, leaf


def _put(root: nn.Module, path: str, layer: nn.Module) -> None:
    holder, leaf = _holder(root, path)
    if leaf not in holder._modules:  # a layer may be called more than once
        holder.add_module(leaf, layer)


def _stack(node: fx.Node, names: Names) -> dict[str, tuple[str, str]]:
    """Which modules of the original an operator was in, outermost first: key of the call, to path and class."""
    found = {}
    for key, value in (node.meta.get(STACK) or {}).items():
        path, kind = value
        found[str(key)] = (names(path), kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}")
    return found


def _as_written(program: Program, node: fx.Node, value: Any) -> Any:
    """What the network gives, as containers of Python's own; flat where they are of other kinds."""
    leaves = [value(each) if isinstance(each, fx.Node) else each for each in _pytree.tree_leaves(node.args[0])]
    try:
        return _plain(nested_outputs(program, leaves))
    except TypeError:
        tensors = tuple(each for each in leaves if isinstance(each, fx.Node))
        return tensors[0] if len(tensors) == 1 else tensors


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, fx.Node | bool | int | float | str):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, tuple):
        return tuple(_plain(each) for each in value)
    raise TypeError(type(value).__name__)
