"""Training with levels: weights and activations take their int8 values on the way forward, gradients pass as if not.

Weights have symmetric levels per output channel, by their largest value; activations asymmetric ones per tensor, as
files have them. A norm behind a layer scales whole channels, so the levels of the weights are those of the file, in
which it is merged. Ranges of activations are those of the batch at hand until the last part of the training, which has
fixed ones (`edgespa.quantisation.trained`): those of the files. (Straight-through estimator: Bengio et al., 2013, arXiv
1308.3432, section 4; used for int8: Jacob et al., 2018, arXiv 1712.05877, section 3, whose ranges are moving averages.)
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, fx

from edgespa.graph.program import Program, settle
from edgespa.graph.rules.registry import operator_name
from edgespa.quantisation.ranges import Range
from edgespa.quantisation.walk import layers_of

LEVELS, LAST = 255, 127
INPUT, OUTPUT = "input", "output"
NO_RANGES: Mapping[str, Range] = MappingProxyType({})
_INSIDE = ("batch_norm", "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clamp_")
"""What is merged into the layer before it in files: its result is what has levels."""


def on_levels(weight: Tensor) -> Tensor:
    """Weights at their nearest levels, per output channel, the first dimension."""
    with torch.no_grad():
        largest = weight.abs().amax(tuple(range(1, weight.dim())), keepdim=True)
        scale = torch.where(largest > 0, largest / LAST, torch.ones_like(largest))
        moved = (weight / scale).round().clamp(-LAST, LAST) * scale - weight
    return weight + moved


def at_levels(value: Tensor, least: float | None = None, most: float | None = None) -> Tensor:
    """Activations at their nearest levels between two ends, zero among them.

    Args:
        value: Of any shape.
        least: The lower end; None for the least of the batch.
        most: The upper one, which is given with it.
    """
    with torch.no_grad():
        if least is None or most is None:
            low, high = value.amin().clamp(max=0), value.amax().clamp(min=0)
        else:
            low, high = (torch.tensor(end, device=value.device) for end in (min(least, 0.0), max(most, 0.0)))
        scale = ((high - low) / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
        zero = (-low / scale).round()
        moved = (((value / scale).round() + zero).clamp(0, LEVELS) - zero) * scale - value
    return value + moved.to(value.dtype)


def coarse_weights(program: Program) -> tuple[str, ...]:
    """Names of the weights that have levels in int8 files.

    Args:
        program: With ``meta["val"]`` on its nodes.
    """
    return tuple(layers_of(program))


def sites_of(program: Program) -> dict[str, fx.Node]:
    """What layers read and give, without levels, by ``WEIGHT/input`` and ``WEIGHT/output``.

    A name holds in every form of a network: narrower or whole, with its norms or without.

    Args:
        program: With ``meta["val"]`` on its nodes, with levels or without.
    """
    found: dict[str, fx.Node] = {}
    for name, layer in layers_of(program).items():
        source = layer.args[0]
        if isinstance(source, fx.Node) and source.target is at_levels:
            source = source.args[0]
        if isinstance(source, fx.Node) and source.op != "get_attr":
            found[f"{name}/{INPUT}"] = source
        found[f"{name}/{OUTPUT}"] = _whole(layer)
    return found


def with_levels(program: Program, ranges: Mapping[str, Range] = NO_RANGES) -> Program:
    """The program with levels for what its layers read, and for what they give where something else reads that.

    Args:
        program: With ``meta["val"]`` on its nodes; not changed.
        ranges: By the names of `sites_of`; what is in none has that of each batch.
    """
    result = program.copy()
    graph = result.graph
    layers = layers_of(result)
    values: dict[fx.Node, tuple[float, ...]] = {}
    for site, node in sites_of(result).items():
        name, _, side = site.rpartition("/")
        if side == INPUT or operator_name(layers[name]) != "linear":  # what these give stays as it is in files
            values.setdefault(node, ranges.get(site, ()))
            values[node] = values[node] or ranges.get(site, ())
    outputs = {node for node in graph.nodes if node.op == "output"}
    for value, ends in values.items():
        readers = [each for each in value.users if each not in outputs]
        if not readers:
            continue
        with graph.inserting_after(value):
            coarse = graph.call_function(at_levels, (value, *ends))
        coarse.meta = dict(value.meta)
        for reader in readers:
            reader.replace_input_with(value, coarse)
    settle(result)
    return result


def without_levels(program: Program) -> Program:
    """The program as it was before `with_levels`.

    Args:
        program: Not changed.
    """
    result = program.copy()
    for node in list(result.graph.nodes):
        if node.target is at_levels:
            node.replace_all_uses_with(node.args[0])
            result.graph.erase_node(node)
    settle(result)
    return result


def _whole(layer: fx.Node) -> fx.Node:
    """The last of what is merged into a layer."""
    node = layer
    while len(readers := [each for each in node.users if each.op != "output"]) == 1:
        (reader,) = readers
        if operator_name(reader) not in _INSIDE or reader.args[0] is not node:
            break
        node = reader
    return node
