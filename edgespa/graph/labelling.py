"""Channel labels of a whole program: every node's rule, applied in the order of the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgespa.errors import GraphError
from edgespa.graph.labels import UNLABELLED, Block, Fix, Labeller, Labels, Slot, Value
from edgespa.graph.program import Program, fetch, shape_of
from edgespa.graph.rules import Call, contraction, recurrent, rule_for
from edgespa.graph.rules.layout import unknown
from edgespa.graph.rules.registry import named_arguments


def label_program(program: Program, labeller: Labeller) -> tuple[dict[Slot, Labels], dict[fx.Node, Any]]:
    """Run the rules over the nodes of a program, in order.

    Args:
        program: A traced program, with ``meta["val"]`` on its nodes.
        labeller: Where labels come from, and where edges and fixes are written.

    Returns:
        The labels of every slot, and for every node its `Value`, a list of them, or None if it gives no tensor.
    """
    slots: dict[Slot, Labels] = {}
    values: dict[fx.Node, Any] = {}
    known: dict[str, Value] = {}
    constants: dict[fx.Node, Tensor] = {}
    for node in program.graph.nodes:
        labeller.node = node.name
        result: Any = None
        if node.op == "placeholder":
            result = Value(shape_of(node.meta["val"]), (), None, "an input of the network")
        elif node.op == "get_attr":
            result = _tensor_value(program, node, labeller, slots, known, constants)
        elif node.op == "call_function":
            known_fixes = len(labeller.fixes)
            result = _with_reason(_call(node, labeller, values, constants), node, values, labeller.fixes[known_fixes:])
        elif node.op == "output":
            for source in node.all_input_nodes:
                for value in results_of(values.get(source)):
                    labeller.fix_value(value, "output of the network")
        else:
            raise GraphError(f"{node.op} {node.target} in the program is not supported")
        values[node] = result
        for value in results_of(result):
            labeller.remember(value)
    return slots, values


_PRODUCTS = {contraction.__name__, recurrent.__name__}


def _with_reason(result: Any, node: fx.Node, values: Mapping[fx.Node, Any], fixes: Sequence[Fix]) -> Any:
    """Let a result that has lost its labels say why: for what was fixed at this node, else for what its sources say.

    What a product has no labels for has nothing to do with why its operands have none.
    """
    function = rule_for(node.target)
    if function is not None and function.__module__ in _PRODUCTS:
        return result
    sources = [value for n in node.all_input_nodes if n.op != "get_attr" for value in results_of(values.get(n))]
    carried = [block.labels.flat[-1] for value in sources for block in value.blocks]
    lost = [fix.reason for fix in fixes if UNLABELLED not in fix.reason and np.isin(carried, fix.labels).any()]
    inherited = [value.why for value in sources if value.why != UNLABELLED]
    why = next(iter([*(f"{UNLABELLED} ({reason})" for reason in lost), *inherited]), UNLABELLED)
    changed = [dataclasses.replace(value, why=why) for value in results_of(result)]
    return changed if isinstance(result, list) else changed[0] if changed else result


def results_of(value: Any) -> list[Value]:
    """The values that a node gives, as a list."""
    return value if isinstance(value, list) else [value] if isinstance(value, Value) else []


def _tensor_value(
    program: Program,
    node: fx.Node,
    labeller: Labeller,
    slots: dict[Slot, Labels],
    known: dict[str, Value],
    constants: dict[fx.Node, Tensor],
) -> Value | None:
    name = str(node.target)
    tensor = fetch(program.module, name)
    if not isinstance(tensor, Tensor):
        return None
    if not tensor.is_floating_point():
        constants[node] = tensor.detach()
        return Value(tuple(tensor.shape), (), None)
    if name not in known:
        blocks = []
        for dim, size in enumerate(tensor.shape):
            if size > 1:
                slots[Slot(name, dim)] = labeller.fresh(size)
                blocks.append(Block((dim,), slots[Slot(name, dim)]))
        known[name] = Value(tuple(tensor.shape), tuple(blocks), 0.0)
    return known[name]


def _call(node: fx.Node, labeller: Labeller, values: dict[fx.Node, Any], constants: dict[fx.Node, Tensor]) -> Any:
    if node.target.__name__ == "getitem":  # type: ignore[union-attr]
        source = values.get(node.args[0])  # type: ignore[arg-type]
        if isinstance(source, list) and isinstance(node.args[1], int) and node.args[1] < len(source):
            return source[node.args[1]]
        return _unlabelled(node)
    function = rule_for(node.target)
    if not isinstance(node.target, torch._ops.OpOverload):
        sources = [value for n in node.all_input_nodes for value in results_of(values.get(n))]
        for value in sources:
            labeller.fix_value(value, f"{node.target} has no rule")
        return _unlabelled(node)
    call = Call(node, labeller, values, constants, named_arguments(node))
    _fold_constant(node, constants)
    if node.target._schema.name in {"aten::sym_size", "aten::size", "aten::sym_numel", "aten::sym_stride"}:
        return None
    return function(call) if function is not None else unknown(call)


def _unlabelled(node: fx.Node) -> Value | None:
    result = node.meta.get("val")
    return Value(shape_of(result), (), None) if isinstance(result, Tensor) else None


def _fold_constant(node: fx.Node, constants: dict[fx.Node, Tensor]) -> None:
    """Compute small integer tensors that depend on nothing but constants, so that indexing by them is understood."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex():
        return
    if not all(source in constants for source in node.all_input_nodes) or any(
        isinstance(s, torch.SymInt) for s in value.shape
    ):
        return
    if value.numel() > 1 << 22 or "rand" in str(node.target):
        return
    arguments, keywords = fx.node.map_arg((node.args, node.kwargs), lambda n: constants[n])
    constants[node] = node.target(*arguments, **keywords)  # type: ignore[operator]
