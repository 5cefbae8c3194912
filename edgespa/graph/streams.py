"""How the residual stream of a program is laid out, and what is read of it at its end."""

from __future__ import annotations

from torch import fx

from edgespa.graph.blocks import Block
from edgespa.graph.program import Program, shape_of
from edgespa.graph.rules.registry import is_pointwise, named_arguments, operator_name

_LAST = {"linear", "layer_norm", "native_layer_norm", "rms_norm", "matmul", "addmm"}
_SECOND = {"batch_norm", "group_norm", "instance_norm", *(f"conv{n}d" for n in (1, 2, 3)), "convolution"}
_SAME_PLACES = {"contiguous", "clone", "alias", "to", "_to_copy", "detach", "dropout", "feature_dropout"}
_PASSES = _SAME_PLACES | _LAST - {"linear", "matmul", "addmm"}


def channel_dim(program: Program, block: Block) -> int:
    """The dimension of a block's output that holds the channels, by the first layer that reads the block's input.

    Layer norms and linear layers work on the last dimension, convolutions and batch norms on the second. Where none
    reads it directly: the second of an image, the last of tokens.

    Returns:
        1, or -1.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    for name in _forward(nodes[block.entry], _SAME_PLACES):
        if name in _LAST:
            return -1
        if name in _SECOND:
            return 1
    return 1 if len(block.shape) == 3 else -1


def reads_class_token(program: Program, last: Block) -> bool:
    """Whether what comes after the last block looks at the first token by itself, as a classifier does at CLS."""
    nodes = {node.name: node for node in program.graph.nodes}
    start = nodes[last.exit]
    rank = len(shape_of(start.meta["val"]))
    if rank != 3:
        return False
    seen, pending = {start}, [start]
    while pending:
        node = pending.pop()
        for user in node.users:
            if user in seen or user.op != "call_function":
                continue
            seen.add(user)
            if _takes_first(user):
                return True
            whole_slice = operator_name(user) == "slice" and shape_of(user.meta["val"]) == shape_of(node.meta["val"])
            if operator_name(user) in _PASSES or is_pointwise(user) or whole_slice:
                pending.append(user)
    return False


def _takes_first(node: fx.Node) -> bool:
    name = operator_name(node)
    if name not in {"select", "slice"}:
        return False
    arguments = named_arguments(node)
    if arguments["dim"] not in (1, -2):
        return False
    if name == "select":
        return bool(arguments["index"] == 0)
    return arguments["start"] in (0, None) and arguments["end"] == 1


def _forward(start: fx.Node, through: set[str]) -> list[str]:
    """Operators that read a value, also behind those that leave its layout as it is; nearest first."""
    found, queue, seen = [], [start], {start}
    while queue:
        for user in queue.pop(0).users:
            if user in seen:
                continue
            seen.add(user)
            found.append(operator_name(user))
            if operator_name(user) in through or (is_pointwise(user) and len(user.all_input_nodes) == 1):
                queue.append(user)
    return found
