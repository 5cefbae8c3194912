"""Training with levels: weights and activations take their int8 values on the way forward, gradients pass as if not.

Weights have symmetric levels per output channel, by their largest value; activations asymmetric ones per tensor, as
files have them. A norm behind a layer scales whole channels, so the levels of the weights are those of the file, in
which it is merged. Ranges of activations are those of the batch at hand, so that nothing is kept beside the weights:
`edgespa export` finds them on calibration images, as always. (Straight-through estimator: Bengio et al., 2013, arXiv
1308.3432, section 4; used for int8: Jacob et al., 2018, arXiv 1712.05877, section 3, whose ranges are moving averages.)
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from edgespa.graph.program import Program, settle
from edgespa.graph.rules.registry import operator_name
from edgespa.quantisation.walk import layers_of

LEVELS, LAST = 255, 127
_INSIDE = ("batch_norm", "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clamp_")
"""What is merged into the layer before it in files: its result is what has levels."""


def on_levels(weight: Tensor) -> Tensor:
    """Weights at their nearest levels, per output channel, the first dimension."""
    with torch.no_grad():
        largest = weight.abs().amax(tuple(range(1, weight.dim())), keepdim=True)
        scale = torch.where(largest > 0, largest / LAST, torch.ones_like(largest))
        moved = (weight / scale).round().clamp(-LAST, LAST) * scale - weight
    return weight + moved


def at_levels(value: Tensor) -> Tensor:
    """Activations at their nearest levels between the least and the largest of the batch, zero among them."""
    with torch.no_grad():
        low, high = value.amin().clamp(max=0), value.amax().clamp(min=0)
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


def with_levels(program: Program) -> Program:
    """The program with levels for what its layers read, and for what they give where something else reads that.

    Args:
        program: With ``meta["val"]`` on its nodes; not changed.
    """
    result = program.copy()
    graph = result.graph
    layers = list(layers_of(result).values())
    values: dict[fx.Node, None] = {}
    for layer in layers:
        source = layer.args[0]
        if isinstance(source, fx.Node) and source.op != "get_attr":
            values[source] = None
        if operator_name(layer) != "linear":  # of products of matrices the results stay as they are in files
            values[_whole(layer)] = None
    outputs = {node for node in graph.nodes if node.op == "output"}
    for value in values:
        readers = [each for each in value.users if each not in outputs]
        if not readers:
            continue
        with graph.inserting_after(value):
            coarse = graph.call_function(at_levels, (value,))
        coarse.meta = dict(value.meta)
        for reader in readers:
            reader.replace_input_with(value, coarse)
    settle(result)
    return result


def _whole(layer: fx.Node) -> fx.Node:
    """The last of what is merged into a layer."""
    node = layer
    while len(node.users) == 1:
        (reader,) = node.users
        if operator_name(reader) not in _INSIDE or reader.args[0] is not node:
            break
        node = reader
    return node
