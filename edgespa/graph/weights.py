"""Which operands of a program are weights: what writes channels, as a criterion and a channel count see it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, fx

from edgespa.graph.program import Program
from edgespa.graph.rules.registry import named_arguments, operator_name

_LEFT_RIGHT = {
    "matmul": ("self", "other"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "addmm": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "addmv": ("mat", "vec"),
}
_PERMUTE = {"t", "numpy_T", "mT", "transpose", "permute"}


def weight_operands(program: Program) -> Iterator[tuple[fx.Node, int]]:
    """Operands that depend on no input and are multiplied with what does, with the dimension that they write.

    A permuted parameter is given as the parameter itself. Dimensions are counted from the front.
    """
    fed: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.op == "placeholder" or any(source in fed for source in node.all_input_nodes):
            fed.add(node)
            for operand, dim in _written(node):
                if isinstance(operand, fx.Node) and operand not in fed and isinstance(operand.meta.get("val"), Tensor):
                    rank = operand.meta["val"].dim()
                    if rank > 1:
                        yield _unpermuted(operand, dim % rank)


def _written(node: fx.Node) -> Sequence[tuple[Any, int]]:
    """Operands of a product, each with the dimension that becomes a dimension of the result."""
    if not (name := operator_name(node)):
        return ()
    arguments = named_arguments(node)
    if name in {"linear", "embedding"} or name.startswith("conv"):
        transposed = "transpose" in name or arguments.get("transposed") is True
        return ((arguments.get("weight"), 1 if transposed or name == "embedding" else 0),)
    if name in _LEFT_RIGHT:
        left, right = (arguments[key] for key in _LEFT_RIGHT[name])
        return ((right, -1), (left, -2))
    if name == "scaled_dot_product_attention":
        return ((arguments["value"], -1),)
    if name in {"lstm", "gru", "rnn_tanh", "rnn_relu"} and "params" in arguments:
        return [(operand, 0) for operand in arguments["params"]]
    if name.endswith("_cell") and "w_ih" in arguments:
        return [(arguments["w_ih"], 0), (arguments["w_hh"], 0)]
    return _einsum(arguments) if name == "einsum" else ()


def _einsum(arguments: dict[str, Any]) -> list[tuple[Any, int]]:
    """Operands with a dimension that is in the result and in no other operand; the first such dimension."""
    terms, _, right = str(arguments["equation"]).replace(" ", "").partition("->")
    letters = terms.split(",")
    found = []
    for index, (term, operand) in enumerate(zip(letters, arguments["tensors"], strict=False)):
        others = "".join(letters[:index] + letters[index + 1 :])
        own = [place for place, letter in enumerate(term) if letter in right and letter not in others]
        found += [(operand, place) for place in own[:1]]
    return found


def _unpermuted(node: fx.Node, dim: int) -> tuple[fx.Node, int]:
    """The parameter that a node is a permutation of, with the same dimension; the node itself if it is none."""
    name = operator_name(node)
    if name not in _PERMUTE:
        return node, dim
    arguments = named_arguments(node)
    order = list(range(node.meta["val"].dim()))
    if name == "permute":
        order = [int(place) % len(order) for place in arguments["dims"]]
    else:
        one, other = (arguments["dim0"], arguments["dim1"]) if name == "transpose" else (-2, -1)
        order[one], order[other] = order[other], order[one]
    source, place = _unpermuted(arguments["self"], order[dim])
    return (source, place) if source.op == "get_attr" else (node, dim)
