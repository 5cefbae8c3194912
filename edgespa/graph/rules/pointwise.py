"""Operators that act element by element: operands are tied, and the dead value is what the operator makes of it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import fx

from edgespa.graph.labels import Block, Value
from edgespa.graph.rules.layout import unknown
from edgespa.graph.rules.registry import Call, rule


@rule(
    "pointwise", "add", "sub", "mul", "div", "rsub", "where", "to", "_to_copy", "dropout", "alpha_dropout",
    "feature_dropout", "contiguous", "detach", "alias", "clone", "lift_fresh", "lift_fresh_copy", "hardswish",
    "log_sigmoid", "copy", "zeros_like", "ones_like", "full_like", "empty_like", "true_divide", "floor_divide",
    "zero", "eq", "ne", "lt", "le", "gt", "ge", "_assert_tensor_metadata", "fill", "native_dropout", "square",
    "__and__", "__or__", "positive", "float_power", "relu6", "remainder", "fmod", "isnan", "isinf", "isfinite",
)  # fmt: skip
def pointwise(call: Call) -> Value | list[Value]:
    """Tie the operands' labels after broadcasting; evaluate the operator on the operands' dead values."""
    values = call.tensors()
    if not isinstance(call.node.meta.get("val"), torch.Tensor):
        return unknown(call, "several results") if call.shapes else []
    blocks = call.labels.merge(values, call.shape, f"combined element by element ({call.name})")
    if not blocks:
        return Value(call.shape, (), None)
    dead: set[float | None] = set()
    kept = []
    for block in blocks:
        outcome = _dead_value(call, block)
        if outcome is not None and not math.isfinite(outcome):
            call.labels.fix(block.labels.ravel(), f"{call.name} of a removed unit's zeros is not finite")
            continue
        dead.add(outcome)
        kept.append(block)
    return Value(call.shape, tuple(kept), dead.pop() if len(dead) == 1 else None)


def _dead_value(call: Call, block: Block) -> float | None:
    """What the operator gives where a unit of the block is removed."""
    shape = call.shape

    def at_removed(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            value = call.values.get(argument)
            if not isinstance(value, Value):
                number = argument.meta.get("val")
                return _Dead(None) if isinstance(number, torch.SymInt | torch.SymFloat) else number
            shift = len(shape) - len(value.shape)
            covers = any({dim + shift for dim in own.dims} & set(block.dims) for own in value.blocks)
            return _Dead(value.dead if covers else None)
        return argument

    operands = {name: at_removed(argument) for name, argument in call.arguments.items()}
    unknown = [operand for operand in operands.values() if isinstance(operand, _Dead) and operand.value is None]
    if unknown:
        known = [operand.value for operand in operands.values() if isinstance(operand, _Dead)]
        if call.name == "mul" and 0.0 in known:
            return 0.0
        if call.name in {"div", "true_divide"}:
            dividend, divisor = operands.get("self"), operands.get("other")
            if isinstance(divisor, _Dead) and divisor.value == 0.0:
                return math.nan
            if isinstance(dividend, _Dead) and dividend.value == 0.0:
                return 0.0
        return None
    numbers = {
        name: torch.tensor(operand.value, dtype=torch.float64) if isinstance(operand, _Dead) else operand
        for name, operand in operands.items()
    }
    schema = call.node.target._schema  # type: ignore[union-attr]
    positional = [numbers[argument.name] for argument in schema.arguments if not argument.kwarg_only]
    keywords = {argument.name: numbers[argument.name] for argument in schema.arguments if argument.kwarg_only}
    try:
        return float(call.node.target(*positional, **keywords))  # type: ignore[operator]
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return None


@dataclasses.dataclass(frozen=True)
class _Dead:
    value: float | None


@rule("type_as")
def type_as(call: Call) -> Value:
    """Only the element type of the other operand matters."""
    x = call.value("self")
    return Value(call.shape, x.blocks, x.dead)


@rule("prelu")
def prelu(call: Call) -> Value:
    """``prelu(x, weight)``: the weight has one value per channel (dimension 1), or one for all."""
    x, weight = call.value("self"), call.value("weight")
    dead = x.dead if x.dead is not None and x.dead >= 0.0 else None
    if weight.shape and weight.shape[0] > 1:
        rank = len(x.shape)
        shaped = Value(
            (weight.shape[0],) + (1,) * (rank - 2), tuple(Block((0,), block.labels) for block in weight.blocks)
        )
        return Value(call.shape, call.labels.merge([x, shaped], call.shape, "combined by prelu"), dead)
    return Value(call.shape, x.blocks, dead)


@rule("glu")
def glu(call: Call) -> Value:
    """``glu(x)``: the halves of a dimension are tied."""
    x = call.value("self")
    dim = call.dim("dim", len(x.shape), -1)
    block = x.block(dim)
    if block is None:
        return Value(call.shape, x.blocks, None)
    axis = block.dims.index(dim)
    first, second = (part.copy() for part in np.split(block.labels, 2, axis=axis))
    call.labels.unite(first, second)
    others = tuple(other for other in x.blocks if other is not block)
    return Value(call.shape, (*others, Block(block.dims, first)), 0.0 if x.dead == 0.0 else None)
