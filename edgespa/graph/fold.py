"""Weights that a model computes from its own parameters by a statistic, such as standardised weights, made plain.

A standardised weight (Qiao et al. 2019, arXiv 1903.10520; "scaled" in Brock et al. 2021, arXiv 2101.08692) depends on
the mean and variance over its input channels, so no input channel of it could be removed exactly. In a trained network
it is a constant: computed once and stored under the parameter's own name, as parametrised weights are, it can.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, fx

from edgespa.graph.constants import Constants, cone, is_pure
from edgespa.graph.program import assign
from edgespa.graph.rules.registry import named_arguments

log = logging.getLogger(__name__)

_STATISTICS = {
    "batch_norm", "native_batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm", "mean", "sum", "var",
    "std", "var_mean", "std_mean", "norm", "linalg_vector_norm",
}  # fmt: skip


def fold_weights(module: fx.GraphModule) -> None:
    """Replace every weight of a linear or convolution operator that is a statistic of parameters by its value."""
    for node in list(module.graph.nodes):
        weight = _weight_of(node)
        if weight is not None and weight.op == "call_function":
            parameter = _parameter(weight, cone(weight))
            if parameter is not None:
                _fold(module, weight, parameter)
    module.graph.eliminate_dead_code()


def _weight_of(node: fx.Node) -> fx.Node | None:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    name = node.target._schema.name.removeprefix("aten::")
    if name != "linear" and not name.startswith("conv"):
        return None
    weight = named_arguments(node).get("weight")
    return weight if isinstance(weight, fx.Node) else None


def _parameter(weight: fx.Node, nodes: list[fx.Node]) -> fx.Node | None:
    """The parameter whose place the computed weight can take, if there is exactly one and nothing else reads it."""
    calls = [node for node in nodes if node.op == "call_function"]
    names = {getattr(node.target, "__name__", "").split(".")[0] for node in calls}
    leaves = [node for node in nodes if node.op == "get_attr"]
    fitting = [leaf for leaf in leaves if _kind(leaf) == _kind(weight)]
    if len(fitting) != 1 or len(leaves) + len(calls) != len(nodes) or not names & _STATISTICS:
        return None
    if not all(map(is_pure, calls)):
        return None
    inner = set(nodes)
    closed = all(user in inner for node in nodes if node is not weight for user in node.users)
    return fitting[0] if closed else None


def _kind(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return (value.shape, value.dtype) if isinstance(value, Tensor) else ()


def _fold(module: fx.GraphModule, weight: fx.Node, parameter: fx.Node) -> None:
    result: Tensor = Constants(module, parameters=True).value(weight)
    name = str(parameter.target)
    log.info("%s is standardised by the model: its standardised value is taken as the weight", name)
    assign(module, name, result.detach().clone())
    with module.graph.inserting_before(weight):
        plain = module.graph.get_attr(name)
    plain.meta["val"] = weight.meta["val"]
    weight.replace_all_uses_with(plain)
