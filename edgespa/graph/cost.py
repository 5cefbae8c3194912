"""What a program costs, and what it would cost with some of its units removed, without building it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgespa.graph.groups import Groups, Mask, Slot
from edgespa.graph.program import BATCH, Program, shape_of
from edgespa.graph.rules.registry import named_arguments


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
    """

    def __init__(self, program: Program, groups: Groups) -> None:
        self._groups = groups
        batch = _trace_batch(program)
        self._macs = {
            node.name: term for node in program.graph.nodes if (term := _mac_term(node, groups, batch)) is not None
        }
        self._parameters: list[_Term] = []
        self._bytes: list[_Term] = []
        for name, tensor in program.tensors():
            sizes = [groups.units.get(Slot(name, dim)) for dim in range(tensor.dim())]
            axes = tuple(ids for ids in sizes if ids is not None and ids.any())
            rest = tensor.numel() / math.prod(len(ids) for ids in axes)
            if isinstance(tensor, torch.nn.Parameter):
                self._parameters.append(_Term(rest, axes))
            self._bytes.append(_Term(rest * tensor.element_size(), axes))

    def cost(self, kept: Mapping[str, Mask] | None = None) -> Cost:
        """Costs with only the kept units (all of them by default)."""
        alive = None if kept is None else self._groups.alive(kept)
        return Cost(
            macs=round(sum(term.value(alive) for term in self._macs.values())),
            parameters=round(sum(term.value(alive) for term in self._parameters)),
            size_bytes=round(sum(term.value(alive) for term in self._bytes)),
        )

    def node_macs(self) -> dict[str, int]:
        """Multiply-accumulates of each node that has any."""
        return {name: round(term.value(None)) for name, term in self._macs.items()}


def _trace_batch(program: Program) -> int:
    for node, spec in zip((n for n in program.graph.nodes if n.op == "placeholder"), program.inputs, strict=True):
        if spec.shape:
            size = shape_of(node.meta["val"])[0]
            return size if spec.shape[0] == BATCH else int(spec.shape[0])
    return 1


def _mac_term(node: fx.Node, groups: Groups, batch: int) -> _Term | None:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    name = node.target._schema.name.split("::")[1]
    inner = _CONTRACTED.get(name)
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or (inner is None and name != "scaled_dot_product_attention"):
        return None
    arguments = named_arguments(node)
    if name == "scaled_dot_product_attention":
        query, key, head = arguments["query"], arguments["key"], arguments["value"]
        sizes = [_size(query, dim, groups) for dim in range(len(shape_of(query.meta["val"])))]
        length, out = _size(key, -2, groups), _size(head, -1, groups)
        factor = 1 + out[0] / sizes[-1][0]  # q k^T, then the weighted sum of v
        return _term([*sizes, length], factor / batch)
    outputs = [_size(node, dim, groups) for dim in range(value.dim())]
    if inner is not None:
        argument, dims = inner
        operand = arguments[argument]
        rank = len(shape_of(operand.meta["val"]))
        chosen = range(rank)[dims] if isinstance(dims, slice) else [dims % rank]
        outputs += [_size(operand, dim, groups) for dim in chosen]
        if "transpose" in name:  # every input pixel meets the kernel: outputs counted as inputs
            source = arguments["input"]
            outputs = [_size(source, dim, groups) for dim in range(len(shape_of(source.meta["val"])))]
            outputs += [_size(operand, dim, groups) for dim in range(1, rank)]
    return _term(outputs, 1 / batch)


_CONTRACTED: dict[str, tuple[str, slice | int]] = {
    **{f"conv{n}d": ("weight", slice(1, None)) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": ("weight", slice(1, None)) for n in (1, 2, 3)},
    "convolution": ("weight", slice(1, None)),
    "linear": ("weight", 1),
    "matmul": ("self", -1),
    "mm": ("self", -1),
    "bmm": ("self", -1),
    "addmm": ("mat1", -1),
    "baddbmm": ("batch1", -1),
}

_Size = tuple[int, NDArray[np.int64] | None]


def _size(node: fx.Node, dim: int, groups: Groups) -> _Size:
    shape = shape_of(node.meta["val"])
    dim %= len(shape)
    results = groups.axes.get(node.name) or [{}]
    return shape[dim], results[0].get(dim)


def _term(sizes: list[_Size], factor: float) -> _Term:
    rest = factor * math.prod(size for size, ids in sizes if ids is None)
    return _Term(rest, tuple(ids for _, ids in sizes if ids is not None))
