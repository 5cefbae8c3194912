"""Where the weights of a program stand: which tensors are contracted with activations, and along which dimensions.

A weight may be a parameter of its own, or be held with others in one raw parameter, as the ``in_proj_weight`` of
``nn.MultiheadAttention``: layout operators between the parameter and its use (split, chunk, slice, transpose) are
followed.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn

from edgespa.adapters.base import Place
from edgespa.graph.program import Program, fetch, shape_of
from edgespa.graph.rules.registry import named_arguments, operator_name, resolve

_Dims = tuple[int | None, ...]  # for each dimension of a value, the parameter's dimension that it is, if any

_SAME = {"contiguous", "clone", "to", "_to_copy", "detach", "alias", "dropout"}
_RECURRENT = {f"{kind}{step}" for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu") for step in ("", "_cell")}
_PARTS = {"slice", "narrow", "split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk"}


def find_places(program: Program) -> dict[str, Place]:
    """Tensors that linear, convolution, embedding or matrix-product operators take as weights, and how.

    A tensor that is used in several ways has the place of its first use, if all agree on its dimensions; else none.
    """
    found: dict[str, Place] = {}
    clashes = set()
    for node in program.graph.nodes:
        if node.op != "get_attr" or not isinstance(tensor := fetch(program.module, str(node.target)), nn.Parameter):
            continue
        name = str(node.target)
        for place in _uses(node, tuple(range(tensor.dim()))):
            known = found.setdefault(name, place)
            if (known.out_dim, known.in_dim, known.groups) != (place.out_dim, place.in_dim, place.groups):
                clashes.add(name)
    return {name: place for name, place in found.items() if name not in clashes}


def _uses(node: fx.Node, dims: _Dims) -> Iterator[Place]:
    for user in node.users:
        if user.target is operator.getitem:
            yield from _uses(user, dims)
        elif name := operator_name(user):
            moved = _moved(name, user, node, dims)
            if moved is not None:
                yield from _uses(user, moved)
            elif (place := _place(name, user, node, dims)) is not None:
                yield place


def _moved(name: str, user: fx.Node, node: fx.Node, dims: _Dims) -> _Dims | None:
    """What a layout operator makes of the dimensions; None if it is none, or not one that is followed."""
    arguments = named_arguments(user)
    if arguments.get("self") is not node:
        return None
    rank = len(dims)
    if name in _SAME or name in _PARTS:
        return dims
    if name in {"t", "numpy_T"}:
        return dims[::-1]
    if name == "transpose":
        one, other = (int(resolve(arguments[key])) % rank for key in ("dim0", "dim1"))
        order = list(range(rank))
        order[one], order[other] = order[other], order[one]
        return tuple(dims[index] for index in order)
    if name == "permute":
        return tuple(dims[int(index) % rank] for index in resolve(arguments["dims"]))
    if name == "unsqueeze":
        position = int(resolve(arguments["dim"])) % (rank + 1)
        return (*dims[:position], None, *dims[position:])
    if name == "select":
        position = int(resolve(arguments["dim"])) % rank
        return (*dims[:position], *dims[position + 1 :])
    return None


def _place(name: str, user: fx.Node, node: fx.Node, dims: _Dims) -> Place | None:
    arguments = named_arguments(user)
    if name.startswith("conv") and arguments.get("weight") is node:
        transposed = "transpose" in name or arguments.get("transposed") is True
        out, inner = (1, 0) if transposed else (0, 1)
        what = "conv_transpose" if transposed else "conv"
        return _at(what, dims, out, inner, int(resolve(arguments["groups"])))
    if name == "linear" and arguments.get("weight") is node:
        return _at("linear", dims, 0, 1) if len(dims) == 2 else None
    if name in _RECURRENT and _is_one_of(node, arguments):
        return _at("linear", dims, 0, 1) if len(dims) == 2 else None
    if name == "embedding" and arguments.get("weight") is node:
        return _at("embedding", dims, 1, 0)
    if name in {"matmul", "mm", "bmm", "addmm", "baddbmm"}:
        left, right = _operands(arguments)
        if right is node and isinstance(left, fx.Node) and len(dims) >= 2:
            return _at("matmul", dims, len(dims) - 1, len(dims) - 2)
        if left is node and isinstance(right, fx.Node) and len(dims) >= 2 and not _is_parameter(right):
            return _at("matmul", dims, len(dims) - 2, len(dims) - 1)
    return None


def _is_one_of(node: fx.Node, arguments: dict[str, Any]) -> bool:
    """Whether it is a weight of a recurrent layer ``[gates * hidden, in]``, or of one step of it."""
    listed = arguments.get("params")
    return node in (listed if isinstance(listed, list | tuple) else (arguments.get("w_ih"), arguments.get("w_hh")))


def _operands(arguments: dict[str, Any]) -> tuple[Any, Any]:
    pairs = (("mat1", "mat2"), ("batch1", "batch2"), ("self", "other"), ("self", "mat2"))
    return next((arguments[one], arguments[two]) for one, two in pairs if one in arguments and two in arguments)


def _is_parameter(node: fx.Node) -> bool:
    return node.op == "get_attr"


def _at(what: str, dims: _Dims, out: int, inner: int, groups: int = 1) -> Place | None:
    out_dim, in_dim = dims[out], dims[inner]
    return None if out_dim is None or in_dim is None else Place(what, out_dim, in_dim, groups)


def norm_tensors(program: Program) -> dict[str, str]:
    """Weights and biases of norms, with the norm's operator: ``batch_norm``, ``layer_norm`` and so on."""
    found = {}
    for node in program.graph.nodes:
        name = operator_name(node)
        if "norm" not in name:
            continue
        arguments = named_arguments(node)
        for key in ("weight", "bias"):
            source = arguments.get(key)
            if isinstance(source, fx.Node) and source.op == "get_attr":
                found[str(source.target)] = name
    return found


def sizes_of(node: fx.Node) -> tuple[int, ...] | None:
    """Sizes of a node's only result at the trace; None if it is no tensor."""
    value = node.meta.get("val")
    return shape_of(value) if isinstance(value, Tensor) else None
