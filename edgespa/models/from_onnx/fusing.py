"""What exporters take apart, put together again: linear layers and layer normalisation.

The operators that are put in are of the domain ``edgespa``; the lowering knows them. Everything else stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

DOMAIN = "edgespa"
LINEAR, LAYER_NORM = "Linear", "LayerNorm"
Constant = Callable[[str], NDArray[Any] | None]


def fused(nodes: Iterable[Any], outputs: Iterable[str], constant: Constant, rank: Callable[[str], int]) -> list[Any]:
    """The nodes with linear layers and layer normalisations as one node each, in an order that can be run.

    Args:
        nodes: Of the graph, in order.
        outputs: Names of what the graph gives.
        constant: The constant of a name, if it is one.
        rank: The number of dimensions of a value.
    """
    graph = _Graph(list(nodes), set(outputs), constant, rank)
    for node in list(graph.nodes):
        if node.op_type == "MatMul":
            graph.put(_linear(graph, node))
        elif node.op_type == "ReduceMean":
            graph.put(_layer_norm(graph, node))
    return graph.ordered()


class _Graph:
    def __init__(self, nodes: list[Any], outputs: set[str], constant: Constant, rank: Callable[[str], int]) -> None:
        self.nodes, self.constant, self.rank = nodes, constant, rank
        self._outputs = outputs
        self._readers: dict[str, list[Any]] = {}
        for node in nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._gone: set[int] = set()
        self._instead: dict[int, Any] = {}

    def only_reader(self, name: str) -> Any | None:
        """The one node that reads a value, where there is one and the value is nowhere else."""
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._outputs else None

    def readers(self, name: str) -> list[Any]:
        return [] if name in self._outputs else self._readers.get(name, [])

    def put(self, found: tuple[list[Any], Any] | None) -> None:
        """Replace nodes by one, in the place of the last of them; nothing where one of them was replaced already."""
        if found is None or any(id(node) in self._gone for node in found[0]):
            return
        self._gone |= {id(node) for node in found[0]}
        self._instead[id(found[0][-1])] = found[1]

    def ordered(self) -> list[Any]:
        result = []
        for node in self.nodes:
            if id(node) in self._instead:
                result.append(self._instead[id(node)])
            elif id(node) not in self._gone:
                result.append(node)
        return result


def _made(kind: str, like: Any, inputs: list[str], output: str, **attributes: Any) -> Any:
    import onnx

    node = onnx.helper.make_node(kind, inputs, [output], name=like.name, domain=DOMAIN, **attributes)
    node.metadata_props.extend(like.metadata_props)
    return node


def _linear(graph: _Graph, node: Any) -> tuple[list[Any], Any] | None:
    """``MatMul`` with a matrix of weights, and the ``Add`` of a bias behind it."""
    weight = graph.constant(node.input[1])
    if weight is None or weight.ndim != 2 or weight.dtype.kind != "f" or graph.constant(node.input[0]) is not None:
        return None
    if graph.rank(node.input[0]) < 2:
        return None
    inputs, nodes, output = [node.input[0], node.input[1]], [node], node.output[0]
    after = graph.only_reader(output)
    if after is not None and after.op_type == "Add":
        other = after.input[1] if after.input[0] == output else after.input[0]
        bias = graph.constant(other)
        if bias is not None and bias.size == weight.shape[1] and bias.shape[-1:] == (bias.size,):
            inputs, nodes, output = [*inputs, other], [node, after], after.output[0]
    return nodes, _made(LINEAR, node, inputs, output)


def _layer_norm(graph: _Graph, mean: Any) -> tuple[list[Any], Any] | None:
    """``(x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias`` over the last dimensions."""
    source = mean.input[0]
    count = _last_axes(graph, mean)
    subs = graph.readers(mean.output[0])
    if (
        not count
        or not subs
        or any(each.op_type != "Sub" or list(each.input) != [source, mean.output[0]] for each in subs)
    ):
        return None
    nodes, centred = [mean, *subs], {each.output[0] for each in subs}
    rest = [each for name in centred for each in graph.readers(name)]
    squares = [each for each in rest if _is_square(graph, each, centred)]
    divisions = [each for each in rest if each.op_type == "Div" and each.input[0] in centred]
    if len({id(each) for each in squares}) != 1 or len(divisions) != 1:
        return None
    if len({id(each) for each in rest}) != 2:
        return None
    square, division = squares[0], divisions[0]
    variance = graph.only_reader(square.output[0])
    if variance is None or variance.op_type != "ReduceMean" or _last_axes(graph, variance) != count:
        return None
    added = graph.only_reader(variance.output[0])
    epsilon = _scalar_beside(graph, added, variance.output[0]) if added is not None and added.op_type == "Add" else None
    if added is None or epsilon is None:
        return None
    root = graph.only_reader(added.output[0])
    if root is None or root.op_type != "Sqrt" or graph.only_reader(root.output[0]) is not division:
        return None
    assert root is not None
    assert division is not None
    if division.input[1] != root.output[0]:
        return None
    nodes += [square, variance, added, root, division]
    inputs, output = [source], division.output[0]
    for kind in ("Mul", "Add"):
        after = graph.only_reader(output)
        if after is None or after.op_type != kind:
            break
        other = after.input[1] if after.input[0] == output else after.input[0]
        value = graph.constant(other)
        if value is None or value.ndim != count:
            break
        inputs, output = [*inputs, other], after.output[0]
        nodes.append(after)
    return nodes, _made(LAYER_NORM, mean, inputs, output, epsilon=float(epsilon), last=count)


def _last_axes(graph: _Graph, node: Any) -> int:
    """Over how many dimensions a mean is taken, where they are the last and stay; else 0."""
    values = {each.name: each for each in node.attribute}
    if "keepdims" in values and not values["keepdims"].i:
        return 0
    axes = list(values["axes"].ints) if "axes" in values else []
    if len(node.input) > 1 and node.input[1]:
        given = graph.constant(node.input[1])
        axes = [int(axis) for axis in given.ravel()] if given is not None else []
    rank = graph.rank(node.input[0])
    wanted = sorted(axis % rank for axis in axes) if rank else []
    return len(axes) if axes and wanted == list(range(rank - len(axes), rank)) else 0


def _is_square(graph: _Graph, node: Any, names: set[str]) -> bool:
    if node.op_type == "Mul":
        return node.input[0] == node.input[1] and node.input[0] in names
    exponent = graph.constant(node.input[1]) if node.op_type == "Pow" and node.input[0] in names else None
    return exponent is not None and exponent.size == 1 and float(exponent.ravel()[0]) == 2.0


def _scalar_beside(graph: _Graph, node: Any, name: str) -> np.floating[Any] | None:
    other = graph.constant(node.input[1] if node.input[0] == name else node.input[0])
    return other.ravel()[0] if other is not None and other.size == 1 else None


def read_counts(nodes: Iterable[Any]) -> Counter[str]:
    """How often each value is read."""
    return Counter(name for node in nodes for name in node.input if name)
