"""Which operators belong together as a module of their own: those that one module of the original had."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import SymInt, Tensor, fx

from edgespa.exporting.onward.layers import STACK

_CONTAINERS = "torch.nn.modules.container."
_LEAST = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Operators that are written as one module.

    Attributes:
        path: Its name in the network, dotted; empty for the network itself.
        kind: Name of the class that it was of.
        items: Operators, and parts, in their order.
        inputs: What it is called with.
        outputs: What it gives that is used elsewhere.
    """

    path: str
    kind: str
    items: tuple[fx.Node | Part, ...]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]


def is_number(node: fx.Node) -> bool:
    """Whether a node is a size: it is written where it is needed, of whatever tensor has it there."""
    value = node.meta.get("val")
    return node.op == "call_function" and value is not None and not isinstance(value, Tensor | list | tuple)


def outlined(graph: fx.Graph, kind: str) -> Part:
    """The network as parts within parts.

    Args:
        graph: Of `edgespa.exporting.onward.layers.ordinary`.
        kind: Name of the network's class.
    """
    calls = [node for node in graph.nodes if node.op in ("call_function", "call_module") and not is_number(node)]
    keys = {(key, path) for node in calls for key, (path, _) in node.meta[STACK].items() if path}
    often = {path for path, count in Counter(path for _, path in keys).items() if count > 1}
    output = next(node for node in graph.nodes if node.op == "output")
    inputs = tuple(node for node in graph.nodes if node.op == "placeholder")
    items = _grouped(calls, "", 0, often)
    return Part("", kind, items, inputs, tuple(output.all_input_nodes))


def _grouped(nodes: Sequence[fx.Node], above: str, depth: int, often: set[str]) -> tuple[fx.Node | Part, ...]:
    """Neighbours of one module together."""
    runs: list[tuple[Any, list[fx.Node]]] = []
    for node in nodes:
        stack = [(key, *value) for key, value in node.meta[STACK].items() if value[0]]
        entry = stack[depth] if depth < len(stack) else None
        if runs and entry is not None and runs[-1][0] == entry:
            runs[-1][1].append(node)
        else:
            runs.append((entry, [node]))
    torn = {entry for entry, count in Counter(entry for entry, _ in runs).items() if count > 1}
    found: list[fx.Node | Part] = []
    for entry, run in runs:
        if entry is None:
            found += run
            continue
        _, path, kind = entry
        if entry in torn or kind.startswith(_CONTAINERS) or not _is_own(run, path, above, often):
            found += _grouped(run, above, depth + 1, often)
            continue
        items = _grouped(run, path, depth + 1, often)
        if len(items) < _LEAST:
            found += _grouped(run, above, depth + 1, often)
        else:
            found.append(Part(path, kind, items, *_ends(run)))
    return tuple(found)


def _is_own(run: Sequence[fx.Node], path: str, above: str, often: set[str]) -> bool:
    """Whether all that a run of operators reads of the network lies under its name, and nothing else is called so."""
    if path in often or (above and not path.startswith(f"{above}.")):
        return False
    read = [str(node.target) for node in run if node.op == "call_module"]
    read += [str(each.target) for node in run for each in node.all_input_nodes if each.op == "get_attr"]
    if not all(name.startswith(f"{path}.") for name in read):
        return False
    if any(is_number(each) for node in run for each in node.all_input_nodes):  # sizes, and of what would they be?
        held = [each.meta.get("val") for each in _ends(run)[0]]
        return any(isinstance(size, SymInt) for value in held if isinstance(value, Tensor) for size in value.shape)
    return True


def _ends(run: Sequence[fx.Node]) -> tuple[tuple[fx.Node, ...], tuple[fx.Node, ...]]:
    """What a run takes, in the order in which it does, and what it gives."""
    inside = set(run)
    taken = {each: None for node in run for each in tensors_of(node) if each not in inside and each.op != "get_attr"}
    given = [node for node in run if any(reader not in inside for reader in _readers(node))]
    return tuple(taken), tuple(given)


def tensors_of(node: fx.Node) -> list[fx.Node]:
    """The nodes that an operator reads; of sizes nothing, for they are found elsewhere."""
    return [each for each in node.all_input_nodes if not is_number(each)]


def _readers(node: fx.Node) -> list[fx.Node]:
    """Operators that read a value; who takes only a size of it has that of another."""
    return [each for each in node.users if not is_number(each)]
