"""What a program costs, and what it would cost with some of its units removed, without building it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgespa.graph.forms import Form, Part
from edgespa.graph.groups import Groups, Mask, Slot
from edgespa.graph.program import BATCH, Program, shape_of
from edgespa.graph.rules.registry import named_arguments, operator_name


@dataclasses.dataclass(frozen=True)
class Cost:
    """Costs of one inference.

    Attributes:
        macs: Multiply-accumulates of convolutions, linear layers, matrix products and attention, for batch 1.
        parameters: Elements of all parameters (buffers such as batch-norm statistics are not counted).
        size_bytes: Bytes of all parameters and buffers.
    """

    macs: int
    parameters: int
    size_bytes: int


_Size = tuple[int, NDArray[np.int64] | None]


@dataclasses.dataclass(frozen=True, eq=False)
class _Term:
    """A product of sizes; ``axes`` are the unit ids of the sizes that can shrink, ``rest`` is everything else."""

    rest: float
    axes: tuple[NDArray[np.int64], ...]

    def value(self, alive: Mask | None) -> float:
        return self.rest * math.prod(len(ids) if alive is None else int(alive[ids].sum()) for ids in self.axes)


class CostModel:
    """The costs of a program as a function of the units that are kept.

    Args:
        program: The program.
        groups: Its channel groups.
        merged: Names of tensors that do not count: export writes them into others.
    """

    def __init__(self, program: Program, groups: Groups, merged: Collection[str] = ()) -> None:
        self._groups = groups
        batch, free = _trace_batch(program), program.dynamic_batch
        self._macs = {
            node.name: terms
            for node in program.graph.nodes
            if (terms := _mac_terms(node, groups, batch if not free or _is_per_batch(node) else 1))
        }
        self._parameters: dict[str, _Term] = {}
        self._bytes: list[_Term] = []
        self._readers: dict[str, set[str]] = {}
        for node in program.graph.nodes:
            for each in node.all_input_nodes:
                if each.op == "get_attr":
                    self._readers.setdefault(str(each.target), set()).add(node.name)
        for name, tensor in program.tensors():
            if name in merged:
                continue
            sizes = [groups.units.get(Slot(name, dim)) for dim in range(tensor.dim())]
            axes = tuple(ids for ids in sizes if ids is not None and ids.any())
            rest = tensor.numel() / math.prod(len(ids) for ids in axes)
            if isinstance(tensor, torch.nn.Parameter):
                self._parameters[name] = _Term(rest, axes)
            self._bytes.append(_Term(rest * tensor.element_size(), axes))

    def cost(self, kept: Mapping[str, Mask] | None = None) -> Cost:
        """Costs with only the kept units (all of them by default)."""
        alive = None if kept is None else self._groups.alive(kept)
        return Cost(
            macs=round(sum(term.value(alive) for terms in self._macs.values() for term in terms)),
            parameters=round(sum(term.value(alive) for term in self._parameters.values())),
            size_bytes=round(sum(term.value(alive) for term in self._bytes)),
        )

    def parts(self, quantity: str) -> list[Part]:
        """What sums up to a cost, each with the channel groups that it depends on.

        Args:
            quantity: ``macs`` or ``parameters``.
        """
        if quantity == "macs":
            own = [(term, frozenset({node})) for node, terms in self._macs.items() for term in terms]
        else:
            own = [(term, frozenset(self._readers.get(name, ()))) for name, term in self._parameters.items()]
        forms = [(Form.of(term.rest, term.axes, self._groups), nodes) for term, nodes in own]
        return [Part(form.groups, form, nodes) for form, nodes in forms]

    def node_macs(self, kept: Mapping[str, Mask] | None = None) -> dict[str, int]:
        """Multiply-accumulates of each node that has any, with only the kept units (all of them by default)."""
        alive = None if kept is None else self._groups.alive(kept)
        return {name: round(sum(term.value(alive) for term in terms)) for name, terms in self._macs.items()}

    def tensor_parameters(self, kept: Mapping[str, Mask] | None = None) -> dict[str, int]:
        """Elements of each parameter, likewise."""
        alive = None if kept is None else self._groups.alive(kept)
        return {name: round(term.value(alive)) for name, term in self._parameters.items()}


def _trace_batch(program: Program) -> int:
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    known = [spec.shape[0] for spec in program.inputs if spec.shape]
    if BATCH in known:  # told by the inputs that have it
        node = next(n for n, spec in zip(nodes, program.inputs, strict=True) if BATCH in spec.shape[:1])
        return int(shape_of(node.meta["val"])[0])
    return int(known[0]) if len(set(known)) == 1 else 1


def _is_per_batch(node: fx.Node) -> bool:
    """Whether a node computes something for each sample; what does not meet a free batch is computed once for all."""
    values = [each.meta.get("val") for each in (node, *node.all_input_nodes)]
    sizes = [size for value in values if isinstance(value, Tensor) for size in value.shape]
    return any(isinstance(size, torch.SymInt) for size in sizes)


def _mac_terms(node: fx.Node, groups: Groups, batch: int) -> list[_Term]:
    name, value = operator_name(node), node.meta.get("val")
    if not name:
        return []
    arguments = named_arguments(node)
    if name in _RECURRENT:
        return _recurrent_terms(arguments, groups, batch)
    if not isinstance(value, Tensor):
        return []
    if name == "scaled_dot_product_attention":
        query, length = _sizes(arguments["query"], groups), _size(arguments["key"], -2, groups)
        head = _size(arguments["value"], -1, groups)
        # q k^T, then the weighted sum of v
        return [_term([*query, length], 1 / batch), _term([*query[:-1], length, head], 1 / batch)]
    if name == "einsum":
        return [_term(_einsum_sizes(arguments, groups), 1 / batch)]
    if name == "inner":
        return [_term([*_sizes(arguments["self"], groups), *_sizes(arguments["other"], groups)[:-1]], 1 / batch)]
    if name == "tensordot":
        other = _sizes(arguments["other"], groups)
        rest = set(range(len(other))) - {dim % len(other) for dim in arguments["dims_other"]}
        return [_term([*_sizes(arguments["self"], groups), *(other[dim] for dim in sorted(rest))], 1 / batch)]
    if name == "addbmm":  # the products of a batch of matrices, summed
        return [_term([*_sizes(arguments["batch1"], groups), _size(arguments["batch2"], -1, groups)], 1 / batch)]
    inner = _CONTRACTED.get(name)
    if inner is None:
        return []
    argument, dims = inner
    operand = _sizes(arguments[argument], groups)
    if "transpose" in name or arguments.get("transposed") is True:  # every input pixel meets the kernel
        return [_term([*_sizes(arguments["input"], groups), *operand[1:]], 1 / batch)]
    contracted = operand[dims] if isinstance(dims, slice) else [operand[dims]]
    return [_term([*_sizes(node, groups), *contracted], 1 / batch)]


_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"} | {
    f"{kind}_cell" for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")
}  # fmt: skip


def _recurrent_terms(arguments: dict[str, Any], groups: Groups, batch: int) -> list[_Term]:
    """Each matrix of each layer and direction meets the data of every step: ``[T, N, in]``, of a cell ``[N, in]``."""
    steps = _sizes(arguments.get("input") or arguments["data"], groups)[:-1]
    matrices = arguments["params"] if "params" in arguments else [arguments["w_ih"], arguments["w_hh"]]
    return [_term([*steps, *sizes], 1 / batch) for each in matrices if len(sizes := _sizes(each, groups)) == 2]


def _einsum_sizes(arguments: dict[str, Any], groups: Groups) -> list[_Size]:
    """One size per letter, and per dimension behind an ellipsis; an equation of one operand counts nothing."""
    terms = str(arguments["equation"]).replace(" ", "").partition("->")[0].split(",")
    if len(terms) < 2:
        return [(0, None)]
    sizes: dict[str, _Size] = {}
    for term, operand in zip(terms, arguments["tensors"], strict=True):
        hidden = len(shape_of(operand.meta["val"])) - len(term.replace("...", ""))
        # Aligned at their ends, as dimensions are that are broadcast.
        letters = [
            *term.partition("...")[0],
            *(f"...{back}" for back in range(hidden, 0, -1)),
            *term.partition("...")[2],
        ]
        for letter, size in zip(letters, _sizes(operand, groups), strict=True):
            if letter not in sizes or sizes[letter][0] == 1:
                sizes[letter] = size
    return list(sizes.values())


_CONTRACTED: dict[str, tuple[str, slice | int]] = {
    **{f"conv{n}d": ("weight", slice(1, None)) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": ("weight", slice(1, None)) for n in (1, 2, 3)},
    "convolution": ("weight", slice(1, None)),
    "linear": ("weight", 1),
    "matmul": ("self", -1),
    "mm": ("self", -1),
    "bmm": ("self", -1),
    "mv": ("self", -1),
    "dot": ("self", -1),
    "addmm": ("mat1", -1),
    "addmv": ("mat", -1),
    "baddbmm": ("batch1", -1),
}


def _sizes(node: fx.Node, groups: Groups) -> list[_Size]:
    return [_size(node, dim, groups) for dim in range(len(shape_of(node.meta["val"])))]


def _size(node: fx.Node, dim: int, groups: Groups) -> _Size:
    shape = shape_of(node.meta["val"])
    dim %= len(shape)
    results = groups.axes.get(node.name) or [{}]
    return shape[dim], results[0].get(dim)


def _term(sizes: list[_Size], factor: float) -> _Term:
    rest = factor * math.prod(size for size, ids in sizes if ids is None)
    return _Term(rest, tuple(ids for _, ids in sizes if ids is not None))
